"""What all agents share: exploration, settings, saving and loading."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from slatewise import choice as choices
from slatewise.agents.replay import Rollout
from slatewise.choice import Choice
from slatewise.documents import read_document
from slatewise.errors import InputError, unknown_name
from slatewise.features import FeatureSchema
from slatewise.interactions import Interactions, Spec
from slatewise.networks import Encoder, Regression, TowerRegression
from slatewise.policies import GreedyPolicy, continue_generator
from slatewise.registry import registered_name
from slatewise.settings import Settings

FORMAT = 1


@dataclass(frozen=True)
class Preset:
    """Settings that go together, and for how many user-steps they are meant."""

    about: str
    steps: int
    settings: Mapping[str, Any]


class AgentSettings(Settings):
    """Settings that every agent has."""

    explore_floor: float = Field(0.0, ge=0, le=1, description="probability of a uniform slate, whatever else explores")


class ScheduledSettings(AgentSettings):
    """Settings of agents with schedules that end with the run."""

    planned_steps: int = Field(
        1_000_000, ge=1, description="user-steps over which schedules run; the training loop fills it in"
    )

    def rate_at(self, steps: float) -> float:
        """Return the share of the learning rate that is left after so many user-steps."""
        return min(1.0, max(0.0, 1 - steps / self.planned_steps))


class NetworkSettings(ScheduledSettings):
    """Settings of agents that fit two-tower networks to rollouts of parallel users."""

    rollout_steps: int = Field(16, ge=1, description="steps of all users between updates")
    epochs: int = Field(2, ge=1, description="passes over a rollout")
    minibatches: int = Field(4, ge=1, description="gradient steps a pass")
    learning_rate: float = Field(1.5e-3, gt=0, description="at the start; falls to 0 over the planned steps")
    hidden: int = Field(128, ge=1, description="width of the hidden layers")
    embedding: int = Field(64, ge=1, description="size of the user and item embeddings")
    encoder: Encoder = Field(
        "flat", description="how the history is read: flat, all its features, or gru, a recurrent network over it"
    )


class FallingEpsilonSettings(NetworkSettings):
    """Settings of those that explore with a falling ε."""

    epsilon_start: float = Field(1.0, ge=0, le=1, description="probability of a random slate at the start")
    epsilon_end: float = Field(0.03, ge=0, le=1, description="probability of a random slate after the fall")
    epsilon_fraction: float = Field(1.0, gt=0, le=1, description="share of the planned steps over which it falls")

    def epsilon_at(self, steps: int, floor: float) -> float:
        """Return the probability of a uniform slate after so many user-steps, the agent's `explore_floor` included."""
        fallen = min(1.0, steps / (self.epsilon_fraction * self.planned_steps))
        epsilon = self.epsilon_start + fallen * (self.epsilon_end - self.epsilon_start)
        return 1 - (1 - epsilon) * (1 - floor)


