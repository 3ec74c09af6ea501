"""Slates drawn uniformly, or by one of two policies, and how likely each of their slots was.

Slates are int64 [B, K] positions of candidates, −1 for a hole. Per-slot propensities are float64 [B, K],
conditional on the slots before; a hole has 1.
"""

import torch
from torch import Tensor


def uniform_slate(mask: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k distinct candidates in order, every ordered slate equally likely; holes where there are too few.

    One uniform a slot: the j-th is a rank among the candidates left, turned into a rank among all of them by
    stepping over those taken before, kept in ascending order.
    """
    left = mask.sum(1)
    uniforms = torch.rand(k, len(mask), generator=generator, device=mask.device)
    taken: list[Tensor] = []
    slots: list[Tensor] = []
    for j in range(k):
        room = left - j
        rank = (uniforms[j] * room).long().clamp_(max=room - 1)
        for earlier in taken:
            rank = rank + (rank >= earlier)
        slots.append(torch.where(room > 0, rank, -1))
        taken = _insert(taken, rank)
    ranks = torch.stack(slots, 1)
    if bool(mask.all()):
        return ranks
    position = torch.searchsorted(mask.cumsum(1), ranks.clamp(min=0) + 1)
    return torch.where(ranks >= 0, position, -1)


def _insert(ascending: list[Tensor], new: Tensor) -> list[Tensor]:
    """Insert into a list of tensors that ascends elementwise."""
    result: list[Tensor] = []
    for old in ascending:
        result.append(torch.minimum(old, new))
        new = torch.maximum(old, new)
    return [*result, new]


def uniform_propensity(mask: Tensor, slate: Tensor) -> Tensor:
    """Return 1 / (candidates left) for every slot of a uniform ordered slate, and 1 for a hole when none are left.

    What is never shown has 0: a masked candidate, or a hole while there are candidates. No item may be twice in a
    slate: simulations ask this at every step, so it is not looked for.
    """
    taken = torch.arange(slate.shape[1], device=slate.device)
    left = mask.sum(1, keepdim=True) - taken
    shown = mask.gather(1, slate.clamp(min=0)) / left.clamp(min=1).double()
    return torch.where(slate >= 0, shown, (left <= 0).double())


def uniform_first(mask: Tensor) -> Tensor:
    """Return the probability of every candidate in the first slot of a uniform slate, float64 [B, C]."""
    return mask / mask.sum(1, keepdim=True).clamp(min=1).double()


def first_shown(slates: Tensor, weights: Tensor, candidates: int) -> Tensor:
    """Return the weight of every candidate in the first slot of S slates a row, float64 [B, C].

    slates: int64 [B, S, K].  weights: float64 [B, S].
    """
    first = slates[:, :, 0]
    weights = torch.where(first >= 0, weights, 0.0)
    return weights.new_zeros(len(slates), candidates).scatter_add(1, first.clamp(min=0), weights)


def greedy_propensity(greedy: Tensor, slate: Tensor) -> Tensor:
    """Return 1 for slots that agree with a deterministic slate as far as it goes, else 0."""
    return (slate == greedy).cumprod(1).double()


def mix_propensity(share: float, first: Tensor, second: Tensor) -> Tensor:
    """Return per-slot propensities of a policy that follows `first` with probability `share`, else `second`.

    The coin is thrown once a slate, so a slot's conditional weighs the two policies by how likely each is to have
    shown the slots before it (Bayes): the ratio of the mixed prefix probabilities, without their underflow.
    After an impossible prefix it is 0.
    """
    weight = torch.full_like(first[:, 0], share)
    columns: list[Tensor] = []
    possible = torch.ones_like(weight)
    for j in range(first.shape[1]):
        mixed = weight * first[:, j] + (1 - weight) * second[:, j]
        columns.append((mixed * possible).clamp(max=1.0))
        possible = possible * (mixed > 0)
        weight = torch.where(mixed > 0, weight * first[:, j] / mixed, weight)
    return torch.stack(columns, 1)


def epsilon_slate(greedy: Tensor, mask: Tensor, epsilon: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Show the greedy slate, or with probability epsilon (one coin a user) a uniform one; and its propensity."""
    if epsilon <= 0:
        return greedy, torch.ones_like(greedy, dtype=torch.float64)
    slate = mix_slate(greedy, mask, epsilon, generator)
    return slate, epsilon_propensity(greedy, slate, mask, epsilon)


def mix_slate(slate: Tensor, mask: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Replace slates, with probability epsilon (one coin a user), by uniform ones."""
    if epsilon <= 0:
        return slate
    random = uniform_slate(mask, slate.shape[1], generator)
    coin = torch.rand(len(slate), 1, generator=generator, device=slate.device) < epsilon
    return torch.where(coin, random, slate)


def epsilon_propensity(greedy: Tensor, slate: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Return per-slot propensities of `epsilon_slate`."""
    agreeing = greedy_propensity(greedy, slate)
    if epsilon <= 0:
        return agreeing
    return mix_propensity(epsilon, uniform_propensity(mask, slate), agreeing)
