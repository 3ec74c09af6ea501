"""Features: from the columns of a table, or the dicts of a request, to the numbers that agents see.

A schema is fitted on a table once, saved with the log and the run, and used in training and in serving alike.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self, cast

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from slatewise.arrow import arrow_columns, as_text, compute, is_number, row_count, stable_hash
from slatewise.checks import which_rows
from slatewise.errors import InputError, unknown_name

FORMAT: Final = 1
LARGEST: Final = 1e30  # number that becomes a feature; float32 ends at 3e38
Array = np.ndarray[Any, Any]


class Column(BaseModel):
    """What one column of a table becomes: how, and what was learned about it when it was fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    column: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features that the column becomes."""
        raise NotImplementedError

    def fitted(self, values: Any) -> Self:
        """Return a copy that has learned from an Arrow array of values."""
        raise NotImplementedError

    def write(self, values: Any, out: Array) -> None:
        """Write the features of an Arrow array of n values into zeros `out`, float32 [n, features]."""
        raise NotImplementedError


class Numeric(Column):
    """A number, or true and false as 1 and 0.

    standardise: subtract the mean and divide by the standard deviation of the table it was fitted on.
    missing: `refuse` an empty value (or NaN), or put the `mean` in its place and 1 into one more feature.
    """

    kind: Literal["numeric"] = "numeric"
    standardise: bool = True
    missing: Literal["refuse", "mean"] = "refuse"
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """The column's own name, and one for its missing values if they are allowed."""
        return (self.column,) if self.missing == "refuse" else (self.column, f"{self.column}=<missing>")

    def fitted(self, values: Any) -> Self:
        """Learn mean and standard deviation (1 for a constant)."""
        numbers, missing = self._numbers(values)
        known = numbers[~missing]
        if len(known) == 0:
            raise InputError(f"column {self.column!r} has no value to fit to: leave it out")
        deviation = float(known.std())
        return self.model_copy(update={"mean": float(known.mean()), "scale": deviation if deviation > 0 else 1.0})

    def write(self, values: Any, out: Array) -> None:
        """Write the number, and whether it was missing."""
        numbers, missing = self._numbers(values)
        if self.missing == "mean":
            numbers = np.where(missing, self.mean, numbers)
            out[:, 1] = missing
        out[:, 0] = (numbers - self.mean) / self.scale if self.standardise else numbers

    def _numbers(self, values: Any) -> tuple[Array, Array]:
        kind = values.type
        if not (is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise _wrong_type(self, "numbers", kind)
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        if missing.any() and self.missing == "refuse":
            raise InputError(
                f"column {self.column!r} has no value {which_rows(missing)}: fill them, or fit the column with "
                "missing = 'mean'"
            )
        wrong = np.abs(numbers) > LARGEST
        if wrong.any():
            raise InputError(
                f"column {self.column!r} is infinite or above {LARGEST:g} {which_rows(wrong)}: replace them"
            )
        return numbers, missing


class _Values(Column):
    """One feature for each of the known values, the most frequent first, and one for every other value."""

    most: Annotated[int, Field(ge=1)] = 100
    values: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """One name a known value, then `<other>`."""
        return (*(f"{self.column}={value}" for value in self.values), f"{self.column}=<other>")

    def fitted(self, values: Any) -> Self:
        """Learn the `most` frequent values."""
        text = self._text(values).drop_null()
        counts = compute.value_counts(text)
        pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
        ordered = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        return self.model_copy(update={"values": tuple(value for value, _ in ordered[: self.most])})

    def _text(self, values: Any) -> Any:
        raise NotImplementedError

    def _at(self, text: Any) -> Array:
        """Return the feature of each value; that of empty and unknown ones is the last."""
        known = pa.array(self.values, pa.string())
        return compute.fill_null(compute.index_in(text, value_set=known), len(self.values)).to_numpy(
            zero_copy_only=False
        )


class Category(_Values):
    """One of several values (strings, integers, true and false): one-hot.

    most: how many values get a feature of their own. Rarer ones, values never seen, and empty ones share the last.
    """

    kind: Literal["category"] = "category"

    def write(self, values: Any, out: Array) -> None:
        """Write 1 at the value."""
        out[np.arange(len(out)), self._at(self._text(values))] = 1

    def _text(self, values: Any) -> Any:
        return _as_text(self, values, "strings, integers or booleans")


class Tags(_Values):
    """A list of values, such as genres: several may be 1. Text without lists (CSV) is split at `separator`.

    most: how many values get a feature of their own. All others share the last; an empty list is all zeros.
    """

    kind: Literal["list"] = "list"
    separator: str = "|"

    def write(self, values: Any, out: Array) -> None:
        """Write 1 at every value of the list."""
        lists = _lists(self, values)
        text, rows = self._text(lists), compute.list_parent_indices(lists).to_numpy()
        present = text.is_valid().to_numpy(zero_copy_only=False)
        out[rows[present], self._at(text)[present]] = 1

    def _text(self, values: Any) -> Any:
        return _as_text(self, _lists(self, values).flatten(), "lists of strings or integers")


class Hashed(Column):
    """A value, or a list of them, of a set too large to list: each adds ±1 to one of `buckets` features.

    The bucket is a hash of the text that never changes (BLAKE2b, 64 bits). signed: half of the values add −1, so that
    values that share a bucket cancel on average (Weinberger et al. 2009, arXiv 0902.2206); else all add 1.
    distinct, collisions: how many values the table had, and how many of them share their bucket with another.
    """

    kind: Literal["hashed"] = "hashed"
    buckets: Annotated[int, Field(ge=1)] = 64
    signed: bool = True
    distinct: int = 0
    collisions: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """One name a bucket."""
        return tuple(f"{self.column}#{bucket}" for bucket in range(self.buckets))

    def fitted(self, values: Any) -> Self:
        """Count values and collisions; nothing else depends on the table."""
        distinct = self._flat(values)[0].drop_null().unique()
        buckets = self._buckets(distinct)[0]
        shared = np.bincount(buckets, minlength=self.buckets)[buckets] > 1
        return self.model_copy(update={"distinct": len(distinct), "collisions": int(shared.sum())})

    def write(self, values: Any, out: Array) -> None:
        """Add ±1 to the bucket of every value; empty ones add nothing."""
        text, rows = self._flat(values)
        present = text.is_valid().to_numpy(zero_copy_only=False)
        encoded = text.drop_null().dictionary_encode()
        buckets, signs = self._buckets(encoded.dictionary)
        codes = encoded.indices.to_numpy()
        np.add.at(out, (rows[present], buckets[codes]), signs[codes])

    def _flat(self, values: Any) -> tuple[Any, Array]:
        """Return all values as text, and the row of each."""
        if pa.types.is_list(values.type):
            rows = compute.list_parent_indices(values).to_numpy()
            return _as_text(self, values.flatten(), "strings, integers or lists of them"), rows
        return _as_text(self, values, "strings, integers or lists of them"), np.arange(len(values))

    def _buckets(self, distinct: Any) -> tuple[Array, Array]:
        hashed = stable_hash(distinct).view(np.uint64)
        signs = np.where(hashed >> np.uint64(63), 1.0, -1.0) if self.signed else np.ones(len(hashed))
        return ((hashed & np.uint64(2**63 - 1)) % np.uint64(self.buckets)).astype(np.int64), signs.astype(np.float32)


KINDS: Final[dict[str, type[Column]]] = {"numeric": Numeric, "category": Category, "list": Tags, "hashed": Hashed}
AnyColumn = Annotated[Numeric | Category | Tags | Hashed, Field(discriminator="kind")]


def column_name(column: str | Column) -> str:
    """Return the name of a column that is given by its name or with its kind."""
    return column if isinstance(column, str) else column.column


def column_of(values: Any) -> str | Column:
    """Return a column from its name, from a dict such as {column = "query", kind = "hashed"}, or as it is.

    Raises InputError for an unknown kind or setting, with the nearest known one.
    """
    if not isinstance(values, dict):
        return values
    given = cast(dict[str, Any], values)
    kind = KINDS.get(str(given.get("kind")))
    if kind is None:
        raise unknown_name("kind of column", str(given.get("kind")), KINDS)
    for key in given:
        if key not in kind.model_fields:
            raise unknown_name(f"setting of a {given['kind']} column", key, kind.model_fields)
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise InputError(f"{key}={given.get(key)!r}: {first['msg'].lower()}") from None


class Features(BaseModel):
    """Columns that together become a row of features."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    columns: tuple[AnyColumn, ...] = ()

    @staticmethod
    def fit(rows: Any, columns: Sequence[str | Column], owner: str = "the table") -> "Features":
        """Fit columns to a table; one given by its name alone gets the kind that its type suggests.

        Numbers are standardised, true and false become 1 and 0, text is a category, lists are tags.
        Raises InputError for a column that is missing, named twice or of a type that does not fit.
        """
        names = [column_name(column) for column in columns]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise InputError(f"column {twice[0]!r} is named twice: name each column once")
        table = arrow_columns(rows, names, owner)
        fitted = [_kind(c, table[c]) if isinstance(c, str) else c for c in columns]
        return Features(columns=cast(Any, tuple(c.fitted(table[c.column]) for c in fitted)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(name for column in self.columns for name in column.names)

    @property
    def collisions(self) -> dict[str, tuple[int, int]]:
        """For each hashed column, how many values share their bucket with another, of how many."""
        return {c.column: (c.collisions, c.distinct) for c in self.columns if isinstance(c, Hashed)}

    def encode(self, rows: Any, owner: str = "the table") -> Tensor:
        """Return the features of a table (Arrow, pandas, polars) or a list of n dicts, float32 [n, features].

        Raises InputError naming the column that is missing, of another type, empty or not finite.
        """
        table = arrow_columns(rows, [column.column for column in self.columns], owner)
        out = np.zeros((row_count(rows), len(self.names)), np.float32)
        start = 0
        for column in self.columns:
            stop = start + len(column.names)
            column.write(table[column.column], out[:, start:stop])
            start = stop
        return torch.from_numpy(out)


class FeatureSchema(BaseModel):
    """How the columns of your tables become `Observation.user`, the catalogue's features and `Observation.items`.

    user: what is known about the user and the moment [B, U].  catalogue: about an item, whoever sees it [N, E].
    items: about a candidate in this moment [B, C, D].  Their `names` are those of a `Spec`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    user: Features = Features()
    catalogue: Features = Features()
    items: Features = Features()

    @staticmethod
    def fit(
        rows: Any,
        user: Sequence[str | Column] = (),
        catalogue: Sequence[str | Column] = (),
        items: Sequence[str | Column] = (),
        item_table: Any = None,
    ) -> "FeatureSchema":
        """Fit the columns of `user` and `items` to a table of decisions, those of `catalogue` to one of items.

        Columns are names, or `Numeric`, `Category`, `Tags`, `Hashed` of slatewise.features.
        Raises InputError as `Features.fit` does, and for catalogue columns without a table of items.
        """
        if catalogue and item_table is None:
            raise InputError(f"catalogue={list(catalogue)} needs a table of items: give item_table")
        known = Features.fit(item_table, catalogue, "the item table") if catalogue else Features()
        return FeatureSchema(user=Features.fit(rows, user), catalogue=known, items=Features.fit(rows, items))

    def to_json(self) -> dict[str, Any]:
        """Return the schema as JSON-able values."""
        return {"format": FORMAT, **self.model_dump(mode="json")}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "FeatureSchema":
        """Build a schema from what `to_json` gave. Raises InputError for damaged values or a later format."""
        found = values.get("format") if isinstance(cast(Any, values), Mapping) else None
        if type(found) is not int or not 1 <= found <= FORMAT:
            raise InputError(
                f"this feature schema has format {found!r}, this slatewise reads {FORMAT}: "
                + ("upgrade slatewise" if type(found) is int and found > FORMAT else "it is damaged, fit it anew")
            )
        try:
            return FeatureSchema(**{key: value for key, value in values.items() if key != "format"})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"this feature schema is damaged ({where}: {first['msg']}): fit it anew") from None


