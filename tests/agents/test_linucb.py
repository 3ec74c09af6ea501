"""LinUCB and linear Thompson sampling against their closed forms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.agents.linucb import LinUCB
from slatewise.interactions import Observation
from slatewise.linear import joint_features
from slatewise.ridges import Ridges


def world(users: int = 40, **settings: Any) -> sw.Environment:
    return sw.make("interest-evolution", users=users, seed=2, candidates=5, observe="quality", **settings)


def learned(agent: sw.Agent, env: sw.Environment, steps: int = 5) -> list[sw.Interactions]:
    seen = [env.step(env.rule("random", seed=1).act(env.observation)) for _ in range(steps)]
    for interactions in seen:
        agent.observe(interactions)
    return seen


def positions(observation: Observation) -> torch.Tensor:
    return torch.arange(observation.item_ids.shape[1]).expand(observation.item_ids.shape)


def by_item(observation: Observation) -> np.ndarray:
    """(1, user, what is particular to the candidate), [B, C, d]."""
    batch, count = observation.item_ids.shape
    user = observation.user.unsqueeze(1).expand(-1, count, -1)
    return torch.cat([torch.ones(batch, count, 1), user, observation.items], 2).double().numpy()


def rows_of(seen: list[sw.Interactions], features: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, item and reward of every shown item."""
    x, items, y = [], [], []
    for i in seen:
        slate = i.decision.slate
        every = features(i.observation)
        x.append(np.take_along_axis(every, slate.numpy()[:, :, None], 1).reshape(-1, every.shape[2]))
        items.append(i.observation.item_ids.gather(1, slate).flatten().numpy())
        y.append(i.response.reward.flatten().numpy())
    return np.concatenate(x), np.concatenate(items), np.concatenate(y)


