"""A problem whose truth is known: two contexts, four actions, Bernoulli rewards."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from slatewise.interactions import Decision, Interactions, Observation, Response, Spec

ACTIONS = 4
TRUE_REWARD = torch.tensor([[0.2, 0.5, 0.4, 0.9], [0.7, 0.1, 0.3, 0.2]], dtype=torch.float64)  # by context
LOGGED = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
TARGET = torch.tensor([[0.1, 0.2, 0.1, 0.6], [0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)
SPEC = Spec(("first", "second"), (), tuple(f"a{i}" for i in range(ACTIONS)), (), ACTIONS, 1)
TRUTH = float((TARGET * TRUE_REWARD).sum(1).mean())  # both contexts equally likely
LOGGED_TRUTH = float((LOGGED * TRUE_REWARD).sum(1).mean())


@dataclass
class Table:
    """A policy with a probability for every action in each of two contexts."""

    probabilities: Tensor
    name: str = "table"

    def act(self, observation: Observation, explore: bool = True) -> Decision:
        raise NotImplementedError

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        return self.probabilities[observation.user.argmax(1)].gather(1, slate)


@dataclass
class MemoryLog:
    spec: Spec
    rows: Interactions
    size: int = 10**9
    propensities: dict[str, Any] = field(default_factory=lambda: {"kind": "logged"})

    def blocks(self) -> Iterator[Interactions]:
        for start in range(0, len(self.rows), self.size):
            yield self.rows[start : start + self.size]


def interactions(user: Tensor, action: Tensor, propensity: Tensor, reward: Tensor, **changes: Any) -> Interactions:
    n = len(action)
    items = torch.eye(ACTIONS).expand(n, ACTIONS, ACTIONS).contiguous()
    observation = Observation(torch.eye(2)[user], torch.arange(ACTIONS).repeat(n, 1), items)
    zeros, ones = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.bool)
    response = Response(reward[:, None] > 0.5, torch.zeros(n, 1, 0), reward[:, None], zeros, ones)
    decision = Decision(action[:, None], propensity[:, None])
    rows = Interactions(observation, decision, response, None, ones, ~ones, torch.arange(n), torch.zeros_like(user))
    return replace(rows, **changes)


def simulated(n: int, seed: int, logged: Tensor = LOGGED) -> MemoryLog:
    """A log of Bernoulli rewards whose true values are TRUTH and LOGGED_TRUTH."""
    generator = torch.Generator().manual_seed(seed)
    user = torch.randint(0, 2, (n,), generator=generator)
    action = torch.multinomial(logged[user], 1, generator=generator)[:, 0]
    draws = torch.rand(n, generator=generator, dtype=torch.float64)
    reward = (draws < TRUE_REWARD[user, action]).double()
    return MemoryLog(SPEC, interactions(user, action, logged[user, action], reward))
