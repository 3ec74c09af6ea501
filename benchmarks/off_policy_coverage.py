"""Do 95 % intervals of off-policy estimates hold the truth 95 times in 100, with many clicks and with few?

python benchmarks/off_policy_coverage.py [--logs 1000]
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from results import save
from results import table as markdown
from torch import Tensor

from slatewise.estimators import ESTIMATORS, marginal_weights
from slatewise.off_policy import intervals
from slatewise.off_policy.betting import SHARES, ValueBets
from slatewise.off_policy.slope import tuned
from slatewise.off_policy.terms import Estimates, Rows, Terms, mean_reward, one_more

CLAIM = (
    "Share of 95 % intervals that hold the truth, over {logs:,} simulated logs (standard error 0.7 % at 95 %), for the "
    "value and for the difference to the logged policy, and the mean width of the former. 4 contexts, 10 actions in 5 "
    "groups of equal reward, weights up to 10 or so; the reward model is a table of shrunken means, cross-fitted in 5 "
    "folds. `normal` becomes the interval for rare events where few rewards carry an estimate, `plain normal` never. "
    "cIPS, Switch-DR and DRos, tuned, have the intervals of IPS and DR, widened to hold their value. `betting, at all "
    "times`: no violation at any of the decisions 1 … n. DM's interval knows nothing of its model's error: 95 % is not "
    "promised for it."
)
CONTEXTS, ACTIONS, FOLDS = 4, 10, 5
PRIOR = 20.0  # decisions' worth of the overall mean in every cell of the reward model
SCENARIOS = {"many clicks": (2000, 0.2), "few clicks": (10_000, 0.004)}  # decisions, clicks a decision
CHUNK = 20  # logs at a time


@dataclass
class World:
    """True click probabilities and two policies, each [contexts, actions]."""

    clicks: Tensor
    logged: Tensor
    target: Tensor
    groups: Tensor

    @staticmethod
    def make(rate: float, seed: int = 0) -> "World":
        """Draw a world with so many clicks a decision."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        groups = torch.arange(ACTIONS) // 2
        clicks = rate * (0.5 * normal(CONTEXTS, 5)).exp()[:, groups]
        score = normal(CONTEXTS, ACTIONS)
        return World(clicks, (-0.3 * score).softmax(1), (0.7 * score).softmax(1), groups)

    @property
    def truth(self) -> float:
        """The value of the target policy."""
        return float((self.target * self.clicks).sum(1).mean())

    @property
    def difference(self) -> float:
        """Its difference to the logged one's."""
        return self.truth - float((self.logged * self.clicks).sum(1).mean())

    def logs(self, number: int, rows: int, generator: torch.Generator) -> Rows:
        """Draw so many logs side by side, each [number, rows]."""
        shape = (number, rows)
        context = torch.randint(CONTEXTS, shape, generator=generator)
        draws = self.logged[context.flatten()].multinomial(1, generator=generator)
        action = draws.view(shape)
        reward = (torch.rand(shape, generator=generator, dtype=torch.float64) < self.clicks[context, action]).double()
        weights = (self.target / self.logged)[context, action]
        cells = torch.stack(
            [
                marginal_weights(self.target, self.logged, self.groups.expand(CONTEXTS, -1), torch.full((CONTEXTS,), a))
                for a in range(ACTIONS)
            ],
            1,
        )
        predicted = self._model(context, action, reward, generator)
        shown = predicted.gather(2, action.unsqueeze(2)).squeeze(2)
        return Rows(reward, weights, shown, (self.target[context] * predicted).sum(2), cells[context, action])

    def _model(self, context: Tensor, action: Tensor, reward: Tensor, generator: torch.Generator) -> Tensor:
        """Predict every action's reward, [number, rows, actions], by means of the other folds."""
        number = len(reward)
        fold = torch.randint(FOLDS, reward.shape, generator=generator)
        cell = (fold * CONTEXTS + context) * ACTIONS + action
        size = FOLDS * CONTEXTS * ACTIONS
        sums, counts = (
            torch.zeros(number, size, dtype=torch.float64).scatter_add_(1, cell, part).view(number, FOLDS, -1)
            for part in (reward, torch.ones_like(reward))
        )
        sums, counts = sums.sum(1, keepdim=True) - sums, counts.sum(1, keepdim=True) - counts
        overall = sums.sum(2, keepdim=True) / counts.sum(2, keepdim=True)
        means = ((sums + PRIOR * overall) / (counts + PRIOR)).view(number, FOLDS * CONTEXTS, ACTIONS)
        at = (fold * CONTEXTS + context).unsqueeze(2).expand(-1, -1, ACTIONS)
        return means.gather(1, at)


