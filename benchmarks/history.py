"""What is a history worth, and does a recurrent network read it better than all its features side by side?"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from results import save, table

import slatewise as sw
from slatewise.allocation import keep_freed_memory
from slatewise.environments.base import References
from slatewise.returns import Mean

CLAIM = (
    "Greedy return of SlateQ with its default settings on long-term satisfaction `sweetness` after one million "
    "user-steps, by what it sees of the hidden satisfaction: the last item alone, the last nine interactions read flat "
    "or by a GRU, or the satisfaction itself. The mean over seeds with its standard error, 2,000 sessions of new users "
    "each; CPU seconds of training. Satisfaction fades by 0.7 a step, and the last item alone does not tell it.\n\n"
    "![Return by what the agent sees](images/history.png)"
)
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "history.png"
WORLD = "long-term-satisfaction"
HIDDEN: dict[str, Any] = {"variant": "sweetness", "observe": ""}
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # by what is seen: settings of the world and of the agent
    "nothing": (HIDDEN, {}),
    "history, flat": (HIDDEN | {"history": 9}, {"encoder": "flat"}),
    "history, gru": (HIDDEN | {"history": 9}, {"encoder": "gru"}),
    "satisfaction": (HIDDEN | {"observe": "satisfaction"}, {}),
}
STEPS = 1_000_000
USERS = 256
SESSIONS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side, one thread each")
    arguments = parser.parse_args()
    runs = [(seen, seed) for seen in ARMS for seed in range(arguments.seeds)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        results = dict(zip(runs, pool.map(run, *zip(*runs, strict=True)), strict=True))
    rows = [row(seen, [result for (arm, _), result in results.items() if arm == seen]) for seen in ARMS]
    print("\n".join(table(rows)))
    draw(rows)
    save("history", CLAIM, rows)


def run(seen: str, seed: int) -> tuple[float, float]:
    """Train and evaluate once; return the mean return and the CPU seconds of training."""
    torch.set_num_threads(1)
    keep_freed_memory()
    settings, how = ARMS[seen]
    env = sw.make(WORLD, users=USERS, seed=seed, **settings)
    agent = sw.SlateQ(env.spec, choice=env.choice, seed=seed, **how)
    training = sw.train(agent, env, STEPS, progress=False)
    fresh = sw.make(WORLD, users=SESSIONS, seed=1000 + seed, **settings)
    return sw.evaluate(agent, fresh, SESSIONS).mean, training.cpu_seconds


def row(seen: str, results: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the line of the table: results are mean return and CPU seconds by seed."""
    means, cpu = zip(*results, strict=True)
    known, over = references(), Mean.of(torch.tensor(means))
    best = known.best_rule()
    return {
        "sees": seen,
        "return": round(over.mean, 2),
        "standard_error": round(over.standard_error, 2),
        "seeds": [round(mean, 1) for mean in means],
        "share_%": 100 * (known.share(over.mean) or 0.0),
        "cpu_seconds": sum(cpu) / len(cpu),
        "random": known.rules["random"].mean,
        "best_rule": f"{best} {known.rules[best].mean}",
        "ceiling": "" if known.ceiling is None else f"{known.ceiling.mean} ({known.ceiling.kind})",
    }


def references() -> References:
    known = sw.make(WORLD, users=1, **HIDDEN).references
    assert known is not None
    return known


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw every seed of every arm between random and the ceiling."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes, known = figure.subplots(), references()
    for at, line in enumerate(reversed(rows)):
        axes.plot(line["seeds"], [at] * len(line["seeds"]), "o", color="#2f7d4f", alpha=0.7)
    best = known.best_rule()
    rules = {"random": known.rules["random"]} | ({} if best == "random" else {"best rule": known.rules[best]})
    marks = rules | {"ceiling": known.ceiling}
    for name, mean in ((name, mark.mean) for name, mark in marks.items() if mark is not None):
        axes.axvline(mean, color="#8b949e", linewidth=1, linestyle="--")
        axes.text(mean, len(rows) - 0.4, name, ha="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [line["sees"] for line in reversed(rows)])
    axes.set_ylim(-0.5, len(rows) - 0.1)
    axes.margins(x=0.1)
    axes.set_xlabel("return of a session; a point a seed")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=150, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
