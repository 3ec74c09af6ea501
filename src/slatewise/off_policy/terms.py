"""From sums of terms to estimates: which terms are summed for a policy, and what estimators make of them.

Letters: T terms, G groups of decisions, E estimates. The functions take any number of leading dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.estimators import ESTIMATORS

INFINITE = float("inf")


@dataclass(frozen=True)
class Choice:
    """An estimator with the parameter of its weighting."""

    name: str
    parameter: float = INFINITE


def choices(names: Sequence[str]) -> list[Choice]:
    """Return every estimator with every parameter of its grid."""
    return [Choice(name, p) for name in names for p in ESTIMATORS[name].grid or (INFINITE,)]


@dataclass(frozen=True)
class Rows:
    """What is known of decisions, each float64 [..., B].  marginal: weights of groups of items, for MIPS."""

    reward: Tensor
    weights: Tensor
    predicted: Tensor | None = None
    predicted_target: Tensor | None = None
    marginal: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Estimates:
    """Values, and how each group of decisions moves them.

    value: [..., E].  influence: [..., G, E], sums to 0: what the value would fall by without the group, to first order.
    jumps: [..., G, E]: the part of the value that the group's rewards make.  up, down: [..., E], such a part, either
    way, of one more reward.
    """

    value: Tensor
    influence: Tensor
    jumps: Tensor
    up: Tensor
    down: Tensor

    def minus(self, other: "Estimates", up: Tensor, down: Tensor) -> "Estimates":
        """Return the paired differences of two sets of estimates on the same groups, with their own `up` and `down`."""
        jumps = self.jumps - other.jumps
        return Estimates(self.value - other.value, self.influence - other.influence, jumps, up, down)

    def __getitem__(self, index: Sequence[int]) -> "Estimates":
        """Return the estimates at these positions."""
        return Estimates(*(getattr(self, name)[..., list(index)] for name in self.__dataclass_fields__))

    @staticmethod
    def cat(parts: Sequence["Estimates"]) -> "Estimates":
        """Return the estimates of all parts."""
        return Estimates(*(torch.cat([getattr(p, n) for p in parts], -1) for n in Estimates.__dataclass_fields__))


class Terms:
    """The terms that are summed for one policy.

    Order: q̄ (the model's reward under the policy) and w, then w̃ r for every weighting w̃, then w̃ q if there is a model.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.choices = choices(names)
        self.modelled = any(ESTIMATORS[name].modelled for name in names)

    @property
    def weighted(self) -> Tensor:
        """1 for choices that make anything of a reward's weight, 0 for the model alone, [E]."""
        one = torch.ones(1, dtype=torch.float64)
        return torch.cat([ESTIMATORS[choice.name].weighting(one, INFINITE) for choice in self.choices])

    def __len__(self) -> int:
        return 2 + len(self.choices) * (2 if self.modelled else 1)

    def of(self, rows: Rows) -> Tensor:
        """Return the terms of decisions, [..., B, T]."""
        zero = torch.zeros_like(rows.reward)
        used = torch.stack([self._weighting(choice, rows) for choice in self.choices], -1)
        predicted = zero if rows.predicted is None else rows.predicted
        target = zero if rows.predicted_target is None else rows.predicted_target
        parts = [torch.stack([target, rows.weights], -1), used * rows.reward.unsqueeze(-1)]
        if self.modelled:
            parts.append(used * predicted.unsqueeze(-1))
        return torch.cat(parts, -1)

    def estimates(self, count: Tensor, sums: Tensor, typical: Tensor, reward_range: tuple[float, float]) -> Estimates:
        """Return the estimates of every choice.

        count: [..., G], decisions of each group.  sums: [..., G, T].  typical: [..., E], the weight of one more reward.
        reward_range: the smallest and the largest reward.
        """
        size = len(self.choices)
        table = [ESTIMATORS[choice.name] for choice in self.choices]
        modelled, normalised = (
            torch.tensor([getattr(e, key) for e in table], dtype=torch.float64) for key in ("modelled", "normalised")
        )
        target, weights, rewarded = sums[..., :1], sums[..., 1:2], sums[..., 2 : 2 + size]
        number = count.unsqueeze(-1)
        above = rewarded - modelled * sums[..., 2 + size :] if self.modelled else rewarded
        below = normalised * weights + (1 - normalised) * number
        total, scale = number.sum(-2), below.sum(-2)
        base = modelled * target.sum(-2) / total
        rest = above.sum(-2) / scale
        influence = (modelled * target - base.unsqueeze(-2) * number) / total.unsqueeze(-2)
        influence = influence + (above - rest.unsqueeze(-2) * below) / scale.unsqueeze(-2)
        up, down = one_more(typical / scale, torch.zeros_like(typical), reward_range)
        return Estimates(base + rest, influence, rewarded / scale.unsqueeze(-2), up, down)

    @staticmethod
    def _weighting(choice: Choice, rows: Rows) -> Tensor:
        estimator = ESTIMATORS[choice.name]
        weights = rows.weights
        if estimator.marginal:
            assert rows.marginal is not None
            weights = rows.marginal
        return estimator.weighting(weights, choice.parameter)


def one_more(more: Tensor, less: Tensor, reward_range: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return the parts, up and down, of one more reward: of the largest, whose factor is `more` or −`less`, [...]."""
    low, high = min(reward_range[0], 0.0), max(reward_range[1], 0.0)
    return torch.maximum(more * high, less * -low), torch.maximum(less * high, more * -low)


def mean_reward(count: Tensor, reward: Tensor, reward_range: tuple[float, float], estimates: int) -> Estimates:
    """Return what the logged policy earned, as so many equal estimates.  count, reward: [..., G]."""
    total = count.sum(-1, keepdim=True)
    value = reward.sum(-1, keepdim=True) / total
    influence = (reward - value * count) / total
    up, down = one_more(1 / total, torch.zeros_like(total), reward_range)
    parts = (value, influence.unsqueeze(-1), (reward / total).unsqueeze(-1), up, down)
    return Estimates(*(part.expand(*part.shape[:-1], estimates) for part in parts))
