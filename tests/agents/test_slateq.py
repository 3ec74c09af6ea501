"""SlateQ against values worked out by hand."""

import pytest
import torch

import slatewise as sw
from slatewise.agents.slateq import SlateQ, consumed
from slatewise.interactions import Decision, Response
from tiny_worlds import Clock, Coin

FAST = {"hidden": 32, "embedding": 8, "epochs": 6, "learning_rate": 5e-3}


def value_after(env: sw.Environment, discount: float, steps: int = 60_000) -> tuple[SlateQ, float]:
    agent = SlateQ(env.spec, env.choice, seed=0, discount=discount, **FAST)
    sw.train(agent, env, steps, progress=False)
    return agent, float(agent._slate(env.observation, "exact")[1].mean())


def test_truncation_does_not_end_the_future() -> None:
    env = Clock(users=64, candidates=2, slate_size=1)
    agent, value = value_after(env, discount=0.9)
    assert value == pytest.approx(10, rel=0.05)  # five steps alone would be worth 4.1
    assert agent.act(env.observation, explore=False).slate.flatten().tolist() == [0] * 64


def test_no_click_is_worth_what_comes_after_it() -> None:
    env = Coin(users=256, candidates=2, slate_size=1)
    agent, value = value_after(env, discount=0.9, steps=250_000)
    assert value == pytest.approx(5, rel=0.08)  # without a value of no click it would be 0.91
    items, no_click = agent.values(env.observation)
    assert float(no_click[0]) == pytest.approx(4.5, rel=0.1)
    assert float(items[0, 0]) == pytest.approx(5.5, rel=0.1)


def test_exploration_does_not_lower_the_values_that_it_explores() -> None:
    env = Clock(users=64, candidates=2, slate_size=1)
    agent = SlateQ(env.spec, env.choice, discount=0.9, epsilon_end=0.8, trace=1.0, **FAST)
    sw.train(agent, env, 60_000, progress=False)
    assert float(agent._slate(env.observation, "exact")[1].mean()) == pytest.approx(
        10, rel=0.05
    )  # the 0.8-random policy has 6.4


def value_of(env: sw.Environment, steps: int, **settings: object) -> tuple[float, float]:
    """The value of the best slate at the start, by the agent and in truth."""
    agent = SlateQ(env.spec, env.choice, seed=0, **(FAST | settings))
    sw.train(agent, env, steps, progress=False)
    return float(agent._slate(env.observation, "exact")[1].mean()), float(agent.values(env.observation)[0][:, 0].mean())


def test_without_a_null_value_the_future_is_discounted_by_the_click_rate() -> None:
    """Half of the steps are clicks worth 1, γ = 0.9: V = ½ (1 + γ V), so 0.91 instead of 5."""
    env = Coin(users=256, candidates=2, slate_size=1)
    value, item = value_of(env, 80_000, discount=0.9, trace=0.0, null_value=False)
    assert value == pytest.approx(0.5 / 0.55, rel=0.08)
    assert item == pytest.approx(1 / 0.55, rel=0.08)


def test_sarsa_learns_the_value_of_what_it_does() -> None:
    """Half of the slates are random: SARSA's value has half of the exploration's loss, the best slate's has none."""
    env = Clock(users=64, candidates=2, slate_size=1)
    explored = {"discount": 0.9, "epsilon_start": 0.8, "epsilon_end": 0.8}
    value, _ = value_of(env, 80_000, target="sarsa", **explored)
    assert value == pytest.approx(6.4, rel=0.05)


@pytest.mark.parametrize("how", ["exact", "greedy", "top-k"])
def test_every_way_of_making_slates_learns_and_serves(how: str) -> None:
    env = Clock(users=64, candidates=2, slate_size=1)
    value, _ = value_of(env, 40_000, discount=0.9, target=how, serve=how)
    assert value == pytest.approx(10, rel=0.1)


def test_the_published_recipe_needs_one_step_targets() -> None:
    env = sw.make("interest-evolution", users=2)
    with pytest.raises(sw.InputError, match=r"null_value=false with trace=0.95.*needs trace=0"):
        sw.SlateQ(env.spec, env.choice, null_value=False)


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    env = sw.make("interest-evolution", users=64)
    with pytest.raises(sw.InputError, match=r"slateq diverged: the loss is nan after 1024 steps.*learning_rate below"):
        sw.train(sw.SlateQ(env.spec, env.choice, learning_rate=1e30, rollout_steps=16), env, 20_000, progress=False)


def test_without_a_choice_model_it_refuses_and_says_why() -> None:
    env = sw.make("interest-evolution", users=2)
    with pytest.raises(sw.InputError, match=r"slateq needs a choice model: pass choice=env\.choice"):
        sw.SlateQ(env.spec)


def test_it_refuses_interactions_that_lack_what_it_needs() -> None:
    from dataclasses import replace

    env = sw.make("interest-evolution", users=4)
    agent = sw.SlateQ(env.spec, env.choice)
    interactions = env.step(agent.act(env.observation))
    with pytest.raises(sw.InputError, match="no next_observation"):
        agent.observe(replace(interactions, next_observation=None))
    unknown = replace(interactions.response, reward_known=torch.zeros(4, dtype=torch.bool))
    with pytest.raises(sw.InputError, match="needs every reward"):
        agent.observe(replace(interactions, response=unknown))


def test_consumed_is_the_clicked_candidate_or_none() -> None:
    slate = torch.tensor([[3, 5], [4, 1], [0, 2]])
    clicked = torch.tensor([[False, True], [True, False], [False, False]])
    zeros = torch.zeros(3, dtype=torch.float64)
    response = Response(clicked, torch.zeros(3, 2, 0), clicked.double(), zeros, torch.ones(3, dtype=torch.bool))
    assert consumed(Decision(slate, torch.ones(3, 2).double()), response).tolist() == [5, 4, -1]


def test_any_number_of_candidates_in_any_order() -> None:
    few = sw.make("interest-evolution", users=64)
    agent = sw.SlateQ(few.spec, few.choice)
    sw.train(agent, few, 20_000, progress=False)
    many = sw.make("interest-evolution", users=64, candidates=50)
    observation = many.observation
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shuffled = sw.Observation(
        observation.user, observation.item_ids[:, order], observation.items[:, order], observation.catalogue
    )
    values, _ = agent.values(observation)
    assert torch.allclose(values[:, order], agent.values(shuffled)[0], atol=1e-5)


def test_steps_that_are_not_of_parallel_users_are_refused() -> None:
    env = sw.make("interest-evolution", users=6)
    steps = [env.step(env.rule("random").act(env.observation)) for _ in range(2)]
    with pytest.raises(sw.InputError, match=r"row 0 is step 1 of session 5, after step 0 of 0"):
        observe_all(sw.SlateQ(env.spec, env.choice), steps[0], steps[1][torch.arange(5, -1, -1)])
    with pytest.raises(sw.InputError, match="2 users after 6"):
        observe_all(sw.SlateQ(env.spec, env.choice), steps[0], steps[1][:2])


def observe_all(agent: sw.SlateQ, *steps: sw.Interactions) -> None:
    for step in steps:
        agent.observe(step)
