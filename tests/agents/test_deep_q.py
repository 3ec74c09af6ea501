"""deep-q: all slates there are, values as value iteration has them, and a policy that is the same in any batch."""

from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import slatewise as sw
from slatewise.agents.deep_q import DeepQ
from slatewise.environments.base import State, response_of
from slatewise.interactions import Catalogue, Response, Spec
from slatewise.noise import Noise
from slatewise.whole_slates import SlateTower, all_slates, best_slates, by_share
from tiny_worlds import Clock

FAST: dict[str, Any] = {"hidden": 32, "embedding": 16, "epochs": 6, "learning_rate": 5e-3, "rollout_steps": 8}
PAIRS = list(combinations(range(4), 2))
EARNED = torch.tensor([[1.0, 3.0, 0.0, 2.0, 0.5, 0.0], [0.0, 1.0, 4.0, 0.0, 2.0, 1.0]])  # no sum over items: [2, 6]


class Pairs(Clock):
    """Two states, four items, slates of two: a pair earns what stands in a table, and item 3 changes the state."""

    name = "pairs"
    horizon = 7

    def build(self, settings: Any) -> None:
        super().build(settings)
        self.choice = None
        self.catalogue = Catalogue.of(torch.eye(4))
        self.spec = Spec(("zero", "one"), ("a", "b", "c", "d"), (), ("earned",), 4, 2, settings.history)

    def begin(self, noise: Noise) -> State:
        return {"user": torch.nn.functional.one_hot((noise.uniform(1).squeeze(1) < 0.5).long(), 2).float()}

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        at, low, high = self.state["user"].argmax(1), slate.amin(1), slate.amax(1)
        pair = low * (7 - low) // 2 + high - low - 1
        earned = EARNED[at, pair].unsqueeze(1) * torch.tensor([[1.0, 0.0]])
        self.state["user"] = torch.where((high == 3).unsqueeze(1), self.state["user"].flip(1), self.state["user"])
        clicked = torch.ones_like(slate, dtype=torch.bool)
        return response_of(clicked, earned.unsqueeze(2), earned.double()), torch.zeros(self.users, dtype=torch.bool)


def pairs_by_value_iteration(discount: float) -> Tensor:
    """Return Q [2, 6] of the world above."""
    changes = torch.tensor([3 in pair for pair in PAIRS])
    q = torch.zeros(2, 6)
    for _ in range(500):
        ahead = q.amax(1)
        q = EARNED + discount * torch.where(changes, ahead.flip(0).unsqueeze(1), ahead.unsqueeze(1))
    return q


@pytest.mark.parametrize(("candidates", "k"), [(5, 1), (5, 2), (6, 3), (4, 4), (3, 0), (2, 3)])
def test_all_slates_are_those_of_itertools(candidates: int, k: int) -> None:
    for ordered, every in ((False, combinations), (True, permutations)):
        slates = all_slates(candidates, k, ordered, torch.device("cpu"))
        assert slates.shape[1] == k
        assert slates.tolist() == [list(slate) for slate in every(range(candidates), k)]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("settings", [{}, {"history": 3, "observe": "quality"}])
def test_all_values_at_once_are_those_of_the_slates_one_by_one(ordered: bool, settings: dict[str, Any]) -> None:
    env = sw.make("interest-evolution", users=5, seed=0, candidates=6, slate_size=3, **settings)
    encoder: dict[str, Any] = {"encoder": "gru"} if settings else {}
    agent = DeepQ(env.spec, seed=0, ordered=ordered, **encoder)
    env.step(env.rule("random").act(env.observation))
    values = agent.values(env.observation)
    slates = agent.slates(env.observation)
    assert values.shape == (5, 120 if ordered else 20)
    for i in range(len(slates)):
        one = agent.value_of(env.observation, slates[i].expand(5, -1), agent.regression)
        torch.testing.assert_close(values[:, i], one, rtol=1e-5, atol=1e-5)
    assert torch.equal(agent.best(env.observation, agent.regression)[0], slates[values.argmax(1)])
    again = [i for i, slate in enumerate(slates.tolist()) if sorted(slate) == [0, 1, 2]]
    assert len(again) == (6 if ordered else 1)
    assert not ordered or float((values[:, again[0]] - values[:, again[-1]]).abs().max()) > 0


PARTS: dict[str, Any] = {"replay": 2, "minibatches": 12, "target_every": 2, "double": True, "epochs": 2}


@pytest.mark.parametrize("parts", [{}, PARTS | {"prioritised": 0.6}], ids=["newest", "all parts"])
def test_values_are_those_of_value_iteration(parts: dict[str, Any]) -> None:
    env = Pairs(users=64, candidates=4, slate_size=2)
    agent = DeepQ(env.spec, seed=0, discount=0.8, trace=0.5, **(FAST | parts))
    sw.train(agent, env, 25_000, progress=False)
    both = replace(env.observation[:2], user=torch.eye(2))
    right = pairs_by_value_iteration(0.8)
    torch.testing.assert_close(agent.values(both), right, rtol=0.04, atol=0.15)
    shown = agent.act(both, explore=False).slate.sort(1).values
    assert [tuple(slate) for slate in shown.tolist()] == [PAIRS[int(i)] for i in right.argmax(1)]


