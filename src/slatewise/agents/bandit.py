"""What bandits share: learning from the reward of every shown item, settings that may change, explanations.

A bandit looks one decision ahead. Slates are the items it thinks best, best first, and the reward of every slot teaches
it about the item there: a combinatorial semi-bandit (Chen et al. 2013).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.agents.base import Agent, AgentSettings
from slatewise.agents.replay import Window
from slatewise.checks import first_true
from slatewise.distributions import Votes
from slatewise.errors import InputError, unknown_name
from slatewise.interactions import Interactions, Observation
from slatewise.linear_models import DisjointModel, HybridModel, LinearModel, SharedModel
from slatewise.noise import mix
from slatewise.policies import DrawingPolicy
from slatewise.slates import top_k

CHUNK_VALUES = 4_000_000  # elements of the largest temporary array


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why candidates are shown or not.

    score: expected reward, float64 [B, C].  uncertainty: its standard deviation as the agent sees it, or None.
    propensity: probability of the first slot, [B, C].  item_ids: int64 [B, C], −1 where not to be shown.
    contributions: what each of the features `names` adds to the score, [B, C, features], or None.
    """

    item_ids: Tensor
    score: Tensor
    uncertainty: Tensor | None
    propensity: Tensor
    contributions: Tensor | None = None
    names: tuple[str, ...] = ()

    def rows(self, user: int = 0, strongest: int = 5) -> list[dict[str, Any]]:
        """Return a row for every candidate of one user, best first; the `strongest` contributions by feature."""
        shown = (self.item_ids[user] >= 0).nonzero().squeeze(1)
        order = shown[self.score[user, shown].argsort(descending=True)]
        return [self._row(user, int(candidate), strongest) for candidate in order]

    def _row(self, user: int, candidate: int, strongest: int) -> dict[str, Any]:
        row: dict[str, Any] = {"candidate": candidate, "item": int(self.item_ids[user, candidate])}
        row["score"] = float(self.score[user, candidate])
        if self.uncertainty is not None:
            row["uncertainty"] = float(self.uncertainty[user, candidate])
        row["propensity"] = float(self.propensity[user, candidate])
        if self.contributions is not None:
            parts = self.contributions[user, candidate]
            top = parts.abs().topk(min(strongest, len(parts))).indices.tolist()
            row["because"] = {self.names[at]: float(parts[at]) for at in top if float(parts[at]) != 0}
        return row

    def table(self, user: int = 0, strongest: int = 3) -> str:
        """Return the rows as text."""
        lines = [f"{'item':>6} {'score':>9} {'±':>8} {'shown':>6}  because"]
        for row in self.rows(user, strongest):
            spread = f"{row['uncertainty']:8.4f}" if "uncertainty" in row else f"{'':8}"
            because = ", ".join(f"{name} {value:+.3f}" for name, value in row.get("because", {}).items())
            lines.append(f"{row['item']:>6} {row['score']:9.4f} {spread} {row['propensity']:6.1%}  {because}".rstrip())
        return "\n".join(lines)


