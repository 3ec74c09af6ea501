"""`slatewise watch`: what is told is what happened, and the page stands by itself."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import slatewise as sw
from slatewise import cli
from slatewise.watch import number, page, percent, signed, table, watch

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `slatewise watch` in this process; return exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["slatewise", "watch", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_json_tells_everything(command: Command) -> None:
    arguments = ("interest-evolution", "--policy", "myopic", "--policy", "quality", "--user", "2", "--set", "horizon=9")
    code, out, _ = command(*arguments, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["world"], told["user"], told["settings"]["horizon"]) == ("interest-evolution-v1", 2, 9)
    env = sw.make("interest-evolution", 3, seed=1000, horizon=9)
    sessions = watch(["myopic", "quality"], env, user=2)
    for name, session in sessions.items():
        assert told["policies"][name]["return"] == sum(session.reward)
        assert told["policies"][name]["ended"] == "truncated"
        assert [step["slate"] for step in told["policies"][name]["steps"]] == [step.slate for step in session.steps]


def test_the_terminal_tells_every_step(command: Command) -> None:
    code, out, _ = command("long-term-satisfaction", "--policy", "sweetest", "--policy", "linucb", "--steps", "7")
    assert code == 0
    assert all(f"{step}  satisfaction" in out for step in range(1, 8))
    assert "linucb has learned nothing yet" in out
    assert "told for 7 steps, not over yet; in brackets, by item: expected" in out


def test_the_table_adds_up() -> None:
    env = sw.make("interest-evolution", 1, seed=3)
    sessions = watch(["myopic", "quality"], env)
    rows = table(sessions)
    short, long = sorted(sessions, key=lambda name: len(sessions[name]))
    assert len(rows) == len(sessions[long])
    assert f"{short}: in all" not in rows[len(sessions[short])]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1][f"{long}: in all"] == pytest.approx(sum(sessions[long].reward))
    taken = next(i for i, step in enumerate(sessions[long].steps) if step.taken is not None)
    assert "✓" in rows[taken][f"{long}: shown"]


def test_the_page_stands_by_itself(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "watch.html"
    code, said, _ = command("interest-evolution", "--policy", "random", "--policy", "quality", "--out", str(out))
    assert code == 0
    assert str(out) in said
    html = out.read_text()
    addresses = set(re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)""", html)) - {"data:,"}
    assert not addresses
    assert not re.findall(r"url\((?!#)|@import|<script", html)
    env = sw.make("interest-evolution", 1, seed=1000)
    sessions = watch(["random", "quality"], env, seed=1000)
    longest = max(len(session) for session in sessions.values())
    assert re.findall(r'id="step-(\d+)"', html) == [str(i) for i in range(1, longest + 1)]
    taken = sum(any(step.clicked) for session in sessions.values() for step in session.steps)
    assert html.count('class="taken"') == taken
    assert all(number(sum(session.reward)) in html for session in sessions.values())
    assert "slatewise watch interest-evolution --policy random --policy quality --user 0" in html
    assert list(out.parent.iterdir()) == [out]


def test_names_are_text_on_the_page() -> None:
    env = sw.make("long-term-satisfaction", 1)
    session = watch(["kalest"], env, longest=2)["kalest"]
    html = page({"<b>kalest</b>": session}, env, 0, "a & b")
    assert "<b>kalest</b>" not in html
    assert "&lt;b&gt;kalest&lt;/b&gt;" in html


def test_every_click_of_a_page_has_its_signals() -> None:
    env = sw.make("feed", 1, seed=1000)
    session = watch(["favourites"], env)["favourites"]
    first = session.steps[0]
    assert sum(first.clicked) == 2
    told = [number(first.signals["relevance"][slot]) for slot, clicked in enumerate(first.clicked) if clicked]
    assert f"(relevance {told[0]} and {told[1]})" in page({"favourites": session}, env, 0, "")


def test_who_knows_the_users_is_watched_too() -> None:
    env = sw.make("interest-exploration", 3, seed=2, horizon=20)
    sessions = watch(["myopic", "oracle"], env, user=2)
    assert [len(session) for session in sessions.values()] == [20, 20]
    best = sessions["oracle"].steps[0]
    assert best.first == [float(position == best.slate[0]) for position in range(10)]
    html = page(sessions, env, 2, "")
    assert html.count("<figure>") == 1  # the return: affinities never change
    assert "affinity_topic_0" in html


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--policy", "random", "--policy", "myopic", "--policy", "quality"), "name one, or two different ones"),
        (("--policy", "random", "--policy", "random"), "name one, or two different ones"),
        (("--policy", "myopc"), "did you mean 'myopic'"),
        (("--policy", "myopic", "--set", "candidate=3"), "did you mean 'candidates'"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(command: Command, arguments: tuple[str, ...], words: str) -> None:
    code, _, error = command("interest-evolution", *arguments)
    assert code == 2
    assert words in error
    assert error.count("\n") == 1


def test_a_folder_is_no_page(command: Command, tmp_path: Path) -> None:
    code, _, error = command("interest-evolution", "--policy", "random", "--out", str(tmp_path))
    assert code == 2
    assert "is a folder: name a file in it" in error
    assert not list(tmp_path.iterdir())


def test_numbers_as_people_read_them() -> None:
    assert [number(x) for x in (0.0, -0.5, 12.34, 1234.5)] == ["0.00", "−0.50", "12.3", "1,234"]
    assert [signed(x) for x in (0.0, 4.0, -3.9)] == ["+0.00", "+4.00", "−3.90"]
    assert [percent(x) for x in (0.0, 0.001, 0.5, 0.999, 1.0)] == [
        f"{text}\u00a0%" for text in ("0", "<1", "50", ">99", "100")
    ]
