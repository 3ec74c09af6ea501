"""LinUCB and linear Thompson sampling: a linear model of the immediate reward, and what is not known of it yet.

Sources: Li et al. 2010, arXiv 1003.0146, Algorithms 1 (disjoint) and 2 (hybrid); Agrawal & Goyal 2013, arXiv 1209.3352.
A shared model has one regression over user features, item features and their products for all items.
"""

from typing import cast

from pydantic import Field
from torch import Tensor

from slatewise.agents.bandit import EnsembleBandit
from slatewise.agents.bandit_sums import LinearBandit, LinearSettings
from slatewise.interactions import Observation
from slatewise.slates import top_candidates


class Settings(LinearSettings):
    """Settings of LinUCB."""

    alpha: float = Field(1.0, ge=0, description="width of the confidence bound, in standard deviations of the model")


class LinUCB(LinearBandit):
    """Contextual bandit: the highest upper confidence bound on the immediate reward."""

    name = "linucb"
    summary_text = "contextual bandit: a linear model of the immediate reward, optimistic where unsure"
    Settings = Settings
    changeable = ("alpha",)

    def bonus(self, observation: Observation) -> Tensor:
        """Return α √(xᵀ A⁻¹ x) of every candidate, float64 [B, C]."""
        return cast(Settings, self._settings).alpha * self.model.bounds(observation)[1]

    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        """Return the top items by upper confidence bound, or by mean without exploration."""
        mean, deviation = self.model.bounds(observation)
        if explore:
            mean = mean.add_(deviation, alpha=cast(Settings, self._settings).alpha)
        return top_candidates(mean, observation, self.slate_size)


class ThompsonSettings(LinearSettings):
    """Settings of linear Thompson sampling."""

    noise_scale: float = Field(0.5, gt=0, description="standard deviation of the reward's noise, v in the paper")
    draws: int = Field(100, ge=1, le=100_000, description="draws from the posterior; propensities are shares of them")


class LinTS(EnsembleBandit, LinearBandit):
    """Linear Thompson sampling: the best slate of a model drawn from the posterior."""

    name = "lints"
    summary_text = "contextual bandit: follows a linear model drawn from the posterior (Thompson sampling)"
    Settings = ThompsonSettings
    changeable = ("noise_scale", "draws")

    @property
    def members(self) -> int:
        """The number of draws."""
        return cast(ThompsonSettings, self._settings).draws

    def opinions(self, observation: Observation) -> Tensor:
        """Return the expected reward of every candidate under each draw, [B, S, C]."""
        return self.model.draws(
            observation, self.members, self.noise(), cast(ThompsonSettings, self._settings).noise_scale
        )
