"""Tables of any library as Arrow columns: Arrow's own, pandas, polars, or the dicts of a request."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute

from slatewise.errors import InputError, unknown_name

Array = np.ndarray[Any, Any]
compute: Any = pyarrow.compute  # whose functions are made when it is imported, so no type checker sees them


def stable_hash(text: Any) -> Array:
    """Return a hash of each string of an Arrow array, int64 [n]: the same in every process and on every machine."""
    digests = [blake2b(value.encode(), digest_size=8).digest() for value in text.to_pylist()]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def arrow_columns(rows: Any, names: Sequence[str], owner: str = "the table") -> dict[str, Any]:
    """Return columns of a table (Arrow, pandas, polars) or of dicts, each as one Arrow array of a plain type.

    Raises InputError, naming the column, where one is missing or has values of several types.
    """
    found = _column_names(rows)
    for name in names:
        if name not in found:
            raise unknown_name(f"column of {owner}", name, found)
    try:
        if isinstance(rows, list):
            return {name: _plain(_of_dicts(rows, name)) for name in names}
        table = rows if isinstance(rows, pa.Table) else pa.table(rows[list(dict.fromkeys(names))])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{owner} cannot be read ({error}): give a column values of one type") from None
    return {name: _plain(table.column(name).combine_chunks()) for name in names}


def _column_names(rows: Any) -> list[str]:
    if isinstance(rows, list):
        if not all(isinstance(row, dict) for row in cast(list[Any], rows)):
            raise InputError("rows are a list, but not of dicts: give a dict a row, or a table")
        return list(dict.fromkeys(name for row in cast(list[dict[str, Any]], rows) for name in row))
    if isinstance(rows, pa.Table):
        return rows.column_names
    if not hasattr(rows, "__arrow_c_stream__"):
        raise InputError(
            f"rows are of type {type(rows).__name__}: give an Arrow table, a pandas (2.2 or newer) or polars frame, or "
            "a list of dicts"
        )
    return [str(name) for name in rows.columns]


def _of_dicts(rows: list[dict[str, Any]], name: str) -> Any:
    try:
        return pa.array([row.get(name) for row in rows])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"column {name!r} has values of several types ({error}): give it one") from None


def row_count(rows: Any) -> int:
    """Return the number of rows of a table or a list."""
    return rows.num_rows if isinstance(rows, pa.Table) else len(rows)


def _plain(array: Any) -> Any:
    """Return an array without dictionaries, views and large offsets: other libraries' names for the same values."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_list_view(kind):
        return _plain(array.cast(pa.list_(kind.value_type)))
    if pa.types.is_list(kind) and _plain_type(kind.value_type) != kind.value_type:
        return array.cast(pa.list_(_plain_type(kind.value_type)))
    return array


def _plain_type(kind: Any) -> Any:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def is_number(kind: Any) -> bool:
    """Return whether an Arrow type holds numbers (booleans are none)."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def as_text(array: Any) -> Any:
    """Return strings, integers and booleans as strings; None for an array of another type."""
    kind = array.type
    if pa.types.is_string(kind):
        return array
    fits = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    return array.cast(pa.string()) if fits else None
