"""Wolpertinger: the actor's gradient, the search, what a slate is worth, and whether it learns to look."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

import slatewise as sw
from slatewise.agents.wolpertinger import Wolpertinger, held, some_candidates, uphill
from slatewise.indexes import ExactIndex
from slatewise.interactions import Catalogue, Interactions, Observation, Response, Spec
from slatewise.retrieval import Retrieved
from tiny_worlds import Clock

USERS, ITEMS, FEATURES, MOMENT = 9, 40, 3, 2
SMALL: dict[str, Any] = {"hidden": 16, "embedding": 8}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spec_of(catalogue: int, moment: int, candidates: int, slots: int = 2) -> Spec:
    features, items = tuple(f"e{i}" for i in range(catalogue)), tuple(f"d{i}" for i in range(moment))
    return Spec(("u0", "u1"), features, items, ("reward",), candidates, slots)


def shown(items: int, candidates: int, moment: int, seed: int = 1) -> Observation:
    """Return users with candidates drawn from a catalogue of so many items (0: none), some of them masked."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(max(items, candidates), generator=generator)[:candidates] for _ in range(USERS)])
    ids = torch.where(torch.rand(ids.shape, generator=generator) < 0.2, -1, ids)
    catalogue = Catalogue.of(3 * normal(items, FEATURES, seed=7) + 1) if items else None
    return Observation(normal(USERS, 2, seed=seed), ids, normal(USERS, candidates, moment, seed=seed + 1), catalogue)


def agent_for(observation: Observation, slots: int = 2, **settings: Any) -> Wolpertinger:
    """Return an agent that has seen the features and has an actor and a critic at random."""
    catalogue = observation.catalogue
    features = catalogue.features.shape[1] if catalogue is not None else 0
    spec = spec_of(features, observation.items.shape[2], observation.item_ids.shape[1], slots)
    agent = Wolpertinger(spec, seed=3, **(SMALL | settings))
    for network in (agent.critic.network, agent.actor.network):
        network.learn_scale(observation)
    return agent


KINDS = {"small catalogue": (ITEMS, 0), "large catalogue": (900, 0), "both": (ITEMS, MOMENT), "moment": (0, MOMENT)}


# Looking.


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_candidates_are_those_of_brute_force(kind: str) -> None:
    items, moment = KINDS[kind]
    observation = shown(items, 30, moment)
    agent = agent_for(observation, nearest=7)
    everything = torch.arange(30).expand(USERS, -1)
    points = agent.critic.network.space.at(observation, everything)
    distance = (points - agent.proto_action(observation).unsqueeze(1)).square().sum(2)
    nearest = torch.where(observation.mask, distance, torch.inf).argsort(1)[:, :7]
    assert torch.equal(agent.near(observation), nearest)
    assert torch.allclose(agent.explain(observation)["distance"], distance.sqrt(), atol=1e-5)


def test_the_space_is_standardised_once_and_the_actor_stays_within_it() -> None:
    observation = shown(ITEMS, ITEMS, 0)
    agent = agent_for(observation)
    space, catalogue = agent.critic.network.space, observation.catalogue
    assert catalogue is not None
    there = space.catalogue(catalogue.features)
    torch.testing.assert_close(there.mean(0), torch.zeros(FEATURES), rtol=0, atol=1e-5)
    torch.testing.assert_close(there.std(0, correction=0), torch.ones(FEATURES))
    grown = replace(observation, catalogue=Catalogue.of(torch.cat([catalogue.features, torch.full((5, FEATURES), 50)])))
    before = agent.product.vectors_version
    space.learn_scale(grown)
    assert torch.equal(space.catalogue(catalogue.features), there)
    assert agent.product.vectors_version == before
    far = torch.tensor([[-100.0, 100.0, 0.0]])
    expected = 2 * torch.stack([there[:, 0].min(), there[:, 1].max(), torch.tensor(0.0)])
    torch.testing.assert_close(space.within(far)[0], expected)


def test_a_search_in_parts_is_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = shown(ITEMS, 30, 0)
    agent = agent_for(observation, nearest=7)
    slate, value = agent.best(observation, agent.critic)
    monkeypatch.setattr("slatewise.agents.wolpertinger.DISTANCES_AT_ONCE", 60)  # two rows at once
    parts = agent.best(observation, agent.critic)
    assert torch.equal(parts[0], slate)
    torch.testing.assert_close(parts[1], value)


