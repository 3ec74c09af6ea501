"""Bandits with a linear model that explore by a rule: inverse gap weighting, or at random at first.

Sources: SquareCB, Foster & Rakhlin 2020, arXiv 2002.04926, Algorithm 1, with ridge regression as its oracle;
explore-first, Langford & Zhang 2007 (epoch-greedy's first half).
"""

from typing import cast

from pydantic import Field

from slatewise.agents.bandit_sums import LinearBandit, LinearSettings
from slatewise.distributions import InverseGap
from slatewise.interactions import Observation
from slatewise.policies import DrawingPolicy


class SquareCBSettings(LinearSettings):
    """Settings of SquareCB."""

    gamma_scale: float = Field(10.0, gt=0, description="γ after the first interaction, per unit of reward")
    gamma_exponent: float = Field(0.5, ge=0, le=2, description="γ grows with this power of the interactions")


class SquareCB(DrawingPolicy, LinearBandit):
    """Inverse gap weighting: the larger the gap to the best prediction, the rarer; γ = scale · t^exponent.

    The paper's γ is √(m T / regret of the regression); growing with t it needs no horizon.
    """

    name = "squarecb"
    summary_text = "contextual bandit: shows an item the rarer, the further its prediction is below the best"
    Settings = SquareCBSettings
    changeable = ("gamma_scale", "gamma_exponent")

    def distribution(self, observation: Observation) -> InverseGap:
        """Return the distribution by the gaps of the predictions."""
        s = cast(SquareCBSettings, self.settings)
        rate = s.gamma_scale * max(1, self.steps) ** s.gamma_exponent
        return InverseGap(self.scores(observation), observation.mask, self.slate_size, rate)


class ExploreFirstSettings(LinearSettings):
    """Settings of explore-first."""

    exploration: int = Field(1000, ge=0, description="interactions with uniform slates before any other")


class ExploreFirst(LinearBandit):
    """Uniform slates at first, then the highest predictions for good."""

    name = "explore-first"
    summary_text = "contextual bandit: uniform slates at first, then the best of a linear model"
    Settings = ExploreFirstSettings
    changeable = ("exploration",)

    def epsilon(self) -> float:
        """Return 1 while it explores, then what `explore_floor` leaves."""
        return 1.0 if self.steps < cast(ExploreFirstSettings, self.settings).exploration else self.explore_floor
