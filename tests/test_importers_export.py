"""Logs as flat tables, and the command line of importers and exporters."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from slatewise.errors import InputError
from slatewise.logs import Log, export_table
from test_cli import run
from test_importers import RATINGS, wheel
from test_importers_dsjson import BANDIT, interactions, logged, written

Logs = Callable[..., tuple[int, str, str]]


def test_every_shown_item_is_a_row(tmp_path: Path) -> None:
    rows, spec = interactions(50, 2)
    rows.decision.slate[3, 1], rows.decision.propensity[3, 1] = -1, 1  # a hole
    rows.response.clicked[3, 1], rows.response.reward[3, 1] = False, 0
    rows.response.reward_known[5] = False
    log = logged(tmp_path / "log", rows, spec)
    assert export_table(log, tmp_path / "out.parquet") == 99
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == [
        "decision", "episode", "step", "decision_id", "policy_version", "time", "position", "item", "propensity",
        "clicked", "watch", "reward", "decision_reward",
    ]  # fmt: skip
    assert table["time"].type == pa.timestamp("us", tz="UTC")
    found = table.to_pylist()
    at = [(i, k) for i in range(50) for k in range(2) if (i, k) != (3, 1)]
    assert [(row["decision"], row["position"] - 1) for row in found] == at
    catalogue = rows.observation.catalogue
    assert catalogue is not None
    assert catalogue.ids is not None
    for row, (i, k) in zip(found, at, strict=True):
        item = int(rows.observation.item_ids[i, rows.decision.slate[i, k]])
        assert row["item"] == catalogue.ids[item] == f"film {item}"
        assert row["propensity"] == float(rows.decision.propensity[i, k])
        assert row["clicked"] == bool(rows.response.clicked[i, k])
        assert row["watch"] == float(rows.response.signals[i, k, 0])
        assert row["reward"] == (None if i == 5 else float(rows.response.reward[i, k]))
        assert row["decision_id"] == f"d{i}"
    known = rows.response.reward_known
    total = sum(row[name] for row in found if row["reward"] is not None for name in ("reward", "decision_reward"))
    assert total == pytest.approx(float(rows.response.total_reward[known].sum()))


def test_csv_says_the_same_as_parquet(tmp_path: Path) -> None:
    rows, spec = interactions(40, 2)
    log = logged(tmp_path / "log", rows, spec)
    assert export_table(log, tmp_path / "out.csv", "csv") == export_table(log, tmp_path / "out.parquet") == 80
    theirs, ours = pyarrow.csv.read_csv(tmp_path / "out.csv"), pq.read_table(tmp_path / "out.parquet")
    for name in ours.column_names:
        if name == "time":
            continue
        assert theirs[name].to_pylist() == pytest.approx(ours[name].to_pylist()) if ours[name].type in (
            pa.float32(), pa.float64()) else theirs[name].to_pylist() == ours[name].to_pylist(), name  # fmt: skip


def test_a_long_log_is_written_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, spec = interactions(30, 1)
    log = logged(tmp_path / "log", rows, spec)
    export_table(log, tmp_path / "whole.parquet")
    monkeypatch.setattr("slatewise.logs.log.BLOCK_ROWS", 7)
    export_table(Log(log.path), tmp_path / "pieces.parquet")
    assert pq.ParquetFile(tmp_path / "pieces.parquet").num_row_groups == 5
    assert pq.read_table(tmp_path / "pieces.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_unknown_propensities_are_empty_and_taken_names_are_changed(tmp_path: Path) -> None:
    rows, spec = interactions(5, 1)
    spec = type(spec)(spec.user, spec.catalogue, spec.items, ("reward",), 6, 1)
    log = logged(tmp_path / "log", rows, spec, propensities={"kind": "unknown"})
    export_table(log, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["propensity"].null_count == 5
    assert table["signal_reward"].to_pylist() == rows.response.signals[:, 0, 0].tolist()


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, spec = interactions(30, 1)
    log = logged(tmp_path / "log", rows, spec)
    with pytest.raises(InputError, match="unknown format 'parket': did you mean 'parquet'"):
        export_table(log, tmp_path / "out", "parket")  # pyright: ignore
    with pytest.raises(InputError, match="exists: name a file in it"):
        export_table(log, tmp_path)
    monkeypatch.setattr("slatewise.logs.log.BLOCK_ROWS", 7)
    log = Log(log.path)
    part = next(log.path.glob("part-*"))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(InputError, match="is not a complete Parquet file"):
        export_table(log, tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.fixture
def logs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Logs:
    """Return `slatewise logs`, run in this process."""
    return lambda *arguments: run(capsys, monkeypatch, "logs", *map(str, arguments))


def test_the_command_line_imports_and_exports(logs: Logs, tmp_path: Path) -> None:
    films = tmp_path / "films"
    code, out, err = logs("import", "movielens", wheel(tmp_path), "--out", films, "--json")
    assert (code, json.loads(out)["rows"]) == (0, len(RATINGS))
    assert "research, not for commercial use" in err
    code, out, err = logs("export", films, "--format", "csv", "--out", tmp_path / "films.csv", "--json")
    assert (code, json.loads(out)["rows"]) == (0, len(RATINGS))
    assert f"the propensities of {films} are unknown" in err
    code, _, err = logs("export", films, "--format", "dsjson", "--out", tmp_path / "films.json")
    assert code == 2
    assert "has no propensities, and dsjson needs them" in err

    lines = [BANDIT | {"EventId": str(i), "c": BANDIT["c"] | {"who": f"u{i}"}} for i in range(9)]
    code, out, err = logs(
        "import", "dsjson", written(tmp_path, *lines), "--out", tmp_path / "vw", "--buckets", "8", "--json"
    )
    assert (code, json.loads(out)["rows"]) == (0, 9)
    assert "user feature who: 9 names in 8 columns, " in err
    code, out, _ = logs("export", tmp_path / "vw", "--format", "dsjson", "--out", tmp_path / "again.json")
    assert code == 0
    assert len((tmp_path / "again.json").read_text().splitlines()) == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("import", "movilens"),
            "unknown import 'movilens': did you mean 'movielens'? known are dsjson, movielens, open-",
        ),
        (("import", "dsjson", "nothing.json"), "nothing.json is not a file: give dsjson files"),
        (("import", "movielens", "nothing"), "nothing does not exist: give the wheel recbole"),
        (("export", "nothing", "--out", "x"), "nothing does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    logs: Logs, arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = logs(*arguments)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert words in err
    assert not list(tmp_path.iterdir())
