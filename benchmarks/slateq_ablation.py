"""What is each part of SlateQ's learning worth? One part changed at a time, in two worlds."""

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from results import HERE, save, table

import slatewise as sw
from slatewise.allocation import keep_freed_memory

CLAIM = (
    "Greedy return of SlateQ after {steps:,} user-steps of 256 users, mean over {seeds} seeds and its standard error, "
    "2,000 sessions of new users each; CPU seconds of training, one thread. All rows take the preset `fast` and change "
    "what they say: the newest rollout alone, the same with as many gradient steps as replay takes, replay of three "
    "remembered segments for each new one, then a target network (a copy taken every 4 updates), its double form, and "
    "one-step targets in place of λ-returns; prioritised replay draws with α = 0.6. The state value that a dueling "
    "network adds is part of the network and has no switch. Where the command names rows, the others stand from the "
    "run before."
)
WORLDS = (("interest-evolution", {}), ("long-term-satisfaction", {"variant": "sweetness"}))
REPLAY: dict[str, Any] = {"replay": 3, "minibatches": 16}
TARGET = REPLAY | {"target_every": 4}
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("newest rollout", {}),
    ("newest rollout, as many gradient steps", {"epochs": 8}),
    ("newest rollout, target network", {"target_every": 4}),
    ("replay", REPLAY),
    ("prioritised replay", REPLAY | {"prioritised": 0.6}),
    ("replay, target network", TARGET),
    ("replay, target network, double", TARGET | {"double": True}),
    ("prioritised replay, target network, double", TARGET | {"double": True, "prioritised": 0.6}),
    ("replay, target network, one-step targets", TARGET | {"trace": 0.0}),
)


def run(name: str, world: dict[str, Any], settings: dict[str, Any], steps: int, seed: int) -> tuple[float, float]:
    """Return the greedy return and the CPU seconds of one agent."""
    torch.set_num_threads(1)
    keep_freed_memory()
    env = sw.make(name, users=256, seed=seed, **world)
    agent = sw.SlateQ(env.spec, env.choice, seed, **{**sw.SlateQ.presets["fast"].settings, **settings})
    training = sw.train(agent, env, steps, progress=False)
    return sw.evaluate(agent, sw.make(name, users=2000, seed=1000 + seed, **world), 2000).mean, training.cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rows", nargs="*", default=[name for name, _ in ROWS], help="others stay as they are")
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, one thread each")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    rows = {row["learns from"]: row for row in kept()}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name, settings in [row for row in ROWS if row[0] in arguments.rows]:
            cells: dict[str, Any] = {"learns from": name}
            jobs = {
                world: [pool.submit(run, world, given, settings, arguments.steps, seed) for seed in seeds]
                for world, given in WORLDS
            }
            for world, waiting in jobs.items():
                outcomes = [job.result() for job in waiting]
                means = [mean for mean, _ in outcomes]
                error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else float("nan")
                cells[world] = f"{statistics.mean(means):.1f} ± {error:.1f}"
                cells[f"{world}, CPU seconds"] = statistics.median(seconds for _, seconds in outcomes)
            rows[name] = cells
            print("\n".join(table([cells])[-1:]), flush=True)
    found = [rows[name] for name, _ in ROWS if name in rows]
    save("slateq_ablation", CLAIM.format(steps=arguments.steps, seeds=arguments.seeds), found)


def kept() -> list[dict[str, Any]]:
    path = HERE / "results" / "slateq_ablation.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


if __name__ == "__main__":
    main()
