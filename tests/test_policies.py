import math
from itertools import permutations

import pytest
import torch

from slatewise.environments import WORLDS, make
from slatewise.errors import InputError
from slatewise.interactions import Observation
from slatewise.policies import GreedyPolicy, Random, Rule, candidate_probabilities
from slatewise.slates import top_k

ROWS = 40_000


def observation(rows: int = ROWS) -> Observation:
    """Four candidates, the third masked; the best of the rest are 3, then 0, then 1."""
    items = torch.tensor([[0.5, 0.1, 9.0, 0.7]]).expand(rows, 4).unsqueeze(2)
    return Observation(torch.zeros(rows, 1), torch.tensor([[0, 1, -1, 3]]).expand(rows, 4), items)


def best_first(seen: Observation, k: int) -> torch.Tensor:
    return top_k(seen.items[:, :, 0], seen.mask, k)


POLICIES = {
    "random": (lambda: Random(2, seed=1), True),
    "rule": (lambda: Rule("best", best_first, 2, seed=1), True),
    "exploring rule": (lambda: Rule("best", best_first, 2, seed=1, explore_floor=0.4), True),
    "exploring rule, greedy": (lambda: Rule("best", best_first, 2, seed=1, explore_floor=0.4), False),
}


@pytest.mark.parametrize(("make", "explore"), POLICIES.values(), ids=POLICIES.keys())
def test_act_has_the_propensities_as_frequencies(make, explore: bool) -> None:
    """Every slate within 4.5 standard errors; the probabilities of all slates sum to 1."""
    seen, policy = observation(), make()
    decision = policy.act(seen, explore=explore)
    decision.validate(seen)
    total = 0.0
    for slate in permutations((0, 1, 3), 2):
        shown = torch.tensor([slate])
        p = float(policy.propensity(observation(1), shown, explore=explore).prod())
        share = float((decision.slate == shown).all(1).double().mean())
        assert abs(share - p) <= 4.5 * math.sqrt(p * (1 - p) / ROWS) + 1e-12, slate
        total += p
    assert total == pytest.approx(1.0, abs=1e-12)
    assert torch.equal(decision.propensity, policy.propensity(seen, decision.slate, explore=explore))


def test_a_rule_shows_its_slate_unless_it_explores() -> None:
    seen = observation(100)
    assert Rule("best", best_first, 3).act(seen).slate.tolist() == [[3, 0, 1]] * 100
    exploring = Rule("best", best_first, 3, explore_floor=1.0)
    assert exploring.act(seen, explore=False).slate.tolist() == [[3, 0, 1]] * 100
    assert len(exploring.act(seen).slate.unique(dim=0)) == 6


def test_the_coin_is_thrown_for_every_user_alone() -> None:
    """With one coin for the batch all rows or none would depart from the greedy slate."""
    policy = Rule("best", best_first, 1, explore_floor=0.5)
    shares = [float((policy.act(observation(200)).slate == 3).double().mean()) for _ in range(20)]
    p = 0.5 + 0.5 / 3
    assert all(abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / 200) for share in shares)


@pytest.mark.parametrize("make", [POLICIES["random"][0], POLICIES["exploring rule"][0]], ids=["random", "rule"])
def test_a_seed_fixes_decisions_whatever_else_draws(make) -> None:
    seen = observation(500)
    one, other = make(), make()
    first = [one.act(seen).slate for _ in range(3)]
    second = []
    for _ in range(3):
        torch.rand(7)
        second.append(other.act(seen).slate)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


def test_policies_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Random(2).act(observation(10))
    Rule("best", best_first, 2, explore_floor=0.5).act(observation(10))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("floor", [-0.1, 1.5, math.nan])
def test_an_explore_floor_is_a_probability(floor: float) -> None:
    with pytest.raises(InputError, match=r"explore_floor=.*\[0, 1\]"):
        Rule("best", best_first, 2, explore_floor=floor)


def test_a_policy_without_a_best_slate_says_so() -> None:
    with pytest.raises(NotImplementedError):
        GreedyPolicy(2).act(observation(1))


def one_by_one(policy: Random | Rule, seen: Observation, explore: bool) -> torch.Tensor:
    """The propensity of every candidate in the first slot, asked with slates that go on with any others."""
    count = seen.item_ids.shape[1]
    order = torch.arange(count)
    slates = [order.roll(-c)[: policy.slate_size].expand(len(seen), -1) for c in range(count)]
    return torch.stack([policy.propensity(seen, slate, explore)[:, 0] for slate in slates], 1)


@pytest.mark.parametrize(("make_policy", "explore"), POLICIES.values(), ids=POLICIES.keys())
def test_probabilities_are_the_propensities_of_every_candidate(make_policy, explore: bool) -> None:
    seen, policy = observation(5), make_policy()
    every = policy.probabilities(seen, explore)
    assert every.dtype == torch.float64
    assert torch.allclose(every, one_by_one(policy, seen, explore), rtol=0, atol=1e-15)
    assert every.sum(1).tolist() == pytest.approx([1.0] * 5)
    nobody = policy.probabilities(Observation(seen.user, torch.full_like(seen.item_ids, -1), seen.items), explore)
    assert not nobody.any()


@pytest.mark.parametrize("world", WORLDS)
def test_probabilities_of_the_rules_of_every_world(world: str) -> None:
    env = make(world, users=20, seed=0)
    for name in ("random", *env.rules):
        rule = env.rule(name, explore_floor=0.2)
        for explore in (True, False):
            every = candidate_probabilities(rule, env.observation, explore)
            assert torch.allclose(every, one_by_one(rule, env.observation, explore), rtol=0, atol=1e-12), name


def test_a_propensity_of_its_own_is_asked_candidate_by_candidate() -> None:
    class Second(Rule):
        """Shows the second best, and inherits `probabilities` of a policy that shows the best."""

        def propensity(self, observation: Observation, slate: torch.Tensor, explore: bool = True) -> torch.Tensor:
            return (slate == best_first(observation, 2)[:, 1:]).double()

    class Wrong(Random):
        def probabilities(self, observation: Observation, explore: bool = True) -> torch.Tensor:
            return super().probabilities(observation, explore)[:, :1]

    found = candidate_probabilities(Second("second", best_first, 1), observation(2), explore=True)
    assert found.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 2
    with pytest.raises(InputError, match=r"Wrong.probabilities gives \[2, 1\] for 2 rows of 4 candidates: return the"):
        candidate_probabilities(Wrong(1), observation(2), explore=True)


def test_a_device_without_numbers_is_refused() -> None:
    """Tensors of `meta` can be made, and nothing can be drawn there."""
    for made in (lambda: Random(1, device="meta"), lambda: make("maze", users=1, device="meta")):
        with pytest.raises(InputError, match=r"device='meta' cannot be used here .*: give cpu"):
            made()
