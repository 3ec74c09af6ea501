"""Policy gradients against brute force: every slate of a tiny problem, finite differences, values by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import slatewise as sw
from slatewise.agents.policy_gradient import PolicyGradient
from slatewise.agents.ppo import PPO, clipped_surrogate
from slatewise.agents.reinforce import Reinforce, gain
from slatewise.distributions import Softmax
from slatewise.interactions import Interactions, Response
from slatewise.returns import returns_to_go
from tiny_worlds import Clock

SLATES = torch.tensor(list(permutations(range(4), 2)))
EARNED = torch.tensor([0.3, 1.0, -0.5, 2.0, 0.7, 0.1, 1.5, -1.0, 0.4, 0.9, 0.2, 1.1], dtype=torch.float64)  # a slate
LOGITS = torch.tensor([0.4, -1.1, 0.8, 0.0], dtype=torch.float64)
ALL = torch.ones(12, 4, dtype=torch.bool)


def policy(logits: Tensor, rows: int = 12) -> Softmax:
    return Softmax(logits.expand(rows, 4), ALL[:1].expand(rows, 4), 2)


def expected(logits: Tensor) -> Tensor:
    """The expected reward by enumeration, from the propensities that are logged."""
    return (policy(logits).propensity(SLATES).prod(1) * EARNED).sum()


def differences(value: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    ways = step * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(value(at + way) - value(at - way)) / (2 * step) for way in ways])


def slate_gradient(behaviour: Tensor, credit: Tensor, cap: float = math.inf) -> Tensor:
    """The mean over the behaviour's slates of the gradient that REINFORCE follows."""
    logits = LOGITS.clone().requires_grad_()
    chance = policy(behaviour).propensity(SLATES).prod(1)
    logarithm = policy(logits).log_propensity(SLATES)[0].sum(1, keepdim=True)
    logged = chance.log().unsqueeze(1)
    (chance * gain(logarithm, logged, credit.unsqueeze(1), 1, cap)).sum().backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("baseline", [0.0, 0.77])
@pytest.mark.parametrize("behaviour", [LOGITS, torch.zeros(4).double(), -LOGITS], ids=["own", "uniform", "opposite"])
def test_the_gradient_is_that_of_the_expected_reward_whoever_decided(behaviour: Tensor, baseline: float) -> None:
    truth = differences(expected, LOGITS)
    assert torch.allclose(slate_gradient(behaviour, EARNED - baseline), truth, rtol=1e-6, atol=1e-9)


def test_without_weights_it_is_not() -> None:
    truth = differences(expected, LOGITS)
    assert not torch.allclose(slate_gradient(-LOGITS, EARNED, cap=0), truth, rtol=0.2)


def test_a_cap_changes_only_weights_above_it() -> None:
    logarithm, logged = torch.tensor([[-0.5], [-3.0]]).double(), torch.tensor([[-2.0], [-2.5]]).double()
    ones = torch.ones(2, 1).double()
    weight = [float(value) for value in gain(logarithm, logged, ones, 1, 2.0) / logarithm.squeeze(1)]
    assert weight == pytest.approx([2.0, math.exp(-0.5)])


def test_the_top_k_gradient_is_that_of_showing_each_item_at_all() -> None:
    """Σ λ_K π R ∇ log π is the gradient of Σ R(a) (1 − (1 − π(a))^K): of K draws (Chen et al. 4.3)."""
    reward, k = torch.tensor([3.0, -1.0, 2.0, 0.5]).double(), 3

    def worth(logits: Tensor) -> Tensor:
        return (reward * (1 - (1 - logits.softmax(0)) ** k)).sum()

    logits = LOGITS.clone().requires_grad_()
    logarithm = logits.log_softmax(0).unsqueeze(1)
    chance = torch.full((4,), 0.25).double()  # a uniform log of single items
    (chance * gain(logarithm, chance.log().unsqueeze(1), reward.unsqueeze(1), k, math.inf)).sum().backward()
    assert torch.allclose(logits.grad, differences(worth, LOGITS), rtol=1e-6, atol=1e-9)