def solved(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    precision = penalty * np.eye(x.shape[1]) + x.T @ x
    return np.linalg.solve(precision, x.T @ y), np.linalg.inv(precision)


def test_shared_bounds_agree_with_the_closed_form_for_a_penalty_other_than_one() -> None:
    env = world()
    agent = sw.LinUCB(env.spec, alpha=0.7, penalty=2.5)
    joint = lambda o: joint_features(o, positions(o)).numpy()  # noqa: E731
    x, _, y = rows_of(learned(agent, env), joint)
    weights, covariance = solved(x, y, 2.5)
    new = joint(env.observation)
    np.testing.assert_allclose(agent.scores(env.observation).numpy(), new @ weights, rtol=1e-9)
    bonus = 0.7 * np.sqrt(np.einsum("bcm,mn,bcn->bc", new, covariance, new))
    np.testing.assert_allclose(agent.bonus(env.observation).numpy(), bonus, rtol=1e-9)


def test_disjoint_bounds_agree_with_the_closed_form_and_so_does_the_order_of_items() -> None:
    """Algorithm 1 of Li et al. 2010 written down item by item, with λ ≠ 1; items never seen have the prior."""
    env = world()
    agent = sw.LinUCB(env.spec, model="disjoint", alpha=0.7, penalty=2.5)
    x, items, y = rows_of(learned(agent, env, steps=1), by_item)
    new, ids = by_item(env.observation), env.observation.item_ids.numpy()
    assert set(ids.ravel()) - set(items), "no cold item"
    bound = np.zeros(ids.shape)
    for b, c in np.ndindex(*ids.shape):
        weights, covariance = solved(x[items == ids[b, c]], y[items == ids[b, c]], 2.5)
        bound[b, c] = new[b, c] @ weights + 0.7 * np.sqrt(new[b, c] @ covariance @ new[b, c])
    ours = agent.scores(env.observation) + agent.bonus(env.observation)
    np.testing.assert_allclose(ours.numpy(), bound, rtol=1e-9)
    best = np.argsort(-bound, 1)[:, :2]
    assert agent.act(env.observation).slate.tolist() == best.tolist()


def test_hybrid_is_one_regression_over_shared_and_item_features() -> None:
    """β and all θ solved for at once, in one big ridge regression with a block an item."""
    env = world()
    agent = LinUCB(env.spec, model="hybrid", alpha=1.0, penalty=2.5)
    joint = lambda o: joint_features(o, positions(o)).numpy()  # noqa: E731

    def everything(observation: Observation) -> np.ndarray:
        own, ids = by_item(observation), observation.item_ids.numpy()
        blocks = np.zeros((*ids.shape, 20, own.shape[2]))
        for b, c in np.ndindex(*ids.shape):
            blocks[b, c, ids[b, c]] = own[b, c]
        return np.concatenate([joint(observation), blocks.reshape(*ids.shape, -1)], 2)

    x, _, y = rows_of(learned(agent, env), everything)
    weights, covariance = solved(x, y, 2.5)
    new = everything(env.observation)
    np.testing.assert_allclose(agent.scores(env.observation).numpy(), new @ weights, rtol=1e-6, atol=1e-8)
    deviation = np.sqrt(np.einsum("bcm,mn,bcn->bc", new, covariance, new))
    np.testing.assert_allclose(agent.bonus(env.observation).numpy(), deviation, rtol=1e-6)


@pytest.mark.parametrize("model", ["shared", "disjoint", "hybrid"])
def test_an_arm_never_seen_has_the_bound_of_the_prior(model: str) -> None:
    env = world(10)
    agent = sw.LinUCB(env.spec, alpha=1.0, penalty=4.0, model=model)
    shared, own = joint_features(env.observation, positions(env.observation)), torch.tensor(by_item(env.observation))
    squares = {"shared": shared.square().sum(2), "disjoint": own.square().sum(2)}
    squares["hybrid"] = squares["shared"] + squares["disjoint"]
    torch.testing.assert_close(agent.bonus(env.observation), squares[model].sqrt() / 2)


def test_ten_thousand_single_updates_end_where_a_solve_does() -> None:
    """Sherman and Morrison's formula, 10,000 times, beside one factorisation of the same sums."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10_000, 20, generator=generator, dtype=torch.float64)
    y = torch.randn(10_000, generator=generator, dtype=torch.float64)
    one, all_at_once = Ridges(20, 0.3), Ridges(20, 0.3)
    row = torch.zeros(1, dtype=torch.int64)
    for i in range(10_000):
        one.add(row, x[i : i + 1], y[i : i + 1])
    all_at_once.add(row.expand(10_000), x, y)
    torch.testing.assert_close(one.covariance, all_at_once.covariance, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(one.weights, all_at_once.weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "intercept"), [("shared", True), ("disjoint", True), ("hybrid", True), ("disjoint", False)]
)
def test_one_at_a_time_learns_what_a_batch_does(model: str, intercept: bool) -> None:
    env = world(30)
    one, batch = (sw.LinUCB(env.spec, model=model, intercept=intercept) for _ in range(2))
    for interactions in learned(batch, env, steps=3):
        for i in range(30):
            one.observe(interactions[i : i + 1])
    for mine, theirs in zip(one.model.bounds(env.observation), batch.model.bounds(env.observation), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("model", ["shared", "disjoint", "hybrid"])
def test_posterior_draws_have_the_mean_and_deviation_of_the_model(model: str) -> None:
    env = world(6)
    agent = make_agent("lints", env.spec, seed=1, model=model, draws=20_000, noise_scale=0.5)
    learned(agent, env)
    mean, deviation = agent.model.bounds(env.observation)
    draws = agent.opinions(env.observation)
    off = (draws.mean(1) - mean) / (0.5 * deviation / 20_000**0.5)
    assert float(off.abs().max()) < 4.5
    ratio = draws.std(1) / (0.5 * deviation)
    assert float((ratio - 1).abs().max()) < 4.5 / (2 * 20_000) ** 0.5


def test_shared_draws_agree_between_candidates_as_the_model_says() -> None:
    env = world(4)
    agent = make_agent("lints", env.spec, seed=1, model="shared", draws=40_000, noise_scale=1.0)
    learned(agent, env)
    x = joint_features(env.observation, positions(env.observation))
    expected = x @ agent.model.ridges.covariance[0] @ x.transpose(1, 2)
    for row in range(4):
        found = torch.cov(agent.opinions(env.observation)[row].T)
        torch.testing.assert_close(found, expected[row], rtol=0.05, atol=float(expected[row].max()) * 0.03)


@pytest.mark.parametrize("model", ["shared", "disjoint", "hybrid"])
def test_unknown_rewards_are_left_out(model: str) -> None:
    env = world(10)
    agent = sw.LinUCB(env.spec, model=model)
    before = agent.scores(env.observation)
    interactions = env.step(env.rule("random").act(env.observation))
    response = replace(interactions.response, reward_known=torch.zeros(10, dtype=torch.bool))
    agent.observe(replace(interactions, response=response))
    assert agent.steps == 10
    assert not agent.model.ridges.outer.any()
    assert torch.equal(agent.scores(interactions.observation), before)


@pytest.mark.parametrize("model", ["shared", "disjoint", "hybrid"])
def test_saved_between_observing_and_updating_it_goes_on_the_same(model: str, tmp_path: Path) -> None:
    env = world(10)
    agent = sw.LinUCB(env.spec, model=model)
    learned(agent, env, steps=2)
    agent.save(tmp_path)
    again = sw.load(tmp_path)
    assert torch.equal(again.scores(env.observation), agent.scores(env.observation))
    learned(agent, world(10), steps=1)
    learned(again, world(10), steps=1)
    assert torch.equal(again.scores(env.observation), agent.scores(env.observation))
    assert again.update() == agent.update() != None  # noqa: E711 - both learned, and the same


def test_a_shared_model_needs_features_of_items() -> None:
    spec = sw.Spec(("age",), (), (), (), 3, 1)
    with pytest.raises(sw.InputError, match="items have no features to tell them apart: set model=disjoint"):
        sw.LinUCB(spec, model="shared")
    assert type(sw.LinUCB(spec).model).__name__ == "DisjointModel"
