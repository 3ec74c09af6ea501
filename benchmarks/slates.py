"""What do slates cost, with constraints and without, and are they the best ones?

python benchmarks/slates.py: milliseconds a user on one thread, and agreement with enumeration on small problems.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import torch
from results import save, table
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from slatewise.allocation import keep_freed_memory
from slatewise.choice import ExponentialCascade, InnerProduct, Logit
from slatewise.constraints import Constraints, Limits
from slatewise.slates import best_slate, greedy_slate, slate_value, top_k_slate

SPEED = (
    "CPU milliseconds a user for one slate, one thread, median of {repeats} batches. `exact` is `best_slate`: "
    "fractional programming for logit, dynamic programming for the exponential cascade. `at most`: a fifth of the "
    "slots for each of 20 categories, but no less than 2; `at least, fixed`: 1 of two of them, and an item in slot "
    "0. `integer program`: the same fractional programming with scipy.optimize.milp (HiGHS) for its steps, median of "
    "5 users; its slates are worth what ours are."
)
AGREEMENT = (
    "Slates of 4 from 8 candidates against all {ordered:,} there are, or those that keep to the limits: {problems:,} "
    "random problems, scores standard normal, values of standard deviation 3 about that of no click. `best`: share of "
    "problems in which no slate is worth more (by 1e-9). Losses in % of what the best slate gains over the mean one. "
    "`categories`: at most 2 of each of 3, at least 1 of one of them; `fixed slot`: an item in the second slot besides."
)
CHOICES = {"logit": Logit(InnerProduct(1)), "exponential cascade": ExponentialCascade(InnerProduct(1), scaling=0.3)}
ROUNDING = 1e-9
METHODS = {"exact": lambda *p: best_slate(*p)[0], "greedy": greedy_slate, "top-k": top_k_slate}


@dataclass(frozen=True)
class Problem:
    """Random users: scores and values of candidates."""

    scores: Tensor
    values: Tensor
    no_click: Tensor
    slots: int
    limits: Limits | None = None

    @staticmethod
    def random(users: int, candidates: int, slots: int, seed: int = 0) -> "Problem":
        """Draw scores and values."""
        generator = torch.Generator().manual_seed(seed)
        scores, values = (torch.randn(users, candidates, generator=generator).double() for _ in range(2))
        return Problem(scores, 10 + 3 * values, torch.full((users,), 10.0).double(), slots)

    def within(self, constraints: Constraints) -> "Problem":
        """Return the same problem under constraints."""
        ids = torch.arange(self.scores.shape[1]).expand(self.scores.shape)
        return Problem(self.scores, self.values, self.no_click, self.slots, constraints.on(ids, self.slots))

    def solved(self, method: str, choice: str) -> Tensor:
        """Return the slates of a method."""
        mask = torch.ones(self.scores.shape, dtype=torch.bool)
        return METHODS[method](CHOICES[choice], self.scores, self.values, self.no_click, mask, self.slots, self.limits)

    def worth(self, choice: str, slate: Tensor) -> Tensor:
        """Return what slates are worth."""
        return slate_value(CHOICES[choice], self.scores, self.values, self.no_click, slate.expand(len(self.scores), -1))


def milliseconds(what: Callable[[], Any], users: int, repeats: int) -> float:
    """Return the median CPU milliseconds a user, after one call to warm up."""
    what()
    took = list[float]()
    for _ in range(repeats):
        started = time.process_time()
        what()
        took.append(1000 * (time.process_time() - started) / users)
    return statistics.median(took)


def speed(candidates: int, slots: int, users: int, repeats: int) -> dict[str, Any]:
    """Return a row of the table of speed."""
    plain = Problem.random(users, candidates, slots)
    codes = torch.arange(candidates) % 20
    capped = plain.within(Constraints(codes, at_most=max(2, slots // 5)))
    mixed = plain.within(Constraints(codes, at_most=max(2, slots // 5), at_least={3: 1, 5: 1}, fixed={0: 7}))
    timed = partial(milliseconds, users=users, repeats=repeats)
    return {
        "candidates": candidates,
        "slots": slots,
        "batch": users,
        "logit, exact": timed(partial(plain.solved, "exact", "logit")),
        "at most": timed(partial(capped.solved, "exact", "logit")),
        "at most, at least, fixed": timed(partial(mixed.solved, "exact", "logit")),
        "logit, greedy": timed(partial(plain.solved, "greedy", "logit")),
        "logit, top-k": timed(partial(plain.solved, "top-k", "logit")),
        "cascade, exact": timed(partial(plain.solved, "exact", "exponential cascade")),
        "cascade, greedy": timed(partial(plain.solved, "greedy", "exponential cascade")),
        "cascade, greedy, at most": timed(partial(capped.solved, "greedy", "exponential cascade")),
    }


def integer_program(candidates: int, slots: int, users: int = 5) -> dict[str, Any]:
    """Return a row for fractional programming whose steps are integer programs; its slates are worth what ours are."""
    problem, took = Problem.random(users, candidates, slots), list[float]()
    codes = torch.arange(candidates) % 20
    limited = problem.within(Constraints(codes, at_most=2))
    ours = limited.worth("logit", limited.solved("exact", "logit"))
    weights, none = (part.numpy() for part in CHOICES["logit"].weights(problem.scores))
    rows = np.array([(codes == code).numpy() for code in range(20)], dtype=float)
    for user in range(users):
        started = time.process_time()
        found = by_integer_programs(weights[user], none[user], problem.values[user].numpy(), 10.0, rows, slots)
        took.append(1000 * (time.process_time() - started))
        assert abs(found - float(ours[user])) < 1e-9, (found, float(ours[user]))
    return {"candidates": candidates, "slots": slots, "batch": 1, "integer program, at most": statistics.median(took)}


def by_integer_programs(w: np.ndarray, w0: float, v: np.ndarray, v0: float, rows: np.ndarray, slots: int) -> float:
    rate, ones = v0, np.ones(len(w))
    caps = [LinearConstraint(rows, 0, 2), LinearConstraint(ones, slots, slots)]
    while True:
        chosen = milp(-w * (v - rate), integrality=ones, bounds=Bounds(0, 1), constraints=caps).x > 0.5
        better = float((w[chosen] @ v[chosen] + w0 * v0) / (w[chosen].sum() + w0))
        if abs(better - rate) < 1e-12 * abs(rate):
            return better
        rate = better


LIMITS = {
    "none": Constraints(),
    "categories": Constraints((0, 1, 2, 0, 1, 2, 0, 1), at_most=2, at_least={2: 1}),
    "fixed slot": Constraints((0, 1, 2, 0, 1, 2, 0, 1), at_most=2, at_least={2: 1}, fixed={1: 4}),
}


def allowed(constraints: Constraints) -> list[tuple[int, ...]]:
    """Return all ordered slates of 4 from 8 that keep to constraints."""

    def keeps(slate: tuple[int, ...]) -> bool:
        held = [constraints.categories[item] for item in slate] if constraints.categories is not None else []
        few = all(held.count(category) <= 2 for category in set(held))
        enough = all(held.count(category) >= least for category, least in constraints.at_least.items())
        return few and enough and all(slate[slot] == item for slot, item in constraints.fixed.items())

    return [slate for slate in permutations(range(8), 4) if keeps(slate)]


def agreement(choice: str, limits: str, problems: int) -> list[dict[str, Any]]:
    """Return rows of the table of agreement."""
    problem = Problem.random(problems, 8, 4, seed=1)
    limited = problem.within(LIMITS[limits]) if limits != "none" else problem
    every = torch.stack([problem.worth(choice, torch.tensor(slate)) for slate in allowed(LIMITS[limits])], 1)
    best, gain = every.amax(1), every.amax(1) - every.mean(1)
    rows = list[dict[str, Any]]()
    for method in METHODS if choice == "logit" or limits == "none" else ("greedy", "top-k"):
        loss = best - problem.worth(choice, limited.solved(method, choice))
        loss = torch.where(loss.abs() <= ROUNDING, 0.0, loss)
        share = 100 * loss / gain
        rows.append({
            "choice": choice,
            "limits": limits,
            "slates": method,
            "best": float((loss <= 0).double().mean()),
            "mean loss": float(share.mean()),
            "largest loss": float(share.max()),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--problems", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    grid = [
        (10, 3, 256),
        (100, 10, 256),
        (1000, 5, 256),
        (1000, 10, 1),
        (1000, 10, 256),
        (1000, 50, 256),
        (10_000, 10, 64),
    ]
    rows = [speed(*size, arguments.repeats) for size in grid]
    rows.append(integer_program(1000, 10))
    print("\n".join(table(rows)))
    save("slates", SPEED.format(repeats=arguments.repeats), rows)
    small = [row for c in CHOICES for limits in LIMITS for row in agreement(c, limits, arguments.problems)]
    print("\n".join(table(small)))
    ordered = len(allowed(LIMITS["none"]))
    save("slates_agreement", AGREEMENT.format(ordered=ordered, problems=arguments.problems), small)


if __name__ == "__main__":
    main()
