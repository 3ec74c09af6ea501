"""The examples keep the contracts, are what their pages show, and go by `module:Class` wherever a name goes."""

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise import cli
from slatewise.agents import agent_class
from slatewise.drawing import greedy_propensity
from slatewise.environments import world
from slatewise.registry import is_path, load_class, registered_name
from slatewise.runs import make_world
from slatewise.testing import ContractError, agents, check_agent, check_environment, environments

ROOT = Path(__file__).parents[1]
WORLD, AGENT = "examples.own_world:MyWorld", "examples.own_agent:MyAgent"
PAGES = {"own_world.py": "own-world.md", "own_agent.py": "own-agent.md"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a command with --json in this process, and return what it printed; an error is {"error": its line}."""

    def run(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["slatewise", *arguments, "--json"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return json.loads(captured.out) if not stop.value.code else {"error": captured.err, "code": stop.value.code}

    return run


def test_they_keep_the_contracts() -> None:
    check_environment(world(WORLD))
    check_agent(agent_class(AGENT))


@pytest.mark.parametrize("name", PAGES)
def test_their_pages_show_them_whole(name: str) -> None:
    page = (ROOT / "docs" / PAGES[name]).read_text()
    assert f"```python\n{(ROOT / 'examples' / name).read_text()}```" in page


@pytest.mark.parametrize(("page", "promises"), [("own-world.md", environments), ("own-agent.md", agents)])
def test_their_pages_list_every_promise(page: str, promises: Any) -> None:
    listed = [line[2:] for line in (ROOT / "docs" / page).read_text().splitlines() if line.startswith("- ")]
    assert listed == list(promises.PROMISES)


def said(error: pytest.ExceptionInfo[ContractError]) -> str:
    return str(error.value).replace("Broken", "")


def quoted(page: str) -> str:
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return " ".join(line[2:] for line in lines if line.startswith("> "))


def test_the_pages_quote_what_is_said() -> None:
    class BrokenMyWorld(world(WORLD)):
        def observe(self) -> sw.Observation:
            return replace(super().observe(), user=self.state["taste"])

    class BrokenMyAgent(agent_class(AGENT)):
        def propensity(self, observation: sw.Observation, slate: torch.Tensor, explore: bool = True) -> torch.Tensor:
            greedy = greedy_propensity(self.greedy(observation, explore), slate)
            return greedy * torch.tensor([1 - self.epsilon() if explore else 1.0, 1.0]).double()

    with pytest.raises(ContractError) as error:
        check_environment(BrokenMyWorld)
    assert said(error) == quoted("own-world.md")
    with pytest.raises(ContractError) as error:
        check_agent(BrokenMyAgent)
    assert said(error) == quoted("own-agent.md")


def lines_of_code(path: Path) -> int:
    """Count lines without blank ones, docstrings and what only runs as a script."""
    tree = ast.parse(path.read_text())
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            left_out |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    for node in tree.body:
        if isinstance(node, ast.If):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return sum(bool(line.strip()) and i not in left_out for i, line in enumerate(path.read_text().splitlines(), 1))


def test_the_world_has_forty_lines() -> None:
    assert lines_of_code(ROOT / "examples" / "own_world.py") <= 40


def test_a_long_term_agent_has_something_to_gain_there() -> None:
    train, test = (world(WORLD)(users=users, seed=seed) for users, seed in ((256, 0), (1000, 1)))
    agent = sw.SlateQ(train.spec, train.choice, seed=0)
    sw.train(agent, train, 150_000, progress=False)
    learned, favourite = sw.evaluate(agent, test), sw.evaluate(test.rule("favourite"), test)
    assert learned.mean - favourite.mean > 4 * (learned.standard_error**2 + favourite.standard_error**2) ** 0.5


def test_a_world_of_ones_own_on_the_command_line(command: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    assert command("envs", WORLD)["rules"] == ["random", "favourite"]
    log, run = str(tmp_path / "log"), str(tmp_path / "run")
    simulated = command("simulate", WORLD, "--users", "100", "--steps", "3000", "--out", log, "--set", "history=1")
    assert simulated["steps"] == 3000
    assert sw.Log(log).source["world"] == WORLD
    assert set(command("ope", log, "--policy", "favourite")["policies"]) == {"favourite"}
    small = ("--users", "50", "--steps", "2000")
    assert command("train", "linucb", "--env", WORLD, *small, "--set", "slate_size=3", "--out", run)["steps"] == 2000
    assert json.loads((Path(run) / "run.json").read_text())["world"] == WORLD
    assert command("evaluate", run, "--episodes", "100")["episodes"] >= 100
    assert make_world(run).full_name == "bored-readers-v1"


def test_an_agent_of_ones_own_on_the_command_line(command: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    assert command("agents", AGENT)["settings"]["epsilon"]["default"] == "0.1"
    run = str(tmp_path / "run")
    arguments = ("train", AGENT, "--env", WORLD, "--users", "50", "--steps", "4000", "--out", run)
    trained = command(*arguments, "--set", "agent.epsilon=0.3", "--set", "slate_size=1")
    assert trained["steps"] == 4000
    assert command(*arguments, "--set", "epsilon=0.3", "--set", "slate_size=1", "--resume")["steps"] == 4000
    agent = sw.load(run)
    assert type(agent) is agent_class(AGENT)
    assert agent.settings.epsilon == 0.3
    assert command("evaluate", run, "--episodes", "100")["mean"] > 0
    untrained = ("simulate", "interest-evolution", "--policy", AGENT, "--users", "50", "--steps", "500")
    assert command(*untrained, "--set", "epsilon=1.0")["steps"] == 500


def test_a_run_goes_on_with_its_own_classes_only(tmp_path: Path) -> None:
    env = world(WORLD)(users=20, seed=0)
    agent = agent_class(AGENT)(env.spec, env.choice, 0)
    sw.train(agent, env, 200, tmp_path / "run", progress=False)

    class MyAgent(agent_class(AGENT)):
        """Another class of the same name."""

    other = MyAgent(env.spec, env.choice, 0)
    with pytest.raises(sw.InputError, match=rf"trains {AGENT} in {WORLD}, not test_examples:.*MyAgent in"):
        sw.train(other, env, 200, tmp_path / "run", resume=True, progress=False)
    with pytest.raises(sw.InputError, match=f"holds a {AGENT} agent, not test_examples:.* use slatewise.load"):
        MyAgent.load(tmp_path / "run" / "checkpoints" / "000000000200")


MODULE = """
import slatewise as sw
from slatewise.agents.linucb import LinUCB

class Mine(LinUCB):
    pass

class Unfinished(sw.Agent):
    name = "unfinished"

class Stranger:
    pass

number = 3
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "somebodys.missing:Mine",
            "agent 'somebodys.missing:Mine': no module named 'somebodys', neither installed nor in",
        ),
        ("somebody.missing:Mine", "no module named 'somebody.missing', .* run where it lies"),
        ("somebody:Mein", "unknown agent class of somebody 'Mein': did you mean 'Mine'"),
        (
            "somebody:Stranger",
            r"'somebody:Stranger' is a 'Stranger' class, which does not derive from .*\.Agent: name a",
        ),
        ("somebody:number", "'somebody:number' is a int, which does not derive"),
        ("somebody:Unfinished", "'somebody:Unfinished' does not define build, load_tensors, observe"),
        ("needing:Mine", "importing needing needs 'not_there_at_all', which is not installed"),
        ("__main__:Mine", "'__main__:Mine' was defined in a script: move it into a module and train again"),
    ],
)
def test_what_cannot_be_found_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    (tmp_path / "somebody.py").write_text(MODULE)
    (tmp_path / "needing.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "somebody", raising=False)
    with pytest.raises(sw.InputError, match=words):
        agent_class(name)
    assert agent_class("somebody:Mine").name == "linucb"


def test_a_world_is_not_an_agent(command: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(sw.InputError, match=r"environment 'examples\.own_agent:MyAgent' is a 'MyAgent' class"):
        sw.make(AGENT)
    answer = command("simulate", "examples.own_word:MyWorld")
    assert answer["code"] == 2
    assert answer["error"].startswith(
        "slatewise: environment 'examples.own_word:MyWorld': no module named 'examples.own_w"
    )


def test_names_and_paths() -> None:
    assert is_path("my_package.worlds:MyWorld")
    assert not any(is_path(name) for name in ("linucb", "runs/a:b", "a:", ":b", "C:\\runs", "a.b:c.d", "run:1"))
    assert registered_name(sw.LinUCB, "linucb") == "linucb"
    assert registered_name(world(WORLD), "bored-readers-v1") == WORLD

    class Local(sw.LinUCB):
        """A class that nobody can import."""

    name = registered_name(Local, "linucb")
    with pytest.raises(sw.InputError, match="cannot be imported: give module:Class, a class at the top of a module"):
        load_class(name, sw.Agent, "agent")


def test_own_classes_leave_the_generators_alone() -> None:
    state = torch.get_rng_state()
    check_environment(world(WORLD))
    check_agent(agent_class(AGENT))
    assert torch.equal(torch.get_rng_state(), state)
