"""Vowpal Wabbit's dsjson in and out."""

import copy
import json
import random
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.logs import Log, LogWriter, export_dsjson, import_dsjson
from slatewise.logs.named_features import NamedFeatures, named_features

BANDIT: dict[str, Any] = {
    "_label_cost": -1.5, "_label_probability": 0.8, "_label_Action": 2, "_labelIndex": 1, "Version": "1",
    "Timestamp": "2021-02-04T16:31:29.2480000Z", "EventId": "a", "a": [2, 1], "p": [0.8, 0.2],
    "o": [{"v": 1.5, "EventId": "a", "ActionTaken": False}],
    "c": {"User": {"age": 3, "new": True, "city": "Rome"}, "hour": 0.5,
          "_multi": [{"_tag": "tea", "Item": {"price": 2.5}}, {"_tag": "cake", "Item": {"price": 4}, "sweet": 1}]},
    "VWState": {"m": "m1"}, "_original_label_cost": -1.5,
}  # fmt: skip
SLOTS: dict[str, Any] = {
    "Timestamp": "2021-02-04T16:31:29Z", "Version": "1",
    "c": {"_multi": [{"x": 1}, {"x": 2}, {"x": 3}], "_slots": [{"_id": "p"}, {"_id": "q"}]},
    "_outcomes": [{"_label_cost": -1, "_id": "p", "_a": [2, 0, 1], "_p": [0.5, 0.25, 0.25]},
                  {"_label_cost": 0.5, "_id": "q", "_a": [0, 1], "_p": [0.75, 0.25]}],
    "VWState": {"m": "N/A"},
}  # fmt: skip


