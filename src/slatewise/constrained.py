"""Policies under constraints: what they show, and how they explore, keeps to them, with exact propensities."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from slatewise.checks import usable_device
from slatewise.constraints import Constraints, Filling
from slatewise.drawing import first_shown, greedy_propensity, mix_propensity, uniform_first
from slatewise.interactions import Decision, Observation, SlatePolicy
from slatewise.policies import candidate_probabilities, policy_generator


class Constrained:
    """A policy held to constraints, its exploration too, with exact propensities.

    A policy that makes whole slates within limits (a method `greedy_within(observation, limits)`, as SlateQ has) shows
    these, and with probability ε, one coin a user, slots filled at random. Any other is asked slot by slot: a slot has
    the item that the policy, with its exploration, would show first of those that may come there, which for policies
    that rank items by scores is the best slate too. What may come is what a slate can still be completed after
    (`constraints.Filling`).

    `policy.observe` takes what came of these decisions, and the policy learns as ever. device: where observations are;
    None is where the policy is.
    """

    def __init__(
        self,
        policy: SlatePolicy,
        constraints: Constraints,
        seed: int = 0,
        device: str | torch.device | None = None,
    ) -> None:
        self.policy = policy
        self.constraints = constraints
        self.name = str(getattr(policy, "name", type(policy).__name__))
        self.slate_size = policy.slate_size
        self.device = usable_device(device or getattr(policy, "device", None) or "cpu")
        self.generator = policy_generator(seed, self.device)

    def act(self, observation: Observation, explore: bool = True) -> Decision:
        """Choose a slate for every row. Raises InputError for constraints that do not fit the observation."""
        start, slots = self._start(observation, self.slate_size), self.slate_size
        if not hasattr(self.policy, "greedy_within"):
            return Decision(*_filled(start, slots, partial(self._first, observation, explore), self.generator))
        greedy, epsilon = self._whole(observation, start, explore)
        random = _filled(start, slots, uniform_first, self.generator)[0] if epsilon > 0 else greedy
        coin = torch.rand(len(greedy), 1, generator=self.generator, device=greedy.device) < epsilon
        slate = torch.where(coin, random, greedy)
        return Decision(slate, _mixed_within(start, slate, greedy, epsilon))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        """Return the probability of each slot's item given the slots before it, float64 [B, K]."""
        start = self._start(observation, slate.shape[1])
        if not hasattr(self.policy, "greedy_within"):
            return _propensity(start, slate, partial(self._first, observation, explore))
        return _mixed_within(start, slate, *self._whole(observation, start, explore))

    def probabilities(self, observation: Observation, explore: bool = True) -> Tensor:
        """Return the probability of every candidate in the first slot, float64 [B, C]."""
        start = self._start(observation, self.slate_size)
        if not hasattr(self.policy, "greedy_within"):
            return self._first(observation, explore, start.at(0))
        greedy, epsilon = self._whole(observation, start, explore)
        one = torch.ones(len(greedy), 1, dtype=torch.float64, device=greedy.device)
        best = first_shown(greedy.unsqueeze(1), one, observation.item_ids.shape[1])
        return epsilon * uniform_first(start.at(0)) + (1 - epsilon) * best

    def _start(self, observation: Observation, slots: int) -> Filling:
        return Filling.of(observation.mask, self.constraints.on(observation.item_ids, slots), slots)

    def _whole(self, observation: Observation, start: Filling, explore: bool) -> tuple[Tensor, float]:
        """Return the slates that the policy prefers, and the probability of others."""
        policy = cast(Any, self.policy)
        return policy.greedy_within(observation, start.limits), policy.epsilon() if explore else 0.0

    def _first(self, observation: Observation, explore: bool, may: Tensor) -> Tensor:
        """Return the probability of every candidate to be shown first of those that may, float64 [B, C]."""
        some = may.any(1, keepdim=True)
        if int(may.sum(1).max()) <= 1:
            return may.double()
        shown = replace(observation, item_ids=observation.item_ids.masked_fill(~may & some, -1))
        return candidate_probabilities(self.policy, shown, explore) * some


def _filled(
    filling: Filling, slots: int, chance: Callable[[Tensor], Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw slates slot by slot; return them and their propensities. chance: of each candidate, given those that may."""
    slate, chances = list[Tensor](), list[Tensor]()
    for slot in range(slots):
        each = chance(filling.at(slot))
        some = each.sum(1, keepdim=True) > 0
        drawn = torch.where(some, each, 1.0).multinomial(1, generator=generator)
        slate.append(torch.where(some, drawn, -1))
        chances.append(_chance_of(slate[-1], each))
        filling = filling.take(slate[-1])
    return torch.cat(slate, 1), torch.cat(chances, 1)


def _propensity(filling: Filling, slate: Tensor, chance: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the propensities of slates that are drawn slot by slot."""
    chances = list[Tensor]()
    for slot, item in enumerate(slate.split(1, 1)):
        chances.append(_chance_of(item, chance(filling.at(slot))))
        filling = filling.take(item)
    return torch.cat(chances, 1)


def _mixed_within(filling: Filling, slate: Tensor, greedy: Tensor, epsilon: float) -> Tensor:
    """Return the propensities of the greedy slate or, with probability ε, one that is filled at random."""
    agreeing = greedy_propensity(greedy, slate)
    return mix_propensity(epsilon, _propensity(filling, slate, uniform_first), agreeing) if epsilon > 0 else agreeing


def _chance_of(item: Tensor, chance: Tensor) -> Tensor:
    """Return the probability of a candidate, −1 for a hole, [B, 1]: a hole is certain where nothing may come."""
    return torch.where(item >= 0, chance.gather(1, item.clamp(min=0)), (chance.sum(1, keepdim=True) <= 0).double())
