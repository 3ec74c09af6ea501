"""The planner with a learned model, against values worked out by hand."""

from dataclasses import replace

import pytest
import torch

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.agents.model_planner import ModelPlanner, Regression, logistic
from tiny_worlds import Coin


def test_the_value_of_a_coin_is_what_it_earns_for_ever() -> None:
    """Half of the steps are clicks worth 1, γ = 0.9: V = 5, an item taken is worth 1 + 4.5, nothing 4.5."""
    env = Coin(users=256, candidates=2, slate_size=1)
    agent = ModelPlanner(env.spec, env.choice, discount=0.9, longest=100)
    sw.train(agent, env, 8000, progress=False)
    items, nothing = agent.values(env.observation)
    assert float(nothing[0]) == pytest.approx(4.5, rel=0.05)
    assert float(items[0, 0]) == pytest.approx(5.5, rel=0.05)


def test_a_regression_finds_the_weights_and_a_logistic_regression_too() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.ones(50_000, 1), torch.randn(50_000, 2, generator=generator)], 1).double()
    truth = torch.tensor([[0.5, -1.0], [2.0, 0.0], [-1.0, 0.3]]).double()
    regression = Regression(3, 2, torch.device("cpu"))
    regression.add(x, x @ truth)
    assert torch.allclose(regression.weights(1.0), truth, atol=1e-3)
    chance = torch.sigmoid(x @ truth[:, 0])
    happened = torch.rand(50_000, generator=generator, dtype=torch.float64) < chance
    curvature = (x * (chance * (1 - chance)).unsqueeze(1)).T @ x
    error = torch.linalg.inv(curvature).diagonal().sqrt()
    assert bool(((logistic(x, happened, 1.0) - truth[:, 0]).abs() < 4 * error).all())


def test_it_passes_the_myopic_rule_of_interest_evolution_from_little_data() -> None:
    env = sw.make("interest-evolution", users=256, seed=1)
    agent = make_agent("model-planner", env.spec, users="given", imagined=64, longest=150, choice=env.choice)
    sw.train(agent, env, 40_000, progress=False)
    result = sw.evaluate(agent, sw.make("interest-evolution", users=500, seed=9), 500)
    assert env.references is not None
    assert result.mean - 4 * result.standard_error > env.references.rules["myopic"].mean


def test_it_refuses_what_it_cannot_plan_for() -> None:
    env = sw.make("interest-evolution", users=4)
    with pytest.raises(sw.InputError, match="users=given needs the choice model of users who take at most one item"):
        make_agent("model-planner", env.spec, users="given")
    with pytest.raises(sw.InputError, match=r"regresses on all products .* 5,000 is the most"):
        make_agent("model-planner", replace(env.spec, user=tuple(f"u{i}" for i in range(400))))
    agent = make_agent("model-planner", env.spec)
    interactions = env.step(agent.act(env.observation))
    with pytest.raises(sw.InputError, match="there is no next_observation"):
        agent.observe(replace(interactions, next_observation=None))


def test_the_last_plan_is_made_at_the_end_of_the_run_from_all_of_it() -> None:
    """After a half, a quarter … of the run, but not before there are `first_steps`; a short run plans once."""
    for steps, expected in ((1000, [1024]), (16384, [2048, 4096, 8192, 16384])):
        env = Coin(users=256, candidates=2, slate_size=1)
        agent = ModelPlanner(env.spec, env.choice, imagined=8, longest=3)
        lines = list[int]()
        sw.train(agent, env, steps, progress=False, on_metrics=lambda line, to=lines: to.append(int(line["steps"])))
        assert lines == expected
        assert float(agent.taken.rows + agent.nothing.rows) == agent.steps == expected[-1]


def test_few_new_rows_renew_the_regressions_alone() -> None:
    env = Coin(users=256, candidates=2, slate_size=1)
    agent = ModelPlanner(env.spec, env.choice, imagined=8, longest=3)
    sw.train(agent, env, 4096, progress=False)
    before = agent.tensors()
    agent.plan(4097)
    agent.observe(env.step(agent.act(env.observation)))
    metrics = agent.update()
    assert metrics is not None
    assert set(metrics) == {"value"}
    assert torch.equal(agent.tensors()["choice_weights"], before["choice_weights"])
    assert not torch.equal(agent.tensors()["taken"], before["taken"])
