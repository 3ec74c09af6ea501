"""From a table to a log: what comes out is what the table said; what cannot be is named before anything is written."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

import slatewise as sw
from slatewise import cli
from slatewise.arrow import stable_hash
from slatewise.errors import InputError
from slatewise.logs import TableMapping, check, from_table

MOVIES = pa.table(
    {"movie": ["m1", "m2", "m3"], "genres": [["war"], ["love"], ["love", "war"]], "year": [1990, 2000, 2010]}
)
CLICKS = pa.table({
    "who": ["ann", "bob", "ann", "cat"],
    "age": [20, 30, 20, 40],
    "movie": ["m2", "m1", "m3", "m2"],
    "clicked": [1, 0, 0, 1],
    "seconds": [12.5, None, 0.0, 3.0],
    "chance": [0.5, 0.25, 0.2, 1.0],
    "when": ["2024-01-01T10:00:00Z", "2024-01-01T12:00:00+01:00", "2024-01-01 10:30:00", "2024-01-02"],
})  # fmt: skip
MAPPING: dict[str, Any] = {
    "item": "movie",
    "reward": "clicked",
    "propensity": "chance",
    "user": "who",
    "time": "when",
    "user_features": ["age"],
    "item_features": ["genres", "year"],
}


def without(*names: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in MAPPING.items() if key not in names} | more


def test_a_table_of_clicks_becomes_the_log_it_describes(tmp_path: Path) -> None:
    log = from_table(CLICKS, tmp_path / "log", without(signals=["seconds"]), MOVIES)
    rows = log.read()
    assert log.spec.user == ("age",)
    assert log.spec.catalogue == ("genres=love", "genres=war", "genres=<other>", "year")
    assert (log.spec.signals, log.spec.candidates, log.spec.slate_size) == (("clicked", "seconds"), 3, 1)
    assert log.catalogue is not None
    assert log.catalogue.ids == ("m1", "m2", "m3")
    assert log.catalogue.features[:, :3].tolist() == [[0, 1, 0], [1, 0, 0], [1, 1, 0]]
    # In order of time: 10:00, 10:30, 11:00 UTC, and the next day.
    hour = 3_600_000_000
    start = 1_704_067_200_000_000  # 2024-01-01, UTC
    assert rows.time is not None
    assert (rows.time - start).tolist() == [10 * hour, 10.5 * hour, 11 * hour, 24 * hour]
    assert rows.user_id is not None
    assert rows.user_id.tolist() == stable_hash(pa.array(["ann", "ann", "bob", "cat"])).tolist()
    assert rows.decision.slate.tolist() == [[1], [2], [0], [1]]
    assert rows.decision.propensity.tolist() == [[0.5], [0.2], [0.25], [1.0]]
    assert rows.response.reward.tolist() == [[1], [0], [0], [1]]
    assert rows.response.signals[:, 0].tolist() == [[1, 12.5], [0, 0], [0, 0], [1, 3]]
    assert rows.response.clicked.tolist() == [[True], [False], [False], [True]]
    assert rows.episode.tolist() == [0, 1, 2, 3]
    assert bool(rows.terminated.all())
    assert rows.next_observation is None
    expected = (torch.tensor([20.0, 20.0, 30.0, 40.0]) - 27.5) / np.std([20, 20, 30, 40])
    torch.testing.assert_close(rows.observation.user[:, 0], expected.float())
    assert log.propensities["kind"] == "logged"
    assert log.source["report"]["empty_signals"] == {"seconds": 1}
    assert log.source["report"]["users"] == 3


@pytest.mark.parametrize("library", ["pandas", "polars", "dicts", "parquet", "csv"])
def test_every_kind_of_table_becomes_the_same_log(tmp_path: Path, library: str) -> None:
    clicks, movies = CLICKS, MOVIES.set_column(1, "genres", pa.array(["war", "love", "love|war"]))
    mapping = without("item_features", item_features=[{"column": "genres", "kind": "list"}, "year"])
    expected = from_table(clicks, tmp_path / "arrow", mapping, movies)
    if library == "parquet":
        for name, table in (("clicks", clicks), ("movies", movies)):
            pq.write_table(table, tmp_path / f"{name}.parquet")
        given: tuple[Any, Any] = (tmp_path / "clicks.parquet", str(tmp_path / "movies.parquet"))
    elif library == "csv":
        for name, table in (("clicks", clicks), ("movies", movies)):
            pyarrow.csv.write_csv(table, tmp_path / f"{name}.csv")
        given = (tmp_path / "clicks.csv", tmp_path / "movies.csv")
    elif library == "dicts":
        given = (clicks.to_pylist(), movies.to_pylist())
    elif library == "polars":
        polars = pytest.importorskip("polars")
        given = (polars.from_arrow(clicks), polars.from_arrow(movies))
    else:
        pytest.importorskip("pandas")
        given = (clicks.to_pandas(), movies.to_pandas())
    log = from_table(given[0], tmp_path / "log", mapping, given[1])
    assert log.digest == expected.digest
    assert log.spec == expected.spec


def test_ids_with_leading_zeros_stay_what_they_are_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("item,r\n007,1\n7,0\n")
    log = from_table(
        tmp_path / "clicks.csv", tmp_path / "log", {"item": "item", "reward": "r", "propensities": "uniform"}
    )
    assert log.catalogue is not None
    assert log.catalogue.ids == ("007", "7")


def test_without_a_table_of_items_the_catalogue_is_what_occurs(tmp_path: Path) -> None:
    table = pa.table({"item": [10, 9, 10], "r": [0.5, -1, 2]})
    log = from_table(table, tmp_path / "log", {"item": "item", "reward": "r", "propensities": "uniform"})
    assert log.catalogue is not None
    assert log.catalogue.ids == ("9", "10")
    assert log.spec.catalogue == log.spec.user == ()
    rows = log.read()
    assert rows.decision.slate.tolist() == [[1], [0], [1]]
    assert rows.decision.propensity.tolist() == [[0.5]] * 3
    assert rows.response.reward.tolist() == [[0.5], [-1], [2]]
    assert "item_ids" not in pq.read_schema(next((tmp_path / "log").glob("part-*"))).names


SLATES = pa.table({
    "page": ["p1", "p2", "p1", "p2", "p3"],
    "slot": [2, 1, 1, 3, 1],
    "movie": ["m1", "m3", "m2", "m2", "m1"],
    "clicked": [0, 0, 1, 1, 0],
    "paid": [0.0, None, 4.0, 2.0, 1.0],
    "p": [0.5, 0.2, 0.25, 0.75, 0.1],
    "offered": [["m1", "m2"], ["m3", "m2", "m1"], ["m1", "m2"], ["m3", "m2", "m1"], ["m1", "m3"]],
    "price": [[1.0, 2.0], [3.0, 2.0, 1.0], [1.0, 2.0], [3.0, 2.0, 1.0], [1.0, 3.0]],
})  # fmt: skip
SLATE_MAPPING: dict[str, Any] = {
    "item": "movie",
    "reward": {"clicked": 1, "paid": 0.5},
    "clicked": "clicked",
    "propensity": "p",
    "decision": "page",
    "position": "slot",
    "candidates": "offered",
    "candidate_features": [{"column": "price", "kind": "numeric", "standardise": False}],
}


def test_clicks_with_positions_become_slates(tmp_path: Path) -> None:
    log = from_table(SLATES, tmp_path / "log", SLATE_MAPPING)
    rows = log.read()
    assert log.spec.items == ("price",)
    assert (log.spec.candidates, log.spec.slate_size) == (3, 2)
    assert rows.observation.item_ids.tolist() == [[0, 1, -1], [2, 1, 0], [0, 2, -1]]  # m1, m2, m3 are 0, 1, 2
    assert rows.observation.items[..., 0].tolist() == [[1, 2, 0], [3, 2, 1], [1, 3, 0]]
    assert rows.decision.slate.tolist() == [[1, 0], [0, 1], [0, -1]]
    assert rows.decision.propensity.tolist() == [[0.25, 0.5], [0.2, 0.75], [0.1, 1]]
    assert rows.response.clicked.tolist() == [[True, False], [False, True], [False, False]]
    assert rows.response.reward_known.tolist() == [True, False, True]  # a slot of p2 was not paid or we do not know
    assert rows.response.reward.tolist() == [[3, 0], [0, 2], [0.5, 0]]
    assert rows.decision_id is not None
    assert rows.decision_id.tolist() == ["p1", "p2", "p3"]
    report = log.source["report"]
    assert (report["unknown_rewards"], report["short_slates"], report["empty_signals"]) == (1, 1, {"paid": 1})


def test_an_empty_reward_can_be_nothing(tmp_path: Path) -> None:
    log = from_table(SLATES, tmp_path / "log", SLATE_MAPPING | {"missing_reward": "zero"})
    assert bool(log.read().response.reward_known.all())


def test_candidates_as_rows_are_the_same_as_lists_of_them(tmp_path: Path) -> None:
    flat = [
        {"page": page, "movie": movie, "price": price, "shown": shown, "slot": slot, "clicked": clicked, "p": p}
        for page, movie, price, shown, slot, clicked, p in [
            ("p1", "m1", 1.0, True, 2, 0, 0.5),
            ("p2", "m3", 3.0, True, 1, 0, 0.2),
            ("p1", "m2", 2.0, True, 1, 1, 0.25),
            ("p2", "m2", 2.0, True, 3, 1, 0.75),
            ("p2", "m1", 1.0, False, None, None, None),
        ]
    ]
    listed = SLATES.slice(0, 4).drop_columns(["paid"])
    mapping = SLATE_MAPPING | {"reward": "clicked"}
    expected = from_table(listed, tmp_path / "listed", mapping)
    rows = {key: value for key, value in mapping.items() if key != "candidates"} | {"shown": "shown"}
    log = from_table(pa.Table.from_pylist(flat), tmp_path / "rows", rows)
    assert log.digest == expected.digest


@pytest.mark.parametrize("library", ["text", "lists"])
def test_candidates_may_be_text(tmp_path: Path, library: str) -> None:
    offered = SLATES["offered"].to_pylist()
    table = SLATES.drop_columns(["price"])
    if library == "text":
        table = table.set_column(
            table.column_names.index("offered"), "offered", pa.array([";".join(o) for o in offered])
        )
    mapping = {key: value for key, value in SLATE_MAPPING.items() if key != "candidate_features"} | {"separator": ";"}
    rows = from_table(table, tmp_path / library, mapping).read()
    assert rows.observation.item_ids.tolist() == [[0, 1, -1], [2, 1, 0], [0, 2, -1]]


def test_uniform_propensities_count_the_candidates_that_are_left(tmp_path: Path) -> None:
    mapping = {key: value for key, value in SLATE_MAPPING.items() if key != "propensity"} | {"propensities": "uniform"}
    log = from_table(SLATES, tmp_path / "log", mapping)
    rows = log.read()
    torch.testing.assert_close(rows.decision.propensity[:2], torch.tensor([[1 / 2, 1], [1 / 3, 1 / 2]]).double())
    expected = sw.Random(2, seed=0).propensity(rows.observation, rows.decision.slate)
    torch.testing.assert_close(rows.decision.propensity[:2], expected[:2])
    assert log.propensities == {"kind": "logged", "how": "uniform, as the mapping says"}


def test_unknown_propensities_are_for_learning_only_and_warn_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = from_table(CLICKS, tmp_path / "log", without("propensity", propensities="unknown"), MOVIES)
    assert log.propensities == {"kind": "unknown"}


def sessions_one_by_one(users: list[int], minutes: list[int], gap: float) -> list[list[int]]:
    """Return the rows of sessions, in order, by walking through the decisions: a slow reference."""
    found: list[list[int]] = []
    open_sessions: dict[int, list[int]] = {}
    for row in sorted(range(len(users)), key=lambda i: minutes[i]):
        session = open_sessions.get(users[row])
        if session is None or minutes[row] - minutes[session[-1]] > gap:
            session = open_sessions[users[row]] = []
            found.append(session)
        session.append(row)
    return found


def test_sessions_are_what_no_gap_interrupts(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    users, minutes = random.integers(0, 5, 60).tolist(), random.permutation(2000)[:60].tolist()
    table = pa.table({
        "user": users, "at": [60 * m for m in minutes], "item": random.integers(0, 4, 60),
        "row": np.arange(60.0), "r": 30 * [0, 1],
    })  # fmt: skip
    mapping = {
        "item": "item", "reward": "r", "propensities": "uniform", "user": "user", "time": "at", "time_unit": "s",
        "session_gap": 45, "user_features": [{"column": "row", "kind": "numeric", "standardise": False}],
    }  # fmt: skip
    log = from_table(table, tmp_path / "log", mapping)
    rows = log.read()
    expected = sessions_one_by_one(users, minutes, 45)
    assert rows.observation.user[:, 0].tolist() == [row for session in expected for row in session]
    assert rows.episode.tolist() == [i for i, session in enumerate(expected) for _ in session]
    assert rows.step.tolist() == [i for session in expected for i in range(len(session))]
    assert rows.terminated.tolist() == [row == session[-1] for session in expected for row in session]
    assert rows.next_observation is not None
    following = [row for session in expected for row in [*session[1:], session[-1]]]  # of the last: itself
    assert rows.next_observation.user[:, 0].tolist() == following
    assert check(log)["problems"] == []


def test_sessions_of_a_column_belong_to_their_user(tmp_path: Path) -> None:
    table = pa.table({
        "user": ["a", "b", "a", "a"], "visit": [1, 1, 1, 2], "at": [3, 2, 1, 4],
        "item": [0, 1, 0, 1], "r": [1, 2, 3, 4],
    })  # fmt: skip
    mapping = {
        "item": "item", "reward": "r", "propensities": "uniform",
        "user": "user", "session": "visit", "time": "at", "time_unit": "ms",
    }  # fmt: skip
    rows = from_table(table, tmp_path / "log", mapping).read()
    assert rows.response.reward[:, 0].tolist() == [3, 1, 2, 4]
    assert rows.episode.tolist() == [0, 0, 1, 2]
    assert rows.time is not None
    assert rows.time.tolist() == [1000, 3000, 2000, 4000]


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (pa.array([1.5], pa.float64()), "s"),
        (pa.array([1500]), "ms"),
        (pa.array([1_500_000]), "us"),
        (pa.array([1500], pa.timestamp("ms")), None),
        (pa.array([1_500_000_000], pa.timestamp("ns", "Europe/Vienna")), None),
        (pa.array(["1970-01-01T00:00:01.5Z"]), None),
        (pa.array(["1970-01-01T01:00:01.500+0100"]), None),
        (pa.array(["1970-W01-4T00:00:01.500"]), None),
    ],
)
def test_times_of_all_kinds_are_the_same_instant(tmp_path: Path, values: Any, unit: str | None) -> None:
    table = pa.table({"item": ["a"], "r": [1], "t": values})
    mapping = {"item": "item", "reward": "r", "propensities": "unknown", "time": "t"} | (
        {"time_unit": unit} if unit else {}
    )
    rows = from_table(table, tmp_path / "log", mapping).read()
    assert rows.time is not None
    assert rows.time.tolist() == [1_500_000]


def test_the_order_of_the_rows_does_not_matter_where_there_are_times(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    decision = np.repeat(np.arange(200), 3)
    candidates = [sorted(random.permutation(6)[:4].tolist()) for _ in range(200)]
    table = pa.table({
        "d": decision, "slot": np.tile([1, 2, 3], 200), "at": random.permutation(200)[decision], "user": decision % 7,
        "item": np.concatenate([random.permutation(c)[:3] for c in candidates]),
        "all": [candidates[d] for d in decision], "r": random.random(600), "p": random.random(600),
    })  # fmt: skip
    mapping = {
        "item": "item", "reward": "r", "propensity": "p", "decision": "d", "position": "slot", "candidates": "all",
        "user": "user", "time": "at", "time_unit": "s", "session_gap": 0.5,
        "user_features": [{"column": "at", "kind": "numeric", "standardise": False}],
    }  # fmt: skip
    log = from_table(table, tmp_path / "log", mapping)
    shuffled = from_table(table.take(pa.array(random.permutation(600))), tmp_path / "shuffled", mapping)
    assert shuffled.digest == log.digest
    assert 1 < log.sessions < 200


def test_many_blocks_are_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    table = pa.table({
        "user": random.integers(0, 9, 500), "at": random.permutation(500),
        "item": random.integers(0, 4, 500), "r": 500 * [1],
    })  # fmt: skip
    mapping = {
        "item": "item", "reward": "r", "propensities": "uniform", "user": "user", "time": "at", "time_unit": "s",
        "session_gap": 1, "user_features": ["at"],
    }  # fmt: skip
    whole = from_table(table, tmp_path / "whole", mapping)
    monkeypatch.setattr("slatewise.logs.table.BLOCK_ROWS", 7)
    assert from_table(table, tmp_path / "blocks", mapping).digest == whole.digest


def test_another_table_gets_the_features_of_the_first(tmp_path: Path) -> None:
    first = from_table(CLICKS, tmp_path / "first", MAPPING, MOVIES)
    assert first.features is not None
    second = from_table(CLICKS.slice(2), tmp_path / "second", MAPPING, MOVIES, first.features)
    assert second.spec == first.spec
    assert second.features == first.features
    where = torch.tensor([1, 3])  # in order of time: the rows 2 and 3 of the table
    assert torch.equal(second.read().observation.user, first.read().observation.user[where])
    one = first.features.user.encode([{"age": 40}])  # a request is served with the same numbers
    assert torch.equal(one[0], first.read().observation.user[3])
    with pytest.raises(
        InputError, match=r"item_features are \['year'\], the given schema was fitted to \['genres', 'y"
    ):
        from_table(CLICKS, tmp_path / "third", MAPPING | {"item_features": ["year"]}, MOVIES, first.features)


# Propensities that are estimated.


def softmax_log(
    random: np.random.Generator, rows: int, slate_size: int, listed: bool
) -> tuple[pa.Table, pa.Table, Any]:
    """Return clicks, items and true propensities [B, K] of a policy that samples by a softmax, without replacement."""
    features, users = random.normal(size=(12, 3)), random.normal(size=(rows, 2))
    every = 0.6 * (users @ random.normal(size=(2, 3)) + 0.5) @ features.T + 0.5 * random.normal(size=12)
    ids = np.argsort(random.random((rows, 12)), 1)[:, : 6 if listed else 12]
    scores = np.take_along_axis(every, ids, 1)
    slate = np.argsort(-scores - random.gumbel(size=scores.shape), 1)[:, :slate_size]
    weights, propensity = np.exp(scores), []
    for slot in slate.T:
        propensity.append(weights[np.arange(rows), slot] / weights.sum(1))
        weights[np.arange(rows), slot] = 0
    shown = np.take_along_axis(ids, slate, 1)
    table = {
        "page": np.repeat(np.arange(rows), slate_size), "slot": np.tile(np.arange(slate_size), rows),
        "item": shown.reshape(-1), "r": (random.random(shown.size) < 0.1 + 0.05 * shown.reshape(-1)).astype(float),
        "u": np.repeat(users[:, 0], slate_size), "v": np.repeat(users[:, 1], slate_size),
        "candidates": np.repeat(ids, slate_size, 0).tolist(),
    }  # fmt: skip
    return (
        pa.table(table),
        pa.table({"item": np.arange(12)} | {f"f{i}": features[:, i] for i in range(3)}),
        np.stack(propensity, 1),
    )


ESTIMATED: dict[str, Any] = {
    "item": "item", "reward": "r", "decision": "page", "position": "slot", "propensities": "estimate",
    "user_features": ["u", "v"], "item_features": ["f0", "f1", "f2"],
}  # fmt: skip


@pytest.mark.parametrize(("slate_size", "listed"), [(1, True), (1, False), (2, True)])
def test_estimated_propensities_are_near_the_true_ones(tmp_path: Path, slate_size: int, listed: bool) -> None:
    clicks, items, true = softmax_log(np.random.default_rng(1), 6000, slate_size, listed)
    log = from_table(clicks, tmp_path / "log", ESTIMATED | ({"candidates": "candidates"} if listed else {}), items)
    found, about = log.read().decision.propensity.numpy(), log.propensities
    assert about["kind"] == "estimated"
    # The model is true, so only sampling error is left: its Kullback-Leibler divergence is about parameters / 2n.
    entropy = -np.log(true).sum(1).mean()
    assert about["log_loss"] - entropy < 2 * about["parameters"] / (2 * len(true))
    assert about["log_loss_uniform"] - about["log_loss"] > 0.3
    assert np.abs(found - true).mean() < 0.02
    assert 0.9 < about["temperature"] < 1.1
    weight = about["uniform_weight"]
    assert abs(weight["mean"] - 1) < 4 * weight["standard_error"]
    for row in about["calibration"]:
        error = (row["predicted"] * (1 - row["predicted"]) / row["candidates"]) ** 0.5
        assert abs(row["observed"] - row["predicted"]) < 4 * error
    assert check(log)["uniform_weight"]["mean"] == pytest.approx(weight["mean"], abs=1e-6)


def test_calibration_takes_back_what_noise_pretends(tmp_path: Path) -> None:
    """Under a uniform policy with useless features, estimates go back to uniform: no weight is far from 1."""
    random = np.random.default_rng(0)
    table = pa.table(
        {"item": random.integers(0, 5, 400), "r": 400 * [0]} | {f"x{i}": random.normal(size=400) for i in range(20)}
    )
    mapping = {"item": "item", "reward": "r", "propensities": "estimate", "user_features": [f"x{i}" for i in range(20)]}
    log = from_table(table, tmp_path / "log", mapping)
    assert float((log.read().decision.propensity * 5 - 1).abs().max()) < 0.2
    assert log.propensities["log_loss"] < np.log(5) + 1e-3


def test_an_estimate_from_the_log_agrees_with_the_logged_propensities(tmp_path: Path) -> None:
    clicks, items, true = softmax_log(np.random.default_rng(2), 6000, 1, True)
    clicks = clicks.append_column("p", pa.array(true[:, 0]))
    mapping = ESTIMATED | {"candidates": "candidates"}
    estimated = from_table(clicks, tmp_path / "estimated", mapping, items)
    logged = from_table(clicks, tmp_path / "logged", mapping | {"propensities": "logged", "propensity": "p"}, items)
    values = [sw.off_policy.evaluate(log, sw.Random(1, seed=0)).policies["random"] for log in (logged, estimated)]
    first, second = (v.estimates["SNIPS"] for v in values)
    assert abs(first.value - second.value) < (first.high - first.low) / 4
    truth = 0.1 + 0.05 * 5.5  # of a uniform policy: candidates are a uniform draw of items 0 to 11
    assert second.low < truth < second.high


# From the command line.


def test_the_command_imports_says_what_it_counted_and_takes_features_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["slatewise", "logs", "import", "table", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    monkeypatch.chdir(tmp_path)
    pq.write_table(SLATES, "pages.parquet")
    Path("pages.toml").write_text(
        'item = "movie"\nreward = "paid"\nsignals = ["clicked"]\npropensity = "p"\ndecision = "page"\n'
        'position = "slot"\nuser_features = [{ column = "page", kind = "hashed", buckets = 1 }]\n'
    )
    code, out, err = command("pages.parquet", "--mapping", "pages.toml", "--out", "first", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 3)
    assert err.splitlines() == [
        "1 of 3 decisions have no known reward",
        "signal paid: 1 slots are empty, and kept as 0",
        "1 slates are shorter than others although more candidates were there: they have weight 0 in off-policy "
        "evaluation, cut all slates to the slots that every one has",
        "hashed column page: 3 of 3 values share a bucket",
    ]
    code, *_ = command("pages.parquet", "--mapping", "pages.toml", "--like", "first", "--out", "second")
    assert code == 0
    assert sw.Log("second").digest == sw.Log("first").digest
    Path("pages.toml").write_text('item = "movie"\nreward = "paid"\npropensity = "p"\npositon = "slot"\n')
    code, _, err = command("pages.parquet", "--mapping", "pages.toml", "--out", "third")
    assert code == 2
    assert "unknown setting of pages.toml 'positon': did you mean 'position'" in err


# What cannot be.


def change(table: pa.Table, **columns: Any) -> pa.Table:
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


BAD_CLICKS = [
    (change(CLICKS, chance=[0.5, 0, 0.2, 0.0]), {}, "'chance' is 0 or less in 2 of 4 rows (1, 3): what was shown"),
    (change(CLICKS, chance=[0.5, 20.0, 0.2, 1.0]), {}, "'chance' is above 1 in 1 of 4 rows (1): a probability"),
    (change(CLICKS, chance=[0.5, None, None, 1.0]), {}, "'chance' is empty in 2 of 4 rows (1, 2): drop these"),
    (change(CLICKS, chance=["a", "b", "c", "d"]), {}, "'chance' is string: expected numbers or booleans"),
    (change(CLICKS, movie=["m2", "m9", "m8", "m1"]), {},
     "'movie' has an item that the item table lacks in 2 of 4 rows (1, 2)"),
    (change(CLICKS, movie=["m2", None, "m3", "m1"]), {}, "'movie' is empty in 1 of 4 rows (1): fill or drop"),
    (change(CLICKS, movie=[1.0, 2.0, 3.0, 1.0]), {}, "'movie' is double: expected strings or integers"),
    (change(CLICKS, when=["2024-01-01", "yesterday", "2024-13-01", "2024-01-01"]), {},
     "'when' is no time in 2 of 4 rows (1, 2)"),
    (change(CLICKS, when=[1, 2, 3, 4]), {}, "'when' is int64: say the unit of these numbers, time_unit"),
    (change(CLICKS, when=["2024-01-01", None, "2024-01-01", "2024-01-01"]), {},
     "'when' has no time in 1 of 4 rows (1)"),
    (change(CLICKS, when=[1, 2, 3, 1_700_000_000_000]), {"time_unit": "s"}, "'when' is beyond the year 2255 with"),
    (change(CLICKS, when=[1.0, float("nan"), 3.0, 4.0]), {"time_unit": "s"}, "'when' has no time in 1 of 4 rows (1)"),
    (change(CLICKS, age=[20, None, 20, 40]), {}, "'age' has no value in 1 of 4 rows (1)"),
    (change(CLICKS, age=[20.0, float("inf"), 20.0, 40.0]), {}, "'age' is infinite or above 1e+30 in 1 of 4 rows (1)"),
    (change(CLICKS, clicked=[1.0, float("inf"), 0.0, 1.0]), {}, "'clicked' is infinite in 1 of 4 rows (1)"),
    (CLICKS, {"user": "whom"}, "unknown column of the table 'whom': did you mean 'who'"),
    (CLICKS, {"decision": "who"}, "'who' names a decision again in 1 of 4 rows (2): drop repeated rows, or"),
    (CLICKS.slice(0, 0), {}, "the table has no rows"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "more", "words"), BAD_CLICKS)
def test_bad_values_name_column_rows_and_remedy(
    tmp_path: Path, table: pa.Table, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        from_table(table, tmp_path / "log", MAPPING | more, MOVIES)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


BAD_SLATES = [
    (change(SLATES, slot=[1, 1, 1, 2, 1]), {}, "'slot' is taken by another row of the decision in 1 of 5 rows (2)"),
    (change(SLATES, slot=[2, 1, None, 3, 1]), {}, "'slot' is empty in 1 of 5 rows (2)"),
    (change(SLATES, movie=["m1", "m3", "m1", "m2", "m1"]), {}, "'movie' repeats an item of the slate in 1 of 5 rows"),
    (change(SLATES, movie=["m1", "m3", "m3", "m2", "m2"]), {},
     "'movie' is not among the candidates in 2 of 5 rows (2, 4)"),
    (change(SLATES, offered=[["m1", "m2"], ["m3", "m2", "m3"], ["m1", "m2"], ["m3", "m2", "m3"], ["m1", "m3"]]), {},
     "'offered' repeats a candidate in 1 of 5 rows (1)"),
    (change(SLATES, offered=[["m1", "m2"], ["m3", "m2", "m1"], ["m2", "m1"], ["m3", "m2", "m1"], ["m1", "m3"]]), {},
     "'offered' differs from the first row of its decision in 1 of 5 rows (0)"),
    (change(SLATES, offered=[["m1", "m2"], [], ["m1", "m2"], ["m3", "m2", "m1"], ["m1", "m3"]]), {},
     "'offered' has an empty list in 1 of 5 rows (1)"),
    (change(SLATES, price=[[1.0, 2.0], [3.0, 2.0], [1.0, 2.0], [3.0, 2.0, 1.0], [1.0, 3.0]]), {},
     "'price' has not as many values as 'offered' in 1 of 5 rows (1)"),
    (change(SLATES, offered=[[1.5], [1.5], [1.5], [1.5], [1.5]]), {}, "'offered' is double: expected strings"),
    (change(SLATES, offered=[["m1", "m2"], ["m3", "m2", "m1"], ["m1", "m2"], ["m3", "m2", "m1"], ["m1", None]]), {},
     "'offered' has an empty candidate in 1 of 5 rows (4)"),
    (change(SLATES, price=[1.0, 2.0, 3.0, 4.0, 5.0]), {}, "'price' is double: expected lists with one value for each"),
    (change(SLATES, page=["p1", None, "p1", "p2", "p3"]), {}, "'page' is empty in 1 of 5 rows (1)"),
    (change(SLATES, price=[[1.0, 2.0], [3.0, None, 1.0], [1.0, 2.0], [3.0, 2.0, 1.0], [1.0, 3.0]]), {},
     "rows are the candidates of all decisions, one after the other: column 'price' has no value in 1 of 7 rows (3)"),
    (SLATES.append_column("who", pa.array(["a", "b", "a", "c", "b"])), {"user": "who"},
     "'who' differs from the first row of its decision in 1 of 5 rows (3): give every decision an id that no other"),
    (SLATES, {"position": None}, "'page' names a decision again in 2 of 5 rows (2, 3): drop repeated rows"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "more", "words"), BAD_SLATES)
def test_bad_slates_name_column_rows_and_remedy(
    tmp_path: Path, table: pa.Table, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        from_table(table, tmp_path / "log", SLATE_MAPPING | more)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_decision_that_showed_nothing_is_named(tmp_path: Path) -> None:
    table = pa.table({"d": [0, 0, 1, 1], "item": [1, 2, 1, 2], "shown": [True, False, False, False], "r": [1, 0, 0, 0]})
    mapping = {"item": "item", "reward": "r", "decision": "d", "shown": "shown", "propensities": "uniform"}
    with pytest.raises(InputError, match=r"'shown' is false in all rows of a decision in 2 of 4 rows \(2, 3\)"):
        from_table(table, tmp_path / "log", mapping)


def test_an_item_table_has_every_item_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'movie' of the item table repeats an item in 1 of 4 rows \(3\)"):
        from_table(CLICKS, tmp_path / "log", MAPPING, pa.concat_tables([MOVIES, MOVIES.slice(0, 1)]))
    with pytest.raises(InputError, match="item_features and item_id are columns of the item table: give one"):
        from_table(CLICKS, tmp_path / "log", MAPPING)


def test_too_few_users_cannot_estimate(tmp_path: Path) -> None:
    table = pa.table({"user": 20 * ["ann"], "item": 10 * [1, 2], "r": 20 * [0]})
    mapping = {"item": "item", "reward": "r", "user": "user", "propensities": "estimate"}
    with pytest.raises(InputError, match="1 users or sessions are too few to estimate propensities"):
        from_table(table, tmp_path / "log", mapping)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"itme": "a"}, "unknown setting of the mapping 'itme': did you mean"),
        ({"reward": "r", "propensities": "uniform"}, "item=None: field required"),
        ({"item": "a", "reward": "r"}, "propensities = 'logged' needs the column `propensity`"),
        (without(propensities="uniform"), "`propensity` is read only where propensities are 'logged'"),
        (without(position="p"), "need the column `decision`"),
        (without(candidates="c", shown="s"), "two ways to say the same"),
        (without("user", session_gap=30), "`session_gap` needs the columns `user` and `time`"),
        (without(session="s", session_gap=30), "`session` and `session_gap` are two ways"),
        (without(session_gap=0), "session_gap=0: input should be greater than 0"),
        (without(candidate_features=["price"]), "`candidate_features` need candidates"),
        (without(user_features=[{"column": "q", "kind": "hashd"}]), "unknown kind of column 'hashd': did you"),
        (without(time_unit="h"), "time_unit='h': input should be 's', 'ms' or 'us'"),
        (without(reward={}), "`reward` names no column"),
    ],
)  # fmt: skip
def test_a_mapping_is_checked(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        from_table(CLICKS, tmp_path / "log", values, MOVIES)
    assert words in str(caught.value)


def test_a_mapping_from_a_file_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(
        'item = "movie"\nreward = "clicked"\npropensity = "chance"\nuser = "who"\ntime = "when"\n'
        'item_features = ["genres", "year"]\n'
        'user_features = ["age", { column = "who", kind = "hashed", buckets = 8 }]\n'
    )
    log = from_table(CLICKS, tmp_path / "file", tmp_path / "mapping.toml", MOVIES)
    hashed = {"column": "who", "kind": "hashed", "buckets": 8}
    settings = TableMapping.of("the mapping", without(user_features=["age", hashed]))
    assert from_table(CLICKS, tmp_path / "python", settings, MOVIES).digest == log.digest
    again = from_table(CLICKS, tmp_path / "again", log.source["mapping"], MOVIES)
    assert (again.digest, again.source) == (log.digest, log.source)
    assert log.features is not None
    assert log.features.user.collisions["who"][1] == 3
    with pytest.raises(InputError, match=r"none.toml does not exist: give the path of a TOML file"):
        from_table(CLICKS, tmp_path / "log", tmp_path / "none.toml")
    with pytest.raises(InputError, match="file exists: choose another path, or overwrite it"):
        from_table(CLICKS, tmp_path / "file", MAPPING, MOVIES)
    from_table(CLICKS, tmp_path / "file", MAPPING, MOVIES, overwrite=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", b"", "neither .parquet nor .csv"),
        ("a.parquet", b"PAR1", "a.parquet cannot be read"),
        ("a.csv", b"", "a.csv cannot be read"),
        ("a.csv", b"movie,clicked\n1\n", "a.csv cannot be read"),
        ("a.csv", b"movie,clicked,chance,who,whenn,age\n", "unknown column of .*a.csv 'when': did you mean 'whenn'"),
        ("none.parquet", None, "none.parquet does not exist"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        from_table(tmp_path / name, tmp_path / "log", MAPPING, MOVIES)
