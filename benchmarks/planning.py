"""How much does planning in a learned model of the user earn, and from how little data? Beside SlateQ."""

import argparse
import math
import statistics
from typing import Any

import torch
from results import save, table

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.allocation import keep_freed_memory

CLAIM = (
    "Greedy return on interest evolution (10 candidates, slates of 2), over 2,000 sessions of new users, after so many "
    "user-steps of training with default settings; budgets stay hidden. Mean over seeds with its standard error; CPU "
    "seconds of training, the median. `model-planner` learns what users choose unless told (`users=given`); SlateQ is "
    "always told. The ceiling is a planner that knows the users' model."
)
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "model-planner, users=fitted": ("model-planner", {}),
    "model-planner, users=given": ("model-planner", {"users": "given"}),
    "slateq": ("slateq", {}),
}
USERS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[50_000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = list[dict[str, Any]]()
    for steps in arguments.steps:
        for shown in AGENTS:
            runs = [run(shown, steps, seed, arguments.episodes) for seed in range(arguments.seeds)]
            rows.append(row_of(shown, steps, runs))
    print("\n".join(table(rows)), flush=True)
    save("planning", CLAIM, rows)


def run(shown: str, steps: int, seed: int, episodes: int) -> tuple[float, float]:
    """Train one agent; return the mean of its sessions and its CPU seconds."""
    name, settings = AGENTS[shown]
    env = sw.make("interest-evolution", users=USERS, seed=seed)
    agent = make_agent(name, env.spec, env.choice, seed, **settings)
    training = sw.train(agent, env, steps, progress=False)
    result = sw.evaluate(agent, sw.make("interest-evolution", users=episodes, seed=1000 + seed), episodes)
    print(shown, steps, seed, f"{result.mean:.1f} ± {result.standard_error:.1f}, {training.cpu_seconds:.1f} CPU s")
    return result.mean, training.cpu_seconds


def row_of(shown: str, steps: int, runs: list[tuple[float, float]]) -> dict[str, Any]:
    """Average the seeds, and set the references beside."""
    means, seconds = zip(*runs, strict=True)
    references = sw.make("interest-evolution", users=1).references
    assert references is not None
    best = references.best_rule()
    return {
        "agent": shown,
        "steps": steps,
        "mean": statistics.mean(means),
        "standard_error": statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan,
        "seeds": [round(mean, 1) for mean in means],
        "cpu_seconds": statistics.median(seconds),
        "random": references.rules["random"].mean,
        "best_rule": f"{best} {references.rules[best].mean}",
        "ceiling": f"{references.ceiling.mean} ({references.ceiling.kind})",
    }


if __name__ == "__main__":
    main()
