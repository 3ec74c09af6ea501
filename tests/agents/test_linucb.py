"""LinUCB against its closed form."""

import numpy as np
import torch

import slatewise as sw
from slatewise.linear import joint_features


def test_bounds_agree_with_the_closed_form_for_a_penalty_other_than_one() -> None:
    env = sw.make("interest-evolution", users=40, seed=2, candidates=5)
    agent = sw.LinUCB(env.spec, alpha=0.7, penalty=2.5)
    rows, rewards = [], []
    for _ in range(5):
        interactions = env.step(env.rule("random", seed=1).act(env.observation))
        agent.observe(interactions)
        features = joint_features(interactions.observation, interactions.decision.slate)
        rows.append(features.flatten(0, 1).numpy())
        rewards.append(interactions.response.reward.flatten().numpy())
    agent.update()
    x, y = np.concatenate(rows), np.concatenate(rewards)
    precision = 2.5 * np.eye(x.shape[1]) + x.T @ x
    weights = np.linalg.solve(precision, x.T @ y)
    new = joint_features(env.observation, torch.arange(5).expand(40, 5)).numpy()
    assert np.allclose(agent.scores(env.observation).numpy(), new @ weights)
    bonus = 0.7 * np.sqrt(np.einsum("bcm,mn,bcn->bc", new, np.linalg.inv(precision), new))
    assert np.allclose(agent.bonus(env.observation).numpy(), bonus)


def test_an_arm_never_seen_has_the_bound_of_the_prior() -> None:
    env = sw.make("interest-evolution", users=10, candidates=5)
    agent = sw.LinUCB(env.spec, alpha=1.0, penalty=4.0)
    x = joint_features(env.observation, torch.arange(5).expand(10, 5))
    assert torch.allclose(agent.bonus(env.observation), x.norm(dim=2) / 2)


def test_unknown_rewards_are_left_out() -> None:
    from dataclasses import replace

    env = sw.make("interest-evolution", users=10)
    agent = sw.LinUCB(env.spec)
    interactions = env.step(env.rule("random").act(env.observation))
    response = replace(interactions.response, reward_known=torch.zeros(10, dtype=torch.bool))
    agent.observe(replace(interactions, response=response))
    assert torch.equal(agent.ridge.precision, torch.eye(len(agent.ridge.moment), dtype=torch.float64))


def test_saved_between_observing_and_updating_it_goes_on_the_same(tmp_path) -> None:
    env = sw.make("interest-evolution", users=10)
    agent = sw.LinUCB(env.spec)
    agent.observe(env.step(env.rule("random").act(env.observation)))
    agent.save(tmp_path)
    again = sw.load(tmp_path)
    assert torch.equal(again.scores(env.observation), agent.scores(env.observation))
    assert again.update() == agent.update() != None  # noqa: E711 - both learned, and the same
