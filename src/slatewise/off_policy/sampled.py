"""Reward models that need their rows more than once: fitted to a sample of bounded size."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.batch import Batch
from slatewise.interactions import Observation
from slatewise.noise import mix

SAMPLE_ROWS = 200_000
SAMPLE_VALUES = 40_000_000  # features in all that a sample may keep

Predictor = Callable[[Observation], Tensor]


@dataclass(frozen=True, eq=False)
class Kept(Batch):
    """Decisions to fit on: what was shown as the only candidate, its reward and fold, [B] each."""

    observation: Observation
    reward: Tensor
    fold: Tensor
    key: Tensor


class Reservoir:
    """A uniform sample, without replacement, of all rows seen: those with the smallest of their random keys.

    The key of a row is a hash of (seed, its number), so that blocks of another size keep the same rows.
    width: features of a row.  most: rows to keep, fewer where they are wide.
    """

    def __init__(self, seed: int, width: int, most: int = SAMPLE_ROWS) -> None:
        self.seed = seed
        self.limit = min(most, SAMPLE_VALUES // width)
        self.seen = 0
        self._parts: list[Kept] = []
        self._threshold = 2**63 - 1

    def add(self, observation: Observation, reward: Tensor, fold: Tensor) -> None:
        """Take rows in, and forget some."""
        number = torch.arange(self.seen, self.seen + len(reward))
        self.seen += len(reward)
        key = mix(mix(torch.full_like(number, self.seed)) + number)
        rows = Kept(observation, reward, fold, key)
        self._parts.append(rows if self.seen <= self.limit else rows[key <= self._threshold])
        if sum(len(part.key) for part in self._parts) > 2 * self.limit:
            self.rows()

    def rows(self) -> Kept:
        """Return the sample, in the order of the log."""
        rows = Kept.cat(self._parts)
        if len(rows.key) > self.limit:
            smallest = rows.key.topk(self.limit, largest=False)
            rows, self._threshold = rows[smallest.indices.sort().values], int(smallest.values.max())
        self._parts = [rows]
        return rows


class Sampled:
    """Fits a model a fold to a bounded sample of the rows of all other folds, when first asked.

    fit: makes a predictor from rows, none of them of the fold to predict, given another fold's number to hold out.
    """

    def __init__(
        self, fit: Callable[[Kept, int], Predictor], sample: Reservoir, folds: int, items_only: bool = False
    ) -> None:
        self.items_only = items_only
        self.fit = fit
        self.sample = sample
        self.folds = folds
        self._fitted: dict[int, Predictor] = {}

    def add(self, chosen: Observation, reward: Tensor, fold: Tensor) -> None:
        """Take rewards [B] of the only candidates in."""
        self._fitted.clear()
        self.sample.add(chosen, reward, fold)

    def predict(self, fold: int, observation: Observation) -> Tensor:
        """Return rewards of all candidates, float64 [B, C]."""
        if fold not in self._fitted:
            rows = self.sample.rows()
            self._fitted[fold] = self.fit(rows[rows.fold != fold], (fold + 1) % self.folds)
        return self._fitted[fold](observation)
