"""Which slate's value comes next in SlateQ's training: the best one, or the one that was shown?"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from results import save, unlearned, with_error

import slatewise as sw
from slatewise.allocation import keep_freed_memory

CLAIM = (
    "Greedy return of SlateQ in interest evolution with `target=exact` (the best slate's value comes next, Q-learning, "
    "the default) and `target=sarsa` (that of the slate that was shown), everything else the defaults, after {steps:,} "
    "user-steps: mean over {seeds} seeds and its standard error, {episodes:,} sessions of new users each. A maximum "
    "over values that are uncertain is too high, the more so the more candidates there are and the more the network "
    "has to read; values of what was shown have no maximum in them, but hold what exploration costs."
)
WORLDS: dict[str, dict[str, Any]] = {
    "slates of 2 from 10": {},
    "slates of 2 from 10, history of 9": {"history": 9},
    "slates of 2 from 50": {"candidates": 50},
    "slates of 10 from 100": {"candidates": 100, "slate_size": 10},
}
TARGETS = ("exact", "sarsa")


def run(settings: dict[str, Any], target: str, steps: int, seed: int, episodes: int) -> float:
    """Train one agent; return its greedy return among new users."""
    torch.set_num_threads(1)
    keep_freed_memory()
    env = sw.make("interest-evolution", 256, seed, **settings)
    agent = sw.SlateQ(env.spec, env.choice, seed, target=target)
    sw.train(agent, env, steps, progress=False)
    return sw.evaluate(agent, sw.make("interest-evolution", episodes, 1000 + seed, **settings), episodes).mean


def row(name: str, returns: dict[str, list[float]]) -> dict[str, Any]:
    """Summarise the seeds of one world, beside what is known without learning."""
    cells: dict[str, Any] = {"world": name}
    for target, means in returns.items():
        cells |= {target: with_error(means), f"{target}, seeds": [round(one, 1) for one in means]}
    references = sw.make("interest-evolution", 1, 0, **WORLDS[name]).references
    return cells | (unlearned(references) if references is not None else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, one thread each")
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    with ProcessPoolExecutor(given.processes) as pool:
        jobs = {
            (name, target): [pool.submit(run, world, target, given.steps, seed, given.episodes) for seed in seeds]
            for name, world in WORLDS.items()
            for target in TARGETS
        }
        returns = {case: [job.result() for job in waiting] for case, waiting in jobs.items()}
    rows = [row(name, {target: returns[name, target] for target in TARGETS}) for name in WORLDS]
    save("slateq_targets", CLAIM.format(steps=given.steps, seeds=given.seeds, episodes=given.episodes), rows)


if __name__ == "__main__":
    main()