class Bandit(Agent, ABC):
    """An agent that learns from the immediate reward of every shown item, as it comes.

    changeable: settings of how it acts, which `configure` may change at any time, after loading too.
    """

    changeable: ClassVar[tuple[str, ...]] = ()

    def build(self, settings: Any) -> None:
        """Take the settings and begin with nothing known."""
        self._settings = settings
        self.version = 0  # changes whenever something is learned
        self._new = 0  # interactions since the last update
        self.begin()

    @property
    def settings(self) -> Any:
        """The settings this agent was made with, or was configured to."""
        return self._settings

    @abstractmethod
    def begin(self) -> None:
        """Make what learns."""

    def plan(self, steps: int) -> None:
        """Take the length of the run; nothing here depends on it."""
        self._settings = self._settings.model_copy(update={"planned_steps": steps})

    def configure(self, **changes: Any) -> None:
        """Change how the agent acts from now on, without learning anew: for instance `configure(alpha=0.1)`.

        Raises InputError for a setting that decides what is learned, or a value that does not fit.
        """
        for key in changes:
            if key not in (*self.changeable, "explore_floor"):
                raise unknown_name(f"changeable setting of {self.name}", key, (*self.changeable, "explore_floor"))
        self._settings = self.Settings.of(self.name, self._settings.model_dump() | changes)
        self.explore_floor = float(changes.get("explore_floor", self.explore_floor))

    # Scoring.

    @abstractmethod
    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return the expected reward of every candidate [B, C] and its standard deviation, or None."""

    def scores(self, observation: Observation) -> Tensor:
        """Return the expected reward of every candidate, float64 [B, C]."""
        return self.bounds(observation)[0]

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - for optimists
        """Return the items of highest expected reward."""
        return top_k(self.scores(observation), observation.mask, self.slate_size)

    def explain(self, observation: Observation) -> Explanation:
        """Say what the agent thinks of every candidate: score, uncertainty, propensity, and why if it can tell."""
        score, deviation = self.bounds(observation)
        names, parts = self.contributions(observation)
        return Explanation(observation.item_ids, score, deviation, self._first(observation), parts, names)

    def contributions(self, observation: Observation) -> tuple[tuple[str, ...], Tensor | None]:  # noqa: ARG002
        """Return names of features and what each adds to a score, [B, C, features]; nothing where it cannot tell."""
        return (), None

    def _first(self, observation: Observation) -> Tensor:
        """Return the probability of every candidate in the first slot, float64 [B, C]."""
        batch, count = observation.item_ids.shape
        rows = torch.arange(batch, device=self.device).repeat_interleave(count)
        slate = torch.full((batch * count, self.slate_size), -1, device=self.device)
        slate[:, 0] = torch.arange(count, device=self.device).repeat(batch)
        return self.propensity(observation[rows], slate)[:, 0].view(batch, count)

    # Learning.

    @abstractmethod
    def learn(self, interactions: Interactions, used: Tensor) -> None:
        """Take in the rewards of the slots `used`, bool [B, K]: shown, and with a known reward."""

    def check_rewards(self, rewards: Tensor) -> None:
        """Raise InputError for rewards [n] that this agent does not learn from; finite they are."""

    def observe(self, interactions: Interactions) -> None:
        """Learn from every shown item and the reward of its slot; unknown rewards are left out.

        Raises InputError, with nothing learned, for rewards that are not finite or do not fit the agent, and for
        features of another width than it was made for.
        """
        slate, response = interactions.decision.slate, interactions.response
        self._check_width(interactions.observation)
        used = (slate >= 0) & response.reward_known.unsqueeze(1)
        rewards = response.reward[used]
        if not bool(rewards.isfinite().all()):
            row, slot = first_true(used & ~response.reward.isfinite())
            raise InputError(
                f"reward[{row}, {slot}] is {float(response.reward[row, slot])}: give a number, or set reward_known to "
                "false where there is none"
            )
        self.check_rewards(rewards)
        self.learn(interactions, used)
        self.version += 1
        self.steps += len(interactions)
        self._new += len(interactions)

    def _check_width(self, observation: Observation) -> None:
        for name, shown, known in (
            ("user", observation.user.shape[1], len(self.spec.user)),
            ("item", observation.items.shape[2], len(self.spec.items)),
        ):
            if shown != known:
                raise InputError(
                    f"{self.name} was made for {known} {name} features, this observation has {shown}: "
                    "make an agent from the new spec, and let it learn from a log"
                )

    def update(self) -> dict[str, float] | None:
        """Return how many `interactions` were learned from since the last update, or None without new ones."""
        if self._new == 0:
            return None
        new, self._new = self._new, 0
        self.updates += 1
        return {"interactions": float(new)}

    # Saving.

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """Return what was learned, by name."""

    @abstractmethod
    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `learned` gave."""

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that decisions depend on, by name."""
        return {**self.learned(), "counters": torch.tensor([self.version, self._new])}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.version, self._new = (int(value) for value in tensors["counters"])
        # Copies lie in memory as our own tensors do: how it is aligned can decide the last bit of a product.
        self.load_learned({key: value.clone() for key, value in tensors.items() if key != "counters"})


def check_binary(agent: str, rewards: Tensor) -> None:
    """Raise InputError for rewards [n] that are neither 0 nor 1."""
    bad = (rewards != 0) & (rewards != 1)
    if bool(bad.any()):
        raise InputError(
            f"reward {float(rewards[bad][0]):g}: {agent} learns from rewards of 0 and 1 ({int(bad.sum())} of "
            f"{len(rewards)} are others); make them 0 or 1, or take an agent for numbers (thompson-gaussian, lints)"
        )


class EnsembleBandit(DrawingPolicy, Bandit, ABC):
    """A bandit that has S opinions of every candidate and follows one of them at random: Thompson sampling, bagging.

    The opinions stay the same until something is learned, so that propensities are shares of them, exactly.
    """

    @abstractmethod
    def opinions(self, observation: Observation) -> Tensor:
        """Return S scores of every candidate, [B, S, C]."""

    @property
    @abstractmethod
    def members(self) -> int:
        """S, the number of opinions."""

    def distribution(self, observation: Observation) -> Votes:
        """Return the slates that the opinions prefer, each equally likely."""
        step = max(1, CHUNK_VALUES // (self.members * observation.item_ids.shape[1]))
        if step >= len(observation):
            return Votes(self._preferred(observation))
        parts = [self._preferred(observation[at : at + step]) for at in range(0, len(observation), step)]
        return Votes(torch.cat(parts))

    def _preferred(self, observation: Observation) -> Tensor:
        opinions = self.opinions(observation)
        mask = observation.mask.unsqueeze(1).expand(opinions.shape)
        slates = top_k(opinions.flatten(0, 1), mask.flatten(0, 1), self.slate_size)
        return slates.view(*opinions.shape[:2], self.slate_size)

    def noise(self) -> torch.Generator:
        """Return a generator that draws the same numbers until something is learned."""
        key = mix(mix(torch.tensor(self.seed)) + self.version)
        return torch.Generator(self.device).manual_seed(int(key) % 2**63)


class LinearSettings(AgentSettings):
    """Settings of agents with a linear model of the reward."""

    model: Literal["auto", "shared", "disjoint", "hybrid"] = Field(
        "auto", description="one model for all items, one an item, or both; auto: shared where items have features"
    )
    penalty: float = Field(1.0, gt=0, description="λ of the ridge regression")
    forgetting: float = Field(0.0, ge=0, lt=1, description="share of what is known that fades with each interaction")
    window: int = Field(0, ge=0, description="shown items that are remembered, older ones are taken out; 0: all")

    @model_validator(mode="after")
    def _one_kind_of_forgetting(self) -> Self:
        if self.forgetting and self.window:
            raise ValueError("forgetting and window exclude each other: set one of them to 0")
        return self


MODELS: dict[str, Any] = {"shared": SharedModel, "disjoint": DisjointModel, "hybrid": HybridModel}


class LinearBandit(Bandit, ABC):
    """A bandit with a Bayesian linear model of the reward of an item."""

    def begin(self) -> None:
        """Make the model. Raises InputError for a shared model where nothing tells items apart."""
        s = cast(LinearSettings, self._settings)
        featured = self.spec.item_features > 0
        if s.model == "shared" and not featured:
            raise InputError(
                f"{self.name}: model=shared, but items have no features to tell them apart: set model=disjoint"
            )
        kind = s.model if s.model != "auto" else "shared" if featured else "disjoint"
        self.model: LinearModel = MODELS[kind](self.spec, s.penalty, self.device)
        self.window = Window(s.window)

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of every candidate's expected reward, float64 [B, C] each."""
        return self.model.bounds(observation)

    def contributions(self, observation: Observation) -> tuple[tuple[str, ...], Tensor | None]:
        """Return names of features and weight × feature, [B, C, features]."""
        return self.model.names, self.model.contributions(observation)

    def learn(self, interactions: Interactions, used: Tensor) -> None:
        """Take rewards into the sums, and let older ones fade or go."""
        s = cast(LinearSettings, self._settings)
        observation, slate, reward = interactions.observation, interactions.decision.slate, interactions.response.reward
        if s.forgetting:
            self.model.scale((1 - s.forgetting) ** len(interactions))
        rows = self.model.extract(observation, slate, used, reward)
        self.model.add(rows)
        if s.window:
            self.model.add(self.window.push(rows), sign=-1.0)

    def merge(self, other: "LinearBandit") -> None:
        """Add what another agent of the same settings has learned: the sums of both, exactly.

        What both had learned together before they parted counts twice: merge agents that began with nothing.
        Raises InputError for another kind of model, penalty or spec, and where older rewards fade or go.
        """
        mine, theirs = cast(LinearSettings, self.settings), cast(LinearSettings, other.settings)
        if type(self.model) is not type(other.model) or mine.penalty != theirs.penalty or self.spec != other.spec:
            raise InputError(f"{self.name}: only agents of the same model, penalty and spec can be merged")
        if mine.forgetting or mine.window or theirs.forgetting or theirs.window:
            raise InputError(f"{self.name}: agents that forget cannot be merged, their sums are of different times")
        self.model.merge(other.model)
        self.version += 1
        self.steps += int(other.steps)

    def forget_items(self, items: Tensor) -> None:
        """Drop what was learned about items, int64 [n], that are gone; their places are used again.

        Raises InputError for an item that nothing was learned about, and for a shared model.
        """
        self._by_item("forget_items").forget(items)
        self.version += 1

    def warm_start(self, item: int, like: Tensor, share: float = 0.1) -> None:
        """Let a new item begin with the average of what items `like`, int64 [n], have taught.

        share: how much of it counts.  Raises InputError for items that nothing was learned about, or a model with
        features of items, which needs no such start.
        """
        model = self._by_item("warm_start")
        if isinstance(model, HybridModel):
            raise InputError("warm_start: a hybrid model scores new items by what all items share already")
        rows = model.items.of(like)
        if len(like) == 0 or bool((rows == 0).any()):
            raise InputError(f"warm_start: like={like.tolist()} must name items that something was learned about")
        model.warm_start(item, like, share)
        self.version += 1

    def _by_item(self, verb: str) -> DisjointModel:
        if not isinstance(self.model, DisjointModel):
            raise InputError(f"{verb}: the shared model keeps nothing an item; it is for model=disjoint or hybrid")
        return self.model

    def learned(self) -> dict[str, Tensor]:
        """Return the model and the window."""
        return {**self.model.tensors(), **{f"window_{key}": value for key, value in self.window.rows.items()}}

    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `learned` gave."""
        self.model.load(tensors)
        window = {key: value for key, value in tensors.items() if key.startswith("window_")}
        self.window.rows = {key.removeprefix("window_"): value for key, value in window.items()}
