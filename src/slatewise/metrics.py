"""What people ask beside the return: clicks, signals, coverage, concentration, novelty, diversity.

Functions of how often every item was shown, and `Tally`, which sums what they need over interactions from anywhere:
a simulator, a log, a service. No row is kept. Definitions as in Castells, Hurley & Vargas, "Novelty and diversity in
recommender systems" (Recommender Systems Handbook, 2015).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slatewise.interactions import Interactions, Spec


def coverage(exposure: Tensor) -> float:
    """Return the share of items that were shown at all. exposure: how often each was shown, [N]."""
    return float((exposure > 0).double().mean())


def gini(exposure: Tensor) -> float:
    """Return the Gini index of exposure [N]: 0 where all items are shown equally, 1 − 1/N where one is shown alone.

    Half the mean difference of two items, divided by the mean; in sorted order Σ (2i − N − 1) x_i / (N Σ x), i from 1.
    """
    ordered = exposure.double().sort().values
    ranks = torch.arange(1, len(ordered) + 1, dtype=torch.float64, device=ordered.device)
    return float(((2 * ranks - len(ordered) - 1) * ordered).sum() / (len(ordered) * ordered.sum()))


def novelty(exposure: Tensor, popularity: Tensor) -> float:
    """Return the mean self-information of what was shown, Σ share of exposure · −log2(share of popularity), in bits.

    exposure, popularity: counts [N], for instance of this policy and of a log; infinite where something was shown
    that has no popularity. With exposure as its own popularity it is the entropy of exposure, at most log2 N.
    """
    shown = exposure > 0
    exposure, popularity = exposure.double(), popularity.double()
    information = -(popularity[shown] / popularity.sum()).log2()
    return float((exposure[shown] / exposure.sum() * information).sum())


def diversity(features: Tensor, shown: Tensor) -> Tensor:
    """Return the mean cosine distance of two items of a slate, [B]; NaN for fewer than two items.

    features: [B, K, F]; an item without features is at distance 1 from all.  shown: bool [B, K].
    """
    units = torch.nn.functional.normalize(features.double() * shown.unsqueeze(2), dim=2)
    together = units.sum(1).square().sum(1) - units.square().sum((1, 2))  # twice the sum of cosines over pairs
    count = shown.sum(1).double()
    return 1 - together / (count * (count - 1))


@dataclass(frozen=True)
class Metrics:
    """What a `Tally` counted; None where it has no meaning, or nothing to go by.

    decisions: how many.  click_rate: clicks per shown item.  signals: mean over clicked items, by name.
    coverage, gini, novelty: of the exposure of the catalogue's items, None without a catalogue.
    diversity: mean over slates of two items or more, of items with two features or more.
    retention: the share of visits that were followed by another within the days that users are followed, of worlds
    whose users come back: those that show `day` and `days_away`.
    """

    decisions: int
    click_rate: float | None
    signals: dict[str, float | None]
    coverage: float | None
    gini: float | None
    novelty: float | None
    diversity: float | None
    retention: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return vars(self)


class Tally:
    """Sums of interactions that metrics are made of.

    `exposure`, float64 [N]: how often each item of the catalogue was shown; None without a catalogue.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.exposure: Tensor | None = None
        self._decisions = 0
        self._shown, self._clicks, self._spread, self._slates = (torch.zeros((), dtype=torch.float64) for _ in range(4))
        self._visits, self._returns = (torch.zeros((), dtype=torch.float64) for _ in range(2))
        self._signals = torch.zeros(len(spec.signals), dtype=torch.float64)

    def add(self, interactions: Interactions) -> None:
        """Count interactions, any number of rows."""
        observation, slate = interactions.observation, interactions.decision.slate
        shown, clicked = slate >= 0, interactions.response.clicked
        self._decisions += len(interactions)
        self._shown = self._shown + shown.sum().cpu()
        self._clicks = self._clicks + clicked.sum().cpu()
        signals = interactions.response.signals.double() * clicked.unsqueeze(2)
        self._signals = self._signals + signals.sum((0, 1)).cpu()
        if observation.catalogue is not None:
            self._expose(observation.item_ids.gather(1, slate.clamp(min=0)), shown, len(observation.catalogue))
        if self.spec.item_features > 1 < slate.shape[1]:  # the angle between single numbers says nothing
            spread = diversity(observation.features(slate), shown)
            self._spread = self._spread + spread.nansum().cpu()
            self._slates = self._slates + spread.isfinite().sum().cpu()
        if {"day", "days_away"} <= set(self.spec.user):
            self._retain(interactions)

    def _expose(self, items: Tensor, shown: Tensor, size: int) -> None:
        if self.exposure is None:
            self.exposure = torch.zeros(size, dtype=torch.float64, device=items.device)
        self.exposure.index_add_(0, items.clamp(min=0).flatten(), shown.double().flatten())

    def _retain(self, interactions: Interactions) -> None:
        """Count visits that ended, which is when days go by, and those after which the user came back in time."""
        if interactions.next_observation is None:
            return
        day = self.spec.user.index("day")
        left = interactions.next_observation.user[:, day] > interactions.observation.user[:, day]
        self._visits = self._visits + left.sum().cpu()
        self._returns = self._returns + (left & ~interactions.terminated).sum().cpu()

    def metrics(self) -> Metrics:
        """Return the metrics of all that was added."""
        exposure = self.exposure if float(self._shown) > 0 else None
        signals = [_ratio(total, self._clicks) for total in self._signals]
        return Metrics(
            self._decisions,
            _ratio(self._clicks, self._shown),
            dict(zip(self.spec.signals, signals, strict=True)),
            coverage(exposure) if exposure is not None else None,
            gini(exposure) if exposure is not None else None,
            novelty(exposure, exposure) if exposure is not None else None,
            _ratio(self._spread, self._slates),
            _ratio(self._returns, self._visits),
        )


def _ratio(part: Tensor, whole: Tensor) -> float | None:
    return float(part / whole) if float(whole) > 0 else None
