"""Writing a log: whole sessions, in order, and never half of it."""

import json
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Interactions, Observation, Spec
from slatewise.logs.schema import FORMAT, VERSION, Layout, same_rows, without_next

PART_ROWS = 200_000
DICTIONARY: Any = ["item_ids.list.element", "slate.list.element", "policy_version"]  # columns with few values
STATISTICS: Any = ["episode", "step", "time", "user_id"]


class LogWriter:
    """Writes interactions to a new log, one call a step or a batch.

        with LogWriter("LOG", env.spec, {"kind": "simulation"}) as writer:
            writer.add(interactions)

    Sessions are kept in memory until they end, then written in parts of about `part_rows` rows (fewer if they
    are wide), sorted by episode and step; the unfinished ones come last. Everything goes into a folder beside
    LOG that takes LOG's place at the end, or vanishes if something is raised. Warns where every propensity is
    1 (`deterministic`), because such a log is worth nothing for off-policy evaluation.

    source: where the log comes from, JSON-able.  Raises InputError where LOG exists and `overwrite` is false, or
    what is added does not fit the spec, repeats a decision or continues a session after its end.
    """

    def __init__(
        self,
        path: str | Path,
        spec: Spec,
        source: dict[str, Any],
        overwrite: bool = False,
        part_rows: int = PART_ROWS,
    ) -> None:
        self.path = Path(path)
        self.deterministic = True
        self.rows = self.sessions = 0
        _check_target(self.path, overwrite)
        self._head = {"spec": asdict(spec), "source": _json(source)}
        self._spec = spec
        self._part_rows = part_rows
        self._layout: Layout | None = None
        self._catalogue: Catalogue | None = None
        self._fresh: list[Interactions] = []
        self._waiting = 0  # rows in `_fresh`
        self._open: _Rows | None = None
        self._episodes = np.empty(0, np.int64)  # sessions that are on disk
        self._parts: list[dict[str, Any]] = []
        self._folder = self.path.absolute().parent / f".{self.path.name}.writing-{uuid4().hex[:8]}"
        self._folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, interactions: Interactions) -> None:
        """Take a batch of interactions, in any order while a session is open.

        A session may be written once a step that ended it has come: none of its steps may come in a later batch.
        """
        if len(interactions) == 0:
            return
        interactions = interactions.to("cpu")
        self._check(interactions)
        self._fresh.append(interactions)
        self._waiting += len(interactions)
        if self._waiting >= max(self._limit, self._open.count if self._open else 0):
            self._flush(final=False)

    def close(self) -> None:
        """Write what is left, unfinished sessions too, and put the log in its place."""
        if self._fresh or self._open:
            self._flush(final=True)
        self._describe()
        _replace(self._folder, self.path)
        if self.rows and self.deterministic:
            warnings.warn(
                f"{self.path}: every logged propensity is 1, so this log is worth nothing for off-policy evaluation: "
                "log with exploration (--explore-floor 0.05, say)",
                stacklevel=3,
            )

    @property
    def _limit(self) -> int:
        return self._layout.rows_in(256, self._part_rows) if self._layout else self._part_rows

    def _check(self, interactions: Interactions) -> None:
        catalogue = interactions.observation.catalogue
        layout = Layout.of(interactions, self._spec)
        if self._layout is None:
            self._layout, self._catalogue = layout, catalogue
        if layout != self._layout:
            raise InputError(
                f"this batch has {_fields(layout)}, the log so far {_fields(self._layout)}: give all batches the same"
            )
        if (catalogue and catalogue.version) != (self._catalogue and self._catalogue.version):
            raise InputError(
                "this batch has another catalogue than the log so far: write another log, or call .dense() on the "
                "observations"
            )
        width = catalogue.features.shape[1] if catalogue else 0
        if width != len(self._spec.catalogue):
            raise InputError(f"the catalogue has {width} features, the spec names {len(self._spec.catalogue)}")

    def _flush(self, final: bool) -> None:
        """Sort what is in memory; write the complete sessions, or all at the end; keep the rest."""
        if self._fresh:
            fresh = Interactions.cat(self._fresh)
            fresh.validate()
            self.deterministic = self.deterministic and bool((fresh.decision.propensity == 1).all())
            self._open = _Rows.of(fresh) if self._open is None else self._open.joined(fresh)
            self._fresh, self._waiting = [], 0
        if self._open is None:
            return
        self._open = self._open.ordered()
        write = self._open.complete() | final
        if int(write.sum()) < (1 if final else max(1, self._limit // 2)):
            return
        self._write(self._open.take(write))
        self._open = None if final else self._open.take(~write)

    def _write(self, rows: "_Rows") -> None:
        assert self._layout is not None
        episodes = np.unique(rows.interactions.episode.numpy())
        again = np.intersect1d(episodes, self._episodes, assume_unique=True)
        if len(again):
            raise InputError(f"episode {again[0]} was already written: give every session of a log its own number")
        self._episodes = np.concatenate([self._episodes, episodes])
        name = f"part-{len(self._parts):05d}.parquet"
        group = self._layout.rows_in(64, 65_536)
        with pq.ParquetWriter(
            self._folder / name,
            pa.schema(list(self._layout.columns.items())),
            compression="zstd",
            use_dictionary=DICTIONARY,
            write_statistics=STATISTICS,
            write_page_checksum=True,
        ) as file:
            for start in range(0, rows.count, group):
                piece = rows.take(slice(start, start + group))
                file.write_table(self._layout.table(piece.interactions, piece.nexts, piece.at >= 0))
        self._parts.append({"file": name, "rows": rows.count})
        self.rows += rows.count
        self.sessions += len(episodes)

    def _describe(self) -> None:
        catalogues: list[dict[str, Any]] = []
        if self._catalogue is not None:
            name = f"catalogue-{self._catalogue.version}.parquet"
            write_catalogue(self._folder / name, self._catalogue)
            catalogues = [{"version": self._catalogue.version, "items": len(self._catalogue), "file": name}]
        layout = self._layout
        values: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "rows": self.rows,
            "sessions": self.sessions,
            **self._head,
            "optional": list(layout.optional) if layout else [],
            "next_observation": bool(layout and layout.next_observation),
            "catalogues": catalogues,
            "parts": self._parts,
        }
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        (self._folder / "log.json").write_text(text + "\n", encoding="utf-8")


class _Rows:
    """Interactions, and the next observations of some of them: row i has nexts[at[i]], or none where at is −1."""

    def __init__(self, interactions: Interactions, nexts: Observation | None, at: Tensor) -> None:
        self.interactions = interactions
        self.nexts = nexts
        self.at = at
        self.count = len(at)

    @staticmethod
    def of(rows: Interactions) -> "_Rows":
        at = torch.arange(len(rows)) if rows.next_observation is not None else torch.full((len(rows),), -1)
        return _Rows(without_next(rows), rows.next_observation, at)

    def joined(self, rows: Interactions) -> "_Rows":
        other = _Rows.of(rows)
        interactions = Interactions.cat([self.interactions, other.interactions])
        if self.nexts is None or other.nexts is None:
            return _Rows(interactions, None, torch.cat([self.at, other.at]))
        at = torch.cat([self.at, other.at + len(self.nexts)])
        return _Rows(interactions, Observation.cat([self.nexts, other.nexts]), at)

    def take(self, index: Tensor | slice) -> "_Rows":
        return _Rows(self.interactions[index], self.nexts, self.at[index]).compact()

    def compact(self) -> "_Rows":
        """Keep only the next observations that a row refers to, in the order of the rows."""
        if self.nexts is None:
            return self
        has_next = self.at >= 0
        at = torch.where(has_next, has_next.cumsum(0) - 1, -1)
        return _Rows(self.interactions, self.nexts[self.at[has_next]], at)

    def ordered(self) -> "_Rows":
        """Sort by episode and step, and drop the next observations that are the next row."""
        episode, step = self.interactions.episode.numpy(), self.interactions.step.numpy()
        order = torch.from_numpy(np.lexsort((step, episode)))
        rows, at = self.interactions[order], self.at[order].clone()
        same = rows.episode[1:] == rows.episode[:-1]
        _check_sessions(rows, same)
        if self.nexts is not None:
            candidates = (same & (rows.step[1:] == rows.step[:-1] + 1) & (at[:-1] >= 0)).nonzero().squeeze(1)
            equal = same_rows(self.nexts[at[candidates]], rows.observation[candidates + 1])
            at[candidates[equal]] = -1
        return _Rows(rows, self.nexts, at).compact()

    def complete(self) -> Tensor:
        """Return which rows belong to sessions whose end is here, bool [B]; rows are in order."""
        episode = self.interactions.episode
        session = torch.cat([torch.zeros(1, dtype=torch.int64), (episode[1:] != episode[:-1]).cumsum(0)])
        ended = torch.zeros(int(session[-1]) + 1, dtype=torch.bool)
        ended[session[self.interactions.done]] = True
        return ended[session]


def _check_sessions(rows: Interactions, same: Tensor) -> None:
    repeated = same & (rows.step[1:] == rows.step[:-1])
    if bool(repeated.any()):
        row = int(repeated.nonzero()[0])
        raise InputError(
            f"episode {int(rows.episode[row])} has step {int(rows.step[row])} twice: give every session of a log "
            "its own number, and every decision its own step"
        )
    continued = same & rows.done[:-1]
    if bool(continued.any()):
        row = int(continued.nonzero()[0])
        raise InputError(
            f"episode {int(rows.episode[row])} goes on after it ended at step {int(rows.step[row])}: give every "
            "session of a log its own number"
        )


def write_catalogue(file: Path, catalogue: Catalogue) -> None:
    """Write a catalogue: `item` (its row), `id` where items have names, `features` unless there are none."""
    count, width = catalogue.features.shape
    columns: dict[str, Any] = {"item": pa.array(np.arange(count))}
    if catalogue.ids is not None:
        columns["id"] = pa.array(catalogue.ids, type=pa.string())
    if width:
        flat = pa.array(catalogue.features.detach().cpu().contiguous().numpy().reshape(-1))
        columns["features"] = pa.FixedSizeListArray.from_arrays(flat, width)
    pq.write_table(pa.table(columns), file, compression="zstd", write_page_checksum=True)


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not (path / "log.json").is_file():
        raise InputError(f"{path} exists and is not a log: choose another path")
    if not overwrite:
        raise InputError(f"{path} exists: choose another path, or overwrite it (--overwrite)")


def _replace(new: Path, target: Path) -> None:
    """Put a finished folder in its place; an old one leaves only when the new one is complete."""
    if target.exists():
        old = new.with_name(new.name.replace("writing", "replaced"))
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old)
    else:
        new.rename(target)


def _json(source: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(source, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"source cannot be written as JSON ({error}): use strings, numbers, lists, dicts") from None


def _fields(layout: Layout) -> str:
    names = [*layout.optional, *(["next_observation"] if layout.next_observation else [])]
    return ", ".join(names) or "no optional fields"
