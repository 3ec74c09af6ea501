"""Interest evolution: the SlateQ problem.

Clicks move a user's interests and cost or refill a hidden budget of time: good topics keep a session alive.
Source: RecSim's `interest_evolution` (Ie et al. 2019, arXiv 1909.04847) and the SlateQ paper (arXiv 1905.12767).
"""

from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.choice import InnerProduct, Logit, Proportional, choose
from slatewise.environments.base import (
    Environment,
    Reference,
    References,
    SlateRule,
    State,
    WorldSettings,
    check_observe,
    response_of,
)
from slatewise.interactions import Catalogue, Observation, Response, Spec, SummaryColumn
from slatewise.noise import Noise
from slatewise.slates import best_slate, top_k

TOPICS = 20
LENGTH = 4.0  # minutes of an item
BUDGET = 200.0  # minutes a session begins with
NO_CLICK_COST = 0.5  # minutes
REFILL = 0.9 / 3.4  # minutes won back per minute watched and unit of quality
QUALITY_STDDEV = 0.1

SUMMARY = (
    SummaryColumn("watched", ("watch",), 1 / BUDGET),
    SummaryColumn("watched_quality", ("watch", "quality"), 1 / BUDGET),
    SummaryColumn("no_clicks", (), NO_CLICK_COST / BUDGET, no_click=True),
)


def topic_quality() -> Tensor:
    """Return the mean quality of every topic: 14 poor ones, 6 good ones."""
    return torch.cat([torch.linspace(-3, 0, 14), torch.linspace(0, 3, 6)])


def _references(
    random: tuple[float, float],
    myopic: tuple[float, float],
    quality: tuple[float, float],
    planner: tuple[float, float],
) -> References:
    rules = {"random": Reference(*random), "myopic": Reference(*myopic), "quality": Reference(*quality)}
    return References(rules, Reference(*planner, "planner"))


# Mean return ± standard error over 20,000 sessions, by (choice, candidates, slate size), and the planner's λ:
# the return that a minute of budget is worth.
REFERENCES = {
    ("proportional", 10, 2): _references((154.13, 0.08), (166.06, 0.18), (280.5, 0.4), (295.0, 0.4)),
    ("logit", 10, 2): _references((152.69, 0.08), (165.07, 0.19), (289.0, 0.3), (295.7, 0.3)),
    ("proportional", 10, 3): _references((160.52, 0.08), (167.98, 0.16), (264.1, 0.3), (279.9, 0.3)),
    ("logit", 10, 3): _references((159.40, 0.08), (167.07, 0.16), (267.3, 0.2), (274.6, 0.2)),
    ("proportional", 50, 2): _references((154.1, 0.2), (189.6, 1.4), (412.9, 4.2), (496.6, 4.4)),
}
PLANNER_WORTH = {
    ("proportional", 10, 2): 1.48,
    ("logit", 10, 2): 1.48,
    ("proportional", 10, 3): 1.40,
    ("logit", 10, 3): 1.37,
}


class Settings(WorldSettings):
    """Settings of interest evolution."""

    choice: Literal["proportional", "logit"] = Field("proportional", description="how users choose from a slate")
    reward: Literal["watch", "clicks"] = Field("watch", description="what is counted as reward")
    summary: bool = Field(True, description="show running totals of the session's responses")
    horizon: int | None = Field(None, ge=1, description="truncate sessions after so many steps")
    observe: tuple[str, ...] = Field((), description="hidden state to show: budget, quality")


