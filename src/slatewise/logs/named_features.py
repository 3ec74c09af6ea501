"""Features with names, as JSON has them: numbers, strings and lists below namespaces become columns of a matrix."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

import torch
from torch import Tensor

from slatewise.errors import InputError

LARGEST: Final = torch.finfo(torch.float32).max
Named = tuple[tuple[str, str], float]


def named_features(value: Any) -> list[Named]:
    """Return ((group, name), value) of every feature of a JSON value, as Vowpal Wabbit understands it.

    A number is a feature of that value (true is 1) in the group of its object; a string is a feature of value 1 called
    `path=string`, and so is every word of `_text`; lists count their numbers, `path[0]`, `path[1]`, …, and their
    objects belong to the list's own path. Null, and other names with `_` in front, are no features.
    """
    found: list[Named] = []
    _collect(value, "", "", found)
    return found


def _collect(value: Any, group: str, path: str, found: list[Named]) -> None:
    if isinstance(value, int | float):
        found.append(((group, path), value))
    elif isinstance(value, str):
        found.append(((path, f"{path}={value}"), 1.0))
    elif isinstance(value, dict):
        for key, part in value.items():
            if not key.startswith("_"):
                _collect(part, path, f"{path}.{key}" if path else key, found)
            elif key == "_text" and isinstance(part, str):
                _collect(part.split(), group, path, found)
    elif isinstance(value, list):
        for i, part in enumerate(value):
            _collect(part, path, f"{path}[{i}]" if isinstance(part, int | float) else path, found)


class NamedFeatures:
    """Columns for named features: one for each name, or hashed ones for a group of more names than `buckets`.

    A group is a namespace, or a string feature with all its values. `see` every object first, then ask for `names` and
    matrices. A hashed name has the column crc32(name) mod `buckets`; names that share one are added up.
    """

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self._groups: dict[str, set[str]] = {}
        self._layout: tuple[tuple[str, ...], dict[tuple[str, str], int]] | None = None

    def see(self, value: Any) -> None:
        """Take note of the names in a JSON value. Raises InputError for a number that no float32 can hold."""
        for (group, name), number in named_features(value):
            if abs(number) > LARGEST:
                raise InputError(f"has {name} {number!r:.20}: too large for a feature, scale it down")
            self._groups.setdefault(group, set()).add(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns: groups in order of the alphabet, and in them names by length and alphabet."""
        return self._columns()[0]

    def hashed(self) -> dict[str, dict[str, int]]:
        """Return for every hashed group its `names`, `columns`, and `collisions`: names that share a column."""
        found: dict[str, dict[str, int]] = {}
        for group, names in sorted(self._groups.items()):
            if len(names) > self.buckets:
                alone = sum(count == 1 for count in Counter(map(self._bucket, names)).values())
                found[group] = {"names": len(names), "columns": self.buckets, "collisions": len(names) - alone}
        return found

    def matrix(self, values: Sequence[Any]) -> Tensor:
        """Return the features of JSON values, float32 [n, columns]; all must have been seen."""
        names, columns = self._columns()
        rows: list[int] = []
        at: list[int] = []
        numbers: list[float] = []
        for row, value in enumerate(values):
            for key, number in named_features(value):
                rows.append(row)
                at.append(columns[key])
                numbers.append(number)
        matrix = torch.zeros(len(values), len(names))
        where = (torch.tensor(rows, dtype=torch.int64), torch.tensor(at, dtype=torch.int64))
        return matrix.index_put_(where, torch.tensor(numbers, dtype=torch.float32), accumulate=True)

    def _columns(self) -> tuple[tuple[str, ...], dict[tuple[str, str], int]]:
        """Return the names of the columns, and the column of every group and name."""
        if self._layout is None:
            columns: list[str] = []
            at: dict[tuple[str, str], int] = {}
            for group, names in sorted(self._groups.items()):
                start, ordered = len(columns), sorted(names, key=lambda name: (len(name), name))
                hashed = len(names) > self.buckets
                columns += [f"{group}#{k}" for k in range(self.buckets)] if hashed else ordered
                for i, name in enumerate(ordered):
                    at[group, name] = start + (self._bucket(name) if hashed else i)
            self._layout = tuple(columns), at
        return self._layout

    def _bucket(self, name: str) -> int:
        return crc32(name.encode()) % self.buckets
