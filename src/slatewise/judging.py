"""Off-policy evaluation by name: opens a log, finds the policies that names mean for it, and judges them."""

from pathlib import Path

from slatewise import off_policy
from slatewise.agents import is_agent, load
from slatewise.environments import make
from slatewise.errors import InputError
from slatewise.interactions import Policy
from slatewise.logs import Log, log_rule
from slatewise.naming import check_features, find_policy, is_trained
from slatewise.off_policy import Result


def judge(path: str | Path, names: list[str], explore: bool = False, baseline: str = "logged", seed: int = 0) -> Result:
    """Judge policies on a log: rules of the world or importer that it names, `random`, or runs.

    Raises InputError for an unknown name, a run trained on other features, or a log that cannot be judged on.
    """
    log = Log(path)
    if len(set(names)) != len(names):
        raise InputError(f"policies {', '.join(names)}: name each one once")
    compared = [baseline] if baseline != "logged" and baseline not in names else []
    policies = {name: policy_for(log, name, seed) for name in [*names, *compared]}
    return off_policy.evaluate(log, policies, explore=explore, baseline=baseline, seed=seed)


def policy_for(log: Log, name: str, seed: int = 0) -> Policy:
    """Return the policy that a name means for a log."""
    if is_trained(name):
        agent = load(name)
        check_features(agent, log.spec, name)
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
