"""Reading a log: lazily, in blocks of bounded memory, each checked before anyone sees it."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from slatewise.batch import shared
from slatewise.errors import InputError
from slatewise.features import FeatureSchema
from slatewise.interactions import Catalogue, Interactions, Observation, Spec
from slatewise.logs.catalogues import read_catalogue
from slatewise.logs.derived import DERIVED, HISTORY, Histories
from slatewise.logs.files import damaged, open_parquet
from slatewise.logs.rewards import Reward
from slatewise.logs.schema import OBSERVED, PROPENSITIES, Layout, check_columns, check_nulls, read_description

BLOCK_ROWS = 65_536
BLOCK_MEGABYTES = 64


class Log:
    """Interactions at rest, in the folder that a `LogWriter` or an importer made.

    path: the folder.  reward: what a decision earned, as a signal or a weighted sum of signals (`clicked + 0.1 *
    watch`; `clicked` is known to every log), or None for the reward as it was logged.  history: how many interactions
    of the session an observation remembers, or None for as many as were logged.

    spec, source: as they were written.  propensities: `kind` is `logged`, `estimated` (and how) or `unknown`.  digest:
    a hash of the content.  Its length is its number of decisions.
    Raises InputError for a folder that is missing, not a log, damaged or of another format, or an unknown signal.
    """

    def __init__(self, path: str | Path, reward: str | None = None, history: int | None = None) -> None:
        self.path = Path(path)
        values = read_description(self.path)
        try:
            self.spec = Spec.from_json(values["spec"])
            self.propensities: dict[str, Any] = _propensities(values["propensities"])
            self._features = values.get("features")
            self.source: dict[str, Any] = dict(_typed(values["source"], dict))
            self.sessions = _count(values["sessions"])
            self._rows = _count(values["rows"])
            self._layout = Layout(self.spec, tuple(values["optional"]), bool(values["next_observation"]))
            self._catalogues = [(str(c["version"]), _name(c["file"])) for c in values["catalogues"]]
            self._parts = [_Part.of(self.path, part, self._layout) for part in values["parts"]]
            self.digest = hashlib.sha256("".join(part.sha256 for part in self._parts).encode()).hexdigest()[:16]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{self.path / 'log.json'} is damaged ({type(error).__name__}: {error}): write the log anew"
            ) from None
        self._check_rows()
        self.reward = None if reward is None else Reward.of(reward, self.spec.signals)
        if history is not None and history < 0:
            raise InputError(f"history={history}: remember 0 interactions or more")
        self._stored_history = self.spec.history
        if history is not None:
            self.spec = replace(self.spec, history=history)

    def __len__(self) -> int:
        return self._rows

    @property
    def has_next_observation(self) -> bool:
        """Whether interactions know the observation that followed; bandit logs do not."""
        return self._layout.next_observation

    @cached_property
    def features(self) -> FeatureSchema | None:
        """The schema that made features of the columns of a table, or None.

        Raises InputError for a schema that is damaged or of a later format.
        """
        return FeatureSchema.from_json(self._features) if self._features is not None else None

    @cached_property
    def catalogue(self) -> Catalogue | None:
        """The items that observations refer to, or None."""
        if not self._catalogues:
            return None
        version, name = self._catalogues[0]
        return read_catalogue(self.path / name, version, len(self.spec.catalogue))

    def blocks(self, rows: int | None = None) -> Iterator[Interactions]:
        """Yield all interactions in order, in blocks of at most `rows` (default: 65,536, or 64 MB of them).

        Sessions are whole and in order, and may cross the border of a block. Raises InputError for a damaged or
        foreign file, or values that no record may have.
        """
        size = self._layout.rows_in(BLOCK_MEGABYTES, BLOCK_ROWS) if rows is None else rows
        if size < 1:
            raise InputError(f"rows={rows}: a block has at least one row")
        for part in self._parts:
            yield from self._part(part, size)

    def read(self) -> Interactions:
        """Return all interactions at once. Raises InputError for a log without any."""
        blocks = list(self.blocks())
        if not blocks:
            raise InputError(f"{self.path} has no interactions: nothing was written to it")
        return Interactions.cat(blocks)

    def _check_rows(self) -> None:
        """Hold what log.json says against the footers of the parts."""
        for part in self._parts:
            part.check()
        total = sum(part.rows for part in self._parts)
        if total != self._rows or not min(1, total) <= self.sessions <= total:
            raise InputError(
                f"{self.path / 'log.json'} says {self._rows} rows and {self.sessions} sessions, its parts have {total} "
                "rows: write the log anew"
            )

    def _part(self, part: "_Part", size: int) -> Iterator[Interactions]:
        rebuild = self.spec.history != self._stored_history or HISTORY in part.layout.left_out
        histories = Histories(self.spec.history) if rebuild and self.spec.history else None
        start, previous = 0, None
        for table in part.tables(size):
            block = self._remembering(self._block(part, start, table), histories, rebuild)
            if previous is not None:
                yield self._with_next(part.file, start - len(previous[0]), previous, block[0][:1])
            previous, start = block, start + table.num_rows
        if previous is not None:
            yield self._with_next(part.file, start - len(previous[0]), previous, None)

    def _block(self, part: "_Part", start: int, table: Any) -> "_Block":
        """Return checked interactions and the next observations that are stored beside them."""
        check_nulls(part.file, table)
        try:
            rows = part.layout.interactions(table, self.catalogue)
            rows.validate()
            if self.reward is not None:
                shown = rows.decision.slate >= 0
                rows = replace(rows, response=self.reward(rows.response, self.spec.signals, shown))
            if not self.has_next_observation:
                return rows, None, None
            following, has_next = part.layout.following(table, self.catalogue)
            if len(following):
                following.validate("next_observation")
        except InputError as error:
            where = f"{part.file}, rows from {start} (the first below counts as 0)"
            raise InputError(f"{where}: {error}") from None
        return rows, following, has_next

    def _remembering(self, block: "_Block", histories: Histories | None, rebuild: bool) -> "_Block":
        """Give rows and stored next observations the histories that are asked for."""
        rows, following, has_next = block
        if not rebuild:
            return block
        before, after = histories.of(rows) if histories else (None, None)
        rows = replace(rows, observation=replace(rows.observation, history=before))
        if following is not None:
            following = replace(following, history=None if after is None else after[has_next])
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
        return replace(rows, next_observation=_placed(shifted.observation, has_next, following))


_Block = tuple[Interactions, Observation | None, Tensor | None]


def _placed(ahead: Observation, has_next: Tensor, following: Observation) -> Observation:
    """Return observations with `following` in the rows of `has_next` [B]."""
    values: dict[str, Tensor] = {}
    for name in OBSERVED:
        column, stored = getattr(ahead, name), getattr(following, name)
        if stored is not None and not (shared(column) and torch.equal(column[has_next], stored)):
            column = column.clone() if shared(column) else column
            column[has_next] = stored
        values[name] = column
    return replace(ahead, **values)


@dataclass(frozen=True)
class _Part:
    """One file of a log: how many rows, what columns, and the hash of its content."""

    file: Path
    rows: int
    layout: Layout
    sha256: str

    @staticmethod
    def of(folder: Path, values: dict[str, Any], layout: Layout) -> "_Part":
        left_out = tuple(str(name) for name in _typed(values["left_out"], list))
        if set(left_out) - set(DERIVED):
            raise ValueError(f"left_out is {left_out}, known are {DERIVED}")
        return _Part(
            folder / _name(values["file"]),
            _count(values["rows"]),
            replace(layout, left_out=left_out),
            _typed(values["sha256"], str),
        )

    def check(self) -> None:
        """Raise InputError unless the file's footer is what log.json says."""
        with open_parquet(self.file) as parquet:
            self._check(parquet)

    def tables(self, size: int) -> Iterator[Any]:
        """Yield the rows as Arrow tables of at most `size` rows."""
        try:
            with open_parquet(self.file) as parquet:
                self._check(parquet)
                for batch in parquet.iter_batches(size, columns=list(self.layout.columns), use_threads=False):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise damaged(self.file, error) from None

    def _check(self, parquet: Any) -> None:
        check_columns(self.file, parquet.schema_arrow, self.layout)
        if parquet.metadata.num_rows != self.rows:
            raise InputError(
                f"{self.file} has {parquet.metadata.num_rows} rows, log.json says {self.rows}: write the log anew"
            )


def _propensities(value: Any) -> dict[str, Any]:
    if _typed(value, dict).get("kind") not in PROPENSITIES:
        raise ValueError(f"propensities are {value!r:.60}, known kinds are {PROPENSITIES}")
    return value


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
