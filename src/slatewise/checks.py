"""Checks of tensors where data enters: each raises InputError with the row, the value and the remedy."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.plain import is_few


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device. Raises InputError for one that torch does not know, or cannot use here."""
    try:
        found = torch.empty(0, device=device).device
        torch.Generator(found)  # `meta` has none, and no numbers either
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"device={str(device)!r} cannot be used here ({reason}): give cpu, or install a PyTorch built for it"
        ) from None
    return found


def check_slate(slate: Tensor, item_ids: Tensor, name: str = "slate", holes: bool = True) -> None:
    """Raise InputError unless slate [B, K] holds distinct, showable positions of the candidates (or holes, −1).

    holes: whether they are allowed.
    """
    batch, candidates = item_ids.shape
    check_shape(name, slate, "BK", torch.int64, batch)
    if slate.numel() == 0 or (is_few(slate) and all(map(_is_full, slate.tolist(), item_ids.tolist()))):
        return
    lowest = int(slate.amin())
    if lowest < -1 or int(slate.amax()) >= candidates:
        bad = (slate < -1) | (slate >= candidates)
        row, slot = first_true(bad)
        raise InputError(
            f"{name}[{row}, {slot}] shows candidate {int(slate[row, slot])}, "
            f"but this user has {candidates} candidates (0 to {candidates - 1})"
        )
    _check_repeats(slate, name)
    if lowest < 0 and not holes:
        row, slot = first_true(slate < 0)
        there = int((item_ids[row] >= 0).sum())
        if there < slate.shape[1]:
            raise InputError(
                f"{name}[{row}, {slot}] is a hole (−1): this user has {there} candidates that may be shown, and a "
                f"world must offer at least as many as a slate has slots, {slate.shape[1]}"
            )
        raise InputError(f"{name}[{row}, {slot}] is a hole (−1), but there are candidates enough to fill the slate")
    shown = item_ids.gather(1, slate.clamp(min=0))
    if int(shown.amin()) < 0:
        masked = (shown < 0) & (slate >= 0)
        if bool(masked.any()):
            row, slot = first_true(masked)
            raise InputError(
                f"{name}[{row}, {slot}] shows candidate {int(slate[row, slot])}, which is padded or not to be "
                "shown (its item_id is −1): choose among observation.mask"
            )


def _is_full(slate: list[int], ids: list[int]) -> bool:
    """Whether one slate is valid and has no hole."""
    if min(slate) < 0 or max(slate) >= len(ids) or len(set(slate)) < len(slate):
        return False
    return min(map(ids.__getitem__, slate)) >= 0


def _check_repeats(slate: Tensor, name: str) -> None:
    if slate.shape[1] < 2:
        return
    ordered = slate.sort(1).values if slate.shape[1] > 2 else slate
    repeat = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if bool(repeat.any()):
        row = first_true(repeat)[0]
        raise InputError(f"{name}[{row}] is {slate[row].tolist()}: a candidate is repeated, show each at most once")


def first_true(bad: Tensor) -> list[int]:
    """Return the index of the first true element."""
    return [int(i) for i in bad.nonzero()[0]]


def check_rows(name: str, rows: int, expected: int) -> None:
    """Raise InputError unless there are as many rows as the batch has."""
    if rows != expected:
        raise InputError(f"{name} has {rows} rows, the batch has {expected}")


def check_shape(name: str, value: Tensor, letters: str, dtype: torch.dtype, *sizes: int) -> tuple[int, ...]:
    """Check dtype, number of dimensions and the leading sizes; return the shape."""
    shape = tuple(value.shape)
    if len(shape) != len(letters) or shape[: len(sizes)] != sizes or value.dtype != dtype:
        wanted = [str(sizes[i]) if i < len(sizes) else letter for i, letter in enumerate(letters)]
        expected = f"{str(dtype).removeprefix('torch.')} [{', '.join(wanted)}]"
        got = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        raise InputError(f"{name} is {got}: expected {expected}")
    return shape


def check_finite(name: str, values: Tensor) -> None:
    """Raise InputError, naming the first row and how many there are, for NaN or infinity."""
    bad = ~values.isfinite()
    if bool(bad.any()):
        index = first_true(bad)
        rows = int(bad.flatten(1).any(1).sum()) if bad.ndim > 1 else int(bad.sum())
        raise InputError(
            f"{name}{index} is {float(values[tuple(index)])}: {rows} rows are not finite, replace or drop them"
        )


def which_rows(bad: Any, shown: int = 5) -> str:
    """Say which rows of a boolean array [n] are true, counted from 0, and how many: `in 2 of 10 rows (3, 7)`."""
    rows = np.flatnonzero(np.asarray(bad))
    first = ", ".join(str(row) for row in rows[:shown])
    return f"in {len(rows):,} of {len(bad):,} rows ({first}{', …' if len(rows) > shown else ''})"
