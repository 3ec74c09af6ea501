"""Sums over groups: exact while there are few, and right in the mean and in the variance when there are many."""

import math

import pytest
import torch

from slatewise.sums import GroupSums


def added(sums: GroupSums, terms: torch.Tensor, cluster: torch.Tensor, size: int) -> GroupSums:
    for start in range(0, len(terms), size):
        sums.add(terms[start : start + size], cluster[start : start + size])
    return sums


def test_few_clusters_are_kept_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    terms = torch.cat([torch.ones(1000, 1), torch.rand(1000, 2, generator=generator)], 1).double()
    cluster = torch.randint(-50, 50, (1000,), generator=generator) * 10**12
    table = added(GroupSums(), terms, cluster, 77).table
    ids, at = cluster.unique(return_inverse=True)
    expected = torch.zeros(len(ids), 3, dtype=torch.float64).index_add_(0, at, terms)
    order, wanted = table[:, 1].argsort(), expected[:, 1].argsort()
    torch.testing.assert_close(table[order], expected[wanted])


def test_the_ratio_and_its_error_are_those_of_the_formula() -> None:
    values = torch.tensor([[1.0, 2.0], [1.0, 4.0], [1.0, 9.0]], dtype=torch.float64)
    value, error = added(GroupSums(), values, torch.arange(3), 2).ratio(1, 0)
    assert value == pytest.approx(5)
    assert error == pytest.approx(float(values[:, 1].std()) / math.sqrt(3))


def test_many_clusters_share_groups_and_the_error_stays_right() -> None:
    """Clusters of two equal rows: the standard error is that of the clusters, within 4 × √(1 / 2G)."""
    generator = torch.Generator().manual_seed(1)
    reward = torch.randn(20_000, generator=generator, dtype=torch.float64).repeat_interleave(2)
    terms = torch.stack([torch.ones_like(reward), reward], 1)
    cluster = torch.arange(20_000).repeat_interleave(2)
    sums = added(GroupSums(groups=1024), terms, cluster, 999)
    assert sums.hashed
    assert len(sums.table) == 1024
    value, error = sums.ratio(1, 0)
    assert value == pytest.approx(float(reward.mean()))
    assert error == pytest.approx(float(reward[::2].std()) / math.sqrt(20_000), rel=4 / math.sqrt(2 * 1024))


def test_no_rows_have_no_mean() -> None:
    assert all(math.isnan(x) for x in GroupSums().ratio(1, 0))