class Agent(GreedyPolicy, ABC):
    """A policy that learns from interactions.

    spec: sizes and names, from `env.spec` or `log.spec`.  choice: the users' choice model, for agents that plan
    with one.  seed: fixes initial weights and exploration.
    features: the schema that makes features of columns where the agent learned from such a log, saved with it, so that
    requests are encoded alike.  logs: digests of the logs it learned from.
    """

    name: ClassVar[str]
    summary_text: ClassVar[str]
    Settings: ClassVar[type[AgentSettings]]
    presets: ClassVar[Mapping[str, Preset]] = {}
    learns_from_logs: ClassVar[bool] = False  # whoever decided, in any order: what `slatewise.learn` needs
    needs_propensities: ClassVar[bool] = False  # of a log that it learns from
    needs_item_features: ClassVar[bool] = False  # it tells items apart by them, and by nothing else

    def __init__(
        self,
        spec: Spec,
        choice: Choice | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        **settings: Any,
    ) -> None:
        values = self.Settings.of(self.name, settings)
        if self.needs_item_features and not spec.item_features:
            raise InputError(
                f"{self.name} tells items apart by their features, and here they have none: give the catalogue "
                "features, or take an agent that knows items by name, such as linucb or ucb1"
            )
        if choice is not None and not hasattr(choice, "scores"):
            raise InputError(
                f"choice={choice!r:.60} is no choice model: pass an object of slatewise.choice, such as env.choice or "
                "fitting.fit(…).choice, or leave it out"
            )
        super().__init__(spec.slate_size, seed, values.explore_floor, device)
        self.spec = spec
        self.choice: Choice | None = choice
        self.seed = seed
        self.steps = 0
        self.updates = 0
        self.features: FeatureSchema | None = None
        self.logs: tuple[str, ...] = ()
        self.build(values)

    @classmethod
    def preset(cls, name: str) -> Preset:
        """Return a preset by name. Raises InputError, naming those there are, for an unknown one."""
        if not cls.presets:
            raise InputError(f"preset={name!r}: {cls.name} has no presets, its defaults are the ones to begin with")
        if name not in cls.presets:
            raise unknown_name(f"preset of {cls.name}", name, cls.presets)
        return cls.presets[name]

    @property
    @abstractmethod
    def settings(self) -> AgentSettings:
        """The settings this agent was made with."""

    @abstractmethod
    def build(self, settings: Any) -> None:
        """Take the settings and make what learns."""

    def plan(self, steps: int) -> None:
        """Take the length of the run, in user-steps, where schedules end with it."""

    @abstractmethod
    def observe(self, interactions: Interactions) -> None:
        """Remember interactions, or take them into sufficient statistics."""

    def learn_from(self, block: Interactions) -> None:
        """Learn from a block of a log, sessions in order: for agents that learn from logs."""
        self.observe(block)

    @abstractmethod
    def update(self) -> dict[str, float] | None:
        """Improve; return metrics, or None until there is enough to learn from."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name; what `load_tensors` takes."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""

    def memory_tensors(self) -> dict[str, Tensor]:
        """Return what is remembered to be learned from again, by name: a run goes on with it, serving needs none."""
        return {}

    def load_memory_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `memory_tensors` gave."""

    def save(self, folder: str | Path) -> None:
        """Write the agent into a folder, without its memory: `agent.json` and `weights.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors() | {"generator": self.generator.get_state()}
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, folder / WEIGHTS)
        description = {
            "format": FORMAT,
            "agent": registered_name(type(self), self.name),
            "settings": self.settings.model_dump(mode="json"),
            "spec": asdict(self.spec),
            "choice": choices.to_json(self.choice) if self.choice is not None else None,
            "seed": self.seed,
            "steps": self.steps,
            "updates": self.updates,
            "features": self.features.to_json() if self.features is not None else None,
            "logs": list(self.logs),
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Load an agent of this class from a folder that `save` wrote. Raises InputError if that is not possible.

        On the kind of device that it was saved on it goes on to the bit; on another its exploration draws anew.
        """
        folder = Path(folder)
        saved = read_description(folder)
        mine = registered_name(cls, cls.name)
        if saved["agent"] != mine:
            raise InputError(f"{folder} holds a {saved['agent']} agent, not {mine}: use slatewise.load(folder)")
        try:
            tensors = load_file(folder / WEIGHTS, device=str(device))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{folder / WEIGHTS} cannot be read ({error}): copy or train the agent again") from None
        try:
            choice = choices.from_json(saved["choice"]) if saved["choice"] else None
            settings = dict(saved["settings"])
            if "planned_steps" not in cls.Settings.model_fields:
                settings.pop("planned_steps", None)  # agents without schedules had it too, and saved it
            agent = cls(Spec.from_json(saved["spec"]), choice, saved["seed"], device, **settings)
            continue_generator(agent.generator, tensors.pop("generator"))
            agent.load_tensors(tensors)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder}: {DESCRIPTION} and {WEIGHTS} do not fit ({reason}): copy both again") from None
        agent.steps, agent.updates = saved["steps"], saved["updates"]
        agent.logs = tuple(str(digest) for digest in saved.get("logs", ()))
        agent.features = FeatureSchema.from_json(saved["features"]) if saved.get("features") else None
        return agent