def test_one_slot_is_an_ordinary_dqn_and_truncation_does_not_end_the_future() -> None:
    env = Clock(users=64, candidates=2, slate_size=1)
    agent = DeepQ(env.spec, env.choice, seed=0, discount=0.9, trace=0.0, **FAST)
    sw.train(agent, env, 25_000, progress=False)
    values = agent.values(env.observation).mean(0)
    assert values.tolist() == pytest.approx([10, 9], rel=0.05)


def test_candidates_that_are_not_to_be_shown_never_are_and_too_few_leave_holes() -> None:
    env = sw.make("interest-evolution", users=4, seed=0, candidates=5, slate_size=3)
    seen = env.observation
    ids = seen.item_ids.clone()
    ids[0, [0, 3]] = -1
    ids[1, [0, 1, 3]] = -1
    ids[2, :4] = -1
    seen = replace(seen, item_ids=ids)
    agent = DeepQ(env.spec, env.choice, seed=0)
    slate = agent.act(seen, explore=False).slate
    assert sorted(slate[0].tolist()) == [1, 2, 4]
    assert slate[1].tolist() in ([2, 4, -1], [4, 2, -1])
    assert slate[2].tolist() == [4, -1, -1]
    values, slates = agent.values(seen), agent.slates(seen).tolist()
    shown = [[i for i, value in enumerate(row) if value > -torch.inf] for row in values.tolist()]
    assert [slates[i] for i in shown[0]] == [[1, 2, 4]]
    assert [len(row) for row in shown] == [1, 0, 0, 10]
    assert bool((agent.propensity(seen, slate, explore=False) == 1).all())


def test_all_of_too_few_candidates_are_one_slate_however_many_sets_of_that_size_there_are() -> None:
    """16 of 20 are 4,845 sets, which can be valued; 10 of 20 are 184,756, and of a user's 10 candidates 1."""
    env = sw.make("interest-evolution", users=3, seed=0, candidates=20, slate_size=16)
    seen = env.observation
    ids = seen.item_ids.clone()
    ids[0, ::2] = -1
    seen = replace(seen, item_ids=ids)
    agent = DeepQ(env.spec, env.choice, seed=0)
    slate, value = agent.best(seen, agent.regression)
    assert slate[0].tolist() == [*range(1, 20, 2), *[-1] * 6]
    assert bool((slate[1:] >= 0).all())
    torch.testing.assert_close(value, agent.value_of(seen, slate, agent.regression))


def test_one_slot_among_thousands_needs_no_sum_over_candidates() -> None:
    env = sw.make("many-armed-bandit", users=3, seed=2, items=300, candidates=300, features=4)
    agent = DeepQ(env.spec, seed=0)
    values, seen = agent.values(env.observation), env.observation
    assert values.shape == (3, 300)
    one = [agent.value_of(seen, torch.full((3, 1), item), agent.regression) for item in range(300)]
    torch.testing.assert_close(values, torch.stack(one, 1), rtol=1e-5, atol=1e-5)
    assert len(values[0].unique()) > 100


def test_in_order_too_all_of_too_few_candidates_are_shown() -> None:
    env = sw.make("interest-evolution", users=3, seed=0, candidates=4, slate_size=3)
    seen = env.observation
    seen = replace(seen, item_ids=torch.where(torch.tensor([True, False, True, False]), seen.item_ids, -1))
    agent = DeepQ(env.spec, ordered=True)
    slates = [torch.tensor([slate]).expand(3, -1) for slate in ([0, 2, -1], [2, 0, -1])]
    two = [agent.value_of(seen, slate, agent.regression) for slate in slates]
    first = torch.where(two[0] >= two[1], 0, 2)
    assert torch.equal(agent.greedy(seen, explore=False), torch.stack([first, 2 - first, first.new_full((3,), -1)], 1))


def test_a_policy_is_the_same_in_any_batch_where_candidates_are_alike() -> None:
    env = sw.make("interest-evolution", users=300, seed=0, candidates=12, slate_size=3)  # of 20 topics: many alike
    agent = DeepQ(env.spec, env.choice, seed=0)
    sw.train(agent, env, 5_000, progress=False)
    decision = agent.act(env.observation)
    whole = agent.propensity(env.observation, decision.slate)
    assert torch.equal(decision.propensity, whole)
    pieces = [agent.propensity(env.observation[i : i + 7], decision.slate[i : i + 7]) for i in range(0, 300, 7)]
    assert torch.equal(torch.cat(pieces), whole)


