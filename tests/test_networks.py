from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.networks import Encoder, HistoryEncoder, Normaliser, TwoTower

ROWS, CANDIDATES = 12, 6
SHAPES = {
    "catalogue and items": {"catalogue": 3, "items": 2, "history": 2, "encoder": "flat"},
    "catalogue": {"catalogue": 3, "items": 0, "history": 0, "encoder": "flat"},
    "items": {"catalogue": 0, "items": 2, "history": 0, "encoder": "flat"},
    "items and a recurrent history": {"catalogue": 0, "items": 2, "history": 4, "encoder": "gru"},
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def histories(spec: Spec, filled: Tensor, generator: torch.Generator) -> Tensor:
    """Return histories of sessions that are `filled` [B] interactions old: zeros before them, the last flag 1."""
    history = 3 + 2 * torch.randn(len(filled), spec.history, spec.history_features, generator=generator)
    history[:, :, -1] = 1
    age = torch.arange(spec.history, 0, -1)  # 1 for the newest
    return history * (age <= filled.unsqueeze(1)).unsqueeze(2)


def example(shape: dict[str, Any]) -> tuple[TwoTower, Observation]:
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
        history=histories(spec, torch.arange(ROWS) % (spec.history + 1), generator) if shape["history"] else None,
    )
    network = TwoTower(spec, hidden=16, embedding=4, encoder=shape["encoder"])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    network.learn_scale(replace(seen, user=3 * seen.user + 1))
    return network, seen


@each_shape
def test_permuting_candidates_permutes_the_scores(shape: dict[str, Any]) -> None:
    network, seen = example(shape)
    order = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(1))
    scores, nothing = network(seen)
    moved, same = network(replace(seen, item_ids=seen.item_ids[:, order], items=seen.items[:, order]))
    torch.testing.assert_close(moved, scores[:, order])
    torch.testing.assert_close(same, nothing)


@each_shape
def test_scores_tell_candidates_users_and_no_click_apart(shape: dict[str, Any]) -> None:
    """What makes the other tests able to fail: nothing is constant."""
    network, seen = example(shape)
    scores, nothing = (values.detach() for values in network(seen))
    assert float(scores.std(1).min()) > 1e-3
    assert float(nothing.std()) > 1e-3
    assert float((scores[:, 0] - nothing).abs().min()) > 1e-4


@each_shape
def test_a_batch_is_its_rows_one_by_one(shape: dict[str, Any]) -> None:
    network, seen = example(shape)
    scores, nothing = network(seen)
    for row in range(ROWS):
        alone, none = network(seen[row])
        torch.testing.assert_close(alone[0], scores[row])
        torch.testing.assert_close(none[0], nothing[row])


@each_shape
def test_at_agrees_with_forward_at_every_position(shape: dict[str, Any]) -> None:
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


REMEMBERED: dict[str, Any] = {
    "user": (),
    "catalogue": (),
    "items": ("x",),
    "signals": ("s",),
    "candidates": 3,
    "slate_size": 1,
}


def encoder(length: int, how: Encoder = "gru") -> HistoryEncoder:
    """Return an encoder with weights and scales of one seed, the same for every length."""
    spec = Spec(**REMEMBERED, history=length)
    made = HistoryEncoder(spec, hidden=32, encoder=how)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    made.learn_scale(histories(Spec(**REMEMBERED, history=9), torch.full((40,), 9), generator))
    return made


def test_a_longer_window_says_the_same_of_a_session_that_fits() -> None:
    filled = torch.tensor([0, 1, 2, 3])
    short = histories(Spec(**REMEMBERED, history=3), filled, torch.Generator().manual_seed(6))
    code = encoder(3)(short)
    assert bool((code[0] == 0).all())  # nothing has happened
    assert float(code[1:].detach().abs().amax(1).min()) > 0.1
    for longer in (4, 8):
        padding = torch.zeros(len(short), longer - 3, short.shape[2])
        torch.testing.assert_close(encoder(longer)(torch.cat([padding, short], 1)), code, atol=1e-6, rtol=0)


def test_the_recurrent_code_is_that_of_the_equations() -> None:
    """Cho et al. 2014, equations 5 to 8, in double precision and without tensors of time."""
    made = encoder(4)
    assert made.gru is not None
    history = histories(Spec(**REMEMBERED, history=4), torch.tensor([4, 2, 0]), torch.Generator().manual_seed(7))
    (w_r, w_z, w_n), (u_r, u_z, u_n) = (
        np.split(matrix.detach().double().numpy(), 3) for matrix in (made.gru.weight_ih_l0, made.gru.weight_hh_l0)
    )
    mean, deviation = made.normaliser.mean.numpy(), made.normaliser.variance.sqrt().numpy()
    code = made(history).detach().numpy()
    for row in range(3):
        state = np.zeros(made.width)
        for seen in history[row].double().numpy():
            if seen[-1] == 0:
                continue  # before the session began
            x = np.append((seen[:-1] - mean) / deviation, 1.0)
            reset, keep = (1 / (1 + np.exp(-(w @ x + u @ state))) for w, u in ((w_r, u_r), (w_z, u_z)))
            state = keep * state + (1 - keep) * np.tanh(w_n @ x + reset * (u_n @ state))
        np.testing.assert_allclose(code[row], state, atol=1e-5)


@pytest.mark.parametrize("how", ["flat", "gru"])
def test_only_what_took_place_enters_the_scale_of_histories(how: Encoder) -> None:
    spec = Spec(**REMEMBERED, history=5)
    made = HistoryEncoder(spec, hidden=32, encoder=how)
    history = histories(spec, torch.arange(30) % 6, torch.Generator().manual_seed(8))
    made.learn_scale(history)
    rows = history[history[:, :, -1] == 1][:, :-1].double().numpy()
    np.testing.assert_allclose(made.normaliser.mean.numpy(), rows.mean(0), rtol=1e-9)
    np.testing.assert_allclose(made.normaliser.variance.numpy(), rows.var(0), rtol=1e-9)
    made.learn_scale(history[::6])  # sessions that have just begun say nothing
    assert float(made.normaliser.count) == len(rows)


def test_the_flat_code_is_standardised_and_zero_before_the_session() -> None:
    made = encoder(3, "flat")
    history = histories(Spec(**REMEMBERED, history=3), torch.tensor([2]), torch.Generator().manual_seed(9))
    code = made(history).view(3, -1)
    assert bool((code[0] == 0).all())
    expected = (history[0, 1:, :-1] - made.normaliser.mean.float()) / made.normaliser.variance.sqrt().float()
    torch.testing.assert_close(code[1:, :-1], expected, atol=1e-5, rtol=1e-5)
    assert code[1:, -1].tolist() == [1.0, 1.0]


def test_an_observation_with_another_history_is_refused() -> None:
    network, seen = example(SHAPES["catalogue and items"])
    with pytest.raises(InputError, match="observation has no history and this network was made for one"):
        network(replace(seen, history=None))
    assert seen.history is not None
    with pytest.raises(InputError, match=r"history is \[1, 8\] \(interactions, features\).* made for \[2, 8\]"):
        network(replace(seen, history=seen.history[:, :1]))
    without, _ = example(SHAPES["items"])
    with pytest.raises(InputError, match="observation has a history and this network was made for none"):
        without(replace(seen, catalogue=None))


def test_a_recurrent_encoder_without_a_history_is_refused() -> None:
    with pytest.raises(InputError, match=r"encoder=gru reads a history.* set history=10"):
        TwoTower(Spec(**REMEMBERED), hidden=16, embedding=4, encoder="gru")
