"""From the rows of a table to decisions: what was shown together, and what could have been shown."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from slatewise.arrow import as_text, compute
from slatewise.errors import InputError
from slatewise.features import column_name
from slatewise.logs.table_columns import encoded, lists, numbers, refuse, texts
from slatewise.logs.table_mapping import TableMapping

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What could have been shown: decision d has lengths[d] entries of the others, from starts[d].

    starts, lengths: int64 [D].  items: int64 [n], rows of the catalogue.  features: an Arrow table of n rows.
    """

    starts: Array
    lengths: Array
    items: Array
    features: Any

    @staticmethod
    def of(lengths: Array, items: Array, features: dict[str, Any]) -> "Candidates":
        """Return candidates that lie one decision after the other."""
        return Candidates(np.cumsum(lengths) - lengths, lengths, items, pa.table(features))


@dataclass(frozen=True, eq=False)
class Decisions:
    """Slates of a table, in order of their first rows.

    rows: int64 [D, K], the table's row of every slot, −1 for a hole.  items: int64 [D, K], rows of the catalogue, −1
    for a hole.  candidates: None where everything in the catalogue could have been shown.
    """

    rows: Array
    items: Array
    candidates: Candidates | None

    @property
    def first(self) -> Array:
        """The table's row of the first slot, int64 [D]: what is the same for a whole decision is read there."""
        return self.rows[:, 0]

    def ordered(self, order: Array) -> "Decisions":
        """Return the decisions in another order, int64 [D]."""
        own = self.candidates
        own = own and replace(own, starts=own.starts[order], lengths=own.lengths[order])
        return Decisions(self.rows[order], self.items[order], own)


def slates(mapping: TableMapping, table: dict[str, Any]) -> tuple[Array, Array | None]:
    """Return the table's row of every slot, int64 [D, K], and the decision of every row, or None if they are one."""
    count = len(table[mapping.item])
    if mapping.decision is None:
        return np.arange(count)[:, None], None
    codes, _ = encoded(texts(mapping.decision, table[mapping.decision]))
    shown = np.arange(count)
    if mapping.shown is not None:
        flags = numbers(mapping.shown, table[mapping.shown])
        refuse(mapping.shown, "is empty", np.isnan(flags), "write true or false in every row")
        shown = np.flatnonzero(flags)
        without = np.bincount(codes[shown], minlength=codes.max() + 1) == 0
        refuse(
            mapping.shown, "is false in all rows of a decision", without[codes], "drop decisions that showed nothing"
        )
    return _by_position(mapping, table, codes, shown), codes


def _by_position(mapping: TableMapping, table: dict[str, Any], codes: Array, shown: Array) -> Array:
    """Put the rows that were shown into slots, in order of their positions."""
    position = np.zeros(len(codes))
    if mapping.position is not None:
        position = numbers(mapping.position, table[mapping.position])
        missing = np.zeros(len(codes), bool)
        missing[shown] = np.isnan(position[shown])
        refuse(mapping.position, "is empty", missing, "write the slot of every item that was shown")
    order = shown[np.lexsort((position[shown], codes[shown]))]
    code, place = codes[order], position[order]
    new = np.concatenate([[True], code[1:] != code[:-1]])
    again = np.zeros(len(codes), bool)
    again[order[1:]] = ~new[1:] & (place[1:] == place[:-1])
    if mapping.position is None:
        remedy = "drop repeated rows, or name the column `position` if they are one slate"
        refuse(str(mapping.decision), "names a decision again", again, remedy)
    else:
        refuse(mapping.position, "is taken by another row of the decision", again, "give every slot one item")
    rank = np.arange(len(code)) - np.flatnonzero(new)[np.cumsum(new) - 1]
    rows = np.full((codes.max() + 1, rank.max() + 1), -1)
    rows[code, rank] = order
    return rows


class Items:
    """The identities of a catalogue, and their rows in it."""

    def __init__(self, ids: Any, given: bool) -> None:
        self.ids = ids
        self.given = given

    @staticmethod
    def of_table(name: str, array: Any) -> "Items":
        """Take identities from a table of items. Raises InputError for empty or repeated ones."""
        ids = texts(name, array)
        codes, distinct = encoded(ids)
        again = np.ones(len(codes), bool)
        again[np.unique(codes, return_index=True)[1]] = False
        refuse(name, "of the item table repeats an item", again, "keep one row an item")
        return Items(distinct, given=True)

    @staticmethod
    def seen(arrays: list[Any]) -> "Items":
        """Take all identities of some arrays, sorted: integers as numbers."""
        kinds = {array.type for array in arrays}
        distinct = [array.drop_null().unique() for array in arrays]
        if not all(pa.types.is_integer(kind) for kind in kinds):
            distinct = [as_text(array) for array in distinct]
        together = pa.chunked_array([a.cast(distinct[0].type) for a in distinct]).unique()
        return Items(as_text(together.take(compute.sort_indices(together))), given=False)

    def rows(self, name: str, text: Any, row: Array | None = None, count: int = 0) -> Array:
        """Return the catalogue's row of each identity, int64 [n]; an unknown one is refused.

        row, count: the table's row of each, and their number, where the identities are not one a row.
        """
        at = compute.index_in(text, value_set=self.ids)
        if at.null_count:
            bad = at.is_null().to_numpy(zero_copy_only=False)
            where = bad
            if row is not None:
                where = np.zeros(count, bool)
                where[row[bad]] = True
            example = text[int(np.argmax(bad))].as_py()
            refuse(
                name,
                "has an item that the item table lacks",
                where,
                f"add it to the item table or drop these rows (the first is {example!r})",
            )
        return at.to_numpy(zero_copy_only=False).astype(np.int64)

    def __len__(self) -> int:
        return len(self.ids)


