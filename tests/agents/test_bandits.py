"""Bandits against closed forms, and what they promise of settings, forgetting, merging and bad input."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.agents.logistic import laplace
from slatewise.choice import InnerProduct, PositionBased
from slatewise.interactions import Decision, Interactions, Observation, Response, Spec

SPEC = Spec(("x", "y"), (), (), (), 4, 1)
LEARNERS = ["epsilon-greedy", "ucb1", "thompson-gaussian", "linucb", "lints", "squarecb", "explore-first"]


def seen(items: list[int], rewards: list[float], users: list[list[float]] | None = None, arms: int = 4) -> Interactions:
    """Single items shown, and what they earned."""
    n = len(items)
    user = torch.tensor(users) if users else torch.zeros(n, 2)
    observation = Observation(user, torch.arange(arms).expand(n, -1), torch.zeros(n, arms, 0))
    decision = Decision(torch.tensor(items).unsqueeze(1), torch.ones(n, 1, dtype=torch.float64))
    no, reward = torch.zeros(n, dtype=torch.bool), torch.tensor(rewards, dtype=torch.float64).unsqueeze(1)
    response = Response(reward > 0, torch.zeros(n, 1, 0), reward, torch.zeros(n, dtype=torch.float64), ~no)
    return Interactions(observation, decision, response, None, ~no, no, torch.arange(n), torch.zeros_like(no).long())


def random_rows(n: int, seed: int = 0, arms: int = 4) -> Interactions:
    random = np.random.default_rng(seed)
    users = random.normal(size=(n, 2)).astype(np.float32).tolist()
    return seen(random.integers(0, arms, n).tolist(), random.integers(0, 2, n).astype(float).tolist(), users, arms)


def one_user(arms: int = 4) -> Observation:
    return seen([0], [0.0], arms=arms).observation


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(value, other.tensors()[key]) for key, value in one.tensors().items())


# What they estimate, and how they explore.


def test_ucb1_shows_what_was_never_shown_then_the_highest_bound() -> None:
    agent = make_agent("ucb1", SPEC)
    agent.observe(seen([0, 0, 0, 1, 2], [1, 1, 0, 0, 1]))
    assert agent.act(one_user()).slate.item() == 3
    agent.observe(seen([3], [0.0]))
    mean, radius = agent.bounds(one_user())
    counts = np.array([3, 1, 1, 1])
    np.testing.assert_allclose(mean[0], [2 / 3, 0, 1, 0])
    np.testing.assert_allclose(radius[0], np.sqrt(2 * np.log(6) / counts))
    assert agent.act(one_user()).slate.item() == 2
    assert agent.act(one_user(), explore=False).slate.item() == 2


def test_softmax_shows_items_in_proportion_to_the_exponential_of_their_means() -> None:
    agent = make_agent("softmax", SPEC, temperature=0.5)
    agent.observe(seen([0, 1, 2, 3, 3], [1, 0, 0.5, 0, 1]))
    weights = np.exp(np.array([1, 0, 0.5, 0.5]) / 0.5)
    np.testing.assert_allclose(agent.explain(one_user())["propensity"][0], weights / weights.sum())


def test_thompson_with_beta_posteriors_picks_items_as_often_as_they_are_best() -> None:
    agent = make_agent("thompson-beta", Spec((), (), (), (), 2, 1), seed=3, draws=100_000)
    agent.observe(seen([0, 0, 0, 1], [1, 1, 0, 1], [[]] * 4, arms=2))
    grid = (np.arange(200_000) + 0.5) / 200_000  # Beta(3, 2) and Beta(2, 1)
    first = np.cumsum(12 * grid**2 * (1 - grid)) / len(grid)
    best = float((2 * grid * first).mean())  # P(the first is below the second)
    observation = Observation(torch.zeros(1, 0), torch.arange(2).unsqueeze(0), torch.zeros(1, 2, 0))
    chance = float(agent.propensity(observation, torch.tensor([[1]])))
    assert abs(chance - best) < 4.5 * (best * (1 - best) / 100_000) ** 0.5
    np.testing.assert_allclose(agent.bounds(observation)[0][0], [3 / 5, 2 / 3])


def test_gaussian_thompson_has_the_posterior_of_a_known_noise() -> None:
    agent = make_agent("thompson-gaussian", SPEC, noise_scale=2.0, prior_scale=3.0, prior_mean=1.0)
    agent.observe(seen([1, 1, 1], [4.0, 5.0, 6.0]))
    mean, deviation = agent.bounds(one_user())
    precision = 1 / 9 + 3 / 4
    assert float(mean[0, 1]) == pytest.approx((1 / 9 + 15 / 4) / precision)
    assert float(deviation[0, 1]) == pytest.approx(precision**-0.5)
    assert (float(mean[0, 0]), float(deviation[0, 0])) == pytest.approx((1.0, 3.0))


def test_propensities_of_thompson_sampling_are_those_of_what_is_shown() -> None:
    """The same numbers when they are logged and when an evaluation asks, whoever decides in between."""
    agent = make_agent("lints", SPEC, seed=2)
    agent.observe(random_rows(50))
    users = random_rows(400, seed=1).observation
    decision = agent.act(users)
    agent.act(users)
    assert torch.equal(agent.propensity(users, decision.slate), decision.propensity)
    assert float((decision.propensity * 100 - (decision.propensity * 100).round()).abs().max()) < 1e-9


def test_squarecb_weighs_by_the_inverse_of_the_gap() -> None:
    agent = make_agent("squarecb", SPEC, gamma_scale=2.0, gamma_exponent=0.5)
    agent.observe(random_rows(16))
    scores = agent.scores(one_user())[0].numpy()
    chances = 1 / (4 + 2.0 * 16**0.5 * (scores.max() - scores))
    chances[scores.argmax()] = 0
    chances[scores.argmax()] = 1 - chances.sum()
    np.testing.assert_allclose(agent.explain(one_user())["propensity"][0], chances)


def test_explore_first_explores_first() -> None:
    agent = make_agent("explore-first", SPEC, exploration=20)
    agent.observe(random_rows(19))
    assert agent.explain(one_user())["propensity"].tolist() == [[0.25] * 4]
    agent.observe(random_rows(1))
    assert sorted(agent.explain(one_user())["propensity"][0].tolist()) == [0, 0, 0, 1]


def test_a_bag_is_of_bootstraps() -> None:
    """With one feature and no prior noise each model's mean is that of a Poisson bootstrap of the rewards."""
    agent = make_agent("bagging", Spec((), (), (), (), 2, 1), replicas=1000, prior_scale=0.0, penalty=1e-9)
    rewards = np.random.default_rng(0).normal(2.0, 1.0, 50)
    rows = seen([0] * 50, rewards.tolist(), [[]] * 50, arms=2)
    agent.observe(rows)
    opinions = agent.opinions(rows.observation[:1])[0, :, 0].numpy()
    assert abs(opinions.mean() - rewards.mean()) < 4.5 * rewards.std() / 50**0.5 / 1000**0.5 + 0.01
    assert opinions.std() == pytest.approx(rewards.std() / 50**0.5, rel=0.15)


