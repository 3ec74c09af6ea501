"""A problem small enough to enumerate, and an agent that has learned on it: what the checks of agents look at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import torch
from torch import Tensor

from slatewise.agents.base import Agent
from slatewise.choice import Choice
from slatewise.environments import make as make_world
from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation, Spec
from slatewise.testing.base import Broken

MakeAgent = Callable[[Spec, Choice | None, int], Agent]
MakeWorld = Callable[..., Environment]

USERS = 64
STEPS = 2000  # user-steps that an agent learns from, and at least two updates
PATIENCE = 300  # vector steps without an update
SLATES = 3000  # ordered slates that are enumerated at most


def small_world(users: int, seed: int) -> Environment:
    """Return interest evolution with 4 candidates and slates of 2, their quality observed: 12 ordered slates."""
    return make_world("interest-evolution", users=users, seed=seed, candidates=4, slate_size=2, observe="quality")


@dataclass(frozen=True)
class Problem:
    """An agent to check, and a world to check it in."""

    make: MakeAgent
    make_world: MakeWorld
    seed: int

    def world(self, users: int = USERS, seed: int = 3) -> Environment:
        """Make the world."""
        return self.make_world(users=users, seed=seed)

    def fresh(self) -> Agent:
        """Make an agent that has learned nothing."""
        env = self.env
        return self.make(env.spec, env.choice, self.seed)

    def trained(self, between: Callable[[int], object] = lambda _: None) -> tuple[Agent, Environment]:
        """Return an agent right after an update, and the world it learned in. between: called at every step."""
        agent, env = self.fresh(), self.world()
        agent.plan(STEPS)
        updates = step = 0
        while step * env.users < STEPS or updates < 2:
            updates += learn(agent, env, between, step)
            step += 1
            if step - PATIENCE * updates > PATIENCE:
                raise Broken(
                    f"update() has returned metrics {updates} times in {step} steps of {env.users} users",
                    "Return metrics whenever it has learned, None only until there is enough: sw.train waits for them.",
                )
        while not learn(agent, env, between, step):  # end right after an update, as checkpoints do
            step += 1
        return agent, env

    @cached_property
    def env(self) -> Environment:
        """A world to look at, not to step. Raises InputError where it has too many slates to enumerate."""
        env = self.world()
        count = 1
        for taken in range(env.spec.slate_size):
            count *= env.spec.candidates - taken
        if not 2 <= count <= SLATES:
            raise InputError(f"the world has {count} ordered slates: give one with 2 to {SLATES}")
        return env

    @cached_property
    def agent(self) -> Agent:
        """An agent that has learned; checks leave it as it is but for its generator."""
        return self.trained()[0]

    def agents(self) -> Iterator[tuple[str, Agent]]:
        """Yield an agent that has learned nothing yet, and one that has, and what they are."""
        yield "a new agent", self.fresh()
        yield "a trained agent", self.agent

    @cached_property
    def slates(self) -> Tensor:
        """Return all ordered slates, int64 [n, K]."""
        spec = self.env.spec
        return torch.tensor(list(permutations(range(spec.candidates), spec.slate_size)), device=self.env.device)

    @cached_property
    def distinct(self) -> Observation:
        """Rows of observations in which no two candidates are alike, so that an answer is only one answer."""
        observation = self.world(400, 11).observation
        features, ids = observation.dense().items, observation.item_ids
        alike = (features.unsqueeze(1) == features.unsqueeze(2)).all(3) | (ids.unsqueeze(1) == ids.unsqueeze(2))
        rows = alike.sum((1, 2)) == ids.shape[1]
        return observation[rows if bool(rows.any()) else slice(None)][:100]


def learn(agent: Agent, env: Environment, between: Callable[[int], object] = lambda _: None, step: int = 0) -> bool:
    """Take one step of the training loop; return whether the agent's update did something."""
    between(step)
    try:
        interactions = env.step(agent.act(env.observation))
    except InputError as error:
        raise Broken(f"the world refuses a slate ({error})", "Show distinct candidates of observation.mask.") from None
    agent.observe(interactions)
    between(step)
    return agent.update() is not None


def some_interactions(env: Environment) -> Interactions:
    """Return one step of a world under its random policy."""
    return env.step(env.rule("random", seed=21).act(env.observation))


def repeated(observation: Observation, row: int, times: int) -> Observation:
    """Return one row of an observation, many times."""
    return observation[torch.full((times,), row, device=observation.user.device)]
