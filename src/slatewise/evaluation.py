"""Evaluation in simulation: the mean return of a policy, with its standard error and its share of the possible gain."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Policy
from slatewise.progress import Bar
from slatewise.returns import Mean, SessionReturns


@dataclass(frozen=True)
class Evaluation:
    """Mean return per session.

    share: (mean − random) / (ceiling − random) with the world's references, None where it has none.
    mean_length: steps of a session.
    """

    mean: float
    standard_error: float
    episodes: int
    mean_length: float
    share: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def evaluate(
    policy: Policy,
    env: Environment,
    episodes: int = 2000,
    explore: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Run a policy in a simulator, from the beginning of the simulator's seed, without learning.

    Runs ceil(episodes / users) sessions for each user, to the last one's end: a number fixed beforehand, because
    averaging the sessions that happen to have ended favours short ones.  explore: act as in training.
    progress: show it on standard error.  Raises InputError for fewer than two sessions.
    """
    if episodes < 2:
        raise InputError(f"episodes={episodes}: a standard error needs at least 2")
    each = -(-episodes // env.users)
    env.reset(env.seed)
    sessions = SessionReturns(env.users, env.device)
    with Bar("evaluate", each * env.users, progress) as bar:
        while sessions.complete() < each:
            sessions.add(env.step(policy.act(env.observation, explore=explore)))
            bar.update(int(sessions.finished.clamp(max=each).sum()))
    return _summary(sessions, each, env)


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
    return Evaluation(mean.mean, mean.standard_error, mean.count, float(lengths.double().mean()), share)
