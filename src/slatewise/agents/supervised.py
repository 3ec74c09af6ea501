"""Supervised: predict the immediate reward of each item and show the best, as most recommenders do."""

from typing import cast

import torch
from torch import Tensor

from slatewise.agents.base import FallingEpsilonSettings, NetworkAgent
from slatewise.interactions import Interactions, Observation
from slatewise.networks import TowerRegression
from slatewise.slates import top_k


class Settings(FallingEpsilonSettings):
    """Settings of the supervised agent."""


class Supervised(NetworkAgent):
    """Regression of the immediate reward of a shown item; what comes later counts for nothing."""

    name = "supervised"
    summary_text = "predicts the immediate reward of each item and shows the best, as most recommenders do"
    Settings = Settings

    def scores(self, observation: Observation) -> Tensor:
        """Return the predicted immediate reward of every candidate, [B, C]."""
        return cast(TowerRegression, self.regression).predict(observation)[0]

    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the `expected` immediate reward of every candidate, [B, C]."""
        return {"expected": self.scores(observation)}

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the items of highest predicted reward."""
        return top_k(self.scores(observation), observation.mask, self.slate_size)

    def lessons(self, rollout: Interactions) -> tuple[Tensor, Tensor, Tensor]:
        """Return every shown item with its reward; what is not known does not count."""
        slate, response = rollout.decision.slate, rollout.response
        known = (slate >= 0) & response.reward_known.unsqueeze(1)
        return slate, torch.where(known, response.reward, 0.0), known.float()  # what is not known may be NaN
