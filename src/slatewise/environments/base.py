"""What all worlds share: seeds, slate validation, sessions, restart, truncation, references, snapshots.

A world is one file: settings, state as arrays over users, and four functions over all users at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from slatewise.checks import check_slate, usable_device
from slatewise.choice import Choice
from slatewise.errors import InputError, check_seed, unknown_name
from slatewise.history import interaction_features, push, summary_increment
from slatewise.interactions import Decision, Interactions, Observation, Response, Spec
from slatewise.noise import Noise, SessionNoise, StepNoise
from slatewise.plain import NumPy
from slatewise.policies import Random, Rule
from slatewise.settings import Settings

State = dict[str, Tensor]
SlateRule = Callable[[Observation, int], Tensor]


class WorldSettings(Settings):
    """Settings that every world has."""

    candidates: int = Field(10, ge=1, le=100_000, description="candidates offered to the policy at every step")
    slate_size: int = Field(2, ge=1, le=100, description="items shown at a time")
    resample: Literal["step", "session"] = Field("step", description="draw candidates every step, or keep a session's")
    history: int = Field(0, ge=0, le=1000, description="interactions remembered in the observation")


@dataclass(frozen=True)
class Reference:
    """A known mean return per session. kind: `rule`, or of a ceiling `exact` or `planner` (a lower bound)."""

    mean: float
    standard_error: float
    kind: Literal["rule", "exact", "planner"] = "rule"


@dataclass(frozen=True)
class References:
    """Mean returns that give a result its scale: rules without learning (random among them), the ceiling if known."""

    rules: Mapping[str, Reference]
    ceiling: Reference | None = None

    def share(self, mean: float) -> float | None:
        """Return the share of the possible gain, (mean − random) / (ceiling − random); None without a ceiling.

        It may pass 1 where the ceiling is a planner's.
        """
        if self.ceiling is None:
            return None
        random = self.rules["random"].mean
        return (mean - random) / (self.ceiling.mean - random)

    def best_rule(self) -> str:
        """Return the name of the best rule without learning."""
        return max(self.rules, key=lambda name: self.rules[name].mean)


class Environment(ABC):
    """Simulated users, all stepped at once; who finishes restarts by themselves in the same step.

    As Gymnasium's same-step autoreset: `interactions.next_observation` is the last observation of a session that
    ended, `env.observation` the first of the next. users: B.  seed: fixes every bit, with the number of users.
    Raises InputError for settings that do not exist or do not fit.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    summary_text: ClassVar[str]
    Settings: ClassVar[type[WorldSettings]]

    spec: Spec
    choice: Choice | None = None
    horizon: int | None = None  # truncates a session after so many steps

    def __init__(self, users: int = 1024, seed: int = 0, device: str | torch.device = "cpu", **settings: Any) -> None:
        if users < 1:
            raise InputError(f"users={users}: at least one user is needed")
        check_seed(seed)
        values = self.Settings.of(self.name, settings)
        if values.slate_size > values.candidates:
            raise InputError(
                f"slate_size={values.slate_size} is more than candidates={values.candidates}: show at most all of them"
            )
        self.users = users
        self.seed = seed
        self.device = usable_device(device)
        self.build(values)
        self.reset(seed)

    # What a world defines.

    @property
    @abstractmethod
    def settings(self) -> WorldSettings:
        """The settings this world was made with."""

    @abstractmethod
    def build(self, settings: Any) -> None:
        """Take the settings; set `spec`, and `choice` and `horizon` where the world has them."""

    @abstractmethod
    def begin(self, noise: Noise) -> State:
        """Return the state of new users, one row each."""

    @abstractmethod
    def sample_candidates(self, noise: Noise) -> State:
        """Return candidates for users, arrays [n, C]; they are replaced, never changed in place."""

    @abstractmethod
    def observe(self) -> Observation:
        """Show the users and candidates, without what is hidden, sharing no memory with the state."""

    @abstractmethod
    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Respond to slates and change the state; return the response and who is finished, bool [B]."""

    @property
    def rules(self) -> dict[str, SlateRule]:
        """Rules without learning: functions of the observation and the slate size."""
        return {}

    def chances(self, slate: Tensor) -> Tensor:  # noqa: ARG002 - for worlds that know
        """Return the probability that each shown item is consumed, then none: float64 [B, K + 1], of a valid slate."""
        raise InputError(f"{self.name} does not say how its users choose: define `chances` to use choice_probabilities")

    def expectation(self, slate: Tensor) -> Tensor:  # noqa: ARG002
        """Return the expected reward of the next step, float64 [B], of a valid slate."""
        raise InputError(f"{self.name} does not know its expected reward: define `expectation` to use expected_reward")

    def hidden(self) -> dict[str, Tensor]:
        """Return what the user feels and the agent does not see, by name, [B] each: for pictures of a session."""
        return {}

    @property
    def references(self) -> References | None:
        """Known returns for these settings, or None."""
        return None

    # What users call.

    @property
    def full_name(self) -> str:
        """Name and version, for instance `interest-evolution-v1`."""
        return f"{self.name}-v{self.version}"

    def reset(self, seed: int | None = None) -> Observation:
        """Start every session anew and return the first observation; with a seed, from the beginning of it."""
        if seed is not None:
            self.seed = seed
            self._generator = torch.Generator(self.device).manual_seed(seed)
            self._rows = torch.arange(self.users, device=self.device)
            self._episode = self._rows
        else:
            self._episode = self._episode + self.users
        self._noise = StepNoise(self._generator, self.users)
        self._elapsed = torch.zeros(self.users, dtype=torch.int64, device=self.device)
        session_noise = SessionNoise(self.seed, self._rows, self._session)
        self.state = self.begin(session_noise)
        fresh = self.settings.resample == "step"
        self.candidates = self.sample_candidates(self._noise if fresh else session_noise)
        self.totals = torch.zeros(self.users, len(self.spec.summary), device=self.device)
        shape = (self.users, self.settings.history, self.spec.history_features)
        self._history = torch.zeros(shape, device=self.device) if self.settings.history else None
        self.observation = self._observe()
        return self.observation

    def step(self, decision: Decision | Tensor) -> Interactions:
        """Show slates (a decision, or bare slates int64 [B, K] taken as certain) and return what came of them.

        Raises InputError for an invalid slate before anything changes.
        """
        decision = self._checked(decision)
        before = self.observation
        response, terminated = self.advance(decision.slate, self._noise)
        step, self._elapsed = self._elapsed, self._elapsed + 1
        if self.horizon is None:
            truncated, done = torch.zeros_like(terminated), terminated
        else:
            late = self._elapsed >= self.horizon
            truncated, done = late & ~terminated, late | terminated
        self._remember(before, decision, response)
        if self.settings.resample == "step":
            self.candidates = self.sample_candidates(self._noise)
        after = self._observe()
        interactions = Interactions(before, decision, response, after, terminated, truncated, self._episode, step)
        self.observation = after
        rows = done.nonzero()
        if rows.numel():
            self._restart(rows.squeeze(1))
            self.observation = self._observe()
        return interactions

    def choice_probabilities(self, slate: Tensor) -> Tensor:
        """Return the true probability that each item of a slate is consumed, then that none is: float64 [B, K + 1].

        Of the present users, what is hidden included.  slate: int64 [B, K], checked as in `step`; nothing changes.
        """
        return self.chances(self._checked(slate).slate)

    def expected_reward(self, slate: Tensor) -> Tensor:
        """Return the true expected reward of showing a slate now, float64 [B]; as `choice_probabilities`."""
        return self.expectation(self._checked(slate).slate)

    def rule(self, name: str, seed: int = 0, explore_floor: float = 0.0) -> Random | Rule:
        """Return a rule of this world, or `random`, as a policy. Raises InputError for an unknown name."""
        if name == "random":
            return Random(self.spec.slate_size, seed, self.device)
        if name not in self.rules:
            raise unknown_name(f"rule of {self.name}", name, ["random", *self.rules])
        return Rule(name, self.rules[name], self.spec.slate_size, seed, explore_floor, self.device)

    def snapshot(self) -> dict[str, Tensor]:
        """Return everything that the future depends on, as named tensors; `restore` continues from it to the bit."""
        snapshot = {f"state.{key}": value for key, value in self.state.items()}
        snapshot |= {f"candidates.{key}": value for key, value in self.candidates.items()}
        snapshot |= {"elapsed": self._elapsed, "session": self._session, "totals": self.totals}
        snapshot |= {} if self._history is None else {"history": self._history}
        snapshot |= {"generator": self._generator.get_state(), "seed": torch.tensor(self.seed)}
        return {key: value.clone().contiguous() for key, value in snapshot.items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> Observation:
        """Continue from a snapshot of a world with the same settings and users; return the observation."""
        mine = {key: tuple(value.shape) for key, value in self.snapshot().items()}
        theirs = {key: tuple(value.shape) for key, value in snapshot.items()}
        if mine != theirs:
            different = sorted(set(mine.items()) ^ set(theirs.items()))[0][0]
            if different == "generator":
                raise InputError(
                    f"this snapshot was taken on another kind of device than {self.device.type}, whose random numbers "
                    "are others: make the world on that device"
                )
            raise InputError(f"snapshot does not fit this world ({different} differs): use the same settings and users")
        own = {key: value.clone().to(self.device) for key, value in snapshot.items() if key != "generator"}
        self.state = {key: own[f"state.{key}"] for key in self.state}
        self.candidates = {key: own[f"candidates.{key}"] for key in self.candidates}
        self._elapsed, self.totals = own["elapsed"], own["totals"]
        self._episode = own["session"] * self.users + self._rows
        self._history = own.get("history")
        self._generator.set_state(snapshot["generator"])
        self.seed = int(own["seed"])
        self.observation = self._observe()
        return self.observation

    @property
    def elapsed(self) -> Tensor:
        """Steps taken in the present session, int64 [B]."""
        return self._elapsed

    @property
    def _session(self) -> Tensor:
        """Which session of its user each is, from 0, int64 [B]; `_episode` numbers those of all users."""
        return (self._episode - self._rows) // self.users

    def _checked(self, decision: Decision | Tensor) -> Decision:
        if isinstance(decision, Tensor):
            decision = Decision(decision, torch.ones_like(decision, dtype=torch.float64))
        slate = decision.slate
        check_slate(slate, self.observation.item_ids, holes=False)
        if slate.shape[1] != self.spec.slate_size:
            raise InputError(f"slate shows {slate.shape[1]} items, this world's slate_size is {self.spec.slate_size}")
        if decision.propensity.shape != slate.shape:
            raise InputError(f"propensity is {list(decision.propensity.shape)}, the slate is {list(slate.shape)}")
        return decision

    def _remember(self, observation: Observation, decision: Decision, response: Response) -> None:
        if self.spec.summary:
            self.totals = self.totals + summary_increment(self.spec.summary, self.spec.signals, response)
        if self._history is not None:
            self._history = push(self._history, interaction_features(observation, decision, response))

    def _observe(self) -> Observation:
        observation = self.observe()
        return observation if self._history is None else replace(observation, history=self._history)

    def _restart(self, rows: Tensor) -> None:
        """Replace finished users by new ones; nobody else is touched."""
        self._episode = self._episode.index_add(0, rows, torch.full_like(rows, self.users))
        self._elapsed = self._elapsed.index_fill(0, rows, 0)
        noise = SessionNoise(self.seed, rows, self._session[rows])
        for key, value in self.begin(noise).items():
            self.state[key] = self.state[key].index_copy(0, rows, value)
        if self.settings.resample == "session":
            for key, value in self.sample_candidates(noise).items():
                self.candidates[key] = self.candidates[key].index_copy(0, rows, value)
        self.totals = self.totals.index_fill(0, rows, 0)
        if self._history is not None:
            self._history = self._history.index_fill(0, rows, 0)


def check_observe(world: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raise InputError for an `observe` key that the world lacks."""
    for key in chosen:
        if key not in known:
            raise unknown_name(f"observe key of {world}", key, known)
        if chosen.count(key) > 1:
            raise InputError(f"observe={','.join(chosen)} names {key} twice: name each column once")


def response_of(clicked: Tensor, signals: Tensor, reward: Tensor) -> Response:
    """Complete a response in which every reward is known and belongs to a slot."""
    nothing, known = reward.new_zeros(len(reward)), clicked.new_ones(len(clicked))
    return Response(clicked, signals, reward, nothing, known)


def plain_response(clicked: NumPy, signals: NumPy, reward: NumPy) -> Response:
    """`response_of` for NumPy arrays."""
    nothing, known, of = np.zeros(len(clicked)), ~np.zeros(len(clicked), bool), torch.from_numpy
    return Response(of(clicked), of(signals), of(reward), of(nothing), of(known))
