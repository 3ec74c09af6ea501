"""What the contracts share: asking promises, comparing records to the bit, the process's generators."""

import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from slatewise.interactions import Catalogue

LIMIT = 4.5  # standard errors
KEPT = "kept"

Promise = Callable[[], str | None]


class ContractError(AssertionError):
    """A broken promise. The message says which, shows the smallest example, and what to do."""


class Broken(Exception):
    """What a check found: an example and a remedy."""

    def __init__(self, example: str, remedy: str) -> None:
        super().__init__(example)
        self.example, self.remedy = example, remedy


def ask(owner: str, promises: Mapping[str, Promise]) -> dict[str, str]:
    """Ask every promise in turn; return "kept" for each, or why it could not be asked.

    Raises ContractError at the first broken one.
    """
    answers: dict[str, str] = {}
    with process_generators_restored():
        for promise, check in promises.items():
            try:
                answers[promise] = check() or KEPT
            except Broken as found:
                raise ContractError(f"{owner}: {promise}. Not so: {found.example}. {found.remedy}") from None
    return answers


def make_name(make: Callable[..., object]) -> str:
    """Return what a maker is called in messages."""
    if isinstance(make, partial):
        given = ", ".join([*map(str, make.args), *(f"{key}={value}" for key, value in make.keywords.items())])
        return f"{make_name(cast(Callable[..., object], make.func))}({given})"
    return getattr(make, "__name__", repr(make))


# Comparing to the bit.


def tensors_of(record: Any, name: str = "") -> dict[str, Tensor]:
    """Return every tensor of a record, or of a dictionary of them, by its path; a catalogue is held by reference."""
    if isinstance(record, Tensor):
        return {name: record}
    if isinstance(record, Mapping):
        inner = {str(key): value for key, value in cast(Mapping[Any, Any], record).items()}
    elif is_dataclass(record) and not isinstance(record, Catalogue):
        inner = {field.name: getattr(record, field.name) for field in fields(record)}
    else:
        return {}
    found: dict[str, Tensor] = {}
    for key, value in inner.items():
        found |= tensors_of(value, f"{name}.{key}" if name else key)
    return found


def copies_of(record: Any) -> dict[str, Tensor]:
    """Return copies of every tensor of a record, by its path."""
    return {key: value.clone() for key, value in tensors_of(record).items()}


def difference(one: Any, other: Any, rows: Tensor | None = None) -> str | None:
    """Return the first difference of two records, for instance `user[3, 1] is 0.5 and 0.7`, or None.

    rows: bool [B], the rows to compare. NaN equals NaN.
    """
    mine, theirs = tensors_of(one), tensors_of(other)
    if mine.keys() != theirs.keys():
        return f"{sorted(mine.keys() ^ theirs.keys())[0]} is there in only one of them"
    for key, a in mine.items():
        b = theirs[key]
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{key} is {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        differs = a != b
        if a.is_floating_point():
            differs &= ~(a.isnan() & b.isnan())
        if rows is not None:
            differs = differs & rows.view(-1, *[1] * (a.ndim - 1))
        if bool(differs.any()):
            at = tuple(int(i) for i in differs.nonzero()[0])
            return f"{key}{list(at)} is {a[at].item():.9g} and {b[at].item():.9g}"
    return None


# The process's own random numbers.


def _process_generators() -> dict[str, Any]:
    algorithm, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (algorithm, keys.tobytes(), *rest),
        "random": random.getstate(),
    }


@contextmanager
def process_generators_restored() -> Generator[None]:
    """Put the process-wide generators back afterwards."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


@contextmanager
def generators_watched(doing: str, remedy: str) -> Generator[None]:
    """Find whoever draws from, or seeds, a process-wide generator of torch, NumPy or Python."""
    disturb(2**31 - 1)  # so that seeding with a number that somebody used before is seen
    before = _process_generators()
    yield
    for name, state in _process_generators().items():
        if state != before[name]:
            raise Broken(f"{doing} changed the process-wide generator of {name}", remedy)


def disturb(step: int) -> None:
    """Seed and draw from every process-wide generator, as other code of a program may."""
    torch.manual_seed(step)
    np.random.seed(step)
    random.seed(step)
    torch.rand(1 + step % 3)


# Statistics.


def too_far(difference: float, error: float) -> bool:
    """Whether a difference is more than 4.5 standard errors from 0 (by chance once in 150,000 times)."""
    return not abs(difference) <= LIMIT * error + 1e-9
