"""Interest evolution: the SlateQ problem.

Clicks move a user's interests and cost or refill a hidden budget of time: good topics keep a session alive.
Source: RecSim's `interest_evolution` (Ie et al. 2019, arXiv 1909.04847) and the SlateQ paper (arXiv 1905.12767).
"""

from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.batch import distinct
from slatewise.cache import remembered
from slatewise.choice import (
    ExponentialCascade,
    InnerProduct,
    Logit,
    Proportional,
    ProportionalCascade,
    choose,
    choose_few,
)
from slatewise.environments.base import (
    Environment,
    Reference,
    References,
    SlateRule,
    State,
    WorldSettings,
    check_observe,
    plain_response,
    response_of,
)
from slatewise.interactions import Catalogue, Observation, Response, Spec, SummaryColumn
from slatewise.noise import Noise
from slatewise.plain import is_few, total
from slatewise.policies import Rule
from slatewise.returns import Mean, SessionReturns
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


def documents(count: int) -> tuple[Tensor, Tensor]:
    """Return topic and quality of the documents of a catalogue, [N] each; the same whenever it is asked."""
    generator = torch.Generator().manual_seed(0)
    topic = torch.randint(TOPICS, (count,), generator=generator)
    return topic, quality_of(topic_quality(), topic, torch.randn(count, generator=generator))


def quality_of(means: Any, topic: Any, normal: Any) -> Any:
    """Return the quality of items by the means of topics, their topic and a standard normal; tensors or arrays."""
    return means[topic] + QUALITY_STDDEV * normal


def minutes_won(watch: Any, quality: Any) -> Any:
    """Return the change of the budget by what is watched, in minutes; tensors or plain numbers."""
    return watch * (REFILL * quality - 1)


def interest_step(interest: Any) -> Any:
    """Return how far a click moves the interest in its topic; a tensor or a plain number."""
    return (0.3 - 0.3 * abs(interest)) * (1 - interest)


CHOICES = {choice.name: choice for choice in (Proportional, Logit, ExponentialCascade, ProportionalCascade)}


def _references(
    random: tuple[float, float],
    myopic: tuple[float, float],
    quality: tuple[float, float],
    planner: tuple[float, float] | None = None,
) -> References:
    rules = {"random": Reference(*random), "myopic": Reference(*myopic), "quality": Reference(*quality)}
    return References(rules, Reference(*planner, "planner") if planner else None)


# Mean return ± standard error by (choice, candidates, slate size); without a planner's figure there is no ceiling.
# 20,000 sessions with 10 candidates and multinomial choice, 2,000 with 100, else as many as the errors say; with 20
# no errors were given, and these are those of 2,000 sessions.
REFERENCES = {
    ("proportional", 10, 2): _references((154.13, 0.08), (166.06, 0.18), (280.5, 0.4), (295.0, 0.4)),
    ("logit", 10, 2): _references((152.69, 0.08), (165.07, 0.19), (289.0, 0.3), (295.7, 0.3)),
    ("proportional", 10, 3): _references((160.52, 0.08), (167.98, 0.16), (264.1, 0.3), (279.9, 0.3)),
    ("logit", 10, 3): _references((159.40, 0.08), (167.07, 0.16), (267.3, 0.2), (274.6, 0.2)),
    ("proportional", 50, 2): _references((154.1, 0.2), (189.6, 1.4), (412.9, 4.2), (496.6, 4.4)),
    ("proportional", 20, 3): _references((160.5, 0.3), (172.2, 0.8), (355.8, 2.0), (379.7, 2.4)),
    ("exponential-cascade", 10, 3): _references((92.1, 0.2), (116.0, 0.2), (122.9, 0.3)),
    ("proportional", 100, 10): _references((169.7, 0.3), (183.1, 1.3), (524.0, 5.0)),
    ("logit", 100, 10): _references((169.0, 0.3), (183.6, 1.3), (591.0, 2.0)),
}
# The planner's λ, the return that a minute of budget is worth, where it is known; else it is iterated and cached.
PLANNER_WORTH = {
    ("proportional", 10, 2): 1.48,
    ("logit", 10, 2): 1.48,
    ("proportional", 10, 3): 1.40,
    ("logit", 10, 3): 1.37,
    # As iterated here. With 50 candidates there is no fixed point: the return falls from 505 to 485 as λ passes 2.48.
    ("proportional", 50, 2): 2.40,
    ("proportional", 20, 3): 1.91,
}
FIRST_WORTH, WORTH_ROUNDS, WORTH_SESSIONS = 0.8, 6, 2000  # how λ is iterated


