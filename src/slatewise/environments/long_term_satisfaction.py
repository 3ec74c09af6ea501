"""Long-term satisfaction: chocolate or kale.

The user always consumes the first item of the slate. Clickbait (x near 1, chocolate) engages more now and lowers
satisfaction; kale does the opposite. Source: RecSim (Ie et al. 2019, arXiv 1909.04847), environment
`long_term_satisfaction`, and the variants of the public SlateQ tutorials of 2022.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.choice import FirstPosition
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
from slatewise.interactions import Observation, Response, Spec
from slatewise.noise import Noise
from slatewise.slates import top_k


@dataclass(frozen=True)
class Variant:
    """Constants of a user. `start` fixes the exposure a session begins with; `parity`: even items sweet, odd kale."""

    memory_discount: float
    sensitivity: float
    innovation_stddev: float
    chocolate: tuple[float, float]  # mean and standard deviation of log engagement per unit of satisfaction
    kale: tuple[float, float]
    budget: int  # steps of a session
    candidates: int
    slate_size: int
    start: float | None = None
    parity: bool = False
    clock: bool = False  # the observation holds step / 10 − 0.5
    observe: tuple[str, ...] = ()


VARIANTS = {
    "recsim": Variant(0.7, 0.01, 0.05, (5.0, 1.0), (4.0, 1.0), 60, 10, 2),
    "slides": Variant(0.7, 0.058, 0.05, (5.0, 0.1), (4.0, 0.1), 120, 20, 2, observe=("satisfaction",)),
    "sweetness": Variant(0.7, 0.9, 1e-5, (5.0, 0.0), (0.0, 0.0), 10, 20, 1, start=1.0, parity=True, clock=True),
}


def expected_engagement(variant: Variant, exposure: Tensor, x: Tensor) -> Tensor:
    """Return E[engagement] = exp(location + scale² / 2), the mean of a lognormal; any shapes that broadcast."""
    satisfaction = torch.sigmoid(variant.sensitivity * exposure)
    location = (x * variant.chocolate[0] + (1 - x) * variant.kale[0]) * satisfaction
    scale = x * variant.chocolate[1] + (1 - x) * variant.kale[1]
    return (location + scale**2 / 2).exp()


def next_exposure(variant: Variant, exposure: Tensor, x: Tensor) -> Tensor:
    """Return the mean of the next net positive exposure; its standard deviation is that of the innovation."""
    return variant.memory_discount * exposure - 2 * (x - 0.5)


def rise_probability(variant: Variant, exposure: Tensor, x: Tensor) -> Tensor:
    """Return the probability that satisfaction rises, which it does when exposure does; rounding left aside."""
    return torch.special.ndtr((next_exposure(variant, exposure, x) - exposure) / variant.innovation_stddev)


# Mean return ± standard error over 20,000 sessions; the ceiling by dynamic programming with the true model.
REFERENCES = {
    ("recsim", 10): References(
        {
            "random": Reference(949.3, 1.2),
            "sweetest": Reference(1114.7, 1.3),
            "kalest": Reference(784.5, 0.9),
        },
        Reference(1114.7, 1.3, "exact"),
    ),
    ("slides", 20): References(
        {
            "random": Reference(1157.84, 0.08),
            "sweetest": Reference(1163.71, 0.08),
            "kalest": Reference(1084.17, 0.07),
        },
        Reference(1195.84, 0.08, "exact"),
    ),
    ("sweetness", 20): References(
        {
            "random": Reference(99.29, 0.17),
            "sweetest": Reference(56.53, 0.01),
            "kalest": Reference(10.875, 0.002),
        },
        Reference(225.87, 0.05, "exact"),
    ),
}


class Settings(WorldSettings):
    """Settings of long-term satisfaction; candidates, slate_size, horizon and observe follow the variant."""

    variant: Literal["recsim", "slides", "sweetness"] = Field("recsim", description="which user")
    reward: Literal["engagement", "satisfaction_rose"] = Field("engagement", description="signal that is the reward")
    horizon: int = Field(60, ge=1, le=100_000, description="steps of a session, the user's time budget")
    observe: tuple[str, ...] = Field((), description="hidden state to show: budget, satisfaction")

    @model_validator(mode="before")
    @classmethod
    def _of_variant(cls, values: dict[str, Any]) -> dict[str, Any]:
        variant = VARIANTS.get(str(values.get("variant", "recsim")))
        if variant is None:
            return values
        defaults = {
            "candidates": variant.candidates,
            "slate_size": variant.slate_size,
            "horizon": variant.budget,
            "observe": variant.observe,
        }
        return defaults | values


class LongTermSatisfaction(Environment):
    """Chocolate or kale: what engages most now lowers satisfaction, and with it all later engagement."""

    name = "long-term-satisfaction"
    version = 1
    summary_text = "chocolate or kale: clickbait engages now and costs satisfaction later"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings."""
        self._settings = cast(Settings, settings)
        self.variant = VARIANTS[self._settings.variant]
        self.choice = self.users_choice = FirstPosition()
        check_observe(self.name, self._settings.observe, ("budget", "satisfaction"))
        clock = ("step",) if self.variant.clock else ()
        self.spec = Spec(
            user=("last_x", "last_engagement", *clock, *self._settings.observe),
            catalogue=(),
            items=("x",),
            signals=("engagement", "satisfaction_rose"),
            candidates=self._settings.candidates,
            slate_size=self._settings.slate_size,
            history=self._settings.history,
        )

    @property
    def settings(self) -> Settings:
        """The settings this world was made with."""
        return self._settings

    def begin(self, noise: Noise) -> State:
        """Return the state of new users, one row each."""
        spread = (noise.uniform(1).squeeze(1) - 0.5) / (1 - self.variant.memory_discount)
        exposure = spread if self.variant.start is None else torch.full_like(spread, self.variant.start)
        zeros = torch.zeros_like(spread)
        return {
            "exposure": exposure,
            "budget": torch.full_like(spread, self._settings.horizon),
            "last_x": zeros,
            "last_engagement": zeros.clone(),
        }

    def sample_candidates(self, noise: Noise) -> State:
        """Return clickbait scores x, [n, C]; in `sweetness` even items are sweet, odd ones kale."""
        x = noise.uniform(self._settings.candidates)
        if self.variant.parity:
            even = torch.arange(x.shape[1], device=x.device) % 2 == 0
            x = 0.2 * x + 0.8 * even
        return {"x": x}

    def satisfaction(self) -> Tensor:
        """Return the present satisfaction, hidden unless observed, [B]."""
        return torch.sigmoid(self.variant.sensitivity * self.state["exposure"])

    def hidden(self) -> dict[str, Tensor]:
        """Return the satisfaction, between 0 and 1."""
        return {"satisfaction": self.satisfaction()}

    def observe(self) -> Observation:
        """Show the last item's x and engagement (clipped to 100, over 100), the clock, and what is asked for."""
        columns = [self.state["last_x"], self.state["last_engagement"].clamp(0, 100) / 100]
        if self.variant.clock:
            columns.append(self.elapsed / 10 - 0.5)
        for key in self._settings.observe:
            budget = self.state["budget"] / self._settings.horizon
            columns.append(budget if key == "budget" else self.satisfaction())
        x = self.candidates["x"]
        ids = torch.arange(x.shape[1], device=x.device).expand(x.shape)
        return Observation(torch.stack(columns, 1), ids, x.unsqueeze(2))

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Consume the first item; engagement depends on the satisfaction before it."""
        variant, state = self.variant, self.state
        x = self.candidates["x"].gather(1, slate[:, :1]).squeeze(1)
        normals = noise.normal(2)
        before = self.satisfaction()
        location = (x * variant.chocolate[0] + (1 - x) * variant.kale[0]) * before
        scale = x * variant.chocolate[1] + (1 - x) * variant.kale[1]
        engagement = (location + scale * normals[:, 0]).exp()
        state["exposure"] = next_exposure(variant, state["exposure"], x) + variant.innovation_stddev * normals[:, 1]
        state["budget"] = state["budget"] - 1
        state["last_x"], state["last_engagement"] = x, engagement
        rose = (self.satisfaction() > before).float()
        signals = torch.zeros(*slate.shape, 2, device=slate.device)
        signals[:, 0, 0], signals[:, 0, 1] = engagement, rose
        clicked = torch.zeros_like(slate, dtype=torch.bool)
        clicked[:, 0] = True
        earned = 0 if self._settings.reward == "engagement" else 1
        return response_of(clicked, signals, signals[:, :, earned].double()), state["budget"] <= 0

    def chances(self, slate: Tensor) -> Tensor:
        """Return 1 for the first slot, float64 [B, K + 1]."""
        scores = torch.zeros(slate.shape, dtype=torch.float64, device=slate.device)
        return self.users_choice.probabilities(scores, torch.ones_like(slate, dtype=torch.bool))

    def expectation(self, slate: Tensor) -> Tensor:
        """Return the expected engagement of the first item, or the probability that satisfaction rises, float64 [B]."""
        x = self.candidates["x"].gather(1, slate[:, :1]).squeeze(1).double()
        expected = expected_engagement if self._settings.reward == "engagement" else rise_probability
        return expected(self.variant, self.state["exposure"].double(), x)

    @property
    def rules(self) -> dict[str, SlateRule]:
        """`sweetest` shows the highest x first (the myopic rule here), `kalest` the lowest."""
        return {
            "sweetest": lambda o, k: top_k(o.items[:, :, 0], o.mask, k),
            "kalest": lambda o, k: top_k(-o.items[:, :, 0], o.mask, k),
        }

    @property
    def references(self) -> References | None:
        """Known returns for these settings, or None."""
        s = self._settings
        if s.horizon != self.variant.budget or s.reward != "engagement" or s.resample != "step":
            return None
        return REFERENCES.get((s.variant, s.candidates))
