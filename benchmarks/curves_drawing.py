"""How learning curves are drawn: greedy return thick, return while learning thin, every line named at its right end."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slatewise.environments.base import References
from slatewise.plots.base import COLOURS, FAINT, INK, STYLE

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH, HEIGHT = 10.0, 3.9  # inches, of a whole picture
LEFT, TOP, BOTTOM = 0.75, 0.35, 0.55  # inches around a panel; what its labels take is at the right
SIZE = 9.0  # points, of labels
MANY = 5  # lines in a panel, from which on only greedy means are drawn
BELOW = 0.6  # how far below random a panel reaches at most, in distances from random to the ceiling
OWN = COLOURS | {"reinforce": "#2b6a80", "ppo": "#8a5a9e", "model-planner": "#b0562c", "q-learning": "#2b6a80"}
SPARE = ("#2b6a80", "#8a5a9e", "#b0562c", "#5a6b8c", "#c04f6b", "#3c9ea0", "#8c8a2b", "#7a7f87")
Point = list[float]  # user-steps, CPU seconds, return
Label = tuple[float, str, str]  # where it belongs, text, colour


@dataclass(frozen=True)
class Panel:
    """Runs of agents in one world, a result a seed (`greedy`, `learning`: points; `return`, `cpu_seconds`).

    steps, what: what the axes say.  timed: name the CPU seconds of training, too.
    """

    title: str
    references: References
    runs: dict[str, list[dict[str, Any]]]
    steps: str
    what: str
    timed: bool = True


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels side by side into a file."""
    with rc_context(STYLE):
        figure, room = Figure(figsize=(WIDTH, HEIGHT)), WIDTH / len(panels)
        colours = colours_of(dict.fromkeys(label for panel in panels for label in panel.runs))
        for at, panel in enumerate(panels):
            labels = [*reference_labels(panel.references), *run_labels(panel, colours)]
            right = 0.25 + 0.0073 * SIZE * max(len(text) for _, text, _ in labels)
            inches = at * room + LEFT, BOTTOM, room - LEFT - right, HEIGHT - TOP - BOTTOM
            axes = figure.add_axes([inch / whole for inch, whole in zip(inches, (WIDTH, HEIGHT) * 2, strict=True)])
            draw_panel(axes, panel, colours, labels, inches[3])
        figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})


def draw_panel(axes: Axes, panel: Panel, colours: dict[str, str], labels: list[Label], height: float) -> None:
    """Draw one panel of this height in inches."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=SIZE)
    draw_references(axes, panel.references)
    last = max(point[0] for runs in panel.runs.values() for one in runs for point in one["greedy"])
    for label, runs in panel.runs.items():
        draw_runs(axes, runs, colours[label], last, few(panel))
    low, high = limits(panel)
    axes.set_ylim(low, high)
    axes.set_xscale("log")
    axes.set_xlim(min(runs[0]["greedy"][0][0] for runs in panel.runs.values()) * 0.95, last * 1.05)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} million" if x >= 1e6 else f"{x:,.0f}")
    axes.set_title(panel.title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(panel.steps, fontsize=SIZE, color=INK)
    axes.set_ylabel(panel.what, fontsize=SIZE, color=INK)
    kept = sorted(label for label in labels if low <= label[0] <= high)
    write_names(axes, [((y - low) / (high - low), text, colour) for y, text, colour in kept], 1.2 * SIZE / 72 / height)


def draw_references(axes: Axes, references: References) -> None:
    best = references.best_rule()
    for rule, reference in references.rules.items():
        axes.axhline(reference.mean, color=FAINT, lw=1, ls="--" if rule == best else ":")
    if references.ceiling is not None:
        axes.axhline(references.ceiling.mean, color=FAINT, lw=1)


def few(panel: Panel) -> bool:
    return len(panel.runs) < MANY


def draw_runs(axes: Axes, runs: list[dict[str, Any]], colour: str, last: float, whole: bool) -> None:
    """Draw one agent: the mean over seeds and, where there is room, their range and the return while learning."""
    steps, means, lowest, highest = over_seeds([one["greedy"] for one in runs])
    axes.plot(steps, means, "o-", color=colour, lw=1.8, ms=3.5)
    axes.plot([steps[-1], 1.05 * last], [means[-1]] * 2, color=colour, lw=0.8, ls=":")  # to its name
    if whole:
        axes.fill_between(steps, lowest, highest, color=colour, alpha=0.15, lw=0)
        learning = over_seeds([one["learning"] for one in runs])
        axes.plot(*learning[:2], color=colour, lw=0.9, alpha=0.8)


def over_seeds(curves: Sequence[list[Point]]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return the user-steps of the first seed, and the mean, least and largest return there.

    Other seeds may have been followed at others, as sessions end: then their returns lie between those of their points.
    """
    steps = [point[0] for point in curves[0]]
    values = [
        np.interp(steps, [point[0] for point in curve], [point[2] for point in curve]).tolist() for curve in curves
    ]
    columns = list(zip(*values, strict=True))
    return steps, [statistics.mean(v) for v in columns], [min(v) for v in columns], [max(v) for v in columns]


