"""What all pictures share: colours, frames, and how a figure gets into a page.

Every function returns a matplotlib figure of about half a page's width, so that two stand side by side on a wide
screen and one fills a narrow one. Nothing is drawn on the process-wide pyplot state.
"""

import io
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def frame(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of this size in inches with one pair of axes."""
    figure, axes = frames(width, height, 1)
    return figure, axes[0]


def frames(width: float, height: float, rows: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes above each other that share their x."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=rows > 1, squeeze=False)[:, 0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(FAINT)
        one.tick_params(colors=INK)
    return figure, list(axes)
