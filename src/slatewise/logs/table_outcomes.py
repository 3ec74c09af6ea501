"""What came of the decisions of a table: signals, clicks, rewards, and the propensities that were logged."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from slatewise.logs.table_columns import numbers, refuse
from slatewise.logs.table_mapping import TableMapping

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Signals float32 [D, K, S], clicks bool and reward float64 [D, K], whether the reward is known bool [D].

    empty: how many slots had no value, by signal.
    """

    signals: Array
    clicked: Array
    reward: Array
    known: Array
    empty: dict[str, int]

    @staticmethod
    def of(mapping: TableMapping, table: dict[str, Any], rows: Array) -> "Outcomes":
        """Read the slots of decisions, whose rows of the table are int64 [D, K], −1 for a hole."""
        hole = rows < 0
        columns = {name: numbers(name, table[name])[rows] for name in mapping.all_signals}
        missing = {name: np.isnan(values) & ~hole for name, values in columns.items()}
        filled = {name: np.where(hole | missing[name], 0.0, values) for name, values in columns.items()}
        reward = sum((weight * filled[name] for name, weight in mapping.rewards.items()), np.zeros(rows.shape))
        clicked = reward != 0
        if mapping.clicked is not None:
            clicked = numbers(mapping.clicked, table[mapping.clicked])[rows] > 0
        known = np.ones(len(rows), bool)
        if mapping.missing_reward == "unknown":
            known = ~np.any([missing[name].any(1) for name in mapping.rewards], axis=0)
        signals = np.stack([filled[name] for name in mapping.all_signals], -1).astype(np.float32)
        empty = {name: int(values.sum()) for name, values in missing.items() if values.any()}
        return Outcomes(signals, clicked & ~hole, reward, known, empty)


def logged_propensities(name: str, array: Any, rows: Array) -> Array:
    """Return the propensity of every slot, float64 [D, K], 1 for a hole. Only those in (0, 1] are taken."""
    values, shown = numbers(name, array), np.zeros(len(array), bool)
    shown[rows[rows >= 0]] = True
    remedy = "drop these decisions, or say propensities = 'estimate'"
    refuse(name, "is empty", np.isnan(values) & shown, remedy)
    refuse(name, "is 0 or less", (values <= 0) & shown, f"what was shown had a chance; {remedy}")
    refuse(name, "is above 1", (values > 1) & shown, f"a probability is wanted, not a percentage or score; {remedy}")
    return np.where(rows >= 0, values[rows], 1.0)


def uniform_propensities(candidates: Array, rows: Array) -> Array:
    """Return 1 / (candidates left) for every slot, float64 [D, K], 1 for a hole.  candidates: int64 [D]."""
    left = candidates[:, None] - np.arange(rows.shape[1])
    return np.where(rows >= 0, 1 / np.maximum(left, 1), 1.0)
