"""Judging by name: what names mean on a log, groups of items, and runs that learned from the log."""

from pathlib import Path

import pytest

import slatewise as sw
from slatewise.errors import InputError
from slatewise.judging import item_groups, judge
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


def test_a_log_is_read_with_the_history_that_a_run_remembers(tmp_path: Path) -> None:
    env = sw.make("interest-evolution", users=50, slate_size=1, seed=0)
    settings = env.settings.model_dump(mode="json")
    source = {"kind": "simulation", "world": env.full_name, "settings": settings}
    with sw.LogWriter(tmp_path / "log", env.spec, source) as writer:
        for _ in range(3):
            writer.add(env.step(env.rule("random", 1).act(env.observation)))
    for history in (0, 2):
        spec = sw.make("interest-evolution", users=1, slate_size=1, history=history).spec
        sw.Supervised(spec, seed=0, hidden=16).save(tmp_path / f"of-{history}")
        assert judge(tmp_path / "log", [str(tmp_path / f"of-{history}"), "myopic"]).policies
    with pytest.raises(
        InputError, match=r"remember different numbers of interactions \(.*of-0 0, .*of-2 2\): judge each"
    ):
        judge(tmp_path / "log", [str(tmp_path / "of-0"), str(tmp_path / "of-2")])
