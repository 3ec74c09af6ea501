"""Metrics beside the return, against closed forms and counting by hand."""

import itertools
import math

import pytest
import torch

import slatewise as sw
from slatewise.interactions import Interactions
from slatewise.metrics import Tally, coverage, diversity, gini, novelty


def counts(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_coverage() -> None:
    assert coverage(counts(0, 3, 1, 0)) == 0.5


def test_gini_of_known_distributions() -> None:
    assert gini(counts(5, 5, 5, 5)) == 0
    assert gini(counts(0, 0, 7, 0)) == 0.75  # 1 − 1/N
    assert gini(counts(1, 2, 3, 4)) == pytest.approx(0.25)


def test_gini_is_half_the_mean_difference_over_the_mean() -> None:
    values = torch.rand(23, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    difference = (values.unsqueeze(0) - values.unsqueeze(1)).abs().mean()
    assert gini(values) == pytest.approx(float(difference / (2 * values.mean())))


def test_novelty_in_bits() -> None:
    assert novelty(counts(2, 2, 2, 2), counts(1, 1, 1, 1)) == 2  # log2 N
    both = counts(3, 1)
    assert novelty(both, both) == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2)
    assert novelty(counts(0, 1), both) == 2  # what is shown is in one of four decisions of the log
    assert novelty(counts(1, 1), counts(0, 1)) == math.inf


def test_diversity_of_known_slates() -> None:
    axes = torch.eye(3)
    features = torch.stack([axes, axes[[0, 0, 0]], axes[[0, 0, 1]], torch.zeros(3, 3), axes, axes])
    shown = torch.ones(6, 3, dtype=torch.bool)
    shown[4, 2] = False
    shown[5, 1:] = False
    expected = [1, 0, 2 / 3, 1, 1, math.nan]
    torch.testing.assert_close(diversity(features, shown), counts(*expected), equal_nan=True)


def test_diversity_is_the_mean_over_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(20, 4, 5, generator=generator)
    shown = torch.rand(20, 4, generator=generator) < 0.8
    shown[:, :2] = True
    found = diversity(features, shown)
    for row in range(20):
        pairs = list(itertools.combinations(shown[row].nonzero().flatten().tolist(), 2))
        cosines = [torch.cosine_similarity(features[row, i], features[row, j], dim=0) for i, j in pairs]
        assert float(found[row]) == pytest.approx(1 - float(sum(cosines)) / len(pairs), abs=1e-6)


def some_interactions(users: int = 50, steps: int = 8) -> list[Interactions]:
    env = sw.make("interest-evolution", users, slate_size=3)
    policy = env.rule("random", seed=4)
    return [env.step(policy.act(env.observation)) for _ in range(steps)]


def test_a_tally_counts_as_one_would_by_hand() -> None:
    batches = some_interactions()
    tally = Tally(sw.make("interest-evolution", 1, slate_size=3).spec)
    for batch in batches:
        tally.add(batch)
    topics: list[int] = []
    watched: list[float] = []
    for batch in batches:
        for row, slate in enumerate(batch.decision.slate.tolist()):
            topics += [int(batch.observation.item_ids[row, position]) for position in slate]
            taken = batch.response.clicked[row].nonzero().flatten().tolist()
            watched += [float(batch.response.signals[row, slot, 0]) for slot in taken]
    found = tally.metrics()
    assert tally.exposure is not None
    assert tally.exposure.tolist() == [topics.count(topic) for topic in range(20)]
    assert found.decisions == 400
    assert found.click_rate == len(watched) / len(topics)
    assert found.signals["watch"] == pytest.approx(sum(watched) / len(watched))
    assert found.coverage == len(set(topics)) / 20
    pairs = [len({a, b}) - 1 for i in range(0, len(topics), 3) for a, b in itertools.combinations(topics[i : i + 3], 2)]
    assert found.diversity == pytest.approx(sum(pairs) / len(pairs))


def test_batches_add_up() -> None:
    batches = some_interactions()
    spec = sw.make("interest-evolution", 1, slate_size=3).spec
    whole, parts = Tally(spec), Tally(spec)
    whole.add(Interactions.cat(batches))
    for batch in batches:
        parts.add(batch[:7])
        parts.add(batch[7:])
    for name, value in whole.metrics().to_json().items():
        assert parts.metrics().to_json()[name] == pytest.approx(value)


def test_random_slates_of_random_topics() -> None:
    env = sw.make("interest-evolution", 2000)
    tally = Tally(env.spec)
    tally.add(env.step(env.rule("random").act(env.observation)))
    found = tally.metrics()
    assert found.diversity == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))  # 19 of 20 topics differ
    assert found.novelty == pytest.approx(math.log2(20), abs=0.02)


def test_retention_is_the_chance_of_coming_back_in_time() -> None:
    """Without satisfaction a user comes back on a day with probability 0.1: within two days, 1 − 0.9²."""
    env = sw.make("feed", 40_000, seed=3, days=3, slate_size=1)
    env.state["satisfaction"].zero_()
    env.state["closed"].fill_(9)  # nothing appeals
    interactions = env.step(torch.zeros(40_000, 1, dtype=torch.int64))
    tally = Tally(env.spec)
    tally.add(interactions[~interactions.response.clicked.any(1)])
    found = tally.metrics().retention
    visits = 40_000 * (1 - math.exp(-0.3))  # that end after this page
    assert found == pytest.approx(0.19, abs=4 * math.sqrt(0.19 * 0.81 / visits))


def test_retention_of_whole_sessions_follows_from_the_returns() -> None:
    env = sw.make("feed", 200, seed=1, days=10, reward="visits")
    tally = Tally(env.spec)
    returns = sw.evaluate(env.rule("varied"), env, 400, on_interactions=tally.add).mean
    assert tally.metrics().retention == pytest.approx(returns / (1 + returns))
    without = sw.make("feed", 200, seed=1)
    tally = Tally(without.spec)
    tally.add(without.step(without.rule("random").act(without.observation)))
    assert tally.metrics().retention is None


def test_what_has_no_meaning_is_none() -> None:
    env = sw.make("long-term-satisfaction", 10)
    tally = Tally(env.spec)
    empty = tally.metrics()
    assert (empty.decisions, empty.click_rate, empty.signals["engagement"]) == (0, None, None)
    tally.add(env.step(env.rule("random").act(env.observation)))
    found = tally.metrics()
    assert found.click_rate == 0.5  # the first of two, always
    assert (found.coverage, found.gini, found.novelty, found.diversity) == (None, None, None, None)


def test_evaluation_counts_the_sessions_that_it_averages() -> None:
    env = sw.make("interest-evolution", 30, seed=2)
    tally = Tally(env.spec)
    result = sw.evaluate(env.rule("quality"), env, 60, on_interactions=tally.add)
    found = tally.metrics()
    assert found.decisions == round(result.mean_length * result.episodes)
    assert found.signals["watch"] is not None
    assert found.click_rate is not None
    watched = found.signals["watch"] * found.click_rate * 2 * found.decisions
    assert watched / result.episodes == pytest.approx(result.mean)  # the reward is the time watched
