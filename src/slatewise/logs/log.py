"""Reading a log: lazily, in blocks of bounded memory, each checked before anyone sees it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Interactions, Observation, Spec
from slatewise.logs.schema import OBSERVED, Layout, check_columns, check_nulls, read_description

BLOCK_ROWS = 65_536
BLOCK_MEGABYTES = 64


class Log:
    """Interactions at rest, in the folder that a `LogWriter` or an importer made.

    path: the folder.  spec, source: as they were written.  Its length is its number of decisions.
    Raises InputError for a folder that is missing, not a log, damaged or of a later format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        values = read_description(self.path)
        try:
            self.spec = Spec.from_json(values["spec"])
            self.source: dict[str, Any] = dict(_typed(values["source"], dict))
            self.sessions = _count(values["sessions"])
            self._rows = _count(values["rows"])
            self._layout = Layout(self.spec, tuple(values["optional"]), bool(values["next_observation"]))
            self._catalogues = [(str(c["version"]), _name(c["file"])) for c in values["catalogues"]]
            self._parts = [(self.path / _name(p["file"]), _count(p["rows"])) for p in values["parts"]]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{self.path / 'log.json'} is damaged ({type(error).__name__}: {error}): write the log anew"
            ) from None
        self._check_rows()

    def __len__(self) -> int:
        return self._rows

    @property
    def has_next_observation(self) -> bool:
        """Whether interactions know the observation that followed; bandit logs do not."""
        return self._layout.next_observation

    @cached_property
    def catalogue(self) -> Catalogue | None:
        """The items that observations refer to, or None."""
        if not self._catalogues:
            return None
        version, name = self._catalogues[0]
        return _read_catalogue(self.path / name, version, len(self.spec.catalogue))

    def blocks(self, rows: int | None = None) -> Iterator[Interactions]:
        """Yield all interactions in order, in blocks of at most `rows` (default: 65,536, or 64 MB of them).

        Sessions are whole and in order, and may cross the border of a block. Raises InputError for a damaged or
        foreign file, or values that no record may have.
        """
        size = self._layout.rows_in(BLOCK_MEGABYTES, BLOCK_ROWS) if rows is None else rows
        if size < 1:
            raise InputError(f"rows={rows}: a block has at least one row")
        for file, count in self._parts:
            yield from self._part(file, count, size)

    def read(self) -> Interactions:
        """Return all interactions at once. Raises InputError for a log without any."""
        blocks = list(self.blocks())
        if not blocks:
            raise InputError(f"{self.path} has no interactions: nothing was written to it")
        return Interactions.cat(blocks)

    def _check_rows(self) -> None:
        """Hold what log.json says against the footers of the parts."""
        for file, count in self._parts:
            with _open(file) as parquet:
                _check_part(file, parquet, count, self._layout)
        total = sum(count for _, count in self._parts)
        if total != self._rows or not min(1, total) <= self.sessions <= total:
            raise InputError(
                f"{self.path / 'log.json'} says {self._rows} rows and {self.sessions} sessions, its parts have {total} "
                "rows: write the log anew"
            )

    def _part(self, file: Path, count: int, size: int) -> Iterator[Interactions]:
        start, previous = 0, None
        for table in _tables(file, count, size, self._layout):
            block = self._block(file, start, table)
            if previous is not None:
                yield self._with_next(file, start - len(previous[0]), previous, block[0][:1])
            previous, start = block, start + table.num_rows
        if previous is not None:
            yield self._with_next(file, start - len(previous[0]), previous, None)

    def _block(self, file: Path, start: int, table: Any) -> "_Block":
        """Return checked interactions and the next observations that are stored beside them."""
        check_nulls(file, table)
        try:
            rows = self._layout.interactions(table, self.catalogue)
            rows.validate()
            if not self.has_next_observation:
                return rows, None, None
            following, has_next = self._layout.following(table, self.catalogue)
            if len(following):
                following.validate("next_observation")
        except InputError as error:
            where = f"{file}, rows from {start} (the first below counts as 0)"
            raise InputError(f"{where}: {error}") from None
        return rows, following, has_next

    def _with_next(self, file: Path, start: int, block: "_Block", after: Interactions | None) -> Interactions:
        """Add next observations: the stored ones, and elsewhere the next row; `after` is the row after the block."""
        rows, following, has_next = block
        if following is None or has_next is None:
            return rows
        shifted = Interactions.cat([rows[1:], rows[-1:] if after is None else after])
        lost = ~has_next & ((shifted.episode != rows.episode) | (shifted.step != rows.step + 1))
        if bool(lost.any()):
            row = start + int(lost.nonzero()[0])
            raise InputError(
                f"{file}: row {row} has no next observation, and the row after it is not the next step of its "
                "session: rows were dropped or reordered, write the log anew"
            )
        ahead = shifted.observation
        for name in OBSERVED:
            values = getattr(ahead, name)
            if values is not None:
                values[has_next] = getattr(following, name)
        return replace(rows, next_observation=ahead)


_Block = tuple[Interactions, Observation | None, Tensor | None]


def _tables(file: Path, count: int, size: int, layout: Layout) -> Iterator[Any]:
    """Yield a part's rows as Arrow tables of at most `size` rows."""
    try:
        with _open(file) as parquet:
            _check_part(file, parquet, count, layout)
            for batch in parquet.iter_batches(size, columns=list(layout.columns), use_threads=False):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from None


def _open(file: Path) -> Any:
    if not file.is_file():
        raise InputError(f"{file} is missing, and log.json names it: copy the whole folder, or write the log anew")
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from None


def _check_part(file: Path, parquet: Any, count: int, layout: Layout) -> None:
    check_columns(file, parquet.schema_arrow, layout)
    if parquet.metadata.num_rows != count:
        raise InputError(f"{file} has {parquet.metadata.num_rows} rows, log.json says {count}: write the log anew")


def _damaged(file: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0].rstrip(".")
    return InputError(
        f"{file} ({file.stat().st_size:,} bytes) is not a complete Parquet file ({reason}): it was cut short or "
        "damaged, copy it again or write the log anew"
    )


def _read_catalogue(file: Path, version: str, width: int) -> Catalogue:
    """Read a catalogue and check its hash."""
    with _open(file) as parquet:
        try:
            table = parquet.read()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(file, error) from None
    wanted = {"item": pa.int64()} | ({"features": pa.list_(pa.float32(), width)} if width else {})
    for name, kind in wanted.items():
        if name not in table.column_names or table.schema.field(name).type != kind:
            raise InputError(f"{file}: column {name!r} ({kind}) is missing or of another type: write the log anew")
    features = torch.zeros(table.num_rows, width)
    if width:
        flat = table.column("features").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        features = torch.from_numpy(flat.copy()).view(table.num_rows, width)
    ids = table.column("id").to_pylist() if "id" in table.column_names else None
    catalogue = Catalogue.of(features, ids)
    if catalogue.version != version:
        raise InputError(
            f"{file} has content {catalogue.version}, log.json says {version}: the catalogue was changed after the "
            "log was written, copy the original"
        )
    return catalogue


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"found {value!r:.40}, expected {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if _typed(value, int) < 0:
        raise ValueError(f"{value} is no number of rows or sessions")
    return value


def _name(text: str) -> str:
    """Return a file name of a log; no other file, in or out of its folder, is ever read."""
    if not re.fullmatch(r"(part-\d+|catalogue-[0-9a-f]+)\.parquet", text):
        raise ValueError(f"unexpected file name {text!r}")
    return text
