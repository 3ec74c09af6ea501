"""Learning from a log: what others decided, and what came of it."""

from slatewise.agents import AGENTS, agent_class
from slatewise.agents.base import Agent
from slatewise.errors import InputError
from slatewise.logs import Log
from slatewise.naming import check_features, check_schema
from slatewise.progress import Bar


def learn(agent: Agent, log: Log, progress: bool = True) -> None:
    """Let an agent learn from a log, which is read once, block by block.

    For agents whose statistics do not depend on who decided, the bandits and model-planner, and for reinforce, which
    corrects for who decided by the propensities. Schedules end with the log. The agent keeps the schema of the log's
    features, so that requests are encoded alike, and remembers the log, so that a verdict on the same decisions can
    warn.
    Raises InputError for an agent that needs fresh data of its own, or learned from other features, or propensities
    that it needs and the log does not know.
    """
    if not agent.learns_from_logs:
        able = ", ".join(name for name in AGENTS if agent_class(name).learns_from_logs)
        raise InputError(
            f"{agent.name} learns from what it decides itself: train it in a world (--env), or take one that learns "
            f"from logs: {able}"
        )
    check_features(agent, log.spec, agent.name)
    check_schema(agent, log.features, agent.name)
    if agent.needs_propensities and log.propensities["kind"] == "unknown":
        raise InputError(
            f"{agent.name} weighs decisions by how likely they were, and this log does not know (propensities: "
            "unknown): estimate the propensities when you import it (propensities = 'estimate'), or take a bandit"
        )
    agent.plan(agent.steps + max(1, len(log)))
    with Bar(f"{agent.name} learns", len(log), progress) as bar:
        done = 0
        for block in log.blocks():
            agent.learn_from(block.to(agent.device))
            done += len(block)
            bar.update(done)
    agent.update()
    agent.features = log.features or agent.features
    agent.logs = (*agent.logs, log.digest)
