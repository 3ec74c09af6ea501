"""95 % intervals from how groups of decisions move an estimate.

Letters: G groups of decisions (users, sessions) that are independent of each other, E estimates. All functions take
any number of leading dimensions.
"""

import math

import numpy as np
import torch
from scipy.special import gammainc, gammaincinv, stdtrit
from torch import Tensor

from slatewise.off_policy.terms import Estimates

TAIL = 0.025
FEW = 100  # effective rewards below which the normal distribution misses 95 %
RARE = 1.1  # second moment over variance, at most, for rewards to be rare events
DRAWS = 1000
CHUNK_VALUES = 400_000  # resampling counts at a time: they stay in the processor's cache

Pair = tuple[Tensor, Tensor]


def standard_error(influence: Tensor) -> Tensor:
    """Return the standard error of each estimate, [..., E], NaN for fewer than two groups.

    influence: [..., G, E], sums to 0 (the sandwich of Liang & Zeger 1986, times G / (G − 1)).
    """
    groups = influence.shape[-2]
    if groups < 2:
        return torch.full_like(influence[..., 0, :], math.nan)
    return (influence.square().sum(-2) * groups / (groups - 1)).sqrt()


def student(groups: int) -> float:
    """Return the 97.5 % quantile of Student's t with G − 1 degrees of freedom."""
    return float(stdtrit(max(groups - 1, 1), 1 - TAIL))


def normal(estimates: Estimates) -> Pair:
    """Return value ± t standard errors, each [..., E]; t is Student's with G − 1 degrees of freedom."""
    reach = student(estimates.influence.shape[-2]) * standard_error(estimates.influence)
    return estimates.value - reach, estimates.value + reach


def effective_rewards(estimates: Estimates) -> Tensor:
    """Return how many equal rewards carry each estimate, [..., E].

    (Σ j)² / Σ j² over the parts j of the value that groups' rewards make, with one more: where nothing has yet come of
    the decisions that weigh most, that is not known either.
    """
    size = estimates.jumps.abs()
    more = torch.maximum(estimates.up, estimates.down)
    return (size.sum(-2) + more).square() / (size.square().sum(-2) + more.square()).clamp(min=1e-300)


def few_rewards(estimates: Estimates) -> Tensor:
    """Return which estimates hang on a few rare rewards, bool [..., E]: there `rare_events` takes over."""
    few = (estimates.up > 0) | (estimates.down > 0)
    few &= effective_rewards(estimates) < FEW
    for part in (estimates.jumps.clamp(min=0), estimates.jumps.clamp(max=0)):
        moment = part.square().sum(-2)
        few &= moment <= RARE * (moment - part.sum(-2).square() / part.shape[-2])
    return few


def rare_events(estimates: Estimates) -> Pair:
    """Return intervals for estimates that a few rare rewards make, each [..., E].

    Rare rewards come as a Poisson process, so their weighted sum has the mid-P gamma interval (Fay & Feuer 1997; Fay &
    Kim 2017): it allows for one more reward than was seen. The weight of that one is the mean weighted by shares in the
    variance, between the largest (Fay & Feuer) and the plain mean (Tiwari et al. 2006). Rewards that raise and that
    lower the estimate have an interval each, the rest (the model's part, the weights' noise) a normal one, and the
    three are put together by the method of variance estimates recovery (Zou & Donner 2008).
    """
    jumps, value = estimates.jumps, estimates.value
    more, less = jumps.clamp(min=0), (-jumps).clamp(min=0)
    rest = estimates.influence - jumps
    smooth = student(jumps.shape[-2]) * standard_error(rest - rest.mean(-2, keepdim=True))
    raised, lowered = more.sum(-2), less.sum(-2)
    raised_low, raised_high = gamma_interval(raised, more.square().sum(-2), estimates.up)
    lowered_low, lowered_high = gamma_interval(lowered, less.square().sum(-2), estimates.down)
    down = ((raised - raised_low).square() + (lowered_high - lowered).square() + smooth.square()).sqrt()
    up = ((raised_high - raised).square() + (lowered - lowered_low).square() + smooth.square()).sqrt()
    return value - down, value + up


