"""Runs something on the CPU and on a pretended device, and compares."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretended_device import CUDA
from slatewise.testing.base import difference, tensors_of

Run = Callable[[str], dict[str, Any]]  # called with a device
OnHost = Callable[[str, Tensor], bool]


def check_same(run: Run, on_host: OnHost = lambda *_: False, last_bit: bool = True) -> None:
    """Run something on the CPU and, within a pretended device, on that: the same results, and on the device.

    on_host: whether what has this name and value may stay on the host.  last_bit: the same to the last bit.
    """
    with torch._C.DisableTorchFunction():
        cpu = tensors_of(run("cpu"))
    there = tensors_of(run("cuda"))
    assert len(there) > 1
    assert [key for key, value in there.items() if value.device != CUDA and not on_host(key, value)] == []
    there = {key: value.cpu() for key, value in there.items()}
    with torch._C.DisableTorchFunction():
        found = difference(cpu, there)
        if found is None or last_bit:
            assert found is None
        else:
            torch.testing.assert_close(there, cpu, equal_nan=True)
