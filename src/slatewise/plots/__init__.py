"""Pictures, as matplotlib figures: returns, sessions, off-policy evaluations."""

from slatewise.plots.base import GOOD, INK, PAIR, POOR, to_svg
from slatewise.plots.judged import (
    estimates,
    judged_calibration,
    judged_items,
    judged_over_time,
    judged_values,
    judged_weights,
)
from slatewise.plots.returns import learning_curves, returns
from slatewise.plots.sessions import along_a_session, budget_session, largest, satisfaction_session

__all__ = [
    "GOOD",
    "INK",
    "PAIR",
    "POOR",
    "along_a_session",
    "budget_session",
    "estimates",
    "judged_calibration",
    "judged_items",
    "judged_over_time",
    "judged_values",
    "judged_weights",
    "largest",
    "learning_curves",
    "returns",
    "satisfaction_session",
    "to_svg",
]