def _as_text(column: Column, array: Any, expected: str) -> Any:
    text = as_text(array)
    if text is None:
        raise _wrong_type(column, expected, array.type)
    return text


def _lists(column: Tags, values: Any) -> Any:
    """Return values as lists; text is split."""
    if pa.types.is_list(values.type):
        return values
    if pa.types.is_null(values.type):
        return values.cast(pa.list_(pa.string()))
    if not pa.types.is_string(values.type):
        raise _wrong_type(column, f"lists, or text separated by {column.separator!r}", values.type)
    return compute.split_pattern(compute.if_else(compute.equal(values, ""), None, values), column.separator)


def _kind(name: str, array: Any) -> Column:
    """Return the kind of column that a type suggests."""
    kind = array.type
    if pa.types.is_boolean(kind):
        return Numeric(column=name, standardise=False)
    if is_number(kind):
        return Numeric(column=name)
    if pa.types.is_string(kind):
        return Category(column=name)
    if pa.types.is_list(kind):
        return Tags(column=name)
    raise InputError(f"column {name!r} is {kind}: make numbers, text or lists of it (of a time its hour, say)")


def _wrong_type(column: Column, expected: str, found: Any) -> InputError:
    kind = getattr(column, "kind", "column")
    return InputError(f"column {column.column!r} ({kind}) is {found}: expected {expected}")
