import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.agents.base import Agent
from slatewise.choice import ExponentialCascade, InnerProduct
from slatewise.constrained import Constrained
from slatewise.constraints import Constraints
from slatewise.interactions import Observation
from slatewise.policies import Random, Rule
from slatewise.slates import best_slate, top_k
from slatewise.testing import deciding
from slatewise.testing.problems import Problem, small_world

TOPICS = ("sweet",) * 10 + ("sound",) * 10
ROWS = 40_000


@dataclass(frozen=True)
class UnderConstraints(Problem):
    """Agents that must show one sound item in slates of two, where there is one."""

    @cached_property
    def agent(self) -> Any:
        return self.held(self.trained()[0])

    def agents(self) -> Iterator[tuple[str, Agent]]:
        yield "a new agent", self.held(self.fresh())
        yield "a trained agent", self.agent

    def held(self, agent: Agent) -> Any:
        return Constrained(agent, Constraints(TOPICS, at_least={"sound": 1}), seed=1)


CHECKS = [
    deciding.valid, deciding.greedy, deciding.batches, deciding.order, deciding.propensities, deciding.all_candidates,
    deciding.frequencies, deciding.weights, deciding.masks, deciding.untouched,
]  # fmt: skip


@pytest.mark.parametrize("name", ["slateq", "linucb", "softmax"])
def test_agents_under_constraints_keep_what_agents_promise(name: str) -> None:
    settings: dict[str, Any] = {"explore_floor": 0.2} if name == "linucb" else {}
    problem = UnderConstraints(partial(make_agent, name, **settings), small_world, 1)
    for check in CHECKS:
        check(problem)


def test_slateq_shows_the_exact_slate_that_is_allowed() -> None:
    env = sw.make("interest-evolution", users=300, seed=0, candidates=20, slate_size=4, choice="logit")
    agent = sw.SlateQ(env.spec, choice=env.choice, seed=0, epsilon_start=0.3, epsilon_end=0.3)
    rules, seen = Constraints(TOPICS, at_most={"sweet": 2}, fixed={1: 15}), env.observation
    policy, limits = Constrained(agent, rules), rules.on(seen.item_ids, 4)
    best = best_slate(env.choice, env.choice.scores(seen), *agent.values(seen), seen.mask, 4, limits)[0]
    assert torch.equal(policy.act(seen, explore=False).slate, best)
    decision = policy.act(seen)
    assert bool(limits.met(decision.slate, seen.mask)[(limits.fixed[:, 1] >= 0)].all())
    share = float((decision.slate == best).all(1).double().mean())
    assert abs(share - 0.7) < 4.5 * math.sqrt(0.7 * 0.3 / 300)
    assert torch.equal(decision.propensity, policy.propensity(seen, decision.slate))
    cascade = sw.SlateQ(env.spec, choice=ExponentialCascade(InnerProduct(20)), seed=0)
    with pytest.raises(sw.InputError, match=r"no exact slate.*serve=greedy"):
        Constrained(cascade, rules).act(seen)


def observation(rows: int = ROWS) -> Observation:
    """Five candidates, the third masked; the best are 3, 0, 4, 1; categories by id: a, a, b, b, c."""
    items = torch.tensor([[0.5, 0.1, 9.0, 0.7, 0.3]]).expand(rows, 5).unsqueeze(2)
    return Observation(torch.zeros(rows, 1), torch.tensor([[0, 1, -1, 3, 4]]).expand(rows, 5), items)


def best_first(seen: Observation, k: int) -> torch.Tensor:
    return top_k(seen.items[:, :, 0], seen.mask, k)


RULES = {
    "at most": Constraints(tuple("aabbc"), at_most=1),
    "at least": Constraints(tuple("aabbc"), at_least={"a": 2}),
    "fixed": Constraints(tuple("aabbc"), at_least={"c": 1}, fixed={1: 1}),
    "few": Constraints(tuple("aabbc"), at_most={"a": 1, "b": 0}, fixed={0: 0}),
    "fixed and not there": Constraints(tuple("aabbc"), at_most=1, fixed={0: 2}),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("make", [lambda: Random(3, seed=1), lambda: Rule("best", best_first, 3, 1, 0.4)])
def test_what_is_logged_is_how_often_it_is_shown(make, rules: Constraints) -> None:
    """Every slate within 4.5 standard errors of its propensity; the propensities of all slates sum to 1."""
    seen, policy = observation(), Constrained(make(), rules, seed=3)
    decision = policy.act(seen)
    decision.validate(seen)
    one, total = observation(1), 0.0
    for slate in sorted(set(permutations([-1, -1, 0, 1, 2, 3, 4], 3))):
        p = float(policy.propensity(one, torch.tensor([slate])).prod())
        share = float((decision.slate == torch.tensor(slate)).all(1).double().mean())
        assert abs(share - p) <= 4.5 * math.sqrt(p * (1 - p) / ROWS) + 1e-12, slate
        total += p
    assert total == pytest.approx(1.0, abs=1e-12)
    assert torch.equal(decision.propensity, policy.propensity(seen, decision.slate))


def test_a_random_policy_is_uniform_over_what_leaves_a_slate_to_complete() -> None:
    """Three slots, one item of each category: any of four, then of the two or three of other categories."""
    policy = Constrained(Random(3), RULES["at most"])
    found = policy.propensity(observation(3), torch.tensor([[0, 3, 4], [4, 0, 3], [0, 1, 3]]))
    assert found.tolist() == [[1 / 4, 1 / 2, 1], [1 / 4, 1 / 3, 1], [1 / 4, 0, pytest.approx(1 / 2)]]


def test_without_exploration_scores_give_the_best_slate_that_is_allowed() -> None:
    rules = {name: Constrained(Rule("best", best_first, 3), rule) for name, rule in RULES.items()}
    shown = {name: rule.act(observation(1), explore=False).slate[0].tolist() for name, rule in rules.items()}
    assert shown == {
        "at most": [3, 0, 4],
        "at least": [3, 0, 1],
        "fixed": [3, 1, 4],
        "few": [0, 4, -1],
        "fixed and not there": [3, 0, 4],
    }


def test_an_agent_learns_and_is_evaluated_under_constraints() -> None:
    env = sw.make("interest-evolution", users=50, seed=0, slate_size=3)
    agent = sw.LinUCB(env.spec, seed=0)
    policy = Constrained(agent, Constraints(TOPICS, at_least={"sound": 2}))
    for _ in range(5):
        interactions = env.step(policy.act(env.observation))
        agent.observe(interactions)
        agent.update()
        ids = interactions.observation.item_ids
        sound = (ids.gather(1, interactions.decision.slate) >= 10).sum(1)
        assert bool((sound >= (ids >= 10).sum(1).clamp(max=2)).all())
    assert agent.steps == 250
    assert sw.evaluate(policy, env, episodes=50).mean > 0
