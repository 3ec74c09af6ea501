from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from slatewise.choice import ExponentialCascade, FirstPosition, InnerProduct, Logit, Proportional, ProportionalCascade
from slatewise.constraints import Constraints, Filling, Limits
from slatewise.errors import InputError
from slatewise.slates import best_slate, greedy_slate, slate_value, top_k_slate

NEWS, SPORT, SHOP = "news", "sport", "shop"
CATALOGUE = (NEWS, SPORT, NEWS, SHOP, SPORT, NEWS, SHOP)
MULTINOMIAL = [Logit(InnerProduct(1), no_click=0.5), Proportional(InnerProduct(1), no_click=0.75)]
CASCADES = [ExponentialCascade(InnerProduct(1), scaling=0.3), ProportionalCascade(InnerProduct(1), scaling=0.3)]
by_name = {"ids": lambda c: c.name}


def sets(given_: Constraints, mask: list[bool], k: int) -> list[frozenset[int]]:
    """Return the sets of items that the constraints allow, by definition: the largest that keep to all.

    A minimum counts as far as there are items, a fixed item where it is among the candidates.
    """
    there = [i for i, may in enumerate(mask) if may and i not in given_.excluded]
    fixed = {item for item in given_.fixed.values() if item in there}

    def fits(items: tuple[int, ...]) -> bool:
        for category in set(CATALOGUE):
            held = sum(CATALOGUE[i] == category for i in items)
            most = given_.at_most if isinstance(given_.at_most, int) else (given_.at_most or {}).get(category, 99)
            present = sum(CATALOGUE[i] == category for i in there)
            if not min(given_.at_least.get(category, 0), present) <= held <= most:
                return False
        return fixed <= set(items)

    found = [frozenset(items) for size in range(k + 1) for items in combinations(there, size) if fits(items)]
    longest = max(map(len, found))
    return [items for items in found if len(items) == longest]


def ordered(given_: Constraints, mask: list[bool], k: int) -> list[tuple[int, ...]]:
    """Return the slates that the constraints allow: fixed items in their slots, others in any order, then holes."""
    slates = []
    own = {slot: item for slot, item in given_.fixed.items() if mask[item]}
    for items in sets(given_, mask, k):
        free = [slot for slot in range(k) if slot not in own]
        for others in permutations(items - set(own.values())):
            slate = dict.fromkeys(range(k), -1) | own | dict(zip(free, others, strict=False))
            slates.append(tuple(slate[slot] for slot in range(k)))
    return slates


@st.composite
def constraints(draw, k: int) -> Constraints:
    """Draw constraints that slates of this size can keep to."""
    excluded = draw(st.sets(st.integers(0, 6), max_size=2))
    fixed = draw(
        st.dictionaries(st.integers(0, k - 1), st.integers(0, 6).filter(lambda i: i not in excluded), max_size=1)
    )
    number = st.integers(0, 3)
    most = draw(st.one_of(st.none(), st.integers(1, 3), st.dictionaries(st.sampled_from(CATALOGUE), number)))
    least = draw(st.dictionaries(st.sampled_from(CATALOGUE), st.integers(0, 2), max_size=2))
    try:
        found = Constraints(CATALOGUE, most, least, fixed, tuple(excluded))
        found.on(torch.arange(7).unsqueeze(0), k)
    except InputError:
        return Constraints(CATALOGUE, 2)
    return found


@st.composite
def problems(draw) -> tuple[Constraints, list[bool], int, torch.Tensor, torch.Tensor, float]:
    k, number = draw(st.integers(1, 4)), st.floats(-3, 3, width=32)
    mask = draw(st.lists(st.booleans(), min_size=7, max_size=7).filter(any))
    scores, values = (torch.tensor([draw(st.lists(number, min_size=7, max_size=7))]) for _ in range(2))
    return draw(constraints(k)), mask, k, scores, 3 * values, draw(number)


def limits_of(given_: Constraints, mask: list[bool], k: int) -> Limits:
    ids = torch.arange(7).masked_fill(~torch.tensor(mask), -1)
    return given_.on(ids.unsqueeze(0), k)


