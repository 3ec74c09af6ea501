"""Pictures of mazes: what is drawn where, and whole files."""

from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

import slatewise as sw
from slatewise.maze_pictures import CHEESE_COLOUR, STONE, animate, picture, value_map, walk
from slatewise.mazes import parse

MAZE = parse("M+.\n-#C\n")


def patches(figure: Figure, kind: type, colour: str) -> list[tuple[float, float]]:
    """Return the middles of what is drawn in a colour, (row, column)."""
    found = [p for p in figure.axes[0].patches if isinstance(p, kind) and p.get_facecolor() == to_rgba(colour)]
    boxes = [p.get_extents().transformed(figure.axes[0].transData.inverted()) for p in found]
    return [(round((b.y0 + b.y1) / 2), round((b.x0 + b.x1) / 2)) for b in boxes]


def test_walls_and_the_cheese_that_is_left_are_drawn_where_they_are() -> None:
    start = int(MAZE.state(MAZE.starts[0]))
    assert (1, 1) in patches(picture(MAZE, start), Rectangle, STONE)
    assert patches(picture(MAZE, start), Polygon, CHEESE_COLOUR) == [(0, 1)]
    assert patches(picture(MAZE), Polygon, CHEESE_COLOUR) == [(0, 1)]
    eaten = int(MAZE.following[start, 1])
    assert patches(picture(MAZE, eaten), Polygon, CHEESE_COLOUR) == []


def test_values_are_written_where_the_mouse_can_be_with_arrows_to_the_best() -> None:
    values = torch.arange(MAZE.reward.numel()).double().view(MAZE.reward.shape)  # left is always the best move
    figure = value_map(MAZE, values)
    texts = {(round(t.get_position()[1] - 0.43), round(t.get_position()[0] + 0.45)): t.get_text()
             for t in figure.axes[0].texts if t.get_text()}  # fmt: skip
    states = MAZE.state(torch.arange(len(MAZE.cells)))
    expected = {
        MAZE.cells[c]: f"{float(values[states[c]].max()):.0f}"
        for c in range(5)
        if MAZE.cells[c] not in ((0, 1), (1, 2))
    }
    assert texts == expected
    arrows = [t for t in figure.axes[0].texts if not t.get_text()]
    assert len(arrows) == 3
    assert all(t.xy[0] < t.get_position()[0] and t.xy[1] == t.get_position()[1] for t in arrows)
    assert len([t for t in value_map(MAZE, values, left=0).axes[0].texts if t.get_text()]) == 4


def test_equal_moves_get_an_arrow_each() -> None:
    figure = value_map(MAZE, torch.zeros_like(MAZE.reward))
    assert len([t for t in figure.axes[0].texts if not t.get_text()]) == 3 * 4


def test_a_walk_is_the_session() -> None:
    env = sw.make("maze", users=3, layout="M.+C\n")
    states = walk(env.rule("optimal"), env, user=1)
    assert [env.maze.cells[s % 4] for s in states] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert [s // 4 for s in states] == [1, 1, 0, 0]


def test_an_animation_has_a_frame_a_state_and_nothing_is_left_of_a_bad_one(tmp_path: Path) -> None:
    start = int(MAZE.state(MAZE.starts[0]))
    animate(MAZE, [start, int(MAZE.following[start, 1])], tmp_path / "mouse.gif")
    with Image.open(tmp_path / "mouse.gif") as film:
        assert film.format == "GIF"
        assert film.n_frames == 2
    with pytest.raises(sw.InputError, match="state 99: this maze has states 0 to 9"):
        animate(MAZE, [start, 99], tmp_path / "other.gif")
    with pytest.raises(sw.InputError, match="name it something"):
        animate(MAZE, [start], tmp_path / "mouse.png")
    with pytest.raises(sw.InputError, match="states is empty"):
        animate(MAZE, [], tmp_path / "other.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["mouse.gif"]


def test_values_of_another_maze_are_refused() -> None:
    with pytest.raises(sw.InputError, match=r"values have shape \[3, 4\]"):
        value_map(MAZE, torch.zeros(3, 4))
