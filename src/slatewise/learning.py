"""Learning from a log: what others decided, and what came of it."""

from slatewise.agents import AGENTS, agent_class
from slatewise.agents.base import Agent
from slatewise.errors import InputError
from slatewise.logs import Log
from slatewise.naming import check_features, check_schema
from slatewise.progress import Bar


def learn(agent: Agent, log: Log, progress: bool = True) -> None:
    """Let an agent learn from a log, in one pass over its decisions.

    For agents whose statistics do not depend on who decided, nor on what was learned before: the bandits. The agent
    keeps the schema of the log's features, so that requests are encoded alike, and remembers the log, so that a verdict
    on the same decisions can warn.
    Raises InputError for an agent that needs fresh data of its own, or learned from other features.
    """
    if not agent.learns_from_logs:
        able = ", ".join(name for name in AGENTS if agent_class(name).learns_from_logs)
        raise InputError(
            f"{agent.name} learns from what it decides itself: train it in a world (--env), or take one that learns "
            f"from logs: {able}"
        )
    check_features(agent, log.spec, agent.name)
    check_schema(agent, log.features, agent.name)
    with Bar(f"{agent.name} learns", len(log), progress) as bar:
        done = 0
        for block in log.blocks():
            agent.observe(block)
            done += len(block)
            bar.update(done)
    agent.update()
    agent.features = log.features or agent.features
    agent.logs = (*agent.logs, log.digest)
