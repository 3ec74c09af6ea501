"""The maze as a world: moves, ends, layouts, exact references."""

import math
from pathlib import Path

import pytest
import torch

import slatewise as sw
from slatewise.environments.maze import MazeWorld
from slatewise.mazes import LAYOUTS

TINY = "M+-C\n"
UP, RIGHT, DOWN, LEFT = range(4)


def maze(layout: str = TINY, users: int = 1, **settings: object) -> MazeWorld:
    env = sw.make("maze", users=users, layout=layout, **settings)
    assert isinstance(env, MazeWorld)
    return env


def moves(env: MazeWorld, *ways: int) -> list[sw.Interactions]:
    return [env.step(torch.full((env.users, 1), way)) for way in ways]


def test_the_whole_of_a_session() -> None:
    """Bump, eat, come back to where the cheese was, poison, bump on it, the centre."""
    env = maze()
    session = moves(env, UP, RIGHT, LEFT, RIGHT, RIGHT, UP, RIGHT)
    assert [float(i.response.total_reward) for i in session] == [-1, 9, -1, -1, -11, -11, 19]
    assert [i.response.signals[0, 0].tolist() for i in session[1:3]] == [[1, 0, 0], [0, 0, 0]]
    assert [bool(i.terminated) for i in session] == [False] * 6 + [True]
    assert not any(bool(i.truncated) for i in session)
    assert env.spec.user == ("cell_0_0", "cell_0_1", "cell_0_2", "cell_0_3", "cheese_0_1")
    assert session[0].observation.user.tolist() == [[1, 0, 0, 0, 1]]
    assert session[2].observation.user.tolist() == [[0, 1, 0, 0, 0]]
    assert session[-1].next_observation.user.tolist() == [[0, 0, 0, 1, 0]]
    assert env.observation.user.tolist() == [[1, 0, 0, 0, 1]]  # the next session: all cheese is back


def test_the_limit_truncates_and_the_centre_terminates() -> None:
    env = maze(horizon=3)
    first = moves(env, LEFT, LEFT, LEFT)
    assert [bool(i.truncated) for i in first] == [False, False, True]
    assert not any(bool(i.terminated) for i in first)
    last = moves(env, RIGHT, RIGHT, RIGHT)[-1]  # the centre with the last step
    assert (bool(last.terminated), bool(last.truncated)) == (True, False)


def test_the_mouse_starts_anywhere_on_the_floor() -> None:
    """Frequencies of 15 starts within 4.5 standard errors."""
    env = maze("classroom", users=30_000)
    cells = env.maze.cell(env.state["place"])
    share = torch.bincount(cells, minlength=len(env.maze.cells)).double() / 30_000
    expected = torch.zeros_like(share)
    expected[env.maze.starts] = 1 / len(env.maze.starts)
    error = (expected * (1 - expected) / 30_000).sqrt()
    assert bool(((share - expected).abs() <= 4.5 * error).all())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", ["random", "shortest", "optimal"])
def test_references_are_what_rules_earn(layout: str, rule: str) -> None:
    """Within 4.5 standard errors; exactly where there is one start and no draw."""
    env = maze(layout, users=3000)
    found = sw.evaluate(env.rule(rule, seed=1), env, 3000)
    known = env.references.ceiling if rule == "optimal" else env.references.rules[rule]
    assert known.standard_error == 0
    assert abs(found.mean - known.mean) <= 4.5 * found.standard_error + 1e-9


def test_the_ceiling_knows_the_steps_left() -> None:
    """With two steps the cheese is worth fetching and the centre is out of reach."""
    assert maze("C.M+\n", horizon=1).references.ceiling.mean == 9
    assert maze("C.M+\n", horizon=2).references.ceiling.mean == 18
    assert maze("C.M+\n", horizon=4).references.ceiling.mean == 9 - 1 - 1 + 19


def test_rules_go_by_what_is_seen() -> None:
    env = maze("cheese", users=200)
    states = torch.arange(len(env.maze.following))
    slate = env.rules["optimal"](env.observation_of(states), 1)
    best = env.optimal_values
    assert torch.equal(best.gather(1, slate).squeeze(1), best.amax(1))
    with pytest.raises(sw.InputError, match="observations are of another maze"):
        env.rules["optimal"](maze("corridor").observation, 1)


def test_a_layout_may_be_a_file_and_is_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("M..C")
    env = maze(str(tmp_path / "mine.txt"))
    assert env.settings.layout == "M..C\n"
    assert env.references.ceiling.mean == 17
    (tmp_path / "mine.txt").write_text("M.?C\n")
    with pytest.raises(sw.InputError, match="layout line 1, column 3: '\\?' is no part of a maze"):
        maze(str(tmp_path / "mine.txt"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layout": "clasroom"}, "unknown layout or file 'clasroom': did you mean 'classroom'?"),
        ({"candidates": 5}, "candidates=5: input should be less than or equal to 4"),
        ({"slate_size": 2}, "slate_size=2: input should be less than or equal to 1"),
        ({"horizon": 0}, "horizon=0"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(sw.InputError) as found:
        sw.make("maze", users=1, **settings)
    assert words in str(found.value)


@pytest.mark.slow
def test_a_network_finds_its_way_too() -> None:
    """SlateQ with the maze's choice model learns in a few seconds that the cheese is worth a detour."""
    env = maze("classroom", users=128)
    agent = sw.SlateQ(env.spec, choice=env.choice, seed=0)
    sw.train(agent, env, 80_000, progress=False)
    result = sw.evaluate(agent, maze("classroom", users=500), 500)
    assert result.mean - 4 * result.standard_error > env.references.rules["shortest"].mean


def test_random_moves_draw_nothing_of_the_worlds_generator() -> None:
    env = maze("classroom", users=5)
    before = env.snapshot()["generator"]
    moves(env, UP, DOWN, LEFT)
    assert torch.equal(env.snapshot()["generator"], before)
    assert math.isclose(
        float(env.expected_reward(torch.full((5, 1), UP))[0]), float(env.maze.reward[env.state["place"][0], UP])
    )
