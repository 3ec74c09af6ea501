"""Mazes: layouts as text, what every move does, and what every state is exactly worth.

A state is the cell of the mouse and the cheese that is left, numbered left · P + cell: P cells that are no wall, and
`left` a bit a piece of cheese. Letters beside those of the record: S states, A = 4 moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from slatewise.errors import InputError

MOVES = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
WALL, FLOOR, CHEESE, POISON, CENTRE, START = "#.+-CM"
MEANINGS = "# wall, . floor, + cheese, - poison, C centre, M where the mouse may start"
STEP_REWARD, CHEESE_REWARD, POISON_REWARD, CENTRE_REWARD = -1.0, 10.0, -10.0, 20.0
MOST_CELLS, MOST_STATES = 1000, 20_000  # states: cells, times 2 for every piece of cheese

LAYOUTS = {
    # The near cheese is worth its detour from everywhere, and poison guards the short way in.
    "classroom": """
....#..
.##.#+.
.#.....
.#-##.#
..C.-..
.####.#
...+...
""",
    # Sutton & Barto's cliff (2018, example 6.6): the short way runs along the edge.
    "cliff": """
............
............
............
M----------C
""",
    # Three pieces of cheese: which are worth the way, and in what order?
    "cheese": """
+....#...+
####...##.
.....#....
.###.####.
M.+#.C....
""",
    "corridor": "M.....C\n",
}


@dataclass(frozen=True, eq=False)
class Maze:
    """A maze and all that can happen in it. Make one with `parse`.

    rows: the layout.  cells: (row, column) of every cell that is no wall, counted from 0.  cheese: cells with cheese,
    the first its lowest bit.  starts: int64, cells where the mouse may begin.  centre: its cell.
    following: int64 [S, A], the next state.  reward: float64 [S, A].  found: float32 [S, A, 3], whether a move finds
    cheese, poison, the centre.
    """

    rows: tuple[str, ...]
    cells: tuple[tuple[int, int], ...]
    cheese: tuple[int, ...]
    starts: Tensor
    centre: int
    following: Tensor
    reward: Tensor
    found: Tensor

    @property
    def all_cheese(self) -> int:
        """What is left when a session begins: every piece."""
        return 2 ** len(self.cheese) - 1

    def state(self, cell: Tensor, left: int | None = None) -> Tensor:
        """Return the number of the state with the mouse in a cell and this cheese left (all, unless said)."""
        return cell + (self.all_cheese if left is None else left) * len(self.cells)

    def cell(self, state: Tensor) -> Tensor:
        """Return the cell of the mouse, of any shape."""
        return state % len(self.cells)

    def left(self, state: Tensor) -> Tensor:
        """Return the cheese that is left, a bit a piece."""
        return state // len(self.cells)

    @cached_property
    def features(self) -> Tensor:
        """What is seen in every state, float32 [S, U]: one of the cells, then 1 for each piece that is left."""
        state = torch.arange(len(self.following))
        cell = torch.nn.functional.one_hot(self.cell(state), len(self.cells))
        pieces = self.left(state).unsqueeze(1) >> torch.arange(len(self.cheese)) & 1
        return torch.cat([cell, pieces], 1).float()

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of what is seen, by row and column counted from 0."""
        names = [f"cell_{row}_{column}" for row, column in self.cells]
        return (*names, *("cheese_{}_{}".format(*self.cells[cell]) for cell in self.cheese))

    def seen(self, user: Tensor) -> Tensor:
        """Return the state that features [B, U] show, int64 [B]."""
        pieces = user[:, len(self.cells) :] > 0.5
        left = (pieces << torch.arange(len(self.cheese), device=user.device)).sum(1)
        return user[:, : len(self.cells)].argmax(1) + left * len(self.cells)


def parse(text: str) -> Maze:
    """Read a layout: a line a row of the maze, a character a cell; beyond its edge everything is wall.

    `#` wall, `.` floor, `+` cheese, `-` poison, `C` the centre, `M` where the mouse may start (without any: every
    floor cell). Cheese is eaten once, poison hurts at every step that ends on it.
    Raises InputError, with line and column, for anything that is no maze.
    """
    rows = tuple(line.rstrip() for line in text.strip("\n").split("\n"))
    first = 1 + len(text) - len(text.lstrip("\n"))  # line of the first row
    _check_shape(rows, first)
    places = [(r, c) for r, row in enumerate(rows) for c, mark in enumerate(row) if mark != WALL]
    marks = [rows[r][c] for r, c in places]
    centre = _centre(places, marks, first)
    to = _neighbours(places)
    _check_reachable(places, to, centre, first)
    cheese = tuple(i for i, mark in enumerate(marks) if mark == CHEESE)
    if len(places) > MOST_CELLS or len(places) << len(cheese) > MOST_STATES:
        raise InputError(
            f"layout has {len(places)} cells that are no wall, and {len(cheese)} pieces of cheese, each of which "
            f"doubles the states: at most {MOST_CELLS:,} cells and {MOST_STATES:,} states, take cells or cheese away"
        )
    starts = [i for i, mark in enumerate(marks) if mark == START] or [
        i for i, mark in enumerate(marks) if mark == FLOOR
    ]
    if not starts:
        raise InputError("layout has nowhere for the mouse to start: mark a cell with M, or leave some floor (.)")
    poison = torch.tensor([mark == POISON for mark in marks])
    following, found = _moves(to, cheese, poison, centre)
    reward = STEP_REWARD + found.double() @ torch.tensor([CHEESE_REWARD, POISON_REWARD, CENTRE_REWARD]).double()
    return Maze(rows, tuple(places), cheese, torch.tensor(starts), centre, following, reward, found)


