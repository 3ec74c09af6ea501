"""Logs: what is read is what was written, to the bit; and damage is named, with the file."""

import json
import math
import warnings
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from slatewise.batch import Batch
from slatewise.environments import make
from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.logs import Log, LogWriter, check

SOURCE = {"kind": "simulation", "world": "interest-evolution-v1", "seed": 0}


def simulate(env: Any, steps: int) -> list[Interactions]:
    policy = env.rule("random", 0)
    return [env.step(policy.act(env.observation)) for _ in range(steps)]


def write(path: Path, spec: Spec, batches: list[Interactions], **options: Any) -> Log:
    with LogWriter(path, spec, SOURCE, **options) as writer:
        for batch in batches:
            writer.add(batch)
    return Log(path)


def in_order(rows: Interactions) -> Interactions:
    return rows[torch.from_numpy(np.lexsort((rows.step.numpy(), rows.episode.numpy())))]


def assert_same(left: Any, right: Any, where: str = "") -> None:
    assert type(left) is type(right), where
    if isinstance(left, Batch):
        for f in fields(left):
            assert_same(getattr(left, f.name), getattr(right, f.name), f"{where}.{f.name}")
    elif isinstance(left, Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), where
        assert left.numpy().tobytes() == right.numpy().tobytes(), where
    elif isinstance(left, np.ndarray):
        assert left.tolist() == right.tolist(), where
    elif isinstance(left, Catalogue):
        assert (left.version, left.ids) == (right.version, right.ids), where
        assert torch.equal(left.features, right.features), where


WORLDS = {
    "evolution": ("interest-evolution", {"slate_size": 2}),  # a catalogue, D = 0, K = 2
    "history": ("interest-evolution", {"slate_size": 1, "history": 3}),
    "satisfaction": ("long-term-satisfaction", {}),  # no catalogue, D > 0
}


@pytest.mark.parametrize("world", WORLDS)
def test_round_trip_to_the_bit_over_several_parts_and_a_cut(tmp_path: Path, world: str) -> None:
    name, settings = WORLDS[world]
    env = make(name, users=40, seed=3, **settings)
    batches = simulate(env, 250)
    written = in_order(Interactions.cat(batches))
    log = write(tmp_path / "log", env.spec, batches, part_rows=900)
    assert len(list((tmp_path / "log").glob("part-*.parquet"))) > 1
    assert len(log) == 40 * 250
    assert log.spec == env.spec
    assert log.source == SOURCE
    assert log.sessions == len(written.episode.unique())
    assert bool(written.done.any())  # sessions that ended, and
    assert int(written.done.sum()) < log.sessions  # sessions cut in the middle
    assert_same(in_order(log.read()), written)
    for rows in (7, 64):
        blocks = list(log.blocks(rows))
        assert max(len(b) for b in blocks) == rows
        assert_same(Interactions.cat(blocks), log.read())


def test_sessions_are_whole_and_in_order_and_next_observations_are_stored_where_they_end(tmp_path: Path) -> None:
    env = make("interest-evolution", users=20, seed=1)
    log = write(tmp_path / "log", env.spec, simulate(env, 80), part_rows=600)
    rows = log.read()
    changes = (rows.episode[1:] != rows.episode[:-1]).sum()
    assert int(changes) + 1 == log.sessions  # every session in one piece
    assert bool((rows.step[1:] == rows.step[:-1] + 1)[rows.episode[1:] == rows.episode[:-1]].all())
    table = pa.concat_tables([pq.read_table(f) for f in sorted((tmp_path / "log").glob("part-*.parquet"))])
    stored = table.column("next_user").combine_chunks().is_valid().to_numpy(zero_copy_only=False)
    last = torch.cat([rows.episode[1:] != rows.episode[:-1], torch.ones(1, dtype=torch.bool)])
    assert (stored == last.numpy()).all()
    assert table.schema.field("user").type == pa.list_(pa.float32(), len(env.spec.user))
    assert "items" not in table.column_names  # D = 0
    assert [f.name for f in (tmp_path / "log").glob("catalogue-*")] == [f"catalogue-{log.catalogue.version}.parquet"]


