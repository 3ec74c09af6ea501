"""Returns of policies beside their reference lines, and how they got there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from slatewise.plots.base import COLOURS, FAINT, INK, frame


def returns(
    policies: Mapping[str, Mapping[str, Any]], best_rule: Mapping[str, Any], ceiling: Mapping[str, Any]
) -> Figure:
    """Bars of mean return with two standard errors, and the ceiling as a line."""
    figure, axes = frame(4.8, 2.6)
    rows = [(name, values) for name, values in policies.items() if name != best_rule["name"]]
    label = "random (no rule is better)" if best_rule["name"] == "random" else f"{best_rule['name']} (best rule)"
    rows.append((label, best_rule))
    rows.sort(key=lambda row: row[1]["mean"])
    widest = max(ceiling["mean"], *(values["mean"] for _, values in rows))
    for y, (name, values) in enumerate(rows):
        colour = COLOURS.get("best rule" if name == label else name, INK)
        inside = values["mean"] > 0.3 * widest
        axes.barh(y, values["mean"], color=colour, height=0.62)
        axes.errorbar(values["mean"], y, xerr=2 * values["standard_error"], color=INK, capsize=2, lw=1)
        axes.annotate(
            f"{values['mean']:.1f}",
            (values["mean"], y),
            xytext=(-6 if inside else 6, 0),
            textcoords="offset points",
            va="center",
            ha="right" if inside else "left",
            color="white" if inside else INK,
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.axvline(ceiling["mean"], color=INK, ls="--", lw=1)
    axes.text(ceiling["mean"], len(rows) - 0.35, f"ceiling {ceiling['mean']:.1f}  ", ha="right", color=INK, fontsize=10)
    axes.set_xlim(0, 1.05 * widest)
    axes.set_ylim(-0.6, len(rows))
    axes.set_xlabel("mean return per session")
    return figure


def learning_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], lines: Mapping[str, float]) -> Figure:
    """Return while learning (exploration included) against user-steps, with reference lines named at the right."""
    figure, axes = frame(4.8, 3.0)
    for name, rows in curves.items():
        known = [(row["steps"], row["return"]) for row in rows if row["return"] is not None]
        if known:
            axes.plot([s for s, _ in known], [r for _, r in known], color=COLOURS.get(name, INK), lw=2, label=name)
            axes.plot(*known[-1], "o", color=COLOURS.get(name, INK), ms=5)
    placed = -math.inf
    for name, value in sorted(lines.items(), key=lambda line: line[1]):
        axes.axhline(value, color=FAINT, lw=1, ls="--" if name == "ceiling" else ":")
        placed = max(value, placed + 0.08 * max(lines.values()))  # labels that would overlap are pushed apart
        axes.annotate(
            name,
            (1.0, placed),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=INK,
            annotation_clip=False,
        )
    axes.set_ylim(0, 1.08 * max(lines.values()))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} M" if x else "0")
    axes.set_xlabel("user-steps")
    axes.set_ylabel("return while learning")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.17), ncols=3, fontsize=10)
    return figure