class Settings(WorldSettings):
    """Settings of interest evolution."""

    choice: Literal["proportional", "logit", "exponential-cascade", "proportional-cascade"] = Field(
        "proportional", description="how users choose from a slate"
    )
    reward: Literal["watch", "clicks"] = Field("watch", description="what is counted as reward")
    summary: bool = Field(True, description="show running totals of the session's responses")
    horizon: int | None = Field(None, ge=1, description="truncate sessions after so many steps")
    documents: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="items of a catalogue that shows topic and quality; 0: no two alike",
    )
    observe: tuple[str, ...] = Field((), description="hidden state to show: budget, quality")

    @model_validator(mode="after")
    def _documents_are_enough(self) -> "Settings":
        if self.documents and self.candidates > self.documents:
            raise ValueError(f"there are only {self.documents} documents: set candidates to at most as many")
        if self.documents and "quality" in self.observe:
            raise ValueError("the catalogue of documents shows their quality: leave it out of observe")
        return self


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
        self.choice = self.users_choice = CHOICES[s.choice](InnerProduct(TOPICS))
        self.horizon = s.horizon
        self._topic_quality = topic_quality().to(self.device)
        names = tuple(f"topic_{j}" for j in range(TOPICS))
        self.catalogue = Catalogue.of(torch.eye(TOPICS), names)
        self._topic, self._quality = torch.arange(TOPICS, device=self.device), self._topic_quality  # of catalogue rows
        if s.documents:
            topic, quality = documents(s.documents)
            self.catalogue = Catalogue.of(torch.cat([torch.eye(TOPICS)[topic], quality.unsqueeze(1)], 1))
            self._topic, self._quality = topic.to(self.device), quality.to(self.device)
        self.catalogue = self.catalogue.to(self.device)
        self._no_items = torch.empty(self.users, s.candidates, 0, device=self.device)
        summary = SUMMARY if s.summary else ()
        self.spec = Spec(
            user=(
                *(f"interest_{j}" for j in range(TOPICS)),
                *(column.name for column in summary),
                *(key for key in s.observe if key == "budget"),
            ),
            catalogue=(*names, *(("quality",) if s.documents else ())),
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
        if self._settings.documents:
            item = self._sample_documents(noise)
            some = distinct(item)
            parts = {"item": some, "topic": self._topic[some], "quality": self._quality[some]}
            return {key: value.expand_as(item) for key, value in parts.items()}
        topic = noise.integers(TOPICS, self._settings.candidates)
        if not self._quality_is_fixed:
            return {"topic": topic}
        deviation = QUALITY_STDDEV * noise.normal(self._settings.candidates)
        return {"topic": topic, "quality": self._topic_quality[topic] + deviation}

    def _sample_documents(self, noise: Noise) -> Tensor:
        """Return different documents, one from each of C equal parts of the catalogue; all of them for free."""
        count, parts = self._settings.documents, self._settings.candidates
        first = torch.arange(parts + 1, device=self.device) * count // parts
        if parts == count:
            return first[:-1].expand(len(noise.uniform(1)), -1)
        width = first[1:] - first[:-1]
        return first[:-1] + (noise.uniform(parts) * width).long().clamp(max=width - 1)

    @property
    def _quality_is_fixed(self) -> bool:
        """Whether quality belongs to a candidate before it is shown; else it is drawn when shown, which is the same."""
        s = self._settings
        return "quality" in self.spec.items or s.documents > 0 or s.resample == "session"

    def hidden(self) -> dict[str, Tensor]:
        """Return the time budget that is left, in minutes."""
        return {"budget": self.state["budget"].clamp(min=0)}

    def observe(self) -> Observation:
        """Show interests, session totals, topics, and what is asked for."""
        columns = [self.state["interests"], self.totals]
        if "budget" in self._settings.observe:
            columns.append(self.state["budget"].unsqueeze(1) / BUDGET)
        item = self.candidates["item" if self._settings.documents else "topic"]
        items = self.candidates["quality"].unsqueeze(2) if "quality" in self.spec.items else self._no_items
        return Observation(torch.cat(columns, 1), item, items, self.catalogue)

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Choose an item or none, watch it, and let interests and budget follow."""
        if is_few(slate):
            return self._advance_few(slate, noise)
        topic, quality = self._shown(slate, noise)
        uniforms = noise.uniform(2)
        affinity = self.state["interests"].gather(1, topic)
        probabilities = self.users_choice.probabilities(affinity, torch.ones_like(slate, dtype=torch.bool))
        slot = choose(probabilities, uniforms[:, 0])
        clicked = slot.unsqueeze(1) == torch.arange(slate.shape[1], device=slate.device)
        watch = clicked * self.state["budget"].clamp(max=LENGTH).unsqueeze(1)
        some = slot < slate.shape[1]
        self._move_interests(topic.gather(1, slot.clamp(max=slate.shape[1] - 1).unsqueeze(1)), some, uniforms[:, 1])
        change = total(minutes_won(watch, quality)) - NO_CLICK_COST * ~some
        self.state["budget"] = self.state["budget"] + change
        earned = watch if self._settings.reward == "watch" else clicked
        response = response_of(clicked, torch.stack([watch, quality], 2), earned.double())
        return response, self.state["budget"] <= 0

    def _advance_few(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """`advance` in plain numbers, user by user: the same draws, and the same bits."""
        topic = self.candidates["topic"].gather(1, slate).numpy()
        if self._quality_is_fixed:
            quality = self.candidates["quality"].gather(1, slate).numpy()
        else:
            quality = quality_of(self._topic_quality.numpy(), topic, noise.normal(slate.shape[1]).numpy())
        uniforms = noise.uniform(2).numpy()
        interests, budget = self.state["interests"].numpy(), self.state["budget"].numpy().copy()
        affinity = interests[np.arange(len(topic))[:, None], topic]
        clicked, signals = np.zeros(topic.shape, bool), np.zeros((*topic.shape, 2), np.float32)
        signals[:, :, 1] = quality
        for user, slot in enumerate(choose_few(self.users_choice, affinity, uniforms[:, 0])):
            if slot == topic.shape[1]:
                budget[user] -= NO_CLICK_COST
                continue
            at, watch = topic[user, slot], min(budget[user], np.float32(LENGTH))
            clicked[user, slot], signals[user, slot, 0] = True, watch
            budget[user] += minutes_won(watch, quality[user, slot])
            interest = interests[user, at]
            step = interest_step(interest)
            moved = interest + step if uniforms[user, 1] < (interest + 1) / 2 else interest - step
            interests[user, at] = max(-1.0, min(1.0, moved))
        self.state["budget"] = torch.from_numpy(budget)
        earned = signals[:, :, 0] if self._pays_minutes else clicked
        return plain_response(clicked, signals, earned.astype(np.float64)), torch.from_numpy(budget <= 0)

    def _shown(self, slate: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return topic and quality of the shown items, both [B, K]."""
        topic = self.candidates["topic"].gather(1, slate)
        if self._quality_is_fixed:
            return topic, self.candidates["quality"].gather(1, slate)
        return topic, quality_of(self._topic_quality, topic, noise.normal(slate.shape[1]))

    def _move_interests(self, topic: Tensor, clicked: Tensor, uniform: Tensor) -> None:
        """Move the interest in the clicked topic [B, 1], up with probability (u + 1) / 2."""
        interest = self.state["interests"].gather(1, topic).squeeze(1)
        direction = torch.where(uniform < (interest + 1) / 2, 1.0, -1.0)
        moved = torch.where(clicked, (interest + interest_step(interest) * direction).clamp(-1, 1), interest)
        self.state["interests"].scatter_(1, topic, moved.unsqueeze(1))

    def chances(self, slate: Tensor) -> Tensor:
        """Return the probability that each shown item is watched, then none, float64 [B, K + 1]."""
        affinity = self.state["interests"].gather(1, self.candidates["topic"].gather(1, slate)).double()
        return self.users_choice.probabilities(affinity, torch.ones_like(slate, dtype=torch.bool))

    def expectation(self, slate: Tensor) -> Tensor:
        """Return P(click) times the minutes of a watch, or P(click) where clicks are the reward, float64 [B]."""
        clicked = 1 - self.chances(slate)[:, -1]
        return clicked * self.state["budget"].double().clamp(max=LENGTH) if self._pays_minutes else clicked

    @property
    def _pays_minutes(self) -> bool:
        return self._settings.reward == "watch"

    @property
    def rules(self) -> dict[str, SlateRule]:
        """`myopic`: highest immediate expected watch time; `quality`: best topics; `planner`: the ceiling's policy."""
        quality = self._quality
        return {
            "myopic": lambda o, k: self._best(o, k, torch.ones_like(o.item_ids, dtype=torch.float32), 0.0),
            "quality": lambda o, k: top_k(quality[o.item_ids.clamp(min=0)], o.mask, k),
            "planner": lambda o, k: self.plan(o, k, self.planner_worth()),
        }

    def _best(self, observation: Observation, k: int, values: Tensor, nothing: float) -> Tensor:
        scores = self.users_choice.scores(observation)
        return best_slate(
            self.users_choice, scores, values, torch.full_like(scores[:, 0], nothing), observation.mask, k
        )[0]

    def plan(self, observation: Observation, k: int, worth: float) -> Tensor:
        """Return the slate of highest E[reward] + worth · E[change of budget], the drift of interests ignored.

        worth: λ, the return that a minute of budget is worth.
        """
        minutes = minutes_won(LENGTH, self._quality[observation.item_ids.clamp(min=0)])
        reward = LENGTH if self._pays_minutes else 1.0
        return self._best(observation, k, reward + worth * minutes, -NO_CLICK_COST * worth)

    def planner_worth(self) -> float:
        """Return the planner's λ = return / 200 at its fixed point: known, else iterated the first time and cached."""
        s = self._settings
        key = (s.choice, s.candidates, s.slate_size)
        if self._is_standard and key in PLANNER_WORTH:
            return PLANNER_WORTH[key]
        named = ("choice", "candidates", "slate_size", "resample", "reward", "horizon")
        settings = {name: getattr(s, name) for name in named} | ({"documents": s.documents} if s.documents else {})
        described = " ".join([self.full_name, *(f"{name}={value}" for name, value in settings.items())])
        return remembered("planner", described, lambda: iterated_worth(settings))

    @property
    def _is_standard(self) -> bool:
        """Whether sessions are those of the reference figures, whatever is observed."""
        s = self._settings
        return s.reward == "watch" and s.resample == "step" and s.horizon is None and not s.documents

    @property
    def references(self) -> References | None:
        """Known returns for these settings, or None."""
        s = self._settings
        if not self._is_standard or "quality" in s.observe:
            return None
        return REFERENCES.get((s.choice, s.candidates, s.slate_size))


def iterated_worth(settings: dict[str, Any]) -> float:
    """Return λ after `WORTH_ROUNDS` rounds, each the planner's mean return over `WORTH_SESSIONS` users, / 200.

    Fewer users with more than 1,000 candidates.
    """
    worth = FIRST_WORTH
    env = InterestEvolution(min(WORTH_SESSIONS, 2_000_000 // settings["candidates"]), summary=False, **settings)
    for _ in range(WORTH_ROUNDS):
        env.reset(0)
        policy = Rule("planner", lambda o, k, worth=worth: env.plan(o, k, worth), env.spec.slate_size)
        sessions = SessionReturns(env.users)
        while sessions.complete() < 1:
            sessions.add(env.step(policy.act(env.observation)))
        worth = Mean.of(sessions.first(1)[0]).mean / BUDGET
    return worth
