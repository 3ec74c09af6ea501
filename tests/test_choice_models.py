"""Cascades, position-based clicks and bilinear affinities; greedy slates against enumeration."""

import json
import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import slatewise as sw
from slatewise.choice import (
    NAMES,
    Bilinear,
    ExponentialCascade,
    InnerProduct,
    Logit,
    PositionBased,
    Proportional,
    ProportionalCascade,
    choose,
    from_json,
    to_json,
)
from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.slates import best_slate, greedy_slate, slate_value, top_k

ONE = InnerProduct(1)
CASCADES = [
    ExponentialCascade(ONE),
    ExponentialCascade(ONE, attention=1.0, scaling=0.4),
    ProportionalCascade(ONE),
    ProportionalCascade(ONE, attention=0.9, scaling=0.5, shift=1.5),
]
each_cascade = pytest.mark.parametrize("model", CASCADES, ids=lambda m: f"{m.name} {m.scaling}")
MULTINOMIAL = [Logit(ONE, no_click=0.5), Proportional(ONE, no_click=0.75)]


def everything(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def item_clicked(model: ExponentialCascade | ProportionalCascade, score: float) -> float:
    """Return what the user does who looks at an item, by the formulas alone."""
    attraction = math.exp(score) if isinstance(model, ExponentialCascade) else score + model.shift
    return model.attention * min(max(model.scaling * attraction, 0.0), 1.0)


def walked_down(model, scores: list[float], mask: list[bool]) -> list[float]:
    """Return the probabilities of a cascade slot by slot."""
    result, left = [], 1.0
    for score, shown in zip(scores, mask, strict=True):
        click = item_clicked(model, score) if shown else 0.0
        result.append(left * click)
        left *= 1 - click
    return [*result, left]


def test_cascades_in_closed_form() -> None:
    """RecSim's constants, attention 0.65 and scaling 0.05: P(i) = 0.65 · 0.05 · s_i · Π (1 − 0.0325 s_j)."""
    scores = torch.tensor([[0.0, 2.0]])
    found = ExponentialCascade(ONE).probabilities(scores, everything(1, 2))[0].tolist()
    second = 0.0325 * math.exp(2)
    assert found == pytest.approx([0.0325, 0.9675 * second, 0.9675 * (1 - second)], abs=1e-6)
    found = ProportionalCascade(ONE).probabilities(scores, everything(1, 2))[0].tolist()
    assert found == pytest.approx([0.0325, 0.9675 * 0.0975, 0.9675 * 0.9025], abs=1e-6)


@each_cascade
@given(
    scores=st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=4),
    mask=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_cascades_are_walked_down(model, scores: list[float], mask: list[bool]) -> None:
    found = model.probabilities(torch.tensor([scores]).double(), torch.tensor([mask]))
    assert found[0].tolist() == pytest.approx(walked_down(model, scores, mask), abs=1e-12)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


@each_cascade
def test_scores_beyond_all_bounds_are_cut(model) -> None:
    """Who looks takes it for certain: RecSim fails here."""
    found = model.probabilities(torch.tensor([[1000.0, 0.0], [-1000.0, -1000.0]]), everything(2, 2))
    assert float(found[0, 0]) == pytest.approx(model.attention, abs=1e-6)
    assert found[1].tolist() == [0, 0, 1]


@each_cascade
def test_choices_of_a_cascade_have_its_probabilities_as_frequencies(model) -> None:
    """Within 4.5 standard errors, 200,000 draws."""
    draws, scores = 200_000, torch.tensor([[0.3, -0.4, 0.9]])
    probabilities = model.probabilities(scores, torch.tensor([[True, False, True]]))
    chosen = choose(probabilities.expand(draws, 4), torch.rand(draws, generator=torch.Generator().manual_seed(5)))
    for slot, p in enumerate(probabilities[0].tolist()):
        assert abs(float((chosen == slot).double().mean()) - p) <= 4.5 * math.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ExponentialCascade(ONE, attention=1.5), r"attention=1\.5: the probability of looking"),
        (lambda: ProportionalCascade(ONE, scaling=0.0), r"scaling=0\.0: the factor of the scores must be above 0"),
        (lambda: Proportional(ONE, no_click=0.0), r"no_click=0\.0: the weight of no click must be above 0"),
        (lambda: Proportional(ONE, no_click=math.nan), r"no_click=nan"),
        (lambda: PositionBased(ONE, (1.0, -0.5)), r"examination\[1\]=-0\.5: a probability lies in \[0, 1\]"),
    ],
)
def test_impossible_constants_are_refused(build, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build()


def test_position_based_clicks_are_independent() -> None:
    model = PositionBased(ONE, (1.0, 0.5, 0.25))
    found = model.click_probabilities(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[True, True, False]]))
    assert found[0].tolist() == pytest.approx([0.5, 0.5 / (1 + math.exp(-2)), 0.0], abs=1e-6)
    assert model.click_probabilities(torch.zeros(2, 2), everything(2, 2)).shape == (2, 2)
    assert not hasattr(model, "probabilities")
    with pytest.raises(InputError, match="examination has 3 positions, but the slates have 4"):
        model.click_probabilities(torch.zeros(1, 4), everything(1, 4))