def changed(line: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Return a line with other values at its top; None removes."""
    return {key: value for key, value in (copy.deepcopy(line) | values).items() if value is not None}


def written(folder: Path, *lines: Any) -> Path:
    file = folder / "log.json"
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return file


def test_a_contextual_bandit(tmp_path: Path) -> None:
    second = changed(BANDIT, c={"User": {"city": "Oslo"}, "_multi": [{"_tag": "cake"}]}, _labelIndex=0, EventId="b")
    log = import_dsjson(tmp_path / "log", [written(tmp_path, BANDIT, "\n", second)])
    rows = log.read()
    assert log.spec.user == ("hour", "User.age", "User.new", "User.city=Oslo", "User.city=Rome")
    assert log.spec.items == ("sweet", "Item.price")
    assert (log.spec.candidates, log.spec.slate_size, log.propensities["kind"]) == (2, 1, "logged")
    assert rows.observation.user.tolist() == [[0.5, 3, 1, 0, 1], [0, 0, 0, 1, 0]]
    assert rows.observation.items.tolist() == [[[0, 2.5], [1, 4]], [[0, 0], [0, 0]]]
    assert rows.observation.item_ids.tolist() == [[0, 1], [1, -1]]
    assert log.catalogue is not None
    assert log.catalogue.ids == ("tea", "cake")
    assert rows.decision.slate.tolist() == [[1], [0]]
    assert rows.decision.propensity.tolist() == [[0.8], [0.8]]
    assert rows.response.reward.tolist() == [[1.5], [1.5]]
    assert rows.response.clicked.all()
    assert rows.time is not None
    assert rows.time.tolist() == [1612456289248000] * 2
    assert rows.decision_id is not None
    assert rows.policy_version is not None
    assert (list(rows.decision_id), list(rows.policy_version)) == (["a", "b"], ["m1", "m1"])
    assert rows.episode.tolist() == [0, 1]


def test_a_conditional_bandit_of_two_slots(tmp_path: Path) -> None:
    one = changed(SLOTS, _outcomes=SLOTS["_outcomes"][:1], _label_cost=-2)
    log = import_dsjson(tmp_path / "log", [written(tmp_path, SLOTS, one)])
    rows = log.read()
    assert rows.decision.slate.tolist() == [[2, 0], [2, -1]]
    assert rows.decision.propensity.tolist() == [[0.5, 0.75], [0.5, 1]]
    assert rows.response.reward.tolist() == [[1, -0.5], [1, 0]]
    assert rows.response.decision_reward.tolist() == [0, 2]
    assert rows.response.clicked.tolist() == [[True, False], [True, False]]
    assert rows.observation.item_ids.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert log.catalogue is None
    assert rows.decision_id is not None
    assert list(rows.decision_id) == ["p", "p"]


def test_what_has_no_label_is_a_decision_without_a_known_reward(tmp_path: Path) -> None:
    bare = changed(BANDIT, _label_cost=None, _label_probability=None, _labelIndex=None)
    log = import_dsjson(tmp_path / "log", [written(tmp_path, bare, changed(BANDIT, _label_cost=None), BANDIT)])
    rows = log.read()
    assert rows.response.reward_known.tolist() == [False, False, True]
    assert rows.decision.slate.tolist() == [[1]] * 3
    assert rows.decision.propensity.tolist() == [[0.8]] * 3
    half = changed(SLOTS, _outcomes=[changed(SLOTS["_outcomes"][0], _label_cost=None), SLOTS["_outcomes"][1]])
    log = import_dsjson(tmp_path / "slots", [written(tmp_path, half)])
    assert log.read().response.reward_known.tolist() == [False]


def test_lines_that_are_no_decisions_are_counted_and_a_constant_pdrop_is_kept(tmp_path: Path) -> None:
    lines = (changed(BANDIT, pdrop=0.5), changed(BANDIT, _skipLearn=True), {"RewardValue": 1, "EventId": "a"})
    log = import_dsjson(tmp_path / "log", [written(tmp_path, *lines)])
    assert len(log) == 1
    assert (log.source["skipped"], log.source["pdrop"]) == (2, 0.5)
    with pytest.raises(InputError, match=r"line 2 has pdrop 0.0, lines before have 0.5"):
        import_dsjson(tmp_path / "other", [written(tmp_path, changed(BANDIT, pdrop=0.5), BANDIT)])


def test_several_files_are_one_log_in_their_order(tmp_path: Path) -> None:
    first = tmp_path / "first.json"
    written(tmp_path, BANDIT).rename(first)
    log = import_dsjson(tmp_path / "log", [first, written(tmp_path, changed(BANDIT, EventId="b", VWState=None))])
    rows = log.read()
    assert rows.decision_id is not None
    assert list(rows.decision_id) == ["a", "b"]
    assert rows.policy_version is None  # not every line has one


def test_features_of_json_are_those_that_vowpal_wabbit_sees() -> None:
    value = {"n": 2, "yes": True, "s": "x", "none": None, "_hidden": 1, "_text": "two words", "list": [1, 0.5],
             "space": {"k": {"deep": 3}}, "many": [{"a": 1}, {"b": "c"}], "tags": ["u", "v"]}  # fmt: skip
    assert named_features(value) == [
        (("", "n"), 2), (("", "yes"), 1), (("s", "s=x"), 1), (("", "=two"), 1), (("", "=words"), 1),
        (("list", "list[0]"), 1), (("list", "list[1]"), 0.5), (("space.k", "space.k.deep"), 3), (("many", "many.a"), 1),
        (("many.b", "many.b=c"), 1), (("tags", "tags=u"), 1), (("tags", "tags=v"), 1),
    ]  # fmt: skip


def test_large_groups_are_hashed_and_collisions_counted() -> None:
    features = NamedFeatures(buckets=8)
    values = [{"user": f"u{i}", "age": i} for i in range(30)]
    for value in values:
        features.see(value)
    assert features.names == ("age", *(f"user#{k}" for k in range(8)))
    buckets = [crc32(f"user=u{i}".encode()) % 8 for i in range(30)]
    expected = torch.cat([torch.arange(30.0).unsqueeze(1), torch.eye(8)[buckets]], 1)
    assert torch.equal(features.matrix(values), expected)
    crowded = sum(buckets.count(bucket) > 1 for bucket in buckets)
    assert features.hashed() == {"user": {"names": 30, "columns": 8, "collisions": crowded}}
    assert crowded > 0


BAD = [
    ("{", "is not a JSON object"),
    ("[1]\n", "is a JSON list, expected an object"),
    ('{"c": {"x": NaN, "_multi": [{}]}}\n', "NaN is no number of JSON"),
    (changed(BANDIT, c={"x": 10**400, "_multi": [{}, {}]}), "has x 10000000000000000000: too large for a feature"),
    ("[" * 100_000 + "\n", "is not a JSON object"),
    (changed(BANDIT, c=None), "has no `c`, an object"),
    (changed(BANDIT, c={}), "has no `c._multi`, a list of the actions"),
    (changed(BANDIT, c={"_multi": []}), "has no actions in `c._multi`"),
    (changed(BANDIT, c={"_multi": [1]}), "has no actions in `c._multi`"),
    (changed(BANDIT, _labelIndex=2), "shows action 2, `c._multi` has 2 (0 to 1)"),
    (changed(BANDIT, _labelIndex=1.0), "has _labelIndex 1.0: expected the number of an action"),
    (changed(BANDIT, _label_probability=1.5), "has _label_probability 1.5: expected a number from 0 to 1"),
    (changed(BANDIT, _label_probability=0), "shows an action of probability 0"),
    (changed(BANDIT, _label_cost="x"), "has _label_cost 'x': expected a number"),
    (changed(BANDIT, _labelIndex=None, a=None), "does not say what was shown"),
    (changed(BANDIT, Timestamp="soon"), "has Timestamp 'soon': expected a time like"),
    (changed(BANDIT, pdrop=2), "has pdrop 2: expected a number from 0 to 1"),
    (changed(SLOTS, _outcomes=[]), "shows nothing"),
    (changed(SLOTS, _outcomes=[SLOTS["_outcomes"][0]] * 2), "shows an action in two slots"),
    (changed(SLOTS, c={"_multi": [{"_slot_id": 0}]}), "keeps actions for one slot"),
    (changed(SLOTS, c={"_multi": [{}], "_slots": [{"_inc": [0]}]}), "keeps actions for one slot"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, line: Any, words: str) -> None:
    file = written(tmp_path, BANDIT, line if isinstance(line, dict) else line.strip() + "\n", BANDIT, "{}\n")
    with pytest.raises(InputError) as caught:
        import_dsjson(tmp_path / "log", [file])
    assert str(caught.value).startswith(f"{file}: line 2 ")
    assert words in str(caught.value)
    assert str(caught.value).endswith("; 2 of 4 lines are affected, correct or drop them")
    assert list(tmp_path.iterdir()) == [file]


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    file = written(tmp_path, BANDIT)
    file.write_bytes(file.read_bytes().replace(b"Rome", b"R\xffme"))
    with pytest.raises(InputError, match=r"line 1 is not a JSON object \('utf-8' codec"):
        import_dsjson(tmp_path / "log", [file])


def test_files_and_settings_that_cannot_be(tmp_path: Path) -> None:
    for files, words in (([], "no file: no decisions"), ([tmp_path / "no"], "no is not a file: give dsjson files")):
        with pytest.raises(InputError, match=words):
            import_dsjson(tmp_path / "log", files)
    with pytest.raises(InputError, match=r"log\.json: no decisions found"):
        import_dsjson(tmp_path / "log", [written(tmp_path, "\n")])
    with pytest.raises(InputError, match="buckets=0"):
        import_dsjson(tmp_path / "log", [written(tmp_path, BANDIT)], buckets=0)


def test_whatever_stands_in_a_line_is_read_or_refused(tmp_path: Path) -> None:
    """Replace random values within a line by others: nothing but InputError may come out."""
    source, values = random.Random(0), [None, True, -1, 0.5, "x", [], {}, [1], {"_multi": 1}, 1e300]
    refused = 0
    for _ in range(200):
        line = copy.deepcopy(source.choice([BANDIT, SLOTS]))
        place: Any = line
        while True:
            key = source.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and source.random() < 0.7:
                place = place[key]
                continue
            place[key] = source.choice(values)
            break
        try:
            import_dsjson(tmp_path / "log", [written(tmp_path, line)], overwrite=True)
        except InputError:
            refused += 1
    assert 50 < refused < 195


def interactions(rows: int, slots: int, seed: int = 0) -> tuple[Interactions, Spec]:
    """Return random decisions with a catalogue, features of candidates, masked candidates at the end, and times."""
    source = torch.Generator().manual_seed(seed)
    catalogue = Catalogue.of(torch.randn(9, 2, generator=source), [f"film {i}" for i in range(9)])
    spec = Spec(("age", "place.north"), ("year", "length"), ("price", "shop.near"), ("watch",), 6, slots)
    count = torch.randint(4, 7, (rows, 1), generator=source)
    ids = torch.randint(0, 9, (rows, 6), generator=source)
    observation = Observation(
        torch.randn(rows, 2, generator=source),
        torch.where(torch.arange(6) < count, ids, -1),
        torch.randn(rows, 6, 2, generator=source),
        catalogue,
    )
    slate = torch.stack([torch.randperm(4, generator=source)[:slots] for _ in range(rows)])
    propensity = torch.rand(rows, slots, generator=source, dtype=torch.float64) * 0.9 + 0.05
    reward = torch.randn(rows, slots, generator=source, dtype=torch.float64)
    known = torch.rand(rows, generator=source) < (0.8 if slots == 1 else 2)
    beside = torch.randn(rows, generator=source, dtype=torch.float64) * (slots > 1)
    signals = torch.rand(rows, slots, 1, generator=source)
    yes, at = torch.ones(rows, dtype=torch.bool), torch.arange(rows)
    return Interactions(
        observation, Decision(slate, propensity), Response(reward > 0, signals, reward, beside, known), None, yes, ~yes,
        at, 0 * at, time=at * 1_234_567 + 1_700_000_000_000_001,
        decision_id=np.array([f"d{i}" for i in range(rows)], dtype=object),
        policy_version=np.array(["v1"] * rows, dtype=object),
    ), spec  # fmt: skip


def logged(folder: Path, rows: Interactions, spec: Spec, **options: Any) -> Log:
    with LogWriter(folder, spec, {"kind": "test"}, **options) as writer:
        writer.add(rows)
    return Log(folder)


def features(log: Log, rows: Interactions) -> dict[str, Tensor]:
    """Return the features of candidates by name [B, C], 0 where masked, and those of the user [B]."""
    positions = torch.where(rows.observation.mask, torch.arange(log.spec.candidates), -1)
    items = rows.observation.features(positions)
    named = dict(zip([*log.spec.catalogue, *log.spec.items], items.unbind(2), strict=True))
    return named | dict(zip(log.spec.user, rows.observation.user.unbind(1), strict=True))


@pytest.mark.parametrize("slots", [1, 3])
def test_a_log_survives_the_way_out_and_in(tmp_path: Path, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slatewise.logs.dsjson.BATCH_BYTES", 4000)  # many batches
    rows, spec = interactions(300, slots)
    log = logged(tmp_path / "log", rows, spec)
    assert export_dsjson(log, tmp_path / "out.json") == 300
    again = import_dsjson(tmp_path / "again", [tmp_path / "out.json"])
    back = again.read()
    assert torch.equal(back.decision.slate, rows.decision.slate)
    assert torch.equal(back.decision.propensity, rows.decision.propensity)
    assert torch.equal(back.response.reward_known, rows.response.reward_known)
    known = rows.response.reward_known
    assert torch.equal(back.response.reward[known], rows.response.reward[known])
    assert torch.equal(back.response.decision_reward, rows.response.decision_reward)
    assert torch.equal(back.observation.mask, rows.observation.mask)
    assert back.time is not None
    assert rows.time is not None
    assert torch.equal(back.time, rows.time)
    assert back.decision_id is not None
    assert list(back.decision_id) == [f"d{i}" for i in range(300)]
    names = {"age": "user.age", "place.north": "place.north", "year": "catalogue.year", "length": "catalogue.length",
             "price": "item.price", "shop.near": "shop.near"}  # fmt: skip
    before, after = features(log, rows), features(again, back)
    assert {names[key] for key in before} == set(after)
    for key, values in before.items():
        assert torch.equal(after[names[key]], values), key
    assert log.catalogue is not None
    assert log.catalogue.ids is not None
    assert again.catalogue is not None
    assert again.catalogue.ids is not None
    theirs = [[again.catalogue.ids[i] if i >= 0 else "" for i in row] for row in back.observation.item_ids.tolist()]
    assert theirs == [[log.catalogue.ids[i] if i >= 0 else "" for i in r] for r in rows.observation.item_ids.tolist()]


def test_what_cannot_be_exported_is_refused_and_nothing_written(tmp_path: Path) -> None:
    rows, spec = interactions(5, 1)
    unknown = logged(tmp_path / "unknown", rows, spec, propensities={"kind": "unknown"})
    with pytest.raises(InputError, match="has no propensities, and dsjson needs them"):
        export_dsjson(unknown, tmp_path / "out.json")
    twice = logged(tmp_path / "twice", rows, Spec(("a", "b"), ("x", "s.y"), ("z", "s.y"), ("watch",), 6, 1))
    with pytest.raises(InputError, match=r"two features are called 's\.y'"):
        export_dsjson(twice, tmp_path / "out.json")
    (tmp_path / "out.json").write_text("mine")
    log = logged(tmp_path / "log", rows, spec)
    with pytest.raises(InputError, match="exists: choose another path, or overwrite it"):
        export_dsjson(log, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "mine"
    assert export_dsjson(log, tmp_path / "out.json", overwrite=True) == 5
    assert not [path for path in tmp_path.iterdir() if "writing" in path.name]


def read_by_vowpal_wabbit(file: Path, reduction: str) -> str:
    vw = pytest.importorskip("vowpalwabbit", reason="pip install vowpalwabbit: an optional check")
    workspace = vw.Workspace(f"{reduction} --dsjson -d {file} --no_stdin --learning_rate 0", enable_logging=True)
    workspace.finish()
    return "\n".join(workspace.get_log())


def test_vowpal_wabbit_estimates_the_same_from_what_is_exported(tmp_path: Path) -> None:
    """Without learning it always shows the first action; its loss is then the IPS estimate of that policy's cost."""
    rows, spec = interactions(200, 1)
    export_dsjson(logged(tmp_path / "log", rows, spec), tmp_path / "out.json")
    said = read_by_vowpal_wabbit(tmp_path / "out.json", "--cb_adf --cb_type ips")
    assert "error" not in said.lower()
    assert "number of examples = 200" in said
    known = rows.response.reward_known
    weight = (rows.decision.slate[:, 0] == 0) / rows.decision.propensity[:, 0]
    expected = float(-(weight * rows.response.reward[:, 0])[known].mean())
    assert float(said.split("average loss = ")[1].split()[0]) == pytest.approx(expected, abs=2e-6)


def test_vowpal_wabbit_reads_several_slots(tmp_path: Path) -> None:
    rows, spec = interactions(200, 3)
    export_dsjson(logged(tmp_path / "log", rows, spec), tmp_path / "out.json")
    said = read_by_vowpal_wabbit(tmp_path / "out.json", "--ccb_explore_adf")
    assert "error" not in said.lower()
    assert "number of examples = 200" in said