def test_each_later_slot_corrects_for_one_item_less() -> None:
    logarithm = torch.tensor([[0.2, 0.3, 0.6]]).double().log()
    each = [2 * (1 - 0.2), 1.0, 1.0]
    want = sum(m * math.log(p) for m, p in zip(each, (0.2, 0.3, 0.6), strict=True))
    assert float(gain(logarithm, logarithm, torch.ones(1, 3).double(), 2, 1e9)) == pytest.approx(want)


def test_ppo_begins_with_the_gradient_of_reinforce() -> None:
    gradients = []
    old = policy(LOGITS).log_propensity(SLATES)[0].sum(1)
    for surrogate in (
        lambda new: clipped_surrogate(new, old, EARNED, 0.2),
        lambda new: gain(new.unsqueeze(1), old.unsqueeze(1), EARNED.unsqueeze(1), 1, 20.0),
    ):
        logits = LOGITS.clone().requires_grad_()
        surrogate(policy(logits).log_propensity(SLATES)[0].sum(1)).mean().backward()
        gradients.append(logits.grad)
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-12)


def test_the_clipped_surrogate_is_its_formula() -> None:
    ratio = torch.tensor([0.5, 0.5, 1.1, 1.5, 1.5, 1.0]).double()
    advantage = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0, 3.0]).double()
    want = [0.5, -0.8, 2.2, 1.2, -1.5, 3.0]
    assert clipped_surrogate(ratio.log(), torch.zeros(6).double(), advantage, 0.2).tolist() == pytest.approx(want)
    huge = clipped_surrogate(torch.tensor([0.0]), torch.tensor([-1e4]), torch.tensor([-1.0]), 0.2)
    assert bool(huge.isfinite().all())


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_ppo_knows_the_probability_of_what_it_showed(epsilon: float) -> None:
    """At the first step the ratio to what acted is 1, exploration included; so it is in float64."""
    env = sw.make("interest-evolution", users=50, seed=0, slate_size=3)
    agent = PPO(env.spec, seed=0, explore_floor=epsilon)
    decision = agent.act(env.observation)
    logarithm, _ = agent.joint(env.observation, decision.slate)
    assert torch.allclose(logarithm, decision.propensity.log().sum(1), rtol=0, atol=1e-9)
    logarithm.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in agent.actor.network.parameters())


# Log-probabilities and entropies of slates.


def test_logarithms_are_those_of_the_propensities_with_masks_and_holes() -> None:
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    mask = torch.tensor([[True, True, False, True], [False, True, False, False]])
    slate = torch.tensor([[3, 0, 1], [1, -1, -1]])
    made = Softmax(logits, mask, 3)
    logarithm, entropy = made.log_propensity(slate)
    assert torch.allclose(logarithm.exp(), made.propensity(slate))
    assert float(entropy[0, 2].detach()) == pytest.approx(0)  # one candidate was left
    assert entropy[1].tolist() == [0, 0, 0]
    (logarithm.sum() + entropy.sum()).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert logits.grad[~mask].abs().max() == 0


def test_entropies_of_slots_add_up_to_that_of_the_slate() -> None:
    made = policy(LOGITS)
    chance = made.propensity(SLATES).prod(1)
    _, entropy = made.log_propensity(SLATES)
    assert float((chance * entropy.sum(1)).sum()) == pytest.approx(float(-(chance * chance.log()).sum()))


# Returns and credit.


def steps(env: sw.Environment, count: int) -> Interactions:
    rule = env.rule("random", 5)
    return Interactions.cat([env.step(rule.act(env.observation)) for _ in range(count)])


