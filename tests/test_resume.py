"""`slatewise train --resume`: what was not given again is as the run was begun, and what contradicts is refused."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slatewise import cli, runs
from slatewise.errors import InputError

STEPS = "6400"
BEGUN = ("--env", "interest-evolution", "--set", "slate_size=1", "--set", "alpha=0.5", "--users", "64", "--seed", "3")


def train(*words: str) -> tuple[int, str]:
    """Run `train linucb`; return the exit code and what it said on standard error."""
    done = CliRunner().invoke(cli.app, ["train", "linucb", *words])
    if isinstance(done.exception, InputError):
        raise done.exception
    return done.exit_code, done.stderr


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that Ctrl-C stopped halfway, in a folder whose name a shell would cut."""
    folder, write = tmp_path / "my run", runs.Run.write_metrics

    def press(run: runs.Run, line: Any) -> None:
        write(run, line)
        if line["steps"] >= int(STEPS) // 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "write_metrics", press)
        code, said = train(*BEGUN, "--steps", STEPS, "--out", str(folder))
    assert code == 130
    assert f"go on with: slatewise train linucb --resume --out {shlex.quote(str(folder))}" in said
    return folder


def test_a_run_knows_all_that_it_was_begun_with(stopped: Path, tmp_path: Path) -> None:
    described = json.loads((stopped / "run.json").read_text())
    earlier = described | {"agent_settings": described["agent_settings"] | {"planned_steps": int(STEPS)}}
    (stopped / "run.json").write_text(json.dumps(earlier))  # as a version wrote it whose bandits had this setting
    assert train("--resume", "--out", str(stopped))[0] == 0
    assert train(*BEGUN, "--steps", STEPS, "--out", str(tmp_path / "whole"))[0] == 0
    resumed, whole = runs.metrics(stopped)[-1], runs.metrics(tmp_path / "whole")[-1]
    assert (resumed["steps"], resumed["return"]) == (whole["steps"], whole["return"])
    assert described == json.loads((tmp_path / "whole" / "run.json").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "7000"), "planned for 6400 steps"),
        (("--users", "32"), "begun with users=64, not 32"),
        (("--seed", "4"), "begun with world_seed=3, not 4"),
        (("--set", "alpha=1"), "begun with alpha=0.5, not 1.0"),
        (("--set", "slate_size=2"), "begun with slate_size=1, not 2"),
        (("--env", "feed"), "trains linucb in interest-evolution-v1, not linucb in feed-v1"),
    ],
)
def test_what_contradicts_a_run_is_refused(words: tuple[str, str], said: str, stopped: Path) -> None:
    with pytest.raises(InputError, match=said):
        train("--resume", "--out", str(stopped), *words)


def test_a_finished_run_says_so_and_shows_its_last_metrics(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(*BEGUN, "--steps", STEPS, "--out", str(run))
    done = CliRunner().invoke(cli.app, ["train", "linucb", "--resume", "--out", str(run), "--json"])
    line = json.loads(done.stdout)
    assert line["return"] == runs.metrics(run)[-1]["return"]
    assert line["had_finished"]
    assert f"{run} had finished its 6,400 steps, so nothing was left to do" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "7"), "--steps 7 is for"),
        (("--users", "3"), "--users 3 is for"),
        (("--resume",), "--resume is for"),
        (("--preset", "fast"), "--preset fast is for"),
    ],
)
def test_options_of_worlds_are_refused_with_a_log(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{said} learning in a world: leave it out with --log"):
        train("--log", "nowhere", "--out", str(tmp_path / "run"), *words)


@pytest.mark.parametrize("key", ["alpha", "agent.alpha"])
def test_a_run_keeps_the_settings_of_its_agent(key: str, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    train(*BEGUN, "--steps", "640", "--out", run)
    for words in (["evaluate", run], ["simulate", "interest-evolution", "--policy", run]):
        done = CliRunner().invoke(cli.app, [*words, "--set", f"{key}=3"])
        assert f"--set {key}: the agent of {run} keeps the settings it was trained with" in str(done.exception)


def test_python_runs_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "slatewise", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("slatewise ")
