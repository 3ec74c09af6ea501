"""What bandits share: learning from the reward of every shown item, settings that may change, explanations.

A bandit looks one decision ahead. Slates are the items it thinks best, best first, and the reward of every slot teaches
it about the item there: a combinatorial semi-bandit (Chen et al. 2013).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from slatewise.agents.base import Agent
from slatewise.checks import first_true
from slatewise.distributions import Votes
from slatewise.errors import InputError, unknown_name
from slatewise.explanations import Explanation
from slatewise.interactions import Interactions, Observation
from slatewise.noise import mix
from slatewise.policies import DrawingPolicy
from slatewise.slates import top_candidates

CHUNK_VALUES = 4_000_000  # elements of the largest temporary array


class Bandit(Agent, ABC):
    """An agent that learns from the immediate reward of every shown item, as it comes.

    changeable: settings of how it acts, which `configure` may change at any time, after loading too.
    """

    learns_from_logs = True
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
        return top_candidates(self.scores(observation), observation, self.slate_size)

    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the `expected` reward, its `uncertainty` and the `propensity` of the first slot, [B, C] each."""
        score, deviation = self.bounds(observation)
        known = {} if deviation is None else {"uncertainty": deviation}
        return {"expected": score, **known, "propensity": self.probabilities(observation)}

    def explanation(self, observation: Observation) -> Explanation:
        """Return the same with what each feature contributes, where the agent can tell, as a table."""
        score, deviation = self.bounds(observation)
        names, parts = self.contributions(observation)
        return Explanation(observation.item_ids, score, deviation, self.probabilities(observation), parts, names)

    def contributions(self, observation: Observation) -> tuple[tuple[str, ...], Tensor | None]:  # noqa: ARG002
        """Return names of features and what each adds to a score, [B, C, features]; nothing where it cannot tell."""
        return (), None

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
        self.steps += slate.shape[0]
        self._new += slate.shape[0]

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
        candidates = observation.item_ids.shape[1]
        step = max(1, CHUNK_VALUES // (self.members * candidates))
        if step >= len(observation):
            return Votes(self._preferred(observation), candidates)
        parts = [self._preferred(observation[at : at + step]) for at in range(0, len(observation), step)]
        return Votes(torch.cat(parts), candidates)

    def _preferred(self, observation: Observation) -> Tensor:
        return top_candidates(self.opinions(observation), observation, self.slate_size)

    def noise(self) -> torch.Generator:
        """Return a generator that draws the same numbers until something is learned."""
        key = mix(mix(torch.tensor(self.seed)) + self.version)
        return torch.Generator(self.device).manual_seed(int(key) % 2**63)