def test_shares_add_up_to_what_a_slate_is_worth_beside_nothing_and_the_largest_comes_first() -> None:
    """Codes so small that no unit of the ReLU turns on or off."""
    spec = Spec(("u",), ("a", "b", "c"), (), (), 3, 2)
    with torch.random.fork_rng():
        torch.manual_seed(3)  # one with units that are on
        network = SlateTower(spec, hidden=8, embedding=4)
    with torch.no_grad():
        network.code.weight *= 1e-3
        network.code.bias *= 1e-3
    features = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 400.0]])
    seen = sw.Observation(torch.ones(2, 1), torch.arange(3).expand(2, 3), torch.zeros(2, 3, 0), Catalogue.of(features))
    slate = torch.tensor([[0, 2], [1, -1]])
    shares = network.shares(seen, slate)
    beside = network.at(seen, slate) - network.at(seen, torch.full_like(slate, -1))
    torch.testing.assert_close(shares.sum(1), beside.detach().squeeze(1), rtol=1e-3, atol=1e-6)
    assert float(shares.abs().max()) > 1e-3
    assert by_share(network, seen, slate).tolist() == [[0, 2] if shares[0, 0] > shares[0, 1] else [2, 0], [1, -1]]


@pytest.mark.parametrize(
    ("candidates", "slots", "ordered", "words"),
    [
        (100, 10, False, r"100 candidates and 10 slots make 17,310,309,456,440 slates.*take slateq.*ppo or reinforce"),
        (30, 3, True, r"30 candidates and 3 slots make 24,360 ordered slates, .*at most 20,000"),
    ],
)
def test_too_many_slates_are_refused(candidates: int, slots: int, ordered: bool, words: str) -> None:
    env = sw.make("interest-evolution", users=1, candidates=candidates, slate_size=slots)
    with pytest.raises(sw.InputError, match=words):
        DeepQ(env.spec, env.choice, ordered=ordered)


def test_it_refuses_to_leave_order_out_where_it_matters_and_more_candidates_than_it_can_value() -> None:
    env = sw.make("long-term-satisfaction", users=1, slate_size=2)
    with pytest.raises(sw.InputError, match=r"ordered=false, and where users choose by 'first-position'.*ordered=true"):
        DeepQ(env.spec, env.choice)
    few = sw.make("interest-evolution", users=1, candidates=10, slate_size=3)
    many = sw.make("interest-evolution", users=1, candidates=60, slate_size=3)
    with pytest.raises(sw.InputError, match="60 candidates and 3 slots make 34,220 slates"):
        DeepQ(few.spec, few.choice).act(many.observation)


def test_a_diverged_network_is_named() -> None:
    env = sw.make("interest-evolution", users=2)
    agent = DeepQ(env.spec, env.choice)
    with torch.no_grad():
        agent.regression.network.code.weight.fill_(torch.nan)
    with pytest.raises(sw.InputError, match="a slate's value in row 0 is NaN"):
        best_slates(agent.regression.network, env.observation, 2, ordered=False)
    few = replace(env.observation, item_ids=torch.where(torch.arange(10) < 1, env.observation.item_ids, -1))
    with pytest.raises(sw.InputError, match="a slate's value in row 0 is NaN"):
        best_slates(agent.regression.network, few, 2, ordered=False)


def test_the_older_copy_needs_no_choice_and_double_needs_it() -> None:
    env = sw.make("interest-evolution", users=1)
    with pytest.raises(sw.InputError, match=r"double=true with target_every=1: .* give target_every above 1"):
        DeepQ(env.spec, double=True)


def test_a_resumed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    def made() -> tuple[sw.Environment, DeepQ]:
        env = sw.make("interest-evolution", users=16, seed=0, candidates=5)
        return env, DeepQ(
            env.spec, env.choice, seed=1, rollout_steps=4, target_every=2, double=True, planned_steps=1024
        )

    env, whole = made()
    for _ in range(32):
        learn(env, whole)
    env, agent = made()
    for _ in range(16):
        learn(env, agent)
    agent.save(tmp_path)
    agent = DeepQ.load(tmp_path)
    for _ in range(16):
        learn(env, agent)
    right = whole.tensors()
    assert agent.tensors().keys() == right.keys()
    assert all(torch.equal(value, right[key]) for key, value in agent.tensors().items())


def learn(env: sw.Environment, agent: sw.Agent) -> None:
    agent.observe(env.step(agent.act(env.observation)))
    agent.update()


def test_it_learns_more_than_to_show_what_users_take() -> None:
    """Five candidates, ten slates: above random and the myopic rule after 25,000 user-steps."""
    settings: dict[str, Any] = {"candidates": 5}
    env = sw.make("interest-evolution", users=128, seed=0, **settings)
    agent = DeepQ(env.spec, env.choice, seed=0, learning_rate=3e-3, rollout_steps=8)
    sw.train(agent, env, 25_000, progress=False)
    means = {
        name: sw.evaluate(policy, sw.make("interest-evolution", users=500, seed=7, **settings), 500).mean
        for name, policy in (("deep-q", agent), ("random", env.rule("random")), ("myopic", env.rule("myopic")))
    }
    assert means["deep-q"] > max(means["random"], means["myopic"]) + 5, means