def test_laplace_finds_the_mode_and_the_curvature_of_the_logistic_posterior() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = (torch.rand(60, generator=generator) < 0.8).double()
    at = torch.arange(60) % 2
    prior = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    precision = torch.diag_embed(torch.tensor([[0.5, 1, 2], [3, 0.1, 1]], dtype=torch.float64))
    mode, curvature = laplace(prior, precision, at, x, y)
    for r in range(2):

        def loss(w: torch.Tensor, r: int = r) -> torch.Tensor:
            odds = x[at == r] @ w
            likelihood = torch.nn.functional.binary_cross_entropy_with_logits(odds, y[at == r], reduction="sum")
            return likelihood + 0.5 * (w - prior[r]) @ precision[r] @ (w - prior[r])

        gradient = torch.autograd.functional.jacobian(loss, mode[r])
        assert float(gradient.abs().max()) < 1e-6
        torch.testing.assert_close(curvature[r], torch.autograd.functional.hessian(loss, mode[r]), rtol=1e-6, atol=1e-8)


def test_cascade_learns_from_what_was_seen_down_to_the_first_click() -> None:
    spec = Spec((), (), (), (), 5, 3)
    agent = make_agent("cascade-ucb", spec)
    rows = seen([0, 0], [0.0, 0.0], [[], []], arms=5)
    slate = torch.tensor([[4, 2, 0], [1, 3, 2]])
    clicked = torch.tensor([[False, True, True], [False, False, False]])
    response = replace(rows.response, clicked=clicked, signals=torch.zeros(2, 3, 0), reward=clicked.double())
    agent.observe(replace(rows, decision=Decision(slate, torch.ones(2, 3).double()), response=response))
    shown, clicks = agent.counts(rows.observation)
    assert shown[0].tolist() == [0, 1, 2, 1, 1]  # item 0 lay below the click
    assert clicks[0].tolist() == [0, 0, 1, 0, 0]
    _, radius = agent.bounds(rows.observation)
    assert float(radius[0, 2]) == pytest.approx((1.5 * np.log(2) / 2) ** 0.5)


