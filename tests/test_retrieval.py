from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import slatewise as sw
from slatewise.agents.base import Agent
from slatewise.choice import Bilinear, FirstPosition, InnerProduct, Logit, Proportional
from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.policies import Rule
from slatewise.retrieval import Retrieved, agreement, products_of, shown_rows
from slatewise.slates import slate_value

ITEMS, FEATURES, USERS, SLOTS = 400, 5, 12, 3
SPEC = Spec(
    tuple(f"u{i}" for i in range(FEATURES)), tuple(f"e{i}" for i in range(FEATURES)), (), ("reward",), ITEMS, SLOTS
)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CATALOGUE = Catalogue.of(normal(ITEMS, FEATURES, seed=1))


def everything(seed: int = 2, rows: int = USERS) -> Observation:
    """Return users to whom the whole catalogue may be shown, their candidates one row in memory."""
    ids = torch.arange(ITEMS).expand(rows, -1)
    return Observation(normal(rows, FEATURES, seed=seed), ids, torch.empty(rows, ITEMS, 0), CATALOGUE)


def slateq(**settings: object) -> sw.SlateQ:
    """Return an agent whose values are random and well above the value of no click."""
    agent = sw.SlateQ(SPEC, choice=Logit(InnerProduct(FEATURES)), seed=0, **settings)
    with torch.no_grad():
        agent.regression.network.no_click[-1] = -5.0
    return agent


def agents() -> list[Agent]:
    return [slateq(), sw.Supervised(SPEC, seed=0), sw.SlateQ(SPEC, choice=FirstPosition(), seed=0)]


