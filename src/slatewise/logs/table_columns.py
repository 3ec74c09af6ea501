"""Columns of a table that is imported, as arrays of one type: each is checked, and what is wrong names its rows."""

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from slatewise.arrow import as_text, compute, is_number, stable_hash
from slatewise.checks import which_rows
from slatewise.errors import InputError, unknown_name

Array = np.ndarray[Any, Any]
MICROSECONDS: Final = {"s": 1e6, "ms": 1e3, "us": 1.0}
LATEST: Final = 2**53  # microseconds, in the year 2255: up to here float64 has every one of them
ZONE: Final = r"(Z|[+-]\d\d(:?\d\d)?)$"


def read_file(path: Path, columns: Collection[str], text: Collection[str] = ()) -> Any:
    """Read columns of a Parquet or CSV file as an Arrow table.

    text: columns that a CSV file's types are not guessed for (007 is an id of its own).
    Raises InputError for a file that is missing, damaged or of another kind, or lacks a column.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: give the path of a .parquet or .csv file")
    try:
        if path.suffix == ".parquet":
            _check_columns(path, pq.read_schema(path).names, columns)
            return pq.read_table(path, columns=list(columns))
        if ".csv" in path.suffixes:
            with pyarrow.csv.open_csv(path) as reader:
                _check_columns(path, reader.schema.names, columns)
            types = dict.fromkeys(text, pa.string())
            options = pyarrow.csv.ConvertOptions(
                include_columns=list(columns), column_types=types, strings_can_be_null=True
            )
            return pyarrow.csv.read_csv(path, convert_options=options)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}): give a whole file") from None
    raise InputError(f"{path} is neither .parquet nor .csv (or .csv.gz): convert it")


def _check_columns(path: Path, found: Collection[str], columns: Collection[str]) -> None:
    for name in columns:
        if name not in found:
            raise unknown_name(f"column of {path}", name, found)


def texts(name: str, array: Any, may_be_empty: bool = False) -> Any:
    """Return identities (strings or integers) as an Arrow array of strings."""
    text = as_text(array)
    if text is None:
        raise InputError(f"column {name!r} is {array.type}: expected strings or integers, convert it")
    if text.null_count and not may_be_empty:
        raise InputError(f"column {name!r} is empty {which_rows(_empty(text))}: fill or drop these rows")
    return text


def numbers(name: str, array: Any) -> Array:
    """Return numbers or booleans as float64, NaN where they are missing; infinite ones are refused."""
    kind = array.type
    if not (is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise InputError(f"column {name!r} is {kind}: expected numbers or booleans, convert it")
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    refuse(name, "is infinite", np.isinf(values), "replace or drop these rows")
    return values


def refuse(name: str, what: str, bad: Array, remedy: str) -> None:
    """Raise InputError where anything is bad, bool [rows of the table]."""
    if bad.any():
        raise InputError(f"column {name!r} {what} {which_rows(bad)}: {remedy}")


def user_ids(name: str, array: Any) -> Array:
    """Return users as int64 [n]: integers as they are, strings by a hash that never changes."""
    text = texts(name, array)
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False)  # uint64 wraps around
    encoded = text.dictionary_encode()
    return stable_hash(encoded.dictionary)[encoded.indices.to_numpy()]


def times(name: str, array: Any, unit: str | None) -> Array:
    """Return times as microseconds since 1970, UTC, int64 [n]; those without a zone are taken to be UTC."""
    refuse(name, "has no time", _empty(array), "fill or drop these rows")
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _microseconds(array)
    if pa.types.is_string(kind):
        return _parsed(name, array)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InputError(f"column {name!r} is {kind}: expected timestamps, ISO 8601 text, or numbers and time_unit")
    if unit is None:
        raise InputError(f"column {name!r} is {kind}: say the unit of these numbers, time_unit = 's', 'ms' or 'us'")
    values = numbers(name, array)
    refuse(name, "has no time", np.isnan(values), "fill or drop these rows")
    far = np.abs(values) * MICROSECONDS[unit] > LATEST
    refuse(name, f"is beyond the year 2255 with time_unit = {unit!r}", far, "choose the unit of these numbers")
    return np.round(values * MICROSECONDS[unit]).astype(np.int64)


def lists(name: str, array: Any, separator: str) -> Any:
    """Return an Arrow array of lists; text is split. Empty ones are refused."""
    refuse(name, "has no list", _empty(array), "fill or drop these rows")
    if pa.types.is_string(array.type):
        array = compute.split_pattern(array, separator)
    if not pa.types.is_list(array.type):
        raise InputError(f"column {name!r} is {array.type}: expected lists, or text separated by {separator!r}")
    empty = compute.list_value_length(array).to_numpy(zero_copy_only=False) == 0
    refuse(name, "has an empty list", empty, "drop these rows, there was nothing to choose")
    return array


def _empty(array: Any) -> Array:
    return array.is_null().to_numpy(zero_copy_only=False)


def _microseconds(array: Any) -> Array:
    micro = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False)
    return micro.cast(pa.int64()).to_numpy(zero_copy_only=False)


def _parsed(name: str, array: Any) -> Array:
    """Parse ISO 8601 text, with and without zones."""
    zoned = compute.match_substring_regex(array, ZONE)
    zoned = compute.and_(zoned, compute.greater(compute.utf8_length(array), 10))  # 2024-01-02 has no zone
    try:
        with_zone = compute.if_else(zoned, array, None).cast(pa.timestamp("us", "UTC"))
        without = compute.if_else(zoned, None, array).cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        bad = np.array([not _is_time(value) for value in array.to_pylist()])
        refuse(name, "is no time", bad, "write 2024-12-31T23:59:59, with a zone (Z, +01:00) unless it is UTC")
        return np.array([_instant(value) for value in array.to_pylist()], np.int64)
    return compute.coalesce(with_zone.cast(pa.int64()), without.cast(pa.int64())).to_numpy(zero_copy_only=False)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _instant(text: str) -> int:
    """Parse one time that Arrow does not: only for the rare forms of ISO 8601 (weeks, say)."""
    moment = np.datetime64(datetime.fromisoformat(text).replace(tzinfo=None), "us").astype(np.int64)
    offset = datetime.fromisoformat(text).utcoffset()
    return int(moment) - (int(offset.total_seconds() * 1_000_000) if offset else 0)


def encoded(text: Any) -> tuple[Array, Sequence[str]]:
    """Return a code for each string, in order of first appearance, and the distinct strings."""
    dictionary = text.dictionary_encode()
    return dictionary.indices.to_numpy().astype(np.int64), dictionary.dictionary
