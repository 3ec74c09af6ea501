"""Batches of a few rows, in plain numbers.

A torch operation costs about a microsecond, however small its tensors. Where that is the whole cost of a hot function,
it has a plain form beside it for a few rows on the CPU, the same values to the bit: nobody can tell which was taken.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

NumPy = np.ndarray[Any, np.dtype[Any]]
FEW = 8  # rows; with many more, torch's operations over all rows are faster than plain ones row by row


def is_few(batch: Tensor) -> bool:
    """Whether a batch [B, …] is worth taking row by row."""
    return 1 <= batch.shape[0] <= FEW and batch.is_cpu


def tensor(values: Any, dtype: type[np.generic]) -> Tensor:
    """Return nested lists of numbers as a tensor of a NumPy dtype: `torch.tensor` takes several times as long."""
    return torch.from_numpy(np.array(values, dtype))


def total(values: Tensor) -> Tensor:
    """Return the sum over the last dimension, [B] from [B, K].

    The numbers are added in order and in float64, so that the last bit depends on nothing else: `sum` adds them as
    suits the batch, and in short rows takes longer.
    """
    return values.cumsum(-1).select(-1, -1)
