"""What else an evaluation sees as it reads a log, in fixed memory: weights, rewards over time, calibration, items."""

from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.interactions import Interactions

OCTAVES = 24  # weights from 2⁻¹² to 2¹² have bins of their own
PIECES = 64  # of the log, at most, for rewards over time
BINS = 10  # of predicted rewards


@dataclass(frozen=True)
class Histogram:
    """Counts of weights.  edges: [bins + 1], the first bin holds what is 0.  counts: [bins]."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Series:
    """Rewards along the log, in at most 64 pieces of equally many decisions, in the order of the log.

    first: the first decision of each piece.  time: its time in microseconds UTC, if logged.  logged: mean reward.
    policies: by name, the self-normalised estimate (NaN where no weight is above 0).
    """

    first: tuple[int, ...]
    time: tuple[int, ...] | None
    logged: tuple[float, ...]
    policies: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Calibration:
    """Of the reward model, in bins of its prediction for what was shown: means of both, and how many."""

    predicted: tuple[float, ...]
    rewarded: tuple[float, ...]
    decisions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Items:
    """The share of slots that each item of the catalogue has: [N], under the logged policy and by name under others.

    For slates of several items the shares under a policy are self-normalised estimates.
    """

    ids: tuple[str, ...] | None
    logged: Tensor
    policies: dict[str, Tensor]


class Typical:
    """The typical size of factors x where they matter: Σ |x|³ / Σ x², their mean weighted by shares in the variance."""

    def __init__(self) -> None:
        self.squares = self.cubes = 0.0

    def add(self, factors: Tensor) -> None:
        """Take in factors, float64 [B]."""
        squares = factors.square()
        self.squares += float(squares.sum())
        self.cubes += float((squares * factors.abs()).sum())

    @property
    def value(self) -> float:
        """The typical size, 0 where all are 0."""
        return self.cubes / self.squares if self.squares else 0.0


class WeightTracker:
    """Sizes and a histogram of the weights of one policy.

    typical: of weights.  above, below: of how far they lie above and below the baseline's.
    """

    def __init__(self) -> None:
        self.number = 0
        self.total = self.agreement = self.missing = 0.0
        self.typical, self.above, self.below = Typical(), Typical(), Typical()
        self.largest = self.parts = self.largest_part = 0.0
        self.counts = torch.zeros(OCTAVES + 3, dtype=torch.int64)

    def add(self, weights: Tensor, reward: Tensor, target: Tensor, logged: Tensor) -> None:
        """Take in decisions, each float64 [B]; target, logged: the probability of what was shown."""
        self.number += len(weights)
        self.total += float(weights.sum())
        self.typical.add(weights)
        self.agreement += float(target.sum())
        self.missing += float((1 - target)[logged == 1].clamp(min=0).sum())
        self.largest = max(self.largest, float(weights.max()))
        parts = (weights * reward).abs()
        self.parts += float(parts.sum())
        self.largest_part = max(self.largest_part, float(parts.max()))
        octave = (weights.clamp(min=1e-300).log2().floor() + OCTAVES // 2 + 1).clamp(0, OCTAVES + 1).long() + 1
        self.counts += torch.where(weights > 0, octave, 0).bincount(minlength=OCTAVES + 3)

    def compare(self, weights: Tensor, baseline: Tensor | float) -> None:
        """Take in the same weights beside those of the baseline, float64 [B]."""
        gap = weights - baseline
        self.above.add(gap.clamp(min=0))
        self.below.add(gap.clamp(max=0))

    @property
    def effective(self) -> float:
        """The effective sample size, (Σ w)² / Σ w² (Kish 1965): how many decisions of its own the log is worth."""
        return self.total**2 / self.typical.squares if self.typical.squares else 0.0

    def histogram(self) -> Histogram:
        """Return the histogram: 0, below 2⁻¹², octaves, and the rest."""
        inner = [2.0**power for power in range(-OCTAVES // 2, OCTAVES // 2 + 1)]
        return Histogram((0.0, 0.0, *inner, float("inf")), tuple(self.counts.tolist()))


class SeriesTracker:
    """Sums over pieces of the log, which are merged two by two whenever there are too many."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.width, self.start = 1, 0
        self.sums = torch.zeros(PIECES, 2 + 2 * len(names), dtype=torch.float64)
        self.time = torch.full((PIECES,), 2**63 - 1)
        self.timed = False

    def add(self, rows: Interactions, reward: Tensor, weights: dict[str, Tensor]) -> None:
        """Take in decisions with their rewards and weights, float64 [B]."""
        columns = [torch.ones_like(reward), reward]
        for name in self.names:
            columns += [weights[name], weights[name] * reward]
        while self.start + len(reward) > PIECES * self.width:
            self._merge()
        piece = (self.start + torch.arange(len(reward))) // self.width
        self.sums.index_add_(0, piece, torch.stack(columns, 1))
        if rows.time is not None:
            self.time.scatter_reduce_(0, piece, rows.time, "amin")
            self.timed = True
        self.start += len(reward)

    def _merge(self) -> None:
        self.width *= 2
        half = torch.zeros_like(self.sums[: PIECES // 2])
        self.sums = torch.cat([self.sums.view(PIECES // 2, 2, -1).sum(1), half])
        self.time = torch.cat([self.time.view(-1, 2).amin(1), torch.full((PIECES // 2,), 2**63 - 1)])

    def series(self) -> Series:
        """Return the means of all pieces."""
        used = self.sums[:, 0] > 0
        sums = self.sums[used]
        policies = {n: sums[:, 3 + 2 * i] / sums[:, 2 + 2 * i] for i, n in enumerate(self.names)}
        return Series(
            tuple((used.nonzero().squeeze(1) * self.width).tolist()),
            tuple(self.time[used].tolist()) if self.timed else None,
            tuple((sums[:, 1] / sums[:, 0]).tolist()),
            {name: tuple(values.tolist()) for name, values in policies.items()},
        )


class CalibrationTracker:
    """Predicted and real rewards in bins, whose edges are quantiles of the first block's predictions."""

    def __init__(self) -> None:
        self.edges: Tensor | None = None
        self.sums = torch.zeros(BINS, 3, dtype=torch.float64)

    def add(self, predicted: Tensor, reward: Tensor) -> None:
        """Take in decisions, each float64 [B]."""
        if self.edges is None:
            sample = predicted[:: max(1, len(predicted) // 10_000)]
            self.edges = sample.quantile(torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1])
        at = torch.searchsorted(self.edges, predicted.contiguous())
        self.sums.index_add_(0, at, torch.stack([predicted, reward, torch.ones_like(reward)], 1))

    def calibration(self) -> Calibration:
        """Return the means of all bins that have decisions."""
        sums = self.sums[self.sums[:, 2] > 0]
        means = (sums[:, :2] / sums[:, 2:]).T.tolist()
        return Calibration(tuple(means[0]), tuple(means[1]), tuple(int(n) for n in sums[:, 2].tolist()))


class ItemTracker:
    """Slots of every item of a catalogue, under the logged policy and others."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.ids: tuple[str, ...] | None = None
        self.sums: Tensor | None = None

    def add(self, rows: Interactions, weights: dict[str, Tensor], every: dict[str, Tensor]) -> None:
        """Take in decisions.  weights: [B] by name.  every: [B, C] probabilities of all candidates, where known."""
        observation, slate = rows.observation, rows.decision.slate
        if observation.catalogue is None:
            return
        if self.sums is None:
            self.ids = observation.catalogue.ids
            self.sums = torch.zeros(1 + len(self.names), len(observation.catalogue), dtype=torch.float64)
        real = slate >= 0
        shown = observation.item_ids.gather(1, slate.clamp(min=0))[real]
        self.sums[0].index_add_(0, shown, torch.ones_like(shown, dtype=torch.float64))
        for i, name in enumerate(self.names):
            if name in every:
                mask = observation.mask
                self.sums[1 + i].index_add_(0, observation.item_ids[mask], every[name][mask])
            else:
                spread = weights[name].unsqueeze(1).expand(slate.shape)[real]
                self.sums[1 + i].index_add_(0, shown, spread)

    def items(self) -> Items | None:
        """Return all shares; None for a log without a catalogue."""
        if self.sums is None:
            return None
        shares = self.sums / self.sums.sum(1, keepdim=True).clamp(min=1e-300)
        return Items(self.ids, shares[0], {name: shares[1 + i] for i, name in enumerate(self.names)})
