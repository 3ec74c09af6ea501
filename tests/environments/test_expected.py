"""True choice probabilities and expected rewards against frequencies and means of the simulator itself."""

import math
from itertools import combinations, permutations

import pytest
import torch

from slatewise import make
from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.policies import Random

EVOLUTION = [
    ("interest-evolution", {"choice": choice, "slate_size": 3, **more})
    for choice in ("proportional", "logit", "exponential-cascade", "proportional-cascade")
    for more in ({}, {"reward": "clicks"})
]
SATISFACTION = [
    ("long-term-satisfaction", {"variant": variant, "reward": reward})
    for variant in ("recsim", "slides", "sweetness")
    for reward in ("engagement", "satisfaction_rose")
]
OTHERS = [("interest-exploration", {"variant": "split", "slate_size": 3}), ("maze", {})]
WORLDS = [*EVOLUTION, *SATISFACTION, *OTHERS]


def after_some_steps(name: str, settings: dict, users: int) -> Environment:
    env = make(name, users=users, seed=1, **settings)
    policy = Random(env.spec.slate_size, 2)
    for _ in range(4):
        env.step(policy.act(env.observation))
    return env


def copies_of_a_user(env: Environment, row: int) -> None:
    """Make every user the one of a row: the same state and the same candidates."""
    env.state = {key: value[row : row + 1].expand(value.shape).clone() for key, value in env.state.items()}
    env.candidates = {key: value[row : row + 1].expand(value.shape).clone() for key, value in env.candidates.items()}


@pytest.mark.parametrize(("name", "settings"), WORLDS, ids=str)
@pytest.mark.parametrize("row", [0, 7])
def test_they_are_the_means_of_many_steps(name: str, settings: dict, row: int) -> None:
    """100,000 equal users take one step: frequencies of slots and mean reward within 4.5 standard errors.

    Frequencies also of no click; a probability that is 0 or 1 is met exactly.
    """
    users = 100_000
    env = after_some_steps(name, settings, users)
    if name == "interest-evolution":
        env.state["budget"][row] = 3.2  # not a whole watch
    elif settings.get("reward") == "satisfaction_rose" and settings["variant"] != "sweetness":
        # Elsewhere it is all but certain whether satisfaction rises: here its mean change is −0.4 deviations.
        x = float(env.candidates["x"][row, 0])
        env.state["exposure"][row] = (-2 * (x - 0.5) + 0.4 * 0.05) / 0.3
    copies_of_a_user(env, row)
    slate = torch.arange(env.spec.slate_size).expand(users, -1)
    chances, expected = env.choice_probabilities(slate), env.expected_reward(slate)
    assert chances.dtype == expected.dtype == torch.float64
    assert chances.shape == (users, env.spec.slate_size + 1)
    response = env.step(slate).response
    clicked = response.clicked.double()
    shares = torch.cat([clicked, 1 - clicked.sum(1, keepdim=True)], 1).mean(0)
    errors = (chances[0] * (1 - chances[0]) / users).sqrt()
    assert bool(((shares - chances[0]).abs() <= 4.5 * errors + 1e-12).all())
    reward = response.total_reward
    error = float(reward.std()) / math.sqrt(users)
    # In `sweetness` engagement is certain, and so is whether satisfaction rises: what remains is rounding to float32.
    assert abs(float(reward.mean()) - float(expected[0])) <= 4.5 * error + 1e-6 * abs(float(expected[0])) + 1e-12
    if "x" in env.candidates and settings["reward"] == "satisfaction_rose" and settings["variant"] != "sweetness":
        assert float(expected[0]) == pytest.approx(0.5 * math.erfc(0.4 / math.sqrt(2)), abs=1e-4)


@pytest.mark.parametrize(("name", "settings"), [WORLDS[0], WORLDS[4], WORLDS[8]], ids=str)
def test_every_user_has_an_expectation_of_its_own(name: str, settings: dict) -> None:
    """The same moment, 400 times with other noise: standardised deviations of 60 users are standard normal.

    Their mean square is 1 within 4.5 standard errors, √(2 / 60) (a little more, as errors are estimated from 400).
    """
    env = after_some_steps(name, settings, 60)
    slate = Random(env.spec.slate_size, 3).act(env.observation).slate
    expected, moment, rewards = env.expected_reward(slate), env.snapshot(), []
    for seed in range(400):
        env.restore(moment | {"generator": torch.Generator().manual_seed(seed).get_state()})
        rewards.append(env.step(slate).response.total_reward)
    sample = torch.stack(rewards)
    z = (sample.mean(0) - expected) / (sample.std(0) / 20)
    assert abs(float(z.square().mean()) - 1) < 4.5 * math.sqrt(2 / 60)


@pytest.mark.parametrize(("name", "settings"), [WORLDS[0], WORLDS[8]], ids=str)
def test_asking_changes_nothing_and_a_bad_slate_is_refused(name: str, settings: dict) -> None:
    env, twin = (after_some_steps(name, settings, 20) for _ in range(2))
    slate = torch.arange(env.spec.slate_size).expand(20, -1)
    env.choice_probabilities(slate)
    env.expected_reward(slate)
    for ask in (env.choice_probabilities, env.expected_reward):
        with pytest.raises(InputError, match=r"slate\[0, 0\] shows candidate 99"):
            ask(torch.full_like(slate, 99))
        with pytest.raises(InputError, match="shows 1 items"):
            ask(slate[:, :1])
    one, other = env.step(slate), twin.step(slate)
    assert torch.equal(one.response.signals, other.response.signals)


def test_a_world_that_does_not_know_says_what_to_define() -> None:
    class Mute(type(make("long-term-satisfaction", users=1))):
        name = "mute"
        chances, expectation = Environment.chances, Environment.expectation

    env = Mute(users=2)
    slate = torch.arange(2).expand(2, -1)
    with pytest.raises(InputError, match="mute does not say how its users choose: define `chances`"):
        env.choice_probabilities(slate)
    with pytest.raises(InputError, match="mute does not know its expected reward: define `expectation`"):
        env.expected_reward(slate)


@pytest.mark.parametrize(("name", "settings"), EVOLUTION, ids=str)
def test_the_myopic_rule_is_the_slate_of_highest_expected_reward(name: str, settings: dict) -> None:
    """Of all 60 ordered slates of 3 among 5, for 200 users."""
    env = after_some_steps(name, settings | {"candidates": 5}, 200)
    slates = [torch.tensor(slate).expand(200, -1) for slate in permutations(range(5), 3)]
    best = torch.stack([env.expected_reward(slate) for slate in slates]).amax(0)
    found = env.expected_reward(env.rule("myopic").act(env.observation).slate)
    torch.testing.assert_close(found, best, rtol=1e-6, atol=0)
    sets = [torch.tensor(slate).expand(200, -1) for slate in combinations(range(5), 3)]
    assert bool((torch.stack([env.expected_reward(slate) for slate in sets]).amin(0) < 0.999 * best).all())


def test_the_sweetest_item_is_the_myopic_one() -> None:
    env = after_some_steps("long-term-satisfaction", {"slate_size": 1}, 200)
    every = [env.expected_reward(torch.full((200, 1), i)) for i in range(env.spec.candidates)]
    assert torch.equal(torch.stack(every).argmax(0), env.rule("sweetest").act(env.observation).slate[:, 0])