def test_position_based_clicks_are_weighed_by_who_looked() -> None:
    spec = Spec(("u",), (), (), (), 3, 2)
    agent = make_agent("position-ucb", spec, PositionBased(InnerProduct(1), (0.8, 0.4)))
    rows = seen([0] * 3, [0.0] * 3, [[0.0]] * 3, arms=3)
    slate = torch.tensor([[0, 1], [1, 0], [0, 1]])
    clicked = torch.tensor([[True, False], [False, True], [False, True]])
    response = replace(rows.response, clicked=clicked, signals=torch.zeros(3, 2, 0), reward=clicked.double())
    agent.observe(replace(rows, decision=Decision(slate, torch.ones(3, 2).double()), response=response))
    mean, radius = agent.bounds(rows.observation)
    assert float(mean[0, 0]) == pytest.approx(2 / (0.8 + 0.4 + 0.8))
    looked = 0.4 + 0.8 + 0.4
    assert float(radius[0, 1]) == pytest.approx((3 / looked) ** 0.5 * (np.log(3) / (2 * looked)) ** 0.5)
    with pytest.raises(sw.InputError, match="give a probability in \\(0, 1\\] for each of the 2 positions"):
        make_agent("position-ucb", spec, examination="0.5")


# Items that come and go, forgetting, merging.


@pytest.mark.parametrize("name", ["epsilon-greedy", "linucb"])
def test_a_window_knows_the_last_rows_alone(name: str) -> None:
    windowed, recent = make_agent(name, SPEC, window=30), make_agent(name, SPEC)
    rows = random_rows(100)
    for at in range(0, 100, 10):
        windowed.observe(rows[at : at + 10])
    recent.observe(rows[70:])
    torch.testing.assert_close(windowed.scores(rows.observation), recent.scores(rows.observation))


