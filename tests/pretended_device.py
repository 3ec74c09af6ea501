"""A pretended accelerator: tensors that say `cuda:0`, hold their numbers on the CPU, and refuse to be mixed.

Inside `pretended_device()` torch handles devices as if there were a CUDA device: what is made on it or moved to it
stays there, and what a real one refuses raises in the same words. The numbers are the CPU's, to the bit, so that a run
on the pretended device can be compared with the same run on the CPU. It refuses, as CUDA does in torch 2.4 and newer:

- operations on tensors of both devices, but for copies, a CPU number (0 dimensions) in an elementwise operation of two,
  and CPU indices into a device tensor
- NumPy views of device tensors before `.cpu()`, and matrix products of whole numbers
- drawing on one device with the generator of another, and setting a generator to a state of another kind

It counts `reads`: how often values went from the device to the host, where a real one waits for all that was queued.

What no pretence shows: speed; kernels that add in another order, or in an order that changes from run to run; the other
numbers that CUDA's generator draws; more operations and dtypes without a CUDA kernel; memory; several devices.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PLACES = (str, torch.device)  # what may name a device
ANSWERS = {"device": CUDA, "is_cpu": False, "is_cuda": True}
OF_ONE = {"__get__", "size", "dim", "__len__"}  # ask one tensor
UNTOUCHED = {"_parse_to", "_has_compatible_shallow_copy_type"}  # of nn.Module.to
COPIES = {"copy_", "to", "type_as", "tensor", "as_tensor", "asarray"}
NUMBERS = {"where", "masked_fill", "masked_fill_", "index_fill", "index_fill_", "full_like"}  # take any CPU numbers
NO_NUMBERS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "equal", "searchsorted", "bucketize", "isin"}
PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "addmm", "einsum"}
NO_NUMBERS |= PRODUCTS | {"gather", "index_select", "repeat_interleave"}
BY_INDEX = {"__getitem__", "__setitem__", "index_put", "index_put_"}
READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "equal", "allclose"}
READS |= {"nonzero", "masked_select", "unique", "unique_consecutive", "bincount"}  # the result's size is a value
READS |= {"linalg_cholesky", "linalg_inv", "linalg_solve", "linalg_eigh", "inverse"}  # ask whether it went well


class OnDevice(Tensor):
    """A tensor of the pretended device: an ordinary one underneath, told apart by its class."""


class PretendedGenerator(torch.Generator):
    """A CPU generator that reports the device it was made for. States fit generators of the same kind of device."""

    def __new__(cls, device: Any = "cpu") -> "PretendedGenerator":
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.place

    def get_state(self) -> Tensor:
        state = super().get_state()
        return state if self.place == CPU else torch.cat([state, state[:1]])

    def set_state(self, new_state: Tensor) -> "PretendedGenerator":
        if isinstance(new_state, OnDevice):
            raise TypeError("expected a torch.ByteTensor, but got torch.cuda.ByteTensor")
        if len(new_state) != len(self.get_state()):
            raise RuntimeError("RNG state is wrong size")
        super().set_state(new_state[: len(super().get_state())])
        return self


class PretendedDevice(TorchFunctionMode):
    """Sees every call of torch from Python before torch does."""

    reads = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if func is torch.device or name in UNTOUCHED:
            return func(*args, **kwargs)
        if name == "__get__" and type(args[0]) is OnDevice:
            attribute = getattr(func.__self__, "__name__", "")  # type: ignore[attr-defined]
            if attribute in ANSWERS:
                return ANSWERS[attribute]
        if name == "__deepcopy__" and type(args[0]) is OnDevice:
            return _deep_copy(*args)
        tensors = args[:1] if name in OF_ONE else list(_tensors([args, kwargs]))
        there = [value for value in tensors if isinstance(value, OnDevice)]
        _refuse(name, args, tensors, len(tensors) - len(there))
        target = _target(name, args, kwargs, bool(there))
        for generator in (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator)):
            if generator.device.type != target.type:
                raise RuntimeError(
                    f"Expected a '{target.type}' device type for generator but found '{generator.device.type}'"
                )
        self.reads += bool(there) and (name in READS or target == CPU or _reads_mask(name, args))
        args = tuple(CPU if _is_cuda(value) else value for value in args)
        kwargs = {key: CPU if _is_cuda(value) else value for key, value in kwargs.items() if key != "pin_memory"}
        with torch._C.DisableTorchFunctionSubclass():
            return _placed(func(*args, **kwargs), target, copy=not (args and isinstance(args[0], OnDevice)))


@contextmanager
def pretended_device() -> Iterator[PretendedDevice]:
    """Let torch have the device `cuda` for a while."""
    replaced = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a moved parameter is a new object
    try:
        with (
            patch.object(torch, "Generator", PretendedGenerator),
            torch.backends.cudnn.flags(enabled=False),  # a GRU would warn that it is not there
            PretendedDevice() as device,
        ):
            yield device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaced)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def _is_cuda(value: Any) -> bool:
    return type(value) in PLACES and str(value) in ("cuda", "cuda:0")


def _target(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], there: bool) -> torch.device:
    """Return where the result of a call is."""
    for value in (kwargs.get("device"), *(args[1:] if name == "to" else ())):
        if type(value) in PLACES:
            return CUDA if _is_cuda(value) else CPU
    if name == "cpu" or (name in ("tensor", "as_tensor", "asarray") and not isinstance(args[0], Tensor)):
        return CPU
    deciding = args[1] if name in ("to", "type_as") and isinstance(args[1], Tensor) else args[0] if args else None
    if name in COPIES | BY_INDEX and isinstance(deciding, Tensor):
        return CUDA if isinstance(deciding, OnDevice) else CPU
    return CUDA if there else CPU


def _refuse(name: str, args: tuple[Any, ...], tensors: list[Tensor], elsewhere: int) -> None:
    """Raise what a real device raises. elsewhere: how many of the tensors are on the CPU."""
    if name in ("numpy", "__array__") and elsewhere == 0:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory."
        )
    if name in PRODUCTS and elsewhere < len(tensors) and not tensors[0].is_floating_point():
        raise RuntimeError("\"addmm_cuda\" not implemented for 'Long'")
    if elsewhere in (0, len(tensors)) or name in COPIES:
        return
    mine = type(tensors[0]) is OnDevice
    if name in BY_INDEX:
        index, value = list(_tensors([args[1]])), list(_tensors(args[2:]))
        if not mine and any(isinstance(i, OnDevice) and i.dim() for i in index):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        mixed = bool(index) and any(isinstance(v, OnDevice) != mine and v.dim() for v in value)
    else:
        few = name in NUMBERS or (len(tensors) == 2 and name not in NO_NUMBERS)
        onto_cpu = name.endswith("_") and not name.endswith("__") and not mine
        mixed = not few or onto_cpu or any(not isinstance(v, OnDevice) and v.dim() for v in tensors)
    if mixed:
        places = ", ".join(f"{'cuda:0' if isinstance(v, OnDevice) else 'cpu'} {list(v.shape)}" for v in tensors)
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({name} of {places})"
        )


def _reads_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call selects by booleans: how many there are is a value."""
    return name == "__getitem__" and any(index.dtype == torch.bool for index in _tensors([args[1]]))


def _placed(result: Any, target: torch.device, copy: bool) -> Any:
    """Return a result as tensors of the target device. copy: it may share memory with a tensor of the CPU."""
    if isinstance(result, (tuple, list)) and not isinstance(result, torch.Size):
        return type(result)(_placed(value, target, copy) for value in result)
    if not isinstance(result, Tensor) or isinstance(result, OnDevice) == (target == CUDA):
        return result
    if target == CPU:
        return result.clone().as_subclass(Tensor)
    if result.is_leaf and result.requires_grad:
        return result.detach().clone().as_subclass(OnDevice).requires_grad_()
    return (result.clone() if copy else result).as_subclass(OnDevice)


def _deep_copy(tensor: OnDevice, memo: dict[int, Any]) -> OnDevice:
    if id(tensor) not in memo:
        with torch._C.DisableTorchFunctionSubclass():
            made = tensor.detach().clone().as_subclass(OnDevice).requires_grad_(tensor.requires_grad)
        made.__dict__.update(tensor.__dict__)  # whether it is a parameter
        memo[id(tensor)] = made
    return memo[id(tensor)]
