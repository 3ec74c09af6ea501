"""Run every notebook's text and write the .ipynb beside it, pictures included: python docs/notebooks/pair.py [NAME …].

Needs the extra `notebooks`. The text is the original; the pair is checked by tests/test_notebooks.py.
"""

import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
TEXTS = sorted(path for path in HERE.glob("*.py") if path.read_text(encoding="utf-8").startswith("# %%"))
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def executed(text: Path) -> Any:
    """Return a notebook, run from its text in a kernel of its own."""
    notebook = jupytext.read(text)
    notebook.metadata = nbformat.NotebookNode(kernelspec=KERNEL)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"  # the same in every run
        cell.metadata.pop("execution", None)  # times
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Write the pairs."""
    for text in TEXTS:
        if len(sys.argv) == 1 or text.stem in sys.argv[1:]:
            nbformat.write(executed(text), text.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
