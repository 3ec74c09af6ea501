"""Catalogues at rest: one file, named by the hash of its content."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue
from slatewise.logs.files import damaged, open_parquet


def write_catalogue(folder: Path, catalogue: Catalogue) -> dict[str, Any]:
    """Write a catalogue into a log's folder, and return what log.json says of it.

    Columns: `item` (its row), `id` where items have names, `features` unless there are none.
    """
    count, width = catalogue.features.shape
    columns: dict[str, Any] = {"item": pa.array(np.arange(count))}
    if catalogue.ids is not None:
        columns["id"] = pa.array(catalogue.ids, type=pa.string())
    if width:
        flat = pa.array(catalogue.features.detach().cpu().contiguous().numpy().reshape(-1))
        columns["features"] = pa.FixedSizeListArray.from_arrays(flat, width)
    name = f"catalogue-{catalogue.version}.parquet"
    pq.write_table(pa.table(columns), folder / name, compression="zstd", write_page_checksum=True)
    return {"version": catalogue.version, "items": count, "file": name}


def read_catalogue(file: Path, version: str, width: int) -> Catalogue:
    """Read a catalogue of so many features and check its hash. Raises InputError for a damaged or changed file."""
    with open_parquet(file) as parquet:
        try:
            table = parquet.read()
        except (pa.ArrowException, OSError) as error:
            raise damaged(file, error) from None
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


def union(one: Catalogue, other: Catalogue) -> tuple[Catalogue, Tensor]:
    """Return one catalogue with the items of both, and where the other's items are in it, int64 [N of the other].

    An item is the same if its id and all its features are; one whose features changed gets a row of its own. Raises
    InputError where items have no ids, so that nobody knows which are the same, or another number of features.
    """
    if one.ids is None or other.ids is None or one.features.shape[1] != other.features.shape[1]:
        raise InputError(
            "this batch has another catalogue than the log so far, without ids or with other features: give the items "
            "of both ids and the same features, write another log, or call .dense() on the observations"
        )
    rows = {key: row for row, key in enumerate(_keys(one))}
    new: list[int] = []
    for row, key in enumerate(keys := _keys(other)):
        if key not in rows:
            rows[key] = len(one) + len(new)
            new.append(row)
    ids = (*one.ids, *(other.ids[row] for row in new))
    return Catalogue.of(torch.cat([one.features, other.features[new]]), ids), torch.tensor([rows[key] for key in keys])


def _keys(catalogue: Catalogue) -> list[tuple[str, bytes]]:
    assert catalogue.ids is not None
    return list(zip(catalogue.ids, (row.tobytes() for row in catalogue.features.cpu().numpy()), strict=True))
