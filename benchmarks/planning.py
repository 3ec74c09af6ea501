"""How much does planning in a learned model of the user earn, and from how little data? Beside SlateQ."""

import argparse
import math
import statistics
import tempfile
import time
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
    "always told. `from a log`: of so many random decisions, and none of its own. The ceiling is a planner that knows "
    "the users' model."
)
GIVEN = {"users": "given"}
AGENTS: dict[str, tuple[str, dict[str, Any], bool]] = {  # name, settings, from a log
    "model-planner, users=fitted": ("model-planner", {}, False),
    "model-planner, users=given": ("model-planner", GIVEN, False),
    "slateq": ("slateq", {}, False),
    "model-planner, users=fitted, from a log": ("model-planner", {}, True),
    "model-planner, users=given, from a log": ("model-planner", GIVEN, True),
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
    name, settings, from_a_log = AGENTS[shown]
    env = sw.make("interest-evolution", users=USERS, seed=seed)
    agent = make_agent(name, env.spec, env.choice, seed, **settings)
    seconds = learn(agent, env, steps) if from_a_log else sw.train(agent, env, steps, progress=False).cpu_seconds
    result = sw.evaluate(agent, sw.make("interest-evolution", users=episodes, seed=1000 + seed), episodes)
    print(shown, steps, seed, f"{result.mean:.1f} ± {result.standard_error:.1f}, {seconds:.1f} CPU s")
    return result.mean, seconds


def learn(agent: sw.Agent, env: sw.Environment, steps: int) -> float:
    """Let an agent learn from a log of random decisions; return its CPU seconds."""
    random = env.rule("random", agent.seed)
    with tempfile.TemporaryDirectory() as folder:
        with sw.LogWriter(f"{folder}/log", env.spec, {"kind": "simulation", "world": env.full_name}) as writer:
            for _ in range(math.ceil(steps / env.users)):
                writer.add(env.step(random.act(env.observation)))
        started = time.process_time()
        sw.learn(agent, sw.Log(f"{folder}/log"), progress=False)
        return time.process_time() - started


def row_of(shown: str, steps: int, runs: list[tuple[float, float]]) -> dict[str, Any]:
    """Average the seeds, and set the references beside."""
    means, seconds = zip(*runs, strict=True)
    references = sw.make("interest-evolution", users=1).references
    assert references is not None
    assert references.ceiling is not None
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
