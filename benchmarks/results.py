"""Results of benchmarks: raw values with versions and date, and the docs page made from them."""

import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from slatewise.environments.base import References

HERE = Path(__file__).parent
PACKAGES = ("slatewise", "torch", "numpy", "scikit-learn")
PAGE = HERE.parent / "docs" / "benchmarks.md"


def save(name: str, claim: str, rows: Sequence[dict[str, Any]], raw: Any = None) -> None:
    """Write the rows of one benchmark and make the docs page anew.

    raw: what the rows were made from, kept in the file only.
    """
    about = {
        "benchmark": name,
        "claim": claim,
        "command": command(sys.argv),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {p: version(p) for p in PACKAGES} | {"python": platform.python_version()},
        "machine": f"{processor()}, {os.cpu_count()} cores, one thread used",
    }
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    lost = columns(json.loads(path.read_text())["rows"]) - columns(rows) if path.is_file() else set[str]()
    if lost:
        print(f"{name}: the earlier result had also {', '.join(sorted(lost))}; see --help", file=sys.stderr)
    path.write_text(compact(json.dumps(about | {"rows": list(rows)} | ({"raw": raw} if raw else {}), indent=1)) + "\n")
    write_page()


def with_error(means: Sequence[float]) -> str:
    """Return the mean over seeds ± its standard error, as text; of one seed the mean alone."""
    error = f" ± {statistics.stdev(means) / len(means) ** 0.5:.1f}" if len(means) > 1 else ""
    return f"{statistics.mean(means):.1f}{error}"


def unlearned(references: References) -> dict[str, Any]:
    """Return what random and the best rule without learning earn."""
    best = references.best_rule()
    return {"random": references.rules["random"].mean, "best_rule": f"{best} {references.rules[best].mean}"}


def compact(text: str) -> str:
    """Return indented JSON with every list of numbers on one line: curves have thousands of them."""
    numbers = re.compile(r"\[\n\s*((?:-?\d[\d.eE+-]*|null|NaN)(?:,\s+(?:-?\d[\d.eE+-]*|null|NaN))*)\s+\]")
    return numbers.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def command(arguments: Sequence[str]) -> str:
    """Return the command that is running, with paths of this machine replaced by what they are: --obp OBP."""
    shown = [f"python benchmarks/{Path(arguments[0]).name}"]
    for before, argument in pairwise(arguments):
        shown.append(before.lstrip("-").upper() if os.sep in argument else argument)
    return " ".join(shown)


def columns(rows: Sequence[dict[str, Any]]) -> set[str]:
    """Return the names of all columns."""
    return {key for row in rows for key in row}


def write_page() -> None:
    """Make docs/benchmarks.md from all result files."""
    parts = ["# Benchmarks", "", "Made by the scripts in `benchmarks/` from their result files; do not edit.", ""]
    for path in sorted((HERE / "results").glob("*.json")):
        result = json.loads(path.read_text())
        versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        parts += [f"## {result['benchmark']}", "", result["claim"], "", *table(result["rows"]), ""]
        parts += [f"`{result['command']}`, {result['date']}, {result['machine']}; {versions}.", ""]
    PAGE.write_text("\n".join(parts))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows as Markdown."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(column.replace("_", " ") for column in columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]


def processor() -> str:
    """Return the processor's name, where the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_cell(part) for part in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str("" if value is None else value)


if __name__ == "__main__":
    write_page()
