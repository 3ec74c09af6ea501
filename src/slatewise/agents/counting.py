"""Bandits that count: the mean reward of every item, whoever the user is, and four ways to explore.

Sources: ε-greedy and softmax, Sutton & Barto 2018, chapter 2; UCB1, Auer et al. 2002, with discounted counts or a
sliding window as in Garivier & Moulines 2011, arXiv 0805.3415; Thompson sampling, Thompson 1933 and Chapelle & Li 2011.
"""

from typing import cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.bandit import EnsembleBandit, check_binary
from slatewise.agents.bandit_sums import ChangingSettings, CountingBandit
from slatewise.distributions import Softmax
from slatewise.interactions import Observation
from slatewise.policies import DrawingPolicy
from slatewise.slates import top_candidates


class EpsilonSettings(ChangingSettings):
    """Settings of ε-greedy."""

    epsilon: float = Field(0.1, ge=0, le=1, description="probability of a uniform slate")


class EpsilonGreedy(CountingBandit):
    """The items of highest mean reward, or with probability ε a uniform slate."""

    name = "epsilon-greedy"
    summary_text = "bandit without context: the highest mean reward, and a uniform slate now and then"
    Settings = EpsilonSettings
    changeable = ("epsilon",)

    def epsilon(self) -> float:
        """Return the probability of a uniform slate; whatever explores, `explore_floor` is left."""
        return 1 - (1 - cast(EpsilonSettings, self.settings).epsilon) * (1 - self.explore_floor)


class SoftmaxSettings(ChangingSettings):
    """Settings of softmax exploration."""

    temperature: float = Field(0.1, gt=0, description="in units of reward: e times likelier for so much more reward")


class SoftmaxBandit(DrawingPolicy, CountingBandit):
    """Slot by slot, items with probability in proportion to exp(mean / temperature) (Boltzmann exploration)."""

    name = "softmax"
    summary_text = "bandit without context: items by the softmax of their mean rewards"
    Settings = SoftmaxSettings
    changeable = ("temperature",)

    def distribution(self, observation: Observation) -> Softmax:
        """Return the softmax of the means."""
        means = self.scores(observation)
        return Softmax(means / cast(SoftmaxSettings, self.settings).temperature, observation.mask, self.slate_size)


class UCBSettings(ChangingSettings):
    """Settings of UCB1."""

    width: float = Field(1.0, ge=0, description="of the confidence bound: the range of the rewards")


class UCB1(CountingBandit):
    """The highest upper confidence bound, mean + width √(2 ln t / n); what was never shown comes first."""

    name = "ucb1"
    summary_text = "bandit without context: the highest upper confidence bound of the mean reward"
    Settings = UCBSettings
    changeable = ("width",)

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return mean and radius √(2 ln t / n), infinite where nothing is known, of every candidate, [B, C] each."""
        shown, _ = self.counts(observation)
        total = self.sums[:, 0].sum().clamp(min=1.0)
        return super().bounds(observation)[0], (2 * total.log() / shown.clamp(min=0)).sqrt().nan_to_num(nan=torch.inf)

    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        """Return the top items by upper confidence bound, or by mean without exploration."""
        mean, radius = self.bounds(observation)
        if explore and radius is not None:
            mean = torch.where(radius.isinf(), torch.inf, mean + cast(UCBSettings, self.settings).width * radius)
        return top_candidates(mean, observation, self.slate_size)


class BetaSettings(ChangingSettings):
    """Settings of Thompson sampling for rewards of 0 and 1."""

    prior_ones: float = Field(1.0, gt=0, description="rewards of 1 that every item is taken to have had before")
    prior_zeros: float = Field(1.0, gt=0, description="rewards of 0 that every item is taken to have had before")
    draws: int = Field(100, ge=1, le=100_000, description="draws from the posterior; propensities are shares of them")


class ThompsonBeta(EnsembleBandit, CountingBandit):
    """Thompson sampling for rewards of 0 and 1: Beta posteriors."""

    name = "thompson-beta"
    summary_text = "bandit without context: Thompson sampling for rewards of 0 and 1"
    Settings = BetaSettings
    changeable = ("draws",)

    @property
    def members(self) -> int:
        """The number of draws."""
        return cast(BetaSettings, self.settings).draws

    def check_rewards(self, rewards: Tensor) -> None:
        """Raise InputError for rewards other than 0 and 1."""
        check_binary(self.name, rewards)

    def _posterior(self, shown: Tensor, earned: Tensor) -> tuple[Tensor, Tensor]:
        s = cast(BetaSettings, self.settings)
        return s.prior_ones + earned.clamp(min=0), s.prior_zeros + (shown - earned).clamp(min=0)

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the Beta posteriors, [B, C] each."""
        ones, zeros = self._posterior(*self.counts(observation))
        mean = ones / (ones + zeros)
        return mean, (mean * (1 - mean) / (ones + zeros + 1)).sqrt()

    def opinions(self, observation: Observation) -> Tensor:
        """Return draws from the posteriors, [B, S, C]."""
        ones, zeros = self._posterior(self.sums[:, 0], self.sums[:, 1])
        random = np.random.Generator(np.random.PCG64(self.noise().initial_seed()))
        drawn = random.beta(ones.cpu().numpy(), zeros.cpu().numpy(), (self.members, len(ones)))
        rows = self.items.of(observation.item_ids)
        return torch.from_numpy(drawn).to(self.device)[:, rows].transpose(0, 1)


class GaussianSettings(ChangingSettings):
    """Settings of Thompson sampling for rewards that are numbers."""

    noise_scale: float = Field(1.0, gt=0, description="standard deviation of an item's rewards")
    prior_mean: float = Field(0.0, description="mean reward of an item that was never shown")
    prior_scale: float = Field(1.0, gt=0, description="standard deviation of mean rewards between items")
    draws: int = Field(100, ge=1, le=100_000, description="draws from the posterior; propensities are shares of them")


class ThompsonGaussian(EnsembleBandit, CountingBandit):
    """Thompson sampling for rewards that are numbers: normal posteriors of the mean, the noise taken as known."""

    name = "thompson-gaussian"
    summary_text = "bandit without context: Thompson sampling for rewards that are numbers"
    Settings = GaussianSettings
    changeable = ("noise_scale", "draws")

    @property
    def members(self) -> int:
        """The number of draws."""
        return cast(GaussianSettings, self.settings).draws

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the normal posteriors, [B, C] each."""
        s, (shown, earned) = cast(GaussianSettings, self.settings), self.counts(observation)
        prior, each = s.prior_scale**-2, s.noise_scale**-2
        precision = prior + each * shown.clamp(min=0)
        return (prior * s.prior_mean + each * earned) / precision, precision.rsqrt()

    def opinions(self, observation: Observation) -> Tensor:
        """Return draws from the posteriors, [B, S, C]."""
        mean, deviation = self.bounds(observation)
        assert deviation is not None
        shape = (self.members, len(self.sums))
        normals = torch.randn(shape, generator=self.noise(), dtype=torch.float64, device=self.device)
        normals = normals[:, self.items.of(observation.item_ids)].transpose(0, 1)
        return mean.unsqueeze(1) + deviation.unsqueeze(1) * normals
