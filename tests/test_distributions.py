"""Distributions over slates: by enumeration they sum to 1, and what is drawn has the frequencies that they say."""

from itertools import permutations

import pytest
import torch

from slatewise.distributions import InverseGap, Softmax, Votes

DRAWS = 40_000


def distribution(kind: str, rows: int = 1) -> Votes | Softmax | InverseGap:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(rows, -1)
    mask = torch.tensor([[True, True, True, True]]).expand(rows, -1)
    if kind == "votes":
        slates = torch.stack([torch.randperm(4, generator=generator)[:3] for _ in range(7)])
        return Votes(slates.expand(rows, -1, -1), 4)
    return Softmax(values, mask, 3) if kind == "softmax" else InverseGap(values, mask, 3, rate=5.0)


@pytest.mark.parametrize("kind", ["votes", "softmax", "inverse gap"])
def test_what_is_drawn_has_the_frequencies_that_it_says(kind: str) -> None:
    slates = torch.tensor(list(permutations(range(4), 3)))
    chance = distribution(kind, len(slates)).propensity(slates).prod(1)
    assert float(chance.sum()) == pytest.approx(1)
    drawn = distribution(kind, DRAWS).sample(torch.Generator().manual_seed(1))
    index = (drawn.unsqueeze(1) == slates).all(2).int().argmax(1)
    share = torch.bincount(index, minlength=len(slates)) / DRAWS
    error = (chance * (1 - chance) / DRAWS).sqrt()
    assert bool(((share - chance).abs() <= 4.5 * error + 1e-12).all())


@pytest.mark.parametrize("kind", ["votes", "softmax", "inverse gap"])
def test_the_first_slot_of_all_candidates_is_that_of_one(kind: str) -> None:
    slates = torch.stack([torch.arange(4).roll(-c)[:3] for c in range(4)])
    chance = distribution(kind, 4)
    assert torch.allclose(chance.first().diagonal(), chance.propensity(slates)[:, 0], rtol=0, atol=1e-12)
    assert float(chance.first()[0].sum()) == pytest.approx(1)


def test_inverse_gap_weighting_is_its_formula() -> None:
    values = torch.tensor([[0.2, 0.9, 0.5]], dtype=torch.float64)
    first = InverseGap(values, torch.ones(1, 3, dtype=torch.bool), 1, rate=10.0)
    chance = [float(first.propensity(torch.tensor([[item]]))) for item in range(3)]
    assert chance[0] == pytest.approx(1 / (3 + 10 * 0.7))
    assert chance[2] == pytest.approx(1 / (3 + 10 * 0.4))
    assert sum(chance) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["softmax", "inverse gap"])
def test_holes_are_certain_where_nobody_is_left(kind: str) -> None:
    values, mask = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([[False, True, False, True]])
    made = Softmax(values, mask, 3) if kind == "softmax" else InverseGap(values, mask, 3, rate=1.0)
    slate = made.sample(torch.Generator().manual_seed(0))
    assert sorted(slate[0].tolist()) == [-1, 1, 3]
    assert made.propensity(slate)[0, 2] == 1
    assert made.propensity(torch.tensor([[1, -1, 3]]))[0, 1] == 0
