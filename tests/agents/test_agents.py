"""What agents do besides the contract, which `tests/contract/test_every_agent.py` asks of every one of them."""

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.agents import AGENTS, make_agent
from slatewise.agents.base import Agent, FallingEpsilonSettings
from slatewise.choice import FirstPosition, InnerProduct, PositionBased
from slatewise.naming import find_policy


def world(users: int = 64, **settings: object) -> sw.Environment:
    return sw.make("interest-evolution", users=users, seed=3, candidates=4, **settings)


def trained(name: str, env: sw.Environment, **settings: object) -> Agent:
    agent = make_agent(name, env.spec, env.choice, seed=1, **settings)
    sw.train(agent, env, 3000, progress=False)
    return agent


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_explores_as_much_as_it_is_asked_to(name: str, tmp_path: Path) -> None:
    worlds = {"q-learning": ("maze", {}), "type-thompson": ("interest-exploration", {"candidates": 4, "horizon": 10})}
    made, settings = worlds.get(name, ("interest-evolution", {"candidates": 4, "reward": "clicks"}))
    env = sw.make(made, users=64, seed=3, **settings)
    own: dict[str, object] = (
        {"model": "disjoint"} if name == "logistic-thompson" else {}
    )  # its shared model is a large one here
    own |= {"imagined": 16, "longest": 4} if name == "model-planner" else {}
    trained(name, env, **own).save(tmp_path / "run")
    run = find_policy(str(tmp_path / "run"), env, explore_floor=0.5)
    slates = torch.tensor(list(permutations(range(4), env.spec.slate_size)))
    observation = env.observation[torch.zeros(len(slates), dtype=torch.int64)]
    assert float(run.propensity(observation, slates).prod(1).min()) >= 0.5 / len(slates)


def test_epsilon_falls_and_leaves_the_floor() -> None:
    settings = FallingEpsilonSettings(epsilon_start=0.8, epsilon_end=0.2, epsilon_fraction=0.5, planned_steps=1000)
    assert [settings.epsilon_at(steps, 0.0) for steps in (0, 250, 500, 900)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert settings.epsilon_at(900, 0.5) == pytest.approx(1 - 0.8 * 0.5)


def test_only_agents_with_schedules_have_a_length_of_the_run_and_older_files_are_still_read(tmp_path: Path) -> None:
    env, agent = world(), trained("linucb", world())
    assert "planned_steps" not in type(agent.settings).model_fields
    agent.save(tmp_path)
    path = tmp_path / "agent.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"settings": saved["settings"] | {"planned_steps": 3000}}))
    again = sw.load(tmp_path)
    assert again.settings == agent.settings
    assert torch.equal(again.act(env.observation).slate, agent.act(env.observation).slate)
    with pytest.raises(sw.InputError, match="unknown setting of linucb 'planned_steps'"):
        make_agent("linucb", env.spec, planned_steps=3000)


def test_a_run_of_an_agent_without_schedules_that_was_begun_before_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    env = world()
    sw.train(make_agent("linucb", env.spec), env, 640, run, progress=False)
    for path, key in ((run / "run.json", "agent_settings"), *((p, "settings") for p in run.rglob("agent.json"))):
        saved = json.loads(path.read_text())
        path.write_text(json.dumps(saved | {key: saved[key] | {"planned_steps": 640}}))
    env = world()
    assert sw.train(make_agent("linucb", env.spec), env, 640, run, resume=True, progress=False).steps == 640


def test_supervised_learns_the_same_from_rewards_that_are_missing_or_not_there() -> None:
    """A row without a reward leaves no trace, whatever stands in its place."""
    agents = []
    for filler in (float("nan"), 1e6):
        env, agent = world(), sw.Supervised(world().spec, seed=1, rollout_steps=2)
        for _ in range(6):
            interactions = env.step(agent.act(env.observation))
            interactions.response.reward_known[::3] = False
            interactions.response.reward[::3] = filler
            agent.observe(interactions)
            agent.update()
        agents.append(agent)
    assert all(torch.equal(value, agents[1].tensors()[key]) for key, value in agents[0].tensors().items())


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(sw.InputError, match=r"no saved agent \(agent\.json is missing\)"):
        sw.load(tmp_path)
    agent = sw.LinUCB(world().spec)
    agent.save(tmp_path / "a")
    weights = tmp_path / "a" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(sw.InputError, match=r"weights\.safetensors cannot be read"):
        sw.load(tmp_path / "a")
    text = (tmp_path / "a" / "agent.json").read_text()
    (tmp_path / "a" / "agent.json").write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(sw.InputError, match="format 9, this version reads up to 1: upgrade"):
        sw.load(tmp_path / "a")


OWN_WORLDS = {"q-learning": "maze", "type-thompson": "interest-exploration"}
OTHER_MODELS = [("linucb", "disjoint"), ("linucb", "hybrid"), ("lints", "disjoint"), ("lints", "hybrid")]


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in AGENTS), *((name, {"model": m}) for name, m in OTHER_MODELS)]
)
def test_of_no_rows_the_answer_has_none(name: str, settings: dict[str, Any]) -> None:
    env = sw.make(OWN_WORLDS.get(name, "interest-evolution"), users=3, seed=0)
    agent = make_agent(name, env.spec, env.choice, **settings)
    nobody = env.observation[torch.arange(0)]
    for explore in (True, False):
        decision = agent.act(nobody, explore)
        assert decision.slate.shape == decision.propensity.shape == (0, env.spec.slate_size)
        assert agent.propensity(nobody, decision.slate, explore).shape == decision.slate.shape
        assert agent.probabilities(nobody, explore).shape == nobody.item_ids.shape


