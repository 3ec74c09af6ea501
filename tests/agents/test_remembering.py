"""Agents that read histories: the same in training, after loading, in a log and across the ends of sessions."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.agents.base import Agent
from slatewise.interactions import Interactions
from slatewise.logs import Log, LogWriter
from tiny_worlds import Recall

STEPS = 4096
NETWORKS = ("slateq", "supervised", "wolpertinger")
ENCODERS = ("flat", "gru")


def start(name: str = "slateq", encoder: str = "gru", **settings: Any) -> tuple[Agent, sw.Environment]:
    """Sessions of seven steps and histories of five: of every length, and too long."""
    env = sw.make("long-term-satisfaction", users=64, seed=2, horizon=7, history=5, variant="slides", observe="")
    return make_agent(name, env.spec, env.choice, seed=3, hidden=16, embedding=8, encoder=encoder, **settings), env


@pytest.fixture(scope="module", params=[(name, how) for name in NETWORKS for how in ENCODERS], ids="-".join)
def trained(request: pytest.FixtureRequest) -> tuple[Agent, sw.Environment]:
    agent, env = start(*request.param)
    sw.train(agent, env, STEPS, progress=False)
    return agent, env


def logged(agent: Agent, env: sw.Environment, path: Path, explore: bool) -> Log:
    with LogWriter(path, env.spec, {"kind": "simulation", "world": env.full_name, "seed": 2}) as writer:
        env.reset(9)
        for _ in range(20):
            writer.add(env.step(agent.act(env.observation, explore=explore)))
    return Log(path)


@pytest.mark.parametrize("explore", [True, False])
def test_a_log_rebuilds_the_histories_that_the_agent_saw(
    trained: tuple[Agent, sw.Environment], explore: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """In every place of a session, and whatever block a row comes in: the same propensities, and the same slates."""
    agent, env = trained
    rows = Interactions.cat(list(logged(agent, env, tmp_path / "log", explore).blocks()))
    assert rows.observation.history is not None
    assert set(rows.observation.history[:, :, -1].sum(1).tolist()) == {0, 1, 2, 3, 4, 5}
    propensity = agent.propensity(rows.observation, rows.decision.slate, explore=explore)
    assert torch.equal(propensity, rows.decision.propensity)
    if not explore:
        assert len(recwarn) == 1  # a log without exploration is worth nothing for evaluation
        assert torch.equal(agent.act(rows.observation, explore=False).slate, rows.decision.slate)


def test_the_history_decides(trained: tuple[Agent, sw.Environment]) -> None:
    """What makes the other tests able to fail."""
    agent, env = trained
    for _ in range(5):
        env.step(agent.act(env.observation))
    shown = env.observation
    assert shown.history is not None
    other = replace(shown, history=shown.history.flip(1))
    assert not torch.equal(agent.act(shown, explore=False).slate, agent.act(other, explore=False).slate)


def test_off_policy_evaluation_of_the_logging_agent_has_weights_of_one(tmp_path: Path) -> None:
    agent, env = start()
    sw.train(agent, env, STEPS, progress=False)
    log = logged(agent, env, tmp_path / "log", explore=True)
    (policy,) = sw.off_policy.evaluate(log, agent, explore=True).policies.values()
    assert policy.diagnostics.effective_sample_size == pytest.approx(len(log))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_run_resumes_to_the_bit_and_loads_with_its_encoder(encoder: str, tmp_path: Path) -> None:
    whole, env = start("slateq", encoder)
    sw.train(whole, env, STEPS, progress=False)
    agent, env = start("slateq", encoder)

    def press(line: dict[str, Any]) -> None:
        if line["steps"] >= STEPS // 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert sw.train(agent, env, STEPS, tmp_path / "run", progress=False, on_metrics=press).interrupted
    agent, env = start("slateq", encoder)
    sw.train(agent, env, STEPS, tmp_path / "run", resume=True, progress=False)
    loaded = sw.load(tmp_path / "run")
    assert loaded.settings.encoder == encoder
    for key, value in whole.tensors().items():
        assert torch.equal(value, agent.tensors()[key]), key
        assert torch.equal(value, loaded.tensors()[key]), key
    assert torch.equal(loaded.act(env.observation, False).slate, agent.act(env.observation, False).slate)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_was_seen_steps_ago_decides(encoder: str) -> None:
    """In `Recall` the best return is 1 for who remembers three steps, and 1/2 for who does not."""
    returns = {}
    for history in (2, 3):
        env = Recall(users=128, seed=1, history=history, candidates=2, slate_size=1)
        settings = {"hidden": 32, "embedding": 4, "encoder": encoder, "learning_rate": 0.01, "rollout_steps": 4}
        agent = sw.Supervised(env.spec, seed=1, **settings)
        sw.train(agent, env, 40_000, progress=False)
        fresh = Recall(users=500, seed=5, history=history, candidates=2, slate_size=1)
        returns[history] = sw.evaluate(agent, fresh, 500)
    assert abs(returns[2].mean - 0.5) < 4 * returns[2].standard_error
    assert returns[3].mean > 0.98
