"""Simulated worlds by name. A new world adds its file and one line here."""

import re
from importlib import import_module
from typing import Any, cast

import torch

from slatewise.environments.base import Environment
from slatewise.errors import unknown_name
from slatewise.registry import is_path, load_class

WORLDS = {
    "long-term-satisfaction-v1": "long_term_satisfaction:LongTermSatisfaction",
    "interest-evolution-v1": "interest_evolution:InterestEvolution",
    "feed-v1": "feed:Feed",
    "interest-exploration-v1": "interest_exploration:InterestExploration",
    "maze-v1": "maze:MazeWorld",
    "linear-bandit-v1": "linear_bandit:LinearBanditWorld",
    "logistic-bandit-v1": "linear_bandit:LogisticBanditWorld",
    "wheel-bandit-v1": "wheel_bandit:WheelBandit",
    "many-armed-bandit-v1": "many_armed_bandit:ManyArmedBandit",
    "classification-bandit-v1": "classification_bandit:ClassificationBandit",
}


def names() -> list[str]:
    """Return the names of all worlds, without version: each means its newest."""
    return sorted({re.sub(r"-v\d+$", "", name) for name in WORLDS})


def world(name: str) -> type[Environment]:
    """Return the class of a world, by name or, for one of your own, by `module:Class`.

    Raises InputError for an unknown name, with the nearest known one, or a class that is not there or no world.
    """
    if is_path(name):
        return load_class(name, Environment, "environment")
    versions = [full for full in WORLDS if full == name or re.sub(r"-v\d+$", "", full) == name]
    if not versions:
        raise unknown_name("environment", name, names())
    module, cls = WORLDS[max(versions, key=lambda full: int(full.rsplit("-v", 1)[1]))].split(":")
    return cast(type[Environment], getattr(import_module(f"{__name__}.{module}"), cls))


def make(
    name: str, users: int = 1024, seed: int = 0, device: str | torch.device = "cpu", **settings: Any
) -> Environment:
    """Make a world by name, for instance `make("interest-evolution", users=1024, choice="logit")`.

    A world of your own goes by `module:Class`.
    users: B.  seed: fixes every bit, with the number of users.  settings: of the world, see `slatewise envs NAME`.
    Raises InputError for an unknown name or setting, or a value that does not fit.
    """
    return world(name)(users=users, seed=seed, device=device, **settings)
