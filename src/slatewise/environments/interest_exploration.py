"""Interest exploration: what a user likes is hidden, and only showing it tells.

Users are of two types that differ in their affinity to two topics. Nothing an agent does changes the user, so
knowing them is all there is to win. Source: RecSim's `interest_exploration` (Ie et al. 2019, arXiv 1909.04847).
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.choice import InnerProduct, Logit, choose
from slatewise.environments.base import (
    Environment,
    Reference,
    References,
    SlateRule,
    State,
    WorldSettings,
    response_of,
)
from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Observation, Response, Spec
from slatewise.noise import Noise
from slatewise.slates import top_k

TOPICS = 2
STDDEV = 0.1  # of log quality and of log affinity
NO_CLICK = 5.0  # logit


@dataclass(frozen=True)
class Variant:
    """Constants of the users and topics.

    topics, types: the share of topic 0 and of type 0.  quality: means of log quality, by topic.
    affinity: means of log affinity to the topics, by type.
    """

    topics: float
    types: float
    quality: tuple[float, float]
    affinity: tuple[tuple[float, float], tuple[float, float]]


VARIANTS = {
    "recsim": Variant(0.2, 0.3, (0.8, 0.2), ((0.1, 0.7), (0.7, 0.1))),
    "split": Variant(0.5, 0.5, (0.4, 0.2), ((0.1, 1.2), (1.2, 0.1))),
}


def _references(random: tuple[float, float], myopic: tuple[float, float], oracle: tuple[float, float]) -> References:
    return References({"random": Reference(*random), "myopic": Reference(*myopic)}, Reference(*oracle, "exact"))


# Mean clicks ± standard error over 20,000 sessions of 100 steps, 10 candidates, slates of 2. The ceiling is the rule
# `oracle`, exact for who knows the user: a learner has to find out first.
REFERENCES = {
    "recsim": _references((22.86, 0.04), (38.71, 0.06), (39.28, 0.06)),
    "split": _references((41.00, 0.05), (42.33, 0.16), (61.64, 0.07)),
}


class Settings(WorldSettings):
    """Settings of interest exploration."""

    variant: Literal["recsim", "split"] = Field("recsim", description="which constants; split rewards exploring")
    horizon: int = Field(100, ge=1, le=100_000, description="truncate sessions after so many steps")


class InterestExploration(Environment):
    """Users of hidden types: showing a topic is the only way to learn who likes it."""

    name = "interest-exploration"
    version = 1
    summary_text = "hidden types of users: only showing a topic tells who likes it"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings."""
        self._settings = s = cast(Settings, settings)
        self.variant = VARIANTS[s.variant]
        self.users_choice = Logit(InnerProduct(0), NO_CLICK)  # its scores come from what is hidden
        self.horizon = s.horizon
        self.catalogue = Catalogue.of(torch.eye(TOPICS), [f"topic_{j}" for j in range(TOPICS)]).to(self.device)
        self._log_quality = torch.tensor(self.variant.quality, device=self.device)
        self._log_affinity = torch.tensor(self.variant.affinity, device=self.device)
        names = self.catalogue.ids or ()
        self.spec = Spec(
            user=(*(f"shown_{name}" for name in names), *(f"clicked_{name}" for name in names)),
            catalogue=names,
            items=("quality",),
            signals=("quality",),
            candidates=s.candidates,
            slate_size=s.slate_size,
            history=s.history,
        )

    @property
    def settings(self) -> Settings:
        """The settings this world was made with."""
        return self._settings

    def begin(self, noise: Noise) -> State:
        """Return the state of new users: their affinity to the topics, and what they were shown and clicked so far."""
        kind = (noise.uniform(1).squeeze(1) >= self.variant.types).long()
        affinity = (self._log_affinity[kind] + STDDEV * noise.normal(TOPICS)).exp()
        return {"affinity": affinity, "totals": torch.zeros(len(kind), 2 * TOPICS, device=affinity.device)}

    def sample_candidates(self, noise: Noise) -> State:
        """Return topic and quality of the candidates, [n, C] each."""
        count = self._settings.candidates
        topic = (noise.uniform(count) >= self.variant.topics).long()
        return {"topic": topic, "quality": (self._log_quality[topic] + STDDEV * noise.normal(count)).exp()}

    def hidden(self) -> dict[str, Tensor]:
        """Return the affinity to each topic."""
        return {f"affinity_{name}": self.state["affinity"][:, j] for j, name in enumerate(self.catalogue.ids or ())}

    def observe(self) -> Observation:
        """Show how much of every topic was shown and clicked, over the horizon; topic and quality of the candidates."""
        quality = self.candidates["quality"].unsqueeze(2)
        return Observation(
            self.state["totals"] / self._settings.horizon, self.candidates["topic"], quality, self.catalogue
        )

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Let the users choose; nothing about them changes."""
        slot = choose(self.chances(slate), noise.uniform(1).squeeze(1))
        clicked = slot.unsqueeze(1) == torch.arange(slate.shape[1], device=slate.device)
        topic = self.candidates["topic"].gather(1, slate)
        self.state["totals"] = self.state["totals"].scatter_add(
            1, torch.cat([topic, topic + TOPICS], 1), torch.cat([torch.ones_like(clicked), clicked], 1).float()
        )
        quality = self.candidates["quality"].gather(1, slate).unsqueeze(2)
        return response_of(clicked, quality, clicked.double()), torch.zeros_like(slot, dtype=torch.bool)

    def scores(self) -> Tensor:
        """Return affinity to the topic + quality of every candidate, [B, C]: what users choose by."""
        return self.state["affinity"].gather(1, self.candidates["topic"]) + self.candidates["quality"]

    def chances(self, slate: Tensor) -> Tensor:
        """Return the probability that each shown item is clicked, then none, float64 [B, K + 1]."""
        topic = self.candidates["topic"].gather(1, slate)
        scores = self.state["affinity"].gather(1, topic) + self.candidates["quality"].gather(1, slate)
        return self.users_choice.probabilities(scores.double(), torch.ones_like(slate, dtype=torch.bool))

    def expectation(self, slate: Tensor) -> Tensor:
        """Return the probability of a click, float64 [B]."""
        return 1 - self.chances(slate)[:, -1]

    @property
    def rules(self) -> dict[str, SlateRule]:
        """`myopic`: highest quality, whoever the user is; `oracle`: what this very user likes best, the ceiling."""
        return {
            "myopic": lambda o, k: top_k(o.items[:, :, 0], o.mask, k),
            "oracle": lambda o, k: top_k(self._known_scores(o), o.mask, k),
        }

    def _known_scores(self, observation: Observation) -> Tensor:
        """Return the scores of the present users that an observation shows, in its order, [n, C].

        Raises InputError for an observation of anybody else.
        """
        shown, present = observation.items, self.observation.items
        if torch.equal(shown, present):
            return self.scores()
        first, order = present[:, 0, 0].sort()  # by the quality of the first candidate users are told apart
        rows = order[torch.searchsorted(first, shown[:, 0, 0].contiguous()).clamp(max=len(first) - 1)]
        if not torch.equal(shown, present[rows]):
            raise InputError(
                "oracle reads what users hide, so it stands only where this simulator is stepped: name another rule"
            )
        return self.scores()[rows]

    @property
    def references(self) -> References | None:
        """Known returns for these settings, or None."""
        s = self._settings
        known = (s.candidates, s.slate_size, s.horizon, s.resample) == (10, 2, 100, "step")
        return REFERENCES[s.variant] if known else None