def test_returns_are_sums_along_sessions_in_any_order() -> None:
    rows = steps(sw.make("interest-evolution", users=20, seed=0), 80)
    ahead = torch.rand(len(rows), generator=torch.Generator().manual_seed(1)).double()
    found = returns_to_go(rows, ahead, 0.9)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
    assert torch.allclose(returns_to_go(rows[order], ahead[order], 0.9), found[order])
    where = {(int(e), int(s)): i for i, (e, s) in enumerate(zip(rows.episode, rows.step, strict=True))}
    total = rows.response.total_reward

    def by_hand(i: int) -> float:
        follower = where.get((int(rows.episode[i]), int(rows.step[i]) + 1))
        if bool(rows.terminated[i]):
            return float(total[i])
        return float(total[i]) + 0.9 * (float(ahead[i]) if follower is None else by_hand(follower))

    assert found.tolist() == pytest.approx([by_hand(i) for i in range(len(rows))])
    assert bool(rows.terminated.any())


def test_a_missing_reward_cuts_a_session_there() -> None:
    rows = steps(Clock(users=1, candidates=2, slate_size=1), 5)
    kept = rows[torch.tensor([0, 1, 3, 4])]
    ahead = torch.full((4,), 100.0).double()
    total = rows.response.total_reward
    want = [total[0] + total[1] + 100, total[1] + 100, total[3] + total[4] + 100, total[4] + 100]
    assert returns_to_go(kept, ahead, 1.0).tolist() == pytest.approx([float(value) for value in want])


def test_a_clicked_item_is_credited_with_what_came_after_it() -> None:
    env = sw.make("interest-evolution", users=50, seed=0)
    agent = Reinforce(env.spec, seed=0, baseline=False)
    rows = steps(env, 30)
    returns = returns_to_go(rows, agent._ahead(rows), 1.0)
    credit = agent.credits(rows, returns)
    clicked = rows.response.clicked
    size = float(torch.where(clicked, returns.unsqueeze(1), 0.0).square().mean().sqrt())
    assert float(credit[~clicked].abs().max()) == 0
    assert torch.allclose(credit[clicked] * size, returns.unsqueeze(1).expand(-1, 2)[clicked])


# Learning.

FAST: dict[str, Any] = {"hidden": 16, "embedding": 4, "learning_rate": 1e-2, "rollout_steps": 16, "minibatches": 2}


@pytest.mark.parametrize("make", [PPO, Reinforce])
def test_truncation_does_not_end_the_future(make: type[PolicyGradient]) -> None:
    env = Clock(users=64, candidates=2, slate_size=1)
    agent = make(env.spec, seed=0, discount=0.9, entropy=0.0, epochs=4, **FAST)
    sw.train(agent, env, 50_000, progress=False)
    assert agent.act(env.observation, explore=False).slate.flatten().tolist() == [0] * 64
    assert float(agent.values(env.observation).mean()) == pytest.approx(10, rel=0.05)  # five steps alone: 4.1


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_they_learn_in_seconds_where_bandits_lose_to_random(name: str) -> None:
    env = sw.make("long-term-satisfaction", users=256, variant="sweetness", seed=0)
    agent = sw.make_agent(name, env.spec, seed=0, learning_rate=3e-3, hidden=32, embedding=16, epochs=2)
    sw.train(agent, env, 65_000, progress=False)
    result = sw.evaluate(agent, sw.make("long-term-satisfaction", users=300, variant="sweetness", seed=9), 300)
    assert result.mean - 4 * result.standard_error > 105  # random 99.3


def single_items(tmp_path: Path, chances: Tensor, rewards: Tensor, rows: int, kind: str = "logged") -> sw.Log:
    """A log of single items, one state, each shown as often as its chance says."""
    spec = sw.Spec(("one",), tuple("abcdefghij"), (), (), 10, 1)
    shown = torch.arange(10).repeat_interleave((chances * rows).round().long())
    zeros, no = torch.zeros(rows).double(), torch.zeros(rows, dtype=torch.bool)
    ids = torch.arange(10).expand(rows, -1)
    observation = sw.Observation(torch.ones(rows, 1), ids, torch.zeros(rows, 10, 0), sw.Catalogue.of(torch.eye(10)))
    reward = rewards[shown].unsqueeze(1)
    response = Response(~no.unsqueeze(1), torch.zeros(rows, 1, 0), reward, zeros, ~no)
    decision = sw.Decision(shown.unsqueeze(1), chances[shown].unsqueeze(1))
    batch = Interactions(observation, decision, response, None, ~no, no, torch.arange(rows), zeros.long())
    with sw.LogWriter(tmp_path / "log", spec, {"kind": "made"}, propensities={"kind": kind}) as writer:
        writer.add(batch)
    return sw.Log(tmp_path / "log")


