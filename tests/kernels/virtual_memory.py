"""Virtual memory for kernels at extents that no machine holds: one program runs, and its loads are made up.

Tensors on the meta device stand for the memory. Every address that the program touches must lie in one of them, and what an
element holds is a function of its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from fastgan.kernels.launch import Launcher
from torch import Tensor
from triton.runtime import interpreter

FIRST, STRIDE = 1 << 60, 1 << 44  # of the buffers' addresses: above all real ones, with gaps that no offset leaps
GRID = (2**31 - 1, 65_535, 65_535)  # programs along x, y and z, which a device takes at most
TYPES = {torch.float32: tl.float32, torch.uint8: tl.uint8, torch.int64: tl.int64, torch.int32: tl.int32}
REAL = ("create_masked_load", "create_masked_store", "create_atomic_rmw")
Holds = Callable[[np.ndarray], np.ndarray]


class VirtualMemory(Launcher):
    """A launcher whose launches run their last program alone; `stored` has what it left in each buffer, `loaded` the places."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(torch.device("cpu"))
        self.buffers: list[tuple[Tensor, Holds]] = []
        self.loaded: dict[int, set[int]] = {}
        self.stored: dict[int, dict[int, Any]] = {}
        self.grid: tuple[int, ...] = ()
        builder = interpreter.InterpreterBuilder
        self.real = {name: getattr(builder, name) for name in REAL}
        for name, method in {
            "create_get_program_id": lambda _, axis: self._scalar(self.grid[axis] - 1),
            "create_get_num_programs": lambda _, axis: self._scalar(self.grid[axis]),
            "create_masked_load": self._load,
            "create_masked_store": self._store,
            "create_atomic_rmw": self._atomic,
        }.items():
            monkeypatch.setattr(builder, name, method if name.startswith("create_get") else _bound(method))

    def buffer(self, *size: int, dtype: torch.dtype = torch.float32, holds: Holds = np.zeros_like) -> Tensor:
        """A new buffer; holds: places -> numbers."""
        made = torch.empty(size, dtype=dtype, device="meta")
        self.address(made)
        self.buffers[-1] = (self.buffers[-1][0], holds)
        return made

    def address(self, tensor: Tensor) -> int:
        """Where a tensor begins."""
        number = self.number(tensor)
        return FIRST + number * STRIDE + tensor.storage_offset() * tensor.element_size()

    def number(self, tensor: Tensor) -> int:
        """Which buffer a tensor is a view of."""
        storage = tensor.untyped_storage()._cdata
        for number, (known, _) in enumerate(self.buffers):
            if known.untyped_storage()._cdata == storage:
                return number
        self.buffers.append((tensor, np.zeros_like))
        return len(self.buffers) - 1

    def run(self, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]) -> None:
        assert all(programs <= most for programs, most in zip(grid, GRID, strict=False)), f"no device takes a grid of {grid}"
        self.grid = (*grid, 1, 1)[:3]
        kernel[(1,)](**{name: self._pointer(value) for name, value in arguments.items()}, **options)

    def stores(self, tensor: Tensor) -> dict[int, Any]:
        """What was stored in a tensor's buffer: place -> number."""
        return self.stored.get(self.number(tensor), {})

    def loads(self, tensor: Tensor) -> set[int]:
        """The places of a tensor's buffer that were read."""
        return self.loaded.get(self.number(tensor), set())

    def _pointer(self, argument: Any) -> Any:
        if isinstance(argument, tuple):
            return tuple(map(self._pointer, argument))
        if not isinstance(argument, Tensor) or argument.device.type != "meta":
            return argument
        type_ = tl.pointer_type(TYPES[argument.dtype])
        return tl.tensor(interpreter.TensorHandle(np.array([self.address(argument)], np.uint64), type_), type_)

    @staticmethod
    def _scalar(value: int) -> interpreter.TensorHandle:
        return interpreter.TensorHandle(np.array([value], np.int32), tl.int32)

    def _places(self, addresses: np.ndarray, mask: np.ndarray) -> tuple[int, np.ndarray] | None:
        """The buffer and the places in it of all addresses that the mask lets through; None where these are real memory."""
        addresses, mask = np.broadcast_arrays(addresses, mask.astype(bool))
        touched = addresses[mask].astype(object)
        if len(touched) == 0 or all(address < 1 << 48 for address in touched):
            return None
        number = int(touched[0] - FIRST) // STRIDE
        assert 0 <= number < len(self.buffers), f"an address before all buffers: {touched[0] - FIRST}"
        tensor, _ = self.buffers[number]
        size = tensor.element_size()
        places = np.zeros(addresses.shape, np.int64)
        places[mask] = [(int(address) - FIRST - number * STRIDE) // size for address in touched]
        count = tensor.untyped_storage().nbytes() // size
        assert places.min() >= 0 and places.max() < count, f"places {places.min()} to {places.max()} of {count}"
        return number, places

    def _load(self, builder: Any, ptrs: Any, mask: Any, other: Any, *more: Any) -> Any:
        found = self._places(ptrs.data, mask.data)
        if found is None:
            if not mask.data.any():  # an address may be anything
                ptrs = interpreter.TensorHandle(np.zeros_like(ptrs.data), ptrs.dtype)
            return self.real["create_masked_load"](builder, ptrs, mask, other, *more)
        number, places = found
        type_ = ptrs.get_element_ty()
        inside = np.broadcast_to(mask.data.astype(bool), places.shape)
        self.loaded.setdefault(number, set()).update(places[inside].tolist())
        rest = 0 if other is None else other.data
        return interpreter.TensorHandle(
            np.where(inside, self.buffers[number][1](places), rest).astype(interpreter._get_np_dtype(type_)), type_
        )

    def _store(self, builder: Any, ptrs: Any, value: Any, mask: Any, *more: Any) -> Any:
        found = self._places(ptrs.data, mask.data)
        if found is None:
            return self.real["create_masked_store"](builder, ptrs, value, mask, *more) if mask.data.any() else None
        number, places = found
        inside = np.broadcast_to(mask.data.astype(bool), places.shape)
        values = np.broadcast_to(value.data, places.shape)
        self.stored.setdefault(number, {}).update(zip(places[inside].tolist(), values[inside].tolist(), strict=True))
        return None

    def _atomic(self, builder: Any, operation: Any, ptr: Any, value: Any, mask: Any, *more: Any) -> Any:
        if self._places(ptr.data, mask.data) is None:
            return self.real["create_atomic_rmw"](builder, operation, ptr, value, mask, *more)
        return self._load(builder, ptr, mask, None)


def _bound(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of this module's as one of the builder's, which is then its first argument."""
    return lambda builder, *arguments: method(builder, *arguments)