class NetworkAgent(Agent, ABC):
    """An agent that fits a network to rollouts of parallel users, and explores with a falling ε."""

    needs_item_features = True

    def build(self, settings: Any) -> None:
        """Take the settings and make the network and the memory."""
        self._settings = s = cast(FallingEpsilonSettings, settings)
        self.regression = self.make_regression(s)
        self.memory = Rollout(s.rollout_steps)

    def make_regression(self, settings: Any) -> Regression[Any]:
        """Return the network and its optimiser: two towers, unless an agent has another one."""
        s = cast(NetworkSettings, settings)
        return TowerRegression(self.spec, s.hidden, s.embedding, s.learning_rate, self.seed, self.device, s.encoder)

    @property
    def settings(self) -> FallingEpsilonSettings:
        """The settings this agent was made with."""
        return self._settings

    def plan(self, steps: int) -> None:
        """Take the length of the run that schedules end with, in user-steps."""
        self._settings = self._settings.model_copy(update={"planned_steps": steps})

    def epsilon(self) -> float:
        """Return the probability of a uniform slate when exploring, at the present step."""
        return self._settings.epsilon_at(self.steps, self.explore_floor)

    @abstractmethod
    def lessons(self, rollout: Interactions) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the network is fitted to: positions as its `at` takes them, targets and weights, [T · B, P]."""

    def observe(self, interactions: Interactions) -> None:
        """Remember one vector step."""
        self.memory.add(interactions)
        self.steps += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Learn from a full rollout; return `loss`, `value`, `epsilon`, `learning_rate`, or None before it is full."""
        return self.learn(self.memory.take()) if self.memory.full() else None

    def learn(self, rollout: Interactions) -> dict[str, float]:
        """Fit the network to a rollout. Raises InputError where the loss is not finite, before anything is saved."""
        s = self._settings
        positions, targets, weights = self.lessons(rollout)
        self.regression.network.learn_scale(rollout.observation)
        rate = s.rate_at(self.steps - len(rollout))
        loss = self.regression.fit(
            rollout.observation, positions, targets, weights, s.epochs, s.minibatches, rate, self.generator
        )
        check_loss(self, loss)
        self.updates += 1
        value = float((targets * weights).sum() / weights.sum().clamp(min=1))
        return {"loss": loss, "value": value, "epsilon": self.epsilon(), "learning_rate": rate * s.learning_rate}

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        return self.regression.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.regression.load_tensors(tensors)

    def memory_tensors(self) -> dict[str, Tensor]:
        """Return what replay remembers, by name."""
        return self.memory.tensors()

    def load_memory_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `memory_tensors` gave."""
        self.memory.load_tensors(tensors)


def check_loss(agent: Agent, loss: float) -> None:
    """Raise InputError, naming the step, unless the loss of an agent with a learning rate is finite."""
    if not math.isfinite(loss):
        rate = cast(Any, agent.settings).learning_rate
        raise InputError(
            f"{agent.name} diverged: the loss is {loss} after {agent.steps} steps; a run's last checkpoint is from "
            f"before that, begin again with a learning_rate below {rate:g}"
        )


DESCRIPTION = "agent.json"
WEIGHTS = "weights.safetensors"


def read_description(folder: Path) -> dict[str, Any]:
    """Read `agent.json`. Raises InputError where it is missing, damaged or from the future."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InputError(f"{folder} holds no saved agent ({DESCRIPTION} is missing)")
    return read_document(path, FORMAT, ("agent", "settings", "spec", "choice", "seed", "steps", "updates"))


def check_single_clicks(name: str, interactions: Interactions) -> None:
    """Raise InputError, naming agents that can, where an agent of single choices meets users who click several items.

    name: of the agent.
    """
    several = interactions.response.clicked.sum(1) > 1
    if bool(several.any()):
        raise InputError(
            f"{name} is for users who take at most one item of a slate, and {int(several.sum())} of these "
            f"{len(several)} slates were clicked several times: take reinforce or ppo, which need no choice model, or "
            "a bandit such as linucb"
        )
