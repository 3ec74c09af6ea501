"""How many user-steps a CPU second do the worlds take? One thread.

python benchmarks/simulation.py [--recsim PYTHON]: with a Python that has RecSim (see peer_recsim.py), it is measured
in the same run, in turn with slatewise.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from numpy_line import steps_per_cpu_second as numpy_rate
from results import HERE, save, table

import slatewise as sw
from slatewise.allocation import keep_freed_memory
from slatewise.drawing import uniform_slate
from slatewise.evaluation import simulate

CLAIM = (
    "User-steps per CPU second, medians of {runs} runs in turn. `step`: `env.step` with slates drawn beforehand, "
    "validation and records included. `simulate`: through `simulate --policy random`, policy, propensities and session "
    "accounting included. `one user`: `env.step` for a single user. RecSim ({recsim}) steps one user at a time; the "
    "NumPy line is the bare arithmetic of interest evolution, without records or checks."
)
RUNS = 5
USERS = 10_000
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "long-term-satisfaction 10/2": ("long-term-satisfaction", {}),
    "interest-evolution 10/2": ("interest-evolution", {}),
    "interest-exploration 10/2": ("interest-exploration", {}),
    "maze": ("maze", {}),
    "interest-evolution 100/10": ("interest-evolution", {"candidates": 100, "slate_size": 10}),
}


def step_rate(name: str, settings: dict[str, Any], users: int, steps: int) -> float:
    env = sw.make(name, users=users, seed=0, **settings)
    generator = torch.Generator().manual_seed(0)
    slates = [uniform_slate(env.observation.mask, env.spec.slate_size, generator) for _ in range(4)]
    env.step(slates[0])
    started = time.process_time()
    for i in range(steps):
        env.step(slates[i % 4])
    return users * steps / (time.process_time() - started)


def simulate_rate(name: str, settings: dict[str, Any], seed: int) -> float:
    env = sw.make(name, users=USERS, seed=seed, **settings)
    return simulate(env.rule("random", seed), env, 100 * USERS).steps_per_cpu_second


def recsim_rates(python: str | None) -> dict[str, float]:
    if python is None:
        return {}
    script = Path(__file__).with_name("peer_recsim.py")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, str(script)], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def rates(recsim: str | None) -> list[dict[str, Any]]:
    measured: dict[str, dict[str, list[float]]] = {world: {} for world in WORLDS}

    def note(world: str, what: str, rate: float) -> None:
        measured[world].setdefault(what, []).append(rate)

    for run in range(RUNS):
        for world, rate in recsim_rates(recsim).items():
            note(world, "recsim", rate)
        for world, (name, settings) in WORLDS.items():
            note(world, "step", step_rate(name, settings, USERS, 60 if "100" not in world else 15))
            note(world, "simulate", simulate_rate(name, settings, run))
            note(world, "one_user", step_rate(name, settings, 1, 2000))
        note("interest-evolution 10/2", "numpy_line", numpy_rate(USERS, 10, 2, 30))
        note("interest-evolution 100/10", "numpy_line", numpy_rate(USERS, 100, 10, 6))
    columns = ("step", "simulate", "one_user", "numpy_line", "recsim")
    rows = []
    for world, found in measured.items():
        row: dict[str, Any] = {"world": world}
        row |= {c: statistics.median(found[c]) if c in found else None for c in columns}
        if "recsim" in found:
            row["step_/_recsim"] = round(row["step"] / row["recsim"])
            row["one_user_/_recsim"] = row["one_user"] / row["recsim"]
        rows.append(row)
    return rows


def costs() -> list[dict[str, Any]]:
    """Nanoseconds a user-step by users (10 candidates) and by candidates (10,000 users), and bytes a user."""
    rows = []
    for world in ("long-term-satisfaction", "interest-evolution"):
        for users in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000):
            steps = max(3, min(2000, 1_000_000 // users))
            rate = statistics.median(step_rate(world, {}, users, steps) for _ in range(3))
            row = {"world": world, "users": users, "candidates": 10, "nanoseconds": 1e9 / rate}
            rows.append(row | ({"bytes_a_user": bytes_a_user(world)} if users == USERS else {}))
        for candidates in (30, 100, 300, 1000):
            rate = statistics.median(step_rate(world, {"candidates": candidates}, USERS, 10) for _ in range(3))
            rows.append({"world": world, "users": USERS, "candidates": candidates, "nanoseconds": 1e9 / rate})
    return rows


def bytes_a_user(world: str) -> int:
    """Memory of state, candidates and observation, per user, with 10 candidates."""
    env = sw.make(world, users=1000)
    tensors = [*env.snapshot().values(), env.observation.user]
    return sum(t.numel() * t.element_size() for t in tensors if t.dim() and len(t) == 1000) // 1000


def draw(rows: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2, sharey=True), ("users", "candidates"), strict=True):
        for world in dict.fromkeys(row["world"] for row in rows):
            other = {"users": ("candidates", 10), "candidates": ("users", USERS)}[key]
            points = [
                (row[key], row["nanoseconds"]) for row in rows if row["world"] == world and row[other[0]] == other[1]
            ]
            points = sorted(dict(points).items())
            axes.loglog([x for x, _ in points], [y for _, y in points], "o-", label=world)
        axes.set_xlabel(f"{key} ({other[1]:,} {other[0]})")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("CPU nanoseconds a user-step")
    figure.axes[0].legend(frameon=False)
    figure.savefig(HERE.parent / "docs" / "images" / "simulation-cost.png", dpi=140)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recsim", metavar="PYTHON", help="a Python that has RecSim 0.2.4")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = rates(arguments.recsim)
    print("\n".join(table(rows)))
    recsim = "0.2.4, measured in the same run" if arguments.recsim else "not measured in this run"
    save("simulation", CLAIM.format(runs=RUNS, recsim=recsim), rows)
    cost = costs()
    print("\n".join(table(cost)))
    save("simulation_cost", "CPU nanoseconds a user-step of `env.step`, slates drawn beforehand, validation on.\n\n"
         "![Cost by users and candidates](images/simulation-cost.png)", cost)  # fmt: skip
    draw(cost)


if __name__ == "__main__":
    main()