def learned(log: sw.Log, **settings: Any) -> Tensor:
    small = {"hidden": 16, "embedding": 8, "entropy": 0.0, "log_epochs": 150, "learning_rate": 0.02, "weight_cap": 100}
    agent = Reinforce(log.spec, seed=0, baseline=False, **(small | settings))
    sw.learn(agent, log, progress=False)
    return agent.probabilities(log.read().observation[:1])[0]


def test_with_weights_it_finds_the_best_item_and_without_it_follows_the_log(tmp_path: Path) -> None:
    """Chen et al.'s first simulation: item i earns i and is shown in proportion to 11 − i."""
    chances = torch.arange(10, 0, -1).double() / 55
    rewards = torch.arange(1, 11).double()
    log = single_items(tmp_path, chances, rewards, 1100)
    assert float(learned(log)[9]) > 0.95
    followed = chances * rewards / (chances * rewards).sum()  # where the gradient without weights is 0
    assert torch.allclose(learned(log, weight_cap=0), followed, rtol=0, atol=0.01)


def test_the_top_k_correction_keeps_two_good_items(tmp_path: Path) -> None:
    """Chen et al.'s second: two items earn 10 and 9, the others 1; all are shown alike, and two will be shown."""
    rewards = torch.tensor([10.0, 9.0] + [1.0] * 8).double()
    log = single_items(tmp_path, torch.full((10,), 0.1).double(), rewards, 1100)
    assert float(learned(log, top_k=1)[0]) > 0.95
    # Σ R (1 − (1 − π)²) over two items is largest where 1 − π of each is in proportion to the other's R.
    assert learned(log, top_k=2)[:2].tolist() == pytest.approx([10 / 19, 9 / 19], abs=0.02)


# What is refused.


def test_a_log_without_propensities_is_refused(tmp_path: Path) -> None:
    log = single_items(tmp_path, torch.full((10,), 0.1).double(), torch.ones(10).double(), 20, kind="unknown")
    with pytest.raises(sw.InputError, match=r"reinforce weighs decisions.*propensities: unknown\): estimate"):
        sw.learn(Reinforce(log.spec), log, progress=False)


def test_ppo_refuses_logs_and_interactions_that_lack_what_it_needs(tmp_path: Path) -> None:
    log = single_items(tmp_path, torch.full((10,), 0.1).double(), torch.ones(10).double(), 20)
    agent = PPO(log.spec)
    with pytest.raises(sw.InputError, match=r"ppo learns from what it decides itself.*reinforce"):
        sw.learn(agent, log, progress=False)
    with pytest.raises(sw.InputError, match="no next_observation"):
        agent.observe(log.read())
    env = sw.make("interest-evolution", users=4)
    interactions = env.step(env.rule("random").act(env.observation))
    unknown = replace(interactions.response, reward_known=torch.zeros(4, dtype=torch.bool))
    with pytest.raises(sw.InputError, match="ppo needs every reward"):
        PPO(env.spec).observe(replace(interactions, response=unknown))


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_a_loss_that_is_not_finite_stops_and_the_checkpoint_stays(name: str, tmp_path: Path) -> None:
    env = sw.make("interest-evolution", users=64)
    agent = sw.make_agent(name, env.spec, learning_rate=1e30)
    with pytest.raises(sw.InputError, match=rf"{name} diverged: the loss is nan after \d+ steps.*learning_rate below"):
        sw.train(agent, env, 50_000, out=tmp_path / "run", progress=False)
    kept = sw.load(tmp_path / "run")
    assert all(bool(value.isfinite().all()) for value in kept.tensors().values())
