"""Off-policy evaluation by name: opens a log, finds the policies that names mean for it, and judges them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slatewise import off_policy
from slatewise.agents import is_agent, load
from slatewise.agents.base import Agent
from slatewise.environments import make
from slatewise.errors import InputError
from slatewise.interactions import Policy
from slatewise.logs import Log, log_rule
from slatewise.naming import check_features, check_schema, find_policy, is_trained
from slatewise.off_policy import ItemGroups, Result


def judge(
    path: str | Path,
    names: list[str],
    explore: bool = False,
    baseline: str = "logged",
    seed: int = 0,
    estimators: Sequence[str] | str | None = None,
    interval: str = "normal",
    reward_model: Any = "ridge",
    reward_range: tuple[float, float] | None = None,
    smallest_propensity: float | None = None,
    groups: str | None = None,
    logging_policy: str = "random",
    reward: str | None = None,
) -> Result:
    """Judge policies on a log: rules of the world or importer that it names, `random`, or runs.

    reward: what is earned, as `Log` takes it: a signal or a weighted sum, by default what was logged.
    groups: the beginning of names of catalogue columns; items alike in them form a group, for MIPS, which needs the
    name of the logging_policy too.
    Raises InputError for an unknown name, a run trained on other features, or a log that cannot be judged on.
    """
    if len(set(names)) != len(names):
        raise InputError(f"policies {', '.join(names)}: name each one once")
    compared = [baseline] if baseline != "logged" and baseline not in names else []
    agents = {name: load(name) for name in [*names, *compared] if is_trained(name)}
    log = Log(path, reward, remembered(agents))
    policies = {name: policy_for(log, name, seed, agents.get(name)) for name in [*names, *compared]}
    return off_policy.evaluate(
        log,
        policies,
        explore=explore,
        baseline=baseline,
        seed=seed,
        estimators=estimators,
        interval=interval,
        reward_model=reward_model,
        reward_range=reward_range,
        smallest_propensity=smallest_propensity,
        groups=None if groups is None else item_groups(log, groups, policy_for(log, logging_policy, seed)),
    )


def remembered(agents: Mapping[str, Agent]) -> int | None:
    """Return how many interactions agents of runs remember: a log is read with histories as long.

    None without agents. Raises InputError, with the names of their runs, where they remember different numbers.
    """
    lengths = {name: agent.spec.history for name, agent in agents.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"runs that remember different numbers of interactions ({told}): judge each on its own")
    return next(iter(lengths.values()), None)


def item_groups(log: Log, columns: str, policy: Policy) -> ItemGroups:
    """Return the groups of items that are alike in all catalogue columns whose name begins so."""
    at = [i for i, name in enumerate(log.spec.catalogue) if name.startswith(columns)]
    if not at or log.catalogue is None:
        known = ", ".join(log.spec.catalogue) or "none, so there is nothing to group by"
        raise InputError(f"groups {columns!r}: no column of the catalogue begins so; its columns are {known}")
    return ItemGroups(policy, log.catalogue.features[:, at].unique(dim=0, return_inverse=True)[1])


def policy_for(log: Log, name: str, seed: int = 0, agent: Agent | None = None) -> Policy:
    """Return the policy that a name means for a log; agent: of the run of that name, where it is loaded already."""
    if agent is not None or is_trained(name):
        agent = agent or load(name)
        check_features(agent, log.spec, name)
        check_schema(agent, log.features, name)
        agent.slate_size = log.spec.slate_size
        return agent
    if log.source.get("kind") == "simulation":
        world, settings = log.source.get("world"), log.source.get("settings")
        if not isinstance(world, str) or not isinstance(settings, dict):
            raise InputError(f"{log.path} does not say which world it comes from: it is damaged, or judge a run on it")
        if is_agent(name):
            raise InputError(f"policy {name!r} has learned nothing yet: train it, and give the run's folder")
        return find_policy(name, make(world, users=1, **settings), seed)
    return log_rule(log, name, seed)
