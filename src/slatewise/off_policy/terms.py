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


@dataclass(frozen=True, eq=False)
class Solution:
    """What totals say of every choice.

    values: [..., E].  influence: [..., T, E], a linear map of sums.  scale: [..., E], what weighted rewards are divided
    by.
    """

    values: Tensor
    influence: Tensor
    scale: Tensor


class Terms:
    """The terms that are summed for one policy.

    Order: 1, q̄ (the model's reward under the policy) and w, then w̃ r for every weighting w̃, then w̃ q if there is a
    model.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.choices = choices(names)
        self.modelled = any(ESTIMATORS[name].modelled for name in names)
        self.positions = {
            name: [i for i, choice in enumerate(self.choices) if choice.name == name] for name in names
        }  # of an estimator among the choices; the last leaves weights as they are

    def __len__(self) -> int:
        return 3 + len(self.choices) * (2 if self.modelled else 1)

    @property
    def weighted(self) -> Tensor:
        """1 for choices that make anything of a reward's weight, 0 for the model alone, [E]."""
        one = torch.ones(1, dtype=torch.float64)
        return torch.cat([ESTIMATORS[choice.name].weighting(one, INFINITE) for choice in self.choices])

    def of(self, rows: Rows) -> Tensor:
        """Return the terms of decisions, [..., B, T]."""
        size, table = len(self.choices), rows.reward.new_zeros(len(self), *rows.reward.shape)  # term by term: fastest
        table[0], table[2] = 1, rows.weights
        if rows.predicted_target is not None:
            table[1] = rows.predicted_target
        for i, choice in enumerate(self.choices):
            used = self._weighting(choice, rows)
            table[3 + i] = used * rows.reward
            if rows.predicted is not None and self.modelled:
                table[3 + size + i] = used * rows.predicted
        return table.movedim(0, -1)

    def solve(self, totals: Tensor) -> Solution:
        """Return the values of all choices, and how sums move them, from the totals of all terms, [..., T].

        A value is Σ q̄ / n + Σ w̃ (r − q) / d, with d = n or Σ w: to first order a group of decisions moves it by
        (q̄ − n Σ q̄ / Σ n) / Σ n + (w̃ (r − q) − d' ρ) / d, with ρ the second ratio and d' the group's part of d.
        """
        size = len(self.choices)
        table = [ESTIMATORS[choice.name] for choice in self.choices]
        modelled, normalised = (
            torch.tensor([getattr(e, key) for e in table], dtype=torch.float64) for key in ("modelled", "normalised")
        )
        number, target, weights = (totals[..., i : i + 1] for i in range(3))
        above = totals[..., 3 : 3 + size]
        if self.modelled:
            above = above - modelled * totals[..., 3 + size :]
        scale = normalised * weights + (1 - normalised) * number
        base, rest = modelled * target / number, above / scale
        head = [-base / number - rest * (1 - normalised) / scale, modelled / number, -rest * normalised / scale]
        parts = [torch.stack(torch.broadcast_tensors(*head), -2), torch.diag_embed(1 / scale)]
        if self.modelled:
            parts.append(torch.diag_embed(-modelled / scale))
        return Solution(base + rest, torch.cat(parts, -2), scale)

    def estimates(
        self, table: Tensor, typical: Tensor, reward_range: tuple[float, float], positions: Sequence[int]
    ) -> Estimates:
        """Return the estimates at these positions of the choices.

        table: [..., G, T], sums over groups.  typical: [..., E], the weight of one more reward, for every choice.
        reward_range: the smallest and the largest reward.
        """
        at, found = list(positions), self.solve(table.sum(-2))
        scale = found.scale[..., at]
        up, down = one_more(typical[..., at] / scale, torch.zeros_like(scale), reward_range)
        jumps = table[..., [3 + i for i in at]] / scale.unsqueeze(-2)
        return Estimates(found.values[..., at], table @ found.influence[..., at], jumps, up, down)

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
