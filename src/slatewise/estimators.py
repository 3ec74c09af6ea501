"""Off-policy terms per decision: pure functions from rewards and propensities, and what their means are worth.

Letters: B decisions of a log, K slots.  The weight of a decision is how much more likely the target policy makes
it than the logged one. Everything in float64.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.errors import InputError

NORMAL_95 = 1.959963984540054  # 97.5 % quantile of the standard normal


def slate_weights(target: Tensor, logged: Tensor) -> Tensor:
    """Return the importance weight of each whole slate, Π target / Π logged, float64 [B].

    target, logged: [B, K], probability of each slot's item given the slots before it (1 for a hole).
    Raises InputError for shapes that differ or target propensities outside [0, 1].
    """
    if target.shape != logged.shape:
        raise InputError(f"target propensities are {list(target.shape)}, the logged ones {list(logged.shape)}")
    if bool((~((target >= 0) & (target <= 1 + 1e-9))).any()):
        row = int((~((target >= 0) & (target <= 1 + 1e-9))).any(1).nonzero()[0])
        raise InputError(f"target propensity[{row}] is {target[row].tolist()}: a probability lies in [0, 1]")
    return (target.double() / logged.double()).prod(1)


def ips_terms(reward: Tensor, weights: Tensor) -> Tensor:
    """Return w r, [B]: their mean is the value by inverse propensity scoring (Horvitz & Thompson 1952).

    Unbiased where the logged policy shows everything that the target may show.  reward, weights: [B].
    """
    return weights * reward


def snips_terms(reward: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return w r and w, each [B]: the ratio of their means is the self-normalised value.

    Biased by O(1 / B), less noisy, and unmoved by a constant added to all rewards (Swaminathan & Joachims 2015).
    """
    return weights * reward, weights


def dr_terms(reward: Tensor, weights: Tensor, predicted: Tensor, predicted_target: Tensor) -> Tensor:
    """Return q(target) + w (r − q(logged)), [B]: their mean is the doubly robust value (Dudík et al. 2011).

    Unbiased for any reward model that did not see the row; its noise is that of what the model leaves over.
    predicted: [B], the model's reward of the logged action.  predicted_target: [B], its mean under the target.
    """
    return predicted_target + weights * (reward - predicted)


def effective_sample_size(weights: Tensor) -> float:
    """Return (Σ w)² / Σ w² (Kish 1965): how many decisions of its own the target policy's estimate is worth."""
    squares = float(weights.square().sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value, and how each decision moves it.

    influence: [B], mean 0: what the value would fall by (times B) if that decision were left out, to first order.
    The difference of two estimates on the same decisions has the difference of their influences.
    """

    value: float
    influence: Tensor

    @staticmethod
    def of_mean(terms: Tensor) -> "Estimate":
        """Estimate a mean of terms [B]."""
        mean = terms.mean()
        return Estimate(float(mean), terms - mean)

    @staticmethod
    def of_ratio(numerator: Tensor, denominator: Tensor) -> "Estimate":
        """Estimate a ratio of means, each of terms [B], by the delta method."""
        scale = denominator.mean()
        value = numerator.mean() / scale
        return Estimate(float(value), (numerator - value * denominator) / scale)

    def minus(self, other: "Estimate") -> "Estimate":
        """Return the paired difference of two estimates on the same decisions."""
        return Estimate(self.value - other.value, self.influence - other.influence)

    def standard_error(self, cluster: Tensor) -> float:
        """Return the standard error of the value, NaN for fewer than two clusters.

        cluster: int64 [B], decisions of one user or session belong together: they may depend on each other in
        any way (the sandwich of Liang & Zeger 1986, times G / (G − 1) for G clusters).
        """
        _, at = cluster.unique(return_inverse=True)
        sums = torch.zeros(int(at.max()) + 1, dtype=torch.float64).index_add_(0, at, self.influence)
        if len(sums) < 2:
            return math.nan
        return math.sqrt(float(sums.square().sum()) * len(sums) / (len(sums) - 1)) / len(cluster)