def gamma_interval(total: Tensor, squares: Tensor, more: Tensor) -> Pair:
    """Return the mid-P gamma interval of the mean of a weighted sum of Poisson counts, each [...].

    total: Σ w x.  squares: Σ w² x.  more: the weight w' of one more.  Quantiles of an even mixture of the gamma
    distributions of mean and variance (Σ w x, Σ w² x) and (Σ w x + w', Σ w² x + w'²): Fay & Kim 2017.
    """
    y, v, w = (x.double().numpy() for x in (total, squares, more))

    def distribution(x: np.ndarray, extra: float) -> np.ndarray:
        mean, variance = y + extra * w, v + extra * w**2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(mean > 0, gammainc(mean**2 / variance, x * mean / variance), 1.0)

    def quantile(p: float) -> Tensor:
        mean, variance = y + w, v + w**2
        with np.errstate(divide="ignore", invalid="ignore"):
            high = np.where(mean > 0, variance / mean * gammaincinv(mean**2 / variance, 1 - (1 - p) / 2), 0.0)
        high, low = 2 * high, np.zeros_like(high)
        for _ in range(60):
            middle = (low + high) / 2
            below = (distribution(middle, 0.0) + distribution(middle, 1.0)) / 2 < p
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return torch.from_numpy(np.asarray((low + high) / 2))

    return quantile(TAIL), quantile(1 - TAIL)


def bootstrap(estimates: Estimates, seed: int = 0, draws: int = DRAWS) -> Pair:
    """Return studentised bootstrap intervals, each [E] (Efron & Tibshirani 1993, chapter 12).

    Each group is drawn a random number of times, independently, whose mean, variance and third central moment are those
    of resampling with replacement (1, the last to 1 %); all estimates and their standard errors are matrix products.
    influence: [G, E], no leading dimensions.
    """
    error = standard_error(estimates.influence)
    safe = torch.where(error > 0, error, 1.0)
    moved = estimates.influence / safe  # sums of resamples are in standard errors
    columns = torch.cat([moved, moved.square(), torch.ones_like(moved[:, :1])], 1).float().T.contiguous()
    generator, groups = np.random.default_rng(seed), columns.shape[1]
    step = max(1, CHUNK_VALUES // groups)
    sums = torch.cat(
        [columns @ _times_drawn(generator, groups, min(step, draws - at)) for at in range(0, draws, step)], 1
    ).double()
    first, second, number = sums.split([moved.shape[1], moved.shape[1], 1])
    spread = (second - first.square() / number.clamp(min=1)).clamp(min=1e-12).sqrt()
    low, high = (first / spread).quantile(torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64), 1)
    return estimates.value - high * error, estimates.value - low * error


OFTEN = (162, 68, 19, 6, 1)  # of 256 groups, how many are drawn more than 0, 1, 2, 3, 4 times: nearly Poisson of mean 1


def _times_drawn(generator: np.random.Generator, groups: int, draws: int) -> Tensor:
    """Return how often each group is in each resample, float32 [G, draws], from a random byte each."""
    size = groups * draws
    bits = generator.bit_generator.random_raw(-(-size // 8)).view(np.uint8)[:size]
    counts = np.zeros(size, np.uint8)
    for more in OFTEN:
        counts += bits < more
    return torch.from_numpy(counts).float().view(draws, groups).T


def empirical_bernstein(terms: Tensor, count: Tensor, low: Tensor, high: Tensor) -> Pair:
    """Return intervals for means of bounded terms that hold for any number of groups, each [..., E].

    Maurer & Pontil 2009, arXiv 0907.3740, theorem 4, at both ends. terms: [..., G, E], sums over groups.  count:
    [..., G], decisions of each group, taken as given.  low, high: [..., E], bounds of a single decision's term.
    """
    groups = terms.shape[-2]
    total = count.sum(-1)
    scaled = terms * groups / total.unsqueeze(-1).unsqueeze(-1)  # their mean over groups is the estimate
    largest = count.amax(-1) * groups / total
    span = (high.clamp(min=0) - low.clamp(max=0)) * largest.unsqueeze(-1)
    logarithm = math.log(2 / TAIL)
    variance = scaled.var(-2)
    reach = (2 * variance * logarithm / groups).sqrt() + 7 * span * logarithm / (3 * max(groups - 1, 1))
    mean = scaled.mean(-2)
    return mean - reach, mean + reach
