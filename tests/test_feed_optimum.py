"""The small feed's optimum: against a user in plain Python, in play, and against what rules earn."""

import math
from functools import lru_cache
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.environments.feed import SMALL_REFERENCES, SMALL_TASTE, Feed
from slatewise.errors import InputError
from slatewise.feed_optimum import optimum, plan


def small(users: int, **settings: Any) -> Feed:
    env = sw.make("feed", users=users, seed=5, variant="small", **settings)
    assert isinstance(env, Feed)
    return env


def slow_optimum(horizon: int, boredom: int) -> float:
    """The same by recursion over whole histories, from the words of the paper: pages of clicks (a topic or None)."""

    def closed(clicks: tuple[int | None, ...], topic: int) -> bool:
        until = 0
        for page in range(1, len(clicks) + 1):
            if until <= page and clicks[max(page - 5, 0) : page].count(topic) >= boredom > 0:
                until = page + 5
        return until > len(clicks)

    @lru_cache(None)
    def best(clicks: tuple[int | None, ...]) -> float:
        if len(clicks) == horizon:
            return 0.0
        ignored = best((*clicks, None))
        worths: list[float] = []
        for topic, taste in enumerate(SMALL_TASTE):
            chance = 1 / (1 + math.exp(-10 * ((0 if closed(clicks, topic) else taste) - 0.65)))
            worths.append(chance * (1 + best((*clicks, topic))) + (1 - chance) * ignored)
        return max(worths)

    return best(())


@pytest.mark.parametrize("boredom", [1, 2, 4])
def test_the_plan_is_the_optimum_of_all_histories(boredom: int) -> None:
    """All 4^7 histories of seven pages; float32 chances of clicks leave an error below one in a million."""
    planned = plan(small(1, horizon=7, boredom=boredom))
    assert planned.at_start() == pytest.approx(slow_optimum(7, boredom), rel=1e-6)


def test_without_boredom_the_favourite_is_shown_on_every_page() -> None:
    favourite = 1 / (1 + math.exp(-10 * (SMALL_TASTE[0] - 0.65)))
    assert plan(small(1, boredom=0)).at_start() == pytest.approx(20 * favourite, rel=1e-6)


@pytest.mark.parametrize("boredom", [2, 4])
def test_the_optimum_earns_its_value_in_the_simulator(boredom: int) -> None:
    """Within 4 standard errors of 10,000 sessions."""
    env = small(10_000, boredom=boredom)
    planned = plan(env)
    played = sw.evaluate(optimum(env, planned), env, 10_000)
    assert abs(played.mean - planned.at_start()) < 4 * played.standard_error


def test_who_knows_everything_but_does_not_look_ahead_loses_a_fifth() -> None:
    """Paired sessions: `myopic` knows taste and closed topics, and earns at least 2.5 of 13 clicks less (z > 10)."""
    env = small(4000, observe="taste,closed")
    for rule in ("myopic", "varied", "favourites", "random"):
        difference = sw.evaluate(optimum(env), env, 4000, paired_with=env.rule(rule)).difference
        assert difference is not None
        assert difference.mean - 10 * difference.standard_error > 2.5


def test_the_declared_returns() -> None:
    """The ceiling to its three decimals, rules within 4 standard errors of the two figures together."""
    env = small(4000)
    assert env.references is SMALL_REFERENCES
    assert SMALL_REFERENCES.ceiling is not None
    assert plan(env).at_start() == pytest.approx(SMALL_REFERENCES.ceiling.mean, abs=5e-4)
    for rule, known in SMALL_REFERENCES.rules.items():
        played = sw.evaluate(env.rule(rule), env, 4000)
        assert abs(played.mean - known.mean) < 4 * math.hypot(played.standard_error, known.standard_error)
    assert small(1, boredom=3).references is None


def test_what_is_asked_for_goes_before_what_is_small() -> None:
    env = small(2, boredom=3, horizon=8, leaving=True)
    assert (env.settings.boredom, env.horizon, env.settings.leaving, env.settings.candidates) == (3, 8, True, 3)
    torch.testing.assert_close(env.state["taste"].norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("settings", [{"influence": 0.1}, {"leaving": True}])
def test_other_users_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="only the feed of variant=small influence=0 leaving=false is solved exactly"):
        plan(small(2, **settings))


def test_the_full_feed_is_refused_and_the_small_one_stays_small() -> None:
    env = sw.make("feed", users=2, leaving=False, influence=0)
    assert isinstance(env, Feed)
    with pytest.raises(InputError, match="variant=sardine"):
        plan(env)
    with pytest.raises(InputError, match="variant=small offers three items and shows one"):
        small(2, candidates=2)
