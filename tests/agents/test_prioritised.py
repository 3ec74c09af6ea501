"""Prioritised replay: segments come as often as their priorities say, and count by the paper's weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.agents.replay import LEAST, PrioritisedReplay
from slatewise.interactions import Interactions
from tiny_worlds import Clock, Coin

USERS, STEPS = 4, 2
FAST: dict[str, Any] = {"hidden": 32, "embedding": 8, "learning_rate": 5e-3, "rollout_steps": 8}


def taken(memory: PrioritisedReplay, env: sw.Environment) -> Interactions:
    for _ in range(STEPS):
        memory.add(env.step(env.rule("random").act(env.observation)))
    return memory.take()


def filled(times: int, power: float) -> tuple[PrioritisedReplay, sw.Environment]:
    """A memory of three rollouts of 4 users, 12 segments, the last two of which were learned from."""
    env = Clock(users=USERS, candidates=2, slate_size=1)
    memory = PrioritisedReplay(STEPS, 3 * USERS * STEPS, times, torch.Generator().manual_seed(0), power)
    for _ in range(3):
        taken(memory, env)
    memory.priorities[:] = torch.arange(1.0, 13.0).double()
    return memory, env


def test_segments_come_in_proportion_to_the_power_of_their_priority() -> None:
    memory, env = filled(times=5000, power=0.6)
    rollout = taken(memory, env)  # takes the place of the first, at the largest priority
    priorities = torch.tensor([12.0] * 4 + list(range(5, 13))).double()
    assert torch.equal(memory.priorities, priorities)
    right = priorities**0.6 / (priorities**0.6).sum()
    drawn = memory._taken[USERS:]
    share = torch.bincount(drawn, minlength=12) / len(drawn)
    error = (right * (1 - right) / len(drawn)).sqrt()
    assert float(((share - right) / error).abs().max()) < 4
    assert torch.equal(memory._taken[:USERS], torch.arange(4))
    steps = rollout.step.view(STEPS, -1)
    assert bool(((steps[1] == steps[0] + 1) | (steps[1] == 0)).all())


@pytest.mark.parametrize("correction", [0.0, 0.4, 1.0])
def test_weights_are_those_of_the_paper(correction: float) -> None:
    memory, env = filled(times=3, power=0.7)
    memory.anneal((correction - 0.4) / 0.6)
    taken(memory, env)
    chance = memory.chances()[memory._taken[USERS:]]
    raw = (12 * chance) ** -correction
    assert bool((memory.weights[:USERS] == 1).all())
    torch.testing.assert_close(memory.weights[USERS:], raw / raw.max())
    assert float(memory.weights.max()) == 1


def test_fully_corrected_draws_have_the_mean_of_all_segments() -> None:
    """With β = 1 a weighted mean of draws estimates the plain mean over segments."""
    memory, env = filled(times=20_000, power=1.0)
    memory.anneal(1.0)
    taken(memory, env)
    drawn, weights = memory._taken[USERS:], memory.weights[USERS:]
    value = memory.priorities
    assert float((weights * value[drawn]).sum() / weights.sum()) == pytest.approx(float(value.mean()), rel=0.01)
    assert abs(float(value[drawn].mean()) / float(value.mean()) - 1) > 0.05


def test_what_was_learned_from_gets_its_error_the_largest_of_several_uses_and_never_nothing() -> None:
    memory, env = filled(times=2, power=0.6)
    taken(memory, env)
    memory._taken = torch.tensor([0, 1, 2, 3, 7, 7, 9, 9])
    memory.learned(torch.tensor([4.0, 1.0, 0.0, 2.0, 0.5, 3.0, 8.0, 6.0]))
    right = [4.0, 1.0, 8 * LEAST, 2.0, 5.0, 6.0, 7.0, 3.0, 9.0, 8.0, 11.0, 12.0]
    assert memory.priorities.tolist() == pytest.approx(right)


def test_segments_in_which_nothing_counts_are_drawn_all_the_same() -> None:
    """The published recipe learns from clicks alone, and a rollout may have none."""
    memory, env = filled(times=2, power=0.6)
    taken(memory, env)
    before = float(memory.priorities.max())
    memory.learned(torch.zeros(3 * USERS))
    assert float(memory.priorities.min()) == LEAST * before
    env = sw.make("interest-evolution", users=2, seed=0)
    published: dict[str, Any] = {"null_value": False, "trace": 0.0, "replay": 1, "prioritised": 0.6}
    agent = sw.SlateQ(env.spec, env.choice, **(FAST | published | {"rollout_steps": 1}))
    for _ in range(3):
        seen = env.step(agent.act(env.observation))
        nothing = replace(seen.response, clicked=torch.zeros_like(seen.response.clicked))
        agent.observe(replace(seen, response=nothing))
        assert agent.update() is not None


@pytest.mark.parametrize("name", ["slateq", "deep-q"])
def test_the_error_of_a_segment_is_the_mean_over_its_steps(name: str) -> None:
    env = Clock(users=3, candidates=2, slate_size=1)
    agent: Any = make_agent(name, env.spec, env.choice, discount=0.0, replay=2, prioritised=0.5, **FAST)
    earned = list[Any]()
    for _ in range(8):
        interactions = env.step(agent.act(env.observation))
        agent.observe(interactions)
        earned.append((interactions.decision, interactions.observation, interactions.response.total_reward))
    at = [agent.regression.predict_at(seen, decision.slate).squeeze(1) for decision, seen, _ in earned]
    errors = torch.stack([(reward - q).abs() for (_, _, reward), q in zip(earned, at, strict=True)]).mean(0)
    agent.update()
    torch.testing.assert_close(agent.memory.priorities, errors.double())


@pytest.mark.parametrize("name", ["slateq", "deep-q"])
def test_values_are_right_and_runs_repeat_to_the_bit(name: str) -> None:
    runs = list[dict[str, torch.Tensor]]()
    for _ in range(2):
        env = Coin(users=64, candidates=2, slate_size=1)
        settings: dict[str, Any] = {"discount": 0.9, "replay": 2, "prioritised": 0.6, "minibatches": 6}
        agent: Any = make_agent(name, env.spec, env.choice, 0, **FAST, **settings)
        sw.train(agent, env, 20_000, progress=False)
        runs.append(agent.tensors())
        known = agent._slate(env.observation, "exact")[1] if name == "slateq" else agent.values(env.observation)
        assert float(known.mean()) == pytest.approx(5, rel=0.1)
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())


def test_priorities_without_a_memory_are_refused() -> None:
    env = sw.make("interest-evolution", users=1)
    with pytest.raises(sw.InputError, match=r"prioritised=0\.6 with replay=0: .*so give replay"):
        make_agent("slateq", env.spec, env.choice, prioritised=0.6)