BY_ITEM = {"epsilon-greedy", "softmax", "ucb1", "thompson-beta", "thompson-gaussian", "cascade-ucb", "position-ucb"}


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {}) for name in AGENTS if name not in {*BY_ITEM, *OWN_WORLDS}]
    + [(name, {"model": m}) for name, m in OTHER_MODELS],
)
def test_other_features_of_users_are_named(name: str, settings: dict[str, Any], explore: bool) -> None:
    env = world(4)
    agent = make_agent(name, env.spec, env.choice, **settings)
    for columns in (slice(5), [*range(23), 0]):
        other = replace(env.observation, user=env.observation.user[:, columns])
        with pytest.raises(sw.InputError, match=rf"the observation has {other.user.shape[1]} user.* was made for 23"):
            agent.act(other, explore)


FEATURELESS = BY_ITEM | {
    *("linucb", "lints", "squarecb", "explore-first", "bagging", "logistic-thompson", "neural-linear", "q-learning"),
}


@pytest.mark.parametrize("name", AGENTS)
def test_agents_that_tell_items_apart_by_features_refuse_items_without(name: str) -> None:
    env = sw.make("linear-bandit", users=4, seed=0, candidates=3)
    assert env.spec.item_features == 0
    choice = PositionBased(InnerProduct(1), (1.0,)) if name == "position-ucb" else FirstPosition()
    if name in FEATURELESS:
        make_agent(name, env.spec, choice).act(env.observation)
    else:
        words = "catalogue" if name == "type-thompson" else "tells items apart by their features, and here they have no"
        with pytest.raises(sw.InputError, match=words):
            make_agent(name, env.spec, choice)


def test_unknown_agents_and_settings_name_the_nearest() -> None:
    env = world()
    with pytest.raises(sw.InputError, match="unknown agent 'slatq': did you mean 'slateq'"):
        make_agent("slatq", env.spec)
    with pytest.raises(sw.InputError, match="unknown setting of slateq 'learning_rat': did you mean 'learning_rate'"):
        sw.SlateQ(env.spec, env.choice, learning_rat=1)
    with pytest.raises(sw.InputError, match=r"slateq: trace=2"):
        sw.SlateQ(env.spec, env.choice, trace=2)
