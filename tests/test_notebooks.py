"""Notebooks: their text runs as a plain script, and is the same as in the .ipynb beside it, which was run."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
TEXTS = sorted(path for path in FOLDER.glob("*.py") if path.read_text(encoding="utf-8").startswith("# %%"))
each_notebook = pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert TEXTS


@each_notebook
def test_the_text_runs(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script, names = text.read_text(encoding="utf-8"), dict[str, Any](__name__="__main__")
    exec(compile(script, text.name, "exec"), names)
    assert not list(tmp_path.iterdir())
    solutions = [float(value) for value in re.findall(r"^check\(([\d.]+),", script, re.MULTILINE)]
    exercises = re.findall(r"\n# %%\n((?:(?!# %%).*\n)*?answer_\d = )None(\ncheck\(.*\))\n", script)
    assert len(exercises) == script.count("**Exercise")
    for answer, check in exercises:  # whoever answers runs the cell again, after all the others and more than once
        right = [value for value in solutions if accepted(f"{answer}{value}{check}", names)]
        assert right, f"no solution is accepted by {check}"
        assert accepted(f"{answer}{right[0]}{check}", names)


def accepted(cell: str, names: dict[str, Any]) -> bool:
    """Run an exercise's cell among the names of its notebook, and say whether the answer in it was right."""
    try:
        exec(cell, names)
    except AssertionError:
        return False
    return True


@each_notebook
def test_the_pair_has_the_same_cells_and_was_run(text: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="needs the extra `notebooks`")
    cells = jupytext.read(text).cells
    pair = json.loads(text.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    remedy = "run: python docs/notebooks/pair.py"
    assert [(c.cell_type, c.source) for c in cells] == [(c["cell_type"], "".join(c["source"])) for c in pair], remedy
    counts = [cell["execution_count"] for cell in pair if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), remedy
    assert not [o for cell in pair for o in cell.get("outputs", []) if o["output_type"] == "error"]


@pytest.mark.slow
@each_notebook
def test_it_runs_in_a_kernel(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason="needs the extra `notebooks`")
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    import pair

    notebook = pair.executed(text)
    assert (
        sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])) > 3
    )
