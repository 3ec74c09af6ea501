"""Pictures: returns beside their reference lines, learning curves, sessions, estimates with intervals.

Every function returns a matplotlib figure of about half a page's width, so that two stand side by side on a wide
screen and one fills a narrow one. Nothing is drawn on the process-wide pyplot state.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slatewise.sessions import Session

INK = "#22272e"
FAINT = "#8b949e"
GOOD, POOR = "#2f7d4f", "#7b4a2d"  # kale and chocolate
COLOURS = {
    "random": "#9aa3ad",
    "supervised": POOR,
    "linucb": "#d08a3c",
    "slateq": GOOD,
    "best rule": "#5a6b8c",
    "logged": "#9aa3ad",
}
PAIR = ("#b0562c", "#2b6a80")  # of two policies side by side: apart for everybody's eyes, dashed and solid besides
STYLE: Any = {
    "font.size": 11,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "slatewise",
}


def returns(
    policies: Mapping[str, Mapping[str, Any]], best_rule: Mapping[str, Any], ceiling: Mapping[str, Any]
) -> Figure:
    """Bars of mean return with two standard errors, and the ceiling as a line."""
    figure, axes = _figure(4.8, 2.6)
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
    figure, axes = _figure(4.8, 3.0)
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


def satisfaction_session(session: Session, title: str, limits: tuple[float, float]) -> Figure:
    """Long-term satisfaction: what was eaten at every step, the engagement it brought, and satisfaction.

    limits: the largest engagement and number of steps, the same for figures that stand side by side.
    """
    figure, (top, bottom) = _figures(4.8, 3.8, 2)
    steps = list(range(1, len(session) + 1))
    sweetness = [x or 0.0 for x in session.items["x"]]
    colours = [POOR if x > 0.5 else GOOD for x in sweetness]
    top.bar(steps, session.reward, color=colours, width=0.75)
    for step, reward, x in zip(steps, session.reward, sweetness, strict=True):
        top.annotate("choc" if x > 0.5 else "kale", (step, reward), ha="center", va="bottom", fontsize=8.5, color=INK)
    top.set_ylim(0, 1.15 * limits[0])
    top.set_ylabel("engagement")
    top.set_title(f"{title}: {sum(session.reward):.0f} in all", loc="left", fontsize=11.5, color=INK)
    bottom.plot(steps, session.hidden["satisfaction"], color=INK, lw=2, marker="o", ms=4)
    bottom.set_ylim(0, 1.02)
    bottom.set_ylabel("satisfaction")
    bottom.set_xlabel("step of the session")
    bottom.set_xlim(0.4, limits[1] + 0.6)
    return figure


def budget_session(session: Session, title: str, limits: tuple[float, float]) -> Figure:
    """Interest evolution: quality of what was watched at every step, and the time budget left.

    limits: the largest budget and number of steps, the same for figures that stand side by side.
    """
    figure, (top, bottom) = _figures(4.8, 3.8, 2)
    watched = [(i + 1, q) for i, q in enumerate(session.signals["quality"]) if q is not None]
    top.bar(
        [i for i, _ in watched], [q for _, q in watched], color=[GOOD if q > 0 else POOR for _, q in watched], width=1
    )
    top.axhline(0, color=INK, lw=0.8)
    top.set_ylim(-3.3, 3.3)
    top.set_ylabel("quality watched")
    top.set_title(f"{title}: {sum(session.reward):.0f} minutes watched", loc="left", fontsize=11.5, color=INK)
    steps = range(1, len(session) + 1)
    bottom.fill_between(steps, session.hidden["budget"], color=GOOD, alpha=0.15, lw=0)
    bottom.plot(steps, session.hidden["budget"], color=INK, lw=1.6)
    bottom.annotate("leaves", (len(session), 0), xytext=(2, 14), textcoords="offset points", ha="center", fontsize=9.5)
    bottom.set_ylim(0, 1.1 * limits[0])
    bottom.set_ylabel("minutes left")
    bottom.set_xlabel("step of the session")
    bottom.set_xlim(0, 1.03 * limits[1])
    return figure


def along_a_session(curves: Mapping[str, Sequence[float]], what: str) -> Figure:
    """One quantity at every step of a session, a line a policy; at most two."""
    figure, axes = _figure(4.8, 2.4)
    for (name, values), colour, style in zip(curves.items(), PAIR, ("--", "-"), strict=False):
        axes.plot(range(1, len(values) + 1), values, style, color=colour, lw=2, label=name)
        axes.plot(len(values), values[-1], "o", color=colour, ms=5)
    axes.set_xlabel("step of the session")
    axes.set_ylabel(what)
    axes.set_ylim(bottom=min(0.0, *(value for values in curves.values() for value in values)))
    if len(curves) > 1:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, fontsize=10)
    return figure


def estimates(
    policies: Mapping[str, Mapping[str, Mapping[str, float]]], references: Mapping[str, tuple[float, float]], unit: str
) -> Figure:
    """Estimated values with 95 % intervals, a row an estimator, beside known values with two standard errors.

    policies: name → estimator → {value, low, high}.  references: name → (mean, standard error).
    unit: what the values are, for the axis.
    """
    rows = [(f"{name}, {estimator}", e) for name, table in policies.items() for estimator, e in table.items()]
    figure, axes = _figure(4.8, 1.2 + 0.36 * (len(rows) + len(references)))
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


def to_svg(figure: Figure, description: str) -> str:
    """Return a figure as an SVG element to put into a page, with its description for who cannot see it."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    quoted = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{quoted}"', 1)


def largest(values: Sequence[float]) -> float:
    """Return the largest finite value, 1 if there is none: for axes that figures share."""
    return max((v for v in values if math.isfinite(v)), default=1.0)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = _figures(width, height, 1)
    return figure, axes[0]


def _figures(width: float, height: float, rows: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=rows > 1, squeeze=False)[:, 0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(FAINT)
        one.tick_params(colors=INK)
    return figure, list(axes)
