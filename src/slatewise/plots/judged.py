"""An off-policy evaluation: values, weights, rewards over time, calibration, items."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slatewise.off_policy.result import Interval, Result, moved_items
from slatewise.off_policy.tracking import Calibration, Histogram, Items, Series
from slatewise.plots.base import COLOURS, FAINT, GOOD, INK, POOR, frame

PALETTE = (GOOD, "#d08a3c", "#5a6b8c", POOR, "#8a5a9e", "#3c8a9e")


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for every policy, the same in all pictures of a page."""
    return dict(zip(names, cycle(PALETTE), strict=False))


def judged_values(result: Result, scale: float = 1.0, unit: str = "reward per decision") -> Figure:
    """Every policy's value by every estimator with its 95 % interval; the one that judges is filled.

    The band is what was logged, with its interval.  scale: what values are multiplied by, to be in `unit`.
    """
    rows = [(name, e, i) for name, policy in result.policies.items() for e, i in policy.estimates.items()]
    figure, axes = frame(4.8, 1.0 + 0.27 * (len(rows) + 1))
    logged, shades = result.logged, _colours(list(result.policies))
    axes.axvspan(scale * logged.low, scale * logged.high, color=FAINT, alpha=0.15, lw=0)
    axes.axvline(scale * logged.value, color=FAINT, lw=1)
    _interval(axes, 0, logged, scale, INK, "s", filled=True)
    for y, (name, estimator, interval) in enumerate(rows, 1):
        judged = estimator == result.policies[name].judged_by
        _interval(axes, y, interval, scale, shades[name], "o", judged)
    several = len(result.policies) > 1
    labels = ["logged", *(f"{name}, {e}" if several else e for name, e, _ in rows)]
    axes.set_yticks(range(len(labels)), labels, fontsize=9.5)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    return figure


def _interval(axes: Axes, y: int, interval: Interval, scale: float, colour: str, marker: str, filled: bool) -> None:
    reach = [[scale * (interval.value - interval.low)], [scale * (interval.high - interval.value)]]
    axes.errorbar(
        scale * interval.value, y, xerr=reach, fmt=marker, color=colour, capsize=3, ms=5.5, mew=1.4,
        mfc=colour if filled else "white",
    )  # fmt: skip


def judged_weights(histograms: Mapping[str, Histogram]) -> Figure:
    """Shares of decisions by importance weight, on a scale of powers of two; what is never shown is at 0."""
    figure, axes = frame(4.8, 2.6)
    used = [i for h in histograms.values() for i, n in enumerate(h.counts) if n and i > 0]
    low, high = (min(used), max(used)) if used else (1, 1)
    width = 0.8 / len(histograms)
    for k, ((name, histogram), colour) in enumerate(zip(histograms.items(), PALETTE, strict=False)):
        total = sum(histogram.counts)
        shares = [100 * n / total for n in (histogram.counts[0], *histogram.counts[low : high + 1])]
        at = [-1.0, *range(1, high - low + 2)]
        axes.bar([x + (k + 0.5) * width - 0.4 for x in at], shares, width, color=colour, label=name)
    edges = next(iter(histograms.values())).edges
    step = -(-(high - low + 2) // 6)
    ticks = list(range(low, high + 2, step))
    axes.set_xticks([-1, *(t - low + 0.5 for t in ticks)], ["0", *(_power(edges[t]) for t in ticks)], fontsize=9.5)
    axes.set_xlabel("importance weight (new policy / logged)")
    axes.set_ylabel("% of decisions")
    if len(histograms) > 1:
        axes.legend(frameon=False, fontsize=9.5)
    return figure


def _power(edge: float) -> str:
    if edge == 0:
        return "…"
    return f"{edge:g}" if edge >= 1 else f"1/{1 / edge:g}"


def judged_over_time(series: Series, scale: float = 1.0, unit: str = "reward per decision") -> Figure:
    """Mean reward along the log, and each policy's self-normalised estimate for the same pieces."""
    figure, axes = frame(4.8, 2.8)
    if series.time is None:
        x: Sequence[Any] = series.first
        axes.set_xlabel("decisions of the log")
    else:
        x = [datetime.fromtimestamp(t / 1e6, UTC) for t in series.time]
        axes.tick_params(axis="x", rotation=25, labelsize=9)
    axes.plot(x, [scale * v for v in series.logged], color=INK, lw=1.6, label="logged")
    for (name, line), colour in zip(series.policies.items(), PALETTE, strict=False):
        axes.plot(x, [scale * v for v in line], color=colour, lw=1.2, label=f"{name} (SNIPS)")
    axes.set_ylabel(unit)
    axes.legend(frameon=False, fontsize=9.5)
    return figure


def judged_calibration(bins: Calibration, scale: float = 1.0, unit: str = "reward per decision") -> Figure:
    """What the reward model predicted for what was shown against what came of it, in ten bins."""
    figure, axes = frame(4.8, 2.8)
    x, y = [scale * v for v in bins.predicted], [scale * v for v in bins.rewarded]
    low, high = min(*x, *y, 0), max(*x, *y)
    axes.plot([low, high], [low, high], color=FAINT, lw=1, ls="--")
    axes.plot(x, y, "o-", color=GOOD, ms=5, lw=1)
    axes.set_xlabel(f"predicted {unit}")
    axes.set_ylabel("observed")
    return figure


def judged_items(shares: Items, policy: str) -> Figure:
    """The items that a policy would show more and less: their shares of slots, logged (square) and new (circle)."""
    rows = [row for row in moved_items(shares, policy) if abs(row["policy"] - row["logged"]) > 1e-9]
    figure, axes = frame(4.8, 0.9 + 0.24 * max(len(rows), 1))
    for y, row in enumerate(rows):
        more = row["policy"] > row["logged"]
        x = [100 * row["logged"], 100 * row["policy"]]
        axes.plot(x, [y, y], color=GOOD if more else POOR, lw=2, alpha=0.5)
        axes.plot(x[0], y, "s", color=COLOURS["logged"], ms=5)
        axes.plot(x[1], y, "o", color=GOOD if more else POOR, ms=6)
    axes.set_yticks(range(len(rows)), [row["item"] for row in rows], fontsize=9.5)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("% of slots")
    return figure


def estimates(
    policies: Mapping[str, Mapping[str, Mapping[str, float]]], references: Mapping[str, tuple[float, float]], unit: str
) -> Figure:
    """Estimated values with 95 % intervals, a row an estimator, beside known values with two standard errors.

    policies: name → estimator → {value, low, high}.  references: name → (mean, standard error).
    unit: what the values are, for the axis.
    """
    rows = [(f"{name}, {estimator}", e) for name, table in policies.items() for estimator, e in table.items()]
    figure, axes = frame(4.8, 1.2 + 0.36 * (len(rows) + len(references)))
    labels: list[str] = []
    for name, (mean, error) in references.items():
        axes.errorbar(mean, len(labels), xerr=2 * error, fmt="s", color=INK, capsize=3, ms=5)
        axes.axvspan(mean - 2 * error, mean + 2 * error, color=FAINT, alpha=0.12, lw=0)
        labels.append(name)
    for label, e in rows:
        low, high = e["value"] - e["low"], e["high"] - e["value"]
        axes.errorbar(e["value"], len(labels), xerr=[[low], [high]], fmt="o", color=GOOD, capsize=3, ms=5)
        labels.append(label)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_xlim(left=min(0.0, *(e["low"] for _, e in rows)) if rows else 0.0)
    return figure
