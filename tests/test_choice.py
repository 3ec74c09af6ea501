import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slatewise.choice import FirstPosition, InnerProduct, Logit, Proportional, choose, choose_few, from_json, to_json
from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Observation

AFFINITY = InnerProduct(2)
MODELS = [
    Logit(AFFINITY),
    Logit(AFFINITY, no_click=-3.0),
    Proportional(AFFINITY),
    Proportional(AFFINITY, shift=0.5, no_click=0.25),
    FirstPosition(),
]
each_model = pytest.mark.parametrize("model", MODELS, ids=[f"{i}-{m.name}" for i, m in enumerate(MODELS)])
scores_of = st.lists(st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=4), min_size=1, max_size=3)
masks_of = st.lists(st.booleans(), min_size=4, max_size=4)


def everything(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def test_logit_in_closed_form() -> None:
    found = Logit(AFFINITY).probabilities(torch.tensor([[0.0, 2.0]]), everything(1, 2))
    total = 1 + math.exp(2) + math.e
    assert found[0].tolist() == pytest.approx([1 / total, math.exp(2) / total, math.e / total], abs=1e-6)


def test_logit_survives_scores_that_overflow() -> None:
    scores = torch.tensor([[1000.0, 999.0], [-1000.0, -1001.0]])
    found = Logit(AFFINITY).probabilities(scores, everything(2, 2))
    assert found[0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0.0], abs=1e-6)
    assert found[1].tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)


def test_proportional_in_closed_form() -> None:
    """RecSim's weights: u·d + 1 for an item, 2 for no click."""
    found = Proportional(AFFINITY).probabilities(torch.tensor([[0.5, -1.0, 1.0]]), everything(1, 3))
    assert found[0].tolist() == pytest.approx([1.5 / 5.5, 0.0, 2.0 / 5.5, 2.0 / 5.5], abs=1e-6)


def test_proportional_never_goes_below_nothing() -> None:
    found = Proportional(AFFINITY).probabilities(torch.tensor([[-5.0, 1.0]]), everything(1, 2))
    assert found[0].tolist() == pytest.approx([0.0, 0.5, 0.5])


def test_first_position_takes_the_first_that_is_not_a_hole() -> None:
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    found = FirstPosition().probabilities(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), mask)
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@each_model
@given(scores=scores_of, mask=masks_of)
def test_probabilities_sum_to_one_and_holes_get_nothing(model, scores, mask) -> None:
    scores = torch.tensor(scores)
    mask = torch.tensor(mask).expand(scores.shape)
    found = model.probabilities(scores, mask)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(1), torch.ones(len(scores)), rtol=0, atol=1e-6)
    assert bool((found[:, :-1][~mask] == 0).all())


@each_model
def test_holes_change_nothing_for_the_others(model) -> None:
    """A slate with holes is the shorter slate."""
    generator = torch.Generator().manual_seed(3)
    short = torch.randn(50, 2, generator=generator)
    padded = torch.cat([short[:, :1], torch.full((50, 1), 7.0), short[:, 1:]], 1)
    mask = torch.tensor([True, False, True]).expand(50, 3)
    expected = model.probabilities(short, everything(50, 2))
    torch.testing.assert_close(model.probabilities(padded, mask)[:, [0, 2, 3]], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("model", MODELS[:4], ids=lambda m: f"{m.name}{m.no_click}")
def test_weights_are_unnormalised_probabilities(model) -> None:
    scores = 3 * torch.randn(40, 3, generator=torch.Generator().manual_seed(4))
    items, no_click = model.weights(scores)
    expected = torch.cat([items, no_click.unsqueeze(1)], 1) / (items.sum(1) + no_click).unsqueeze(1)
    torch.testing.assert_close(model.probabilities(scores, everything(40, 3)), expected, rtol=1e-5, atol=1e-7)


def test_choose_inverts_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([[0.25, 0.5, 0.25]]).expand(6, 3)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999])
    assert choose(probabilities, uniforms).tolist() == [0, 0, 1, 1, 2, 2]


def test_choose_never_picks_a_hole() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5]]).expand(4, 4)
    assert choose(probabilities, torch.tensor([0.0, 0.4999, 0.5, 0.9999])).tolist() == [1, 1, 3, 3]


@each_model
def test_choose_has_the_probabilities_as_frequencies(model) -> None:
    """Each frequency within 4.5 standard errors, 200,000 draws."""
    draws, generator = 200_000, torch.Generator().manual_seed(5)
    scores, mask = torch.tensor([[0.3, -0.4, 0.9]]), torch.tensor([[True, False, True]])
    probabilities = model.probabilities(scores, mask)
    chosen = choose(probabilities.expand(draws, 4), torch.rand(draws, generator=generator))
    for slot, p in enumerate(probabilities[0].tolist()):
        share = float((chosen == slot).double().mean())
        assert abs(share - p) <= 4.5 * math.sqrt(p * (1 - p) / draws)


def few_and_many(model: Logit, k: int) -> tuple[list[int], list[int]]:
    """Return slots chosen in plain numbers and by tensors; a third of the uniforms are on the edge of a choice."""
    generator = torch.Generator().manual_seed(k)
    scores = torch.rand(3000, k, generator=generator) * 4 - 2
    probabilities = model.probabilities(scores, everything(3000, k))
    uniforms = torch.rand(3000, generator=generator)
    edges = probabilities.cumsum(1)[::3]
    uniforms[::3] = edges.gather(1, torch.randint(k, (len(edges), 1), generator=generator)).squeeze(1)
    return choose_few(model, scores.numpy(), uniforms.numpy()), choose(probabilities, uniforms).tolist()


@each_model
@pytest.mark.parametrize("k", [1, 2, 10])
def test_a_few_rows_choose_as_many_do(model, k) -> None:
    few, many = few_and_many(model, k)
    assert few == many
    assert len(set(many)) > (model.name != "first-position")


@pytest.mark.parametrize("k", [1, 2, 10])
def test_plain_probabilities_are_the_same_to_the_bit(k: int) -> None:
    model = Proportional(AFFINITY, shift=0.3, no_click=0.7)
    scores = torch.randn(2000, k, generator=torch.Generator().manual_seed(k))
    together = model.probabilities(scores, everything(2000, k))
    assert together.tolist() == [model.plain_probabilities(row) for row in scores.numpy()]
    alone = [model.probabilities(row.unsqueeze(0), everything(1, k)) for row in scores]
    assert torch.equal(torch.cat(alone), together)


@each_model
def test_a_model_survives_json(model) -> None:
    again = from_json(json.loads(json.dumps(to_json(model))))
    assert again == model
    assert type(again) is type(model)


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown choice model 'logits': did you mean 'logit'"):
        from_json({"name": "logits"})


def test_scores_are_affinities_of_leading_user_columns() -> None:
    catalogue = Catalogue.of(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]]))
    user = torch.tensor([[0.5, -0.25, 99.0]])
    seen = Observation(user, torch.tensor([[2, 0, 1]]), torch.zeros(1, 3, 0), catalogue)
    assert Logit(AFFINITY).scores(seen).tolist() == [[1.25, 0.5, -0.25]]
    assert Proportional(AFFINITY).scores(seen).tolist() == [[1.25, 0.5, -0.25]]
    assert FirstPosition().scores(seen).tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises(InputError, match="the observation has no catalogue"):
        Logit(AFFINITY).scores(seen.dense())
