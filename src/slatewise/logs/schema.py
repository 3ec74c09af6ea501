"""How the record lies in Parquet: one row a decision, fixed-size lists of the record's own dtypes.

Columns of width 0 (a world without `items`, say) are left out, and read back as tensors of width 0; so is what a
reader rebuilds (see `derived`), part by part.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.logs.derived import HISTORY, ITEM_IDS, first_items

VERSION: Final = 1
FORMAT: Final = "slatewise log"

# Column: the record that holds it, the type of an element, and the letters of its shape after the batch.
COLUMNS: Final[dict[str, tuple[str, Any, str]]] = {
    "user": ("observation", pa.float32(), "U"),
    "item_ids": ("observation", pa.int64(), "C"),
    "items": ("observation", pa.float32(), "CD"),
    "history": ("observation", pa.float32(), "HF"),
    "slate": ("decision", pa.int64(), "K"),
    "propensity": ("decision", pa.float64(), "K"),
    "clicked": ("response", pa.bool_(), "K"),
    "signals": ("response", pa.float32(), "KS"),
    "reward": ("response", pa.float64(), "K"),
    "decision_reward": ("response", pa.float64(), ""),
    "reward_known": ("response", pa.bool_(), ""),
    "terminated": ("", pa.bool_(), ""),
    "truncated": ("", pa.bool_(), ""),
    "episode": ("", pa.int64(), ""),
    "step": ("", pa.int64(), ""),
    "user_id": ("", pa.int64(), ""),
    "time": ("", pa.timestamp("us", tz="UTC"), ""),
    "decision_id": ("", pa.string(), ""),
    "policy_version": ("", pa.string(), ""),
}
OPTIONAL: Final = ("user_id", "time", "decision_id", "policy_version")
OBSERVED: Final = ("user", "item_ids", "items", "history")
TORCH: Final = {
    "float": torch.float32,
    "double": torch.float64,
    "int64": torch.int64,
    "bool": torch.bool,
}
TORCH_BYTES: Final = {"float": 4, "double": 8, "int64": 8, "bool": 1, "string": 16, str(COLUMNS["time"][1]): 8}
PROPENSITIES: Final = ("logged", "estimated", "unknown")


@dataclass(frozen=True)
class Layout:
    """What a file of a log holds: the spec's sizes, which optional columns, and whether there is a next one.

    left_out: columns that a reader rebuilds.
    """

    spec: Spec
    optional: tuple[str, ...]
    next_observation: bool
    left_out: tuple[str, ...] = ()

    @staticmethod
    def of(interactions: Interactions, spec: Spec) -> "Layout":
        """Return the layout that interactions need. Raises InputError where they do not fit the spec."""
        optional = tuple(name for name in OPTIONAL if getattr(interactions, name) is not None)
        layout = Layout(spec, optional, interactions.next_observation is not None)
        for name, (part, _, _) in COLUMNS.items():
            value = getattr(getattr(interactions, part) if part else interactions, name)
            if name not in OPTIONAL:
                _check_shape(name, value, layout.shape(name), wanted=name != HISTORY or spec.history > 0)
        return layout

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a column's rows."""
        spec = self.spec
        sizes = {"U": len(spec.user), "C": spec.candidates, "D": len(spec.items), "S": len(spec.signals)}
        sizes |= {"K": spec.slate_size, "H": spec.history, "F": spec.history_features}
        return tuple(sizes[letter] for letter in COLUMNS[name][2])

    @property
    def columns(self) -> dict[str, Any]:
        """Names and Arrow types of all columns, in order. Next observations are lists, null where not needed."""
        present = [n for n in COLUMNS if 0 not in self.shape(n) and (n not in OPTIONAL or n in self.optional)]
        types = {n: _nested(COLUMNS[n][1], self.shape(n)) for n in present if n not in self.left_out}
        if self.next_observation:
            for name in (n for n in OBSERVED if n in types or (n == ITEM_IDS and n in present)):
                types[f"next_{name}"] = pa.list_(_nested(COLUMNS[name][1], self.shape(name)[1:]))
        return types

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory, its next observation included."""
        widths = {n: int(np.prod(self.shape(n))) * TORCH_BYTES[str(COLUMNS[n][1])] for n in COLUMNS}
        return sum(widths.values()) + sum(widths[n] for n in OBSERVED)

    def rows_in(self, megabytes: int, limit: int) -> int:
        """Return how many rows fit into so many megabytes, at least 1 and at most `limit`."""
        return max(1, min(limit, megabytes * 2**20 // self.row_bytes))

    def table(self, rows: Interactions, following: Observation | None, has_next: Tensor) -> Any:
        """Return interactions as an Arrow table; `following` holds a row for every true of has_next [B]."""
        arrays: list[Any] = []
        for name, kind in self.columns.items():
            if name.startswith("next_"):
                column = name.removeprefix("next_")
                arrays.append(_sparse(getattr(following, column), self.shape(column)[1:], has_next, kind))
            else:
                part = COLUMNS[name][0]
                arrays.append(_dense(getattr(getattr(rows, part) if part else rows, name), kind))
        return pa.table(arrays, schema=pa.schema(list(self.columns.items())))

    def interactions(self, table: Any, catalogue: Catalogue | None) -> Interactions:
        """Return the rows of an Arrow table without their next observations."""
        values = {name: self._read(table, name) for name in COLUMNS}
        groups: dict[str, dict[str, Any]] = {"observation": {}, "decision": {}, "response": {}, "": {}}
        for name, (part, _, _) in COLUMNS.items():
            groups[part][name] = values[name]
        observation = Observation(**groups["observation"], catalogue=catalogue)
        decision, response = Decision(**groups["decision"]), Response(**groups["response"])
        return Interactions(observation, decision, response, None, **groups[""])

    def following(self, table: Any, catalogue: Catalogue | None) -> tuple[Observation, Tensor]:
        """Return the next observations that an Arrow table holds, and bool [B] which rows have one."""
        present = table.column("next_item_ids").combine_chunks().is_valid()
        has_next = torch.from_numpy(present.to_numpy(zero_copy_only=False).copy())
        rows = int(has_next.sum())
        values: dict[str, Any] = {}
        for name in OBSERVED:
            shape = self.shape(name)
            kind = TORCH[str(COLUMNS[name][1])]
            column = f"next_{name}"
            if column in self.columns:
                values[name] = _tensor(_checked(table, column, shape[0], rows), kind).view(rows, *shape)
            else:
                values[name] = None if name == HISTORY else torch.zeros(rows, *shape, dtype=kind)
        return Observation(**values, catalogue=catalogue), has_next

    def _read(self, table: Any, name: str) -> Any:
        if name in self.left_out:
            return first_items(table.num_rows, self.spec.candidates) if name == ITEM_IDS else None
        if name not in self.columns:
            empty = name not in OPTIONAL and name != HISTORY
            zeros = torch.zeros(table.num_rows, *self.shape(name), dtype=TORCH.get(str(COLUMNS[name][1])))
            return zeros if empty else None
        column = table.column(name).combine_chunks()
        kind = COLUMNS[name][1]
        if kind == pa.string():
            return column.to_numpy(zero_copy_only=False)
        if kind == COLUMNS["time"][1]:
            return _tensor(column.view(pa.int64()), torch.int64)
        return _tensor(column, TORCH[str(kind)]).view(table.num_rows, *self.shape(name))


def _check_shape(name: str, value: Tensor | None, shape: tuple[int, ...], wanted: bool) -> None:
    if (value is not None) != wanted:
        raise InputError(
            f"{name} is {'missing' if wanted else 'present'}, the spec says the opposite: log with the spec of "
            "the world or service that made the interactions"
        )
    if value is not None and tuple(value.shape[1:]) != shape:
        raise InputError(
            f"{name} is {list(value.shape)}, the spec expects {['B', *shape]}: log with the spec of the world "
            "or service that made the interactions (pad candidates with item_ids of −1)"
        )


def _nested(kind: Any, shape: tuple[int, ...]) -> Any:
    for size in reversed(shape):
        kind = pa.list_(kind, size)
    return kind


def _dense(values: Any, kind: Any) -> Any:
    """Return a column without nulls from a tensor [B, ...] or strings [B]."""
    if isinstance(values, np.ndarray):
        return pa.array(values, type=kind)
    array = pa.array(values.detach().cpu().contiguous().numpy().reshape(-1))
    if kind == COLUMNS["time"][1]:
        return array.view(kind)
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _sparse(values: Tensor, inner: tuple[int, ...], present: Tensor, kind: Any) -> Any:
    """Return a column of lists from a tensor [n, X, ...] for the n rows that are present, null elsewhere."""
    lengths = present.to(torch.int64) * values.shape[1]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32).numpy()
    flat = _dense(values.reshape(-1, *inner), None)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind, mask=pa.array(~present.numpy()))


def _tensor(array: Any, kind: torch.dtype) -> Tensor:
    """Return the elements of a column of (lists of) numbers without nulls, flat, sharing memory if possible."""
    while pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        array = array.flatten()
    if kind == torch.bool or len(array) == 0:
        return torch.from_numpy(array.to_numpy(zero_copy_only=False).copy()).to(kind)
    return torch.from_dlpack(array)


def _checked(table: Any, column: str, size: int, rows: int) -> Any:
    """Return a column of next observations after checking that it fits the others."""
    array = table.column(column).combine_chunks()
    offsets = array.offsets.to_numpy()
    lengths = (offsets[1:] - offsets[:-1])[array.is_valid().to_numpy(zero_copy_only=False)]
    if len(lengths) != rows or (lengths != size).any():
        raise InputError(f"column {column} does not have {size} values in each of {rows} rows: write the log anew")
    return array


def check_columns(file: Path, found: Any, layout: Layout) -> None:
    """Raise InputError naming column, file, expected and found type, unless a file's schema is the log's."""
    types = dict(zip(found.names, found.types, strict=True))
    for name, kind in layout.columns.items():
        if name not in types:
            raise InputError(
                f"{file}: column {name!r} ({kind}) is missing, found {', '.join(found.names[:8]) or 'none'}: this "
                "is not a part of the log that log.json describes, write or import the log anew"
            )
        if types[name] != kind:
            raise InputError(f"{file}: column {name!r} is {types[name]}, expected {kind}: write the log anew")


def check_nulls(file: Path, table: Any) -> None:
    """Raise InputError for empty values where a row must have one."""
    for name in table.column_names:
        empty = table.column(name).null_count
        if empty and not name.startswith("next_"):
            raise InputError(f"{file}: column {name!r} has {empty} empty values: fill or drop these rows")


def read_description(folder: Path) -> dict[str, Any]:
    """Return what log.json says. Raises InputError for a folder that is not a log of this format."""
    file = folder / "log.json"
    if not folder.exists():
        raise InputError(f"{folder} does not exist: give the folder of a log (`simulate --out`, `logs import`)")
    if not file.is_file():
        raise InputError(f"{folder} is not a log: it has no log.json; give the folder that `--out` named")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] != FORMAT or type(values["version"]) is not int:
            raise KeyError("format")
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file} does not describe a log (damaged, or of another program): write it anew") from None
    if values["version"] > VERSION:
        raise InputError(
            f"{file} has format version {values['version']}, this slatewise reads version {VERSION}: upgrade slatewise"
        )
    if values["version"] < VERSION:
        raise InputError(
            f"{file} has format version {values['version']}, from before the first release; this slatewise reads "
            f"version {VERSION}: simulate or import the log again"
        )
    return values


def same_rows(left: Observation, right: Observation) -> Tensor:
    """Return which rows of two observations are equal to the bit, bool [B]."""
    same = torch.ones(len(left), dtype=torch.bool)
    for name in OBSERVED:
        a, b = getattr(left, name), getattr(right, name)
        if a is not None:
            a, b = (x.contiguous().view(torch.int32) if x.is_floating_point() else x for x in (a, b))
            same &= (a == b).flatten(1).all(1)
    return same


def without_next(rows: Interactions) -> Interactions:
    """Return interactions without their next observations."""
    return replace(rows, next_observation=None)
