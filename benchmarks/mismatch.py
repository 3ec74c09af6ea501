"""What if users do not choose as the recommender thinks? SlateQ trained under one choice model, run under another."""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from results import save

import slatewise as sw
from slatewise.allocation import keep_freed_memory

WORLD, CHOICES = "interest-evolution", ("proportional", "logit", "exponential-cascade")
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "mismatch.png"
CLAIM = (
    "Greedy return in interest evolution of SlateQ that learned among users of one choice model, which it also plans "
    "with, run among users of another (the columns); mean over seeds of training ± their standard error, "
    "{episodes:,} sessions each, {steps:,} user-steps of training. Random and the best rule without learning for "
    "scale: a column's numbers compare with each other, not with those of another column.\n\n"
    "![Return of SlateQ by the choice model it learned with and the one it meets](images/mismatch.png)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    worlds = [sw.make(WORLD, users=arguments.episodes, seed=1000, choice=choice) for choice in CHOICES]
    returns = np.array([runs(choice, worlds, arguments.steps, arguments.seeds) for choice in CHOICES])
    rows = [
        {"learned with": choice, **cells(table.mean(0), table.std(0, ddof=1) / len(table) ** 0.5)}
        for choice, table in zip(CHOICES, returns, strict=True)
    ]
    for rule in ("random", "quality"):
        results = [sw.evaluate(world.rule(rule), world, arguments.episodes) for world in worlds]
        found = cells([result.mean for result in results], [result.standard_error for result in results])
        rows.append({"learned with": f"nothing: {rule}", **found})
    draw(returns.mean(1))
    save("mismatch", CLAIM.format(episodes=arguments.episodes, steps=arguments.steps), rows)


def runs(choice: str, worlds: list[sw.Environment], steps: int, seeds: int) -> list[list[float]]:
    """Return the mean return in every world of agents that learned under one choice model, [seeds, worlds]."""
    table = []
    for seed in range(seeds):
        env = sw.make(WORLD, users=256, seed=seed, choice=choice)
        agent = sw.SlateQ(env.spec, env.choice, seed)
        sw.train(agent, env, steps, progress=False)
        table.append([sw.evaluate(agent, world, world.users).mean for world in worlds])
        print(choice, seed, [round(value, 1) for value in table[-1]], flush=True)
    return table


def cells(means: list[float], errors: list[float]) -> dict[str, str]:
    pairs = zip(CHOICES, means, errors, strict=True)
    return {f"run under {choice}": f"{mean:.1f} ± {error:.1f}" for choice, mean, error in pairs}


def draw(returns: np.ndarray) -> None:
    """Draw the matrix; colour by the share of the column's best, because columns have scales of their own."""
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    shares = returns / returns.max(0)
    axes.imshow(shares, cmap="YlGn", vmin=0.7, vmax=1.1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{returns[row, column]:.0f}\n{100 * share:.0f} %", ha="center", va="center")
    axes.set_xticks(range(len(CHOICES)), CHOICES)
    axes.set_yticks(range(len(CHOICES)), CHOICES)
    axes.set_xlabel("users' choice model when run")
    axes.set_ylabel("learned with")
    axes.set_title("mean return, and share of the column's best", fontsize=10, loc="left")
    figure.savefig(PICTURE, dpi=170, facecolor="white")


if __name__ == "__main__":
    main()
