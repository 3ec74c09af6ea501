"""A log as a flat table for other tools: one row a shown item, Parquet or CSV."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from slatewise.errors import InputError, unknown_name
from slatewise.interactions import Interactions
from slatewise.logs.log import Log

WRITERS: Final = {"parquet": pq.ParquetWriter, "csv": pyarrow.csv.CSVWriter}


def export_table(
    log: Log, out: str | Path, format: Literal["parquet", "csv"] = "parquet", overwrite: bool = False
) -> int:
    """Write a log to one file, a row for every shown item, and return how many; in blocks, whatever its length.

    Columns: `decision` (its row in the log), `episode`, `step`; `time`, `user_id`, `decision_id`, `policy_version`
    where the log knows them; `position` (from 1), `item` (its id, or number), `propensity` (given the positions before
    it; empty where unknown), `clicked`, the signals, `reward`, and `decision_reward`, what the decision earned besides,
    in its first row and 0 in the others; both are empty where the reward is not known. A signal whose name is taken is
    called `signal_NAME`. Holes of a slate have no row.

    Raises InputError for another format, a file that exists unless `overwrite`, or a log without interactions.
    """
    if format not in WRITERS:
        raise unknown_name("format", format, WRITERS)
    rows, start = 0, 0
    with whole_file(out, overwrite) as file:
        writer: Any = None
        try:
            for block in log.blocks():
                table = _table(log, block, start)
                writer = writer or WRITERS[format](file, table.schema)
                writer.write_table(table)
                rows, start = rows + table.num_rows, start + len(block)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError(f"{log.path} has no interactions: there is nothing to export")
    return rows


@contextmanager
def whole_file(path: str | Path, overwrite: bool) -> Generator[Path]:
    """Give a path to write to that becomes `path` at the end, or vanishes if something is raised.

    Raises InputError where `path` exists and may not be overwritten.
    """
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        remedy = "name a file in it" if path.is_dir() else "choose another path, or overwrite it (--overwrite)"
        raise InputError(f"{path} exists: {remedy}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.writing-{uuid4().hex[:8]}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def item_names(log: Log) -> list[str] | None:
    """Return the ids of a log's items by their row in the catalogue, or None where they have none."""
    return list(log.catalogue.ids) if log.catalogue and log.catalogue.ids is not None else None


def _table(log: Log, rows: Interactions, start: int) -> Any:
    row, slot = (rows.decision.slate >= 0).nonzero(as_tuple=True)
    item = rows.observation.item_ids[row, rows.decision.slate[row, slot]]
    names, response, first = item_names(log), rows.response, torch.ones(len(row), dtype=torch.bool)
    first[1:] = row[1:] != row[:-1]
    unknown, known = log.propensities["kind"] == "unknown", response.reward_known[row]
    columns: dict[str, Any] = {"decision": _array(row + start)}
    for name in ("episode", "step", "user_id", "decision_id", "policy_version"):
        values = getattr(rows, name)
        if values is not None:
            columns[name] = _array(values[row]) if isinstance(values, Tensor) else pa.array(values[row.numpy()])
    if rows.time is not None:
        columns["time"] = _array(rows.time[row]).cast(pa.timestamp("us", tz="UTC"))
    columns["position"] = _array(slot + 1)
    columns["item"] = _array(item) if names is None else pa.array([names[i] for i in item.tolist()], pa.string())
    columns["propensity"] = _array(rows.decision.propensity[row, slot], torch.full_like(known, not unknown))
    columns["clicked"] = _array(response.clicked[row, slot])
    rewards = {
        "reward": _array(response.reward[row, slot], known),
        "decision_reward": _array(response.decision_reward[row] * first, known),
    }
    for i, name in enumerate(log.spec.signals):
        taken = name in columns or name in rewards
        columns[f"signal_{name}" if taken else name] = _array(response.signals[row, slot, i])
    return pa.table(columns | rewards)


def _array(values: Tensor, known: Tensor | None = None) -> Any:
    """Return a column of numbers; known: bool [rows], empty elsewhere."""
    return pa.array(values.numpy(), mask=None if known is None else ~known.numpy())
