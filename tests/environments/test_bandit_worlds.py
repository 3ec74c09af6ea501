"""Bandit worlds: optima against integrals and enumeration, rewards against what they say of themselves."""

from typing import Any

import numpy as np
import pytest
import torch

import slatewise as sw
from slatewise.environments.bandit import BanditWorld

WORLDS: dict[str, dict[str, Any]] = {
    "linear-bandit": {},
    "logistic-bandit": {},
    "wheel-bandit": {"delta": 0.7},
    "many-armed-bandit": {"items": 30, "candidates": 6},
    "classification-bandit": {"data": "iris"},
}


def make(name: str, users: int = 4000, **settings: Any) -> BanditWorld:
    env = sw.make(name, users=users, seed=7, **(WORLDS[name] | settings))
    assert isinstance(env, BanditWorld)
    return env


@pytest.mark.parametrize("name", WORLDS)
def test_the_best_that_can_be_had_is_the_best_of_all_items(name: str) -> None:
    env = make(name)
    count = env.spec.candidates
    each = torch.stack([env.expected_reward(torch.full((env.users, 1), item)) for item in range(count)], 1)
    torch.testing.assert_close(env.best(), each.max(1).values)
    if "optimal" in env.rules:
        slate = env.rule("optimal").act(env.observation).slate
        torch.testing.assert_close(env.expected_reward(slate), env.best())


@pytest.mark.parametrize("name", WORLDS)
def test_references_are_the_mean_of_random_items_and_of_the_best(name: str) -> None:
    env = make(name)
    random, ceiling = env.references.rules["random"], env.references.ceiling
    assert ceiling is not None
    assert ceiling.kind == "exact"
    slate = env.rule("random").act(env.observation).slate
    for values, known in ((env.expected_reward(slate), random), (env.best(), ceiling)):
        error = (float(values.var()) / len(values) + known.standard_error**2) ** 0.5
        assert abs(float(values.mean()) - known.mean) < 4.5 * error + 1e-9


def test_the_optimum_of_two_opposite_items_has_a_closed_form() -> None:
    """On the circle, E max(⟨x, θ⟩, −⟨x, θ⟩) = 2 / π."""
    env: Any = make("linear-bandit", candidates=2, features=2)
    env.theta = torch.tensor([[0.6, 0.8], [-0.6, -0.8]], dtype=torch.float64)
    ceiling = env.references.ceiling
    assert abs(ceiling.mean - (0.5 + 1 / np.pi)) < 4.5 * ceiling.standard_error


@pytest.mark.parametrize("delta", [0.5, 0.95])
def test_the_wheel_pays_as_riquelme_and_others_say(delta: float) -> None:
    env = make("wheel-bandit", users=2000, delta=delta)
    x, y = env.observation.user.double().numpy().T
    paying = np.select([(x >= 0) & (y >= 0), (x >= 0) & (y < 0), (x < 0) & (y >= 0)], [1, 2, 3], 4)
    for item in range(5):
        expected = np.where((item == paying) & (np.hypot(x, y) > delta), 50.0, 1.2 if item == 0 else 1.0)
        np.testing.assert_allclose(env.expected_reward(torch.full((2000, 1), item)), expected, rtol=1e-12)
    reward = env.step(torch.zeros(2000, 1, dtype=torch.int64)).response.reward
    assert float((reward - 1.2).std()) == pytest.approx(0.01, rel=0.1)


def test_contexts_of_the_wheel_are_uniform_in_the_disk() -> None:
    radius = make("wheel-bandit", users=20_000).observation.user.norm(dim=1).square()
    assert abs(float(radius.mean()) - 0.5) < 4.5 * (1 / 12 / 20_000) ** 0.5


def test_worlds_of_one_problem_have_the_same_items_and_other_contexts() -> None:
    one, two, other = (sw.make("linear-bandit", users=3, seed=s, problem=p) for s, p in ((0, 0), (1, 0), (0, 1)))
    assert torch.equal(one.theta, two.theta)
    assert not torch.equal(one.observation.user, two.observation.user)
    assert not torch.equal(one.theta, other.theta)


def test_the_right_class_earns_and_the_others_do_not() -> None:
    env: Any = make("classification-bandit", users=500, data="wine")
    label = env.state["label"]
    assert env.step(label.unsqueeze(1)).response.reward.min() == 1
    label = env.state["label"]
    assert env.step(((label + 1) % 3).unsqueeze(1)).response.reward.max() == 0
    with pytest.raises(sw.InputError, match="wine has 3 classes: leave candidates out"):
        make("classification-bandit", data="wine", candidates=4)


def test_items_of_a_many_armed_bandit_differ_within_an_offer() -> None:
    env = make("many-armed-bandit", users=50)
    assert all(len(set(row)) == 6 for row in env.observation.item_ids.tolist())
    with pytest.raises(sw.InputError, match="there are only 5 items: set items=6 or more"):
        make("many-armed-bandit", items=5)
