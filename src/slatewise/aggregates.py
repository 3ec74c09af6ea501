"""Statistics over seeds: a few independent runs, so robust means and honest intervals.

Source: Agarwal et al. 2021, arXiv 2108.13264.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.errors import InputError


@dataclass(frozen=True)
class Aggregate:
    """The interquartile mean of independent runs, its 95 % bootstrap interval, and the runs."""

    interquartile_mean: float
    low: float
    high: float
    median: float
    runs: tuple[float, ...]


def interquartile_mean(values: Tensor) -> Tensor:
    """Return the mean of the middle half of values [..., n], as [...]: a quarter of the weight is cut at each end.

    A value that a quarter ends within counts with the part that is left, so that any n works.
    """
    n = values.shape[-1]
    ordered = values.double().sort(-1).values
    edges = torch.arange(n + 1, dtype=torch.float64).clamp(n / 4, 3 * n / 4)
    weights = edges[1:] - edges[:-1]
    return (ordered * weights).sum(-1) / weights.sum()


def bootstrap(
    values: Tensor, statistic: Callable[[Tensor], Tensor], draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of independent values [n], resampled with replacement."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = statistic(values.double()[rows]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


def aggregate(runs: Sequence[float], seed: int = 0) -> Aggregate:
    """Aggregate the results of independent runs, one number each. Raises InputError without any."""
    if not runs:
        raise InputError("no runs to aggregate: give the result of at least one")
    values = torch.tensor(list(runs), dtype=torch.float64)
    low, high = bootstrap(values, interquartile_mean, seed=seed)
    return Aggregate(float(interquartile_mean(values)), low, high, float(values.quantile(0.5)), tuple(runs))
