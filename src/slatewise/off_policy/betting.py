"""Intervals that hold at all times at once, by betting: how much could be won against a wrong value?

A bettor who doubts that terms x ≥ 0 have mean m stakes a share f of the capital at every decision, at odds that are
fair if m is right: the capital is multiplied by 1 + f (x / m − 1). If m is right, capital is a martingale, and
reaches 1 / α at any time with probability α at most (Ville's inequality), however often one looks. The capital is
spread over many shares f (grid Kelly: Waudby-Smith & Ramdas 2024, arXiv 2010.09686; off-policy terms without a bound on
weights: Waudby-Smith et al. 2022, arXiv 2210.10768). Where there is a bound on x, half of it is bet on how far x lies
below, which is far sharper when rewards are few.

Bets of fixed shares do not depend on the order of terms, so a histogram of them is all that is kept. A term between
two edges is split between them so that its mean is kept; as the logarithm of the factor is concave in x, this can only
lower the capital: the interval stays valid.
"""

import math

import numpy as np
import torch
from torch import Tensor

SHARES = torch.logspace(-6.5, math.log10(0.95), 48, dtype=torch.float64)
FINE = 0.01  # relative distance of edges
SMALL = 1 / math.sinh(7.6)  # below this the edges are equidistant; 1 is an edge
EDGES = 3400  # the last is 6e11


class Bets:
    """A histogram of terms that are at least 0, in fixed memory.  Terms beyond 6e11 count as that."""

    def __init__(self) -> None:
        self.edges = SMALL * torch.sinh(FINE * torch.arange(EDGES + 1, dtype=torch.float64))
        self.mass = torch.zeros_like(self.edges)

    def add(self, terms: Tensor) -> None:
        """Take in terms, float64 [B]."""
        x = terms.clamp(0.0, float(self.edges[-1]))
        left = (torch.asinh(x / SMALL) / FINE).long().clamp(max=EDGES - 1)
        share = ((x - self.edges[left]) / (self.edges[left + 1] - self.edges[left])).clamp(0, 1)
        self.mass.index_add_(0, left, 1 - share).index_add_(0, left + 1, share)

    def seen(self) -> tuple[Tensor, Tensor]:
        """Return the edges that have any mass, and it."""
        used = self.mass > 0
        return self.edges[used], self.mass[used]


def log_capital(terms: Tensor, mass: Tensor, mean: float) -> Tensor:
    """Return the logarithm of the capital won against a mean, [...], after terms [..., B] that occur `mass` times."""
    odds = (terms / mean - 1).clamp(min=-1.05)  # an edge may lie a hundredth beyond its terms
    won = torch.stack([(mass * torch.log1p(share * odds)).sum(-1) for share in SHARES], -1)
    return won.logsumexp(-1) - math.log(len(SHARES))


def lower_bound(bets: Bets, mirror: Bets, total: float, alpha: float, largest: float | None) -> float:
    """Return the largest mean that is refuted: the true one lies above it, at all times, but with probability α.

    mirror: terms whose mean is `total` less that of the bets.  largest: none of these can lie above it, if known.
    """
    (edges, mass), (others, weight) = bets.seen(), mirror.seen()
    low, high = 0.0, total
    for _ in range(36):
        middle = (low + high) / 2
        won = float(log_capital(edges, mass, middle))
        if largest is not None and largest > total:
            below = float(log_capital(largest - others, weight, largest - total + middle))
            won = float(np.logaddexp(won, below)) - math.log(2)
        low, high = (middle, high) if won >= -math.log(alpha) else (low, middle)
    return low


class ValueBets:
    """What bounds the value of a policy, and its difference to what was logged, by IPS, at all times.

    reward_range: no reward can lie outside.  With the reward scaled to r in [0, 1], w r bounds the value from below
    and w (1 − r) from above; w r − r + 1 and w (1 − r) − (1 − r) + 1 bound the difference.
    """

    def __init__(self, reward_range: tuple[float, float]) -> None:
        self.least, self.span = reward_range[0], reward_range[1] - reward_range[0]
        self._value = Bets(), Bets()
        self._difference = Bets(), Bets()

    def add(self, reward: Tensor, weights: Tensor) -> None:
        """Take in decisions: rewards and weights, float64 [B]."""
        scaled = (reward - self.least) / self.span
        for part, value, difference in zip((scaled, 1 - scaled), self._value, self._difference, strict=True):
            value.add(weights * part)
            difference.add(weights * part - part + 1)

    def value(self, alpha: float, largest: float | None = None) -> tuple[float, float]:
        """Return the interval of the value.  largest: possible weight, if known."""
        low, high = self._ends(self._value, 1.0, alpha, largest)
        return self.least + self.span * low, self.least + self.span * (1 - high)

    def difference(self, alpha: float, largest: float | None = None) -> tuple[float, float]:
        """Return the interval of the difference to the mean reward of the logged policy."""
        low, high = self._ends(self._difference, 2.0, alpha, largest)
        return self.span * (low - 1), self.span * (1 - high)

    @staticmethod
    def _ends(pair: tuple[Bets, Bets], total: float, alpha: float, largest: float | None) -> tuple[float, float]:
        one, other = pair
        return (
            lower_bound(one, other, total, alpha / 2, largest),
            lower_bound(other, one, total, alpha / 2, largest),
        )
