import math
from collections.abc import Iterator
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slatewise.choice import ExponentialCascade, FirstPosition, InnerProduct, Logit, Proportional
from slatewise.constraints import Constraints
from slatewise.distributions import sample_slate, softmax_propensity
from slatewise.drawing import (
    epsilon_propensity,
    epsilon_slate,
    greedy_propensity,
    mix_propensity,
    uniform_propensity,
    uniform_slate,
)
from slatewise.errors import InputError
from slatewise.interactions import Observation
from slatewise.slates import best_slate, slate_value, top_candidates, top_k, top_k_slate

CHOICES = [Logit(InnerProduct(1), no_click=0.5), Proportional(InnerProduct(1), no_click=0.75), FirstPosition()]
each_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda c: c.name)
MASKS = {
    "all": [True, True, True, True],
    "one masked": [True, False, True, True],
    "two masked": [False, True, False, True],
    "one left": [False, False, True, False],
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


def ordered_slates(mask: list[bool], k: int) -> list[tuple[int, ...]]:
    """Return every full ordered slate, padded with holes where there are fewer than k candidates."""
    shown = [i for i, may in enumerate(mask) if may]
    holes = (-1,) * (k - len(shown))
    return [slate + holes for slate in permutations(shown, min(k, len(shown)))]


def rows_of(mask: list[bool], rows: int) -> torch.Tensor:
    return torch.tensor(mask).expand(rows, len(mask))


def expected_value(choice, scores: np.ndarray, values: np.ndarray, nothing: float, slate: tuple[int, ...]) -> float:
    """Return the expected value of one slate from the formulas, in plain float64."""
    shown = [i for i in slate if i >= 0]
    if isinstance(choice, FirstPosition):
        return values[shown[0]] if shown else nothing
    if isinstance(choice, Logit):
        items, none = [math.exp(scores[i]) for i in shown], math.exp(choice.no_click)
    else:
        items, none = [max(scores[i] + choice.shift, 0.0) for i in shown], choice.no_click
    total = sum(w * values[i] for w, i in zip(items, shown, strict=True)) + none * nothing
    return total / (sum(items) + none)


@st.composite
def problems(draw) -> tuple[torch.Tensor, torch.Tensor, float, list[bool], int]:
    count = draw(st.integers(1, 6))
    number = st.floats(-3, 3, width=32)
    scores = draw(st.lists(number, min_size=count, max_size=count))
    values = draw(st.lists(st.floats(-10, 10, width=32), min_size=count, max_size=count))
    mask = draw(st.lists(st.booleans(), min_size=count, max_size=count).filter(any))
    return (
        torch.tensor([scores]),
        torch.tensor([values]),
        draw(st.floats(-10, 10, width=32)),
        mask,
        draw(st.integers(1, 4)),
    )


@each_choice
@given(problem=problems())
def test_the_best_slate_is_the_best_of_all_slates(choice, problem) -> None:
    scores, values, nothing, mask, k = problem
    slate, value = best_slate(choice, scores, values, torch.tensor([nothing]), torch.tensor([mask]), k)
    slates = ordered_slates(mask, k)
    plain = scores[0].double().numpy(), values[0].double().numpy(), nothing
    best = max(expected_value(choice, *plain, other) for other in slates)
    assert sorted(slate[0].tolist()) in [sorted(other) for other in slates]
    assert expected_value(choice, *plain, tuple(slate[0].tolist())) == pytest.approx(best, abs=1e-4)
    assert float(value) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("choice", CHOICES[:2], ids=lambda c: c.name)
def test_the_best_pair_among_many_of_very_different_weight(choice) -> None:
    """Problems that the first few rates do not solve: all 780 pairs of 40 candidates, 500 rows."""
    generator = torch.Generator().manual_seed(6)
    scores = 4 * torch.randn(500, 40, generator=generator, dtype=torch.float64)
    values = 10 * torch.randn(500, 40, generator=generator, dtype=torch.float64)
    nothing, mask = torch.full((500,), -50.0).double(), torch.ones(500, 40, dtype=torch.bool)
    slate, value = best_slate(choice, scores, values, nothing, mask, 2)
    weights = scores.exp() if isinstance(choice, Logit) else (scores + choice.shift).clamp(min=0)
    none = math.exp(choice.no_click) if isinstance(choice, Logit) else choice.no_click
    one, other = torch.combinations(torch.arange(40), 2).T
    earned = weights * values
    totals = earned[:, one] + earned[:, other] + none * nothing.unsqueeze(1)
    every = totals / (weights[:, one] + weights[:, other] + none)
    torch.testing.assert_close(value, every.amax(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slate_value(choice, scores, values, nothing, slate), value)


@each_choice
def test_the_value_of_a_slate_is_its_expectation(choice) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, values = torch.randn(1, 4, generator=generator), torch.randn(1, 4, generator=generator)
    plain = scores[0].double().numpy(), values[0].double().numpy(), 0.7
    for slate in [*permutations(range(4), 2), (3, -1), (-1, -1)]:
        found = slate_value(choice, scores, values, torch.tensor([0.7]), torch.tensor([slate]))
        assert float(found) == pytest.approx(expected_value(choice, *plain, slate), abs=1e-5)


@each_choice
def test_a_batch_of_best_slates_is_its_rows_one_by_one(choice) -> None:
    generator = torch.Generator().manual_seed(1)
    scores, values = torch.randn(64, 8, generator=generator), torch.randn(64, 8, generator=generator)
    nothing, mask = torch.randn(64, generator=generator), torch.rand(64, 8, generator=generator) < 0.6
    together, value = best_slate(choice, scores, values, nothing, mask, 3)
    for row in range(64):
        at = slice(row, row + 1)
        alone, worth = best_slate(choice, scores[at], values[at], nothing[at], mask[at], 3)
        assert together[row].tolist() == alone[0].tolist()
        assert float(value[row]) == pytest.approx(float(worth), abs=1e-6)


@each_choice
def test_permuting_candidates_permutes_the_best_slate(choice) -> None:
    generator = torch.Generator().manual_seed(2)
    # Above −1, so that no weight of the proportional model is 0: those items would tie.
    scores, values = torch.rand(50, 7, generator=generator), torch.randn(50, 7, generator=generator)
    nothing, mask = torch.randn(50, generator=generator), torch.rand(50, 7, generator=generator) < 0.8
    order = torch.randperm(7, generator=generator)
    slate, value = best_slate(choice, scores, values, nothing, mask, 3)
    moved, same = best_slate(choice, scores[:, order], values[:, order], nothing, mask[:, order], 3)
    back = torch.where(moved >= 0, order[moved.clamp(min=0)], -1)
    # A multinomial slate is a set: what is best is the set, whichever slot an item has.
    if isinstance(choice, FirstPosition):
        assert torch.equal(back, slate)
    assert torch.equal(back.sort(1).values, slate.sort(1).values)
    torch.testing.assert_close(value, same, rtol=0, atol=1e-6)


def test_a_masked_candidate_cannot_spoil_the_best_slate() -> None:
    """Masked candidates carry the score of catalogue row 0, whatever that is."""
    scores, values = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[5.0, 2.0, 1.0]])
    slate, value = best_slate(
        Logit(InnerProduct(1)), scores, values, torch.zeros(1), torch.tensor([[False, True, True]]), 1
    )
    assert slate.tolist() == [[1]]
    assert float(value) == pytest.approx(2 / (1 + math.e), abs=1e-6)


