"""Agents by name. A new agent adds its file and one line here."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch

from slatewise.agents.base import Agent, read_description
from slatewise.choice import Choice
from slatewise.errors import unknown_name
from slatewise.interactions import Spec
from slatewise.registry import is_path, load_class

CHECKPOINTS, LATEST = "checkpoints", "latest"  # of a run's folder: checkpoints, and the name of the newest
AGENTS = {
    "supervised": "supervised:Supervised",
    "epsilon-greedy": "counting:EpsilonGreedy",
    "softmax": "counting:SoftmaxBandit",
    "ucb1": "counting:UCB1",
    "thompson-beta": "counting:ThompsonBeta",
    "thompson-gaussian": "counting:ThompsonGaussian",
    "linucb": "linucb:LinUCB",
    "lints": "linucb:LinTS",
    "squarecb": "exploring:SquareCB",
    "explore-first": "exploring:ExploreFirst",
    "bagging": "bagging:Bagging",
    "logistic-thompson": "logistic:LogisticThompson",
    "neural-linear": "neural_linear:NeuralLinear",
    "cascade-ucb": "lists:CascadeUCB",
    "position-ucb": "lists:PositionUCB",
    "slateq": "slateq:SlateQ",
    "deep-q": "deep_q:DeepQ",
    "wolpertinger": "wolpertinger:Wolpertinger",
    "ppo": "ppo:PPO",
    "reinforce": "reinforce:Reinforce",
    "evolution-strategies": "evolution_strategies:EvolutionStrategies",
    "q-learning": "q_learning:QLearning",
    "type-thompson": "type_thompson:TypeThompson",
    "model-planner": "model_planner:ModelPlanner",
}


def is_agent(name: str) -> bool:
    """Whether a name means an agent: one of the table, or `module:Class`."""
    return name in AGENTS or is_path(name)


def agent_class(name: str) -> type[Agent]:
    """Return the class of an agent, by name or, for one of your own, by `module:Class`.

    Raises InputError for an unknown name, with the nearest known one, or a class that is not there or no agent.
    """
    if is_path(name):
        return load_class(name, Agent, "agent")
    if name not in AGENTS:
        raise unknown_name("agent", name, AGENTS)
    module, cls = AGENTS[name].split(":")
    return cast(type[Agent], getattr(import_module(f"{__name__}.{module}"), cls))


def make_agent(
    name: str,
    spec: Spec,
    choice: Choice | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> Agent:
    """Make an agent by name. Raises InputError for an unknown name or setting, or a value that does not fit."""
    return agent_class(name)(spec, choice, seed, device, **settings)


def load(folder: str | Path, device: str | torch.device = "cpu") -> Agent:
    """Load an agent from a folder that `agent.save` wrote, or the newest checkpoint of a run's folder.

    Raises InputError where there is none, or it cannot be read.
    """
    folder = Path(folder)
    folder = latest_checkpoint(folder) or folder
    return agent_class(str(read_description(folder)["agent"])).load(folder, device)


def latest_checkpoint(run: Path) -> Path | None:
    """Return the folder of a run's newest whole checkpoint, or None."""
    latest = run / LATEST
    name = latest.read_text(encoding="utf-8", errors="replace").strip() if latest.is_file() else ""
    return run / CHECKPOINTS / name if re.fullmatch(r"\d+", name) else None