def everything(items: int = 500, rows: int = USERS) -> Observation:
    catalogue = Catalogue.of(normal(items, FEATURES, seed=7))
    ids = torch.arange(items).expand(rows, -1)
    return Observation(normal(rows, 2, seed=2), ids, torch.empty(rows, items, 0), catalogue)


def test_an_index_asked_with_the_proto_action_finds_the_nearest_of_the_catalogue() -> None:
    observation = everything()
    agent = agent_for(observation, nearest=16)
    retrieved = Retrieved(agent, candidates=16)
    near = agent.near(observation).sort(1).values
    assert torch.equal(retrieved.narrow(observation).item_ids, near)
    assert torch.equal(retrieved.act(observation, False).slate, agent.act(observation, False).slate)


def test_one_index_serves_while_the_agent_learns() -> None:
    env = sw.make("interest-evolution", users=16, seed=0, documents=300, candidates=300)
    agent, built = Wolpertinger(env.spec, seed=0, rollout_steps=2, **SMALL), list[int]()

    def index(vectors: Tensor) -> ExactIndex:
        built.append(agent.updates)
        return ExactIndex(vectors)

    retrieved = Retrieved(agent, candidates=20, index=index)
    for _ in range(12):
        agent.observe(retrieved.narrowed(env.step(retrieved.act(env.observation))))
        agent.update()
    assert agent.updates == 6
    assert built == [0, 1]  # before the features are known, and once they are
    more = Catalogue.of(torch.cat([env.observation.catalogue.features, torch.ones(1, 21)]))  # type: ignore[union-attr]
    ids, items = torch.arange(301).expand(16, -1), torch.empty(16, 301, 0)
    retrieved.act(replace(env.observation, item_ids=ids, items=items, catalogue=more))
    assert built == [0, 1, 6]


# The actor.


def test_the_slope_is_that_of_the_critic() -> None:
    observation = shown(ITEMS, 30, 0)
    critic = agent_for(observation).critic.network.double()
    users, points, step = normal(USERS, 8, seed=5).double(), normal(USERS, FEATURES, seed=6).double(), 1e-5
    value, slope = uphill(critic, users, points.clone())
    for i, way in enumerate(step * torch.eye(FEATURES, dtype=torch.float64)):
        up, down = (uphill(critic, users, points + sign * way)[0] for sign in (1, -1))
        torch.testing.assert_close((up - down) / (2 * step), slope[:, i], rtol=1e-5, atol=1e-8)
        assert bool((up != value).all())


def top(observation: Observation) -> Tensor:
    """Return where every user's best place is."""
    user = observation.user
    return torch.stack([user[:, 0].tanh(), user[:, 1].tanh(), user[:, 0].sin()], 1)


