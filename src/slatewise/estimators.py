"""Off-policy estimators as pure functions of rewards, weights and predictions.

Letters: B decisions of a log, C candidates, K slots.  The weight of a decision is how much more likely the target
policy makes it than the logged one. Everything in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.errors import InputError

Weighting = Callable[[Tensor, float], Tensor]


def slate_weights(target: Tensor, logged: Tensor) -> Tensor:
    """Return the importance weight of each whole slate, Π target / Π logged, float64 [B].

    target, logged: [B, K], probability of each slot's item given the slots before it (1 for a hole).
    Raises InputError for shapes that differ or target propensities outside [0, 1].
    """
    if target.shape != logged.shape:
        raise InputError(f"target propensities are {list(target.shape)}, the logged ones {list(logged.shape)}")
    bad = ~((target >= 0) & (target <= 1 + 1e-9))
    if bool(bad.any()):
        row = int(bad.any(1).nonzero()[0])
        raise InputError(f"target propensity[{row}] is {target[row].tolist()}: a probability lies in [0, 1]")
    return (target.double() / logged.double()).prod(1)


def marginal_weights(target: Tensor, logged: Tensor, groups: Tensor, shown: Tensor) -> Tensor:
    """Return how much likelier the target makes the shown item's group, float64 [B]: MIPS's weights.

    The marginal importance weights of Saito & Joachims 2022, arXiv 2202.06317, the group being the embedding.
    target, logged: [B, C], probabilities of all candidates.  groups: int64 [B, C], the group of each candidate.
    shown: int64 [B].
    """
    same = groups == groups.gather(1, shown.unsqueeze(1))
    return (target * same).sum(1) / (logged * same).sum(1)


def unchanged(weights: Tensor, parameter: float) -> Tensor:  # noqa: ARG001 - the signature of all weightings
    """Return the weights as they are."""
    return weights


def clipped(weights: Tensor, limit: float) -> Tensor:
    """Return min(w, limit): truncated importance sampling (Ionides 2008)."""
    return weights.clamp(max=limit)


def switched(weights: Tensor, threshold: float) -> Tensor:
    """Return w where it is at most the threshold and 0 elsewhere (SWITCH: Wang et al. 2017, arXiv 1612.01205)."""
    return weights * (weights <= threshold)


def shrunk(weights: Tensor, shrinkage: float) -> Tensor:
    """Return λ w / (w² + λ), optimistic shrinkage (Su et al. 2020, arXiv 1907.09623)."""
    if math.isinf(shrinkage):
        return weights
    return (shrinkage * weights / (weights.square() + shrinkage)).nan_to_num(0.0)  # 0 / 0 where both are 0


@dataclass(frozen=True)
class Estimator:
    """A value from rewards r, weights w, and a model's rewards q of the logged action and q̄ under the target.

    The value is mean(q̄) + Σ w̃ (r − q) / B, with w̃ the weighting of w; q and q̄ are 0 unless `modelled`, and Σ w
    takes the place of B if `normalised`.  grid: values of the weighting's parameter to choose from.
    """

    source: str
    weighting: Weighting = unchanged
    modelled: bool = False
    normalised: bool = False
    grid: tuple[float, ...] = ()
    marginal: bool = False  # its weights are those of groups of items

    def value(
        self,
        reward: Tensor,
        weights: Tensor,
        predicted: Tensor | None = None,
        predicted_target: Tensor | None = None,
        parameter: float = math.inf,
    ) -> Tensor:
        """Return the estimate, float64 [...].

        reward, weights: [..., B].  predicted, predicted_target: [..., B], the model's reward of the logged action,
        and its mean under the target policy; needed where `modelled`.  parameter: of the weighting.
        """
        used = self.weighting(weights, parameter)
        rest, base = reward, 0.0
        if self.modelled:
            if predicted is None or predicted_target is None:
                raise InputError("this estimator needs a reward model's predictions: give predicted, predicted_target")
            rest, base = reward - predicted, predicted_target.mean(-1)
        scale = weights.sum(-1) if self.normalised else weights.shape[-1]
        return base + (used * rest).sum(-1) / scale


_LIMITS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0, math.inf)
_SQUARES = tuple(limit**2 for limit in _LIMITS)


def _no_weight(weights: Tensor, parameter: float) -> Tensor:  # noqa: ARG001 - the signature of all weightings
    return torch.zeros_like(weights)


ESTIMATORS: dict[str, Estimator] = {
    "IPS": Estimator("inverse propensity scoring: Horvitz & Thompson 1952"),
    "SNIPS": Estimator("self-normalised IPS: Swaminathan & Joachims 2015, NeurIPS", normalised=True),
    "cIPS": Estimator("IPS with clipped weights: Ionides 2008", clipped, grid=_LIMITS),
    "DM": Estimator("direct method, the model alone: Beygelzimer & Langford 2009", _no_weight, modelled=True),
    "DR": Estimator("doubly robust: Dudík, Langford & Li 2011, arXiv 1103.4601", modelled=True),
    "SNDR": Estimator("DR with weights of mean 1: Robins et al. 2007", modelled=True, normalised=True),
    "Switch-DR": Estimator("Wang et al. 2017, arXiv 1612.01205", switched, modelled=True, grid=_LIMITS),
    "DRos": Estimator("Su et al. 2020, arXiv 1907.09623", shrunk, modelled=True, grid=_SQUARES),
    "MIPS": Estimator("marginalised over groups: Saito & Joachims 2022, arXiv 2202.06317", marginal=True),
}
