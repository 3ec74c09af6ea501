"""Q-learning: one update by hand, the table, and mazes solved as value iteration solves them."""

import time
from dataclasses import replace

import pytest
import torch

import slatewise as sw
from slatewise.mazes import LAYOUTS
from slatewise.noise import pair_keys

LINE = "M..C\n"
RIGHT, LEFT = 1, 3


def line(users: int = 2, **settings: object) -> tuple[sw.Environment, sw.QLearning]:
    env = sw.make("maze", users=users, layout=LINE, **settings)
    return env, sw.QLearning(env.spec, learning_rate=0.5)


def learn(env: sw.Environment, agent: sw.QLearning, *ways: int) -> None:
    agent.observe(env.step(torch.tensor(ways).unsqueeze(1)))
    agent.update()


def test_an_update_by_hand() -> None:
    """One user goes twice to the centre: −1 a step, 19 at the last, α = 0.5, γ = 1."""
    env, agent = line(users=1)
    q = {}
    for _ in range(2):
        for cell in range(3):
            learn(env, agent, RIGHT)
            ahead = 0.0 if cell == 2 else max(q.get((cell + 1, RIGHT), 0.0), 0.0)
            target = (19 if cell == 2 else -1) + ahead
            q[cell, RIGHT] = q.get((cell, RIGHT), 0.0) + 0.5 * (target - q.get((cell, RIGHT), 0.0))
    seen = agent.values(env.observation_of(torch.arange(3)))
    assert seen[:, RIGHT].tolist() == pytest.approx([q[cell, RIGHT] for cell in range(3)])
    assert [q[cell, RIGHT] for cell in range(3)] == pytest.approx([-0.75, 4.0, 14.25])
    assert bool((seen[:, [0, 2, LEFT]] == 0).all())


def test_users_who_meet_the_same_pair_move_it_once_to_their_mean() -> None:
    env, agent = line(users=4)
    interactions = env.step(torch.full((4, 1), RIGHT))
    interactions.response.reward[:, 0] = torch.tensor([1.0, 2.0, 3.0, 10.0]).double()
    agent.observe(interactions)
    agent.update()
    assert float(agent.values(env.observation_of(torch.tensor([0])))[0, RIGHT]) == 0.5 * 4.0


def test_truncation_does_not_end_the_future() -> None:
    values = {}
    for horizon in (100, 1):
        env, agent = line(users=1, horizon=horizon)
        learn(env, agent, RIGHT)
        env.restore(env.snapshot() | {"state.place": torch.tensor([1])})
        learn(env, agent, RIGHT)
        env.restore(env.snapshot() | {"state.place": torch.tensor([0])})
        agent._values[:] = 8.0
        learn(env, agent, RIGHT)
        values[horizon] = float(agent.values(env.observation_of(torch.tensor([0])))[0, RIGHT])
    assert values[100] == values[1] == 8 + 0.5 * (-1 + 8 - 8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_solves_mazes_as_value_iteration_does(layout: str) -> None:
    """Within 1 % of the ceiling in less than 10 CPU seconds; it takes about one."""
    env = sw.make("maze", users=256, seed=2, layout=layout)
    agent = sw.QLearning(env.spec, seed=2)
    started = time.process_time()
    sw.train(agent, env, 100_000, progress=False)
    assert time.process_time() - started < 10
    fresh = sw.make("maze", users=1000, seed=1002, layout=layout)
    result = sw.evaluate(agent, fresh, 1000, paired_with=fresh.rule("optimal"))
    assert abs(result.difference.mean) <= 0.01 * abs(fresh.references.ceiling.mean)
    starts = env.maze.state(env.maze.starts)
    known = agent.values(env.observation_of(starts)).amax(1)
    torch.testing.assert_close(known, env.optimal_values[starts].amax(1), rtol=0.01, atol=0.01)


def test_pairs_have_keys_of_their_own() -> None:
    env = sw.make("maze", users=1, layout="cheese")
    observation = env.observation_of(torch.arange(len(env.maze.following)))
    keys = pair_keys(observation, observation.item_ids)
    assert len(keys.unique()) == keys.numel()
    negative = replace(observation, user=-0.0 * (1 - observation.user) + observation.user)
    assert torch.equal(pair_keys(negative, observation.item_ids), keys)


def test_ties_do_not_depend_on_the_order_and_do_not_all_fall_on_one_move() -> None:
    env = sw.make("maze", users=1, layout="cheese")
    observation = env.observation_of(torch.arange(len(env.maze.following)))
    chosen = sw.QLearning(env.spec).greedy(observation, explore=False).squeeze(1)
    share = torch.bincount(chosen, minlength=4) / len(chosen)
    assert float(share.min()) > 0.1


def test_a_full_table_says_why() -> None:
    env = sw.make("maze", users=64)
    agent = sw.QLearning(env.spec, largest=10)
    agent.observe(env.step(agent.act(env.observation)))
    with pytest.raises(sw.InputError, match=r"has met \d+ pairs of state and action, and largest is 10: do states"):
        agent.update()


def test_what_it_cannot_learn_from_is_refused() -> None:
    with pytest.raises(sw.InputError, match="slate_size is 2: set slate_size=1"):
        sw.QLearning(sw.make("interest-evolution", users=1).spec)
    with pytest.raises(sw.InputError, match=r"features of the moment \(x\)"):
        sw.QLearning(sw.make("long-term-satisfaction", users=1, slate_size=1).spec)
    env, agent = line()
    interactions = env.step(torch.full((2, 1), RIGHT))
    with pytest.raises(sw.InputError, match="no next_observation"):
        agent.observe(replace(interactions, next_observation=None))
