"""Evaluation and simulation: fixed numbers of sessions, errors, shares."""

import math

import pytest
import torch

import slatewise as sw
from slatewise.evaluation import simulate


def test_every_user_runs_the_same_number_of_sessions() -> None:
    env = sw.make("interest-evolution", users=300, seed=1)
    result = sw.evaluate(env.rule("random", seed=1), env, episodes=700)
    assert result.episodes == 900
    assert env.references is not None
    random = env.references.rules["random"]
    error = math.hypot(result.standard_error, random.standard_error)
    assert abs(result.mean - random.mean) < 4 * error
    assert result.share == pytest.approx((result.mean - 154.13) / (295.0 - 154.13))


def test_a_seed_fixes_the_result_and_the_share_is_none_without_references() -> None:
    def run(seed: int) -> sw.Evaluation:
        env = sw.make("interest-evolution", users=50, seed=seed, candidates=7)
        env.step(env.rule("myopic").act(env.observation))  # what happened before does not matter
        return sw.evaluate(env.rule("quality"), env, 100)

    assert run(3) == run(3)
    assert run(3).mean != run(4).mean
    assert run(3).share is None


def test_too_few_sessions_are_refused() -> None:
    env = sw.make("interest-evolution", users=2)
    with pytest.raises(sw.InputError, match="episodes=1: a standard error needs at least 2"):
        sw.evaluate(env.rule("random"), env, 1)


def test_simulation_hands_over_every_step_and_averages_whole_sessions() -> None:
    env = sw.make("long-term-satisfaction", users=20, seed=0, variant="sweetness")
    seen: list[sw.Interactions] = []
    result = simulate(env.rule("sweetest"), env, 500, seen.append)
    assert result.steps == 500 == sum(len(step) for step in seen)
    assert result.episodes == 40  # two whole sessions of ten steps for everyone, in 25 steps
    returns = torch.stack([step.response.total_reward for step in seen[:20]]).sum(0)
    assert result.mean == pytest.approx(float(returns.mean()) / 2)
    assert result.mean_length == 10


def test_without_a_finished_session_the_mean_is_none() -> None:
    env = sw.make("interest-evolution", users=20)
    result = simulate(env.rule("random"), env, 40)
    assert (result.mean, result.standard_error, result.episodes, result.share) == (None, None, 0, None)


def test_pairing_shows_a_difference_that_two_means_do_not() -> None:
    env = sw.make("long-term-satisfaction", users=400, seed=2)
    sweet, kale = env.rule("sweetest"), env.rule("kalest")
    paired = sw.evaluate(sweet, env, 400, paired_with=kale)
    alone = sw.evaluate(kale, env, 400)
    assert paired.difference is not None
    assert paired.difference.mean == pytest.approx(paired.mean - alone.mean)
    apart = math.hypot(paired.standard_error, alone.standard_error)
    assert paired.difference.standard_error < 0.5 * apart
    same = sw.evaluate(sweet, env, 400, paired_with=env.rule("sweetest"))
    assert same.difference is not None
    assert (same.difference.mean, same.difference.standard_error) == (0, 0)
