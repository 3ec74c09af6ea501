"""Mazes against a mouse in plain Python: what moves do, and what states are worth by trying everything."""

from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slatewise.errors import InputError
from slatewise.mazes import LAYOUTS, Maze, expected_return, look_ahead, parse, shortest_ways, value_iteration

STEPS = {0: (-1, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1)}


class PlainMouse:
    """The rules of the maze, written again from their description."""

    def __init__(self, text: str) -> None:
        self.grid = {(r, c): mark for r, row in enumerate(text.strip("\n").split("\n")) for c, mark in enumerate(row)}
        self.cheese = frozenset(at for at, mark in self.grid.items() if mark == "+")
        marks = "M" if "M" in self.grid.values() else "."
        self.starts = [at for at, mark in self.grid.items() if mark == marks]

    def move(self, at: tuple[int, int], cheese: frozenset, way: int) -> tuple[tuple[int, int], frozenset, float, bool]:
        to = (at[0] + STEPS[way][0], at[1] + STEPS[way][1])
        to = to if self.grid.get(to, "#") != "#" else at
        reward = -1 + 10 * (to in cheese) - 10 * (self.grid[to] == "-") + 20 * (self.grid[to] == "C")
        return to, cheese - {to}, reward, self.grid[to] == "C"

    def best(self, steps: int) -> float:
        """Return the mean over starts of the best return in so many steps, by trying every way."""

        @cache
        def value(at: tuple[int, int], cheese: frozenset, left: int) -> float:
            if left == 0:
                return 0.0
            moves = [self.move(at, cheese, way) for way in range(4)]
            return max(r + (0.0 if over else value(to, kept, left - 1)) for to, kept, r, over in moves)

        return sum(value(at, self.cheese, steps) for at in self.starts) / len(self.starts)

    def uniform(self, steps: int) -> float:
        """Return the mean return of uniform moves."""

        @cache
        def value(at: tuple[int, int], cheese: frozenset, left: int) -> float:
            if left == 0:
                return 0.0
            moves = [self.move(at, cheese, way) for way in range(4)]
            return sum(r + (0.0 if over else value(to, kept, left - 1)) for to, kept, r, over in moves) / 4

        return sum(value(at, self.cheese, steps) for at in self.starts) / len(self.starts)


def same_as_plain(text: str, steps: int) -> None:
    maze, mouse = parse(text), PlainMouse(text)
    assert expected_return(maze, steps) == pytest.approx(mouse.best(steps), abs=1e-9)
    uniform = torch.full_like(maze.reward, 0.25)
    assert expected_return(maze, steps, uniform) == pytest.approx(mouse.uniform(steps), abs=1e-9)
    best = value_iteration(maze).amax(1)[maze.state(maze.starts)].mean()
    if steps >= 60:
        assert float(best) == pytest.approx(mouse.best(steps), abs=1e-9)
    torch.testing.assert_close(look_ahead(maze, value_iteration(maze).amax(1)), value_iteration(maze))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", [7, 60])
def test_values_are_those_of_trying_everything(layout: str, steps: int) -> None:
    same_as_plain(LAYOUTS[layout], steps)


@settings(max_examples=40)
@given(st.integers(2, 4), st.integers(2, 5), st.data())
def test_values_of_any_maze(height: int, width: int, data: st.DataObject) -> None:
    marks = data.draw(st.lists(st.sampled_from("..##+-M"), min_size=height * width, max_size=height * width))
    marks[data.draw(st.integers(0, len(marks) - 1))] = "C"
    text = "\n".join("".join(marks[r * width : (r + 1) * width]) for r in range(height))
    try:
        parse(text)
    except InputError:
        assume(False)
    same_as_plain(text, data.draw(st.integers(1, 9)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_move_of_every_state_is_the_plain_mouses(layout: str) -> None:
    maze, mouse = parse(LAYOUTS[layout]), PlainMouse(LAYOUTS[layout])
    pieces = [maze.cells[cell] for cell in maze.cheese]
    for state in range(len(maze.following)):
        at = maze.cells[int(maze.cell(torch.tensor(state)))]
        left = int(maze.left(torch.tensor(state)))
        cheese = frozenset(place for bit, place in enumerate(pieces) if left >> bit & 1)
        for way in range(4):
            to, kept, reward, over = mouse.move(at, cheese, way)
            following = int(maze.following[state, way])
            assert maze.cells[following % len(maze.cells)] == to
            assert following // len(maze.cells) == sum(1 << bit for bit, place in enumerate(pieces) if place in kept)
            assert float(maze.reward[state, way]) == reward
            assert bool(maze.found[state, way, 2]) == over


def test_what_is_seen_tells_the_state() -> None:
    maze = parse(LAYOUTS["cheese"])
    states = torch.arange(len(maze.following))
    assert torch.equal(maze.seen(maze.features), states)
    assert maze.features.shape[1] == len(maze.feature_names()) == len(set(maze.feature_names()))
    assert maze.feature_names()[0] == "cell_0_0"
    assert maze.feature_names()[-1] == "cheese_4_2"


def test_ways_are_counted_in_steps() -> None:
    maze = parse("M.-.C\n")
    assert shortest_ways(maze)[:4].amax(1).tolist() == [-4, -3, -2, -1]


def test_a_discount_makes_far_rewards_small() -> None:
    """20 − 1 at the last of three steps, −1 at the two before: −1 − γ + 19 γ²."""
    maze = parse("M..C\n")
    assert float(value_iteration(maze, discount=0.5)[0].max()) == pytest.approx(-1 - 0.5 + 19 * 0.25)


def test_floor_is_where_the_mouse_starts_unless_it_is_said() -> None:
    def starts(text: str) -> list[tuple[int, int]]:
        maze: Maze = parse(text)
        return [maze.cells[int(cell)] for cell in maze.starts]

    assert starts("..+\n-.C\n") == [(0, 0), (0, 1), (1, 1)]
    assert starts(".M+\n-.C\n") == [(0, 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("..x\n..C\n", "layout line 1, column 3: 'x' is no part of a maze: # wall, . floor"),
        ("\n...\n.C\n", "layout line 3, column 3: this line has 2 cells, the first has 3"),
        ("...\n.C..\n", "layout line 2, column 4: this line has 4 cells, the first has 3"),
        ("...\n...\n", "layout has no centre: mark one cell with C"),
        ("..C\n.C.\n", "layout line 2, column 2: a second centre"),
        ("..#.\n..#C\n", "layout line 1, column 1: no way from this cell to the centre"),
        ("..#+\n.C##\n", "layout line 1, column 4: no way from this cell to the centre"),
        ("+-C\n", "layout has nowhere for the mouse to start"),
        ("\n", "layout has no centre"),
        ("+++++\n+++++\n..C++\n", "layout has 15 cells that are no wall, and 12 pieces of cheese"),
        ("\n".join(["." * 200] * 100 + ["." * 199 + "C"]), "layout has 20200 cells that are no wall, and 0 pieces"),
    ],
)
def test_a_layout_that_is_no_maze_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError) as found:
        parse(text)
    assert words in str(found.value)
