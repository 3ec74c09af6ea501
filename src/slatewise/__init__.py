"""slatewise: reinforcement learning for recommender systems, from contextual bandits to SlateQ.

import slatewise as sw

env = sw.make("interest-evolution", users=256, seed=0)
agent = sw.SlateQ(env.spec, choice=env.choice, seed=0)
sw.train(agent, env, steps=1_000_000)
print(sw.evaluate(agent, sw.make("interest-evolution", users=2000, seed=1)))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slatewise import gym as gym
    from slatewise import logs as logs
    from slatewise import off_policy as off_policy
    from slatewise import testing as testing
    from slatewise.agents import load as load
    from slatewise.agents import make_agent as make_agent
    from slatewise.agents.base import Agent as Agent
    from slatewise.agents.deep_q import DeepQ as DeepQ
    from slatewise.agents.evolution_strategies import EvolutionStrategies as EvolutionStrategies
    from slatewise.agents.linucb import LinUCB as LinUCB
    from slatewise.agents.ppo import PPO as PPO
    from slatewise.agents.q_learning import QLearning as QLearning
    from slatewise.agents.reinforce import Reinforce as Reinforce
    from slatewise.agents.slateq import SlateQ as SlateQ
    from slatewise.agents.supervised import Supervised as Supervised
    from slatewise.agents.type_thompson import TypeThompson as TypeThompson
    from slatewise.agents.wolpertinger import Wolpertinger as Wolpertinger
    from slatewise.constrained import Constrained as Constrained
    from slatewise.constraints import Constraints as Constraints
    from slatewise.environments import make as make
    from slatewise.environments.base import Environment as Environment
    from slatewise.errors import InputError as InputError
    from slatewise.evaluation import Evaluation as Evaluation
    from slatewise.evaluation import evaluate as evaluate
    from slatewise.features import FeatureSchema as FeatureSchema
    from slatewise.interactions import Catalogue as Catalogue
    from slatewise.interactions import Decision as Decision
    from slatewise.interactions import Interactions as Interactions
    from slatewise.interactions import Observation as Observation
    from slatewise.interactions import Policy as Policy
    from slatewise.interactions import Response as Response
    from slatewise.interactions import Spec as Spec
    from slatewise.learning import learn as learn
    from slatewise.logs import Log as Log
    from slatewise.logs import LogWriter as LogWriter
    from slatewise.policies import Random as Random
    from slatewise.policies import Rule as Rule
    from slatewise.training import Training as Training
    from slatewise.training import train as train

__version__ = "0.1.0"

# Where each public name lives; loaded when first used, so that importing slatewise loads no torch.
_HOMES = {
    "Agent": "agents.base",
    "Catalogue": "interactions",
    "Constrained": "constrained",
    "Constraints": "constraints",
    "Decision": "interactions",
    "DeepQ": "agents.deep_q",
    "Environment": "environments.base",
    "Evaluation": "evaluation",
    "EvolutionStrategies": "agents.evolution_strategies",
    "FeatureSchema": "features",
    "InputError": "errors",
    "Interactions": "interactions",
    "LinUCB": "agents.linucb",
    "Log": "logs",
    "LogWriter": "logs",
    "Observation": "interactions",
    "PPO": "agents.ppo",
    "Policy": "interactions",
    "QLearning": "agents.q_learning",
    "Random": "policies",
    "Reinforce": "agents.reinforce",
    "Response": "interactions",
    "Rule": "policies",
    "SlateQ": "agents.slateq",
    "Spec": "interactions",
    "Supervised": "agents.supervised",
    "Training": "training",
    "TypeThompson": "agents.type_thompson",
    "Wolpertinger": "agents.wolpertinger",
    "evaluate": "evaluation",
    "learn": "learning",
    "load": "agents",
    "make": "environments",
    "make_agent": "agents",
    "train": "training",
}
_MODULES = ("gym", "logs", "off_policy", "testing")

__all__ = [
    "PPO",
    "Agent",
    "Catalogue",
    "Constrained",
    "Constraints",
    "Decision",
    "DeepQ",
    "Environment",
    "Evaluation",
    "EvolutionStrategies",
    "FeatureSchema",
    "InputError",
    "Interactions",
    "LinUCB",
    "Log",
    "LogWriter",
    "Observation",
    "Policy",
    "QLearning",
    "Random",
    "Reinforce",
    "Response",
    "Rule",
    "SlateQ",
    "Spec",
    "Supervised",
    "Training",
    "TypeThompson",
    "Wolpertinger",
    "__version__",
    "evaluate",
    "gym",
    "learn",
    "load",
    "logs",
    "make",
    "make_agent",
    "off_policy",
    "testing",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
