"""The training loop and run folders: metrics, checkpoints, interruption, resuming to the bit."""

import json
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import slatewise as sw
from slatewise import runs, training
from slatewise.agents.base import Agent
from slatewise.naming import agent_for

STEPS = 20_000
TINY: dict[str, Any] = {"hidden": 16, "embedding": 8}
SMALL: dict[str, dict[str, Any]] = {
    "slateq": TINY,
    "supervised": TINY,
    "linucb": {},
    "slateq, replay": {**TINY, "replay": 3, "replay_size": 6000, "target_every": 2},
    "slateq, prioritised": {**TINY, "replay": 2, "replay_size": 6000, "prioritised": 0.6},
    "slateq, steps": {**TINY, "step_values": True, "target": "sarsa"},
    "deep-q, replay": {**TINY, "replay": 1, "replay_size": 6000, "prioritised": 0.6},
    "wolpertinger, replay": {**TINY, "replay": 1, "replay_size": 6000, "target_every": 2},
    "slateq, choice learned": {**TINY, "fit_choice": "logit", "replay": 1},
}


def start(name: str, seed: int = 0) -> tuple[Agent, sw.Environment]:
    env = sw.make("interest-evolution", users=64, seed=seed)
    return agent_for(name.split(",")[0], env, seed, **SMALL[name]), env