@pytest.mark.parametrize("choice", MULTINOMIAL, **by_name)
@settings(max_examples=60)
@given(problem=problems())
def test_the_best_slate_is_the_best_that_the_constraints_allow(choice, problem) -> None:
    rules, mask, k, scores, values, nothing = problem
    limits, shown = limits_of(rules, mask, k), torch.tensor([mask])
    slate, value = best_slate(choice, scores, values, torch.tensor([nothing]), shown, k, limits)
    allowed = ordered(rules, mask, k)
    assert tuple(slate[0].tolist()) in allowed
    every = torch.tensor(allowed)
    many = scores.expand(len(every), -1), values.expand(len(every), -1), torch.full((len(every),), nothing)
    assert float(value) == pytest.approx(float(slate_value(choice, *many, every).max()), abs=2e-5)
    for heuristic in (greedy_slate, top_k_slate):
        other = heuristic(choice, scores, values, torch.tensor([nothing]), shown, k, limits)
        assert tuple(other[0].tolist()) in allowed


@pytest.mark.parametrize("choice", [*CASCADES, FirstPosition()], **by_name)
@settings(max_examples=60)
@given(problem=problems())
def test_greedy_slates_keep_to_the_constraints(choice, problem) -> None:
    rules, mask, k, scores, values, nothing = problem
    limits, shown = limits_of(rules, mask, k), torch.tensor([mask])
    allowed = ordered(rules, mask, k)
    for heuristic in (greedy_slate, top_k_slate):
        slate = heuristic(choice, scores, values, torch.tensor([nothing]), shown, k, limits)
        assert tuple(slate[0].tolist()) in allowed
    if isinstance(choice, FirstPosition):
        slate, value = best_slate(choice, scores, values, torch.tensor([nothing]), shown, k, limits)
        assert tuple(slate[0].tolist()) in allowed
        first = {next((i for i in other if i >= 0), -1) for other in allowed}
        assert float(value) == pytest.approx(max(float(values[0, i]) if i >= 0 else nothing for i in first))


@pytest.mark.parametrize("choice", CASCADES, **by_name)
@settings(max_examples=60)
@given(problem=problems())
def test_the_best_slate_of_a_cascade_is_the_best_of_all(choice, problem) -> None:
    _, mask, k, scores, values, nothing = problem
    slate, value = best_slate(choice, scores, values, torch.tensor([nothing]), torch.tensor([mask]), k)
    every = torch.tensor(ordered(Constraints(), mask, k))
    many = scores.expand(len(every), -1), values.expand(len(every), -1), torch.full((len(every),), nothing)
    assert tuple(slate[0].tolist()) in set(map(tuple, every.tolist()))
    assert float(value) == pytest.approx(float(slate_value(choice, *many, every).max()), abs=2e-5)


@settings(max_examples=60)
@given(problem=problems(), seed=st.integers(0, 1000))
def test_a_slate_can_be_completed_after_any_open_item_and_after_no_other(problem, seed: int) -> None:
    rules, mask, k = problem[:3]
    filling, allowed = Filling.of(torch.tensor([mask]), limits_of(rules, mask, k), k), ordered(rules, mask, k)
    random, prefix = np.random.default_rng(seed), list[int]()
    for slot in range(k):
        going_on = {slate[slot] for slate in allowed if list(slate[:slot]) == prefix}
        found = set(filling.at(slot)[0].nonzero().squeeze(1).tolist())
        assert (found or {-1}) == going_on
        prefix.append(int(random.choice(sorted(going_on))))
        filling = filling.take(torch.tensor([[prefix[-1]]]))


@settings(max_examples=60)
@given(problem=problems())
def test_met_are_the_slates_that_keep_to_everything(problem) -> None:
    rules, mask, k = problem[:3]
    limits, shown = limits_of(rules, mask, k), torch.tensor([mask])
    allowed = set(ordered(rules, mask, k))
    everything = [*permutations([-1, *range(7)], min(k, 2)), *sorted(allowed)]
    for slate in everything:
        padded = slate + (-1,) * (k - len(slate))
        held = [CATALOGUE[i] for i in padded if i >= 0]
        whole = all(held.count(category) >= least for category, least in rules.at_least.items())
        whole &= all(padded[slot] == item for slot, item in rules.fixed.items() if mask[item])
        assert bool(limits.met(torch.tensor([padded]), shown)) == (padded in allowed and whole), padded


