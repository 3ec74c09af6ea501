"""Contracts: what every world and every agent must do, asked of any class, yours included.

from slatewise.testing import check_agent, check_environment

check_environment(MyWorld)  # raises ContractError at the first broken promise: which, the smallest example, a remedy
check_agent(MyAgent)
"""

from slatewise.testing.agents import check_agent
from slatewise.testing.base import ContractError
from slatewise.testing.environments import check_environment

__all__ = ["ContractError", "check_agent", "check_environment"]