def decide(mapping: TableMapping, table: dict[str, Any], items: Items | None) -> tuple[Decisions, Items]:
    """Return the decisions of a table's columns, and the items they are about.

    Raises InputError for a decision that is repeated, an item that is unknown, shown twice or no candidate, and
    candidates that differ within a decision or repeat.
    """
    rows, codes = slates(mapping, table)
    item = texts(mapping.item, table[mapping.item])
    if mapping.candidates is None:
        known = items or Items.seen([table[mapping.item]])
        shown = known.rows(mapping.item, item)
        candidates = _of_rows(mapping, table, codes, shown) if mapping.shown is not None and codes is not None else None
    else:
        listed = lists(mapping.candidates, table[mapping.candidates], mapping.separator)
        offered = listed.flatten()
        texts(mapping.candidates, offered, may_be_empty=True)  # of a type that ids may have
        known = items or Items.seen([table[mapping.item], offered])
        shown = known.rows(mapping.item, item)
        candidates = _of_lists(mapping, table, rows, listed, known)
    decisions = Decisions(rows, np.where(rows >= 0, shown[rows], -1), candidates)
    _check_items(mapping, decisions, len(known), len(item))
    return decisions, known


def _of_rows(mapping: TableMapping, table: dict[str, Any], codes: Array, items: Array) -> Candidates:
    order = np.argsort(codes, kind="stable")
    names = [column_name(column) for column in mapping.candidate_features]
    return Candidates.of(np.bincount(codes), items[order], {name: table[name].take(pa.array(order)) for name in names})


def _of_lists(mapping: TableMapping, table: dict[str, Any], rows: Array, listed: Any, known: Items) -> Candidates:
    name = str(mapping.candidates)
    _check_same(name, listed, rows)
    first = pa.array(rows[:, 0])
    own = listed.take(first)
    lengths = compute.list_value_length(own).to_numpy(zero_copy_only=False)
    row = np.repeat(rows[:, 0], lengths)
    flat = own.flatten()
    if flat.null_count:
        bad = np.zeros(len(listed), bool)
        bad[row[flat.is_null().to_numpy(zero_copy_only=False)]] = True
        refuse(name, "has an empty candidate", bad, "drop it from the list")
    items = known.rows(name, texts(name, flat), row, len(listed))
    features = {
        column: _aligned(column, table[column], name, lengths, rows[:, 0])
        for column in map(column_name, mapping.candidate_features)
    }
    return Candidates.of(lengths, items, features)


def _check_same(name: str, listed: Any, rows: Array) -> None:
    """Refuse slates whose rows have different candidates."""
    for slot in rows.T[1:]:
        has = slot >= 0
        mine, first = listed.take(pa.array(slot[has])), listed.take(pa.array(rows[has, 0]))
        if not mine.equals(first):
            pairs = zip(mine.to_pylist(), first.to_pylist(), strict=True)
            bad = np.zeros(len(listed), bool)
            bad[slot[has][[a != b for a, b in pairs]]] = True
            refuse(name, "differs from the first row of its decision", bad, "give all rows of a slate the same list")


def _aligned(column: str, array: Any, candidates: str, lengths: Array, rows: Array) -> Any:
    """Return the elements of lists that have one for every candidate."""
    if not pa.types.is_list(array.type):
        raise InputError(f"column {column!r} is {array.type}: expected lists with one value for each of {candidates!r}")
    values = array.take(pa.array(rows))
    found = compute.fill_null(compute.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    wrong = _at(rows[found != lengths], len(array))
    refuse(column, f"has not as many values as {candidates!r}", wrong, "give every candidate one value")
    return values.flatten()


def _check_items(mapping: TableMapping, decisions: Decisions, items: int, count: int) -> None:
    """Refuse items that are shown twice in a slate, are no candidates, or are candidates twice."""
    shown = decisions.rows >= 0
    keys = (np.arange(len(decisions.rows))[:, None] * items + decisions.items)[shown]
    rows = decisions.rows[shown]
    again = np.ones(len(keys), bool)
    again[np.unique(keys, return_index=True)[1]] = False
    refuse(
        mapping.item, "repeats an item of the slate", _at(rows[again], count), "show each item once, drop the others"
    )
    if decisions.candidates is None:
        return
    of = np.repeat(np.arange(len(shown)), decisions.candidates.lengths)
    choices = np.sort(of * items + decisions.candidates.items)
    double = choices[1:][choices[1:] == choices[:-1]] // max(items, 1)
    name = mapping.candidates or mapping.item
    refuse(name, "repeats a candidate", _at(decisions.first[double], count), "list each candidate once")
    found = choices[np.minimum(np.searchsorted(choices, keys), len(choices) - 1)] == keys
    remedy = f"{name!r} must list what could have been shown, what was shown included"
    refuse(mapping.item, "is not among the candidates", _at(rows[~found], count), remedy)


def _at(rows: Array, count: int) -> Array:
    bad = np.zeros(count, bool)
    bad[rows] = True
    return bad