def largest_sum(worth: np.ndarray, codes: np.ndarray, rules: Constraints, k: int) -> float:
    """Return the largest sum of k items under constraints, by an integer program."""
    names = sorted(set(codes.tolist()))
    rows = np.array([codes == name for name in names], dtype=float)
    low = [rules.at_least.get(name, 0) for name in names]
    high = [rules.at_most if isinstance(rules.at_most, int) else (rules.at_most or {}).get(name, k) for name in names]
    lower = np.zeros(len(worth))
    lower[list(rules.fixed.values())] = 1
    upper = np.ones(len(worth))
    upper[list(rules.excluded)] = 0
    found = milp(
        -worth,
        integrality=np.ones(len(worth)),
        bounds=Bounds(lower, upper),
        constraints=[LinearConstraint(rows, low, high), LinearConstraint(np.ones(len(worth)), k, k)],
        options={"mip_rel_gap": 1e-12},
    )
    assert found.success
    return -found.fun


@pytest.mark.parametrize("choice", MULTINOMIAL, **by_name)
@pytest.mark.parametrize(
    "rules",
    [
        {"at_most": 2},
        {"at_most": {0: 1, 1: 3}, "at_least": {2: 4, 5: 1}},
        {"at_least": {2: 3}, "fixed": {0: 7, 5: 9}, "excluded": (1, 2, 3)},
    ],
    ids=["at most", "at most and at least", "everything"],
)
def test_no_integer_program_finds_a_better_slate(choice, rules: dict[str, Any]) -> None:
    """A slate of value ρ is best when no set has Σ w (v − ρ) + w₀ (v₀ − ρ) > 0 (Dinkelbach 1967)."""
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(6, (80,), generator=generator)
    asked, k = Constraints(codes, **rules), 9
    scores = 2 * torch.randn(12, 80, generator=generator, dtype=torch.float64)
    values = 10 * torch.randn(12, 80, generator=generator, dtype=torch.float64)
    mask, nothing = torch.ones(12, 80, dtype=torch.bool), torch.randn(12, generator=generator).double()
    limits = asked.on(torch.arange(80).expand(12, 80), k)
    slate, value = best_slate(choice, scores, values, nothing, mask, k, limits)
    assert bool(limits.met(slate, mask).all())
    weights, none = choice.weights(scores)
    for row in range(12):
        worth = (weights[row] * (values[row] - value[row])).numpy()
        more = largest_sum(worth, codes.numpy(), asked, k) + float(none[row] * (nothing[row] - value[row]))
        assert abs(more) < 1e-9 * float(weights[row].sum() * values[row].abs().max())