def test_an_overwhelming_candidate_of_no_value_is_left_out() -> None:
    """Without the first item the slate earns 1 · 2 / (2 + e), with it −1."""
    scores, values = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[-1.0, 1.0, 1.0]])
    slate, value = best_slate(
        Logit(InnerProduct(1)), scores, values, torch.zeros(1), torch.ones(1, 3, dtype=torch.bool), 2
    )
    assert sorted(slate[0].tolist()) == [1, 2]
    assert float(value) == pytest.approx(2 / (2 + math.e), abs=1e-6)


@pytest.mark.parametrize("limited", [False, True], ids=["free", "limited"])
@pytest.mark.parametrize("no_click", [1.0, -50.0])
@pytest.mark.parametrize("deviation", [20, 40])
def test_the_best_slate_among_items_that_outweigh_each_other_beyond_rounding(
    deviation: float, no_click: float, limited: bool
) -> None:
    """An item that outweighs all others by more than 2⁵³ makes the rate its own value, and must be able to go."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(500, 7, generator=generator) * deviation
    values, nothing = torch.randn(500, 7, generator=generator), torch.randn(500, generator=generator)
    example = [35, 26.7, 71.1, -33.2, 21.6, 19.3, -90], [2.46, 1.44, 1.71, -0.48, 6.88, 1.31, -9]
    scores[0], values[0], nothing[0] = *map(torch.tensor, example), -3.27
    items = torch.arange(7).expand(500, 7)
    limits = Constraints([0, 0, 0, 1, 1, 1, 2], at_most={0: 1}).on(items, 3) if limited else None
    choice = Logit(InnerProduct(1), no_click)
    slate, value = best_slate(choice, scores, values, nothing, torch.ones(500, 7, dtype=torch.bool), 3, limits)

    every = torch.tensor([s for s in combinations(range(7), 3) if not limited or sum(i < 3 for i in s) <= 1])
    none = torch.full((500, len(every), 1), no_click)
    chances = torch.cat([scores[:, every], none], 2).double().softmax(2)
    worth = (chances * torch.cat([values[:, every], nothing.view(-1, 1, 1).expand_as(none)], 2)).sum(2)
    found = (slate.sort(1).values.unsqueeze(1) == every).all(2).int().argmax(1, keepdim=True)
    assert torch.allclose(worth.gather(1, found).squeeze(1), worth.amax(1), rtol=0, atol=1e-12)
    assert torch.allclose(value.double(), worth.amax(1), atol=1e-5)


def test_a_choice_model_without_an_exact_slate_is_refused() -> None:
    class Odd:
        name = "odd"

    ones = torch.ones(1, 2)
    with pytest.raises(InputError, match="choice model 'odd': use logit, proportional"):
        best_slate(Odd(), ones, ones, torch.zeros(1), ones.bool(), 1)


@given(
    values=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6, unique=True),
    bits=st.integers(0, 63),
    k=st.integers(1, 8),
)
def test_top_k_is_a_sort_of_what_may_be_shown(values: list[float], bits: int, k: int) -> None:
    mask = [bool(bits >> i & 1) for i in range(len(values))]
    best = sorted((i for i, may in enumerate(mask) if may), key=lambda i: -values[i])[:k]
    expected = best + [-1] * (k - len(best))
    assert top_k(torch.tensor([values]), torch.tensor([mask]), k).tolist() == [expected]


@given(order=st.permutations(range(6)), bits=st.integers(0, 63), k=st.integers(1, 6))
def test_permuting_candidates_permutes_the_top_k(order: list[int], bits: int, k: int) -> None:
    values = torch.tensor([[0.5, -1.0, 2.0, 7.0, -3.0, 0.0]])
    mask = torch.tensor([[bool(bits >> i & 1) for i in range(6)]])
    moved = top_k(values[:, order], mask[:, order], k)[0].tolist()
    assert [order[i] if i >= 0 else -1 for i in moved] == top_k(values, mask, k)[0].tolist()


def frequencies(slates: torch.Tensor) -> dict[tuple[int, ...], int]:
    unique, counts = slates.unique(dim=0, return_counts=True)
    return {tuple(slate): count for slate, count in zip(unique.tolist(), counts.tolist(), strict=True)}


def assert_frequencies(slates: torch.Tensor, probability: dict[tuple[int, ...], float]) -> None:
    """Every slate within 4.5 standard errors of its probability, and no other slate drawn."""
    found, draws = frequencies(slates), len(slates)
    assert set(found) <= {slate for slate, p in probability.items() if p > 0}
    assert sum(probability.values()) == pytest.approx(1.0, abs=1e-12)
    for slate, p in probability.items():
        assert abs(found.get(slate, 0) / draws - p) <= 4.5 * math.sqrt(p * (1 - p) / draws) + 1e-12, slate


@each_mask
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_ordered_slate_is_equally_likely(mask: list[bool], k: int) -> None:
    slates = uniform_slate(rows_of(mask, 60_000), k, torch.Generator().manual_seed(k))
    possible = ordered_slates(mask, k)
    assert_frequencies(slates, dict.fromkeys(possible, 1 / len(possible)))


def test_uniform_slates_have_the_masks_of_their_own_rows() -> None:
    masks = list(MASKS.values())
    slates = uniform_slate(torch.tensor(masks).repeat(2_000, 1), 3, torch.Generator().manual_seed(0))
    for row, mask in enumerate(masks):
        possible = ordered_slates(mask, 3)
        assert_frequencies(slates[row :: len(masks)], dict.fromkeys(possible, 1 / len(possible)))


def probabilities_of(possible: list[tuple[int, ...]], propensity: torch.Tensor) -> dict[tuple[int, ...], float]:
    assert propensity.dtype == torch.float64
    assert bool(((propensity >= 0) & (propensity <= 1)).all())
    return dict(zip(possible, propensity.prod(1).tolist(), strict=True))


@each_mask
@pytest.mark.parametrize("k", [1, 2, 3])
def test_uniform_propensity_is_one_over_the_number_of_slates(mask: list[bool], k: int) -> None:
    possible = ordered_slates(mask, k)
    propensity = uniform_propensity(rows_of(mask, len(possible)), torch.tensor(possible))
    for p in probabilities_of(possible, propensity).values():
        assert p == pytest.approx(1 / len(possible), rel=1e-12)
    assert bool((propensity[torch.tensor(possible) < 0] == 1).all())


@each_mask
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_slates_have_their_propensities_as_frequencies(mask: list[bool], k: int, epsilon: float) -> None:
    draws = 40_000
    shown = rows_of(mask, draws)
    greedy = top_k(torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(draws, 4), shown, k)
    slates, logged = epsilon_slate(greedy, shown, epsilon, torch.Generator().manual_seed(7))
    possible = ordered_slates(mask, k)
    propensity = epsilon_propensity(
        greedy[: len(possible)], torch.tensor(possible), rows_of(mask, len(possible)), epsilon
    )
    probability = probabilities_of(possible, propensity)
    assert_frequencies(slates, probability)
    best = tuple(greedy[0].tolist())
    for slate in possible:
        assert probability[slate] == pytest.approx(epsilon / len(possible) + (1 - epsilon) * (slate == best), abs=1e-12)
    assert torch.equal(logged, epsilon_propensity(greedy, slates, shown, epsilon))


def test_epsilon_conditionals_are_ratios_of_prefixes() -> None:
    """Three candidates, greedy (0, 1), ε = 0.3: the first slot 0 has 0.7 + 0.1, then 1 has 0.7 + 0.05 in all."""
    mask, greedy = rows_of([True, True, True], 3), torch.tensor([[0, 1]]).expand(3, 2)
    found = epsilon_propensity(greedy, torch.tensor([[0, 1], [0, 2], [2, 0]]), mask, 0.3)
    expected = [[0.8, 0.75 / 0.8], [0.8, 0.05 / 0.8], [0.1, 0.5]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_propensities_of_long_slates_do_not_underflow() -> None:
    """100 of 10,000 candidates: a slate has probability 1e-400, its conditionals are ordinary numbers."""
    mask = torch.ones(8, 10_000, dtype=torch.bool)
    greedy = top_k(torch.rand(8, 10_000, generator=torch.Generator().manual_seed(0)), mask, 100)
    slate, propensity = epsilon_slate(greedy, mask, 1.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(propensity, uniform_propensity(mask, slate), rtol=1e-9, atol=0)


def test_greedy_propensity_stops_at_the_first_difference() -> None:
    greedy = torch.tensor([[2, 0, 1]]).expand(4, 3)
    found = greedy_propensity(greedy, torch.tensor([[2, 0, 1], [2, 1, 0], [0, 2, 1], [2, 0, 3]]))
    assert found.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]


@each_mask
def test_a_mixture_of_policies_has_the_mixed_probabilities(mask: list[bool]) -> None:
    possible = ordered_slates(mask, 3)
    rows = rows_of(mask, len(possible))
    first = softmax_propensity(torch.tensor([[1.0, 0.0, -1.0, 2.0]]).expand(rows.shape), rows, torch.tensor(possible))
    second = softmax_propensity(torch.tensor([[0.0, 3.0, 1.0, 0.5]]).expand(rows.shape), rows, torch.tensor(possible))
    mixed = probabilities_of(possible, mix_propensity(0.2, first, second))
    for slate, one, two in zip(possible, first.prod(1).tolist(), second.prod(1).tolist(), strict=True):
        assert mixed[slate] == pytest.approx(0.2 * one + 0.8 * two, rel=1e-12)


def plackett_luce(logits: list[float], mask: list[bool], slate: tuple[int, ...]) -> Iterator[float]:
    """Yield the conditional probability of each slot by its definition."""
    left = {i: math.exp(logits[i]) for i, may in enumerate(mask) if may}
    for i in slate:
        if i < 0:
            yield 1.0
        else:
            yield left[i] / sum(left.values())
            del left[i]


@each_mask
@pytest.mark.parametrize("k", [1, 2, 3])
def test_softmax_sampling_is_plackett_luce(mask: list[bool], k: int) -> None:
    draws, values = 40_000, [0.5, -1.0, 1.5, 0.0]
    logits = torch.tensor([values]).expand(draws, 4)
    slates, logged = sample_slate(logits, rows_of(mask, draws), k, torch.Generator().manual_seed(11))
    possible = ordered_slates(mask, k)
    conditionals = [list(plackett_luce(values, mask, slate)) for slate in possible]
    assert_frequencies(slates, {s: math.prod(c) for s, c in zip(possible, conditionals, strict=True)})
    rows = len(possible)
    found = softmax_propensity(logits[:rows], rows_of(mask, rows), torch.tensor(possible))
    np.testing.assert_allclose(found.numpy(), conditionals, rtol=1e-12)
    assert torch.equal(logged, softmax_propensity(logits, rows_of(mask, draws), slates))


def test_what_softmax_sampling_never_shows_has_propensity_0() -> None:
    mask = torch.tensor([[True, True, False]]).expand(4, 3)
    slates = torch.tensor([[0, -1, -1], [0, 0, 1], [0, 1, 0], [2, 0, 1]])  # an early hole, repeats, a masked one
    found = softmax_propensity(torch.zeros(4, 3), mask, slates)
    assert found.tolist() == [[0.5, 0, 0], [0.5, 0, 1], [0.5, 1, 0], [0, 0.5, 1]]


def test_permuting_candidates_keeps_softmax_propensities() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, mask = torch.randn(20, 6, generator=generator), torch.rand(20, 6, generator=generator) < 0.8
    slate, propensity = sample_slate(logits, mask, 3, generator)
    order = torch.randperm(6, generator=generator)
    place = order.argsort()
    moved = torch.where(slate >= 0, place[slate.clamp(min=0)], -1)
    torch.testing.assert_close(softmax_propensity(logits[:, order], mask[:, order], moved), propensity)


def test_top_k_slates_rank_by_weight_times_what_an_item_is_worth_more_than_no_click() -> None:
    scores, values = torch.tensor([[0.0, 1.0, 2.0, 5.0]]), torch.tensor([[9.0, 4.0, 3.0, 8.0]])
    mask, nothing = torch.tensor([[True, True, True, False]]), torch.tensor([1.0])
    known = Logit(InnerProduct(1), no_click=0.0)
    worth = torch.exp(scores) * (values - 1)  # 8, 8.2, 14.8
    slate = top_k_slate(known, scores, values, nothing, mask, 2)
    assert slate.tolist() == [worth.masked_fill(~mask, -1).topk(2).indices[0].tolist()]
    assert top_k_slate(FirstPosition(), scores, values, nothing, mask, 2).tolist() == [[0, 1]]
    cascade = ExponentialCascade(InnerProduct(1))
    assert top_k_slate(cascade, scores, values, nothing, mask, 4).tolist() == [[2, 1, 0, -1]]


@pytest.mark.parametrize("k", [1, 2, 6])
@pytest.mark.parametrize("opinions", [(), (3,)], ids=["one opinion", "three"])
def test_equals_go_in_all_directions_and_higher_values_first(k: int, opinions: tuple[int, ...]) -> None:
    """Whatever the order of the candidates and whatever else is in the batch; what may not be shown never."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([3, 9, 4, -1, 7, 5]).repeat(2000, 1)
    seen = Observation(torch.rand(2000, 2, generator=generator), ids, torch.zeros(2000, 6, 0))
    values = torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0, math.inf])[None].expand(2000, *opinions, 6).clone()
    slate = top_candidates(values, seen, k)
    assert (slate[..., 0] == 5).all()
    if k > 1:
        share = torch.bincount(slate[..., 1].flatten(), minlength=6) / slate[..., 1].numel()
        torch.testing.assert_close(share, torch.tensor([0, 1, 1, 0, 1, 0]) / 3, atol=0.04, rtol=0)
    if k == 6:
        assert (slate[..., 4] == 0).all()
        assert (slate[..., 5] == -1).all()
    assert torch.equal(top_candidates(values[:7], seen[:7], k), slate[:7])
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    mixed = top_candidates(values[..., order], Observation(seen.user, ids[:, order], seen.items), k)
    assert torch.equal(torch.where(mixed >= 0, order[mixed], -1), slate)
