"""Evaluation in simulation: the mean return of a policy, with its standard error and its share of the possible gain."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from slatewise.aggregates import aggregate
from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Policy
from slatewise.progress import Bar
from slatewise.returns import Mean, SessionReturns


@dataclass(frozen=True)
class Evaluation:
    """Mean return per session.

    share: (mean − random) / (ceiling − random) with the world's references, None where it has none.
    mean_length: steps of a session.  difference: to the policy that it was paired with, session by session.
    returns: of every session, user by user.
    """

    mean: float
    standard_error: float
    episodes: int
    mean_length: float
    share: float | None
    difference: Mean | None = None
    returns: tuple[float, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the summary, without the single returns, as JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "returns"}


def evaluate(
    policy: Policy,
    env: Environment,
    episodes: int = 2000,
    explore: bool = False,
    paired_with: Policy | None = None,
    progress: bool = False,
    on_interactions: Callable[[Interactions], None] | None = None,
) -> Evaluation:
    """Run a policy in a simulator, from the beginning of the simulator's seed, without learning.

    Runs ceil(episodes / users) sessions for each user, to the last one's end: a number fixed beforehand, because
    averaging the sessions that happen to have ended favours short ones.  explore: act as in training.
    paired_with: another policy, run for the same users with the same noise (common random numbers): the mean
    difference of their sessions has a far smaller standard error than that of two means. With at least as many
    users as episodes all noise is shared; later sessions of a user share how the user begins.
    progress: show it on standard error.  on_interactions: takes every vector step of the policy, without the users
    whose sessions are all done, for instance a `Tally`'s `add`.  Raises InputError for fewer than two sessions.
    """
    if episodes < 2:
        raise InputError(f"episodes={episodes}: a standard error needs at least 2")
    each = -(-episodes // env.users)
    sessions = _run(policy, env, each, explore, progress, on_interactions)
    result = _summary(sessions, each, env)
    if paired_with is None:
        return result
    other = _run(paired_with, env, each, explore, progress)
    return replace(result, difference=Mean.of(sessions.first(each)[0] - other.first(each)[0]))


def _run(
    policy: Policy,
    env: Environment,
    each: int,
    explore: bool,
    progress: bool,
    on_interactions: Callable[[Interactions], None] | None = None,
) -> SessionReturns:
    """Run `each` sessions for every user."""
    env.reset(env.seed)
    sessions = SessionReturns(env.users, env.device)
    with Bar("evaluate", each * env.users, progress) as bar:
        while sessions.complete() < each:
            interactions = env.step(policy.act(env.observation, explore=explore))
            if on_interactions is not None:
                counted = sessions.finished < each
                on_interactions(interactions if bool(counted.all()) else interactions[counted])
            sessions.add(interactions)
            bar.update(int(sessions.finished.clamp(max=each).sum()))
    return sessions


def evaluate_seeds(
    policy: Policy,
    env: Environment,
    episodes: int,
    seeds: int,
    explore: bool = False,
    paired_with: Policy | None = None,
    progress: bool = False,
    on_interactions: Callable[[Interactions], None] | None = None,
) -> list[Evaluation]:
    """Evaluate in the world's seed and those that follow it, `episodes` sessions each; return one result a seed."""
    first = env.seed
    results: list[Evaluation] = []
    for seed in range(first, first + seeds):
        env.reset(seed)
        results.append(evaluate(policy, env, episodes, explore, paired_with, progress, on_interactions))
    env.reset(first)
    return results


def over_seeds(results: Sequence[Evaluation], env: Environment) -> dict[str, Any]:
    """Return results of several seeds as JSON values: all sessions together, and every seed by itself.

    interquartile_mean, interval: over the seeds' means, 95 % by bootstrap; only with several seeds.
    """
    returns = torch.tensor([value for result in results for value in result.returns], dtype=torch.float64)
    mean = Mean.of(returns)
    whole: dict[str, Any] = {
        "mean": mean.mean,
        "standard_error": mean.standard_error,
        "episodes": mean.count,
        "mean_length": sum(result.mean_length for result in results) / len(results),
        "share": env.references.share(mean.mean) if env.references is not None else None,
    }
    differences = [result.difference for result in results if result.difference is not None]
    if differences:
        error = math.sqrt(sum(d.standard_error**2 for d in differences)) / len(differences)
        average = sum(d.mean for d in differences) / len(differences)
        whole["difference"] = asdict(Mean(average, error, sum(d.count for d in differences)))
    if len(results) > 1:
        spread = aggregate([result.mean for result in results])
        whole |= {"interquartile_mean": spread.interquartile_mean, "interval": [spread.low, spread.high]}
    return whole | {"seeds": [result.to_json() for result in results]}


def save_seeds(folder: Path, policy: str, env: Environment, first_seed: int, results: Sequence[Evaluation]) -> None:
    """Write the return of every session, a JSON file a seed, for whoever wants other statistics."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, result in enumerate(results, first_seed):
        about = {
            "policy": policy,
            "world": env.full_name,
            "settings": env.settings.model_dump(mode="json"),
            "seed": seed,
        }
        text = json.dumps(about | {"users": env.users, "returns": result.returns})
        (folder / f"seed-{seed}.json").write_text(text + "\n")


@dataclass(frozen=True)
class Simulation:
    """Mean return per session while simulating; mean, standard_error and mean_length are None without sessions.

    episodes: sessions averaged, the same number for every user.  steps: user-steps.
    """

    mean: float | None
    standard_error: float | None
    episodes: int
    mean_length: float | None
    share: float | None
    steps: int
    seconds: float
    steps_per_second: float
    steps_per_cpu_second: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def simulate(
    policy: Policy,
    env: Environment,
    steps: int,
    on_interactions: Callable[[Interactions], None] | None = None,
    explore: bool = True,
    progress: bool = False,
) -> Simulation:
    """Run a policy for at least so many user-steps, without learning, from the beginning of the simulator's seed.

    on_interactions: takes every vector step, for instance a log writer's `add`.  explore: follow the policy's
    exploration, so that propensities are worth logging.  Raises InputError for fewer than one step.
    """
    if steps < 1:
        raise InputError(f"steps={steps}: at least one user-step is needed")
    rounds = -(-steps // env.users)
    env.reset(env.seed)
    sessions = SessionReturns(env.users, env.device)
    started, cpu_started = time.perf_counter(), time.process_time()
    with Bar("simulate", rounds, progress) as bar:
        for done in range(1, rounds + 1):
            interactions = env.step(policy.act(env.observation, explore=explore))
            sessions.add(interactions)
            if on_interactions is not None:
                on_interactions(interactions)
            bar.update(done)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    result = _summary(sessions, sessions.complete(), env)
    return Simulation(
        _known(result.mean),
        _known(result.standard_error),
        result.episodes,
        _known(result.mean_length),
        result.share if result.episodes else None,
        rounds * env.users,
        seconds,
        rounds * env.users / seconds,
        rounds * env.users / cpu_seconds,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _summary(sessions: SessionReturns, each: int, env: Environment) -> Evaluation:
    """Average the first `each` sessions of every user."""
    returns, lengths = sessions.first(each)
    mean = Mean.of(returns)
    references = env.references
    share = references.share(mean.mean) if references is not None else None
    length = float(lengths.double().mean())
    return Evaluation(mean.mean, mean.standard_error, mean.count, length, share, returns=tuple(returns.tolist()))
