from dataclasses import replace

import numpy as np
import pytest
import torch

from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.networks import Normaliser, TwoTower

ROWS, CANDIDATES = 12, 6
SHAPES = {
    "catalogue and items": {"catalogue": 3, "items": 2, "history": 2},
    "catalogue": {"catalogue": 3, "items": 0, "history": 0},
    "items": {"catalogue": 0, "items": 2, "history": 0},
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def example(shape: dict[str, int]) -> tuple[TwoTower, Observation]:
    """Return a network whose every parameter is random, input scales learned, and a batch with masked candidates."""
    spec = Spec(
        user=("u0", "u1"),
        catalogue=("c",) * shape["catalogue"],
        items=("i",) * shape["items"],
        signals=("s",),
        candidates=CANDIDATES,
        slate_size=2,
        history=shape["history"],
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 5, (ROWS, CANDIDATES), generator=generator)
    ids[::3, 1] = -1
    seen = Observation(
        user=torch.randn(ROWS, 2, generator=generator),
        item_ids=ids,
        items=torch.randn(ROWS, CANDIDATES, shape["items"], generator=generator),
        catalogue=Catalogue.of(torch.randn(5, 3, generator=generator)) if shape["catalogue"] else None,
        history=torch.randn(ROWS, 2, spec.history_features, generator=generator) if shape["history"] else None,
    )
    network = TwoTower(spec, hidden=16, embedding=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    network.learn_scale(replace(seen, user=3 * seen.user + 1))
    return network, seen


@each_shape
def test_permuting_candidates_permutes_the_scores(shape: dict[str, int]) -> None:
    network, seen = example(shape)
    order = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(1))
    scores, nothing = network(seen)
    moved, same = network(replace(seen, item_ids=seen.item_ids[:, order], items=seen.items[:, order]))
    torch.testing.assert_close(moved, scores[:, order])
    torch.testing.assert_close(same, nothing)


@each_shape
def test_scores_tell_candidates_users_and_no_click_apart(shape: dict[str, int]) -> None:
    """What makes the other tests able to fail: nothing is constant."""
    network, seen = example(shape)
    scores, nothing = (values.detach() for values in network(seen))
    assert float(scores.std(1).min()) > 1e-3
    assert float(nothing.std()) > 1e-3
    assert float((scores[:, 0] - nothing).abs().min()) > 1e-4


@each_shape
def test_a_batch_is_its_rows_one_by_one(shape: dict[str, int]) -> None:
    network, seen = example(shape)
    scores, nothing = network(seen)
    for row in range(ROWS):
        alone, none = network(seen[row])
        torch.testing.assert_close(alone[0], scores[row])
        torch.testing.assert_close(none[0], nothing[row])


@each_shape
def test_at_agrees_with_forward_at_every_position(shape: dict[str, int]) -> None:
    network, seen = example(shape)
    scores, nothing = network(seen)
    positions = torch.cat([torch.arange(CANDIDATES), torch.tensor([-1])]).expand(ROWS, CANDIDATES + 1)
    everything = torch.cat([scores, nothing.unsqueeze(1)], 1)
    torch.testing.assert_close(network.at(seen, positions), everything)
    one_each = torch.arange(ROWS).unsqueeze(1) % (CANDIDATES + 1)
    torch.testing.assert_close(network.at(seen, positions.gather(1, one_each)), everything.gather(1, one_each))


def test_masked_candidates_do_not_enter_the_scale_of_items() -> None:
    network, seen = example(SHAPES["items"])
    shown = seen.items[seen.mask].double().numpy()
    np.testing.assert_allclose(network.item_normaliser.mean.numpy(), shown.mean(0), rtol=1e-9)
    np.testing.assert_allclose(network.item_normaliser.variance.numpy(), shown.var(0), rtol=1e-9)


def batches(sizes: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    scale, shift = torch.tensor([1.0, 100.0, 0.01]), torch.tensor([0.0, 5_000.0, -3.0])
    return [torch.randn(n, 3, generator=generator) * scale + shift * (1 + i / 10) for i, n in enumerate(sizes)]


@pytest.mark.parametrize(
    "sizes", [[50], [2, 300, 7, 41], [30, 1, 1, 20], [1] * 40], ids=lambda s: "-".join(map(str, s[:4]))
)
def test_the_normaliser_has_mean_and_variance_of_all_batches_together(sizes: list[int]) -> None:
    normaliser = Normaliser(3)
    for batch in batches(sizes):
        normaliser.update(batch)
    rows = torch.cat(batches(sizes)).double().numpy()
    np.testing.assert_allclose(normaliser.mean.numpy(), rows.mean(0), rtol=1e-9)
    np.testing.assert_allclose(normaliser.variance.numpy(), rows.var(0), rtol=1e-9)
    assert float(normaliser.count) == len(rows)


def test_normalised_values_are_standard() -> None:
    normaliser, rows = Normaliser(3), torch.cat(batches([400]))
    normaliser.update(rows)
    expected = (rows.double().numpy() - rows.double().numpy().mean(0)) / rows.double().numpy().std(0)
    # Single precision at a mean of 50 standard deviations.
    np.testing.assert_allclose(normaliser(rows).numpy(), expected, atol=1e-3)


def test_a_feature_that_never_varied_is_only_centred() -> None:
    normaliser = Normaliser(2)
    normaliser.update(torch.tensor([[3.0, 1.0], [3.0, 2.0]]))
    assert normaliser(torch.tensor([[3.5, 1.5]])).tolist() == [[0.5, 0.0]]


def test_leading_dimensions_are_rows() -> None:
    one, other = Normaliser(3), Normaliser(3)
    values = batches([24])[0]
    one.update(values)
    other.update(values.view(4, 6, 3))
    torch.testing.assert_close(other.mean, one.mean)
    torch.testing.assert_close(other.variance, one.variance)