def estimates_of(terms: Terms, rows: Rows) -> tuple[list[Estimates], list[Tensor]]:
    """Return untuned estimates and their differences to the logged policy, and the tuned values of both."""
    count, number = torch.ones_like(rows.reward), rows.reward.shape[1]
    marginal = torch.tensor([ESTIMATORS[c.name].marginal for c in terms.choices])

    def typical(change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return Σ |x|³ / Σ x² of changed weights for every choice, [logs, choices]."""
        sizes = [change(w).abs() for w in (rows.weights, rows.marginal)]
        plain, grouped = (x.pow(3).sum(1) / x.square().sum(1).clamp(min=1e-300) for x in sizes)
        return torch.where(marginal, grouped.unsqueeze(1), plain.unsqueeze(1)) * terms.weighted

    table, untuned = terms.of(rows).contiguous(), [at[-1] for at in terms.positions.values()]
    estimates = terms.estimates(table, typical(lambda w: w), (0.0, 1.0), untuned)
    values = terms.solve(table.sum(1)).values.gather(1, tuned(terms, table))
    logged = mean_reward(count, rows.reward, (0.0, 1.0), len(untuned))
    more, less = (
        typical(f)[:, untuned] / number for f in (lambda w: (w - 1).clamp(min=0), lambda w: (1 - w).clamp(min=0))
    )
    both = [estimates, estimates.minus(logged, *one_more(more, less, (0.0, 1.0)))]
    return both, [values, values - logged.value]


def holding(pairs: list[intervals.Pair], values: list[Tensor]) -> list[intervals.Pair]:
    """Widen intervals to hold the tuned values."""
    return [(torch.minimum(low, v), torch.maximum(high, v)) for (low, high), v in zip(pairs, values, strict=True)]


def automatic(estimates: Estimates) -> intervals.Pair:
    few = intervals.few_rewards(estimates)
    pairs = zip(intervals.rare_events(estimates), intervals.normal(estimates), strict=True)
    low, high = (torch.where(few, rare, normal) for rare, normal in pairs)
    return low, high


def bootstrapped(both: list[Estimates], seed: int) -> list[intervals.Pair]:
    """Resample each log once for all its estimates."""
    joined = Estimates.cat(both)
    pairs = []
    for log in range(len(joined.value)):
        one = Estimates(*(getattr(joined, name)[log] for name in Estimates.__dataclass_fields__))
        pairs.append(intervals.bootstrap(one, seed + log, draws=400))
    low, high = (torch.stack([pair[i] for pair in pairs]) for i in (0, 1))
    size = len(ESTIMATORS)
    return [(low[:, :size], high[:, :size]), (low[:, size:], high[:, size:])]


def bernstein(rows: Rows, world: World) -> list[intervals.Pair]:
    count, largest = torch.ones_like(rows.reward), 1 / float(world.logged.min())
    value, difference = rows.weights * rows.reward, (rows.weights - 1) * rows.reward
    bounds = ((value, 0.0, largest), (difference, -1.0, largest - 1))
    return [
        intervals.empirical_bernstein(
            x.unsqueeze(2), count, *(torch.tensor([end], dtype=torch.float64) for end in ends)
        )
        for x, *ends in bounds
    ]


def betting(rows: Rows) -> list[intervals.Pair]:
    values, differences = [], []
    for reward, weights in zip(rows.reward, rows.weights, strict=True):
        bets = ValueBets((0.0, 1.0))
        bets.add(reward, weights)
        values.append(bets.value(0.05))
        differences.append(bets.difference(0.05))
    pairs = (torch.tensor(part, dtype=torch.float64) for part in (values, differences))
    return [(part[:, :1], part[:, 1:]) for part in pairs]


def never_refuted(rows: Rows, world: World) -> tuple[Tensor, Tensor]:
    """Return for which logs the capital bet against the truth stays below what refutes it, at all decisions."""
    reward, weights = rows.reward, rows.weights
    answers = []
    for truth, up, down in (
        (world.truth, weights * reward, weights * (1 - reward)),
        (world.difference, (weights - 1) * reward + 1, (weights - 1) * (1 - reward) + 1),
    ):
        means = (truth, 1 - truth) if truth == world.truth else (1 + truth, 1 - truth)
        peaks = [peak_capital(terms, mean) for terms, mean in zip((up, down), means, strict=True)]
        answers.append(torch.stack(peaks).amax(0) < torch.tensor(2 / 0.05).log())
    return answers[0], answers[1]


def peak_capital(terms: Tensor, mean: float, pieces: int = 500) -> Tensor:
    """Return the largest logarithm of the capital after any number of decisions, [logs].  terms: [logs, n]."""
    won = torch.zeros(len(terms), 1, len(SHARES), dtype=torch.float64)
    peak = torch.full((len(terms),), -torch.inf, dtype=torch.float64)
    for start in range(0, terms.shape[1], pieces):
        odds = (terms[:, start : start + pieces] / mean - 1).unsqueeze(2)
        path = won + torch.log1p(SHARES * odds).cumsum(1)
        peak = torch.maximum(peak, path.logsumexp(2).amax(1))
        won = path[:, -1:]
    return peak - torch.tensor(float(len(SHARES))).log()


def measure(world: World, rows: int, logs: int, seed: int) -> list[dict[str, Any]]:
    """Return coverage and width by estimator and kind of interval."""
    terms, generator = Terms(list(ESTIMATORS)), torch.Generator().manual_seed(seed)
    found: dict[tuple[str, str], list[Tensor]] = {}

    def note(kind: str, names: list[str], pairs: list[intervals.Pair]) -> None:
        for i, name in enumerate(names):
            (low, high), (least, most) = ((a[:, i], b[:, i]) for a, b in pairs)
            value = (low <= world.truth) & (world.truth <= high)
            difference = (least <= world.difference) & (world.difference <= most)
            found.setdefault((name, kind), []).append(torch.stack([value, difference, high - low]))

    for start in range(0, logs, CHUNK):
        drawn = world.logs(CHUNK, rows, generator)
        both, values = estimates_of(terms, drawn)
        names = list(ESTIMATORS)
        note("plain normal", names, holding([intervals.normal(e) for e in both], values))
        note("normal", names, holding([automatic(e) for e in both], values))
        note("bootstrap", names, holding(bootstrapped(both, seed + start), values))
        note("empirical-bernstein", ["IPS"], bernstein(drawn, world))
        note("betting", ["IPS"], betting(drawn))
        always = torch.stack([*never_refuted(drawn, world), torch.zeros(CHUNK)])
        found.setdefault(("IPS", "betting, at all times"), []).append(always)
    result = []
    for (name, kind), parts in found.items():
        value, difference, width = torch.cat(parts, 1).double().mean(1).tolist()
        row = {"estimator": name, "interval": kind, "value_%": 100 * value, "difference_%": 100 * difference}
        result.append(row | {"width": width or None})
    return sorted(result, key=lambda row: list(ESTIMATORS).index(row["estimator"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for scenario, (rows, rate) in SCENARIOS.items():
        world = World.make(rate)
        measured = measure(world, rows, arguments.logs, arguments.seed)
        found += [{"log": f"{scenario}: {rows:,} decisions, rate {rate}"} | row for row in measured]
        print("\n".join(markdown(found[-len(measured) :])), flush=True)
    save("off_policy_coverage", CLAIM.format(logs=arguments.logs), found)


if __name__ == "__main__":
    main()