def test_forgetting_fades_what_is_old() -> None:
    """Weighted least squares with weights 0.99 to the age, the prior whole."""
    agent = make_agent("linucb", SPEC, forgetting=0.01, penalty=2.0)
    rows = random_rows(60, arms=1)
    for at in range(0, 60, 5):
        agent.observe(rows[at : at + 5])
    x = np.concatenate([np.ones((60, 1)), rows.observation.user.double().numpy()], 1)
    weight = 0.99 ** (5 * (11 - np.arange(60) // 5))
    precision = 2 * np.eye(3) + (x * weight[:, None]).T @ x
    expected = x @ np.linalg.solve(precision, (x * weight[:, None]).T @ rows.response.reward[:, 0].numpy())
    np.testing.assert_allclose(agent.scores(rows.observation)[:, 0], expected, rtol=1e-9)
    with pytest.raises(sw.InputError, match="forgetting and window exclude each other"):
        make_agent("linucb", SPEC, forgetting=0.1, window=10)


def lost(problems: list[int], seed: int, **settings: Any) -> float:
    """Regret of LinUCB in a world that has one problem after another, 6,000 rounds each."""
    spec: Any = sw.make("linear-bandit", users=50, seed=seed, candidates=5, features=5, problem=1).spec
    agent, regret = sw.LinUCB(spec, seed=seed, alpha=0.5, **settings), []
    for problem in problems:
        env: Any = sw.make("linear-bandit", users=50, seed=seed, candidates=5, features=5, problem=problem)
        for _ in range(120):
            decision = agent.act(env.observation)
            regret.append(float((env.best() - env.expected_reward(decision.slate)).sum()))
            agent.observe(env.step(decision))
    return sum(regret)


def test_a_restart_notices_a_world_that_changed_and_leaves_one_alone_that_did_not() -> None:
    seeds = range(3)
    plain, watching = ([lost([1, 2], seed, **own) for seed in seeds] for own in ({}, {"restart": 25.0}))
    assert max(w / p for w, p in zip(watching, plain, strict=True)) < 0.5  # about a fifth
    plain, watching = ([lost([1, 1], seed, **own) for seed in seeds] for own in ({}, {"restart": 25.0}))
    assert np.mean(watching) <= 1.1 * np.mean(plain)


def test_the_shortfall_is_page_s_cumulative_sum_and_survives_saving(tmp_path: Path) -> None:
    agent = make_agent("epsilon-greedy", SPEC, restart=5.0, tolerance=0.1)
    agent.observe(seen([0] * 4, [1.0, 1.0, 1.0, 1.0]))
    low, by_hand = 0.0, []
    for reward in (1.0, 0.0, 1.0, 0.0, 0.0):
        low = max(0.0, low + 1.0 - reward - 0.1)
        by_hand.append(low)
    agent.observe(seen([0] * 5, [1.0, 0.0, 1.0, 0.0, 0.0]))
    assert float(agent.shortfall) == pytest.approx(by_hand[-1])
    agent.save(tmp_path)
    again: Any = sw.load(tmp_path)
    again.observe(seen([0] * 9, [0.0] * 9))
    assert agent.counts(one_user())[0][0, 0] == 9
    assert again.counts(one_user())[0][0, 0] == 9  # only those that came last
    assert float(again.shortfall) == 0


@pytest.mark.parametrize("name", LEARNERS)
def test_replicas_merge_exactly(name: str) -> None:
    rows = random_rows(120, arms=6)
    whole, one, two = (make_agent(name, SPEC, seed=1) for _ in range(3))
    whole.observe(rows)
    one.observe(rows[:50])
    two.observe(rows[50:])
    one.merge(two)
    assert one.steps == 120
    torch.testing.assert_close(one.scores(rows.observation), whole.scores(rows.observation), rtol=1e-9, atol=1e-12)
    with pytest.raises(sw.InputError, match="only agents of the same kind, settings and spec"):
        one.merge(make_agent(name, replace(SPEC, user=("x",))))


def test_hybrid_replicas_merge_exactly_and_forget_items_alone() -> None:
    env = sw.make("interest-evolution", users=40, seed=2, candidates=5, observe="quality")
    steps = [env.step(env.rule("random", seed=1).act(env.observation)) for _ in range(4)]
    whole, one, two = (sw.LinUCB(env.spec, model="hybrid") for _ in range(3))
    for i, step in enumerate(steps):
        whole.observe(step)
        (one if i % 2 else two).observe(step)
    one.merge(two)
    torch.testing.assert_close(one.scores(env.observation), whole.scores(env.observation), rtol=1e-6, atol=1e-8)
    ids = env.observation.item_ids
    beta = whole.model._solve()[0]
    whole.forget_items(ids[0, :1])
    torch.testing.assert_close(whole.model._solve()[0], beta, rtol=1e-6, atol=1e-9)
    others = ids != ids[0, 0]
    torch.testing.assert_close(whole.scores(env.observation)[others], one.scores(env.observation)[others])


@pytest.mark.parametrize("name", ["thompson-gaussian", "linucb"])
def test_items_come_and_go(name: str) -> None:
    agent = make_agent(name, SPEC)
    agent.observe(random_rows(200))
    prior = make_agent(name, SPEC).scores(one_user())
    before = agent.scores(one_user())
    agent.forget_items(torch.tensor([2]))
    after = agent.scores(one_user())
    assert float(after[0, 2]) == float(prior[0, 2])
    assert torch.equal(after[0, [0, 1, 3]], before[0, [0, 1, 3]])
    agent.warm_start(2, torch.tensor([0, 1]), share=1.0)
    assert float(agent.scores(one_user())[0, 2]) != float(prior[0, 2])
    agent.observe(seen([0], [1.0], arms=9))  # five more items are on offer
    assert agent.act(one_user(arms=9)).slate.shape == (1, 1)
    with pytest.raises(sw.InputError, match="item 7 was never learned about"):
        agent.forget_items(torch.tensor([7]))
    with pytest.raises(sw.InputError, match=r"like=\[\] must name items"):
        agent.warm_start(5, torch.tensor([], dtype=torch.int64))


def test_an_item_can_begin_as_the_average_of_others() -> None:
    agent = make_agent("epsilon-greedy", SPEC)
    agent.observe(seen([0, 0, 1, 1], [1, 1, 0, 1]))
    agent.warm_start(3, torch.tensor([0, 1]), share=0.5)
    shown, earned = agent.counts(one_user())
    assert (shown[0].tolist(), earned[0].tolist()) == ([2, 2, 0, 1], [2, 1, 0, 0.75])


def test_ten_thousand_arms() -> None:
    agent = make_agent("linucb", replace(SPEC, candidates=10_000))
    rows = random_rows(3000, arms=10_000)
    for at in range(0, 3000, 500):
        agent.observe(rows[at : at + 500])
    ids = torch.arange(10_000).expand(2, -1)
    observation = Observation(rows.observation.user[:2], ids, torch.zeros(2, 10_000, 0))
    assert agent.act(observation).slate.shape == (2, 1)


@pytest.mark.parametrize("delta", [0.5, 0.95])
def test_what_nobody_has_tried_is_tried_in_all_directions(delta: float) -> None:
    """On the wheel, whose first item is safe: with ties by position a fresh LinUCB never leaves it."""
    env: Any = sw.make("wheel-bandit", users=100, seed=1, delta=delta)
    agent, lost, uniform = sw.LinUCB(env.spec, seed=1, alpha=0.5), 0.0, 0.0
    for _ in range(100):
        means = env.means(env.observation.user, env.observation.item_ids)
        decision = agent.act(env.observation)
        best = means.amax(1)
        lost += float((best - means.gather(1, decision.slate).squeeze(1)).sum())
        uniform += float((best - means.mean(1)).sum())
        agent.observe(env.step(decision))
    assert lost < 0.95 * uniform


# Settings that may change, and bad input.


def test_exploration_is_turned_down_after_loading_and_nothing_learned_is_lost(tmp_path: Path) -> None:
    agent = make_agent("linucb", SPEC, alpha=5.0)
    agent.observe(random_rows(30))
    agent.save(tmp_path)
    again: Any = sw.load(tmp_path)
    again.configure(alpha=0.0)
    users = random_rows(200, seed=4).observation
    assert torch.equal(again.act(users).slate, agent.act(users, explore=False).slate)
    assert not torch.equal(again.act(users).slate, agent.act(users).slate)
    with pytest.raises(sw.InputError, match=r"unknown changeable setting of linucb 'penalty'.*known are alpha"):
        again.configure(penalty=2.0)
    with pytest.raises(sw.InputError, match="alpha=-1"):
        again.configure(alpha=-1)


@pytest.mark.parametrize("name", [*LEARNERS, "bagging", "thompson-beta", "logistic-thompson", "neural-linear"])
def test_bad_rewards_and_features_are_refused_and_nothing_is_learned(name: str) -> None:
    agent = make_agent(name, SPEC, seed=1)
    agent.observe(random_rows(20))
    before = {key: value.clone() for key, value in agent.tensors().items()}
    with pytest.raises(sw.InputError, match=r"reward\[1, 0\] is nan: give a number, or set reward_known to false"):
        agent.observe(seen([0, 1], [1.0, float("nan")]))
    with pytest.raises(sw.InputError, match=f"{name} was made for 2 user features, this observation has 3"):
        agent.observe(seen([0], [1.0], [[0.0, 0.0, 0.0]]))
    if name in ("thompson-beta", "logistic-thompson"):
        with pytest.raises(sw.InputError, match=rf"reward 0.3: {name} learns from rewards of 0 and 1 \(1 of 2"):
            agent.observe(seen([0, 1], [1.0, 0.3]))
    assert all(torch.equal(value, before[key]) for key, value in agent.tensors().items())
    assert agent.steps == 20


@pytest.mark.parametrize("name", [*LEARNERS, "bagging", "logistic-thompson", "neural-linear"])
def test_a_single_round_without_a_reward_teaches_nothing(name: str) -> None:
    agent = make_agent(name, SPEC, seed=1)
    agent.observe(random_rows(20))
    before = agent.scores(one_user())
    rows = seen([1], [float("nan")])
    agent.observe(replace(rows, response=replace(rows.response, reward_known=torch.zeros(1, dtype=torch.bool))))
    assert torch.equal(agent.scores(one_user()), before)
    assert agent.steps == 21


def test_an_item_of_too_large_a_number_is_refused() -> None:
    agent = make_agent("ucb1", SPEC)
    rows = seen([0], [1.0])
    huge = replace(rows, observation=replace(rows.observation, item_ids=rows.observation.item_ids + 2**40))
    with pytest.raises(sw.InputError, match=f"item id {2**40}: .* give items smaller numbers"):
        agent.observe(huge)
    assert same(agent, make_agent("ucb1", SPEC))


@pytest.mark.parametrize("model", ["shared", "disjoint", "hybrid"])
def test_contributions_sum_to_the_score(model: str) -> None:
    env = sw.make("interest-evolution", users=20, seed=2, candidates=5, observe="quality")
    agent = sw.LinUCB(env.spec, model=model)
    agent.observe(env.step(env.rule("random", seed=1).act(env.observation)))
    explained = agent.explanation(env.observation)
    assert explained.contributions is not None
    assert explained.contributions.shape[2] == len(explained.names)
    torch.testing.assert_close(explained.contributions.sum(2), explained.score, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(explained.propensity.sum(1), torch.ones(20, dtype=torch.float64))
    rows = explained.rows(user=3, strongest=2)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert len(rows) == 5
    assert all(len(row["because"]) <= 2 for row in rows)
    assert explained.table(user=3).splitlines()[0].split()[:2] == ["item", "score"]


@pytest.mark.parametrize("name", ["linucb", "lints", "squarecb", "neural-linear"])
def test_regret_falls_where_rewards_depend_on_the_context(name: str) -> None:
    env: Any = sw.make("linear-bandit", users=50, seed=3, candidates=4, features=3, problem=4)
    agent = make_agent(name, env.spec, seed=0)
    lost = []
    for _ in range(200):
        decision = agent.act(env.observation)
        lost.append(float((env.best() - env.expected_reward(decision.slate)).mean()))
        agent.observe(env.step(decision))
        agent.update()
    random = env.references.ceiling.mean - env.references.rules["random"].mean
    assert np.mean(lost[-50:]) < min(0.5 * np.mean(lost[:10]), 0.25 * random)


@pytest.mark.parametrize("name", ["ucb1", "thompson-beta", "thompson-gaussian", "softmax"])
def test_regret_grows_ever_slower_where_it_does_not(name: str) -> None:
    """Three decades of rounds with means 0.2, 0.5 and 0.8: the second half of the rounds loses less."""
    means, random = np.array([0.2, 0.5, 0.8]), np.random.default_rng(0)
    agent = make_agent(name, Spec((), (), (), (), 3, 1), seed=0)
    observation = Observation(torch.zeros(10, 0), torch.arange(3).expand(10, -1), torch.zeros(10, 3, 0))
    lost = []
    for _ in range(1000):
        slate = agent.act(observation).slate[:, 0].tolist()
        lost.append(float((0.8 - means[slate]).sum()))
        earned = (random.random(10) < means[slate]).astype(float).tolist()
        agent.observe(seen(slate, earned, [[]] * 10, arms=3))
    assert sum(lost[500:]) < {"softmax": 1.2, "ucb1": 0.7}.get(name, 0.5) * sum(lost[:500])
    assert sum(lost[500:]) < 0.2 * 0.3 * 5000  # random loses 0.3 a round
