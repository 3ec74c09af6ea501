"""Values of the steps of a session, learned apart: right by hand, of no consequence for what is shown, and saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.agents.slateq import SlateQ
from tiny_worlds import Clock, Countdown

FAST: dict[str, Any] = {"hidden": 32, "embedding": 8, "learning_rate": 5e-3}


def trained(env: sw.Environment, steps: int, **settings: Any) -> SlateQ:
    agent = SlateQ(env.spec, env.choice, seed=0, step_values=True, **(FAST | settings))
    sw.train(agent, env, steps, progress=False)
    return agent


@pytest.mark.parametrize("target", ["exact", "sarsa"])
def test_what_is_left_of_a_session_is_the_steps_and_what_an_item_costs_the_networks(target: str) -> None:
    """The end is hidden: a network alone cannot tell six steps left, worth 6, from one, worth 1."""
    env = Countdown(users=64, candidates=2, slate_size=1)
    agent = trained(env, 40_000, target=target)
    items, _ = agent.values(env.observation)
    assert (items[:, 0] - items[:, 1]).tolist() == pytest.approx([1] * 64, abs=0.1)
    assert agent.step_values is not None
    whole = agent.step_values.table[0] + float(items.max(1).values.mean())
    assert whole.tolist() == pytest.approx([6, 5, 4, 3, 2, 1], abs=0.15)


def test_truncation_does_not_end_the_future() -> None:
    env = Clock(users=64, candidates=2, slate_size=1)
    agent = trained(env, 60_000, discount=0.9)
    assert agent.step_values is not None
    whole = agent.step_values.table[0] + float(agent.values(env.observation)[0].max(1).values.mean())
    assert whole.tolist() == pytest.approx([10] * 5, rel=0.05)  # five steps alone would be worth 4.1


def test_they_are_saved(tmp_path: Path) -> None:
    env = Countdown(users=64, candidates=2, slate_size=1)
    agent = trained(env, 4_000)
    agent.save(tmp_path / "agent")
    loaded = SlateQ.load(tmp_path / "agent")
    tensors = agent.tensors()
    assert loaded.tensors().keys() == tensors.keys()
    assert tensors["step_values"].shape == (2, 6)
    assert all(torch.equal(value, tensors[key]) for key, value in loaded.tensors().items())


def test_no_click_needs_a_value_for_them() -> None:
    env = Countdown(users=2, candidates=2, slate_size=1)
    with pytest.raises(sw.InputError, match=r"null_value=false with step_values=true.*leave one of them"):
        SlateQ(env.spec, env.choice, null_value=False, trace=0.0, step_values=True)