def seen(catalogue: bool, generator: torch.Generator) -> Observation:
    ids = torch.randint(5, (6, 4), generator=generator)
    shared = Catalogue.of(torch.randn(5, 2, generator=generator)) if catalogue else None
    user, items = (torch.randn(*shape, generator=generator) for shape in ((6, 3), (6, 4, 2)))
    return Observation(user, ids, items, shared)


@pytest.mark.parametrize("catalogue", [True, False])
@pytest.mark.parametrize("columns", [3, 2])
def test_a_bilinear_affinity_in_closed_form(catalogue: bool, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    observation = seen(catalogue, generator)
    features = observation.features(torch.arange(4).expand(6, 4))
    weights, items = torch.randn(columns, features.shape[2], generator=generator), torch.randn(features.shape[2])
    model = Bilinear(tuple(tuple(row) for row in weights.tolist()), tuple(items.tolist()), 0.75)
    expected = torch.einsum("bu,uf,bcf->bc", observation.user[:, :columns], weights, features) + features @ items + 0.75
    torch.testing.assert_close(Logit(model).scores(observation), expected)


def test_a_bilinear_affinity_refuses_other_features() -> None:
    observation = seen(True, torch.Generator().manual_seed(0))
    model = Bilinear(((1.0, 2.0),), (0.0, 0.0))
    with pytest.raises(InputError, match=r"reads 1 user and 2 item features, the observation has 3 and 4: use the"):
        model(observation)
    with pytest.raises(InputError, match="reads 4 user"):
        Bilinear(((1.0,) * 4,) * 4, (0.0,) * 4)(observation)


BILINEAR = Bilinear(((1.0, 2.0), (0.5, -1.0)), (0.1, 0.2), -0.5)
SAVED = [*CASCADES, PositionBased(BILINEAR, (1.0, 0.5)), Logit(BILINEAR, 0.25), Proportional(ONE)]


@pytest.mark.parametrize("model", SAVED, ids=lambda m: m.name)
def test_a_model_survives_json(model) -> None:
    again = from_json(json.loads(json.dumps(to_json(model))))
    assert again == model
    assert type(again) is type(model)
    assert hash(again) == hash(model)


def test_models_saved_before_affinities_had_names_still_load() -> None:
    assert from_json({"name": "logit", "affinity": {"columns": 20}, "no_click": 1.0}) == Logit(InnerProduct(20))
    with pytest.raises(InputError, match="unknown affinity 'bilinaer': did you mean 'bilinear'"):
        from_json({"name": "logit", "affinity": {"name": "bilinaer"}})
    assert all(cls.name == name for name, cls in NAMES.items())


# Greedy slates.


def problem(seed: int, rows: int, count: int) -> tuple[torch.Tensor, ...]:
    """Return scores, values and the value of no click, of several shapes: dull, extreme, and tied."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.rand(rows, count, generator=generator).double() - 1
    values = 2 * torch.randn(rows, count, generator=generator).double() + 1
    if seed % 3 == 1:
        scores, values = 4 * scores, values.sign() * values.exp()
    if seed % 3 == 2:
        scores, values = scores.round(), values.round()
    return scores, values, torch.randn(rows, generator=generator).double()


def best_and_mean(model, scores, values, nothing, mask, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the highest and the mean value over all ordered slates of k, [B] each, by enumeration."""
    every = []
    for slate in permutations(range(scores.shape[1]), k):
        shown = torch.tensor(slate).expand(len(scores), k)
        worth = slate_value(model, scores, values, nothing, shown)
        every.append(torch.where(mask.gather(1, shown).all(1), worth, torch.nan))
    table = torch.stack(every)
    return table.nan_to_num(-torch.inf).amax(0), table.nanmean(0)


@pytest.mark.parametrize("model", [*CASCADES, *MULTINOMIAL], ids=lambda m: f"{m.name} {getattr(m, 'scaling', '')}")
@pytest.mark.parametrize(("count", "k"), [(6, 1), (6, 2), (6, 3), (5, 5)])
def test_greedy_slates_are_hardly_below_the_best(model, count: int, k: int) -> None:
    """Never above, equal for one slot and in every cascade tried; under multinomial choice the mean loss is small.

    Measured, as a share of the gain over a mean slate: multinomial 4e-5 to 4e-4 on average, one slate lost 0.2.
    """
    for seed in range(3):
        scores, values, nothing = problem(seed, 300, count)
        mask = everything(300, count)
        if k <= 3:
            mask[:100, 1] = mask[100:150, 0] = False
        slate = greedy_slate(model, scores, values, nothing, mask, k)
        assert bool((slate >= 0).all())
        assert bool(mask.gather(1, slate).all())
        assert bool((slate.sort(1).values.diff(dim=1) > 0).all())
        found = slate_value(model, scores, values, nothing, slate)
        best, mean = best_and_mean(model, scores, values, nothing, mask, k)
        assert bool((found <= best + 1e-9 * best.abs()).all())
        loss = (best - found) / (best - mean).clamp(min=1e-9)
        if k == 1 or model in CASCADES:
            assert float(loss.max()) < 1e-6
        assert float(loss.mean()) < 5e-3
        exact, value = best_slate(model, scores, values, nothing, mask, k)
        torch.testing.assert_close(value, best, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(slate_value(model, scores, values, nothing, exact), value)


@each_cascade
def test_a_cascade_is_in_the_order_of_its_values(model) -> None:
    scores, values, nothing = problem(0, 200, 8)
    slate, _ = best_slate(model, scores, values, nothing, everything(200, 8), 4)
    assert bool((values.gather(1, slate).diff(dim=1) <= 0).all())


@each_cascade
def test_where_all_clicks_are_worth_the_same_the_most_attractive_come_first(model) -> None:
    # Below −0.1, so that no click is certain: what comes after it would be all the same.
    scores = 1.4 * torch.rand(100, 9, generator=torch.Generator().manual_seed(1)) - 1.5
    slate, _ = best_slate(model, scores, torch.ones_like(scores), torch.zeros(100), everything(100, 9), 4)
    attraction = model.click_if_reached(scores)
    expected = attraction.gather(1, top_k(attraction, everything(100, 9), 4))
    torch.testing.assert_close(attraction.gather(1, slate), expected)


@each_cascade
@pytest.mark.parametrize("shown", [0, 2])
def test_too_few_candidates_leave_holes_at_the_end(model, shown: int) -> None:
    scores, values, nothing = problem(0, 50, 5)
    mask = torch.arange(5).expand(50, 5) < shown
    slate, value = best_slate(model, scores, values, nothing, mask, 3)
    assert bool((slate[:, :shown] >= 0).all())
    assert bool((slate[:, shown:] == -1).all())
    if shown == 0:
        torch.testing.assert_close(value, nothing)


@each_cascade
def test_a_batch_of_greedy_slates_is_its_rows_one_by_one(model) -> None:
    scores, values, nothing = problem(3, 40, 8)
    mask = torch.rand(40, 8, generator=torch.Generator().manual_seed(2)) < 0.7
    together = greedy_slate(model, scores, values, nothing, mask, 3)
    for row in range(40):
        at = slice(row, row + 1)
        assert torch.equal(together[at], greedy_slate(model, scores[at], values[at], nothing[at], mask[at], 3))


@pytest.mark.parametrize("make_slate", [best_slate, greedy_slate])
def test_position_based_clicks_have_no_best_slate_but_the_best_items(make_slate) -> None:
    ones = torch.ones(1, 3)
    with pytest.raises(InputError, match=r"'position-based' has independent clicks.*highest value, best first"):
        make_slate(PositionBased(ONE, (1.0, 0.5)), ones, ones, ones[:, 0], everything(1, 3), 2)


# SlateQ.

SPEC = Spec(("a",), ("b",), (), ("watch",), candidates=5, slate_size=2)


def test_slateq_refuses_position_based_clicks_and_says_what_to_use() -> None:
    words = r"at most one item .*'position-based'.*pass logit.*exponential-cascade.*fitting\.fit.*bandit such as linucb"
    with pytest.raises(InputError, match=words):
        sw.SlateQ(SPEC, PositionBased(ONE, (1.0, 0.5)))


@pytest.mark.parametrize("choice", ["exponential-cascade", "proportional-cascade"])
def test_slateq_learns_under_a_cascade(choice: str) -> None:
    env = sw.make("interest-evolution", users=64, choice=choice, slate_size=3)
    agent = sw.SlateQ(env.spec, env.choice, seed=0)
    sw.train(agent, env, 64 * 32, progress=False)
    assert agent.updates == 2
    slate = agent.act(env.observation, explore=False).slate
    items, no_click = agent.values(env.observation)
    assert env.choice is not None
    scores = env.choice.scores(env.observation)
    _, best = best_slate(env.choice, scores, items, no_click, env.observation.mask, 3)
    torch.testing.assert_close(slate_value(env.choice, scores, items, no_click, slate), best)