def colours_of(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour for every line: an agent's own, else one that no other line has while there are any."""
    labels = list(labels)
    taken = {OWN[label] for label in labels if label in OWN}
    spare = cycle([colour for colour in SPARE if colour not in taken])
    return {label: OWN.get(label) or next(spare) for label in labels}


def reference_labels(references: References) -> list[Label]:
    best = references.best_rule()
    labels: list[Label] = []
    for rule, reference in references.rules.items():
        suffix = " (best rule)" if rule == best and len(references.rules) > 1 else ""
        labels.append((reference.mean, f"{rule} {number(reference.mean)}{suffix}", INK))
    if references.ceiling is not None:
        what = "planner" if references.ceiling.kind == "planner" else "ceiling"
        labels.append((references.ceiling.mean, f"{what} {number(references.ceiling.mean)}", INK))
    return labels


def run_labels(panel: Panel, colours: dict[str, str]) -> list[Label]:
    """Name every agent, with its return at the end and, where asked for, the CPU seconds that it took."""
    labels = list[Label]()
    for label, runs in panel.runs.items():
        mean = statistics.mean(one["return"] for one in runs)
        seconds = statistics.median(one["cpu_seconds"] for one in runs)
        took = f", {seconds:.{0 if seconds >= 1 else 1}f} s" if panel.timed else ""
        labels.append((mean, f"{label} {number(mean)}{took}", colours[label]))
    return labels


def number(value: float) -> str:
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}".replace("-", "−")


def limits(panel: Panel) -> tuple[float, float]:
    """Return what a panel's y-axis shows: from random to the ceiling, and what the agents do beside."""
    random, ceiling = panel.references.rules["random"].mean, panel.references.ceiling
    assert ceiling is not None
    curves = [over_seeds([one["greedy"] for one in runs]) for runs in panel.runs.values()]
    seen = [value for curve in curves for part in curve[1 : 4 if few(panel) else 2] for value in part]
    reach = ceiling.mean - random
    low = max(min(random, *seen), random - BELOW * reach)
    high = max(ceiling.mean, *seen)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def write_names(axes: Axes, labels: list[Label], gap: float) -> None:
    """Write ascending labels at the right, heights as fractions of the axes, pushed apart to a gap."""
    places = spread([height for height, _, _ in labels], gap)
    for (height, text, colour), place in zip(labels, places, strict=True):
        axes.plot([1.0, 1.025], [height, place], color=FAINT, lw=0.7, transform=axes.transAxes, clip_on=False)
        axes.text(1.035, place, text, fontsize=SIZE, color=colour, va="center", transform=axes.transAxes)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights as little as possible, in squares, so that neighbours are a gap apart.

    None ends above 1. The heights less their gaps must ascend: pool adjacent violators.
    """
    pools: list[list[float]] = []
    for place, height in enumerate(heights):
        pools.append([height - place * gap])
        while len(pools) > 1 and statistics.mean(pools[-2]) > statistics.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = chain.from_iterable([statistics.mean(pool)] * len(pool) for pool in pools)
    highest = 1 - (len(heights) - 1) * gap  # so that the last one is at the top
    return [min(value, highest) + place * gap for place, value in enumerate(level)]
