"""Records of tensors that share their first dimension."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from slatewise.errors import InputError


class Batch:
    """Tensors that share their first dimension: indexing, concatenation and moving are the same for all."""

    def map(self, change: Callable[[Any], Any]) -> Self:
        """Return a copy with `change` applied to every array, nested records included."""
        return cast(Self, replace(cast(Any, self), **{n: _map(v, change) for n, v in self._arrays().items()}))

    def __getitem__(self, index: Any) -> Self:
        """Return the rows that `index` (a slice, or a tensor of positions or booleans) selects."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        return self.map(lambda array: _selected(array, index))

    def put(self, start: int, rows: Self) -> None:
        """Write rows into these arrays, in place, from row `start` on; the same fields must be there in both."""
        for name, array in self._arrays().items():
            if isinstance(array, Batch):
                array.put(start, getattr(rows, name))
            else:
                array[start : start + len(rows)] = getattr(rows, name)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, those of a record within it after a dot; what is held by reference is not one."""
        found: dict[str, Tensor] = {}
        for name, array in self._arrays().items():
            if isinstance(array, Batch):
                found |= {f"{name}.{inner}": value for inner, value in array.tensors().items()}
            elif isinstance(array, Tensor):
                found[name] = array
        return found

    def to(self, device: str | torch.device) -> Self:
        """Return the batch with its tensors on `device`."""
        moved = {n: v if isinstance(v, np.ndarray) else _moved(v, device) for n, v in self._arrays().items()}
        return cast(Self, replace(cast(Any, self), **moved))

    def __len__(self) -> int:
        return len(getattr(self, next(iter(cast(Any, self).__dataclass_fields__))))  # every record begins with an array

    @classmethod
    def cat(cls, batches: Sequence[Self]) -> Self:
        """Concatenate batches along their first dimension.

        Raises InputError where an optional field is present in only some of them, or where they
        refer to different catalogues.
        """
        if len(batches) == 1:
            return batches[0]
        columns = {f.name: [getattr(b, f.name) for b in batches] for f in fields(cast(Any, batches[0]))}
        return cls(**{name: _cat(f"{cls.__name__}.{name}", values) for name, values in columns.items()})

    def _arrays(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}
        return {n: v for n, v in values.items() if isinstance(v, Tensor | np.ndarray | Batch)}


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    return value.map(change) if isinstance(value, Batch) else change(value)


def _selected(array: Any, index: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array[index.cpu().numpy() if isinstance(index, Tensor) else index]
    if shared(array) and isinstance(index, Tensor):
        rows = int(index.sum()) if index.dtype == torch.bool else len(index)
        return array[:1].expand(rows, *array.shape[1:])
    return array[index]


class Constant:
    """A tensor that is needed on whatever device asks for it, and is moved there once."""

    def __init__(self, tensor: Tensor) -> None:
        self._copies = {tensor.device: tensor}
        self._tensor = tensor

    def on(self, device: torch.device) -> Tensor:
        """Return it on a device."""
        if device not in self._copies:
            self._copies[device] = self._tensor.to(device)
        return self._copies[device]


def _moved(array: Any, device: str | torch.device) -> Any:
    """Return an array or record on a device; rows that are one row in memory travel as one, and stay so."""
    if isinstance(array, Tensor) and shared(array):
        return array[:1].to(device).expand(array.shape)
    return array.to(device)


def shared(array: Tensor) -> bool:
    """Whether all rows are one row in memory (an expanded tensor): selecting rows keeps it so, at no cost."""
    return array.ndim > 1 and len(array) > 1 and array.stride(0) == 0


def distinct(array: Tensor) -> Tensor:
    """Return the first row of an array whose rows are all the same in memory, else the array: enough to check."""
    return array[:1] if shared(array) else array


def _cat(name: str, values: list[Any]) -> Any:
    first = values[0]
    if any((value is None) != (first is None) for value in values):
        raise InputError(f"{name} is present in only some of the batches: give it to all of them or to none")
    if isinstance(first, Batch):
        return type(first).cat(values)
    if isinstance(first, Tensor):
        if all(shared(value) and torch.equal(value[0], first[0]) for value in values):
            return first[:1].expand(sum(len(value) for value in values), *first.shape[1:])
        if any(value.shape[1:] != first.shape[1:] for value in values):
            shapes = sorted({tuple(value.shape[1:]) for value in values})
            raise InputError(f"{name} has different shapes per row, {shapes}: pad them to one shape first")
        return torch.cat(values)
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    versions = {getattr(value, "version", None) for value in values}  # what is held by reference has one
    if len(versions) > 1:
        raise InputError(
            f"{name} differs, versions {sorted(map(str, versions))}: call .dense() on the observations before "
            "concatenating them"
        )
    return first
