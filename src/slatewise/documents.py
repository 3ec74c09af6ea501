"""JSON files that say what a folder holds: read with care, because people copy, edit and damage them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from slatewise.errors import InputError


def read_document(path: Path, newest: int, keys: Iterable[str]) -> dict[str, Any]:
    """Read a JSON object with a `format` up to `newest` and at least these keys.

    Raises InputError for a file that is missing, no JSON object, from a later version, or without a key.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): copy it again") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} holds a {type(document).__name__}, not an object: copy it again")
    document = cast(dict[str, Any], document)
    version = document.get("format")
    if not isinstance(version, int):
        raise InputError(f"{path} has format {version!r}, not a number: it was not written by slatewise")
    if version > newest:
        raise InputError(f"{path} has format {version}, this version reads up to {newest}: upgrade slatewise")
    missing = [key for key in keys if key not in document]
    if missing:
        raise InputError(f"{path} has no {missing[0]!r}: it is damaged, copy it again")
    return document
