"""Bandits over many seeds, with standard errors: earned on the linear problem one at a time, and lost on the wheel.

python benchmarks/bandit_seeds.py [--seeds 20] [--runs 50] [linear] [wheel]: both parts by default.
"""

import argparse
import statistics
from typing import Any

import torch
from bandits import FEATURES, ROUNDS, USERS, play, random_regret, regrets
from peer_bandits import numpy_linucb, problem
from results import save, table

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.environments.bandit import BanditWorld
from slatewise.interactions import Spec

ARMS, LAST, WHEEL_ROUNDS = 10, 2000, 10_000
LINEAR: dict[str, tuple[str, dict[str, Any]]] = {
    "linucb, α 0.5": ("linucb", {"alpha": 0.5}),
    "linucb, α 0.5, no intercept": ("linucb", {"alpha": 0.5, "intercept": False}),
    "lints": ("lints", {}),
}
WHEEL: dict[str, tuple[str, dict[str, Any]]] = {
    "lints": ("lints", {}),
    "neural-linear": ("neural-linear", {}),
    "squarecb": ("squarecb", {}),
    "linucb, α 10": ("linucb", {"alpha": 10.0}),
    "linucb, α 0.5": ("linucb", {"alpha": 0.5}),
    "linear, greedy": ("linucb", {"alpha": 0.0}),
}


def with_error(values: list[float], digits: int) -> str:
    """Return mean ± standard error."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def earned(name: str, seed: int, **settings: Any) -> float:
    """Return the mean expected reward of the last rounds on the problem of a seed, one round at a time."""
    x, means, rewards = (torch.from_numpy(part) for part in problem(ARMS, ROUNDS, FEATURES, seed))
    spec = Spec(tuple(f"x{i}" for i in range(FEATURES)), (), (), (), ARMS, 1)
    _, chosen = play(make_agent(name, spec, None, seed, **settings), x.float(), rewards, 1)
    return float(means.gather(1, chosen)[-LAST:].mean())


def linear(seeds: int) -> None:
    """Save what is earned on the linear problem."""
    best = [float(problem(ARMS, ROUNDS, FEATURES, seed)[1][-LAST:].max(1).mean()) for seed in range(seeds)]
    rows = [{"agent": "the best arm", "mean_reward": with_error(best, 4)}]
    for label, (name, settings) in LINEAR.items():
        found = [earned(name, seed, **settings) for seed in range(seeds)]
        rows.append({"agent": label, "mean_reward": with_error(found, 4)})
        print(rows[-1], flush=True)
    plain = [numpy_linucb(ARMS, 1, ROUNDS, FEATURES, seed)[1] for seed in range(seeds)]
    rows.append({"agent": "plain NumPy LinUCB, α 0.5, no intercept", "mean_reward": with_error(plain, 4)})
    claim = (
        f"Mean expected reward of the last {LAST:,} of {ROUNDS:,} rounds, one at a time: {ARMS} arms, {FEATURES} "
        f"features, contexts on the unit sphere, rewards of 0 and 1 with mean ½ + ½ ⟨x, θ⟩. Mean ± standard error over "
        f"{seeds} seeds, each with contexts and θ of its own; random earns 0.500."
    )
    finish("bandit_means", claim, rows)


def wheel(runs: int) -> None:
    """Save what is lost on the wheel."""
    rows: list[dict[str, Any]] = []
    for label, (name, settings) in WHEEL.items():
        row: dict[str, Any] = {"agent": label}
        for delta in (0.5, 0.95):
            row[f"δ = {delta}"] = with_error([wheel_regret(name, delta, seed, **settings) for seed in range(runs)], 2)
        print(row, flush=True)
        rows.append(row)
    claim = (
        f"Wheel bandit (Riquelme et al. 2018, arXiv 1802.09127, section 5.4): cumulative regret after {WHEEL_ROUNDS:,} "
        f"rounds in batches of {USERS}, in percent of what uniform choices lose; mean ± standard error over {runs} "
        "runs. "
        "The paper reports the same measure over 50 runs for other numbers of rounds, one at a time: its figures are "
        "not beside these, because they could not be checked."
    )
    finish("bandit_wheel", claim, rows)


def wheel_regret(name: str, delta: float, seed: int, **settings: Any) -> float:
    """Return the regret of a run in percent of uniform's."""
    env = sw.make("wheel-bandit", users=USERS, seed=seed, delta=delta)
    assert isinstance(env, BanditWorld)
    lost = float(regrets(name, env, seed, WHEEL_ROUNDS, **settings)[-1])
    return 100 * lost / (random_regret(env) * WHEEL_ROUNDS)


def finish(name: str, claim: str, rows: list[dict[str, Any]]) -> None:
    """Print and save a table."""
    print("\n".join(table(rows)))
    save(name, claim, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["linear", "wheel"], metavar="linear|wheel")
    parser.add_argument("--seeds", type=int, default=20, help="of the linear part")
    parser.add_argument("--runs", type=int, default=50, help="of the wheel part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "linear" in arguments.parts:
        linear(arguments.seeds)
    if "wheel" in arguments.parts:
        wheel(arguments.runs)


if __name__ == "__main__":
    main()
