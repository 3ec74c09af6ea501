"""Every world and every agent works on a device, on one that is pretended: `pretended_device` says what that shows.

What happens on it is what happens on the CPU, to the bit, and all of it stays there. A new world or agent is covered by
being in its table. No run on a GPU stands behind these tests.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_every_agent import CASES as AGENTS_ASKED
from test_every_agent import settings_of
from test_every_world import CASES as WORLDS_ASKED
from torch import Tensor

import slatewise as sw
from on_both import check_same
from pretended_device import PretendedDevice, pretended_device
from slatewise.agents import agent_class
from slatewise.environments import world
from slatewise.errors import InputError
from slatewise.policies import candidate_probabilities

USERS = 6  # few: on the CPU they are taken row by row, where that is a form of its own
QUICK = {
    "rollout_steps": 4,
    "epochs": 1,
    "minibatches": 2,
    "first_steps": 30,
    "imagined": 4,
}  # of agents that have them


@pytest.fixture(autouse=True)
def device() -> Iterator[PretendedDevice]:
    with pretended_device() as found:
        yield found


# Worlds.


def walk(name: str, settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Return all that a world does under its rules, restarts and a snapshot included."""
    env = world(name)(users=USERS, seed=1, device=where, **settings)
    found: dict[str, Any] = {"spoken of": spoken_of(env)}
    for rule in ["random", *env.rules]:
        policy = env.rule(rule, seed=2, explore_floor=0.3)
        for step in range(3):
            found[f"{rule} {step}"] = env.step(policy.act(env.observation))
        found[f"{rule} propensity"] = policy.propensity(env.observation, policy.act(env.observation).slate)
    snapshot = env.snapshot()
    found["snapshot"] = {key: value for key, value in snapshot.items() if key not in ("generator", "seed")}
    slate = torch.arange(env.spec.slate_size, device=where).expand(USERS, -1)
    found |= {"next": env.step(slate), "restored": env.restore(snapshot), "next again": env.step(slate)}
    found["anew"] = env.reset()
    if env.observation.catalogue is not None:
        found["catalogue"] = env.observation.catalogue.features
    return found


def spoken_of(env: sw.Environment) -> dict[str, Any]:
    """Return what a world says of its users."""
    slate = torch.arange(env.spec.slate_size, device=env.device).expand(env.users, -1)
    said: dict[str, Any] = {"hidden": env.hidden()}
    for what in (env.choice_probabilities, env.expected_reward):
        with suppress(InputError):  # not every world knows
            said[what.__name__] = what(slate)
    if env.choice is not None:
        said["scores"] = env.choice.scores(env.observation)
    return said


@pytest.mark.parametrize(("name", "settings"), WORLDS_ASKED, ids=str)
def test_a_world_is_the_same_on_a_device(name: str, settings: dict[str, Any]) -> None:
    if "horizon" in world(name).Settings.model_fields:
        settings = {"horizon": 7} | settings
    check_same(lambda where: walk(name, settings, where))


# Agents.


def make_agent(
    name: str, of: tuple[str, dict[str, Any]], where: str, users: int = USERS
) -> tuple[sw.Agent, sw.Environment]:
    settings, own = settings_of(name, of)
    env = sw.make(of[0], users=users, seed=3, device=where, **settings)
    made = agent_class(name)
    own |= {key: value for key, value in QUICK.items() if key in made.Settings.model_fields}
    agent = made(env.spec, env.choice, 1, where, **own)
    agent.plan(2000)
    return agent, env


def live(agent: sw.Agent, env: sw.Environment, updates: int) -> dict[str, Any]:
    """Let an agent learn; return what it was told."""
    found: dict[str, Any] = {}
    while agent.updates < updates and len(found) < 25:
        found[str(len(found))] = interactions = env.step(agent.act(env.observation))
        agent.observe(interactions)
        agent.update()
    return found


def decisions(agent: sw.Agent, observation: sw.Observation) -> dict[str, Any]:
    """Return what an agent decides for all users, for one, and where a candidate is missing, and what it says of it."""
    ids = observation.item_ids
    missing = replace(observation, item_ids=torch.where(torch.arange(ids.shape[1], device=ids.device) == 1, -1, ids))
    found: dict[str, Any] = {}
    for shown, what in ((observation, "many"), (observation[:1], "one"), (missing, "missing")):
        for explore in (True, False):
            decision = agent.act(shown, explore)
            found[f"{what} {explore}"] = {
                "decision": decision,
                "propensity": agent.propensity(shown, decision.slate, explore),
                "probabilities": candidate_probabilities(agent, shown, explore),
            }
        found[f"{what} explained"] = agent.explain(shown)
    return found


def kept_up(agent: Any, of: tuple[str, dict[str, Any]], where: str) -> dict[str, Any]:
    """Merge, warm-start and forget, where the agent can, with items named on the CPU as programs name them."""
    if not hasattr(agent, "merge"):
        return {}
    other, env = make_agent(agent.name, of, where)
    other.observe(env.step(env.rule("random", seed=5).act(env.observation)))
    agent.merge(other)
    found = {"merged": agent.tensors()}
    items = env.observation.item_ids[0, :1].cpu()
    with suppress(InputError):  # a model of all items together has nothing of one
        agent.warm_start(1000, items)
        agent.forget_items(items)
    return found | {"kept up": agent.tensors()}


def is_counter(key: str, value: Tensor) -> bool:
    """What agents may keep on the host: numbers that the program counts with, and optimisers their steps."""
    return (not value.is_floating_point() and value.numel() <= 2) or key.endswith(".step")


@pytest.mark.parametrize(("name", "problem", "of"), AGENTS_ASKED, ids=[f"{n}-{p}" for n, p, _ in AGENTS_ASKED])
def test_an_agent_is_the_same_on_a_device(
    name: str, problem: str, of: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    def run(where: str) -> dict[str, Any]:
        agent, env = make_agent(name, of, where)
        found: dict[str, Any] = {"new": decisions(agent, env.observation), "told": live(agent, env, 2)}
        found |= {"learned": agent.tensors(), "decided": decisions(agent, env.observation)}
        found["kept up"] = kept_up(agent, of, where)
        agent.save(tmp_path / where)
        again = sw.load(tmp_path / where, where)
        return found | {"loaded": again.tensors(), "decided again": decisions(again, env.observation)}

    check_same(run, is_counter, last_bit=False)

    def moved(where: str) -> dict[str, Any]:
        agent, env = sw.load(tmp_path / {"cpu": "cuda", "cuda": "cpu"}[where], where), make_agent(name, of, where)[1]
        agent.act(env.observation)  # draws anew: the generators are of two kinds
        return {"learned": agent.tensors(), "decided": agent.act(env.observation, explore=False)}

    check_same(moved, is_counter, last_bit=False)


# How often the host waits.


def reads_of(agent: sw.Agent, env: sw.Environment, device: PretendedDevice) -> int:
    """Return how often one step of a training loop reads from the device."""
    before = device.reads
    agent.observe(env.step(agent.act(env.observation)))
    return device.reads - before


@pytest.mark.parametrize(("name", "problem", "of"), AGENTS_ASKED, ids=[f"{n}-{p}" for n, p, _ in AGENTS_ASKED])
def test_the_host_does_not_wait_once_a_user(
    name: str, problem: str, of: tuple[str, dict[str, Any]], device: PretendedDevice
) -> None:
    few, many = (reads_of(*make_agent(name, of, "cuda", users), device) for users in (USERS, 10 * USERS))
    assert many <= 2 * few  # a loop over users would read ten times as often; exact slates iterate a little longer
