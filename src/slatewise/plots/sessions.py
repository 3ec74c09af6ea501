"""One session, step by step."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from slatewise.plots.base import GOOD, INK, PAIR, POOR, frame, frames
from slatewise.sessions import Session


def satisfaction_session(session: Session, title: str, limits: tuple[float, float]) -> Figure:
    """Long-term satisfaction: what was eaten at every step, the engagement it brought, and satisfaction.

    limits: the largest engagement and number of steps, the same for figures that stand side by side.
    """
    figure, (top, bottom) = frames(4.8, 3.8, 2)
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
    figure, (top, bottom) = frames(4.8, 3.8, 2)
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
    figure, axes = frame(4.8, 2.4)
    for (name, values), colour, style in zip(curves.items(), PAIR, ("--", "-"), strict=False):
        axes.plot(range(1, len(values) + 1), values, style, color=colour, lw=2, label=name)
        axes.plot(len(values), values[-1], "o", color=colour, ms=5)
    axes.set_xlabel("step of the session")
    axes.set_ylabel(what)
    axes.set_ylim(bottom=min(0.0, *(value for values in curves.values() for value in values)))
    if len(curves) > 1:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, fontsize=10)
    return figure


def largest(values: Sequence[float]) -> float:
    """Return the largest finite value, 1 if there is none: for axes that figures share."""
    return max((v for v in values if math.isfinite(v)), default=1.0)
