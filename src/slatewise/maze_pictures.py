"""Pictures of mazes: the maze itself, a session as an animation, and values as a heat map with arrows.

Every function returns a matplotlib figure, or writes a file. Nothing is drawn on the process-wide pyplot state.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, Polygon, Rectangle
from torch import Tensor

from slatewise.environments.maze import MazeWorld
from slatewise.errors import InputError
from slatewise.interactions import Policy
from slatewise.mazes import MOVES, POISON, WALL, Maze

INK, STONE, FLOOR_COLOUR = "#22272e", "#4b5563", "#f6f3ec"
CHEESE_COLOUR, POISON_COLOUR, CENTRE_COLOUR, MOUSE_COLOUR = "#f2b93b", "#7a3e9d", "#2f7d4f", "#8b929c"
VALUES = "PuOr_r"  # purple is bad, orange good: told apart by everybody
CELL = 0.62  # inches
PALE = 1.6  # colours stop short of the darkest, so that numbers and arrows can be read
EQUAL = 1e-6  # values this close are equally good


def picture(maze: Maze, state: int | None = None, trail: Sequence[int] = (), title: str = "") -> Figure:
    """Draw a maze.

    state: where the mouse is and which cheese is left; None draws no mouse and all cheese.
    trail: states that the mouse came through, drawn as a line.
    Raises InputError for a state that the maze does not have.
    """
    _check_states(maze, [*trail] if state is None else [*trail, state])
    figure, axes = _figure(maze, title)
    _draw(axes, maze, state, trail)
    return figure


def value_map(maze: Maze, values: Tensor, left: int | None = None, title: str = "") -> Figure:
    """Draw the value of every cell as its colour and number, with arrows along the best moves.

    values: [S, A], of every move in every state, as `value_iteration` or an agent gives them.
    left: the cheese that is left, a bit a piece; None is all of it. Where a piece lies the mouse cannot be without
    having eaten it, so there is no value. Raises InputError for values of another maze.
    """
    if values.shape != maze.reward.shape:
        raise InputError(f"values have shape {list(values.shape)}, this maze has {list(maze.reward.shape)} moves")
    figure, axes = _figure(maze, title)
    _draw(axes, maze, int(maze.state(torch.tensor(0), left)), (), mouse=False)
    states = maze.state(torch.arange(len(maze.cells)), left)
    best = values[states].amax(1)
    taken = [c for bit, c in enumerate(maze.cheese) if int(maze.left(states[0])) >> bit & 1]
    shown = [cell for cell in range(len(best)) if cell not in (maze.centre, *taken)]
    largest = PALE * max(1.0, float(best[shown].abs().max()))
    colours = ScalarMappable(TwoSlopeNorm(0.0, -largest, largest), VALUES).to_rgba(best.numpy())
    for cell in shown:
        row, column = maze.cells[cell]
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=tuple(colours[cell]), lw=0, zorder=1))
        number = f"{float(best[cell]):.0f}".replace("-", "−")
        axes.text(column - 0.45, row + 0.43, number, va="bottom", fontsize=7.5, color=INK, zorder=5)
        _arrows(axes, row, column, values[states[cell]])
    return figure


def walk(policy: Policy, env: MazeWorld, user: int = 0) -> list[int]:
    """Return the states of a user's first session, from the beginning of the world's seed, its end included."""
    env.reset(env.seed)
    states = [int(env.state["place"][user])]
    while True:
        interactions = env.step(policy.act(env.observation, explore=False))[user]
        assert interactions.next_observation is not None  # worlds always give one
        states.append(int(env.maze.seen(interactions.next_observation.user)))
        if bool(interactions.done[0]):
            return states


def animate(maze: Maze, states: Sequence[int], path: str | Path, frames_per_second: int = 4) -> None:
    """Write a session as an animated GIF, whole or not at all.  states: as `walk` returns them.

    Raises InputError for another kind of file, no states, or one that the maze does not have.
    """
    path = Path(path)
    _check_states(maze, states)
    if not states:
        raise InputError("states is empty: an animation needs at least one")
    if path.suffix != ".gif":
        raise InputError(f"path={path}: animations are GIF files, name it something.gif")
    figure, axes = _figure(maze, "")
    writer, beside = PillowWriter(fps=frames_per_second), path.with_name(f".{path.name}.partial.gif")
    with writer.saving(figure, str(beside), dpi=80):
        for i, state in enumerate(states):
            axes.clear()
            _frame(axes, maze, "")
            _draw(axes, maze, state, states[: i + 1])
            for _ in range(1 if i < len(states) - 1 else 5):  # stay at the end for a while
                writer.grab_frame()
    beside.replace(path)


def _check_states(maze: Maze, states: Sequence[int]) -> None:
    bad = [state for state in states if not 0 <= state < len(maze.following)]
    if bad:
        raise InputError(
            f"state {bad[0]}: this maze has states 0 to {len(maze.following) - 1}: use `walk`, or maze.state(cell)"
        )


def _figure(maze: Maze, title: str) -> tuple[Figure, Axes]:
    width, height = CELL * (len(maze.rows[0]) + 0.24), CELL * (len(maze.rows) + 0.24)
    above = 0.32 if title else 0.0
    figure = Figure(figsize=(width, height + above))
    axes = figure.add_axes((0, 0, 1, height / (height + above)))
    _frame(axes, maze, title)
    return figure, axes


def _frame(axes: Axes, maze: Maze, title: str) -> None:
    height, width = len(maze.rows), len(maze.rows[0])
    axes.set_xlim(-0.62, width - 0.38)
    axes.set_ylim(height - 0.38, -0.62)
    axes.set_aspect("equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title, loc="left", fontsize=10.5, color=INK)


def _draw(axes: Axes, maze: Maze, state: int | None, trail: Sequence[int], mouse: bool = True) -> None:
    height, width = len(maze.rows), len(maze.rows[0])
    axes.add_patch(Rectangle((-0.62, -0.62), width + 0.24, height + 0.24, facecolor=STONE, lw=0, zorder=0))
    axes.add_patch(Rectangle((-0.5, -0.5), width, height, facecolor=FLOOR_COLOUR, lw=0, zorder=0))
    left = maze.all_cheese if state is None else int(maze.left(torch.tensor(state)))
    for row, line in enumerate(maze.rows):
        for column, mark in enumerate(line):
            colour, edge = (STONE, STONE) if mark == WALL else ("none", "#d9d3c5")
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor=edge, lw=0.6, zorder=2)
            )
            if mark == POISON:
                _poison(axes, row, column)
    for bit, cell in enumerate(maze.cheese):
        if left >> bit & 1:
            _cheese(axes, *maze.cells[cell])
    _centre(axes, *maze.cells[maze.centre])
    if len(trail) > 1:
        points = [maze.cells[int(maze.cell(torch.tensor(place)))] for place in trail]
        axes.plot([c for _, c in points], [r for r, _ in points], color=MOUSE_COLOUR, lw=2.5, alpha=0.55, zorder=3)
    if state is not None and mouse:
        _mouse(axes, *maze.cells[int(maze.cell(torch.tensor(state)))])


def _arrows(axes: Axes, row: int, column: int, values: Tensor) -> None:
    for move in (values >= values.max() - EQUAL).nonzero().flatten().tolist():
        down, right = list(MOVES.values())[move]
        axes.annotate(
            "",
            (column + 0.44 * right, row + 0.44 * down),
            (column + 0.12 * right, row + 0.12 * down),
            arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.3, "shrinkA": 0, "shrinkB": 0},
            zorder=6,
        )


def _cheese(axes: Axes, row: int, column: int) -> None:
    corners = [(column - 0.3, row + 0.14), (column + 0.3, row + 0.14), (column + 0.3, row - 0.2)]
    axes.add_patch(Polygon(corners, facecolor=CHEESE_COLOUR, edgecolor=INK, lw=0.8, zorder=4))
    for x, y, radius in ((0.16, 0.03, 0.05), (-0.02, 0.07, 0.035), (0.22, -0.09, 0.03)):
        axes.add_patch(Circle((column + x, row + y), radius, facecolor="#c98f16", lw=0, zorder=4))


def _poison(axes: Axes, row: int, column: int) -> None:
    axes.add_patch(Circle((column, row - 0.03), 0.22, facecolor=POISON_COLOUR, edgecolor=INK, lw=0.8, zorder=4))
    for sign in (1, -1):
        x, y = [column - 0.1, column + 0.1], [row - 0.03 - sign * 0.1, row - 0.03 + sign * 0.1]
        axes.plot(x, y, color="white", lw=1.8, zorder=4)


def _centre(axes: Axes, row: int, column: int) -> None:
    for radius, colour in ((0.36, CENTRE_COLOUR), (0.25, "white"), (0.14, CENTRE_COLOUR)):
        axes.add_patch(Circle((column, row), radius, facecolor=colour, lw=0, zorder=4))


def _mouse(axes: Axes, row: int, column: int) -> None:
    tail = [(column - 0.2, row + 0.14), (column - 0.36, row + 0.2), (column - 0.42, row + 0.05)]
    axes.plot([x for x, _ in tail], [y for _, y in tail], color=MOUSE_COLOUR, lw=1.8, zorder=7)
    axes.add_patch(Ellipse((column, row + 0.07), 0.56, 0.36, facecolor=MOUSE_COLOUR, edgecolor=INK, lw=0.8, zorder=7))
    for x in (0.04, 0.22):
        axes.add_patch(Circle((column + x, row - 0.13), 0.09, facecolor="#e7b7b7", edgecolor=INK, lw=0.8, zorder=8))
    axes.add_patch(Circle((column + 0.16, row + 0.03), 0.03, facecolor=INK, lw=0, zorder=9))
    axes.add_patch(Circle((column + 0.28, row + 0.08), 0.035, facecolor=INK, lw=0, zorder=9))
