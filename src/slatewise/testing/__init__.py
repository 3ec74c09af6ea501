"""Contracts: what every world, agent and off-policy estimator must do, asked of any class, yours included.

from slatewise.testing import check_agent, check_environment, check_estimator

check_environment(MyWorld)  # raises ContractError at the first broken promise: which, the smallest example, a remedy
check_agent(MyAgent)
check_estimator(my_estimator)
"""

from slatewise.testing.agents import check_agent
from slatewise.testing.base import ContractError
from slatewise.testing.environments import check_environment
from slatewise.testing.estimators import check_estimator

__all__ = ["ContractError", "check_agent", "check_environment", "check_estimator"]
