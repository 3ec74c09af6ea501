"""The dictionaries of Open Bandit Pipeline in and out, and against the installed one where it is at hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slatewise.errors import InputError
from slatewise.interactions import Spec
from slatewise.logs import Log, LogWriter, check, from_obp, to_obp
from slatewise.off_policy import evaluate
from slatewise.policies import Random

ROUNDS, ACTIONS, POSITIONS = 400, 4, 3


def feedback(**changes: Any) -> dict[str, Any]:
    """Return bandit feedback whose propensities are true."""
    source = np.random.default_rng(0)
    logits = source.normal(size=(ROUNDS, ACTIONS, POSITIONS))
    pi_b = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    position = source.integers(POSITIONS, size=ROUNDS)
    of_row = pi_b[np.arange(ROUNDS), :, position]
    action = (of_row.cumsum(1) > source.random((ROUNDS, 1))).argmax(1)
    return {
        "n_rounds": ROUNDS,
        "n_actions": ACTIONS,
        "context": source.normal(size=(ROUNDS, 2)),
        "action_context": source.normal(size=(ACTIONS, 5)),
        "action": action,
        "position": position,
        "reward": source.integers(2, size=ROUNDS),
        "expected_reward": source.random((ROUNDS, ACTIONS)),
        "pi_b": pi_b,
        "pscore": of_row[np.arange(ROUNDS), action],
    } | changes


def test_every_round_is_one_decision(tmp_path: Path) -> None:
    given = feedback()
    log = from_obp(given, tmp_path / "log")
    rows = log.read()
    assert log.spec.user == ("position_1", "position_2", "position_3", "context_0", "context_1")
    one_hot, context = rows.observation.user[:, :3], rows.observation.user[:, 3:]
    assert torch.equal(one_hot, torch.eye(3)[given["position"]])
    assert torch.equal(context, torch.from_numpy(given["context"]).float())
    assert log.catalogue is not None
    assert torch.equal(log.catalogue.features, torch.from_numpy(given["action_context"]).float())
    assert rows.decision.slate[:, 0].tolist() == given["action"].tolist()
    assert rows.decision.propensity[:, 0].tolist() == given["pscore"].tolist()
    assert rows.response.reward[:, 0].tolist() == given["reward"].tolist()
    assert log.spec.signals == ("expected_reward",)
    expected = given["expected_reward"][np.arange(ROUNDS), given["action"]].astype(np.float32)
    assert rows.response.signals[:, 0, 0].tolist() == expected.tolist()
    assert check(log)["problems"] == []


def test_the_way_out_is_the_way_in(tmp_path: Path) -> None:
    for i, given in enumerate((feedback(), feedback(position=None, pi_b=None, expected_reward=None))):
        back = to_obp(from_obp(given, tmp_path / f"log{i}"))
        assert set(back) == set(given)
        for name in ("n_rounds", "n_actions", "action", "position", "reward", "pscore"):
            assert np.array_equal(back[name], given[name]), name
            assert (
                back[name] is None or np.asarray(back[name]).dtype == np.asarray(given[name]).dtype or name == "reward"
            )
        for name in ("context", "action_context"):
            assert np.array_equal(back[name], given[name].astype(np.float32).astype(np.float64)), name


def test_without_features_of_actions_they_are_one_hot(tmp_path: Path) -> None:
    log = from_obp(feedback(action_context=None, position=None, pi_b=None), tmp_path / "log")
    assert log.catalogue is not None
    assert torch.equal(log.catalogue.features, torch.eye(ACTIONS))
    assert log.spec.user == ("context_0", "context_1")


def test_what_belongs_to_candidates_goes_to_the_context(tmp_path: Path) -> None:
    rows = from_obp(feedback(), tmp_path / "log").read()
    spec = Spec(("user",), (), ("match",), ("expected_reward",), ACTIONS, 1)
    match = torch.arange(ROUNDS * ACTIONS).view(ROUNDS, ACTIONS, 1).float()
    observation = type(rows.observation)(torch.ones(ROUNDS, 1), rows.observation.item_ids, match)
    known = torch.arange(ROUNDS) % 2 == 0
    response = type(rows.response)(*(getattr(rows.response, n) for n in ("clicked", "signals", "reward")),
                                   rows.response.decision_reward, known)  # fmt: skip
    with LogWriter(tmp_path / "other", spec, {}) as writer:
        writer.add(type(rows)(observation, rows.decision, response, None, rows.terminated, rows.truncated,
                              rows.episode, rows.step))  # fmt: skip
    back = to_obp(Log(tmp_path / "other"))
    assert back["n_rounds"] == ROUNDS // 2
    assert back["position"] is None
    assert np.array_equal(back["context"][:, 1:], match[known, :, 0].numpy())
    assert np.array_equal(back["action_context"], np.eye(ACTIONS))


BAD = [
    ({"reward": None}, r"this bandit feedback has no 'reward', found n_rounds, n_actions"),
    ({"n_actions": 0}, r"n_actions is 0: expected a whole number above 0"),
    ({"context": np.ones((3, 2))}, r"context has shape \[3, 2\], expected \[400, 'any'\]"),
    ({"context": "x"}, r"context is no array of numbers"),
    ({"action": np.full(ROUNDS, 4)}, r"action\[0\] is 4: expected a whole number from 0 to 3; 400 values"),
    ({"action": np.full(ROUNDS, 0.5)}, r"action\[0\] is 0.5"),
    ({"pscore": np.zeros(ROUNDS)}, r"pscore\[0\] is 0: expected a probability in \(0, 1\]; 400 values"),
    ({"reward": np.full(ROUNDS, np.nan)}, r"reward\[0\] is nan: expected a finite number"),
    ({"position": np.full(ROUNDS, 3)}, r"position\[0\] is 3: expected a whole number from 0 to 2"),
    ({"pscore": np.full(ROUNDS, 0.25)}, r"pscore\[0\] is 0.25, pi_b says .* 400 rows disagree"),
    ({"slate_id": np.arange(ROUNDS)}, r"is about slates \(slate_id\)"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[next(iter(c)) + str(i) for i, (c, _) in enumerate(BAD)])
def test_bad_feedback_is_named_and_nothing_is_written(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_obp(feedback(**changes), tmp_path / "log")
    assert not list(tmp_path.iterdir())


def test_logs_that_the_dictionaries_cannot_hold_are_refused(tmp_path: Path) -> None:
    rows = from_obp(feedback(), tmp_path / "log").read()
    spec = Log(tmp_path / "log").spec
    with LogWriter(tmp_path / "unknown", spec, {}, propensities={"kind": "unknown"}) as writer:
        writer.add(rows)
    with pytest.raises(InputError, match="has no propensities, and `pscore` needs them"):
        to_obp(Log(tmp_path / "unknown"))
    ids = rows.observation.item_ids.clone()
    ids[7] = ids[7].flip(0)
    observation = type(rows.observation)(rows.observation.user, ids, rows.observation.items, rows.observation.catalogue)
    with LogWriter(tmp_path / "changing", spec, {}) as writer:
        writer.add(type(rows)(observation, rows.decision, rows.response, None, rows.terminated, rows.truncated,
                              rows.episode, rows.step))  # fmt: skip
    with pytest.raises(InputError, match="candidates change from row to row"):
        to_obp(Log(tmp_path / "changing"))


def test_open_bandit_pipeline_estimates_the_same_from_its_own_data(tmp_path: Path) -> None:
    """IPS of the uniform policy: its estimator on its dictionary, and on what comes back; ours on the log."""
    obp = pytest.importorskip("obp", reason="pip install sb-obp: an optional check", exc_type=ImportError)
    from obp.ope import InverseProbabilityWeighting  # pyright: ignore

    data = obp.dataset.SyntheticBanditDataset(n_actions=5, dim_context=3, reward_function=None, beta=1, random_state=1)
    given = data.obtain_batch_bandit_feedback(n_rounds=2000)
    log = from_obp(given, tmp_path / "log")
    back = to_obp(log)
    uniform = np.full((2000, 5, 1), 0.2)
    names = ("reward", "action", "pscore", "position")
    values = [
        InverseProbabilityWeighting().estimate_policy_value(**{n: d[n] for n in names}, action_dist=uniform)
        for d in (given, back)
    ]
    ours = evaluate(log, Random(1)).policies["random"].estimates["IPS"].value
    assert values[0] == values[1] == pytest.approx(ours, rel=1e-12)
