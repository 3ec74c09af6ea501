"""Aggregates over seeds against closed forms."""

import numpy as np
import pytest
import torch

import slatewise as sw
from slatewise.aggregates import aggregate, bootstrap, interquartile_mean


def test_the_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    assert float(interquartile_mean(torch.tensor([100.0, 2.0, 3.0, -50.0]))) == 2.5
    assert float(interquartile_mean(torch.tensor([7.0]))) == 7
    # n = 3: weights ¼, 1, ¼ of what is left after cutting ¾ at each end
    assert float(interquartile_mean(torch.tensor([0.0, 1.0, 8.0]))) == pytest.approx((0.25 * 0 + 1 + 0.25 * 8) / 1.5)
    many = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    middle = np.sort(many.double().numpy())[250:750]
    assert float(interquartile_mean(many)) == pytest.approx(middle.mean())


def test_bootstrap_intervals_of_a_mean_cover_it() -> None:
    """95 % of intervals should cover; 200 experiments have a standard error of 1.5 %, small samples lose a little."""
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for i in range(200):
        low, high = bootstrap(torch.randn(40, generator=generator), lambda v: v.mean(-1), draws=1000, seed=i)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_an_aggregate_keeps_its_runs_and_needs_one() -> None:
    result = aggregate([3.0, 1.0, 2.0])
    assert result.runs == (3.0, 1.0, 2.0)
    assert result.median == 2
    assert result.low <= result.interquartile_mean <= result.high
    with pytest.raises(sw.InputError, match="no runs to aggregate"):
        aggregate([])
