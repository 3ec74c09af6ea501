"""How long a table takes to become a log: a million decisions from a Parquet file, with and without propensities."""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from results import save, table

from slatewise.logs import from_table

ITEMS, CANDIDATES = 1000, 10
CLAIM = (
    "`logs.from_table` on a Parquet file: a decision a row, 10 candidates of 1,000 items as a list, 14 numbers, 5 "
    "categories and a hashed column about the user, string ids. `estimated`: propensities by a cross-fitted and "
    "calibrated multinomial logit with 1,000 intercepts. Peak memory is that of the process, which also made the table."
)


def clicks(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    start = random.integers(0, ITEMS, rows)
    candidates = (start[:, None] + np.arange(CANDIDATES) * 97) % ITEMS
    names = pa.array([f"item-{i}" for i in range(ITEMS)])
    flat = names.take(pa.array(candidates.reshape(-1)))
    shown = candidates[np.arange(rows), random.integers(0, CANDIDATES, rows)]
    numbers = {f"number_{i}": random.normal(size=rows) for i in range(14)}
    categories = {f"category_{i}": names.take(pa.array(random.integers(0, 8, rows))) for i in range(5)}
    columns = {
        "user": pa.array(np.char.add("user-", random.integers(0, 100_000, rows).astype(str))),
        "item": names.take(pa.array(shown)),
        "candidates": pa.FixedSizeListArray.from_arrays(flat, CANDIDATES),
        "clicked": random.random(rows) < 0.05,
        "propensity": np.full(rows, 1 / CANDIDATES),
        "query": names.take(pa.array(random.integers(0, ITEMS, rows))),
    }
    return pa.table(columns | numbers | categories)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    file = folder / "clicks.parquet"
    pq.write_table(clicks(arguments.rows), file)
    features = [f"number_{i}" for i in range(14)] + [f"category_{i}" for i in range(5)]
    mapping = {
        "item": "item",
        "user": "user",
        "candidates": "candidates",
        "reward": "clicked",
        "user_features": [*features, {"column": "query", "kind": "hashed", "buckets": 16}],
    }
    rows = []
    for name, more in {"logged": {"propensity": "propensity"}, "estimated": {"propensities": "estimate"}}.items():
        cpu = time.process_time()
        from_table(file, folder / name, {**mapping, **more})
        rows.append({
            "propensities": name,
            "decisions": arguments.rows,
            "file_mb": round(file.stat().st_size / 1e6),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        })  # fmt: skip
    print("\n".join(table(rows)))
    save("tables", CLAIM, rows)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
