"""Supervised: predict the immediate reward of each item and show the best, as most recommenders do."""

import torch
from torch import Tensor

from slatewise.agents.base import NetworkAgent, NetworkSettings
from slatewise.interactions import Interactions, Observation
from slatewise.slates import top_k


class Settings(NetworkSettings):
    """Settings of the supervised agent."""


class Supervised(NetworkAgent):
    """Regression of the immediate reward of a shown item; what comes later counts for nothing."""

    name = "supervised"
    summary_text = "predicts the immediate reward of each item and shows the best, as most recommenders do"
    Settings = Settings

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
        s = self.settings
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
