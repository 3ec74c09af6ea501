"""deep-q, which values whole slates, in two worlds, with and without its parts."""

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
    "Mean greedy return of deep-q over seeds and its standard error, 2,000 sessions of new users each, 256 users; "
    "default settings but for what the row says; CPU seconds of training, median. It is told no choice model, and "
    "hidden state stays hidden. SlateQ and policy gradients in the same worlds: policy_gradient."
)
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "interest evolution 10/2": ("interest-evolution", {}),
    "sweetness": ("long-term-satisfaction", {"variant": "sweetness"}),
}
REPLAY: dict[str, Any] = {"replay": 3, "minibatches": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one-step targets": {"trace": 0.0},
    "replay": REPLAY,
    "all parts": REPLAY | {"prioritised": 0.6, "target_every": 4, "double": True},
}


def run(world: str, variant: str, steps: int, seed: int) -> tuple[float, float]:
    """Return the greedy return and the CPU seconds of one agent."""
    torch.set_num_threads(1)
    keep_freed_memory()
    name, settings = WORLDS[world]
    env = sw.make(name, users=256, seed=seed, **settings)
    agent = sw.make_agent("deep-q", env.spec, env.choice, seed, **VARIANTS[variant])
    training = sw.train(agent, env, steps, progress=False)
    return sw.evaluate(agent, sw.make(name, users=2000, seed=1000 + seed, **settings), 2000).mean, training.cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help="others stay as they are")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, one thread each")
    arguments = parser.parse_args()
    rows = {(row["world"], row["deep-q"], row["steps"]): row for row in kept()}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for variant in arguments.variants:
            for world in WORLDS:
                jobs = [pool.submit(run, world, variant, arguments.steps, seed) for seed in range(arguments.seeds)]
                row = summary(world, variant, arguments.steps, [job.result() for job in jobs])
                rows[world, variant, arguments.steps] = row
                print("\n".join(table([row])[-1:]), flush=True)
                save("deep_q", CLAIM, sorted(rows.values(), key=lambda row: list(WORLDS).index(row["world"])))


def summary(world: str, variant: str, steps: int, outcomes: list[tuple[float, float]]) -> dict[str, Any]:
    """Return one line of the table."""
    means = [mean for mean, _ in outcomes]
    error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else float("nan")
    row = {"world": world, "deep-q": variant, "steps": steps, "mean": statistics.mean(means), "standard_error": error}
    row |= {"seeds": [round(mean, 1) for mean in means], "cpu_seconds": statistics.median(s for _, s in outcomes)}
    known = sw.make(WORLDS[world][0], users=1, seed=0, **WORLDS[world][1]).references
    if known is None or known.ceiling is None:
        return row
    best = known.best_rule()
    beside = {"random": known.rules["random"].mean, "best_rule": f"{best} {known.rules[best].mean}"}
    return row | beside | {"ceiling": f"{known.ceiling.mean} ({known.ceiling.kind})"}


def kept() -> list[dict[str, Any]]:
    path = HERE / "results" / "deep_q.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


if __name__ == "__main__":
    main()
