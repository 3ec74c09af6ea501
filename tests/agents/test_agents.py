"""What every agent must do, on a problem small enough to enumerate."""

import math
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor

import slatewise as sw
from slatewise.agents import AGENTS, make_agent
from slatewise.agents.base import Agent
from slatewise.interactions import Observation

CANDIDATES = 4
DRAWS = 20_000


def world(users: int = 64, **settings: object) -> sw.Environment:
    return sw.make("interest-evolution", users=users, seed=3, candidates=CANDIDATES, **settings)


def trained(name: str, env: sw.Environment, **settings: object) -> Agent:
    agent = make_agent(name, env.spec, env.choice, seed=1, explore_floor=0.2, **settings)
    sw.train(agent, env, 3000, progress=False)
    return agent


def repeated(observation: Observation, row: int, times: int) -> Observation:
    return observation[torch.full((times,), row)]


def all_slates() -> Tensor:
    return torch.tensor(list(permutations(range(CANDIDATES), 2)))


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("explore", [True, False])
def test_propensities_sum_to_one_and_are_the_frequencies_of_what_is_shown(name: str, explore: bool) -> None:
    env = world()
    agent = trained(name, env)
    slates = all_slates()
    probability = agent.propensity(repeated(env.observation, 0, len(slates)), slates, explore).prod(1)
    assert float(probability.sum()) == pytest.approx(1, abs=1e-9)
    decision = agent.act(repeated(env.observation, 0, DRAWS), explore)
    index = (decision.slate.unsqueeze(1) == slates).all(2).int().argmax(1)
    counted = torch.bincount(index, minlength=len(slates)).double() / DRAWS
    error = (probability * (1 - probability) / DRAWS).sqrt()
    assert bool(((counted - probability).abs() <= 4.5 * error + 1e-9).all())
    assert torch.allclose(decision.propensity.prod(1), probability[index])


@pytest.mark.parametrize("name", AGENTS)
def test_a_batch_is_its_rows_one_by_one(name: str) -> None:
    env = world()
    agent = trained(name, env)
    whole = agent.act(env.observation, explore=False).slate
    rows = torch.cat([agent.act(env.observation[i : i + 1], explore=False).slate for i in range(len(whole))])
    assert torch.equal(whole, rows)


@pytest.mark.parametrize("name", AGENTS)
def test_masked_candidates_are_never_shown_and_too_few_leave_holes(name: str) -> None:
    env = world()
    agent = trained(name, env)
    ids = env.observation.item_ids.clone()
    ids[:, 1:] = torch.where(torch.arange(1, CANDIDATES) == 3, ids[:, 1:], -1)
    ids[:10, 3] = -1
    observation = Observation(env.observation.user, ids, env.observation.items, env.observation.catalogue)
    decision = agent.act(repeated(observation, 20, 500))
    assert set(decision.slate.flatten().tolist()) == {0, 3}
    few = agent.act(observation[:10])
    assert few.slate.tolist() == [[0, -1]] * 10
    assert few.propensity.tolist() == [[1.0, 1.0]] * 10
    few.validate(observation[:10])


@pytest.mark.parametrize("name", AGENTS)
def test_saving_and_loading_changes_nothing(name: str, tmp_path: Path) -> None:
    env = world()
    agent = trained(name, env)
    agent.save(tmp_path / "agent")
    again = sw.load(tmp_path / "agent")
    assert type(again) is type(agent)
    assert again.settings == agent.settings
    mine, theirs = agent.act(env.observation), again.act(env.observation)
    assert torch.equal(mine.slate, theirs.slate)
    assert torch.equal(mine.propensity, theirs.propensity)
    assert not list(tmp_path.glob("**/*.p*k*l*"))


@pytest.mark.parametrize("name", AGENTS)
def test_a_seed_fixes_every_bit_whatever_else_draws(name: str) -> None:
    first = trained(name, world())
    torch.rand(17)
    second = trained(name, world())
    for key, value in first.tensors().items():
        assert torch.equal(value, second.tensors()[key]), key


@pytest.mark.parametrize("name", AGENTS)
def test_importance_weights_of_a_random_log_average_one(name: str) -> None:
    env = world(users=5000)
    agent = trained(name, world())
    decision = env.rule("random", seed=5).act(env.observation)
    weight = (agent.propensity(env.observation, decision.slate) / decision.propensity).prod(1)
    error = float(weight.std()) / math.sqrt(len(weight))
    assert abs(float(weight.mean()) - 1) < 4.5 * error


@pytest.mark.parametrize("name", AGENTS)
def test_history_and_item_features_reach_the_agent(name: str) -> None:
    env = world(history=2, observe="quality")
    agent = trained(name, env)
    assert agent.act(env.observation).slate.shape == (64, 2)


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


def test_unknown_agents_and_settings_name_the_nearest() -> None:
    env = world()
    with pytest.raises(sw.InputError, match="unknown agent 'slatq': did you mean 'slateq'"):
        make_agent("slatq", env.spec)
    with pytest.raises(sw.InputError, match="unknown setting of slateq 'learning_rat': did you mean 'learning_rate'"):
        sw.SlateQ(env.spec, env.choice, learning_rat=1)
    with pytest.raises(sw.InputError, match=r"slateq: trace=2"):
        sw.SlateQ(env.spec, env.choice, trace=2)
