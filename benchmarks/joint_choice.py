"""What does it cost SlateQ not to know how users choose? The choice model known, or learned from its own clicks."""

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from results import save, unlearned

import slatewise as sw
from slatewise.allocation import keep_freed_memory
from slatewise.fitting import log_likelihood
from slatewise.naming import agent_for

CLAIM = (
    "SlateQ that is given the users' choice model, and SlateQ that learns one from the clicks of its own rollouts "
    "(`fit_choice`): greedy return over {episodes:,} sessions of new users, {seeds} seeds of training, mean and "
    "standard error over them. `log_likelihood`: of the clicks on random slates in such sessions, a step, under the "
    "agent's choice model at the end; of slates that it does not show itself, so the model it learned is not at home "
    "there. CPU seconds are of training, on one thread. Users of interest exploration choose by what is hidden, so "
    "there no choice model can be given."
)
USERS = 256
EVOLUTION, EXPLORATION = "interest-evolution", "interest-exploration"


@dataclass(frozen=True)
class Case:
    """One world, how many user-steps, and settings of the agent."""

    name: str
    world: str
    settings: dict[str, Any]
    steps: int
    agent: dict[str, Any] = field(default_factory=dict[str, Any])


CASCADE = {"slate_size": 3, "choice": "exponential-cascade"}
SPLIT = {"variant": "split"}
LOGIT, EXPONENTIAL = {"fit_choice": "logit"}, {"fit_choice": "exponential-cascade"}
CASES = (
    Case("evolution, slates of 2, proportional", EVOLUTION, {}, 1_000_000),
    Case("evolution, slates of 2, proportional", EVOLUTION, {}, 1_000_000, LOGIT),
    Case("evolution, slates of 3, cascade", EVOLUTION, CASCADE, 1_000_000),
    Case("evolution, slates of 3, cascade", EVOLUTION, CASCADE, 1_000_000, EXPONENTIAL),
    Case("exploration, split", EXPLORATION, SPLIT, 500_000, {**LOGIT, "discount": 0.9}),
)


def run(case: Case, seed: int, episodes: int) -> dict[str, float]:
    """Train one agent, and measure it and its choice model on new users."""
    torch.set_num_threads(1)
    keep_freed_memory()
    env = sw.make(case.world, USERS, seed, **case.settings)
    agent = agent_for("slateq", env, seed, **case.agent)
    training = sw.train(agent, env, case.steps, progress=False)
    fresh = sw.make(case.world, episodes, 1000 + seed, **case.settings)
    result = sw.evaluate(agent, fresh, episodes)
    return {"return": result.mean, "cpu_seconds": training.cpu_seconds, "log_likelihood": likelihood(agent, case, seed)}


def likelihood(agent: sw.Agent, case: Case, seed: int) -> float:
    """Return the mean log-likelihood of 50 steps of users who are shown random slates."""
    env = sw.make(case.world, 2000, 2000 + seed, **case.settings)
    random, choice = env.rule("random", seed), agent.choice
    assert choice is not None  # it has learned one
    total = 0.0
    for _ in range(50):
        seen = env.step(random.act(env.observation))
        scores = choice.scores(seen.observation).gather(1, seen.decision.slate)
        shown = torch.ones_like(seen.decision.slate, dtype=torch.bool)
        total += float(log_likelihood(choice, scores, seen.response.clicked, shown).mean())
    return total / 50


def row(case: Case, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Summarise the seeds of one case, beside what is known without learning."""
    returns = [one["return"] for one in runs]
    error = statistics.stdev(returns) / len(returns) ** 0.5 if len(returns) > 1 else None
    cells: dict[str, Any] = {
        "world": case.name,
        "choice_model": "learned: " + case.agent["fit_choice"] if "fit_choice" in case.agent else "known",
        "steps": case.steps,
        "cpu_seconds": round(statistics.median(one["cpu_seconds"] for one in runs), 1),
        "return": round(statistics.mean(returns), 1),
        "standard_error": round(error, 1) if error is not None else None,
        "seeds": [round(value, 1) for value in returns],
        "log_likelihood": round(statistics.mean(one["log_likelihood"] for one in runs), 4),
    }
    references = sw.make(case.world, 1, 0, **case.settings).references
    return cells | (unlearned(references) if references is not None else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, one thread each")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.processes) as pool:
        jobs = [[pool.submit(run, case, seed, arguments.episodes) for seed in range(arguments.seeds)] for case in CASES]
        raw = [[job.result() for job in seeds] for seeds in jobs]
    rows = [row(case, runs) for case, runs in zip(CASES, raw, strict=True)]
    save("joint_choice", CLAIM.format(episodes=arguments.episodes, seeds=arguments.seeds), rows, raw=raw)


if __name__ == "__main__":
    main()
