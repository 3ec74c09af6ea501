"""Reward models from scikit-learn: gradient-boosted trees, or any regressor or classifier of the user's."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.off_policy.sampled import Kept, Predictor

SPREAD = 0.5  # standard deviation of what is believed about the slope, around 1, before any reward is seen
MOST_CATEGORIES = 255  # what histogram trees can split on as categories
FEWEST = 10  # clicks, or decisions without one, below which trees have nothing to learn from

Matrix = np.ndarray[Any, np.dtype[np.float64]]


class Columns:
    """The matrix that a model gets: user features, item features, and which item it is.

    Items of a catalogue of at most 255 are told apart: by a last column with their number, or one-hot. Without a
    catalogue and without features their numbers are all that there is, and are kept as a number.
    """

    def __init__(self, spec: Spec, catalogue: Catalogue | None, one_hot: bool = False) -> None:
        self.items = len(catalogue) if catalogue is not None else 0
        self.known = 0 < self.items <= MOST_CATEGORIES
        self.numbered = self.known or not spec.item_features
        self.one_hot = one_hot and self.known

    def matrix(self, observation: Observation) -> Matrix:
        """Return all candidates of all rows, float64 [B · C, columns]."""
        candidates = observation.item_ids.shape[1]
        everyone = torch.arange(candidates).expand(observation.item_ids.shape)
        parts = [observation.user.unsqueeze(1).expand(-1, candidates, -1), observation.features(everyone)]
        ids = observation.item_ids.clamp(min=0)
        if self.one_hot:
            parts.append(torch.nn.functional.one_hot(ids, self.items))
        elif self.numbered:
            parts.append(ids.unsqueeze(2))
        return torch.cat([part.double() for part in parts], 2).flatten(0, 1).numpy()


def fit_trees(columns: Columns, seed: int, rows: Kept, held_out: int) -> Predictor:
    """Fit histogram gradient boosting: of the log-odds for rewards 0 and 1, else of squared error."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    clicks = rows.reward[rows.fold != held_out]
    binary = bool(((clicks == 0) | (clicks == 1)).all())
    if binary and min(int(clicks.sum()), int((1 - clicks).sum())) < FEWEST:
        return _constant(rows)
    kind: Any = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
    width = columns.matrix(rows.observation[:1]).shape[1]
    model = kind(max_iter=150, max_leaf_nodes=8, early_stopping=True)  # small trees: half the error on small logs
    model.set_params(categorical_features=[width - 1] if columns.known else None)
    return fit_model(columns, model, seed, rows, held_out)


def fit_model(columns: Columns, model: Any, seed: int, rows: Kept, held_out: int) -> Predictor:
    """Fit a copy of a scikit-learn model on all folds but one, which then corrects its level and slope."""
    training, rest = rows[rows.fold != held_out], rows[rows.fold == held_out]
    if len(training.reward.unique()) < 2:
        return _constant(rows)
    fitted = _seeded(model, seed)
    fitted.fit(columns.matrix(training.observation), training.reward.numpy())

    def predict(observation: Observation) -> Tensor:
        return _predict(fitted, columns.matrix(observation)).view(observation.item_ids.shape)

    if not len(rest.reward):
        return predict
    level, slope = recalibration(predict(rest.observation)[:, 0], rest.reward)
    return lambda observation: level + slope * predict(observation)


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


def check_model(model: Any) -> None:
    """Raise InputError for what is not a scikit-learn regressor or classifier."""
    missing = [name for name in ("fit", "predict", "get_params") if not hasattr(model, name)]
    if missing or isinstance(model, type):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"{model!r:.60}"
        raise InputError(
            f"reward_model is {what}: give a name, or a scikit-learn regressor or classifier such as "
            "RandomForestRegressor(), made but not fitted"
        )


def is_classifier(model: Any) -> bool:
    """Return whether a model predicts the probability of a click."""
    return hasattr(model, "predict_proba")


def _constant(rows: Kept) -> Predictor:
    mean = float(rows.reward.mean()) if len(rows.reward) else 0.0
    return lambda observation: torch.full(observation.item_ids.shape, mean, dtype=torch.float64)


def _seeded(model: Any, seed: int) -> Any:
    """Return an unfitted copy whose sources of randomness have a seed."""
    from sklearn.base import clone

    copy: Any = clone(model)
    loose = [k for k, v in copy.get_params().items() if k.split("__")[-1] == "random_state" and v is None]
    return copy.set_params(**dict.fromkeys(loose, seed % 2**32))


def _predict(model: Any, matrix: Matrix) -> Tensor:
    if is_classifier(model):
        clicked = list(model.classes_).index(1)
        return torch.from_numpy(np.asarray(model.predict_proba(matrix)[:, clicked], np.float64))
    return torch.from_numpy(np.asarray(model.predict(matrix), np.float64).reshape(len(matrix)))
