"""LinUCB: one linear model of the immediate reward, and optimism about what it does not know yet.

Source: Li et al. 2010, arXiv 1003.0146, Algorithm 1, with one model shared by all items over user features,
item features and their products instead of one model an item: new items are scored at once.
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.base import Agent, AgentSettings
from slatewise.interactions import Interactions, Observation
from slatewise.linear import Ridge, joint_features, joint_scores, joint_size
from slatewise.slates import top_k


class Settings(AgentSettings):
    """Settings of LinUCB."""

    alpha: float = Field(1.0, ge=0, description="width of the confidence bound, in standard deviations of the model")
    penalty: float = Field(1.0, gt=0, description="λ of the ridge regression")


class LinUCB(Agent):
    """Contextual bandit: the highest upper confidence bound on the immediate reward."""

    name = "linucb"
    summary_text = "contextual bandit: a linear model of the immediate reward, optimistic where unsure"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings and make the sums."""
        self._settings = cast(Settings, settings)
        self.ridge = Ridge(joint_size(self.spec), self._settings.penalty, self.device)
        self._added = 0
        self._solve()

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return self._settings

    def plan(self, steps: int) -> None:
        """Take the length of the run; nothing here depends on it."""
        self._settings = self._settings.model_copy(update={"planned_steps": steps})

    def scores(self, observation: Observation) -> Tensor:
        """Return the expected reward of every candidate, float64 [B, C]."""
        return joint_scores(observation, self._weights)

    def bonus(self, observation: Observation) -> Tensor:
        """Return α √(xᵀ A⁻¹ x) of every candidate, float64 [B, C]."""
        everything = torch.arange(observation.item_ids.shape[1], device=self.device)
        x = joint_features(observation, everything.expand(observation.item_ids.shape))
        variance = ((x.flatten(0, 1) @ self._covariance) * x.flatten(0, 1)).sum(1).clamp(min=0)
        return self._settings.alpha * variance.sqrt().view(observation.item_ids.shape)

    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the `expected` reward of every candidate and the `bonus` for what is not known, [B, C] each."""
        return {"expected": self.scores(observation), "bonus": self.bonus(observation)}

    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        """Return the top items by upper confidence bound, or by mean without exploration."""
        scores = self.scores(observation)
        if explore:
            scores = scores + self.bonus(observation)
        return top_k(scores, observation.mask, self.slate_size)

    def observe(self, interactions: Interactions) -> None:
        """Take every shown item and the reward of its slot into the sums; unknown rewards are left out."""
        slate, response = interactions.decision.slate, interactions.response
        used = (slate >= 0) & response.reward_known.unsqueeze(1)
        features = joint_features(interactions.observation, slate)
        self.ridge.add(features[used], response.reward[used])
        self._added += len(interactions)
        self.steps += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Solve for the weights; return `interactions` used and the `weights` norm, or None without new ones."""
        if self._added == 0:
            return None
        added, self._added = self._added, 0
        self._solve()
        self.updates += 1
        return {"interactions": float(added), "weights": float(self._weights.norm())}

    def _solve(self) -> None:
        self._weights = self.ridge.weights()
        self._covariance = self.ridge.covariance()

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums, what was solved from them, and how many interactions came since."""
        sums = {"precision": self.ridge.precision, "moment": self.ridge.moment, "added": torch.tensor(self._added)}
        return sums | {"weights": self._weights, "covariance": self._covariance}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.ridge.precision, self.ridge.moment = tensors["precision"], tensors["moment"]
        self._weights, self._covariance = tensors["weights"], tensors["covariance"]
        self._added = int(tensors["added"])
