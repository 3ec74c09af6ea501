"""Evolution strategies against closed forms and hand-worked ranks, and what becomes of every session."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import slatewise as sw
from slatewise.agents.evolution_strategies import (
    EvolutionStrategies,
    centred_ranks,
    fingerprint,
    gradient,
    with_constant,
)
from slatewise.interactions import Interactions
from slatewise.returns import Mean
from tiny_worlds import Clock

SLOPE = torch.tensor([2.0, -1.0, 0.5, 0.0]).double()
CURVE = torch.tensor([[3.0, 1, 0, 0], [1, 2, 0, 0.5], [0, 0, 1, 0], [0, 0.5, 0, 4]]).double()
MEAN = torch.tensor([0.3, -0.7, 1.1, 0.2]).double()


def fitness_of(function: Any, noise: Tensor, sigma: float) -> Tensor:
    return torch.stack([function(MEAN + sigma * noise), function(MEAN - sigma * noise)], 1)


def linear(at: Tensor) -> Tensor:
    return 7.0 + at @ SLOPE


def quadratic(at: Tensor) -> Tensor:
    return linear(at) - 0.5 * ((at @ CURVE) * at).sum(1)


# The estimate.


@pytest.mark.parametrize("sigma", [0.1, 2.0])
@pytest.mark.parametrize(("function", "truth"), [(linear, SLOPE), (quadratic, SLOPE - CURVE @ MEAN)])
def test_mirrored_pairs_in_all_directions_give_the_gradient_of_a_quadratic(
    function: Any, truth: Tensor, sigma: float
) -> None:
    """(1/n) Σ ε εᵀ is the identity for these, and what is even in ε falls out of every pair."""
    noise = 2 * torch.eye(4).double()
    assert torch.allclose(gradient(noise, fitness_of(function, noise, sigma), sigma), truth, rtol=1e-9, atol=1e-9)


def test_gaussian_pairs_give_the_gradient_of_the_smoothed_fitness() -> None:
    """E[(x + σε)³] = x³ + 3 σ² x, so the gradient is 3 x² + 3 σ² and not 3 x²."""
    noise = torch.randn(4000, 50, 4, generator=torch.Generator().manual_seed(0)).double()
    sigma = 0.8
    each = torch.stack([gradient(rows, fitness_of(lambda at: (at**3).sum(1), rows, sigma), sigma) for rows in noise])
    error = each.std(0) / len(each) ** 0.5
    assert bool(((each.mean(0) - 3 * (MEAN**2 + sigma**2)).abs() < 4 * error).all())
    assert float(error.max()) < 0.2  # small enough to tell it from 3 x²


def test_pairs_that_are_not_mirrored_would_not_do() -> None:
    """The same sum with the second session left out is dominated by the constant: what mirroring is for."""
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(1)).double()
    both = fitness_of(linear, noise, 0.1)
    alone = torch.stack([both[:, 0], torch.zeros(200).double()], 1)
    off = [float((gradient(noise, returns, 0.1) - SLOPE).norm()) for returns in (both, alone)]
    assert off[1] > 5 * off[0]


def test_ranks_are_centred_and_equals_share_theirs() -> None:
    returns = torch.tensor([[10.0, -3.0], [4.0, 4.0], [1e9, 4.0]]).double()
    # ascending: −3 | 4 4 4 | 10 | 1e9, at 0 | 1 2 3 | 4 | 5, of 5
    assert (centred_ranks(returns) + 0.5).flatten().tolist() == pytest.approx([0.8, 0.0, 0.4, 0.4, 1.0, 0.4])
    assert centred_ranks(torch.full((3, 2), 5.0)).tolist() == [[0.0, 0.0]] * 3  # nothing to learn from
    values = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(centred_ranks(values), centred_ranks(values.exp() * 1000))
    assert float(centred_ranks(values).sum()) == pytest.approx(0, abs=1e-9)


def test_a_constant_has_as_much_weight_as_all_features() -> None:
    values = torch.randn(5000, 30, generator=torch.Generator().manual_seed(0))
    assert with_constant(values)[:, :-1].square().sum(1).mean() == pytest.approx(0.5, rel=0.02)
    assert with_constant(values)[:, -1].square().tolist() == pytest.approx([0.5] * 5000)
    assert with_constant(torch.zeros(2, 0)).tolist() == [[1.0], [1.0]]


# Members and their sessions.

SMALL: dict[str, Any] = {"hidden": 4}


def start(users: int = 16, world: str = "interest-evolution", **settings: Any) -> tuple[EvolutionStrategies, Any]:
    env = sw.make(world, users=users, seed=2, **settings)
    return EvolutionStrategies(env.spec, seed=3, **SMALL), env


def step(agent: sw.Agent, env: sw.Environment) -> Interactions:
    interactions = env.step(agent.act(env.observation))
    agent.observe(interactions)
    return interactions


def test_every_session_counts_once_and_with_its_mirrored_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their length: what the steps learn from are the users' sessions, two by two, none left out."""
    agent, env = start()
    played: list[list[tuple[float, Tensor]]] = [[] for _ in range(16)]  # return and parameters
    earned, lengths, learned = torch.zeros(16).double(), set[int](), list[tuple[Tensor, Tensor]]()
    take = agent.population.take
    monkeypatch.setattr(agent.population, "take", lambda: learned.append(agent.population.ended()) or take())
    for _ in range(500):
        members = agent.population.members(env.observation)
        own = members.clone() if members is not None else None
        rows = step(agent, env)
        earned += rows.response.total_reward
        for row in rows.done.nonzero().flatten().tolist():
            assert own is not None
            played[row].append((float(earned[row]), own[row]))
            lengths.add(int(rows.step[row]))
            earned[row] = 0
        agent.update()
    noise, returns = (torch.cat(parts) for parts in zip(*learned, agent.population.ended(), strict=True))
    pairs = {
        (first[0], second[0]): first[1] - second[1]
        for sessions in played
        for first, second in zip(sessions[::2], sessions[1::2], strict=False)
    }
    assert agent.updates > 3
    assert len(lengths) > 20
    assert len(returns) == len(pairs) == sum(len(sessions) // 2 for sessions in played)
    for both, epsilon in zip(returns.tolist(), noise, strict=True):
        assert torch.allclose(pairs[tuple(both)], 2 * agent.settings.sigma * epsilon, atol=1e-5)


def test_members_keep_their_parameters_for_a_session_and_new_pairs_begin_at_the_newest_mean() -> None:
    agent, env = start()
    before: Tensor | None = None
    for _ in range(300):
        rows = step(agent, env)
        learned = agent.update() is not None
        members = agent.population.members(env.observation)
        assert members is not None
        if before is not None:
            assert torch.equal((members != before).any(1), rows.done)
        if learned:
            begun = rows.done & (agent.population.state["sign"] > 0)
            assert torch.equal(agent.population.state["centre"][begun], agent.mean.expand(int(begun.sum()), -1))
        before = members.clone()
    assert agent.updates > 0


def test_every_user_is_shown_what_its_own_parameters_say() -> None:
    """One by one: rows of other users do not matter."""
    agent, env = start(history=2, observe="quality")
    for _ in range(30):
        step(agent, env)
    shown, members = env.observation, agent.population.members(env.observation)
    assert members is not None
    decision = agent.act(shown)
    for row in range(16):
        alone = agent.policy(members[row : row + 1], shown[row : row + 1]).propensity(decision.slate[row : row + 1])
        assert torch.allclose(alone, decision.propensity[row : row + 1], atol=1e-5)
    assert torch.equal(agent.propensity(shown, decision.slate), decision.propensity)
    # Apart from its batch a user is nobody's member: the mean answers, and would decide.
    mean = agent.policy(agent.mean.unsqueeze(0), shown[:5]).propensity(decision.slate[:5])
    assert torch.equal(agent.propensity(shown[:5], decision.slate[:5]), mean)
    assert not torch.allclose(mean, decision.propensity[:5], atol=1e-2)
    assert agent.population.members(shown[torch.arange(16).roll(1)]) is None


def test_members_draw_what_their_propensities_say() -> None:
    agent, env = start(4, candidates=3, slate_size=2)
    for _ in range(10):
        step(agent, env)
    slates = torch.tensor([[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]])
    chance = torch.stack([agent.propensity(env.observation, slate.expand(4, -1)).prod(1) for slate in slates], 1)
    assert chance.sum(1).tolist() == pytest.approx([1.0] * 4)
    drawn = torch.stack([agent.act(env.observation).slate for _ in range(1000)])
    share = (drawn.unsqueeze(2) == slates).all(3).double().mean(0)
    assert bool(((share - chance).abs() < 4.5 * (chance * (1 - chance) / 1000).sqrt() + 1e-9).all())


def test_importance_weights_of_its_log_average_one_while_it_learns() -> None:
    """The parameters are drawn before a session, so given them the propensities are right for any other policy."""
    agent, env = start(64, candidates=4, slate_size=1)
    weights = list[Tensor]()
    for _ in range(400):
        rows = step(agent, env)
        weights.append(0.25 / rows.decision.propensity[:, 0])
        agent.update()
    average = Mean.of(torch.stack(weights).mean(0))  # users are independent
    assert agent.updates > 1
    assert abs(average.mean - 1) < 4 * average.standard_error < 0.2


def test_observations_differ_in_their_fingerprints() -> None:
    env = sw.make("interest-evolution", users=50, seed=0, history=2, observe="quality")
    env.step(env.rule("random").act(env.observation))
    shown = env.observation
    assert shown.history is not None
    codes = fingerprint(shown)
    assert torch.equal(codes, fingerprint(shown[:50]))
    assert len(codes.unique()) == 50
    assert bool((codes != fingerprint(replace(shown, item_ids=shown.item_ids.roll(1, 1)))).all())
    for key in ("user", "items", "history"):
        changed = getattr(shown, key).clone()
        changed.view(50, -1)[:, 3] += 1e-3
        assert bool((codes != fingerprint(replace(shown, **{key: changed}))).all()), key


# Beginning, and beginning anew.


def test_a_session_that_was_not_seen_from_its_beginning_does_not_count() -> None:
    agent, env = start()
    for _ in range(5):
        env.step(env.rule("random").act(env.observation))
    first = 0
    while not bool(agent.population.state) or not bool(agent.population.state["counts"].all()):
        rows = step(agent, env)
        first += int(rows.done.sum())
        assert first > 0 or not agent.population.pairs
    state = agent.population.state
    assert bool((state["first"][state["sign"] > 0] >= 0).all())
    assert not agent.population.pairs or len(agent.population.ended()[0]) < first / 2


def test_another_world_begins_other_sessions() -> None:
    agent, env = start()
    for _ in range(40):
        step(agent, env)
    for other in (sw.make("interest-evolution", users=16, seed=5), sw.make("interest-evolution", users=5, seed=5)):
        assert agent.population.members(other.observation) is None
        step(agent, other)
        assert agent.population.users == other.users
        state = agent.population.state
        assert state["step"].tolist() == [0] * other.users
        assert agent.population.members(other.observation) is not None


def test_rows_out_of_order_and_missing_parts_are_refused() -> None:
    agent, env = start()
    step(agent, env)
    rows = env.step(agent.act(env.observation))
    with pytest.raises(sw.InputError, match=r"row 0 is step 1 of session 15, after step 0 of 0: give users' steps in"):
        agent.observe(rows[torch.arange(16).roll(1)])
    with pytest.raises(sw.InputError, match=r"evolution-strategies .* no next_observation"):
        agent.observe(replace(rows, next_observation=None))
    unknown = replace(rows.response, reward_known=torch.zeros(16, dtype=torch.bool))
    with pytest.raises(sw.InputError, match="evolution-strategies needs every reward"):
        agent.observe(replace(rows, response=unknown))
    assert agent.steps == 16
    other = sw.make("long-term-satisfaction", users=3)
    with pytest.raises(
        sw.InputError, match=r"has 2 user, 0 catalogue and 1 item features and no history, .* 23 user, 20"
    ):
        agent.act(other.observation)


# Learning.


def test_a_step_follows_the_estimate_and_weight_decay() -> None:
    """Adam's first step is the learning rate in the direction of the estimate, whatever its length."""
    agent, env = start()
    before, pairs, metrics = agent.mean.clone(), None, None
    while metrics is None:
        step(agent, env)
        pairs = agent.population.ended() if agent.population.pairs else None
        metrics = agent.update()
    assert pairs is not None
    estimate = gradient(pairs[0], centred_ranks(pairs[1]), agent.settings.sigma)
    followed = estimate - agent.settings.weight_decay * before
    moved = metrics["learning_rate"] * followed / (followed.abs() + 1e-8)
    assert torch.allclose(agent.mean - before, moved, atol=1e-5)
    assert metrics["learning_rate"] == agent.settings.learning_rate
    assert metrics["pairs"] == len(pairs[0])
    assert metrics["fitness"] == pytest.approx(float(pairs[1].mean()))
    assert metrics["gradient"] == pytest.approx(float(estimate.square().mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize("hidden", [0, 8])
def test_it_finds_what_earns(hidden: int) -> None:
    env = Clock(users=64, candidates=2, slate_size=1)
    agent = EvolutionStrategies(env.spec, seed=0, hidden=hidden)
    sw.train(agent, env, 20_000, progress=False)
    assert agent.act(env.observation, explore=False).slate.flatten().tolist() == [0] * 64
    assert float(agent.probabilities(env.observation[:3])[:, 0].min()) > 0.9


def test_it_learns_where_sessions_have_one_step() -> None:
    """Their only decision is a member's: the users' next batch is known though every session has just ended."""
    env = sw.make("long-term-satisfaction", users=128, seed=0, horizon=1)
    agent = EvolutionStrategies(env.spec, seed=0, **SMALL)
    sw.train(agent, env, 20_000, progress=False)
    fresh = [sw.make("long-term-satisfaction", users=500, seed=7, horizon=1) for _ in range(2)]
    own, sweetest = sw.evaluate(agent, fresh[0], 2000), sw.evaluate(fresh[1].rule("sweetest"), fresh[1], 2000)
    assert own.mean > sweetest.mean - 4 * sweetest.standard_error


def test_it_learns_in_seconds_where_bandits_lose_to_random() -> None:
    env = sw.make("long-term-satisfaction", users=256, variant="sweetness", seed=0)
    agent = EvolutionStrategies(env.spec, seed=0)
    sw.train(agent, env, 150_000, progress=False)
    result = sw.evaluate(agent, sw.make("long-term-satisfaction", users=300, variant="sweetness", seed=9), 300)
    assert result.mean - 4 * result.standard_error > 105  # random 99.3


# Resuming.


@pytest.mark.parametrize("world", ["interest-evolution", "long-term-satisfaction"])
def test_an_interrupted_run_resumes_to_the_bit_with_sessions_under_way(world: str, tmp_path: Path) -> None:
    def begin() -> tuple[sw.Agent, sw.Environment]:
        return start(32, world)

    whole, env = begin()
    sw.train(whole, env, 10_000, progress=False)

    def press(line: dict[str, Any]) -> None:
        if line["steps"] >= 6_000:
            os.kill(os.getpid(), signal.SIGINT)

    agent, env = begin()
    assert sw.train(agent, env, 10_000, tmp_path / "run", progress=False, on_metrics=press).interrupted
    kept = sw.load(tmp_path / "run")
    assert isinstance(kept, EvolutionStrategies)
    assert kept.population.users == 0  # who is served is nobody of the population
    agent, env = begin()
    sw.train(agent, env, 10_000, tmp_path / "run", resume=True, progress=False)
    assert whole.updates > 1
    learned, remembered = agent.tensors(), agent.memory_tensors()
    assert whole.tensors().keys() == learned.keys()
    assert whole.memory_tensors().keys() == remembered.keys()
    assert agent.population.users == 32
    for key, value in (whole.tensors() | whole.memory_tensors()).items():
        assert torch.equal(value, (learned | remembered)[key]), key


def test_pairs_that_wait_for_a_step_are_remembered() -> None:
    agent, env = start()
    while not agent.population.pairs:
        step(agent, env)
    again = start()[0]
    again.load_memory_tensors(agent.memory_tensors())
    for one, other in zip(agent.population.ended(), again.population.ended(), strict=True):
        assert torch.equal(one, other)
