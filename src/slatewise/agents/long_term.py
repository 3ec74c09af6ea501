"""What agents that learn the value of slates over whole sessions share: targets, replay, an older network.

λ-returns over parallel users, cut where the agent did not do what it thinks best (Watkins's Q(λ), Sutton & Barto 2018,
section 12.10); a memory of segments; a target network (Mnih et al. 2015) and its double form (van Hasselt et al. 2016,
arXiv 1509.06461); prioritised replay (Schaul et al. 2016, arXiv 1511.05952).
"""

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.agents.base import FallingEpsilonSettings, NetworkAgent
from slatewise.agents.replay import PrioritisedReplay, Replay, check_rewards
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation
from slatewise.networks import Regression
from slatewise.returns import StepValues, lambda_returns


class LongTermSettings(FallingEpsilonSettings):
    """Settings of agents that learn the value of slates over whole sessions."""

    discount: float = Field(1.0, ge=0, le=1, description="γ: what a reward one step later is worth; 0 is myopic")
    trace: float = Field(0.95, ge=0, le=1, description="λ: how far returns reach before the network's value takes over")
    step_values: bool = Field(
        False,
        description="what a session is worth at each of its steps is learned apart, and the network what is left over",
    )
    replay: int = Field(
        0, ge=0, description="remembered segments learned from for each new one; 0 learns from the newest rollout alone"
    )
    replay_size: int = Field(250_000, ge=1, description="user-steps that replay remembers")
    prioritised: float = Field(
        0.0, ge=0, le=1, description="α: how much more often segments are drawn whose values were wrong; 0 draws evenly"
    )
    target_every: int = Field(
        1, ge=1, description="updates between copies of the network that values what comes next; 1 has no such copy"
    )
    double: bool = Field(
        False, description="the network chooses the slate that comes next, and its older copy (target_every) values it"
    )

    @model_validator(mode="after")
    def _double_needs_a_copy(self) -> "LongTermSettings":
        if self.double and self.target_every == 1:
            raise ValueError(
                "double=true with target_every=1: one network chooses the best slate and an older copy values it, so "
                "give target_every above 1"
            )
        return self

    @model_validator(mode="after")
    def _priorities_need_a_memory(self) -> "LongTermSettings":
        if self.prioritised and not self.replay:
            raise ValueError(
                f"prioritised={self.prioritised:g} with replay=0: it says which remembered segments are drawn, so give "
                "replay, the number of them for each new one"
            )
        return self


class LongTermAgent(NetworkAgent, ABC):
    """An agent that fits a network to returns of whole sessions, the values of what comes next its own."""

    def build(self, settings: Any) -> None:
        """Take the settings and make the network, its older copy and the memory."""
        super().build(settings)
        s = cast(LongTermSettings, settings)
        if s.replay:
            memory = s.rollout_steps, s.replay_size, s.replay, self.generator
            self.memory = PrioritisedReplay(*memory, s.prioritised) if s.prioritised else Replay(*memory)
        self.target = deepcopy(self.regression) if s.target_every > 1 else self.regression
        self.step_values = StepValues(self.device) if s.step_values else None

    @property
    def settings(self) -> LongTermSettings:
        """The settings this agent was made with."""
        return cast(LongTermSettings, self._settings)

    @abstractmethod
    def best(self, observation: Observation, network: Regression[Any]) -> tuple[Tensor, Tensor]:
        """Return the slate that comes next in training, by a network, [B, K], and its value [B]."""

    def value_of(self, observation: Observation, slate: Tensor, network: Regression[Any]) -> Tensor:
        """Return the value of slates [B], as a network has it: of one that values items, say here how they add up."""
        return network.predict_at(observation, slate).squeeze(1)

    def observe(self, interactions: Interactions) -> None:
        """Remember one vector step. Raises InputError where what comes next or a reward is missing."""
        if interactions.next_observation is None:
            raise InputError(
                f"{self.name} learns from what comes next, and these interactions have no next_observation"
            )
        check_rewards(interactions, self.name)
        super().observe(interactions)

    def update(self) -> dict[str, float] | None:
        """Learn from a full rollout, and with `replay` from remembered segments; metrics as all networks have them."""
        if isinstance(self.memory, PrioritisedReplay):
            self.memory.anneal(1 - self.settings.rate_at(self.steps))
        return super().update()

    def weighed(self, observation: Observation, positions: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        """Return the weights of what is learned, all [T · B, 1]: `counts`, corrected for what was drawn more often.

        What prioritised replay draws next follows from how wrong the network is before it learns.
        """
        if not isinstance(self.memory, PrioritisedReplay):
            return counts
        errors = (targets - self.regression.predict_at(observation, positions)).abs() * counts
        summed, counted = (part.view(self.memory.steps, -1).sum(0) for part in (errors, counts))
        self.memory.learned(summed / counted.clamp(min=1))
        return counts * self.memory.weights.float().repeat(self.memory.steps).unsqueeze(1)

    def renew_target(self) -> None:
        """Copy the network, where it is time; the scale of targets is that of the network, always."""
        self.target.shift, self.target.scale = self.regression.shift, self.regression.scale
        if self.target is not self.regression and self.updates % self.settings.target_every == 0:
            self.target.network.load_state_dict(self.regression.network.state_dict())

    def returns(self, rollout: Interactions) -> Tensor:
        """Return λ-returns [T · B] of the rollout, bootstrapped with the value of the slate that comes next.

        A return is followed only while that slate was shown. At another, one of exploration, the value of the slate
        takes its place, so exploration does not lower the values that it explores.
        With `step_values` they are learned here, and what returns have over them is returned.
        """
        returns = self._returns(rollout)
        if self.step_values is None:
            return returns
        self.step_values.learn(rollout.step, returns)
        return returns - self.step_values.at(rollout.step)

    def _returns(self, rollout: Interactions) -> Tensor:
        steps, s = self.memory.steps, self.settings
        shown = rollout.decision.slate.view(steps, -1, self.slate_size)
        following, value = self.following(rollout)
        if self.step_values is not None:
            value = value + self.step_values.at(rollout.step + 1)
        followed = self.same(following.view(shown.shape)[:-1], shown[1:])
        trace = s.trace * torch.cat([followed, followed.new_ones(1, followed.shape[1])]).double()
        parts = rollout.response.total_reward, value.double(), rollout.terminated, rollout.truncated
        reward, value, terminated, truncated = (part.view(steps, -1) for part in parts)
        return lambda_returns(reward, value, terminated, truncated, s.discount, trace).flatten()

    def same(self, slate: Tensor, other: Tensor) -> Tensor:
        """Return where two slates are the same action, [...] of [..., K]."""
        return (slate == other).all(-1)

    def following(self, rollout: Interactions) -> tuple[Tensor, Tensor]:
        """Return the slates whose values come next in training, [T · B, K], and these values [T · B]."""
        assert rollout.next_observation is not None  # `observe` refused it
        slate, value = self.best(rollout.next_observation, self.regression if self.settings.double else self.target)
        if self.settings.double:
            value = self.value_of(rollout.next_observation, slate, self.target)
        return slate, value

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        weights = {} if self.target is self.regression else self.target.network.state_dict()
        steps = {} if self.step_values is None else {"step_values": self.step_values.table}
        return super().tensors() | {f"target.{key}": value for key, value in weights.items()} | steps

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load_tensors(tensors)
        if self.target is not self.regression:
            weights = {key.removeprefix("target."): v for key, v in tensors.items() if key.startswith("target.")}
            self.target.network.load_state_dict(weights)
        if self.step_values is not None:
            self.step_values.table = tensors["step_values"]
