"""Where arrays live: on the host, or on a CUDA device. Whoever makes, fills or copies an array asks its device.

    device = device_of(a)
    device.full(shape, 0, dtype)      an array there          device.write(a, host_array)     copied in
    device.empty(shape, dtype)        one not filled          device.read(a)                  copied out, as NumPy's

`Device` says what a device answers.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np

from . import slots
from .launch import dense


class Device(Protocol):
    """What a device answers."""

    name: str

    def empty(self, shape: tuple[int, ...], dtype: Any, channels_last: bool = False) -> Any:
        """An array that is not filled. Maps (N, C, *S) may lie channels last where the device knows that."""

    def full(self, shape: tuple[int, ...], value: float, dtype: Any) -> Any:
        """A constant array."""

    def take(self, a: np.ndarray) -> Any:
        """A host array's values here: `a` itself on the host."""

    def read(self, a: Any) -> np.ndarray:
        """A NumPy array with a's values; `a` itself where it is one."""

    def write(self, a: Any, values: np.ndarray) -> None:
        """Copy a host array's values into `a`."""

    def channels_last(self, a: Any) -> bool:
        """Whether the maps `a` lie channels last in memory."""

    def laid_out(self, a: Any, channels_last: bool) -> Any:
        """`a` itself where it is dense in that layout, else a copy that is."""


class Host:
    """NumPy's arrays."""

    name = "host"

    def empty(self, shape: tuple[int, ...], dtype: Any, channels_last: bool = False) -> np.ndarray:
        return slots.empty(shape, dtype, channels_last)

    def full(self, shape: tuple[int, ...], value: float, dtype: Any) -> np.ndarray:
        return np.full(shape, value, dtype)

    def take(self, a: np.ndarray) -> np.ndarray:
        return a

    def read(self, a: Any) -> np.ndarray:
        return np.asarray(a)

    def write(self, a: np.ndarray, values: np.ndarray) -> None:
        a[...] = values

    def channels_last(self, a: np.ndarray) -> bool:
        return slots.is_channels_last(a)

    def laid_out(self, a: np.ndarray, channels_last: bool) -> np.ndarray:
        return dense(a, channels_last)


HOST = Host()


@functools.cache
def cuda() -> Device:
    """The CUDA device. Raises BackendError where there is none."""
    from .cuda_device import CudaDevice

    return CudaDevice()


def is_foreign(a: Any) -> bool:
    """Whether `a` is an array of a CUDA device (no module of CUDA is loaded to know)."""
    return type(a) is not np.ndarray and (hasattr(a, "__cuda_array_interface__") or hasattr(a, "copy_to_host"))


def foreign_signature(a: Any) -> Any:
    """What a plan depends on of an argument that is no NumPy array: a device's, a key of randomness, None. Raises
    TypeError for anything else."""
    if a is None or type(a) is tuple:
        return type(a)
    if is_foreign(a):
        return "cuda", tuple(a.shape), a.dtype
    raise TypeError


def device_of(*arrays: Any) -> Device:
    """Where arrays live: on the CUDA device if one of them does."""
    return cuda() if any(map(is_foreign, arrays)) else HOST


def to_host(a: Any) -> np.ndarray:
    """A NumPy array with a's values; `a` itself where it is one."""
    return device_of(a).read(a)


def to_device(a: Any) -> Any:
    """A copy of an array on the CUDA device. Raises BackendError without a device."""
    return cuda().take(to_host(a))
