"""A walk through a world, which the checks of worlds look at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation, Policy
from slatewise.policies import Random
from slatewise.testing.base import Broken


@dataclass(frozen=True)
class Moment:
    """One step: what it returned, and what the world said right after it."""

    interactions: Interactions
    now: Observation
    elapsed: Tensor

    @property
    def last(self) -> Observation:
        """The observation after the step and before any restart."""
        if self.interactions.next_observation is None:
            raise Broken("next_observation is None", "Put the observation after the step, before restarts, there.")
        return self.interactions.next_observation


def walk(env: Environment, policy: Policy, steps: int) -> Iterator[Moment]:
    """Step a world with a policy."""
    for step in range(steps):
        decision = policy.act(env.observation)
        try:
            interactions = env.step(decision)
        except InputError as error:
            raise Broken(
                f"step {step} refuses a slate of the random policy ({error})",
                "Offer every user at least slate_size candidates, and raise InputError for invalid slates only.",
            ) from None
        yield Moment(interactions, env.observation, env.elapsed.clone())


@dataclass(frozen=True)
class Case:
    """A world to check, and one long walk through it under the random policy."""

    make: Callable[..., Environment]
    users: int
    seed: int
    steps: int

    def world(self, users: int | None = None, seed: int | None = None) -> Environment:
        """Make the world."""
        return self.make(users=users or self.users, seed=self.seed if seed is None else seed)

    def random(self, env: Environment, seed: int = 5) -> Random:
        """Return the random policy of a world."""
        return Random(env.spec.slate_size, seed, env.device)

    @cached_property
    def env(self) -> Environment:
        """A world to look at, not to step."""
        return self.world()

    @cached_property
    def moments(self) -> list[Moment]:
        """A walk until as many sessions have ended as there are users, and 30 steps at least."""
        env, moments, ended = self.world(), list[Moment](), 0
        for moment in walk(env, self.random(env), self.steps):
            moments.append(moment)
            ended += int(moment.interactions.done.sum())
            if ended >= self.users and len(moments) >= 30:
                break
        return moments

    @property
    def ended(self) -> int:
        """Sessions that ended in the walk."""
        return sum(int(moment.interactions.done.sum()) for moment in self.moments)

    @property
    def nobody_ended(self) -> str | None:
        """Why promises about ends cannot be asked, or None."""
        return None if self.ended else f"not asked: no session ended in {len(self.moments)} steps"
