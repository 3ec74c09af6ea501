"""Supervised: predict the immediate reward of each item and show the best, as most recommenders do."""

from typing import Any, cast

import torch
from torch import Tensor

from slatewise.agents.base import Agent, NetworkSettings
from slatewise.agents.replay import Rollout
from slatewise.interactions import Interactions, Observation
from slatewise.networks import TowerRegression
from slatewise.slates import top_k


class Settings(NetworkSettings):
    """Settings of the supervised agent."""


class Supervised(Agent):
    """Regression of the immediate reward of a shown item; what comes later counts for nothing."""

    name = "supervised"
    summary_text = "predicts the immediate reward of each item and shows the best, as most recommenders do"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings and make the network."""
        self._settings = s = cast(Settings, settings)
        self.regression = TowerRegression(self.spec, s.hidden, s.embedding, s.learning_rate, self.seed, self.device)
        self.memory = Rollout(s.rollout_steps)

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return self._settings

    def plan(self, steps: int) -> None:
        """Take the length of the run that schedules end with, in user-steps."""
        self._settings = self._settings.model_copy(update={"planned_steps": steps})

    def epsilon(self) -> float:
        """Return the probability of a uniform slate when exploring, at the present step."""
        return self._settings.epsilon_at(self.steps, self.explore_floor)

    def scores(self, observation: Observation) -> Tensor:
        """Return the predicted immediate reward of every candidate, [B, C]."""
        return self.regression.predict(observation)[0]

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the items of highest predicted reward."""
        return top_k(self.scores(observation), observation.mask, self.slate_size)

    def observe(self, interactions: Interactions) -> None:
        """Remember one vector step."""
        self.memory.add(interactions)
        self.steps += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Learn from a full rollout; return `loss`, `epsilon`, `learning_rate`, or None before it is full."""
        if not self.memory.full():
            return None
        s = self._settings
        rollout = self.memory.take()
        slate, response = rollout.decision.slate, rollout.response
        self.regression.network.learn_scale(rollout.observation)
        known = (slate >= 0) & response.reward_known.unsqueeze(1)
        reward = torch.where(known, response.reward, 0.0)  # what is not known may be NaN
        rate = s.rate_at(self.steps - len(rollout))
        loss = self.regression.fit(
            rollout.observation, slate, reward, known.float(), s.epochs, s.minibatches, rate, self.generator
        )
        self.updates += 1
        return {"loss": loss, "epsilon": self.epsilon(), "learning_rate": rate * s.learning_rate}

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        return self.regression.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.regression.load_tensors(tensors)
