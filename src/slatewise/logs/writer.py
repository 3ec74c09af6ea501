"""Writing a log: whole sessions, in order, and never half of it."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Interactions, Observation, Spec
from slatewise.logs.catalogues import union, write_catalogue
from slatewise.logs.derived import derivable
from slatewise.logs.schema import FORMAT, PROPENSITIES, VERSION, Layout, same_rows, without_next

PART_ROWS = 200_000
DICTIONARY: Any = ["item_ids.list.element", "slate.list.element", "policy_version"]  # columns with few values
STATISTICS: Any = ["episode", "step", "time", "user_id"]


class Described(Protocol):
    """What can be written as JSON: a feature schema."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        ...


class LogWriter:
    """Writes interactions to a new log, one call a step or a batch.

        with LogWriter("LOG", env.spec, {"kind": "simulation"}) as writer:
            writer.add(interactions)

    Sessions are kept in memory until they end, then written in parts of about `part_rows` rows (fewer if they
    are wide), sorted by episode and step; the unfinished ones come last. Everything goes into a folder beside
    LOG that takes LOG's place at the end, or vanishes if something is raised. Warns where every propensity is
    1 (`deterministic`), because such a log is worth nothing for off-policy evaluation.

    The items of all catalogues that come are kept as one, where they have ids. What a reader can rebuild to the bit
    is left out: candidates that are the catalogue in order, histories, next observations that are the next row.

    source: where the log comes from, JSON-able.  features: the schema that encoded users and items, if there is one.
    propensities: `kind` is `logged`, `estimated` (say how) or `unknown` (1 is written; such a log is for learning).
    Raises InputError where LOG exists and `overwrite` is false, or what is added does not fit the spec, repeats a
    decision or continues a session after its end.
    """

    def __init__(
        self,
        path: str | Path,
        spec: Spec,
        source: dict[str, Any],
        overwrite: bool = False,
        part_rows: int = PART_ROWS,
        features: Described | None = None,
        propensities: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.deterministic = True
        self.rows = self.sessions = 0
        check_target(self.path, overwrite)
        self._propensities = _json("propensities", dict(propensities or {"kind": "logged"}))
        if self._propensities.get("kind") not in PROPENSITIES:
            raise InputError(f"propensities are {self._propensities}: their kind is one of {', '.join(PROPENSITIES)}")
        self._head = {
            "spec": asdict(spec),
            "source": _json("source", source),
            "propensities": self._propensities,
            "features": _json("features", features.to_json()) if features else None,
        }
        self._spec = spec
        self._part_rows = part_rows
        self._layout: Layout | None = None
        self._catalogue: Catalogue | None = None
        self._unions: dict[str, Tensor] = {}  # by version: where the items of other catalogues are in this one
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
        interactions = self._known_items(self._check(interactions))
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
        if self.rows and self.deterministic and self._propensities["kind"] == "logged":
            warnings.warn(
                f"{self.path}: every logged propensity is 1, so this log is worth nothing for off-policy evaluation: "
                "log with exploration (--explore-floor 0.05, say)",
                stacklevel=3,
            )

    @property
    def _limit(self) -> int:
        return self._layout.rows_in(256, self._part_rows) if self._layout else self._part_rows

    def _check(self, interactions: Interactions) -> Interactions:
        layout = Layout.of(interactions, self._spec)
        if self._layout is None:
            self._layout, self._catalogue = layout, interactions.observation.catalogue
        if layout != self._layout:
            raise InputError(
                f"this batch has {_fields(layout)}, the log so far {_fields(self._layout)}: give all batches the same"
            )
        catalogue = interactions.observation.catalogue
        width = catalogue.features.shape[1] if catalogue else 0
        if width != len(self._spec.catalogue):
            raise InputError(f"the catalogue has {width} features, the spec names {len(self._spec.catalogue)}")
        return interactions

    def _known_items(self, interactions: Interactions) -> Interactions:
        """Return interactions that refer to the log's catalogue, which gets the items that it lacks."""
        mine, other = self._catalogue, interactions.observation.catalogue
        if (mine is None) != (other is None):
            raise InputError("some batches have a catalogue and some have none: give it to all or to none")
        if mine is None or other is None or mine.version == other.version:
            return interactions
        if other.version not in self._unions:
            self._unions = {}  # what was joined before refers to a smaller catalogue
            self._catalogue, self._unions[other.version] = union(mine, other)
        return _with_catalogue(interactions, self._catalogue, self._unions[other.version])

    def _flush(self, final: bool) -> None:
        """Sort what is in memory; write the complete sessions, or all at the end; keep the rest."""
        if self._fresh:
            fresh = Interactions.cat([_under(rows, self._catalogue) for rows in self._fresh])
            fresh.validate()
            self.deterministic = self.deterministic and bool((fresh.decision.propensity == 1).all())
            self._open = _Rows.of(fresh) if self._open is None else self._open.under(self._catalogue).joined(fresh)
            self._fresh, self._waiting = [], 0
        if self._open is None:
            return
        self._open = self._open.ordered()
        write = self._open.complete() | final
        if int(write.sum()) < (1 if final else max(1, self._limit // 2)):
            return
        self._write(self._open.take(write))
        self._open = None if bool(write.all()) else self._open.take(~write)

    def _write(self, rows: "_Rows") -> None:
        assert self._layout is not None
        episodes = np.unique(rows.interactions.episode.numpy())
        again = np.intersect1d(episodes, self._episodes, assume_unique=True)
        if len(again):
            raise InputError(f"episode {again[0]} was already written: give every session of a log its own number")
        self._episodes = np.concatenate([self._episodes, episodes])
        name = f"part-{len(self._parts):05d}.parquet"
        layout = replace(self._layout, left_out=derivable(rows.interactions, rows.nexts, rows.at))
        group = layout.rows_in(64, 65_536)
        with pq.ParquetWriter(
            self._folder / name,
            pa.schema(list(layout.columns.items())),
            compression="zstd",
            use_dictionary=DICTIONARY,
            write_statistics=STATISTICS,
            write_page_checksum=True,
        ) as file:
            for start in range(0, rows.count, group):
                piece = rows.take(slice(start, start + group))
                file.write_table(layout.table(piece.interactions, piece.nexts, piece.at >= 0))
        with (self._folder / name).open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        self._parts.append({"file": name, "rows": rows.count, "left_out": list(layout.left_out), "sha256": sha256})
        self.rows += rows.count
        self.sessions += len(episodes)

    def _describe(self) -> None:
        catalogues: list[dict[str, Any]] = []
        if self._catalogue is not None:
            catalogues = [write_catalogue(self._folder, self._catalogue)]
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

    def under(self, catalogue: Catalogue | None) -> "_Rows":
        nexts = None if self.nexts is None else replace(self.nexts, catalogue=catalogue)
        return _Rows(_under(self.interactions, catalogue), nexts, self.at)

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


def _with_catalogue(rows: Interactions, catalogue: Catalogue | None, at: Tensor) -> Interactions:
    """Return interactions whose items are the rows `at` [N] of another catalogue."""

    def moved(observation: Observation) -> Observation:
        ids = observation.item_ids
        return replace(observation, item_ids=torch.where(ids >= 0, at[ids.clamp(min=0)], -1), catalogue=catalogue)

    following = rows.next_observation
    return replace(
        rows, observation=moved(rows.observation), next_observation=None if following is None else moved(following)
    )


def _under(rows: Interactions, catalogue: Catalogue | None) -> Interactions:
    """Return interactions under a catalogue that begins with theirs."""
    observation, following = replace(rows.observation, catalogue=catalogue), rows.next_observation
    following = None if following is None else replace(following, catalogue=catalogue)
    return replace(rows, observation=observation, next_observation=following)


def check_target(path: Path, overwrite: bool) -> None:
    """Raise InputError where a log cannot be put: something is there, or a log and `overwrite` is false."""
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


def _json(name: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be written as JSON ({error}): use strings, numbers, lists, dicts") from None


def _fields(layout: Layout) -> str:
    names = [*layout.optional, *(["next_observation"] if layout.next_observation else [])]
    return ", ".join(names) or "no optional fields"