def interrupt_at(steps: int) -> Callable[[dict[str, Any]], None]:
    def press(line: dict[str, Any]) -> None:
        if line["steps"] >= steps:
            os.kill(os.getpid(), signal.SIGINT)

    return press


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_run_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    steps = STEPS if name != "linucb" else 2000
    whole, env = start(name)
    sw.train(whole, env, steps, progress=False)

    agent, env = start(name)
    first = sw.train(agent, env, steps, tmp_path / "run", progress=False, on_metrics=interrupt_at(steps // 2))
    assert first.interrupted
    assert steps // 2 <= first.steps < steps
    assert sw.load(tmp_path / "run").steps == first.steps  # usable at once

    agent, env = start(name)
    env.step(env.rule("random").act(env.observation))  # wherever the new process stands is replaced
    second = sw.train(agent, env, steps, tmp_path / "run", resume=True, progress=False)
    assert not second.interrupted
    assert second.steps == whole.steps
    assert second.cpu_seconds > first.cpu_seconds
    for key, value in whole.tensors().items():
        assert torch.equal(value, agent.tensors()[key]), key
    for key, value in whole.memory_tensors().items():
        assert torch.equal(value, agent.memory_tensors()[key]), key
    lines = [line["steps"] for line in runs.metrics(tmp_path / "run")]
    assert lines == sorted(set(lines))
    assert lines[-1] == second.steps


def half_of_a_run(folder: Path) -> Path:
    """Interrupt a run with replay in the middle; return its newest checkpoint."""
    agent, env = start("slateq, replay")
    sw.train(agent, env, STEPS, folder, progress=False, on_metrics=interrupt_at(STEPS // 2))
    return folder / "checkpoints" / f"{agent.steps:012d}"


def test_the_newest_checkpoint_alone_has_the_memory(tmp_path: Path) -> None:
    newest = half_of_a_run(tmp_path / "run")
    assert [path.parent for path in (tmp_path / "run").rglob("memory.safetensors")] == [newest]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) > 1


def test_what_a_kill_left_of_a_checkpoint_goes_with_the_next(tmp_path: Path) -> None:
    agent, env = start("linucb")
    cut = tmp_path / "run" / "checkpoints" / ".000000000123"
    sw.train(agent, env, 64, tmp_path / "run", progress=False)
    cut.mkdir()
    (cut / "memory.safetensors").write_bytes(b"half")
    agent, env = start("linucb")
    run = runs.Run(tmp_path / "run")
    env.step(agent.act(env.observation))
    agent.steps = 128
    run.checkpoint(env, agent, {}, {})
    assert not cut.exists()


def test_serving_needs_no_memory(tmp_path: Path) -> None:
    newest = half_of_a_run(tmp_path / "run")
    (newest / "memory.safetensors").unlink()
    env = sw.make("interest-evolution", users=8, seed=1)
    assert sw.load(tmp_path / "run").act(env.observation, explore=False).slate.shape == (8, 2)


@pytest.mark.parametrize("damage", ["missing", "cut", "another", "short"])
def test_a_run_does_not_go_on_without_its_memory(damage: str, tmp_path: Path) -> None:
    path = half_of_a_run(tmp_path / "run") / "memory.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "another":
        save_file({"rows.step": torch.zeros(3)}, path)
    elif damage == "short":
        tensors = load_file(path)
        save_file({**tensors, "rows.step": tensors["rows.step"][1:].clone()}, path)
    else:
        path.unlink()
    with pytest.raises(sw.InputError, match=r"memory\.safetensors (is missing|cannot be read).*begin another run"):
        sw.train(*start("slateq, replay"), STEPS, tmp_path / "run", resume=True, progress=False)


def test_a_run_of_an_earlier_version_begins_its_memory_anew_and_says_so(tmp_path: Path) -> None:
    newest = half_of_a_run(tmp_path / "run")
    (newest / "memory.safetensors").unlink()
    progress = json.loads((newest / "progress.json").read_text())
    (newest / "progress.json").write_text(json.dumps({k: v for k, v in progress.items() if k != "memory"}))
    with pytest.warns(UserWarning, match="without the memory that slateq learns from: it begins anew"):
        again = sw.train(*start("slateq, replay"), STEPS, tmp_path / "run", resume=True, progress=False)
    assert not again.interrupted


def test_checkpoints_that_take_long_are_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a look takes 1 second and a checkpoint 3 more, at least 60 seconds pass before the next."""
    now, written = [0.0], list[float]()

    def tick() -> float:
        now[0] += 1
        return now[0]

    def slow(run: runs.Run, *_: object) -> Path:
        written.append(now[0])
        now[0] += 2
        return run.folder

    clock = SimpleNamespace(perf_counter=tick, process_time=tick)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(runs.Run, "checkpoint", slow)
    sw.train(*start("linucb"), 64 * 100, tmp_path / "run", progress=False)
    waits = [after - before for before, after in pairwise(written[:-1])]  # the last is the end of the run's
    assert len(waits) >= 2
    assert all(60 < wait < 80 for wait in waits), waits


def test_a_run_says_what_it_was_and_keeps_its_metrics(tmp_path: Path) -> None:
    agent, env = start("slateq")
    result = sw.train(agent, env, STEPS, tmp_path / "run", progress=False)
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["agent"] == "slateq"
    assert described["world"] == "interest-evolution-v1"
    assert described["agent_settings"]["planned_steps"] == STEPS
    assert described["agent_settings"]["hidden"] == 16
    assert described["versions"]["torch"] == torch.__version__
    line = runs.metrics(tmp_path / "run")[-1]
    assert line == result.metrics
    assert {"steps", "updates", "seconds", "cpu_seconds", "steps_per_second", "return", "loss", "epsilon"} <= set(line)
    assert result.steps >= STEPS
    again = runs.make_world(tmp_path / "run", users=10, seed=5)
    assert (again.full_name, again.users, again.settings) == (env.full_name, 10, env.settings)


def test_existing_runs_are_refused_unless_told(tmp_path: Path) -> None:
    agent, env = start("linucb")
    sw.train(agent, env, 500, tmp_path / "run", progress=False)
    with pytest.raises(sw.InputError, match=r"run exists: give --resume to go on, --overwrite, or another folder"):
        sw.train(*start("linucb"), 500, tmp_path / "run", progress=False)
    sw.train(*start("linucb"), 500, tmp_path / "run", overwrite=True, progress=False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("precious")
    with pytest.raises(sw.InputError, match="is not a run"):
        sw.train(*start("linucb"), 500, tmp_path / "photos", overwrite=True, progress=False)
    assert (tmp_path / "photos" / "me.jpg").exists()


@pytest.mark.parametrize("name", ["slateq", "model-planner"])
def test_a_run_that_fails_before_it_learns_names_other_agents_and_leaves_no_folder(name: str, tmp_path: Path) -> None:
    env = sw.make("feed", users=64, seed=0)
    settings: dict[str, Any] = {**TINY, "fit_choice": "logit"} if name == "slateq" else {}
    for folder in (tmp_path / "run", tmp_path / "mine"):
        if folder.name == "mine":
            folder.mkdir()
        with pytest.raises(sw.InputError, match=rf"{name} is for users who take at most one.*reinforce or ppo"):
            sw.train(agent_for(name, env, **settings), env, 5000, folder, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]  # an empty folder that was there stays
    assert not list((tmp_path / "mine").iterdir())


def test_a_run_that_fails_after_it_learned_keeps_its_folder(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise sw.InputError("the disk for metrics is full")

    with pytest.raises(sw.InputError, match="the disk"):
        sw.train(*start("slateq"), STEPS, tmp_path / "run", progress=False, on_metrics=fail)
    assert sw.load(tmp_path / "run").steps == 0


def test_an_agent_alone_knows_no_world(tmp_path: Path) -> None:
    agent, _ = start("linucb")
    agent.save(tmp_path / "agent")
    with pytest.raises(sw.InputError, match=r"holds an agent alone.*name one with --env"):
        runs.make_world(tmp_path / "agent")


def test_resuming_something_else_is_refused(tmp_path: Path) -> None:
    sw.train(*start("linucb"), 500, tmp_path / "run", progress=False)
    with pytest.raises(sw.InputError, match="trains linucb in interest-evolution-v1, not slateq"):
        sw.train(*start("slateq"), 500, tmp_path / "run", resume=True, progress=False)
    with pytest.raises(sw.InputError, match=r"planned for 500 steps.*--steps 500"):
        sw.train(*start("linucb"), 900, tmp_path / "run", resume=True, progress=False)
    with pytest.raises(sw.InputError, match=r"was begun with world_seed=0, not 7"):
        sw.train(*start("linucb", seed=7), 500, tmp_path / "run", resume=True, progress=False)
    env = sw.make("interest-evolution", users=64, seed=0)
    with pytest.raises(sw.InputError, match=r"was begun with alpha=1\.0, not 0\.5: resume with the settings"):
        sw.train(sw.LinUCB(env.spec, alpha=0.5), env, 500, tmp_path / "run", resume=True, progress=False)
    with pytest.raises(sw.InputError, match=r"nowhere is not a run: run\.json is missing"):
        sw.train(*start("linucb"), 900, tmp_path / "nowhere", resume=True, progress=False)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, env = start("linucb")
    sw.train(agent, env, 500, tmp_path / "run", progress=False)
    before = sw.load(tmp_path / "run").tensors()
    run = runs.Run(tmp_path / "run")
    agent.steps += 64

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for victim in ("save_file", "_write"):
        with monkeypatch.context() as patch:
            patch.setattr(runs, victim, killed)
            with pytest.raises(KeyboardInterrupt):
                run.checkpoint(env, agent, {}, {})
        for key, value in sw.load(tmp_path / "run").tensors().items():
            assert torch.equal(value, before[key])
    run.checkpoint(env, agent, {"seconds": 1.0, "cpu_seconds": 1.0}, {})
    assert sw.load(tmp_path / "run").steps == agent.steps


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    agent, env = start("linucb")
    run = runs.Run(tmp_path / "run")
    run.begin(env, agent, 10)
    for agent.steps in range(64, 64 * 8, 64):
        run.checkpoint(env, agent, {"seconds": 0.0, "cpu_seconds": 0.0}, {})
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [f"{steps:012d}" for steps in (320, 384, 448)]


def test_a_finished_run_that_is_resumed_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sw.train(*start("linucb"), 500, tmp_path / "run", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: pytest.fail("a checkpoint that is there was replaced"))
        again = sw.train(*start("linucb"), 500, tmp_path / "run", resume=True, progress=False)
    assert not again.interrupted
    assert sw.load(tmp_path / "run").steps == again.steps


def test_a_run_can_be_resumed_from_its_first_moment(tmp_path: Path) -> None:
    def killed(_: object) -> None:
        raise SystemExit(9)

    with pytest.raises(SystemExit):
        sw.train(*start("slateq"), STEPS, tmp_path / "run", progress=False, on_metrics=killed)
    agent, env = start("slateq")
    sw.train(agent, env, STEPS, tmp_path / "run", resume=True, progress=False)
    whole, env = start("slateq")
    sw.train(whole, env, STEPS, progress=False)
    assert all(torch.equal(value, agent.tensors()[key]) for key, value in whole.tensors().items())


@pytest.mark.parametrize("steps", [6000, 80_000])  # before any session ends, and with more than are averaged
def test_the_return_of_a_resumed_run_is_that_of_the_whole_run(steps: int, tmp_path: Path) -> None:
    whole = sw.train(*start("supervised"), steps, progress=False).metrics
    agent, env = start("supervised")
    sw.train(agent, env, steps, tmp_path / "run", progress=False, on_metrics=interrupt_at(steps // 2))
    resumed = sw.train(*start("supervised"), steps, tmp_path / "run", resume=True, progress=False).metrics
    assert resumed["return"] == whole["return"] is not None


def test_returns_after_a_resume_from_an_earlier_version_are_of_whole_sessions(tmp_path: Path) -> None:
    agent, env = start("linucb")
    sw.train(agent, env, 6000, tmp_path / "run", progress=False, on_metrics=interrupt_at(3000))
    for kept in (tmp_path / "run").rglob("returns.safetensors"):
        kept.unlink()
    lines: list[dict[str, Any]] = []
    sw.train(*start("linucb"), 6000, tmp_path / "run", resume=True, progress=False, on_metrics=lines.append)
    assert all(line["return"] is None or line["return"] > 100 for line in lines)  # half a session earns about 80


def test_the_last_update_still_learns() -> None:
    agent, env = start("slateq")
    before = {key: value.clone() for key, value in agent.tensors().items() if key.endswith("weight")}
    line = sw.train(agent, env, 1, progress=False).metrics
    assert line["learning_rate"] > 0
    assert any(not torch.equal(value, agent.tensors()[key]) for key, value in before.items())


def test_an_agent_that_never_learns_does_not_run_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, env = start("linucb")
    monkeypatch.setattr(agent, "update", lambda: None)
    assert sw.train(agent, env, 100, progress=False).steps < 100_000


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": "9"}', '{"format": 1}', "not json", "\x00"])
def test_damaged_descriptions_are_named(text: str, tmp_path: Path) -> None:
    sw.train(*start("linucb"), 100, tmp_path / "run", progress=False)
    (checkpoint,) = (p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name != "000000000000")
    (checkpoint / "agent.json").write_text(text)
    with pytest.raises(sw.InputError, match=r"agent\.json"):
        sw.load(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(sw.InputError, match=r"run\.json"):
        runs.read(tmp_path / "run")


def test_latest_leads_nowhere_else(tmp_path: Path) -> None:
    sw.train(*start("linucb"), 100, tmp_path / "run", progress=False)
    (tmp_path / "run" / "latest").write_text("../../elsewhere")
    with pytest.raises(sw.InputError, match="no saved agent"):
        sw.load(tmp_path / "run")


def test_nothing_to_do_is_refused() -> None:
    agent, env = start("linucb")
    sw.train(agent, env, 100, progress=False)
    with pytest.raises(sw.InputError, match="steps=64: this agent has taken 128 already"):
        sw.train(agent, env, 64, progress=False)
    with pytest.raises(sw.InputError, match="steps=0"):
        sw.train(*start("linucb"), 0)
    with pytest.raises(sw.InputError, match="resume and overwrite exclude each other"):
        sw.train(*start("linucb"), 1, resume=True, overwrite=True)
