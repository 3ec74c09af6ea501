"""Opening the Parquet files of a log: a damaged one is named, with what to do."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slatewise.errors import InputError


def open_parquet(file: Path) -> Any:
    """Open a Parquet file of a log. Raises InputError where it is missing or damaged."""
    if not file.is_file():
        raise InputError(f"{file} is missing, and log.json names it: copy the whole folder, or write the log anew")
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error) from None


def damaged(file: Path, error: Exception) -> InputError:
    """Return the error for a file that cannot be read."""
    reason = str(error).splitlines()[0].rstrip(".")
    return InputError(
        f"{file} ({file.stat().st_size:,} bytes) is not a complete Parquet file ({reason}): it was cut short or "
        "damaged, copy it again or write the log anew"
    )
