"""The user's cache directory: what was downloaded, and numbers that take long to compute and never change.

It is $XDG_CACHE_HOME/slatewise, or ~/.cache/slatewise, with one JSON file of numbers a subject; deleting it costs time
and nothing else.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_memory: dict[tuple[Path, str], float] = {}


def folder() -> Path:
    """Return the directory of everything that is cached."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "slatewise"


def remembered(subject: str, key: str, compute: Callable[[], float]) -> float:
    """Return the number of a key, computed the first time: from memory, else from the subject's file.

    A file that cannot be read or written is done without: the number is then computed once a process.
    """
    path = folder() / f"{subject}.json"
    if (path, key) not in _memory:
        known = _read(path).get(key)
        _memory[path, key] = compute() if known is None else known
        if known is None:
            with suppress(OSError):
                _write(path, _read(path) | {key: _memory[path, key]})
    return _memory[path, key]


def _read(path: Path) -> dict[str, float]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return (
        {str(k): float(v) for k, v in values.items() if isinstance(v, int | float)} if isinstance(values, dict) else {}
    )


def _write(path: Path, values: dict[str, float]) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    os.replace(unfinished, path)
