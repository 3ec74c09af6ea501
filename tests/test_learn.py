"""Learning from a log: who can, what is kept with the agent, and what a verdict says of it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

import slatewise as sw
from slatewise.agents import AGENTS, agent_class
from slatewise.cli import app
from slatewise.judging import judge
from slatewise.naming import check_features

MAPPING = {
    "item": "item",
    "reward": "clicked",
    "user": "user",
    "propensities": "uniform",
    "user_features": ["age"],
}
ITEMS = pa.table({"item": ["shoe", "hat"]})


def clicks(start: int, rows: int) -> pa.Table:
    """Shown at random; who is over 50 clicks the hat, the others the shoe, eight times in ten."""
    generator = torch.Generator().manual_seed(start)
    shoe = torch.rand(rows, generator=generator) < 0.5
    age = torch.randint(20, 80, (rows,), generator=generator)
    clicked = (torch.rand(rows, generator=generator) < 0.8) & (shoe == (age < 50))
    return pa.table(
        {
            "user": [f"user-{start + row}" for row in range(rows)],
            "age": age.tolist(),
            "item": ["shoe" if s else "hat" for s in shoe.tolist()],
            "clicked": clicked.int().tolist(),
        }
    )


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[sw.Log, sw.Log]:
    folder = tmp_path_factory.mktemp("logs")
    first = sw.logs.from_table(clicks(0, 4000), folder / "first", MAPPING, ITEMS)
    return first, sw.logs.from_table(clicks(9000, 4000), folder / "second", MAPPING, ITEMS, features=first.features)


def test_a_bandit_learns_from_one_log_and_is_judged_by_another(logs: tuple[sw.Log, sw.Log], tmp_path: Path) -> None:
    first, second = logs
    agent = sw.LinUCB(first.spec, seed=0)
    sw.learn(agent, first, progress=False)
    assert agent.steps == 4000
    result = sw.off_policy.evaluate(second, {"new": agent})
    value = result.policies["new"].estimates["DR"]
    assert 0.6 < value.value < 0.85  # at random it is 0.4; a linear model errs near the border of 50
    assert result.better
    assert not any("learned from this very log" in note for note in result.notes)
    noted = sw.off_policy.evaluate(first, {"new": agent}).notes
    assert any(note.startswith("new learned from this very log: its estimates are too kind") for note in noted)
    agent.save(tmp_path / "agent")
    loaded = sw.load(tmp_path / "agent")
    assert loaded.features == first.features
    assert loaded.logs == (first.digest,)
    assert any("learned from this very log" in note for note in judge(first.path, [str(tmp_path / "agent")]).notes)


def test_a_request_is_encoded_as_in_training(logs: tuple[sw.Log, sw.Log]) -> None:
    agent = sw.LinUCB(logs[0].spec, seed=0)
    sw.learn(agent, logs[0], progress=False)
    assert agent.features is not None
    user = agent.features.user.encode([{"age": 70}, {"age": 25}])
    observation = sw.Observation(user, torch.arange(2).expand(2, 2), torch.zeros(2, 2, 0), logs[0].catalogue)
    shown = agent.act(observation, explore=False).slate.squeeze(1)
    assert [logs[0].catalogue.ids[i] for i in shown.tolist()] == ["hat", "shoe"]


def test_features_fitted_to_another_table_are_refused_by_column(logs: tuple[sw.Log, sw.Log], tmp_path: Path) -> None:
    agent = sw.LinUCB(logs[0].spec, seed=0)
    sw.learn(agent, logs[0], progress=False)
    other = sw.logs.from_table(clicks(5, 300), tmp_path / "other", MAPPING, ITEMS)
    message = r"linucb learned with another user column 'age' than this log has .*--like LOG"
    with pytest.raises(sw.InputError, match=message):
        sw.learn(agent, other, progress=False)
    agent.save(tmp_path / "agent")
    with pytest.raises(sw.InputError, match="learned with another user column 'age'"):
        judge(other.path, [str(tmp_path / "agent")])


@pytest.mark.parametrize("name", [name for name in AGENTS if not agent_class(name).learns_from_logs])
def test_agents_that_need_data_of_their_own_say_so(name: str, tmp_path: Path) -> None:
    env = sw.make("interest-evolution", users=20)
    with sw.LogWriter(tmp_path / "log", env.spec, {"kind": "simulation"}) as writer:
        writer.add(env.step(env.rule("random").act(env.observation)))
    agent: Any = object.__new__(agent_class(name))
    with pytest.raises(sw.InputError, match=f"{name} learns from what it decides itself: .*linucb"):
        sw.learn(agent, sw.Log(tmp_path / "log"))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_train_from_a_log_on_the_command_line(logs: tuple[sw.Log, sw.Log], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    done = run("train", "lints", "--log", str(logs[0].path), "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 4000
    judged = run("ope", str(logs[1].path), "--policy", out, "--json", "--require-better")
    assert judged.exit_code == 0, judged.output
    again = run("train", "lints", "--log", str(logs[0].path), "--out", out)
    assert isinstance(again.exception, sw.InputError)
    assert "exists: choose another folder, or --overwrite" in str(again.exception)
    assert run("train", "ucb1", "--log", str(logs[0].path), "--out", out, "--overwrite").exit_code == 0
    assert sw.load(out).name == "ucb1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("options", [(), ("--env", "feed", "--log", "x")])
def test_a_world_or_a_log_and_not_both(options: tuple[str, ...], tmp_path: Path) -> None:
    done = run("train", "linucb", "--out", str(tmp_path / "run"), *options)
    assert "give --env or --log, and not both" in str(done.exception)


def test_a_policy_of_a_log_that_is_no_folder_is_named_so(logs: tuple[sw.Log, sw.Log]) -> None:
    with pytest.raises(sw.InputError, match=r"unknown rule of this log 'runs/missing': .*it is no run's folder either"):
        judge(logs[0].path, ["runs/missing"])


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (("a", "b", "c", "e", "f"), "4 user features, here they are 5 (missing: d; new: e, f)"),
        (("a",), "4 user features, here they are 1 (missing: b, c, d)"),
        (("a", "b", "c", "d", *"1234"), "4 user features, here they are 8 (new: 1, 2, 3 and 1 more)"),
        (("b", "a", "c", "d"), "4 user features, here they are 4 (in another order)"),
    ],
)
def test_features_that_differ_are_named(shown: tuple[str, ...], words: str, logs: tuple[sw.Log, sw.Log]) -> None:
    spec = logs[0].spec
    agent = sw.LinUCB(replace(spec, user=("a", "b", "c", "d")))
    with pytest.raises(sw.InputError, match=re.escape(f"linucb was trained with {words}: use the settings")):
        check_features(agent, replace(spec, user=shown), "linucb")
