"""Bandits that count: the mean reward of every item, whoever the user is, and four ways to explore.

Sources: ε-greedy and softmax, Sutton & Barto 2018, chapter 2; UCB1, Auer et al. 2002, with discounted counts or a
sliding window as in Garivier & Moulines 2011, arXiv 0805.3415; Thompson sampling, Thompson 1933 and Chapelle & Li 2011.
"""

from abc import ABC
from typing import Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.agents.bandit import Bandit, EnsembleBandit, check_binary
from slatewise.agents.base import AgentSettings
from slatewise.agents.replay import Window
from slatewise.distributions import Softmax
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation
from slatewise.policies import DrawingPolicy
from slatewise.slates import top_k
from slatewise.tables import ItemRows, grown


class CountingSettings(AgentSettings):
    """Settings of agents that count."""

    forgetting: float = Field(0.0, ge=0, lt=1, description="share of what is known that fades with each interaction")
    window: int = Field(0, ge=0, description="shown items that are remembered, older ones are taken out; 0: all")

    @model_validator(mode="after")
    def _one_kind_of_forgetting(self) -> Self:
        if self.forgetting and self.window:
            raise ValueError("forgetting and window exclude each other: set one of them to 0")
        return self


class CountingBandit(Bandit, ABC):
    """A bandit that keeps sums for every item: how often it was shown, and what it earned."""

    def begin(self) -> None:
        """Make the table: [R, 2] showings and rewards."""
        self.items = ItemRows(self.device)
        self.sums = torch.zeros(1, 2, dtype=torch.float64, device=self.device)
        self.window = Window(cast(CountingSettings, self.settings).window)

    def counts(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return how often every candidate was shown and what it earned, float64 [B, C] each."""
        found = self.sums[self.items.of(observation.item_ids)]
        return found[:, :, 0], found[:, :, 1]

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return the mean reward of every candidate, 0 if it was never shown; of its uncertainty nothing is known."""
        shown, earned = self.counts(observation)
        return earned / shown.clamp(min=1e-12), None

    def sums_of(self, interactions: Interactions, used: Tensor) -> tuple[Tensor, Tensor]:
        """Return where something was learned, bool [B, K], and what is added to the sums there, [B, K, 2]."""
        reward = torch.where(used, interactions.response.reward, 0.0)
        return used, torch.stack([torch.ones_like(reward), reward], 2)

    def learn(self, interactions: Interactions, used: Tensor) -> None:
        """Take rewards into the sums, and let older ones fade or go."""
        s = cast(CountingSettings, self.settings)
        where, values = self.sums_of(interactions, used)
        items = interactions.observation.item_ids.gather(1, interactions.decision.slate.clamp(min=0))
        rows = {"item": items[where], "values": values[where]}
        if s.forgetting:
            self.sums *= (1 - s.forgetting) ** len(interactions)
        self._add(rows["item"], rows["values"])
        if s.window:
            old = self.window.push(rows)
            self._add(old["item"], -old["values"])

    def _add(self, items: Tensor, values: Tensor) -> None:
        if len(items):
            rows = self.items.add(items)
            self.sums = grown(self.sums, len(self.items.ids))
            self.sums.index_add_(0, rows, values)

    def merge(self, other: "CountingBandit") -> None:
        """Add what another agent of the same kind has learned: the sums of both, exactly.

        What both had learned together before they parted counts twice: merge agents that began with nothing.
        Raises InputError for another kind of agent, and where older rewards fade or go.
        """
        if type(other) is not type(self) or self.sums.shape[1] != other.sums.shape[1]:
            raise InputError(f"{self.name}: only agents of the same kind can be merged")
        for s in (cast(CountingSettings, self.settings), cast(CountingSettings, other.settings)):
            if s.forgetting or s.window:
                raise InputError(f"{self.name}: agents that forget cannot be merged, their sums are of different times")
        theirs = other.items.ids >= 0
        self._add(other.items.ids[theirs], other.sums[theirs])
        self.version += 1
        self.steps += int(other.steps)

    def forget_items(self, items: Tensor) -> None:
        """Drop what was learned about items, int64 [n], that are gone; their places are used again.

        Raises InputError for an item that nothing was learned about.
        """
        self.sums[self.items.remove(items)] = 0
        self.version += 1

    def warm_start(self, item: int, like: Tensor, share: float = 0.1) -> None:
        """Let a new item begin with the average of what items `like`, int64 [n], have shown and earned.

        share: how much of it counts.  Raises InputError for items that nothing was learned about.
        """
        rows = self.items.of(like)
        if len(like) == 0 or bool((rows == 0).any()):
            raise InputError(f"warm_start: like={like.tolist()} must name items that something was learned about")
        start = share * self.sums[rows].mean(0, keepdim=True)
        self._add(torch.tensor([item], device=self.device), start)
        self.version += 1

    def learned(self) -> dict[str, Tensor]:
        """Return the table and the window."""
        window = {f"window_{key}": value for key, value in self.window.rows.items()}
        return {"items": self.items.ids, "sums": self.sums, **window}

    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `learned` gave."""
        self.items.load(tensors["items"])
        self.sums = tensors["sums"]
        window = {key: value for key, value in tensors.items() if key.startswith("window_")}
        self.window.rows = {key.removeprefix("window_"): value for key, value in window.items()}


class EpsilonSettings(CountingSettings):
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


class SoftmaxSettings(CountingSettings):
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


class UCBSettings(CountingSettings):
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
        return top_k(mean, observation.mask, self.slate_size)


class BetaSettings(CountingSettings):
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


class GaussianSettings(CountingSettings):
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
