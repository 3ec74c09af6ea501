"""Bandits for lists whose clicks say where the user looked: cascading and position-based UCB.

Both count, for every item, clicks among the times that the user looked at it, and show the items of highest upper
confidence bound, best first. They learn from clicks and not from rewards.
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.bandit_sums import CountingBandit, SumSettings
from slatewise.choice import PositionBased
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation
from slatewise.linear_models import Rows
from slatewise.slates import top_candidates


class CascadeSettings(SumSettings):
    """Settings of cascading UCB."""

    width: float = Field(1.5, ge=0, description="c of the confidence bound √(c ln t / n)")


class ListUCB(CountingBandit):
    """What the two share: the highest mean plus radius; what the user never looked at comes first."""

    def radius(self, observation: Observation) -> Tensor:
        """Return the radius of the confidence bound of every candidate, [B, C], infinite where nothing is known."""
        raise NotImplementedError

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return the probability of a click on a candidate that is looked at, and the radius of its bound, [B, C]."""
        return super().bounds(observation)[0], self.radius(observation)

    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        """Return the top items by upper confidence bound, or by mean without exploration."""
        mean, radius = self.bounds(observation)
        return top_candidates(mean + radius if explore and radius is not None else mean, observation, self.slate_size)


class CascadeUCB(ListUCB):
    """Users look from the top and stop at their first click: above it was skipped, below was never seen.

    Source: CascadeUCB1, Kveton et al. 2015, arXiv 1502.02763, Algorithm 1.
    """

    name = "cascade-ucb"
    summary_text = "bandit for lists read from the top to the first click, without context"
    Settings = CascadeSettings
    changeable = ("width",)

    def rows_of(self, interactions: Interactions, used: Tensor) -> Rows:
        """Return one look for every item down to the first click, and one click there."""
        clicked = interactions.response.clicked & used
        before = clicked.int().cumsum(1) - clicked.int()
        where = used & (before == 0)
        values = torch.stack([torch.ones_like(where[where], dtype=torch.float64), clicked[where].double()], 1)
        return self.rows_at(interactions, where, values)

    def radius(self, observation: Observation) -> Tensor:
        """Return √(c ln t / n)."""
        shown, _ = self.counts(observation)
        rounds = torch.tensor(max(1.0, float(self.steps)), dtype=torch.float64)
        radius = (cast(CascadeSettings, self.settings).width * rounds.log() / shown.clamp(min=1e-300)).sqrt()
        return torch.where(shown > 0, radius, torch.inf)


class PositionSettings(SumSettings):
    """Settings of position-based UCB."""

    examination: tuple[float, ...] = Field(
        (), description="probability that a user looks at each position; default: the choice model's, else 1 / position"
    )
    width: float = Field(1.0, ge=0, description="δ of the confidence bound, in units of ln t")


class PositionUCB(ListUCB):
    """Users look at each position with a known probability, and click what attracts, each slot on its own.

    With N showings and Ñ = Σ examination of an item, clicks / Ñ + √(N / Ñ) √(δ / 2Ñ). Source: PBM-UCB, Lagrée et al.
    2016, arXiv 1606.02448, section 4.1.
    """

    name = "position-ucb"
    summary_text = "bandit for lists whose positions are looked at with known probabilities, without context"
    Settings = PositionSettings
    changeable = ("width",)
    columns = 3

    def build(self, settings: Any) -> None:
        """Take the settings. Raises InputError unless every position has a probability above 0."""
        known = self.choice.examination if isinstance(self.choice, PositionBased) else ()
        default = tuple(1 / (1 + slot) for slot in range(self.slate_size))
        self.examination = settings.examination or known or default
        if len(self.examination) < self.slate_size or not all(0 < p <= 1 for p in self.examination):
            raise InputError(
                f"position-ucb: examination={self.examination}: give a probability in (0, 1] for each of the "
                f"{self.slate_size} positions"
            )
        super().build(settings)

    def rows_of(self, interactions: Interactions, used: Tensor) -> Rows:
        """Return for every shown item the examination of its position, its click, and one showing."""
        looked = torch.tensor(self.examination, dtype=torch.float64, device=self.device)[: used.shape[1]]
        clicked = interactions.response.clicked.double()
        values = torch.stack([looked.expand(used.shape), clicked, torch.ones_like(clicked)], 2)
        return self.rows_at(interactions, used, values[used])

    def radius(self, observation: Observation) -> Tensor:
        """Return √(N / Ñ) √(δ ln t / 2Ñ)."""
        found = self.sums[self.items.of(observation.item_ids)]
        looked, shown = found[:, :, 0].clamp(min=1e-300), found[:, :, 2]
        delta = cast(PositionSettings, self.settings).width * torch.tensor(max(1.0, float(self.steps))).log()
        return torch.where(shown > 0, (shown / looked * delta / (2 * looked)).sqrt(), torch.inf)
