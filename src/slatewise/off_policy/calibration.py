"""Are predicted rewards right? Predicted beside observed, by decile, and the line that corrects them."""

import math
from dataclasses import dataclass

from torch import Tensor

SPREAD = 0.5  # standard deviation of what is believed about the slope, around 1, before any reward is seen


@dataclass(frozen=True)
class CalibrationBin:
    """Decisions with similar predictions: their number, mean predicted and observed reward, and its standard error."""

    count: int
    predicted: float
    observed: float
    standard_error: float


def calibration_table(predicted: Tensor, reward: Tensor, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Return predicted beside observed rewards of logged actions, by equal shares of rows ordered by prediction.

    predicted, reward: float64 [B], out of fold. There are fewer bins where there are fewer rows than bins.
    """
    order = predicted.argsort(stable=True)
    pairs = zip(predicted[order].tensor_split(bins), reward[order].tensor_split(bins), strict=True)
    return tuple(_bin(p, r) for p, r in pairs if len(p))


def _bin(predicted: Tensor, reward: Tensor) -> CalibrationBin:
    error = float(reward.std()) / math.sqrt(len(reward)) if len(reward) > 1 else math.nan
    return CalibrationBin(len(reward), float(predicted.mean()), float(reward.mean()), error)


def recalibration(predicted: Tensor, reward: Tensor) -> tuple[float, float]:
    """Return a and b of the line a + b · predicted that corrects predictions (Cox 1958's intercept and slope).

    Least squares, with the slope drawn towards 1 as by a normal belief of standard deviation 0.5, so that a few rewards
    do not overturn a model.  predicted, reward: float64 [B] of rows that the model has not seen.
    """
    p, r = predicted - predicted.mean(), reward - reward.mean()
    noise = float((r - p).square().mean()) / SPREAD**2
    scale = float(p.square().sum()) + noise
    slope = (float((p * r).sum()) + noise) / scale if scale > 0 else 1.0
    return float(reward.mean()) - slope * float(predicted.mean()), slope
