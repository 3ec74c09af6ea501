"""Every Python example in the README and the docs runs, in order, page by page; links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if CODE.search(p.read_text())], ids=lambda p: p.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in CODE.findall(page.read_text()):
        exec(compile(code, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_commands_of_the_readme_parse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from slatewise import cli

    commands = re.findall(r"^slatewise ([^#\n]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        words = command.split()
        verb = words[:3] if words[:2] == ["logs", "import"] else words[:2] if words[0] == "logs" else words[:1]
        monkeypatch.setattr("sys.argv", ["slatewise", *verb, "--help"])
        with pytest.raises(SystemExit):
            cli.main()
        text = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", command):
            assert option in text, f"{option} of `slatewise {command}`"
