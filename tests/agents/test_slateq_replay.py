"""SlateQ's replay: segments are whole and in order, and values learned from them are those of the newest rollout."""

from pathlib import Path
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.agents.replay import Replay
from slatewise.agents.slateq import SlateQ
from slatewise.interactions import Interactions
from tiny_worlds import Clock, Coin

FAST: dict[str, Any] = {"hidden": 32, "embedding": 8, "learning_rate": 5e-3}
REPLAY: dict[str, Any] = {"replay": 2, "replay_size": 4_000, "minibatches": 6, "target_every": 2, "double": True}


def rollouts(steps: int, count: int, size: int) -> list[Interactions]:
    """Rollouts of 4 users, sessions of 5 steps, through a memory that draws two segments for each new one."""
    env = Clock(users=4, candidates=2, slate_size=1)
    memory = Replay(steps, size, 2, torch.Generator().manual_seed(0))
    taken: list[Interactions] = []
    for _ in range(count):
        for _ in range(steps):
            memory.add(env.step(env.rule("random").act(env.observation)))
        taken.append(memory.take())
    return taken


def test_segments_are_what_one_user_did_in_order() -> None:
    for rollout in rollouts(steps=3, count=12, size=60):
        episode, step, done = (part.view(3, 12) for part in (rollout.episode, rollout.step, rollout.done))
        goes_on = (episode[1:] == episode[:-1]) & (step[1:] == step[:-1] + 1)
        begins = done[:-1] & (episode[1:] != episode[:-1]) & (step[1:] == 0)
        assert bool((goes_on | begins).all())
        assert bool(begins.any()) or not bool(done[:-1].any())


def test_the_newest_rollout_comes_first_and_old_ones_are_forgotten() -> None:
    taken = rollouts(steps=5, count=12, size=60)  # a session a rollout, three rollouts of 20 rows are kept
    newest = [rollout.episode.view(5, 12)[0, :4] for rollout in taken]
    drawn = [rollout.episode.view(5, 12)[0, 4:] for rollout in taken]
    for i, (new, old) in enumerate(zip(newest, drawn, strict=True)):
        kept = torch.cat(newest[max(0, i - 2) : i + 1])
        assert len(new.unique()) == 4
        assert bool(torch.isin(old, kept).all())
    ever = torch.cat(drawn)
    assert all(bool(torch.isin(new, ever).any()) for new in newest)


def test_another_number_of_users_is_refused() -> None:
    memory = Replay(1, 40, 1, torch.Generator())
    for users in (4, 5):
        env = Clock(users=users, candidates=2, slate_size=1)
        memory.add(env.step(env.rule("random").act(env.observation)))
        if users == 5:
            with pytest.raises(sw.InputError, match="5 users, and replay remembers another number"):
                memory.take()
        else:
            memory.take()


def test_values_are_right_across_truncation() -> None:
    env = Clock(users=16, candidates=2, slate_size=1)
    agent = SlateQ(env.spec, env.choice, seed=0, discount=0.9, **FAST, **REPLAY)
    sw.train(agent, env, 15_000, progress=False)
    items, _ = agent.values(env.observation)
    assert float(items.max(1).values.mean()) == pytest.approx(10, rel=0.05)  # five steps alone would be worth 4.1
    assert agent.act(env.observation, explore=False).slate.flatten().tolist() == [0] * 16


def test_values_are_right_where_nothing_was_clicked() -> None:
    env = Coin(users=128, candidates=2, slate_size=1)
    agent = SlateQ(env.spec, env.choice, seed=0, discount=0.9, **FAST, **REPLAY)
    sw.train(agent, env, 60_000, progress=False)
    items, no_click = agent.values(env.observation)
    assert float(no_click[0]) == pytest.approx(4.5, rel=0.1)
    assert float(items[0, 0]) == pytest.approx(5.5, rel=0.1)


def test_the_older_copy_values_what_comes_next_and_is_saved(tmp_path: Path) -> None:
    env = sw.make("interest-evolution", users=16, seed=0)
    agent = SlateQ(env.spec, env.choice, target_every=1000)
    sw.train(agent, env, 3 * 16 * 16, progress=False)
    tensors = agent.tensors()
    assert not torch.equal(tensors["network.no_click"], tensors["target.no_click"])
    assert bool((tensors["target.no_click"] == 0).all())  # as the network began
    agent.save(tmp_path / "agent")
    loaded = sw.load(tmp_path / "agent")
    assert loaded.tensors().keys() == tensors.keys()
    assert all(torch.equal(value, tensors[key]) for key, value in loaded.tensors().items())


@pytest.mark.parametrize("given", [{"double": True}, {"double": True, "target_every": 4, "target": "sarsa"}])
def test_double_needs_an_older_copy_and_a_best_slate(given: dict[str, Any]) -> None:
    env = sw.make("interest-evolution", users=2)
    with pytest.raises(sw.InputError, match=r"double=true with target_every=.*give target_every above 1"):
        SlateQ(env.spec, env.choice, **given)


def test_presets_are_settings_that_can_be_overridden() -> None:
    env = sw.make("interest-evolution", users=2)
    for name, preset in SlateQ.presets.items():
        settings: dict[str, Any] = {**SlateQ.preset(name).settings, "hidden": 16}
        agent = SlateQ(env.spec, env.choice, **settings)
        assert agent.settings.hidden == 16
        assert all(getattr(agent.settings, key) == value for key, value in preset.settings.items())


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        sw.InputError, match=r"unknown preset of slateq 'bset': did you mean 'best'\? known are best, fa"
    ):
        SlateQ.preset("bset")
    with pytest.raises(sw.InputError, match="linucb has no presets"):
        sw.LinUCB.preset("best")