def test_products_rank_items_as_the_scores_do() -> None:
    observation, few = everything(), replace(everything(), items=torch.empty(USERS, ITEMS, 0))
    bilinear = Bilinear(tuple(map(tuple, normal(3, FEATURES, seed=3).tolist())), tuple([0.5] * FEATURES), 2.0)
    network = slateq().regression.network
    scores = {InnerProduct(3): InnerProduct(3)(observation), bilinear: bilinear(few), network: network(observation)[0]}
    for product, score in scores.items():
        products = product.queries(observation) @ product.vectors(CATALOGUE).T
        torch.testing.assert_close(score - score[:, :1], products - products[:, :1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_who_retrieves_enough_decides_as_if_everything_were_scored(at: int) -> None:
    agent, observation = agents()[at], everything()
    retrieved = Retrieved(agent, candidates=40)
    decision = retrieved.act(observation, explore=False)
    decision.validate(observation)
    assert torch.equal(decision.slate, agent.act(observation, explore=False).slate)
    assert torch.equal(agreement(retrieved, observation), torch.ones(USERS, dtype=torch.float64))
    assert retrieved.narrow(observation).item_ids.shape[1] < ITEMS


def test_a_slate_from_few_candidates_is_worth_nearly_as_much() -> None:
    agent, observation = slateq(), everything(rows=200)
    assert agent.choice is not None
    scores, (values, no_click) = agent.choice.scores(observation), agent.values(observation)

    def worth(slate: torch.Tensor) -> torch.Tensor:
        return slate_value(agent.choice, scores, values, no_click, slate)  # type: ignore[arg-type]

    best = worth(agent.act(observation, explore=False).slate)
    lost = [(best - worth(Retrieved(agent, candidates=m).act(observation, explore=False).slate)) for m in (3, 10, 40)]
    assert (torch.stack(lost) > -1e-5).all()
    assert lost[0].mean() > lost[1].mean() > lost[2].mean() > -1e-6
    assert lost[1].mean() < 0.01 * best.std()


@pytest.mark.parametrize("no_click_value", [-5.0, -1.0, 0.0])
@pytest.mark.parametrize("interest", [0.3, 1.0])
@pytest.mark.parametrize("make_choice", [Logit, lambda a: Logit(a, 4.0), Proportional], ids=["logit", "shy", "shares"])
def test_four_reasons_lose_next_to_nothing_and_one_does(
    make_choice: Callable[[InnerProduct], Logit | Proportional], interest: float, no_click_value: float
) -> None:
    agent = sw.SlateQ(SPEC, choice=make_choice(InnerProduct(FEATURES)), seed=0)
    with torch.no_grad():
        agent.regression.network.no_click[-1] = no_click_value
    observation = everything(rows=200)
    observation = replace(observation, user=interest * observation.user)
    scores, (values, no_click) = agent.choice.scores(observation), agent.values(observation)  # type: ignore[union-attr]

    def worth(slate: torch.Tensor) -> torch.Tensor:
        return slate_value(agent.choice, scores, values, no_click, slate)  # type: ignore[arg-type]

    best = worth(agent.act(observation, explore=False).slate)
    lost = best - worth(Retrieved(agent, candidates=20).act(observation, explore=False).slate)
    assert lost.mean() < 0.001 * best.std()
    by_value = Retrieved(agent, candidates=20, value=agent.regression.network)
    assert (best - worth(by_value.act(observation, explore=False).slate)).mean() > 0.001 * best.std()


def test_candidates_are_different_rows_that_hold_the_best_of_every_product() -> None:
    agent, observation = slateq(), everything()
    few = Retrieved(agent, candidates=10).narrow(observation)
    few.validate()
    scores = agent.choice.scores(observation), agent.values(observation)[0]  # type: ignore[union-attr]
    both = sum(score / score.std(1, keepdim=True) for score in scores)
    scores += (both, -scores[0])
    for row, ids in enumerate(few.item_ids.tolist()):
        there = [i for i in ids if i >= 0]
        assert len(set(there)) == len(there)
        assert set(there) == {i for score in scores for i in score[row].topk(10).indices.tolist()}


def test_what_may_not_be_shown_is_not_retrieved() -> None:
    agent = sw.Supervised(SPEC, seed=0)
    observation = everything()
    gone = agent.act(observation, explore=False).slate
    ids = observation.item_ids.clone().scatter(1, gone, -1)
    hidden = replace(observation, item_ids=ids)
    expected = agent.act(hidden, explore=False).slate
    assert torch.equal(Retrieved(agent, candidates=20).act(hidden, explore=False).slate, expected)
    for_all = replace(observation, item_ids=ids[:1].expand(USERS, -1))
    slate = Retrieved(agent, candidates=20).act(for_all).slate
    assert not torch.isin(slate, gone[0]).any()


def test_propensities_are_those_of_what_is_drawn_and_sum_to_one() -> None:
    spec = replace(SPEC, slate_size=1)
    agent = sw.Supervised(spec, seed=0, epsilon_start=0.5)
    retrieved, observation = Retrieved(agent, candidates=8), everything(rows=2)
    chances = torch.stack(
        [retrieved.propensity(observation, torch.full((2, 1), item))[:, 0] for item in range(ITEMS)], 1
    )
    torch.testing.assert_close(chances.sum(1), torch.ones(2, dtype=torch.float64))
    assert ((chances > 0).sum(1) == 8).all()
    many = everything(rows=2)[torch.zeros(4000, dtype=torch.int64)]
    decision = retrieved.act(many)
    shown = torch.bincount(decision.slate[:, 0], minlength=ITEMS) / 4000
    assert torch.equal(decision.propensity, retrieved.propensity(many, decision.slate))
    error = (chances[0] * (1 - chances[0]) / 4000).sqrt()
    assert ((shown - chances[0]).abs() <= 4 * error + 1e-12).all()


def test_a_slate_with_something_that_is_not_retrieved_has_no_probability_from_there_on() -> None:
    agent, observation = slateq(epsilon_start=0.5), everything()
    retrieved = Retrieved(agent, candidates=8)
    slate = retrieved.act(observation).slate
    ids = retrieved.narrow(observation).item_ids
    absent = torch.tensor([next(i for i in range(ITEMS) if i not in row) for row in ids.tolist()])
    slate[:, 1] = absent
    propensity = retrieved.propensity(observation, slate)
    assert (propensity[:, 0] > 0).all()
    assert (propensity[:, 1:] == 0).all()


def test_the_index_follows_the_network_and_the_catalogue() -> None:
    agent, observation = sw.Supervised(SPEC, seed=0), everything()
    retrieved = Retrieved(agent, candidates=5)
    retrieved.act(observation)
    with torch.no_grad():
        agent.regression.network.catalogue_tower.weight.neg_()  # type: ignore[union-attr]
    agent.updates += 1
    expected = agent.act(observation, explore=False).slate
    assert torch.equal(retrieved.act(observation, explore=False).slate, expected)
    more = Catalogue.of(torch.cat([CATALOGUE.features, 5 * CATALOGUE.features[:50]]))
    ids = torch.arange(ITEMS + 50).expand(USERS, -1)
    grown = replace(observation, item_ids=ids, items=torch.empty(USERS, ITEMS + 50, 0), catalogue=more)
    expected = agent.act(grown, explore=False).slate
    assert torch.equal(retrieved.act(grown, explore=False).slate, expected)
    assert bool((expected >= ITEMS).any())


def test_candidates_that_are_a_choice_already_pass() -> None:
    agent, observation = sw.Supervised(SPEC, seed=0), everything()
    few = replace(observation, item_ids=observation.item_ids[:, 7:50], items=observation.items[:, 7:50])
    assert Retrieved(agent, candidates=5).narrow(few) is few
    assert shown_rows(few) is None
    assert Retrieved(agent, candidates=ITEMS).narrow(observation) is observation
    turned = replace(observation, item_ids=observation.item_ids.flip(1))
    assert Retrieved(agent, candidates=5).narrow(turned) is turned


def test_an_agent_learns_from_what_it_retrieved() -> None:
    env = sw.make("interest-evolution", users=16, seed=0, documents=300, candidates=300, slate_size=2)
    agent = sw.SlateQ(env.spec, choice=env.choice, seed=0, rollout_steps=4)
    retrieved, updates = Retrieved(agent, candidates=20), 0
    for _ in range(12):
        seen = retrieved.narrowed(env.step(retrieved.act(env.observation)))
        seen.validate()
        assert seen.observation.item_ids.shape[1] == 82
        agent.observe(seen)
        updates += agent.update() is not None
    assert updates == 3
    later = env.step(env.rule("random").act(env.observation))  # shown by somebody else, so some is not retrieved
    seen = retrieved.narrowed(later)
    ids = seen.observation.item_ids.gather(1, seen.decision.slate)
    assert torch.equal(ids, later.observation.item_ids.gather(1, later.decision.slate))


def test_a_policy_gradient_retrieves_by_its_actor() -> None:
    agent, observation = sw.PPO(SPEC, seed=0), everything()
    retrieved = Retrieved(agent, candidates=10, value=agent.actor.network)
    assert torch.equal(retrieved.act(observation, False).slate, agent.act(observation, False).slate)


def test_bad_input_is_named() -> None:
    agent = sw.Supervised(SPEC, seed=0)
    with pytest.raises(InputError, match="candidates=2 are fewer than the 3 items"):
        Retrieved(agent, candidates=2)
    with pytest.raises(InputError, match="Rule does not say by which inner products it values"):
        products_of(Rule("first", lambda o, k: o.item_ids[:, :k], 3))
    few = replace(SPEC, candidates=10)
    for other in (sw.DeepQ(few), sw.make_agent("reinforce", SPEC)):
        with pytest.raises(InputError, match=f"{type(other).__name__} does not say .* the actor.network of reinforce"):
            Retrieved(other)
    priced = replace(everything(), items=torch.zeros(USERS, ITEMS, 1))
    with pytest.raises(InputError, match="1 features of the moment"):
        Retrieved(agent, candidates=5).narrow(priced)
    with pytest.raises(InputError, match="without items"):
        sw.Supervised(replace(SPEC, items=("price",)), seed=0).regression.network.vectors(CATALOGUE)