@pytest.mark.parametrize("choice", CASCADES, **by_name)
@pytest.mark.parametrize("fixed", [{}, {1: 3}], ids=["any slot", "fixed"])
def test_greedy_slates_of_cascades_are_mostly_best_under_limits(choice, fixed: dict[int, int]) -> None:
    """No proof, so counted: 7 candidates, slates of 3, one of a category at most, so one of each."""
    rules = Constraints(CATALOGUE, at_most=1, at_least={SPORT: 1}, fixed=fixed)
    generator, rows = torch.Generator().manual_seed(8), 2000
    scores, values = (torch.randn(rows, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    nothing, mask = torch.zeros(rows).double(), torch.ones(rows, 7, dtype=torch.bool)
    slate = greedy_slate(choice, scores, values, nothing, mask, 3, rules.on(torch.arange(7).expand(rows, 7), 3))
    found = slate_value(choice, scores, values, nothing, slate)
    allowed = torch.tensor(ordered(rules, [True] * 7, 3))
    best = torch.full_like(found, -torch.inf)
    for other in allowed:
        best = best.maximum(slate_value(choice, scores, values, nothing, other.expand(rows, 3)))
    assert bool((found <= best + 1e-12).all())
    assert float((found > best - 1e-9).double().mean()) > 0.9


def test_a_batch_is_its_rows_and_candidates_may_have_categories_of_their_own() -> None:
    generator, k = torch.Generator().manual_seed(1), 4
    scores, values = (torch.randn(50, 20, generator=generator) for _ in range(2))
    codes, mask = torch.randint(4, (50, 20), generator=generator), torch.rand(50, 20, generator=generator) < 0.7
    rules, ids = Constraints(at_most=2, at_least={3: 2}), torch.arange(20).expand(50, 20)
    together = best_slate(MULTINOMIAL[0], scores, values, scores[:, 0], mask, k, rules.on(ids, k, codes))[0]
    for row in range(50):
        at = slice(row, row + 1)
        limits = rules.on(ids[at], k, codes[at])
        alone = best_slate(MULTINOMIAL[0], scores[at], values[at], scores[at, 0], mask[at], k, limits)[0]
        assert torch.equal(alone[0], together[row])
        held = codes[row][together[row][together[row] >= 0]].bincount(minlength=4)
        assert int(held.max()) <= 2
        assert int(held[3]) == min(2, int((mask[row] & (codes[row] == 3)).sum()))


def test_constraints_do_not_change_with_what_they_were_made_of() -> None:
    most = {NEWS: 1}
    rules = Constraints(CATALOGUE, at_most=most)
    most[NEWS] = 3
    assert rules.at_most == {NEWS: 1}
    with pytest.raises(AttributeError):
        rules.fixed = {}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"at_most": {NEWS: 1}, "at_least": {NEWS: 2}}, r"at_least\['news'\]=2 is more than at_most allows, 1"),
        ({"at_most": -1}, "at_most=-1: give a whole number of items"),
        ({"at_most": 1.5}, "at_most=1.5: give a whole number of items"),
        ({"at_least": {NEWS: 1.5}}, r"at_least\['news'\]=1.5: give a whole number"),
        ({"at_most": {"new": 1}}, "unknown category 'new': did you mean 'news'"),
        ({"fixed": {0: 2}, "excluded": (2,)}, "item 2 belongs in slot 0 and is excluded"),
        ({"fixed": {0: 2, 1: 2}}, "shows an item in two slots"),
        ({"fixed": {0: 70}}, "fixed item 70 has no category: categories has 7 items"),
        ({"fixed": {-1: 2}}, "counted from 0"),
        ({"fixed": {0: 0, 1: 2}, "at_most": 1}, "category 'news' has 2 of the fixed items, at_most allows 1"),
        ({"at_least": {NEWS: 2, SPORT: 2}}, r"needs 4 slots, and slates have 3: lower it"),
        ({"at_least": {NEWS: 3}, "fixed": {0: 1}}, "needs 4 slots beside 1 fixed items"),
        ({"fixed": {3: 1}}, r"fixed has slot 3, and slates have 3 slots \(0 to 2\)"),
        ({"categories": None, "at_most": 1}, "need categories"),
        (
            {"categories": "news"},
            r"categories has shape \(\) and type <U4: give a name or a whole number an item",
        ),
        ({"categories": [0.5, 1.0]}, "give a name or a whole number an item"),
        ({"categories": (NEWS,)}, "candidate 6 has no category: categories has 1 items"),
    ],
)
def test_constraints_that_cannot_be_met_say_why(given_: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Constraints(**{"categories": CATALOGUE, **given_}).on(torch.arange(7).unsqueeze(0), 3)


@pytest.mark.parametrize("choice", [*MULTINOMIAL, *CASCADES, FirstPosition()], **by_name)
@pytest.mark.parametrize("method", [best_slate, greedy_slate, top_k_slate])
def test_a_value_that_is_not_a_number_is_named(method, choice) -> None:
    ones = torch.ones(2, 4)
    values = ones.clone()
    values[1, 2] = torch.nan
    with pytest.raises(InputError, match="a candidate's value in row 1 is NaN"):
        method(choice, ones, values, torch.zeros(2), ones.bool(), 2)


def test_limits_that_do_not_fit_are_refused() -> None:
    ids, ones = torch.arange(7).unsqueeze(0), torch.ones(1, 7)
    limits = Constraints(CATALOGUE, at_most=1).on(ids, 3)
    with pytest.raises(InputError, match=r"limits.fixed is int64 \[1, 3\]: expected int64 \[1, 2\]"):
        best_slate(MULTINOMIAL[0], ones, ones, torch.zeros(1), ones.bool(), 2, limits)
    with pytest.raises(
        InputError, match=r"no exact slate is known under 'exponential-cascade' with limits.*greedy_slate"
    ):
        best_slate(CASCADES[0], ones, ones, torch.zeros(1), ones.bool(), 3, limits)
    with pytest.raises(InputError, match="leave out one"):
        Constraints(CATALOGUE, at_most=1).on(ids, 3, ids)
    only = Constraints(excluded=(0, 1)).on(ids, 3)  # changes nothing but the candidates
    assert best_slate(CASCADES[0], ones, ones, torch.zeros(1), ones.bool(), 3, only)[0].min() >= 2
    assert not bool(replace(only, most=torch.full_like(only.most, 3)).couple(3))