class InterestEvolution(Environment):
    """Users whose interests drift with what they click, and whose time runs out unless quality refills it."""

    name = "interest-evolution"
    version = 1
    summary_text = "the SlateQ problem: clicks move interests, quality keeps the session alive"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings."""
        self._settings = s = cast(Settings, settings)
        check_observe(self.name, s.observe, ("budget", "quality"))
        affinity = InnerProduct(TOPICS)
        self.users_choice = Logit(affinity) if s.choice == "logit" else Proportional(affinity)
        self.choice = self.users_choice
        self.horizon = s.horizon
        self.catalogue = Catalogue.of(torch.eye(TOPICS), [f"topic_{j}" for j in range(TOPICS)]).to(self.device)
        self._topic_quality = topic_quality().to(self.device)
        summary = SUMMARY if s.summary else ()
        self.spec = Spec(
            user=(
                *(f"interest_{j}" for j in range(TOPICS)),
                *(column.name for column in summary),
                *(key for key in s.observe if key == "budget"),
            ),
            catalogue=self.catalogue.ids or (),
            items=tuple(key for key in s.observe if key == "quality"),
            signals=("watch", "quality"),
            candidates=s.candidates,
            slate_size=s.slate_size,
            history=s.history,
            summary=summary,
        )

    @property
    def settings(self) -> Settings:
        """The settings this world was made with."""
        return self._settings

    def begin(self, noise: Noise) -> State:
        """Return the state of new users, one row each."""
        interests = noise.uniform(TOPICS) * 2 - 1
        return {"interests": interests, "budget": torch.full_like(interests[:, 0], BUDGET)}

    def sample_candidates(self, noise: Noise) -> State:
        """Return the topics of the candidates, and their quality where it can be known before it is shown, [n, C]."""
        topic = noise.integers(TOPICS, self._settings.candidates)
        if not self._quality_is_fixed:
            return {"topic": topic}
        deviation = QUALITY_STDDEV * noise.normal(self._settings.candidates)
        return {"topic": topic, "quality": self._topic_quality[topic] + deviation}

    @property
    def _quality_is_fixed(self) -> bool:
        """Whether quality belongs to a candidate before it is shown; else it is drawn when shown, which is the same."""
        return "quality" in self.spec.items or self._settings.resample == "session"

    def hidden(self) -> dict[str, Tensor]:
        """Return the time budget that is left, in minutes."""
        return {"budget": self.state["budget"].clamp(min=0)}

    def observe(self) -> Observation:
        """Show interests, session totals, topics, and what is asked for."""
        columns = [self.state["interests"], self.totals]
        if "budget" in self._settings.observe:
            columns.append(self.state["budget"].unsqueeze(1) / BUDGET)
        topic = self.candidates["topic"]
        if "quality" in self.spec.items:
            items = self.candidates["quality"].unsqueeze(2)
        else:
            items = self._topic_quality.new_empty(*topic.shape, 0)
        return Observation(torch.cat(columns, 1), topic, items, self.catalogue)

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Choose an item or none, watch it, and let interests and budget follow."""
        topic, quality = self._shown(slate, noise)
        uniforms = noise.uniform(2)
        affinity = self.state["interests"].gather(1, topic)
        probabilities = self.users_choice.probabilities(affinity, torch.ones_like(slate, dtype=torch.bool))
        slot = choose(probabilities, uniforms[:, 0])
        clicked = slot.unsqueeze(1) == torch.arange(slate.shape[1], device=slate.device)
        watch = clicked * self.state["budget"].clamp(max=LENGTH).unsqueeze(1)
        some = slot < slate.shape[1]
        self._move_interests(topic.gather(1, slot.clamp(max=slate.shape[1] - 1).unsqueeze(1)), some, uniforms[:, 1])
        change = (watch * (REFILL * quality - 1)).sum(1) - NO_CLICK_COST * ~some
        self.state["budget"] = self.state["budget"] + change
        earned = watch if self._settings.reward == "watch" else clicked
        response = response_of(clicked, torch.stack([watch, quality], 2), earned.double())
        return response, self.state["budget"] <= 0

    def _shown(self, slate: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return topic and quality of the shown items, both [B, K]."""
        topic = self.candidates["topic"].gather(1, slate)
        if self._quality_is_fixed:
            return topic, self.candidates["quality"].gather(1, slate)
        return topic, self._topic_quality[topic] + QUALITY_STDDEV * noise.normal(slate.shape[1])

    def _move_interests(self, topic: Tensor, clicked: Tensor, uniform: Tensor) -> None:
        """Move the interest in the clicked topic [B, 1], up with probability (u + 1) / 2."""
        interest = self.state["interests"].gather(1, topic).squeeze(1)
        step = (0.3 - 0.3 * interest.abs()) * (1 - interest)
        direction = torch.where(uniform < (interest + 1) / 2, 1.0, -1.0)
        moved = torch.where(clicked, (interest + step * direction).clamp(-1, 1), interest)
        self.state["interests"].scatter_(1, topic, moved.unsqueeze(1))

    @property
    def rules(self) -> dict[str, SlateRule]:
        """`myopic`: highest immediate expected watch time; `quality`: best topics; `planner`: the ceiling's policy."""
        quality = self._topic_quality

        def myopic(observation: Observation, k: int) -> Tensor:
            scores = self.users_choice.scores(observation)
            return best_slate(
                self.users_choice, scores, torch.ones_like(scores), torch.zeros_like(scores[:, 0]), observation.mask, k
            )[0]

        rules: dict[str, SlateRule] = {
            "myopic": myopic,
            "quality": lambda o, k: top_k(quality[o.item_ids.clamp(min=0)], o.mask, k),
        }
        worth = PLANNER_WORTH.get((self._settings.choice, self._settings.candidates, self._settings.slate_size))
        if worth is not None and self._settings.reward == "watch":

            def planner(observation: Observation, k: int) -> Tensor:
                minutes = LENGTH * (REFILL * quality[observation.item_ids.clamp(min=0)] - 1)
                nothing = torch.full_like(minutes[:, 0], -NO_CLICK_COST * worth)
                scores = self.users_choice.scores(observation)
                return best_slate(self.users_choice, scores, LENGTH + worth * minutes, nothing, observation.mask, k)[0]

            rules["planner"] = planner
        return rules

    @property
    def references(self) -> References | None:
        """Known returns for these settings, or None."""
        s = self._settings
        if s.reward != "watch" or s.resample != "step" or s.horizon is not None or "quality" in s.observe:
            return None
        return REFERENCES.get((s.choice, s.candidates, s.slate_size))
