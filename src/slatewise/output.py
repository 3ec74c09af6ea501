"""What the command line prints: a table for people, or one JSON object for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def show(as_json: bool, values: Mapping[str, Any], title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print values as JSON, or rows as a table."""
    if as_json:
        print_json(values)
    else:
        print_table(title, rows)


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(_plain(values), allow_nan=False))


def _plain(value: Any) -> Any:
    """Turn what JSON lacks into what it has: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return str(value) if isinstance(value, Path) else value


def print_table(title: str, rows: Sequence[Mapping[str, Any]], errors: bool = False) -> None:
    """Print rows as a table under a title; errors: on standard error."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(title), title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False
    )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        number = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(escape(_cell(column, row.get(column))) for column in columns))
    Console(stderr=errors, width=None if sys.stdout.isatty() else 160).print(table)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "–"
    if column == "share":
        return f"{round(100 * value, 1) + 0.0:.1f} %"  # no minus zero
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"
    return str(value)


def only(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return the named entries, those that exist, in this order."""
    return {key: values[key] for key in keys if key in values}
