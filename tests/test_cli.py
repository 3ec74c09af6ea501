"""The command line, as a user has it: exit codes, one JSON object, one line that says what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slatewise import agents, cli, environments


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["slatewise", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        return run(self.capsys, self.monkeypatch, *arguments)

    def json(self, *arguments: str) -> dict[str, Any]:
        code, out, _ = self(*arguments, "--json")
        assert code == 0
        return json.loads(out)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch)


def test_help_is_fast_and_loads_no_torch() -> None:
    code = "import sys, slatewise.cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    times: list[float] = []  # CPU seconds, which another process's load does not lengthen
    for _ in range(3):
        started = os.times()
        done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
        ended = os.times()
        times.append(ended.children_user + ended.children_system - started.children_user - started.children_system)
        assert done.returncode == 0
        assert "simulate" in done.stdout
    assert min(times) < 0.7


HELP = "import sys; sys.argv = ['slatewise', '--help']; from slatewise.cli import main; main()"


@pytest.mark.parametrize(
    "verb",
    ["demo", "envs", "agents", "simulate", "train", "evaluate", "watch", "ope", "logs check", "logs show",
     "logs import", "logs import open-bandit", "logs import movielens", "logs import dsjson", "logs export"],
)  # fmt: skip
def test_every_verb_teaches_with_an_example(shell: Shell, verb: str) -> None:
    code, out, _ = shell(*verb.split(), "--help")
    assert code == 0
    assert "Example: slatewise" in " ".join(out.split())


def test_simulate_check_show_judge_and_train_evaluate(shell: Shell, tmp_path: Path) -> None:
    log, trained = str(tmp_path / "log"), str(tmp_path / "run")
    arguments = ("interest-evolution", "--users", "100", "--steps", "4000", "--set", "slate_size=1", "--out", log)
    simulated = shell.json("simulate", *arguments, "--seed", "3")
    assert {"mean", "standard_error", "episodes", "mean_length", "steps_per_second", "steps_per_cpu_second"} <= set(
        simulated
    )
    checked = shell.json("logs", "check", log)
    assert checked["rows"] == 4000
    assert checked["problems"] == []
    shown = shell.json("logs", "show", log, "--rows", "3")
    assert len(shown["interactions"]) == 3
    line = shell.json("train", "linucb", "--env", "interest-evolution", "--steps", "1000", "--users", "50",
                      "--set", "slate_size=1", "--set", "alpha=0.5", "--out", trained)  # fmt: skip
    assert {"run", "steps", "updates", "seconds", "cpu_seconds", "return"} <= set(line)
    evaluated = shell.json("evaluate", trained, "--episodes", "100", "--users", "100")
    assert {"mean", "standard_error", "episodes", "mean_length", "share"} <= set(evaluated)
    judged = shell.json("ope", log, "--policy", "quality", "--policy", trained, "--policy", "random")
    assert set(judged["policies"]) == {"quality", trained, "random"}
    for estimators in judged["policies"].values():
        assert set(estimators) == {"IPS", "SNIPS", "DR"}
        for estimate in estimators.values():
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert judged["verdict"]
    code, out, _ = shell("ope", log, "--policy", "quality")
    assert code == 0
    assert "SNIPS" in out


def test_show_names_items_by_their_ids(shell: Shell, tmp_path: Path) -> None:
    table, mapping, log = tmp_path / "clicks.csv", tmp_path / "shop.toml", str(tmp_path / "log")
    table.write_text("item,decision,position,clicked\nhat,1,2,0\nshoe,1,1,1\nhat,2,1,1\n")
    mapping.write_text('item = "item"\ndecision = "decision"\nposition = "position"\nreward = "clicked"\n'
                       'propensities = "uniform"\n')  # fmt: skip
    assert shell("logs", "import", "table", str(table), "--mapping", str(mapping), "--out", log)[0] == 0
    shown = shell.json("logs", "show", log)["interactions"]
    assert [row["items"] for row in shown] == [["shoe", "hat"], ["hat", None]]
    simulated = str(tmp_path / "simulated")
    shell("simulate", "interest-evolution", "--users", "10", "--steps", "10", "--out", simulated)
    topics = shell.json("logs", "show", simulated)["interactions"][0]["items"]
    assert all(item.startswith("topic_") for item in topics)


def test_require_better_exits_3(shell: Shell, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    shell("simulate", "interest-evolution", "--users", "2000", "--steps", "2000", "--set", "slate_size=1",
          "--set", "horizon=1", "--out", log)  # fmt: skip
    assert shell("ope", log, "--policy", "myopic", "--require-better")[0] == 0
    assert shell("ope", log, "--policy", "random", "--require-better")[0] == 3
    chosen = shell.json("ope", log, "--policy", "myopic", "--estimator", "DR", "--estimator", "DRos",
                        "--interval", "bootstrap", "--reward-model", "ridge")  # fmt: skip
    assert {name: e["kind"] for name, e in chosen["policies"]["myopic"].items()} == {
        "DR": "bootstrap",
        "DRos": "bootstrap",
    }
    always = shell.json("ope", log, "--policy", "myopic", "--interval", "betting", "--reward-range", "0", "30")
    assert set(always["policies"]["myopic"]) == {"IPS"}
    everything = shell.json("ope", log, "--policy", "myopic", "--estimator", "all")
    assert len(everything["policies"]["myopic"]) == 8
    code, _, err = shell("ope", log, "--policy", "myopic", "--estimator", "DRr")
    assert code == 2
    assert "unknown estimator 'DRr': did you mean 'DR" in err


def test_several_seeds_and_a_paired_policy(shell: Shell, tmp_path: Path) -> None:
    arguments = ("evaluate", "quality", "--env", "interest-evolution", "--episodes", "60", "--users", "60")
    result = shell.json(*arguments, "--seeds", "3", "--paired-with", "myopic", "--out", str(tmp_path / "raw"))
    assert result["episodes"] == 180
    assert len(result["seeds"]) == 3
    assert result["interval"][0] <= result["interquartile_mean"] <= result["interval"][1]
    assert result["difference"]["mean"] > 4 * result["difference"]["standard_error"] > 0
    raw = [json.loads((tmp_path / "raw" / f"seed-{seed}.json").read_text()) for seed in (1000, 1001, 1002)]
    returns = [value for one in raw for value in one["returns"]]
    assert result["mean"] == pytest.approx(sum(returns) / 180)
    code, out, _ = shell(*arguments, "--paired-with", "myopic")
    assert code == 0
    assert "to myopic, paired" in out


def test_metrics_beside_the_return(shell: Shell) -> None:
    arguments = ("evaluate", "quality", "--env", "interest-evolution", "--episodes", "40")
    found = shell.json(*arguments, "--metrics")
    assert found["metrics"]["decisions"] == round(found["mean_length"] * 40)
    assert set(found["metrics"]) >= {"click_rate", "signals", "coverage", "gini", "novelty", "diversity"}
    assert "metrics" not in shell.json(*arguments)
    _, out, _ = shell(*arguments, "--metrics")
    assert "what was shown" in out


def test_seeds_reproduce(shell: Shell) -> None:
    arguments = ("evaluate", "myopic", "--env", "interest-evolution", "--episodes", "50", "--users", "50", "--seed")
    assert shell.json(*arguments, "5") == shell.json(*arguments, "5") != shell.json(*arguments, "6")


BAD = [
    (("simulate", "interest-evolutio"), "unknown environment 'interest-evolutio': did you mean 'interest-evolution'?"),
    (("simulate", "interest-evolution", "--policy", "qualty"), "unknown policy 'qualty': did you mean 'quality'?"),
    (("simulate", "interest-evolution", "--set", "slate_sise=2"), "did you mean 'slate_size'?"),
    (("simulate", "interest-evolution", "--set", "slate_size"), "is not KEY=VALUE"),
    (
        ("simulate", "interest-evolution", "--set", "slate_size=two"),
        "slate_size='two': input should be a valid integer",
    ),
    (("simulate", "interest-evolution", "--set", "slate_size=11"), "slate_size=11 is more than candidates=10"),
    (("simulate", "interest-evolution", "--set", "choice=logits"), "choice='logits': input should be"),
    (("simulate", "interest-evolution", "--set", "observe=mood"), "unknown observe key of interest-evolution 'mood'"),
    (("train", "slatq", "--env", "interest-evolution", "--out", "x"), "unknown agent 'slatq': did you mean 'slateq'?"),
    (("evaluate", "nowhere"), "'nowhere' is no run's folder: name one, or a rule"),
    (("ope", "nowhere", "--policy", "random"), "nowhere"),
    (("simulate", "interest-evolution", "--policy", "runs/none"), "and it is no run's folder either"),
    (("logs", "check", "nowhere"), "nowhere"),
    (("logs", "import", "open-bandits"), "unknown import 'open-bandits': did you mean 'open-bandit'?"),
    (("logs", "import", "open-bandit", "--behaviour", "bt"), "behaviour"),
    (("envs", "maze2"), "unknown environment 'maze2'"),
    (("agents", "linucbb"), "did you mean 'linucb'?"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_2(
    shell: Shell, arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = shell(*arguments)
    assert code == 2
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_meets_only_the_features_it_was_trained_on(shell: Shell, tmp_path: Path) -> None:
    trained = str(tmp_path / "run")
    shell("train", "linucb", "--env", "interest-evolution", "--steps", "200", "--users", "50", "--out", trained)
    code, _, err = shell("evaluate", trained, "--set", "observe=budget", "--episodes", "50")
    assert code == 2
    assert "was trained with 23 user features, here they are 24 (new: budget)" in err
    code, _, err = shell("train", "linucb", "--env", "interest-evolution", "--steps", "200", "--out", trained)
    assert code == 2
    assert "exists: give --resume to go on, --overwrite, or another folder" in err


def test_descriptions_list_settings_and_references(shell: Shell) -> None:
    described = shell.json("envs", "interest-evolution")
    assert described["references"]["ceiling"] == {"mean": 295.0, "standard_error": 0.4, "kind": "planner"}
    assert "choice" in described["settings"]
    assert [row["name"] for row in shell.json("envs")["environments"]] == environments.names()
    assert [row["name"] for row in shell.json("agents")["agents"]] == list(agents.AGENTS)
    assert shell.json("agents", "slateq")["settings"]["trace"]["default"] == "0.95"


@pytest.mark.slow
def test_the_demo_runs_and_its_page_loads_nothing(shell: Shell, tmp_path: Path) -> None:
    result = shell.json("demo", "--quick", "--no-download", "--out", str(tmp_path / "demo"))
    assert set(result["worlds"]) == {"long-term-satisfaction-v1", "interest-evolution-v1"}
    for world in result["worlds"].values():
        assert set(world["policies"]) == {"random", "supervised", "linucb", "slateq"}
        assert {"random", "best_rule", "ceiling"} <= set(world)
    page = Path(result["report"]).read_text()
    for outside in ("src=", "http://", "https://", "@import", "url("):
        assert outside not in page.replace("http://www.w3.org", "").replace("url(#", "")


def test_the_mouse_learns_at_the_command_line(shell: Shell, tmp_path: Path) -> None:
    described = shell.json("envs", "maze")
    assert described["references"]["ceiling"]["kind"] == "exact"
    run, layout = str(tmp_path / "run"), tmp_path / "mine.txt"
    layout.write_text("M..+\n.##.\n.-C.\n")
    shell.json("train", "q-learning", "--env", "maze", "--set", f"layout={layout}", "--steps", "30000", "--out", run)
    layout.unlink()  # the run knows it
    assert shell.json("evaluate", run, "--episodes", "20")["mean"] == 24
    layout.write_text("M..x\n")
    code, _, error = shell("evaluate", "random", "--env", "maze", "--set", f"layout={layout}")
    assert code == 2
    assert "layout line 1, column 4: 'x' is no part of a maze" in error


@pytest.mark.parametrize(
    "verb",
    [
        ("train", "slateq", "--env", "maze", "--out"),
        ("train", "linucb", "--log", "LOG", "--out"),
        ("simulate", "maze", "--out"),
        ("evaluate", "random", "--env", "maze", "--out"),
    ],
)
def test_a_device_that_is_not_there_is_refused(shell: Shell, tmp_path: Path, verb: tuple[str, ...]) -> None:
    log = str(tmp_path / "log")
    if "LOG" in verb:
        shell.json("simulate", "interest-evolution", "--steps", "1000", "--out", log)
    out = tmp_path / "out"
    code, _, error = shell(*(log if word == "LOG" else word for word in verb), str(out), "--device", "abacus")
    assert code == 2
    assert "device='abacus' cannot be used here" in error
    assert not out.exists()


def test_a_preset_fills_in_settings_and_steps_and_set_overrides_it(shell: Shell, tmp_path: Path) -> None:
    presets = shell.json("agents", "slateq")["presets"]
    assert presets["fast"]["steps"] == 300_000
    train = ("train", "slateq", "--env", "interest-evolution", "--preset", "fast", "--steps", "2000", "--users", "32")
    shell.json(*train, "--set", "learning_rate=0.001", "--out", str(tmp_path / "run"))
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["agent_settings"]
    assert recorded["rollout_steps"] == presets["fast"]["settings"]["rollout_steps"]
    assert recorded["learning_rate"] == 0.001
    code, _, error = shell(*train[:5], "quick", "--out", str(tmp_path / "other"))
    assert code == 2
    assert "unknown preset of slateq 'quick'" in error
    assert "known are best, fast, noisy, robust" in error
    code, _, error = shell("train", "linucb", "--log", "x", "--preset", "fast", "--out", str(tmp_path / "third"))
    assert code == 2
    assert "leave it out with --log" in error
