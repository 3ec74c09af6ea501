"""Ridge regression in one pass over a log, and logistic regression on a sample of it."""

import torch
from torch import Tensor

from slatewise.interactions import Observation
from slatewise.off_policy.item_regression import CHUNK_VALUES, Design, Sums, solve
from slatewise.off_policy.sampled import Kept, Predictor

ITERATIONS = 50
TOLERANCE = 1e-8  # largest change of a coefficient in the last iteration


class Ridge:
    """Ridge regression from sums: one pass, all rows count, and memory does not grow with the log.

    The model of a fold has the sums of all others.
    """

    def __init__(self, design: Design, folds: int) -> None:
        self.design = design
        self.folds = folds
        self._sums = Sums(len(design.table) * folds, design.size)
        self._coefficients: dict[int, Tensor] = {}

    @property
    def items_only(self) -> bool:
        """Whether user features are left out, because there would be too many products."""
        return not self.design.users

    def add(self, chosen: Observation, reward: Tensor, fold: Tensor) -> None:
        """Take rewards [B] of the only candidates in."""
        self._coefficients.clear()
        for rows in _parts(len(reward), self.design):
            z, item = self.design.features(chosen[rows]), self.design.item(chosen[rows])[:, 0]
            self._sums.add(item * self.folds + fold[rows], z, reward[rows])

    def predict(self, fold: int, observation: Observation) -> Tensor:
        """Return rewards of all candidates, float64 [B, C]."""
        if fold not in self._coefficients:
            precision, moment = (self._without(fold, sums) for sums in (self._sums.precision, self._sums.moment))
            self._coefficients[fold] = solve(precision, moment, self.design)
        return self.design.products(observation, self._coefficients[fold])

    def _without(self, fold: int, sums: Tensor) -> Tensor:
        of_items = sums.view(-1, self.folds, *sums.shape[1:])
        return of_items.sum(1) - of_items[:, fold]


def fit_logistic(design: Design, rows: Kept, held_out: int) -> Predictor:  # noqa: ARG001 - its mean needs no correction
    """Fit logistic regression by Newton's method (iteratively reweighted least squares).

    The penalty draws to the log-odds of the mean reward, so that rare clicks are not made less rare.
    """
    rate = (rows.reward.sum() + 0.5) / (len(rows.reward) + 1)
    base = (rate / (1 - rate)).log()
    coefficients = torch.zeros(len(design.table), design.size, dtype=torch.float64)
    for _ in range(ITERATIONS):
        before, coefficients = coefficients, _newton(design, rows, base, coefficients)
        if float((coefficients - before).abs().max()) < TOLERANCE:
            break
    return lambda observation: (base + design.products(observation, coefficients)).sigmoid()


def _newton(design: Design, rows: Kept, base: Tensor, coefficients: Tensor) -> Tensor:
    sums = Sums(*coefficients.shape)
    for part in _parts(len(rows.reward), design):
        z, item = design.features(rows.observation[part]), design.item(rows.observation[part])[:, 0]
        linear = (z * coefficients[item]).sum(1)
        probability = (base + linear).sigmoid()
        weight = probability * (1 - probability)
        sums.add(item, z, weight * linear + rows.reward[part] - probability, weight)
    return solve(sums.precision, sums.moment, design)


def _parts(rows: int, design: Design) -> list[slice]:
    step = max(1, CHUNK_VALUES // design.size)
    return [slice(start, start + step) for start in range(0, rows, step)]