def _check_shape(rows: Sequence[str], first: int) -> None:
    for line, row in enumerate(rows, first):
        for column, mark in enumerate(row, 1):
            if mark not in (WALL, FLOOR, CHEESE, POISON, CENTRE, START):
                raise InputError(f"layout line {line}, column {column}: {mark!r} is no part of a maze: {MEANINGS}")
        if len(row) != len(rows[0]):
            raise InputError(
                f"layout line {line}, column {min(len(row), len(rows[0])) + 1}: this line has {len(row)} cells, "
                f"the first has {len(rows[0])}: make all lines equally long"
            )


def _centre(places: Sequence[tuple[int, int]], marks: Sequence[str], first: int) -> int:
    found = [i for i, mark in enumerate(marks) if mark == CENTRE]
    if not found:
        raise InputError("layout has no centre: mark one cell with C")
    if len(found) > 1:
        row, column = places[found[1]]
        raise InputError(f"layout line {row + first}, column {column + 1}: a second centre, C: mark one cell only")
    return found[0]


def _neighbours(places: Sequence[tuple[int, int]]) -> Tensor:
    """Return the cell that every move leads to, int64 [P, A]; a wall stops the mouse where it is."""
    number = {place: i for i, place in enumerate(places)}
    return torch.tensor(
        [[number.get((r + dr, c + dc), i) for dr, dc in MOVES.values()] for (r, c), i in number.items()]
    )


def _check_reachable(places: Sequence[tuple[int, int]], to: Tensor, centre: int, first: int) -> None:
    reached = torch.zeros(len(places), dtype=torch.bool)
    reached[centre] = True
    while bool((new := reached[to].any(1) & ~reached).any()):
        reached |= new
    if not bool(reached.all()):
        row, column = places[int((~reached).nonzero()[0])]
        raise InputError(f"layout line {row + first}, column {column + 1}: no way from this cell to the centre")


def _moves(to: Tensor, cheese: Sequence[int], poison: Tensor, centre: int) -> tuple[Tensor, Tensor]:
    """Return the next state [S, A], and what is found there [S, A, 3]: cheese, poison, the centre."""
    bit = torch.zeros(len(to), dtype=torch.int64)
    bit[list(cheese)] = 1 << torch.arange(len(cheese))
    left = torch.arange(2 ** len(cheese)).view(-1, 1, 1)
    following = (left & ~bit[to]) * len(to) + to
    found = torch.stack([(left & bit[to]) > 0, poison[to].expand_as(following), (to == centre).expand_as(following)], 3)
    return following.flatten(0, 1), found.flatten(0, 1).float()


def look_ahead(maze: Maze, values: Tensor, discount: float = 1.0) -> Tensor:
    """Return reward + γ · value of the next state, 0 at the centre: float64 [S, A] from values [S]."""
    ended = maze.cell(maze.following) == maze.centre
    return maze.reward + discount * values[maze.following].masked_fill(ended, 0.0)


def value_iteration(maze: Maze, discount: float = 1.0, tolerance: float = 1e-9) -> Tensor:
    """Return the value of every move in every state under the best moves after it, float64 [S, A].

    Bellman's equation, repeated until nothing changes by more than `tolerance` (Sutton & Barto 2018, section 4.4). It
    settles without a discount too: all rewards but those of steps and poison are found once.
    """
    worth = torch.zeros_like(maze.reward)
    while True:
        better = look_ahead(maze, worth.amax(1), discount)
        if float((better - worth).abs().max()) <= tolerance:
            return better
        worth = better


def shortest_ways(maze: Maze) -> Tensor:
    """Return minus the number of steps to the centre after every move, its own included, float64 [S, A]."""
    return value_iteration(replace(maze, reward=torch.full_like(maze.reward, -1.0)))


def expected_return(maze: Maze, steps: int, policy: Tensor | None = None) -> float:
    """Return the exact mean return of sessions of at most so many steps, over where the mouse may start.

    policy: probability of every move in every state, [S, A]; None is the optimum that knows the steps left.
    By backward induction over the steps left.
    """
    values = torch.zeros(len(maze.reward), dtype=torch.float64)
    for _ in range(steps):
        worth = look_ahead(maze, values)
        before, values = values, worth.amax(1) if policy is None else (policy * worth).sum(1)
        if torch.equal(before, values):  # more steps change nothing
            break
    return float(values[maze.state(maze.starts)].mean())
