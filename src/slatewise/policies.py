"""Policies that do not learn, and the exploration that they share with those that do."""

import hashlib
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from slatewise.checks import usable_device
from slatewise.drawing import (
    epsilon_propensity,
    epsilon_slate,
    first_shown,
    mix_propensity,
    mix_slate,
    uniform_first,
    uniform_propensity,
    uniform_slate,
)
from slatewise.errors import InputError, check_seed
from slatewise.interactions import Decision, Observation, Policy


def policy_generator(seed: int, device: torch.device) -> torch.Generator:
    """Return the generator of a policy: another stream than that of a world with the same seed.

    Raises InputError for a seed outside 0 … 2⁶³ − 1.
    """
    check_seed(seed)
    return torch.Generator(device).manual_seed((seed + 0x9E3779B97F4A7C15) % 2**63)


def continue_generator(generator: torch.Generator, state: Tensor) -> None:
    """Let a generator go on from a saved state, uint8 [n].

    The state of a generator of another kind of device does not fit: then it goes on from a seed that is made of it.
    """
    state = state.cpu()
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
    else:
        digest = hashlib.sha256(state.numpy().tobytes()).digest()
        generator.manual_seed(int.from_bytes(digest[:8]) % 2**63)


def candidate_probabilities(policy: Policy, observation: Observation, explore: bool) -> Tensor:
    """Return a policy's probability of every candidate as the only item shown, float64 [B, C]; 0 where masked.

    Asks `probabilities(observation, explore)` where the policy has that method, else `propensity` once a candidate;
    on the policy's device, where it has one, and answers on the observation's.
    Raises InputError for an answer of another shape.
    """
    mask = observation.mask
    if not knows_all(policy):
        return torch.stack([_probability(policy, observation, c, explore) for c in range(mask.shape[1])], 1)
    every = cast(Any, policy).probabilities(_where_it_is(policy, observation), explore)
    if every.shape != mask.shape:
        raise InputError(
            f"{type(policy).__name__}.probabilities gives {list(every.shape)} for {mask.shape[0]} rows of "
            f"{mask.shape[1]} candidates: return the probability of every candidate as the only item shown, [B, C]"
        )
    return torch.where(mask, every.to(mask.device, torch.float64), 0.0)


def knows_all(policy: Policy) -> bool:
    """Return whether `probabilities` speaks for a policy: not if a subclass has changed its `propensity` alone."""
    for kind in type(policy).__mro__:
        if "probabilities" in vars(kind):
            return True
        if "propensity" in vars(kind):
            return False
    return False


def _probability(policy: Policy, observation: Observation, candidate: int, explore: bool) -> Tensor:
    """Return the probability of one candidate as the only item shown, float64 [B]."""
    shown = observation.mask[:, candidate]
    rows = shown.nonzero().squeeze(1)
    if len(rows) == 0:
        return shown.double()
    everyone = len(rows) == len(shown)
    slate = torch.full_like(rows, candidate).unsqueeze(1)
    answer = asked_propensity(policy, observation if everyone else observation[rows], slate, explore)[:, 0]
    return answer if everyone else shown.double().index_copy(0, rows, answer)


def asked_propensity(policy: Policy, observation: Observation, slate: Tensor, explore: bool) -> Tensor:
    """Return what a policy says of slates, float64 [B, K], asked on its own device, where it has one.

    Raises InputError unless that is one number a slot.
    """
    shown = _where_it_is(policy, observation)
    answer = cast(Any, policy.propensity(shown, slate.to(shown.user.device), explore))  # may be anybody's code
    if not isinstance(answer, Tensor) or answer.shape != slate.shape:
        found = tuple(getattr(answer, "shape", ())) or "no shape"
        raise InputError(
            f"{type(policy).__name__}.propensity returned a {type(answer).__name__} of {found}: return a tensor of the "
            f"slate's shape, here {tuple(slate.shape)}, with a probability for every slot"
        )
    return answer.to(slate.device, torch.float64)


def _where_it_is(policy: Policy, observation: Observation) -> Observation:
    """Return an observation on the device of a policy that says which: a log is on the CPU, whoever is judged."""
    device = getattr(policy, "device", None)
    return observation if device is None or device == observation.user.device else observation.to(device)


def explored(probabilities: Tensor, observation: Observation, epsilon: float) -> Tensor:
    """Return probabilities in the first slot, [B, C], where with probability ε a uniform slate is shown instead."""
    if epsilon <= 0:
        return probabilities
    return epsilon * uniform_first(observation.mask) + (1 - epsilon) * probabilities


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
        self.device = usable_device(device)
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

    def probabilities(self, observation: Observation, explore: bool = True) -> Tensor:
        """Return the probability of every candidate in the first slot, float64 [B, C]: `propensity` of all at once."""
        greedy = self.greedy(observation, explore)
        one = torch.ones(len(greedy), 1, dtype=torch.float64, device=greedy.device)
        shown = first_shown(greedy.unsqueeze(1), one, observation.item_ids.shape[1])
        return explored(shown, observation, self.epsilon() if explore else 0.0)


class SlateDistribution(Protocol):
    """What a policy draws its slates from, one distribution a row."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw a slate for every row, int64 [B, K]."""
        ...

    def propensity(self, slate: Tensor) -> Tensor:
        """Return the probability of each slot's item given the slots before it, float64 [B, K]."""
        ...

    def first(self) -> Tensor:
        """Return the probability of every candidate in the first slot, float64 [B, C]."""
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

    def probabilities(self, observation: Observation, explore: bool = True) -> Tensor:
        """Return the probability of every candidate in the first slot, float64 [B, C]: `propensity` of all at once."""
        if not explore:
            return super().probabilities(observation, explore)
        return explored(self.distribution(observation).first(), observation, self.epsilon())

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
        self.device = usable_device(device)
        self.generator = policy_generator(seed, self.device)

    def act(self, observation: Observation, explore: bool = True) -> Decision:  # noqa: ARG002 - random either way
        """Choose a slate for every row."""
        slate = uniform_slate(observation.mask, self.slate_size, self.generator)
        return Decision(slate, uniform_propensity(observation.mask, slate))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:  # noqa: ARG002
        """Return 1 / (candidates left) for every slot, float64 [B, K]."""
        return uniform_propensity(observation.mask, slate)

    def probabilities(self, observation: Observation, explore: bool = True) -> Tensor:  # noqa: ARG002
        """Return 1 / (number of candidates) for every candidate, float64 [B, C]."""
        return uniform_first(observation.mask)
