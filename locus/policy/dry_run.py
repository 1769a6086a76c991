"""What a pass would hold, before there is any weight: the run's own code on tensors without numbers.

PyTorch's fake tensors have shapes, types and sizes, but no storage. Here weights, activations and pixels are fake;
token ids, masks and positions, on whose numbers shapes depend, stay real. So the code of a run says itself what it
would hold, whatever the architecture, adapters, precision, checkpointing, or split of groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

INDEXED = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)
DEVICE = torch.ops.prim.device.default
"""Asks where a tensor is: half of all calls, and none of them makes a tensor."""


def _tensors(values: Iterable[Any], named: Any = None) -> Iterator[torch.Tensor]:
    """Those among an operation's arguments or outputs, which nest in lists and tuples alone."""
    for value in (*values, *named.values()) if named else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


class DryRun(FakeTensorMode):
    """Inside ``with DryRun():`` what depends on a fake tensor is fake, and all else is computed."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._inside = False
        self._outputs: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._inside:  # what a fake operation is made of
            return super().__torch_dispatch__(func, types, args, kwargs)
        if func is DEVICE:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args)
        if not any(isinstance(tensor, FakeTensor) for tensor in _tensors(args, kwargs)):
            return func(*args, **(kwargs or {}))
        if func in INDEXED:
            args = (args[0], _by_numbers(args[1]), *args[2:])
        self._inside = True
        try:
            if _makes_new(func) and (call := _call(func, args, kwargs)) is not None:
                if call not in self._outputs:
                    self._outputs[call] = _outline(super().__torch_dispatch__(func, types, args, kwargs))
                return self._made(self._outputs[call])
            if _views(func):
                with in_kernel_invocation_manager(self):
                    return self._wrapped(func(*args, **(kwargs or {})))
            return super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._inside = False

    def _made(self, outline: Any) -> Any:
        """Tensors of these shapes, strides and types; lists of them, and None, as they come."""
        if outline is None:
            return None
        if isinstance(outline, list):
            return [self._made(one) for one in outline]
        size, stride, dtype = outline
        return self._wrapped(torch.empty_strided(size, stride, dtype=dtype, device="meta"))

    def _wrapped(self, output: Any) -> Any:
        """Meta tensors as fake ones on the CPU."""
        if isinstance(output, (list, tuple)):
            return [self._wrapped(one) for one in output]
        return FakeTensor(self, output, torch.device("cpu"))

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A fake tensor on the CPU of this one's shape and type."""
        meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        return FakeTensor(self, meta, torch.device("cpu"))

    def fake(self, module: nn.Module) -> None:
        """Makes a module's weights and floating-point buffers fake, in place; tied ones stay tied."""
        made: dict[int, Any] = {}
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    if id(parameter) not in made:
                        made[id(parameter)] = nn.Parameter(self.like(parameter), parameter.requires_grad)
                    part._parameters[name] = made[id(parameter)]
            for name, buffer in part._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    part._buffers[name] = self.like(buffer)


@cache
def _makes_new(func: Any) -> bool:
    """Whether an operation changes nothing, and what it returns shares no memory with what it is given."""
    schema = func._schema
    return not schema.is_mutable and all(one.alias_info is None for one in schema.returns)


@cache
def _views(func: Any) -> bool:
    """Whether an operation changes nothing, and all that it returns is the memory that it is given."""
    schema = func._schema
    return not schema.is_mutable and all(one.alias_info is not None for one in schema.returns)


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation's outputs depend on, as a key; None where that is more than shapes, strides and types."""
    parts: list[Any] = [func]
    for name, value in ((None, args), *(kwargs or {}).items()):
        parts.append(name)
        if not _add(parts, value):
            return None
    return tuple(parts)


def _add(parts: list[Any], value: Any) -> bool:
    if isinstance(value, FakeTensor):
        parts += value.shape, value.stride(), value.dtype
    elif isinstance(value, torch.Tensor):
        return False
    elif isinstance(value, (list, tuple)):
        parts.append(len(value))
        return all(_add(parts, one) for one in value)
    else:
        parts += type(value), value
    return True


def _outline(output: Any) -> Any:
    """What `DryRun._made` makes an output of."""
    if isinstance(output, (list, tuple)):
        return [_outline(one) for one in output]
    return None if output is None else (output.shape, output.stride(), output.dtype)


def _by_numbers(index: Any) -> list[torch.Tensor | None]:
    """An index with the places of real masks in their stead: what a fake tensor's mask selects has no known shape."""
    numbers: list[torch.Tensor | None] = []
    for part in index:
        real_mask = part is not None and part.dtype == torch.bool and not isinstance(part, FakeTensor)
        numbers += part.nonzero().unbind(1) if real_mask else [part]
    return numbers


class PeakBytes(TorchDispatchMode):
    """Inside ``with PeakBytes() as memory``: the most bytes that tensors made here held at one time, in ``peak``.

    Exact, and the same on every machine, unlike a process's memory. What a kernel holds inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._given: dict[int, StorageWeakRef] = {}  # a reference keeps the address from being used again
        self._bound = 0  # of all that live, and of what has died since the last look

    @property
    def held(self) -> int:
        """Bytes now."""
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self._bound = sum(size for _, size in self._live.values())
        return self._bound

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE:
            return func(*args, **(kwargs or {}))
        for tensor in _tensors(args, kwargs):
            if (storage := tensor.untyped_storage())._cdata not in self._live:
                self._given.setdefault(storage._cdata, StorageWeakRef(storage))
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors((output,)):
            if (storage := tensor.untyped_storage())._cdata not in self._given:
                known = self._live.get(storage._cdata)
                self._bound += storage.nbytes() - (known[1] if known else 0)
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        if self._bound > self.peak:
            self.peak = max(self.peak, self.held)
        return output
