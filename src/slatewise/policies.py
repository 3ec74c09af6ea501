"""Policies that do not learn, and the exploration that they share with those that do."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from slatewise.errors import InputError, check_seed
from slatewise.interactions import Decision, Observation
from slatewise.slates import (
    epsilon_propensity,
    epsilon_slate,
    mix_propensity,
    mix_slate,
    uniform_propensity,
    uniform_slate,
)


def policy_generator(seed: int, device: torch.device) -> torch.Generator:
    """Return the generator of a policy: another stream than that of a world with the same seed.

    Raises InputError for a seed outside 0 … 2⁶³ − 1.
    """
    check_seed(seed)
    return torch.Generator(device).manual_seed((seed + 0x9E3779B97F4A7C15) % 2**63)


class GreedyPolicy:
    """A policy that has a best slate, and departs from it at random only as far as it says.

    With probability ε, one coin a user, a uniform ordered slate without replacement is shown instead.
    """

    def __init__(
        self, slate_size: int, seed: int = 0, explore_floor: float = 0.0, device: str | torch.device = "cpu"
    ) -> None:
        if not 0 <= explore_floor <= 1:
            raise InputError(f"explore_floor={explore_floor}: a probability lies in [0, 1]")
        self.slate_size = slate_size
        self.explore_floor = explore_floor
        self.device = torch.device(device)
        self.generator = policy_generator(seed, self.device)

    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        """Return the slate this policy prefers, int64 [B, K]; `explore` adds optimism where the policy has any."""
        raise NotImplementedError

    def explain(self, observation: Observation) -> dict[str, Tensor]:  # noqa: ARG002 - for policies that can
        """Return what the greedy slate rests on, scores of the candidates by name, [B, C] each: for who watches."""
        return {}

    def epsilon(self) -> float:
        """Return the probability of a uniform slate when exploring."""
        return self.explore_floor

    def act(self, observation: Observation, explore: bool = True) -> Decision:
        """Choose a slate for every row; `explore=False` is the greedy policy."""
        greedy = self.greedy(observation, explore)
        epsilon = self.epsilon() if explore else 0.0
        return Decision(*epsilon_slate(greedy, observation.mask, epsilon, self.generator))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        """Return the probability of each slot's item given the slots before it, float64 [B, K]."""
        greedy = self.greedy(observation, explore)
        return epsilon_propensity(greedy, slate, observation.mask, self.epsilon() if explore else 0.0)


class SlateDistribution(Protocol):
    """What a policy draws its slates from, one distribution a row."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw a slate for every row, int64 [B, K]."""
        ...

    def propensity(self, slate: Tensor) -> Tensor:
        """Return the probability of each slot's item given the slots before it, float64 [B, K]."""
        ...


class DrawingPolicy(GreedyPolicy):
    """A policy that draws its slates from a distribution; with probability ε a uniform slate is shown instead.

    `greedy` is what it shows without exploration.
    """

    def distribution(self, observation: Observation) -> SlateDistribution:
        """Return what it draws its slates from; the same whenever it is asked, until something is learned."""
        raise NotImplementedError

    def act(self, observation: Observation, explore: bool = True) -> Decision:
        """Draw a slate for every row; `explore=False` is the greedy policy."""
        if not explore:
            return super().act(observation, explore)
        distribution, epsilon = self.distribution(observation), self.epsilon()
        slate = mix_slate(distribution.sample(self.generator), observation.mask, epsilon, self.generator)
        return Decision(slate, self._mixed(distribution, observation, slate, epsilon))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        """Return the probability of each slot's item given the slots before it, float64 [B, K]."""
        if not explore:
            return super().propensity(observation, slate, explore)
        return self._mixed(self.distribution(observation), observation, slate, self.epsilon())

    def _mixed(
        self, distribution: SlateDistribution, observation: Observation, slate: Tensor, epsilon: float
    ) -> Tensor:
        own = distribution.propensity(slate)
        return mix_propensity(epsilon, uniform_propensity(observation.mask, slate), own) if epsilon > 0 else own


class Rule(GreedyPolicy):
    """Shows the slate that a function of the observation and the slate size returns: a rule without learning."""

    def __init__(
        self,
        name: str,
        slate: Callable[[Observation, int], Tensor],
        slate_size: int,
        seed: int = 0,
        explore_floor: float = 0.0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(slate_size, seed, explore_floor, device)
        self.name = name
        self.slate = slate

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - rules have no optimism
        """Return the rule's slate."""
        return self.slate(observation, self.slate_size)


class Random:
    """Shows a uniform ordered slate without replacement."""

    name = "random"

    def __init__(self, slate_size: int, seed: int = 0, device: str | torch.device = "cpu") -> None:
        self.slate_size = slate_size
        self.generator = policy_generator(seed, torch.device(device))

    def act(self, observation: Observation, explore: bool = True) -> Decision:  # noqa: ARG002 - random either way
        """Choose a slate for every row."""
        slate = uniform_slate(observation.mask, self.slate_size, self.generator)
        return Decision(slate, uniform_propensity(observation.mask, slate))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:  # noqa: ARG002
        """Return 1 / (candidates left) for every slot, float64 [B, K]."""
        return uniform_propensity(observation.mask, slate)
