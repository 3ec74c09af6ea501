"""Worlds so small that every answer can be worked out by hand."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from slatewise.choice import FirstPosition, InnerProduct, Proportional
from slatewise.environments.base import Environment, State, WorldSettings, response_of
from slatewise.interactions import Catalogue, Observation, Response, Spec
from slatewise.noise import Noise


class Clock(Environment):
    """One state for ever: item 0 earns 1, item 1 nothing, and the user always takes what is shown first.

    Sessions are cut (truncated) after five steps, which ends nobody's future: V = 1 / (1 − γ).
    """

    name = "clock"
    version = 1
    summary_text = "one state"
    Settings: ClassVar[type[WorldSettings]] = WorldSettings
    horizon = 5

    def build(self, settings: Any) -> None:
        self._settings = settings
        self.choice = FirstPosition()
        self.catalogue = Catalogue.of(torch.eye(2))
        self.spec = Spec(
            ("zero", "nought"), ("a", "b"), (), ("earned",), settings.candidates, settings.slate_size, settings.history
        )

    @property
    def settings(self) -> WorldSettings:
        return self._settings

    def begin(self, noise: Noise) -> State:
        return {"user": torch.zeros_like(noise.uniform(2))}

    def sample_candidates(self, noise: Noise) -> State:
        return {"id": torch.arange(self._settings.candidates).expand(self.users, -1)}

    def observe(self) -> Observation:
        ids = self.candidates["id"]
        return Observation(self.state["user"].clone(), ids, torch.zeros(*ids.shape, 0), self.catalogue)

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        earned = (slate == 0).float()
        clicked = torch.ones_like(slate, dtype=torch.bool)
        return response_of(clicked, earned.unsqueeze(2), earned.double()), torch.zeros(self.users, dtype=torch.bool)


class Coin(Clock):
    """One state for ever: a click earns 1 and happens half of the time, whatever is shown.

    V = 0.5 / (1 − γ); an agent that gives no click no value would find 0.5 / (1 − 0.5 γ).
    """

    name = "coin"

    def build(self, settings: Any) -> None:
        super().build(settings)
        self.choice = Proportional(InnerProduct(2), shift=1.0, no_click=1.0)

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        clicked = noise.uniform(1) < 0.5
        earned = clicked.float()
        return response_of(clicked, earned.unsqueeze(2), earned.double()), torch.zeros(self.users, dtype=torch.bool)


class Recall(Clock):
    """At the first step the user says which item to show at the fourth, the last, where it earns 1.

    Said is a signal, 0 or 1, and at the steps between it is noise. Nothing but the history tells what was said first.
    """

    name = "recall"
    horizon = 4

    def begin(self, noise: Noise) -> State:
        return super().begin(noise) | {"wish": (noise.uniform(1).squeeze(1) < 0.5).float()}

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        wish, chance = self.state["wish"], (noise.uniform(1).squeeze(1) < 0.5).float()
        said = torch.where(self.elapsed == 0, wish, chance)
        earned = (slate[:, 0] == wish.long()) & (self.elapsed == 3)
        clicked = torch.ones_like(slate, dtype=torch.bool)
        response = response_of(clicked, said.view(-1, 1, 1), earned.double().unsqueeze(1))
        return response, torch.zeros(self.users, dtype=torch.bool)


class Countdown(Clock):
    """As `Clock`, but the sixth step is the last (terminated), and nothing that the agent observes tells the step.

    With six steps left the best is worth 6, and item 1 costs 1 at any step.
    """

    name = "countdown"
    horizon = None

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        return super().advance(slate, noise)[0], self.elapsed == 5
