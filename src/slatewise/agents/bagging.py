"""Online bagging: several linear models, each of which learned from a bootstrap of the data.

Sources: Oza & Russell 2001 (every row counts Poisson(1) times in each model); Bietti et al. 2018, arXiv 1802.04064,
section 3.4; every model has random weights for its prior mean, without which all agree about what was never shown
(Osband et al. 2018, arXiv 1806.03335).
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.bandit import EnsembleBandit
from slatewise.agents.bandit_sums import MODELS, kind_of_model
from slatewise.agents.base import AgentSettings
from slatewise.interactions import Interactions, Observation
from slatewise.linear_models import LinearModel


class Settings(AgentSettings):
    """Settings of online bagging."""

    model: Literal["auto", "shared", "disjoint"] = Field(
        "auto", description="one model for all items or one an item; auto: shared where items have features"
    )
    penalty: float = Field(1.0, gt=0, description="λ of the ridge regression; its prior mean has variance scale² / λ")
    replicas: int = Field(10, ge=1, le=1000, description="models; propensities are shares of them")
    prior_scale: float = Field(0.3, ge=0, description="of the random prior mean")


class Bagging(EnsembleBandit):
    """Follows one of several linear models, chosen at random."""

    name = "bagging"
    summary_text = "contextual bandit: follows one of several linear models, each of a bootstrap of the data"
    Settings = Settings

    @property
    def members(self) -> int:
        """The number of models."""
        return len(self.models)

    def begin(self) -> None:
        """Make the models."""
        s = cast(Settings, self.settings)
        kind = MODELS[kind_of_model(self, s.model)]
        self.models: list[LinearModel] = [kind(self.spec, s.penalty, self.device) for _ in range(s.replicas)]
        for model in self.models:
            model.ridges.draw_prior(s.prior_scale, self.generator)

    def opinions(self, observation: Observation) -> Tensor:
        """Return the expected reward of every candidate in each model, [B, S, C]."""
        return torch.stack([model.bounds(observation)[0] for model in self.models], 1)

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return the models' mean, and how much they differ, [B, C] each."""
        opinions = self.opinions(observation)
        return opinions.mean(1), opinions.std(1, correction=0)

    def learn(self, interactions: Interactions, used: Tensor) -> None:
        """Let every model learn from a bootstrap of the rewards."""
        slate, reward = interactions.decision.slate, interactions.response.reward
        rows = self.models[0].extract(interactions.observation, slate, used, reward)
        rates = torch.ones(len(self.models), len(rows["y"]), dtype=torch.float64, device=self.device)
        for model, times in zip(self.models, torch.poisson(rates, self.generator).sqrt(), strict=True):
            model.add(rows | {"x": rows["x"] * times.unsqueeze(1), "y": rows["y"] * times})

    def learned(self) -> dict[str, Tensor]:
        """Return the models."""
        return {f"{i}.{key}": value for i, model in enumerate(self.models) for key, value in model.tensors().items()}

    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `learned` gave."""
        for i, model in enumerate(self.models):
            own = {key: value for key, value in tensors.items() if key.startswith(f"{i}.")}
            model.load({key.removeprefix(f"{i}."): value for key, value in own.items()})
