"""Bandits that keep sums, which fade, go with a window, and add up over replicas exactly: counts, and linear models."""

from abc import ABC, abstractmethod
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.agents.bandit import Bandit
from slatewise.agents.base import AgentSettings
from slatewise.agents.replay import Window
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation
from slatewise.linear_models import DisjointModel, HybridModel, LinearModel, Rows, SharedModel
from slatewise.tables import ItemRows, grown


class SumSettings(AgentSettings):
    """Settings of agents that keep sums."""

    forgetting: float = Field(0.0, ge=0, lt=1, description="share of what is known that fades with each interaction")
    window: int = Field(0, ge=0, description="shown items that are remembered, older ones are taken out; 0: all")

    @model_validator(mode="after")
    def _one_kind_of_forgetting(self) -> Self:
        if self.forgetting and self.window:
            raise ValueError("forgetting and window exclude each other: set one of them to 0")
        return self


class ChangingSettings(SumSettings):
    """Settings of agents that keep sums and expect a reward: they notice when the world has changed."""

    restart: float = Field(
        0.0, ge=0, description="begin anew when rewards have summed up to so much less than was expected; 0: never"
    )
    tolerance: float = Field(0.05, ge=0, description="shortfall of a reward that `restart` does not count")


class SumBandit(Bandit, ABC):
    """A bandit whose knowledge is sums over shown items: what is added can fade, be taken out again, and be merged."""

    def begin(self) -> None:
        """Make the sums, and the window."""
        self.window = Window(cast(SumSettings, self.settings).window)
        self.shortfall = torch.zeros((), dtype=torch.float64, device=self.device)
        self.begin_sums()

    @abstractmethod
    def begin_sums(self) -> None:
        """Make the sums."""

    @abstractmethod
    def rows_of(self, interactions: Interactions, used: Tensor) -> Rows:
        """Return what is learned from the slots `used`: one row a shown item."""

    @abstractmethod
    def add(self, rows: Rows, sign: float = 1.0) -> None:
        """Add rows to the sums, or take them out (sign −1)."""

    @abstractmethod
    def fade(self, factor: float) -> None:
        """Multiply the sums."""

    @abstractmethod
    def add_sums(self, other: Any) -> None:
        """Add the sums of another agent of this kind."""

    @abstractmethod
    def sums_of(self) -> dict[str, Tensor]:
        """Return the sums, by name."""

    @abstractmethod
    def load_sums(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `sums_of` gave."""

    def learn(self, interactions: Interactions, used: Tensor) -> None:
        """Take rewards into the sums, and let older ones fade or go, or all of them where the world has changed."""
        s = cast(SumSettings, self.settings)
        if isinstance(s, ChangingSettings) and s.restart and self._has_changed(s, interactions, used):
            self.begin()
        if s.forgetting:
            self.fade((1 - s.forgetting) ** len(interactions))
        rows = self.rows_of(interactions, used)
        self.add(rows)
        if self.window.size:
            self.add(self.window.push(rows), sign=-1.0)

    def _has_changed(self, s: ChangingSettings, interactions: Interactions, used: Tensor) -> bool:
        """Whether rewards fall short of what was expected for longer than chance would have it.

        Page's cumulative sum of (expected − reward − tolerance), never below 0, passes `restart`: Page 1954,
        "Continuous inspection schemes"; with bandits that begin anew, Liu et al. 2018, arXiv 1711.03539. Theirs
        watches every arm by its own first rewards; here all arms are watched together by the model's prediction, so
        that contexts may vary. What has become better and is not shown goes unseen, as it does there without their
        uniform choices: set `explore_floor`.
        """
        expected = self.scores(interactions.observation).gather(1, interactions.decision.slate.clamp(min=0))
        steps = (expected - interactions.response.reward)[used] - s.tolerance
        sums = torch.cat([self.shortfall.unsqueeze(0), steps]).cumsum(0)
        above = sums - sums.cummin(0).values.clamp(max=0)
        self.shortfall = above[-1]
        return bool((above > s.restart).any())

    def merge(self, other: "SumBandit") -> None:
        """Add what another agent of the same kind and settings has learned: the sums of both, exactly.

        What both had learned together before they parted counts twice: merge agents that began with nothing.
        Raises InputError for another kind of agent, other settings, spec or device, and where older rewards fade or go.
        """
        settings = cast(SumSettings, self.settings)
        if type(other) is not type(self) or other.settings != settings or other.spec != self.spec:
            raise InputError(f"{self.name}: only agents of the same kind, settings and spec can be merged")
        if other.device.type != self.device.type:
            raise InputError(
                f"{self.name}: agents on {self.device} and {other.device} cannot be merged, load both on one device"
            )
        if settings.forgetting or settings.window or getattr(settings, "restart", 0):
            raise InputError(f"{self.name}: agents that forget cannot be merged, their sums are of different times")
        self.add_sums(other)
        self.version += 1
        self.steps += int(other.steps)

    def check_like(self, like: Tensor, rows: ItemRows) -> None:
        """Raise InputError unless something was learned about all items `like` [n]."""
        if len(like) == 0 or bool((rows.of(like) == 0).any()):
            raise InputError(f"warm_start: like={like.tolist()} must name items that something was learned about")

    def learned(self) -> dict[str, Tensor]:
        """Return the sums and the window."""
        window = {f"window_{key}": value for key, value in self.window.rows.items()}
        return {**self.sums_of(), **window, "shortfall": self.shortfall}

    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `learned` gave."""
        window = {key: value for key, value in tensors.items() if key.startswith("window_")}
        self.window.rows = {key.removeprefix("window_"): value for key, value in window.items()}
        self.shortfall = tensors.get("shortfall", torch.zeros_like(self.shortfall))  # older agents had none
        self.load_sums(tensors)


class CountingBandit(SumBandit, ABC):
    """A bandit that keeps sums for every item: how often it was shown, and what it earned."""

    columns = 2

    def begin_sums(self) -> None:
        """Make the table: [R, 2] showings and rewards."""
        self.items = ItemRows(self.device)
        self.sums = torch.zeros(1, self.columns, dtype=torch.float64, device=self.device)

    def counts(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return how often every candidate was shown and what it earned, float64 [B, C] each."""
        found = self.sums[self.items.of(observation.item_ids)]
        return found[:, :, 0], found[:, :, 1]

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return the mean reward of every candidate, 0 if it was never shown; of its uncertainty nothing is known."""
        shown, earned = self.counts(observation)
        return earned / shown.clamp(min=1e-12), None

    def rows_of(self, interactions: Interactions, used: Tensor) -> Rows:
        """Return items and what is added to their sums, [n] and [n, 2]."""
        reward = interactions.response.reward[used]
        return self.rows_at(interactions, used, torch.stack([torch.ones_like(reward), reward], 1))

    def rows_at(self, interactions: Interactions, where: Tensor, values: Tensor) -> Rows:
        """Return the items of slots, bool [B, K], with what is added to their sums, [n, columns]."""
        slate = interactions.decision.slate.clamp(min=0)
        return {"item": interactions.observation.item_ids.gather(1, slate)[where], "values": values}

    def add(self, rows: Rows, sign: float = 1.0) -> None:
        """Add rows to the sums, or take them out."""
        if len(rows["item"]):
            at = self.items.add(rows["item"])
            self.sums = grown(self.sums, len(self.items.ids))
            self.sums.index_add_(0, at, rows["values"], alpha=sign)

    def fade(self, factor: float) -> None:
        """Multiply the sums."""
        self.sums *= factor

    def add_sums(self, other: Any) -> None:
        """Add the sums of another agent of this kind."""
        theirs = other.items.ids >= 0
        self.add({"item": other.items.ids[theirs], "values": other.sums[theirs]})

    def forget_items(self, items: Tensor) -> None:
        """Drop what was learned about items, int64 [n], that are gone; their places are used again.

        Raises InputError for an item that nothing was learned about.
        """
        self.sums[self.items.remove(items.to(self.device))] = 0
        self.version += 1

    def warm_start(self, item: int, like: Tensor, share: float = 0.1) -> None:
        """Let a new item begin with the average of what items `like`, int64 [n], have shown and earned.

        share: how much of it counts.  Raises InputError for items that nothing was learned about.
        """
        like = like.to(self.device)
        self.check_like(like, self.items)
        start = share * self.sums[self.items.of(like)].mean(0, keepdim=True)
        self.add({"item": torch.tensor([item], device=self.device), "values": start})
        self.version += 1

    def sums_of(self) -> dict[str, Tensor]:
        """Return the table."""
        return {"items": self.items.ids, "sums": self.sums}

    def load_sums(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `sums_of` gave."""
        self.items.load(tensors["items"])
        self.sums = tensors["sums"]


class LinearSettings(ChangingSettings):
    """Settings of agents with a linear model of the reward."""

    model: Literal["auto", "shared", "disjoint", "hybrid"] = Field(
        "auto", description="one model for all items, one an item, or both; auto: shared where items have features"
    )
    penalty: float = Field(1.0, gt=0, description="λ of the ridge regression")
    intercept: bool = Field(True, description="a feature that is always 1; a model=disjoint may go without")


MODELS: dict[str, Any] = {"shared": SharedModel, "disjoint": DisjointModel, "hybrid": HybridModel}


def kind_of_model(agent: Bandit, asked: str) -> str:
    """Return the model that an agent's setting means. Raises InputError where nothing tells items apart."""
    featured = agent.spec.item_features > 0
    if asked == "shared" and not featured:
        raise InputError(
            f"{agent.name}: model=shared, but items have no features to tell them apart: set model=disjoint"
        )
    return asked if asked != "auto" else "shared" if featured else "disjoint"


class LinearBandit(SumBandit, ABC):
    """A bandit with a Bayesian linear model of the reward of an item."""

    def begin_sums(self) -> None:
        """Make the model. Raises InputError for one without the features or the intercept it needs."""
        s = cast(LinearSettings, self.settings)
        kind = kind_of_model(self, s.model)
        if not s.intercept and kind != "disjoint":
            raise InputError(f"{self.name}: intercept=false is for model=disjoint, this is {kind}: set it to true")
        options = {} if s.intercept else {"intercept": False}
        self.model: LinearModel = MODELS[kind](self.spec, s.penalty, self.device, **options)

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of every candidate's expected reward, float64 [B, C] each."""
        return self.model.bounds(observation)

    def contributions(self, observation: Observation) -> tuple[tuple[str, ...], Tensor | None]:
        """Return names of features and weight × feature, [B, C, features]."""
        return self.model.names, self.model.contributions(observation)

    def rows_of(self, interactions: Interactions, used: Tensor) -> Rows:
        """Return features and rewards of shown items."""
        slate, reward = interactions.decision.slate, interactions.response.reward
        return self.model.extract(interactions.observation, slate, used, reward)

    def add(self, rows: Rows, sign: float = 1.0) -> None:
        """Add rows to the sums, or take them out."""
        self.model.add(rows, sign)

    def fade(self, factor: float) -> None:
        """Multiply the sums."""
        self.model.scale(factor)

    def add_sums(self, other: Any) -> None:
        """Add the sums of another agent of this kind."""
        self.model.merge(other.model)

    def forget_items(self, items: Tensor) -> None:
        """Drop what was learned about items, int64 [n], that are gone; their places are used again.

        Raises InputError for an item that nothing was learned about, and for a shared model.
        """
        self._by_item("forget_items").forget(items.to(self.device))
        self.version += 1

    def warm_start(self, item: int, like: Tensor, share: float = 0.1) -> None:
        """Let a new item begin with the average of what items `like`, int64 [n], have taught.

        share: how much of it counts.  Raises InputError for items that nothing was learned about, or a model with
        features of items, which needs no such start.
        """
        model = self._by_item("warm_start")
        if isinstance(model, HybridModel):
            raise InputError("warm_start: a hybrid model scores new items by what all items share already")
        like = like.to(self.device)
        self.check_like(like, model.items)
        model.warm_start(item, like, share)
        self.version += 1

    def _by_item(self, verb: str) -> DisjointModel:
        if not isinstance(self.model, DisjointModel):
            raise InputError(f"{verb}: the shared model keeps nothing an item; it is for model=disjoint or hybrid")
        return self.model

    def sums_of(self) -> dict[str, Tensor]:
        """Return the model's sums and solution."""
        return self.model.tensors()

    def load_sums(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `sums_of` gave."""
        self.model.load(tensors)