@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_the_actor_climbs_to_the_top_of_a_known_critic(pull: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A(s, x) = −|x − top(s)|²: by its gradient alone it finds the top, for users it has not seen too.

    Drawn by the best items that it has compared, it ends between them and the top.
    """
    observation = everything(rows=512)
    agent = agent_for(observation, learning_rate=0.01, epochs=5, hidden=32, pull=pull)
    monkeypatch.setattr(agent.critic.network, "users", lambda o: (top(o), o.user[:, 0]))
    monkeypatch.setattr(agent.critic.network, "advantages", lambda users, x: -(x - users.unsqueeze(1)).square().sum(2))
    promises = [agent.improve_actor(observation, 1.0) for _ in range(20)]
    assert promises[0] < -1
    new = replace(observation, user=normal(512, 2, seed=9))
    away = (agent.proto_action(new) - top(new)).square().sum(1).mean()
    assert float(away) < 0.05
    assert -promises[-1] < 0.05


def test_goals_are_the_best_of_what_is_near_and_of_some_at_random() -> None:
    observation = everything(items=60)
    agent = agent_for(observation, nearest=10, compared=20)
    critic = agent.critic.network
    users = critic.users(observation)[0]
    every = critic.advantages(users, critic.space.at(observation, torch.arange(60).expand(USERS, -1))).detach()
    places = critic.space.catalogue(observation.catalogue.features)  # type: ignore[union-attr]
    near = every.gather(1, agent.near(observation)).amax(1)
    for _ in range(20):
        goals, deviation = agent.goals(observation, users)
        chosen = (goals.unsqueeze(1) == places).all(2).byte().argmax(1)
        worth = every.gather(1, chosen.unsqueeze(1)).squeeze(1)
        assert bool((worth >= near - 1e-6).all())
        assert float(deviation) == pytest.approx(float(every.var(1).mean().sqrt()), rel=0.6)
    assert bool((worth > near).any())
    agent = agent_for(observation, nearest=10, compared=60)  # all of them: the best of all
    goals, deviation = agent.goals(observation, agent.critic.network.users(observation)[0])
    torch.testing.assert_close(goals, places[every.argmax(1)])
    assert float(deviation) == pytest.approx(float(every.var(1, correction=0).mean().sqrt()))


def test_a_slope_is_held_to_length_one() -> None:
    slopes = torch.tensor([[3.0, -4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(held(slopes), torch.tensor([[0.6, -0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_candidates_at_random_may_be_shown_and_come_up_alike() -> None:
    mask = torch.tensor([[True, False, True, True], [False, False, False, True], [False] * 4])
    drawn = some_candidates(mask, 3000, torch.Generator().manual_seed(0))
    assert (drawn[2] == -1).all()
    assert (drawn[1] == 3).all()
    counts = torch.bincount(drawn[0], minlength=4)
    assert counts[1] == 0
    assert bool(((counts[[0, 2, 3]] - 1000).abs() < 4 * (3000 * 2 / 9) ** 0.5).all())
    everyone = some_candidates(mask[:1, [0, 2, 3]], 3000, torch.Generator().manual_seed(0))
    assert bool(((torch.bincount(everyone[0]) - 1000).abs() < 4 * (3000 * 2 / 9) ** 0.5).all())


# What a slate is worth.


def test_the_slate_is_the_best_of_what_is_near_and_its_value_the_mean_over_its_items() -> None:
    observation = shown(ITEMS, 12, MOMENT)
    agent = agent_for(observation, slots=3, nearest=6)
    slate, value = agent.best(observation, agent.critic)
    near, critic = agent.near(observation), agent.critic
    critic.scale, critic.shift = torch.tensor(2.0), torch.tensor(5.0)
    for row in range(USERS):
        one = observation[row : row + 1]
        subsets = torch.tensor(list(combinations(near[row].tolist(), 3)))
        values = critic.network.at(one[torch.zeros(len(subsets), dtype=torch.int64)], subsets).squeeze(1)
        best = values.argmax()
        assert set(subsets[best].tolist()) == set(slate[row].tolist())
        torch.testing.assert_close(value[row], values[best].detach())
    torch.testing.assert_close(agent.best(observation, agent.critic)[1], 2 * value + 5)


def test_holes_count_for_nothing() -> None:
    observation = shown(ITEMS, 12, 0)
    critic = agent_for(observation, slots=3).critic.network
    slate = observation.mask.byte().argsort(dim=1, descending=True, stable=True)[:, :3]
    holed = torch.where(torch.tensor([False, True, False]), -1, slate)
    torch.testing.assert_close(critic.at(observation, holed), critic.at(observation, slate[:, [0, 2]]))
    value = critic.users(observation)[1]
    torch.testing.assert_close(critic.at(observation, torch.full_like(slate, -1)).squeeze(1), value)
    assert bool((critic.at(observation, slate) != critic.at(observation, holed)).all())


@pytest.mark.parametrize("nearest", [1, 32])
def test_fewer_candidates_than_the_slate_leave_holes_and_k_is_at_least_a_slate(nearest: int) -> None:
    observation = shown(ITEMS, 12, 0)
    ids = torch.where(torch.arange(12) < torch.arange(1, USERS + 1).unsqueeze(1), torch.arange(12), -1)
    observation = replace(observation, item_ids=ids)
    agent = agent_for(observation, slots=4, nearest=nearest)
    for explore in (False, True):
        decision = agent.act(observation, explore)
        decision.validate(observation)
        assert ((decision.slate >= 0).sum(1) == torch.arange(1, USERS + 1).clamp(max=4)).all()


def test_targets_are_lambda_returns_of_the_best_slate_cut_where_something_else_was_shown() -> None:
    env = sw.make("interest-evolution", users=6, seed=1, candidates=4)
    agent = Wolpertinger(env.spec, seed=0, rollout_steps=5, discount=0.9, trace=0.7, epsilon_start=0.5, **SMALL)
    steps = [env.step(agent.act(env.observation)) for _ in range(5)]
    rollout = Interactions.cat(steps)
    greedy = torch.stack([agent.act(each.observation, False).slate for each in steps])
    followed = (greedy == torch.stack([each.decision.slate for each in steps])).all(2)
    assert bool(followed.any())
    assert not bool(followed.all())
    following = torch.stack([agent.best(each.next_observation, agent.critic)[1] for each in steps]).double()  # type: ignore[arg-type]
    expected = following[-1]
    for t in range(4, -1, -1):
        ahead = expected if t < 4 else following[-1]
        trace = 0.7 * (followed[t + 1].double() if t < 4 else 1.0)
        ahead = (1 - trace) * following[t] + trace * ahead
        expected = steps[t].response.total_reward + 0.9 * torch.where(steps[t].terminated, 0.0, ahead)
        torch.testing.assert_close(agent.returns(rollout).view(5, 6)[t], expected)


# Learning.


@pytest.mark.parametrize("replay", [0, 2])
def test_truncation_does_not_end_the_future_and_exploration_does_not_lower_values(replay: int) -> None:
    env = Clock(users=64, candidates=2, slate_size=1)
    settings = {"epochs": 6, "learning_rate": 0.01, "epsilon_end": 0.5, "replay": replay, "replay_size": 4000}
    agent = Wolpertinger(env.spec, seed=0, discount=0.9, nearest=1, hidden=32, embedding=8, minibatches=2, **settings)
    sw.train(agent, env, 16_000, progress=False)
    slate, value = agent.best(env.observation, agent.critic)
    assert float(value.mean()) == pytest.approx(10, rel=0.05)  # five steps alone are worth 4.1
    assert slate.flatten().tolist() == [0] * 64  # the nearest item alone is looked at: the actor has learned where


def test_it_learns_where_to_look_among_many_items() -> None:
    """A contextual bandit of 500 items on a ring: what is nearest to the user's own place earns most."""
    angle = torch.arange(500) * 2 * torch.pi / 500
    catalogue = Catalogue.of(torch.stack([angle.cos(), angle.sin()], 1))
    agent = Wolpertinger(spec_of(2, 0, 500, 1), seed=0, nearest=5, discount=0, hidden=32, embedding=32)
    agent.plan(30_000)
    generator, ids = torch.Generator().manual_seed(0), torch.arange(500).expand(256, -1)

    def users() -> Observation:
        place = torch.rand(256, generator=generator) * 2 * torch.pi
        user = torch.stack([place.cos(), place.sin()], 1)
        return Observation(user, ids, torch.empty(256, 500, 0), catalogue)

    def earned(observation: Observation, slate: Tensor) -> Tensor:
        return (observation.user * catalogue.features[slate[:, 0]]).sum(1)

    false, true, numbers = torch.zeros(256, dtype=torch.bool), torch.ones(256, dtype=torch.bool), torch.arange(256)
    for t in range(30_000 // 256 + 1):
        observation = users()
        decision = agent.act(observation)
        reward = earned(observation, decision.slate).double()
        response = Response(true.unsqueeze(1), torch.zeros(256, 1, 1), reward.unsqueeze(1), 0 * reward, true)
        over = true, false, numbers + 256 * t, 0 * numbers
        agent.observe(Interactions(observation, decision, response, observation, *over))
        agent.update()
    fresh = users()
    assert float(earned(fresh, agent.act(fresh, explore=False).slate).mean()) > 0.95  # random: 0, the best: 1


def test_bad_input_is_named() -> None:
    env = sw.make("interest-evolution", users=4)
    agent, step = Wolpertinger(env.spec, **SMALL), env.step(env.rule("random").act(env.observation))
    with pytest.raises(sw.InputError, match="no next_observation"):
        agent.observe(replace(step, next_observation=None))
    unknown = replace(step.response, reward_known=torch.zeros(4, dtype=torch.bool))
    with pytest.raises(sw.InputError, match="needs every reward"):
        agent.observe(replace(step, response=unknown))
    priced = agent_for(shown(ITEMS, 12, MOMENT))
    with pytest.raises(sw.InputError, match="described by the catalogue alone"):
        priced.product.vectors(Catalogue.of(torch.zeros(5, FEATURES)))
