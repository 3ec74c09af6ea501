"""Judging by name: what names mean on a log, groups of items, and runs that learned from the log."""

import json
from pathlib import Path

import pytest

import slatewise as sw
from slatewise.errors import InputError
from slatewise.judging import item_groups, judge, learned_from
from slatewise.logs import Log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "log"
    env = sw.make("interest-evolution", users=2000, slate_size=1, seed=0)
    settings = env.settings.model_dump(mode="json")
    with sw.LogWriter(path, env.spec, {"kind": "simulation", "world": env.full_name, "settings": settings}) as writer:
        writer.add(env.step(env.rule("random", 1).act(env.observation)))
    return path


def test_items_alike_in_columns_of_the_catalogue_are_a_group(log: Path) -> None:
    opened = Log(log)
    assert opened.catalogue is not None
    policy = sw.make("interest-evolution", users=1, slate_size=1).rule("random")
    column = opened.spec.catalogue[0]
    groups = item_groups(opened, column, policy)
    assert len(groups.of_item.unique()) == len(opened.catalogue.features[:, 0].unique())
    judged = judge(log, ["myopic"], groups=column).policies["myopic"]
    assert {"DR", "MIPS"} <= set(judged.estimates)
    with pytest.raises(InputError, match="groups 'colour': no column of the catalogue begins so; its columns are"):
        item_groups(opened, "colour", policy)


def test_a_run_that_learned_from_the_log_is_told(log: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    env = sw.make("interest-evolution", users=50, slate_size=1, seed=0)
    sw.train(sw.LinUCB(env.spec, env.choice, 0), env, 200, run, progress=False)
    opened, described = Log(log), json.loads((run / "run.json").read_text())
    assert not learned_from(str(run), opened)  # online runs learned from no log
    assert not any("learned from this very log" in note for note in judge(log, [str(run)]).notes)
    for source, told in (
        ({"path": str(log)}, True),
        ({"path": "elsewhere", "digest": opened.digest}, True),
        ({"path": "elsewhere", "digest": "another"}, False),
    ):
        (run / "run.json").write_text(json.dumps(described | {"log": source}))
        assert learned_from(str(run), opened) == told
    (run / "run.json").write_text(json.dumps(described | {"log": {"digest": opened.digest}}))
    note = judge(log, [str(run)]).notes[0]
    assert note.startswith(f"{run} learned from this very log: its estimates are too kind")
    assert not learned_from("random", opened)
