"""The feed against a slow reference of one user, written from the papers, and against what its parts promise."""

import math
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.environments.feed import EXAMINATION, HAZARD, OFFSET, SLOPE, catalogue


class SlowUser:
    """One user, page by page, in plain Python."""

    def __init__(self, taste: list[float], boredom: int, influence: float) -> None:
        self.taste, self.boredom, self.influence = taste, boredom, influence
        self.pages: list[list[int]] = []  # main topics of the clicks of every page
        self.closed_until = [0] * len(taste)  # the page from which a topic is open again
        self.page = 0

    def probabilities(self, items: list[list[float]]) -> list[float]:
        """Probability of a click on each slot."""
        taste = [t if self.closed_until[i] <= self.page else 0.0 for i, t in enumerate(self.taste)]
        products = [sum(a * b for a, b in zip(item, taste, strict=True)) for item in items]
        relevance = [1 / (1 + math.exp(-SLOPE * (p - OFFSET))) for p in products]
        return [r * EXAMINATION**slot for slot, r in enumerate(relevance)]

    def click(self, items: list[list[float]], clicked: list[bool]) -> None:
        """Take the clicks of a page into account."""
        took = [item for item, c in zip(items, clicked, strict=True) if c]
        self.pages.append([item.index(max(item)) for item in took])
        self.page += 1
        for topic in range(len(self.taste)):
            count = sum(page.count(topic) for page in self.pages[-5:])
            if self.boredom and count >= self.boredom and self.closed_until[topic] <= self.page:
                self.closed_until[topic] = self.page + 5
        if took:
            mean = [sum(column) / len(took) for column in zip(*took, strict=True)]
            moved = [(1 - self.influence) * t + self.influence * m for t, m in zip(self.taste, mean, strict=True)]
            length = math.sqrt(sum(t * t for t in moved))
            self.taste = [t / length for t in moved]


@pytest.mark.parametrize(("boredom", "influence"), [(5, 0.05), (2, 0.4), (0, 0.0)])
def test_users_do_what_the_slow_reference_does(boredom: int, influence: float) -> None:
    env = sw.make("feed", users=20, seed=4, boredom=boredom, influence=influence, leaving=False, horizon=60)
    slow = [SlowUser(taste, boredom, influence) for taste in env.state["taste"].tolist()]
    policy = sw.make("feed", users=1, observe="taste").rule("favourites", explore_floor=0.3)
    closed = 0
    for _ in range(59):
        slate = policy.act(env.observation).slate
        told = env.choice_probabilities(slate)[:, :-1]
        items = env.observation.features(slate).tolist()
        wanted = torch.tensor([user.probabilities(shown) for user, shown in zip(slow, items, strict=True)])
        torch.testing.assert_close(told, wanted.double(), rtol=0, atol=2e-4)
        clicked = env.step(slate).response.clicked.tolist()
        for user, shown, clicks in zip(slow, items, clicked, strict=True):
            user.click(shown, clicks)
        closed += int((env.state["closed"] > 0).sum())
    torch.testing.assert_close(env.state["taste"], torch.tensor([user.taste for user in slow]), rtol=0, atol=1e-4)
    assert (closed > 0) == (boredom > 0)


def test_items_and_users_have_the_topics_of_the_paper() -> None:
    items = catalogue().features
    assert items.shape == (1000, 10)
    torch.testing.assert_close(items.norm(dim=1), torch.ones(1000))
    assert set((items > 0).sum(1).tolist()) == {2, 3}
    for name, features in zip(catalogue().ids or (), items.tolist(), strict=True):
        named = [int(topic) for topic in name.split("(")[1].rstrip(")").split("+")]
        assert sorted(named) == [topic for topic, weight in enumerate(features) if weight > 0]
        assert features[named[0]] == max(features)
    taste = sw.make("feed", users=3000).state["taste"]
    torch.testing.assert_close(taste.norm(dim=1), torch.ones(3000))
    assert set((taste > 0).sum(1).tolist()) == {3, 4, 5}


@pytest.mark.parametrize("candidates", [1, 3, 7, 20, 999, 1000])
def test_candidates_are_different_items_and_all_items_come(candidates: int) -> None:
    env = sw.make("feed", users=400, candidates=candidates, slate_size=1)
    item = env.candidates["item"]
    assert int(item.min()) >= 0
    assert int(item.max()) < 1000
    assert bool((item.sort(1).values.diff(dim=1) > 0).all())
    if candidates == 20:
        assert len(item.unique()) > 990  # 8,000 draws: each of 1,000 is missed with probability 0.0003


def test_who_is_dissatisfied_leaves_and_comes_back_later() -> None:
    env = sw.make("feed", users=40_000, days=365, slate_size=1, seed=2)
    for low in (0.0, 0.5, 1.0):
        env.reset(2)
        env.state["satisfaction"] = torch.full((40_000,), low)
        env.state["closed"] = torch.full_like(env.state["closed"], 9.0)  # nothing appeals
        response = env.step(torch.zeros(40_000, 1, dtype=torch.int64)).response
        left = (env.state["day"] > 0) & ~response.clicked.any(1)
        satisfaction = 0.8 * low
        hazard = 1 - math.exp(-HAZARD * (1 - satisfaction))
        assert float(left.float().mean()) == pytest.approx(hazard, abs=4 * math.sqrt(hazard / 40_000))
        chance = 0.1 + 0.8 * satisfaction  # of coming back on a day; the mean of a geometric distribution is 1 / p
        days = env.state["day"][left]
        error = math.sqrt((1 - chance) / chance**2 / len(days))
        assert float(days.mean()) == pytest.approx(1 / chance, abs=4.5 * error)
        torch.testing.assert_close(env.state["satisfaction"][left], torch.full((len(days),), (satisfaction + 0.5) / 2))


def test_visits_are_earned_by_the_decision_and_end_with_the_days() -> None:
    env = sw.make("feed", users=300, days=10, reward="visits", seed=1)
    policy = env.rule("random")
    visits, done = torch.zeros(300, dtype=torch.float64), torch.zeros(300, dtype=torch.bool)
    for _ in range(200):
        day = env.state["day"].clone()
        interactions = env.step(policy.act(env.observation))
        response = interactions.response
        assert not bool(response.reward.any())
        came = (response.decision_reward == 1) & ~done
        assert bool((interactions.next_observation.user[came, -2] * 10 > day[came]).all())
        visits += response.decision_reward * ~done
        done |= interactions.terminated
    assert bool(done.all())
    assert 1 < float(visits.mean()) < 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "visits"}, "reward=visits needs days to come back in"),
        ({"days": 3, "leaving": False}, "who does not leave does not come back"),
        ({"observe": "mood"}, "unknown observe key of feed 'mood'"),
        ({"influence": 1}, "influence=1: input should be less than 1"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(sw.InputError, match=message):
        sw.make("feed", users=1, **settings)


def test_variety_pays_where_topics_bore_and_costs_where_they_do_not() -> None:
    """What a greedy rule cannot see: the return of rules turns round with boredom (|z| > 5 in both)."""
    means = {}
    for boredom in (5, 0):
        env = sw.make("feed", users=500, seed=3, boredom=boredom, leaving=False)
        for rule in ("favourites", "varied"):
            means[boredom, rule] = sw.evaluate(env.rule(rule), env, 500)
    for boredom, better, worse in ((5, "varied", "favourites"), (0, "favourites", "varied")):
        one, other = means[boredom, better], means[boredom, worse]
        assert one.mean - other.mean > 5 * math.hypot(one.standard_error, other.standard_error)
