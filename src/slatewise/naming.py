"""From a name to a policy: a rule of the world, `random`, an untrained agent, or a trained run."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

from slatewise.agents import AGENTS, is_agent, load, make_agent
from slatewise.agents.base import Agent
from slatewise.environments.base import Environment
from slatewise.errors import NO_RUN, InputError, unknown_name
from slatewise.features import FeatureSchema
from slatewise.interactions import Policy, Spec
from slatewise.policies import Rule, policy_generator


def find_policy(
    name: str,
    env: Environment,
    seed: int = 0,
    explore_floor: float = 0.0,
    settings: dict[str, Any] | None = None,
    explore: bool = False,
) -> Policy:
    """Return the policy that `name` means in a world: a run's folder, a rule, or an agent that has learned nothing.

    A run acts greedily, but for `explore_floor`; `explore`: as in training, with that floor if it is given.
    settings: of an untrained agent.  Raises InputError for an unknown name, with the nearest known one, or a run
    that was trained on other features.
    """
    if is_trained(name):
        agent = load(name, env.device)
        check_features(agent, env.spec, name)
        agent.slate_size = env.spec.slate_size
        agent.generator = policy_generator(seed, env.device)
        if not explore:
            return Rule(
                name, lambda o, _: agent.greedy(o, explore=False), agent.slate_size, seed, explore_floor, env.device
            )
        agent.explore_floor = explore_floor or agent.explore_floor
        return agent
    if is_agent(name):
        floor = {"explore_floor": explore_floor} if explore_floor else {}
        return agent_for(name, env, seed, **floor, **(settings or {}))
    if name != "random" and name not in env.rules:
        raise unknown_name("policy", name, ["random", *env.rules, *AGENTS], NO_RUN) from None
    return env.rule(name, seed, explore_floor)


def agent_for(name: str, env: Environment, seed: int = 0, **settings: Any) -> Agent:
    """Make an untrained agent for a world, with its choice model unless the agent is told to learn one itself."""
    choice = env.choice if settings.get("fit_choice", "none") == "none" else None
    return make_agent(name, env.spec, choice, seed, env.device, **settings)


def is_trained(name: str) -> bool:
    """Whether a name is a folder that holds a trained agent."""
    return any((Path(name) / file).is_file() for file in ("latest", "agent.json"))


def check_features(agent: Agent, spec: Spec, name: str) -> None:
    """Raise InputError unless an agent was trained on the features that a source of observations shows."""
    for key in ("user", "catalogue", "items", "history"):
        had, shown = getattr(agent.spec, key), getattr(spec, key)
        if had != shown:
            raise InputError(
                f"{name} was trained with {_difference(key, had, shown)}: use the settings it was trained with"
            )


def check_schema(agent: Agent, features: FeatureSchema | None, name: str) -> None:
    """Raise InputError, naming the column, where a log's features were made otherwise than an agent's."""
    if agent.features is None or features is None or agent.features == features:
        return
    for group in ("user", "catalogue", "items"):
        had, shown = getattr(agent.features, group).columns, getattr(features, group).columns
        for mine, other in zip_longest(had, shown):
            if mine != other:
                column = (mine or other).column
                raise InputError(
                    f"{name} learned with another {group} column {column!r} than this log has (another table was "
                    "fitted to): import the log with the features of the one it learned from (--like LOG)"
                )


def _difference(key: str, had: Any, shown: Any) -> str:
    """Say what was there in training, what is here, and which names differ."""
    if not isinstance(had, tuple):
        return f"{key} {had}, here it is {shown}"
    missing = _short([name for name in had if name not in shown])
    new = _short([name for name in shown if name not in had])
    parts = [f"missing: {missing}"] * bool(missing) + [f"new: {new}"] * bool(new)
    return f"{len(had)} {key} features, here they are {len(shown)} ({'; '.join(parts) or 'in another order'})"


def _short(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
