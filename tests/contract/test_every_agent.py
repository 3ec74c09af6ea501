"""Every agent keeps every promise, on problems of several kinds. A new agent is covered by being in the table."""

from functools import partial
from typing import Any

import pytest

import slatewise as sw
from slatewise.agents import AGENTS, agent_class
from slatewise.testing import check_agent

PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "items and catalogue": ("interest-evolution", {"candidates": 4, "slate_size": 2, "observe": "quality"}),
    "history, slates of three": (
        "interest-evolution",
        {"candidates": 4, "slate_size": 3, "history": 2, "choice": "logit", "summary": False},
    ),
    "no catalogue, one slot": ("long-term-satisfaction", {"candidates": 5, "slate_size": 1, "horizon": 9}),
}
# Agents that are for worlds of one kind, and refuse others.
OWN: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "q-learning": {
        "a maze": ("maze", {}),
        "a maze, remembered": ("maze", {"layout": "corridor", "history": 2}),
    },
    "type-thompson": {
        "slates of two": ("interest-exploration", {"candidates": 4, "horizon": 10, "variant": "split"}),
        "one slot, history": (
            "interest-exploration",
            {"candidates": 4, "slate_size": 1, "horizon": 10, "history": 2},
        ),
    },
}
# What agents for rewards of 0 and 1 are asked in: the same, with such a reward.
BINARY = {"thompson-beta", "logistic-thompson", "cascade-ucb", "position-ucb"}
REWARDS = {"interest-evolution": "clicks", "long-term-satisfaction": "satisfaction_rose"}
# Agents whose default is a model of user × item, 528 features in the first two problems: there a model an item is
# asked, which is as good a test of how they explore. The shared one is asked in the third, and of LinUCB everywhere.
LARGE = {"lints", "squarecb", "explore-first", "bagging", "logistic-thompson"}
# A planner's plan, made small.
SMALL = {"first_steps": 256, "newest": 256, "imagined": 16, "longest": 4}
# In the third problem everything shown is clicked, so that for counters of clicks all items are equal.
UNASKED = {("cascade-ucb", "no catalogue, one slot"), ("position-ucb", "no catalogue, one slot")}
CASES = [
    (name, *problem)
    for name in AGENTS
    for problem in OWN.get(name, PROBLEMS).items()
    if (name, problem[0]) not in UNASKED
]


def settings_of(name: str, world: tuple[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the world in which an agent is asked, and of the agent."""
    world_name, settings = world
    if name in BINARY:
        settings = settings | {"reward": REWARDS[world_name]}
    own: dict[str, Any] = {"model": "disjoint"} if name in LARGE and world_name == "interest-evolution" else {}
    if "history" in settings and "encoder" in agent_class(name).Settings.model_fields:
        own = {"encoder": "gru"}
    if name == "model-planner":  # with many features a fit to clicks takes long: it is asked in the other problems
        own = SMALL | ({"users": "given"} if "observe" in settings else {})
    return settings, own


@pytest.mark.parametrize(("name", "problem", "world"), CASES, ids=[f"{name}-{problem}" for name, problem, _ in CASES])
def test_an_agent_keeps_its_promises(name: str, problem: str, world: tuple[str, dict[str, Any]]) -> None:
    settings, own = settings_of(name, world)
    answers = check_agent(
        partial(agent_class(name), **own), lambda users, seed: sw.make(world[0], users=users, seed=seed, **settings)
    )
    assert set(answers.values()) == {"kept"}


def test_settings_are_given_by_a_function() -> None:
    def cautious(spec: sw.Spec, choice: Any, seed: int) -> sw.Agent:
        return sw.Supervised(spec, choice, seed, explore_floor=0.2, rollout_steps=4)

    assert set(check_agent(cautious).values()) == {"kept"}


def test_a_world_with_too_many_slates_is_refused() -> None:
    with pytest.raises(sw.InputError, match="the world has 9900 ordered slates: give one with 2 to 3000"):
        check_agent(
            sw.LinUCB, lambda users, seed: sw.make("interest-evolution", users=users, seed=seed, candidates=100)
        )