def bandit(rows: int = 6, **changes: Any) -> tuple[Interactions, Spec]:
    """Rows of a bandit log with everything that is optional or odd: holes, masks, missing rewards, strings."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(4).repeat(rows, 1)
    ids[0, 1:] = -1
    slate = torch.tensor([[2, 0]]).repeat(rows, 1)
    slate[0] = torch.tensor([0, -1])
    propensity = torch.full((rows, 2), 0.25, dtype=torch.float64)
    propensity[0] = 1
    reward = torch.rand(rows, 2, generator=generator, dtype=torch.float64)
    reward[0, 1] = 0
    reward[2, 0] = torch.nan
    known = torch.ones(rows, dtype=torch.bool)
    known[2] = False
    catalogue = Catalogue.of(torch.rand(4, 3, generator=generator), ["a", "b", "ü", "d"])
    items = torch.rand(rows, 4, 2, generator=generator)
    observation = Observation(torch.rand(rows, 1, generator=generator), ids, items, catalogue)
    clicked = torch.zeros(rows, 2, dtype=torch.bool)
    signals = torch.rand(rows, 2, 3, generator=generator)
    ones = torch.ones(rows, dtype=torch.bool)
    values: dict[str, Any] = {
        "observation": observation,
        "decision": Decision(slate, propensity),
        "response": Response(clicked, signals, reward, torch.rand(rows, dtype=torch.float64), known),
        "next_observation": None,
        "terminated": ones,
        "truncated": ~ones,
        "episode": torch.arange(rows),
        "step": torch.zeros(rows, dtype=torch.int64),
        "user_id": torch.arange(rows) % 2,
        "time": torch.arange(rows) + 1_700_000_000_000_000,
        "decision_id": np.array([f"d{i}" for i in range(rows)], dtype=object),
        "policy_version": np.array(["v1"] * rows, dtype=object),
    }
    spec = Spec(("u",), ("x", "y", "z"), ("p", "q"), ("s", "t", "v"), 4, 2)
    return Interactions(**(values | changes)), spec


def test_round_trip_of_a_bandit_log_with_optional_columns(tmp_path: Path) -> None:
    rows, spec = bandit()
    log = write(tmp_path / "log", spec, [rows[:4], rows[4:]])
    assert not log.has_next_observation
    assert_same(log.read(), rows)
    assert log.catalogue is not None
    assert log.catalogue.ids == ("a", "b", "ü", "d")


def test_widths_of_zero(tmp_path: Path) -> None:
    rows, _ = bandit()
    observation = replace(rows.observation, user=torch.zeros(6, 0), items=torch.zeros(6, 4, 0), catalogue=None)
    response = replace(rows.response, signals=torch.zeros(6, 2, 0))
    rows = replace(rows, observation=observation, response=response, next_observation=observation)
    log = write(tmp_path / "log", Spec((), (), (), (), 4, 2), [rows])
    assert_same(log.read(), rows)


def test_a_next_observation_that_is_not_the_next_row_is_kept(tmp_path: Path) -> None:
    rows, spec = bandit()
    other = replace(rows.observation, user=rows.observation.user + 1)
    changes = {"episode": torch.zeros(6, dtype=torch.int64), "step": torch.tensor([0, 1, 2, 5, 6, 7])}
    rows = replace(rows, next_observation=other, terminated=torch.arange(6) == 5, **changes)
    assert_same(write(tmp_path / "log", spec, [rows]).read(), rows)


def test_rows_come_in_any_order_and_sessions_may_span_flushes(tmp_path: Path) -> None:
    env = make("long-term-satisfaction", users=15, seed=2)
    rows = Interactions.cat(simulate(env, 130))
    shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    pieces = [shuffled[i : i + 50] for i in range(0, len(rows), 50)]
    assert_same(in_order(write(tmp_path / "a", env.spec, pieces).read()), in_order(rows))


def test_an_existing_log_is_refused_or_replaced_at_the_end_only(tmp_path: Path) -> None:
    rows, spec = bandit()
    path = tmp_path / "deep" / "log"
    write(path, spec, [rows])
    with pytest.raises(InputError, match=r"log exists: .*--overwrite"):
        LogWriter(path, spec, SOURCE)
    with pytest.raises(InputError, match="episode 0 has step 0 twice"):
        write(path, spec, [rows, rows], overwrite=True)
    assert len(Log(path)) == 6  # the old one is untouched
    with LogWriter(path, spec, SOURCE, overwrite=True) as writer:
        writer.add(rows[:3])
        assert len(Log(path)) == 6
    assert len(Log(path)) == 3
    assert [p.name for p in path.parent.iterdir()] == ["log"]  # nothing half-written is left over
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a log: choose another path"):
        LogWriter(tmp_path, spec, SOURCE, overwrite=True)


def _user_id(rows: Interactions) -> Interactions:
    return replace(rows, user_id=None)


def _no_catalogue(rows: Interactions) -> Interactions:
    return replace(rows, observation=replace(rows.observation, catalogue=None))


def _catalogue(rows: Interactions) -> Interactions:
    return replace(rows, observation=replace(rows.observation, catalogue=Catalogue.of(torch.zeros(4, 3))))


WRONG = [
    (lambda r: [r, r], "episode 0 has step 0 twice"),
    (lambda r: [replace(r, episode=r.episode * 0, step=r.episode)], "episode 0 goes on after it ended at step 0"),
    (lambda r: [r[:3], _user_id(r[3:])], "this batch has time, decision_id, policy_version, the log so far user_id"),
    (lambda r: [r[:3], _catalogue(r[3:])], "another catalogue than the log so far, without ids"),
    (lambda r: [r[:3], _no_catalogue(r[3:])], "the catalogue has 0 features, the spec names 3"),
    (lambda r: [replace(r, observation=r.observation.dense())], r"items is \[6, 4, 5\], the spec expects"),
    (lambda r: [replace(r, decision=replace(r.decision, propensity=r.decision.propensity * 0))], "propensity"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[m for _, m in WRONG])
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    rows, spec = bandit()
    with pytest.raises(InputError, match=message):
        write(tmp_path / "log", spec, change(rows))
    assert not list(tmp_path.iterdir())


def test_an_episode_cannot_come_back_after_its_part_was_written(tmp_path: Path) -> None:
    rows, spec = bandit()
    with pytest.raises(InputError, match="episode 0 was already written"):
        write(tmp_path / "log", spec, [rows, rows], part_rows=6)


def test_a_source_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="source cannot be written as JSON"):
        LogWriter(tmp_path / "log", bandit()[1], {"when": object()})


def test_a_deterministic_log_warns(tmp_path: Path) -> None:
    rows, spec = bandit()
    certain = replace(rows, decision=replace(rows.decision, propensity=torch.ones(6, 2, dtype=torch.float64)))
    with pytest.warns(UserWarning, match="worth nothing for off-policy evaluation"):
        log = write(tmp_path / "a", spec, [certain])
    assert any("5 decisions" in problem and "propensity 1" in problem for problem in check(log)["problems"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "b", spec, [rows])


def test_an_empty_log(tmp_path: Path) -> None:
    log = write(tmp_path / "log", bandit()[1], [])
    assert len(log) == 0
    assert list(log.blocks()) == []
    assert check(log)["problems"] == ["the log has no decisions: nothing was written to it"]
    with pytest.raises(InputError, match="has no interactions"):
        log.read()


# What a reader rebuilds.


def everything(rows: int = 600, **changes: Any) -> tuple[Interactions, Spec]:
    """Rows whose candidates are the whole catalogue, one row in memory."""
    made, spec = bandit(rows)
    ids = torch.arange(4).expand(rows, 4)
    slate = torch.tensor([[2, 0]]).repeat(rows, 1)
    observation = replace(made.observation, item_ids=ids)
    decision = Decision(slate, torch.full((rows, 2), 0.25, dtype=torch.float64))
    return replace(made, observation=observation, decision=decision, **changes), spec


def _columns(path: Path) -> set[str]:
    return set(pq.read_schema(path / "part-00000.parquet").names)


def test_candidates_that_are_the_catalogue_are_left_out_and_cost_no_memory(tmp_path: Path) -> None:
    rows, spec = everything()
    log = write(tmp_path / "log", spec, [rows[:200], rows[200:]])
    assert "item_ids" not in _columns(log.path)
    read = log.read()
    assert_same(read, rows)
    picked = read[torch.tensor([5, 1, 1])]
    for part in (read, read[3:9], picked, Interactions.cat([picked, read])):
        assert part.observation.item_ids.stride(0) == 0
        assert part.observation.mask.shape == part.observation.item_ids.shape
    assert_same(read[read.step >= 0], rows)


def test_candidates_left_out_of_one_part_only(tmp_path: Path) -> None:
    rows, spec = everything()
    ids = rows.observation.item_ids.clone()
    ids[450, 3] = -1
    rows = replace(rows, observation=replace(rows.observation, item_ids=ids))
    log = write(tmp_path / "log", spec, [rows[i : i + 100] for i in range(0, 600, 100)], part_rows=200)
    left_out = [part["left_out"] for part in json.loads((log.path / "log.json").read_text())["parts"]]
    assert ["item_ids"] in left_out
    assert [] in left_out
    assert_same(in_order(log.read()), rows)


def test_histories_are_left_out_and_rebuilt_with_any_length(tmp_path: Path) -> None:
    """A world with another memory, the same users and the same noise, is what a reader must rebuild."""
    written = make("interest-evolution", users=30, seed=3, history=3)
    log = write(tmp_path / "log", written.spec, simulate(written, 110), part_rows=900)
    assert "history" not in _columns(log.path)
    assert "next_history" not in _columns(log.path)
    for length in (0, 1, 8):
        env = make("interest-evolution", users=30, seed=3, history=length)
        other = Log(log.path, history=length)
        assert other.spec == env.spec
        assert_same(in_order(other.read()), in_order(Interactions.cat(simulate(env, 110))))
        assert_same(Interactions.cat(list(other.blocks(101))), other.read())


def test_histories_of_sessions_that_began_before_the_log_are_kept(tmp_path: Path) -> None:
    env = make("interest-evolution", users=10, seed=3, history=2)
    simulate(env, 5)
    batches = simulate(env, 20)
    log = write(tmp_path / "log", env.spec, batches)
    assert "history" in _columns(log.path)
    assert_same(in_order(log.read()), in_order(Interactions.cat(batches)))
    with pytest.raises(InputError, match=r"history=-1: remember 0 interactions or more"):
        Log(log.path, history=-1)


# The reward that a reader names.


def test_the_reward_is_a_weighted_sum_of_signals(tmp_path: Path) -> None:
    rows, spec = bandit(50)
    clicked = rows.decision.slate >= 0
    rows = replace(rows, response=replace(rows.response, clicked=clicked))
    path = write(tmp_path / "log", spec, [rows]).path
    s, _, v = rows.response.signals.double().unbind(2)
    shown = clicked.double()
    for text, expected in {
        "s": s * shown,
        " 0.5*s - v+1e-1 * clicked": (0.5 * s - v + 0.1) * shown,
        "-s + 2 * s": s * shown,
    }.items():
        log = Log(path, reward=text)
        response = log.read().response
        torch.testing.assert_close(response.reward, expected, rtol=0, atol=1e-12)
        assert not bool(response.decision_reward.any())
        assert torch.equal(response.reward_known, rows.response.reward_known)
    assert_same(Log(path).read(), rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z", "unknown signal of the log 'z': .*known are clicked, s, t, v$"),
        ("s v", "no sum of signals: write, for instance"),
        ("2 * ", "no sum of signals"),
        ("", "names no signal: this log has clicked, s, t, v"),
        ("s * 2", "no sum of signals"),
    ],
)
def test_a_reward_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    rows, spec = bandit()
    path = write(tmp_path / "log", spec, [rows]).path
    with pytest.raises(InputError, match=message):
        Log(path, reward=text)


def test_a_signal_called_clicked_is_named_once(tmp_path: Path) -> None:
    rows, spec = bandit()
    path = write(tmp_path / "log", replace(spec, signals=("clicked", "s", "t")), [rows]).path
    with pytest.raises(InputError, match=r"known are clicked, s, t$"):
        Log(path, reward="z")


# Catalogues that change, and what else log.json says.


def _renewed(rows: Interactions, features: Tensor, ids: tuple[str, ...]) -> Interactions:
    catalogue = Catalogue.of(features, ids)
    return replace(rows, observation=replace(rows.observation, catalogue=catalogue))


def test_a_catalogue_that_changes_is_kept_as_one(tmp_path: Path) -> None:
    rows, spec = bandit(12)
    old = rows.observation.catalogue
    assert old is not None
    changed = old.features.clone()
    changed[1] += 1  # "b" has new features; "d" is replaced by "e"; the order is another
    later = _renewed(rows[4:8], changed[[3, 1, 0, 2]], ("e", "b", "a", "ü"))
    batches = [rows[:4], later, rows[8:]]
    log = write(tmp_path / "log", spec, batches)
    assert log.catalogue is not None
    assert log.catalogue.ids == ("a", "b", "ü", "d", "e", "b")
    read = log.read()
    positions = torch.arange(4).expand(12, 4)
    expected = torch.cat([b.observation.features(positions[: len(b)]) for b in batches])
    assert torch.equal(read.observation.features(positions) * read.observation.mask[..., None],
                       expected * read.observation.mask[..., None])  # fmt: skip
    assert read.observation.item_ids[4].tolist() == [4, 5, 0, 2]
    assert read.observation.item_ids[8].tolist() == [0, 1, 2, 3]


def test_time_is_a_date_for_other_readers(tmp_path: Path) -> None:
    rows, spec = bandit()
    path = write(tmp_path / "log", spec, [rows]).path
    field = pq.read_schema(path / "part-00000.parquet").field("time")
    assert field.type == pa.timestamp("us", tz="UTC")


def test_propensities_that_were_estimated_or_are_unknown_say_so(tmp_path: Path) -> None:
    rows, spec = bandit()
    assert write(tmp_path / "a", spec, [rows]).propensities == {"kind": "logged"}
    how = {"kind": "estimated", "model": "multinomial"}
    assert write(tmp_path / "b", spec, [rows], propensities=how).propensities == how
    certain = replace(rows, decision=replace(rows.decision, propensity=torch.ones(6, 2, dtype=torch.float64)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            write(tmp_path / "c", spec, [certain], propensities={"kind": "unknown"}).propensities["kind"] == "unknown"
        )
    with pytest.raises(InputError, match="their kind is one of logged, estimated, unknown"):
        write(tmp_path / "d", spec, [rows], propensities={"kind": "guessed"})


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    rows, spec = bandit()
    one, same = write(tmp_path / "a", spec, [rows]), write(tmp_path / "b", spec, [rows])
    other = write(tmp_path / "c", spec, [rows[:5]])
    assert one.digest == same.digest
    assert one.digest != other.digest


# Damage.


def _log(tmp_path: Path) -> Path:
    rows, spec = bandit(600)
    write(tmp_path / "log", spec, [rows])
    return tmp_path / "log"


def _rewrite(path: Path, change: Any) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def _edit(path: Path, **changes: Any) -> None:
    values = json.loads((path / "log.json").read_text())
    (path / "log.json").write_text(json.dumps(values | changes))


def _set(table: Any, name: str, array: Any) -> Any:
    return table.set_column(table.column_names.index(name), name, array)


def _cut(keep: float) -> Any:
    def change(path: Path) -> None:
        part = path / "part-00000.parquet"
        part.write_bytes(part.read_bytes()[: int(part.stat().st_size * keep)])

    return change


def _flip(path: Path) -> None:
    part = path / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 4] ^= 0xFF
    part.write_bytes(bytes(content))


def _part(change: Any) -> Any:
    return lambda path: _rewrite(path / "part-00000.parquet", change)


PART_OF_LOG = {"file": "part-00000.parquet", "rows": 600, "left_out": [], "sha256": ""}
PART = r"part-00000\.parquet"
DAMAGE = {
    "half a file": (_cut(0.5), PART + r" \([\d,]+ bytes\) is not a complete Parquet file .*cut short"),
    "an empty file": (_cut(0.0), PART + r" \(0 bytes\) is not a complete Parquet file"),
    "a flipped bit": (_flip, PART + r".*is not a complete Parquet file .*damaged"),
    "foreign": (
        lambda p: pq.write_table(pa.table({"x": [1], "y": ["a"]}), p / "part-00000.parquet"),
        PART + r": column 'user' \(fixed_size_list<.*float>\[1\]\) is missing, found x, y: ",
    ),
    "a column less": (_part(lambda t: t.drop_columns(["propensity"])), PART + r": column 'propensity' .* is missing"),
    "another type": (
        _part(lambda t: _set(t, "step", t["step"].cast(pa.int32()))),
        PART + r": column 'step' is int32, expected int64",
    ),
    "another width": (
        _part(lambda t: _set(t, "user", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1200, "f4")), 2))),
        PART + r": column 'user' is fixed_size_list<element: float>\[2\], expected .*\[1\]",
    ),
    "empty values": (
        _part(lambda t: _set(t, "episode", pa.array([None, *range(599)], pa.int64()))),
        PART + r": column 'episode' has 1 empty values",
    ),
    "fewer rows": (_part(lambda t: t.slice(5)), PART + r" has 595 rows, log.json says 600"),
    "an impossible value": (
        _part(lambda t: _set(t, "propensity", pa.FixedSizeListArray.from_arrays(pa.array(np.full(1200, 1.5)), 2))),
        PART + r", rows from 0 .*: decision.propensity\[0, 0\] is 1.5",
    ),
    "no part": (lambda p: (p / "part-00000.parquet").unlink(), PART + " is missing, and log.json names it"),
    "no log.json": (lambda p: (p / "log.json").unlink(), "is not a log: it has no log.json"),
    "another log.json": (lambda p: (p / "log.json").write_text('{"name": "x"}'), "log.json does not describe a log"),
    "half a log.json": (lambda p: (p / "log.json").write_text('{"form'), "log.json does not describe a log"),
    "a list": (lambda p: (p / "log.json").write_text("[]"), "log.json does not describe a log"),
    "the future": (lambda p: _edit(p, version=7), r"has format version 7, this slatewise reads version 1: upgrade"),
    "the past": (lambda p: _edit(p, version=0), r"has format version 0, from before the first release"),
    "other propensities": (
        lambda p: _edit(p, propensities={"kind": "guessed"}),
        r"propensities are \{'kind': 'guessed'\}, known kinds are",
    ),
    "left out": (lambda p: _edit(p, parts=[PART_OF_LOG | {"left_out": ["user"]}]), "left_out is"),
    "no spec": (lambda p: _edit(p, spec={"user": []}), "log.json is damaged"),
    "bytes": (lambda p: (p / "log.json").write_bytes(b"\xff\xfe\x00{"), "log.json does not describe a log"),
    "no source": (lambda p: _edit(p, source=["x"]), r"log.json is damaged \(TypeError: found \['x'\], expected dict"),
    "a spec of names": (lambda p: _edit(p, spec="x"), "log.json is damaged"),
    "parts by name": (lambda p: _edit(p, parts={"part-00000.parquet": 600}), "log.json is damaged"),
    "endless": (lambda p: _edit(p, rows=math.inf), "log.json is damaged"),
    "other rows": (lambda p: _edit(p, rows=601), "says 601 rows and 600 sessions, its parts have 600 rows"),
    "other sessions": (lambda p: _edit(p, sessions=9999), "says 600 rows and 9999 sessions, its parts have 600 rows"),
    "a catalogue elsewhere": (
        lambda p: _edit(p, catalogues=[{"version": "0", "file": "/tmp/catalogue-0.parquet"}]),
        "unexpected file name",
    ),
    "a path": (lambda p: _edit(p, parts=[PART_OF_LOG | {"file": "../x.parquet"}]), "unexpected file name"),
    "a catalogue": (
        lambda p: _rewrite(
            next(p.glob("catalogue-*")), lambda t: _set(t, "id", pa.array(["a", "b", "c", "d"], pa.string()))
        ),
        "the catalogue was changed after the log was written",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_its_file(tmp_path: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    path = _log(tmp_path)
    change(path)
    with pytest.raises(InputError, match=message):
        Log(path).read()


@pytest.mark.parametrize(
    "key", ["spec", "source", "sessions", "rows", "optional", "catalogues", "parts", "propensities"]
)
@pytest.mark.parametrize("value", ["nothing", None, 3, "x", [1], {"a": 1}])
def test_no_log_json_raises_anything_else(tmp_path: Path, key: str, value: Any) -> None:
    rows, spec = bandit()
    path = write(tmp_path / "log", spec, [rows]).path
    values = json.loads((path / "log.json").read_text()) | {key: value}
    if value == "nothing":
        del values[key]
    (path / "log.json").write_text(json.dumps(values))
    with suppress(InputError):
        Log(path).read()


def test_check_counts_the_sessions(tmp_path: Path) -> None:
    path = _log(tmp_path)
    _edit(path, sessions=599)
    assert "the rows belong to 600 sessions, log.json says 599: write the log anew" in check(Log(path))["problems"]


def test_a_missing_path_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Log(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is not a log"):
        Log(tmp_path / "file")


def test_rows_dropped_by_somebody_else_are_noticed(tmp_path: Path) -> None:
    env = make("interest-evolution", users=10, seed=1)
    path = write(tmp_path / "log", env.spec, simulate(env, 30)).path
    part = path / "part-00000.parquet"
    _rewrite(part, lambda t: pa.concat_tables([t.slice(0, 4), t.slice(5)]))
    values = json.loads((path / "log.json").read_text())
    rows = values["rows"] - 1
    _edit(path, rows=rows, parts=[values["parts"][0] | {"rows": rows}])
    with pytest.raises(InputError, match="row 3 has no next observation"):
        Log(path).read()


# The report.


def test_check_of_a_random_log(tmp_path: Path) -> None:
    env = make("interest-evolution", users=50, seed=0)
    rows = Interactions.cat(simulate(env, 20))
    report = check(write(tmp_path / "log", env.spec, [rows]))
    json.dumps(report, allow_nan=False)
    sums = torch.zeros(50, dtype=torch.float64).index_add_(0, rows.episode, rows.response.total_reward)
    assert report["rows"] == 1000
    assert report["sessions"] == 50
    assert report["problems"] == []
    assert report["candidates"] == {"min": 10, "max": 10}
    assert report["missing_rewards"] == 0
    assert report["propensity"] == {"kind": "logged", "smallest": pytest.approx(1 / 90), "deterministic": 0}
    assert report["uniform_weight"] == {"mean": pytest.approx(1), "standard_error": pytest.approx(0, abs=1e-12)}
    # Sessions of equal length: the mean of session means, and its standard error.
    assert report["mean_reward"]["mean"] == pytest.approx(float(sums.mean()) / 20)
    assert report["mean_reward"]["standard_error"] == pytest.approx(float(sums.std()) / 20 / 50**0.5)


def test_check_of_a_perfect_log_of_long_slates(tmp_path: Path) -> None:
    """A uniform slate of 5 of 10 has probability 1 / 30,240, which is no reason to mistrust it."""
    env = make("interest-evolution", users=50, slate_size=5, candidates=10, seed=0)
    report = check(write(tmp_path / "log", env.spec, simulate(env, 5)))
    assert report["propensity"]["smallest"] == pytest.approx(1 / 30_240)
    assert report["problems"] == []


def test_check_finds_what_is_wrong(tmp_path: Path) -> None:
    rows, spec = bandit(500)
    lying = replace(rows.decision, propensity=rows.decision.propensity.clone())
    lying.propensity[1:, 0] = 0.9
    lying.propensity[7] = 0.001
    rows = replace(rows, decision=lying, step=torch.full((500,), 3))
    problems = "\n".join(check(write(tmp_path / "log", spec, [rows]))["problems"])
    assert "1 of 500 decisions have no known reward" in problems
    assert "1 decisions have a propensity more than 100 times below that of a uniform policy" in problems
    assert "(the largest weight is 8.33e+04)" in problems
    assert "500 sessions do not begin at step 0" in problems


def test_check_finds_wrong_propensities(tmp_path: Path) -> None:
    env = make("interest-evolution", users=200, seed=0)
    rows = Interactions.cat(simulate(env, 5))
    spread = 0.01 * torch.rand(len(rows), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wrong = replace(rows, decision=replace(rows.decision, propensity=rows.decision.propensity * 0.9 + spread))
    problems = check(write(tmp_path / "log", env.spec, [wrong]))["problems"]
    assert len(problems) == 1
    assert "the mean weight of the uniform policy" in problems[0]


def shown_by(user: Tensor, policy: Tensor, claimed: Tensor, seed: int) -> tuple[Interactions, Spec]:
    """Rows of a log of kinds of users [B], who are shown items by `policy` [G, N], logged with `claimed` [G, N]."""
    generator = torch.Generator().manual_seed(seed)
    item = torch.multinomial(policy[user], 1, generator=generator)
    rows, spec = bandit(len(user))
    catalogue = Catalogue.of(torch.zeros(policy.shape[1], 3), [f"item-{i}" for i in range(policy.shape[1])])
    observation = replace(
        rows.observation,
        item_ids=torch.arange(policy.shape[1]).repeat(len(user), 1),
        items=torch.zeros(len(user), policy.shape[1], 2),
        catalogue=catalogue,
    )
    decision = Decision(item, claimed[user].gather(1, item))
    response = Response(
        item == 0,
        rows.response.signals[:, :1],
        torch.rand(len(user), 1, dtype=torch.float64, generator=generator),
        torch.zeros(len(user), dtype=torch.float64),
        torch.ones(len(user), dtype=torch.bool),
    )
    rows = replace(rows, observation=observation, decision=decision, response=response)
    return rows, replace(spec, candidates=policy.shape[1], slate_size=1)


def test_check_names_items_that_were_shown_more_often_than_was_claimed(tmp_path: Path) -> None:
    """A uniform policy is claimed, and the weights of a uniform policy are 1 whatever was shown."""
    user = torch.arange(3000) % 2
    skewed = torch.tensor([[0.1, 0.35, 0.1, 0.45]] * 2, dtype=torch.float64)
    rows, spec = shown_by(user, skewed, torch.full((2, 4), 0.25, dtype=torch.float64), 0)
    report = check(write(tmp_path / "log", spec, [rows]))
    assert report["uniform_weight"]["mean"] == pytest.approx(1)
    often = float((rows.decision.slate == 3).double().mean()) / 0.25
    assert report["problems"] == [
        f"item 'item-3' was shown {often:.3g} times as often as its propensities say, and 1 more of 4 items too often: "
        "the propensities are not those of what was done, or choices were logged again without a new draw; log the "
        "probability of what was sampled, once a draw, or import with estimated propensities"
    ]


def test_check_does_not_blame_true_propensities(tmp_path: Path) -> None:
    """Forty logs of a policy that shows some items to some users hardly ever: the weights have heavy tails."""
    peaked = torch.tensor([[0.9, 0.0999, 0.0001, 0], [0.0005, 0.0005, 0.5, 0.499]], dtype=torch.float64)
    peaked[0, 3] = 1 - peaked[0, :3].sum()
    for seed in range(40):
        user = torch.arange(3000) % 2
        rows, spec = shown_by(user, peaked.clamp(min=1e-12), peaked, seed)
        problems = check(write(tmp_path / str(seed), spec, [rows]))["problems"]
        assert not any("times as often" in problem for problem in problems), (seed, problems)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_check_finds_rewards_that_are_all_the_same(tmp_path: Path, value: float) -> None:
    uniform = torch.full((2, 4), 0.25, dtype=torch.float64)
    rows, spec = shown_by(torch.arange(50) % 2, uniform, uniform, 0)
    rows = replace(rows, response=replace(rows.response, reward=torch.full((50, 1), value, dtype=torch.float64)))
    problems = check(write(tmp_path / "log", spec, [rows]))["problems"]
    assert problems == [f"every reward is {value:g}: choose a reward that differs between decisions"]


DAY = 86_400_000_000


def _dated(rows: Interactions, days: Tensor) -> Interactions:
    return replace(rows, time=days * DAY + 1_700_000_000_000_000)


def test_check_finds_days_without_decisions_and_rewards_that_drift(tmp_path: Path) -> None:
    rows, spec = bandit(3000)
    days = torch.arange(3000) // 100  # 30 days
    days = torch.where(days >= 20, days + 5, days)
    report = check(write(tmp_path / "steady", spec, [_dated(rows, days)]))
    assert report["time"]["empty_days"] == 5
    known = rows.response.reward_known
    reward = rows.response.total_reward
    first = reward[known & (days < 7)]
    assert report["time"]["weeks"]["first"] == {
        "mean": pytest.approx(float(first.mean())),
        "standard_error": pytest.approx(float(first.std()) / len(first) ** 0.5),
    }
    problems = "\n".join(report["problems"])
    assert "5 days have no decisions, the longest gap from 2023-12-04 to 2023-12-08" in problems
    assert "the mean reward went from" not in problems
    response = replace(rows.response, reward=rows.response.reward * (1 + days / 20).unsqueeze(1))
    drifted = check(write(tmp_path / "drift", spec, [_dated(replace(rows, response=response), days)]))
    assert any("the mean reward went from" in problem for problem in drifted["problems"])


def test_check_finds_ids_that_are_not_unique_and_clocks_that_run_backwards(tmp_path: Path) -> None:
    rows, spec = bandit(500)
    ids = np.array([f"décision-{i % 498}" for i in range(500)], dtype=object)
    problems = check(write(tmp_path / "ids", spec, [replace(rows, decision_id=ids)]))["problems"]
    assert any(problem.startswith("2 decisions have an id that another one has") for problem in problems)
    sessions = replace(rows, episode=torch.arange(500) // 2, step=torch.arange(500) % 2, terminated=rows.step == 1)
    problems = check(write(tmp_path / "time", spec, [replace(sessions, time=-torch.arange(500))]))["problems"]
    assert any(problem.startswith("250 steps of a session are earlier") for problem in problems)


@pytest.mark.parametrize(
    ("kind", "words"), [("estimated", "no better than that model"), ("unknown", "good for learning")]
)
def test_check_says_where_propensities_come_from(tmp_path: Path, kind: str, words: str) -> None:
    rows, spec = bandit(50)
    report = check(write(tmp_path / "log", spec, [rows], propensities={"kind": kind}))
    assert report["propensity"]["kind"] == kind
    assert any(words in problem for problem in report["problems"])
    assert (report["uniform_weight"] is None) == (kind == "unknown")
    assert ("smallest" in report["propensity"]) == (kind == "estimated")


def test_check_does_not_depend_on_the_parts_of_a_log(tmp_path: Path) -> None:
    env = make("interest-evolution", users=60, seed=0)
    batches = simulate(env, 60)
    reports = [
        check(write(tmp_path / str(size), env.spec, batches, part_rows=size)) | {"path": ""} for size in (500, 50_000)
    ]
    assert reports[0]["mean_reward"] == pytest.approx(reports[1]["mean_reward"])
    assert {k: v for k, v in reports[0].items() if k not in ("mean_reward", "uniform_weight")} == {
        k: v for k, v in reports[1].items() if k not in ("mean_reward", "uniform_weight")
    }
