"""The CUDA device: arrays on it, made and copied by Numba, which is imported on use."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import numpy as np

from ..errors import BackendError, install_hint


@functools.cache
def numba() -> Any:
    """The module `kernel`, which imports Numba. Raises BackendError where Numba is missing."""
    if importlib.util.find_spec("numba_cuda") is None:
        raise BackendError(f"cuda: numba-cuda is not installed ({install_hint('cuda')})")
    try:
        return importlib.import_module("cnncore.backends.kernel")
    except ImportError as error:
        raise BackendError(f"cuda: Numba cannot be imported: {error}") from error


class CudaDevice:
    """See device.py for what a device answers. Its arrays are C-contiguous. Raises BackendError without a GPU."""

    name = "cuda"

    def __init__(self) -> None:
        self._kernel = numba()
        if not (self._kernel.SIMULATED or self._kernel.cuda.is_available()):
            raise BackendError("cuda: no GPU found (NUMBA_ENABLE_CUDASIM=1 in the environment gives the simulator)")

    def empty(self, shape: tuple[int, ...], dtype: Any, channels_last: bool = False) -> Any:
        return self._kernel.empty(shape, dtype)

    def full(self, shape: tuple[int, ...], value: float, dtype: Any) -> Any:
        return self.take(np.full(shape, value, dtype))

    def take(self, a: np.ndarray) -> Any:
        here = self._kernel.empty(a.shape, a.dtype)
        # Flattened and shaped anew, axes of size 1 get ordinary strides too, which Numba insists on.
        self._kernel.copy(here, np.ravel(a).reshape(a.shape))
        return here

    def read(self, a: Any) -> np.ndarray:
        return np.asarray(self.own(a).copy_to_host())

    def write(self, a: Any, values: np.ndarray) -> None:
        self.own(a).copy_to_device(np.ascontiguousarray(values))

    def channels_last(self, a: Any) -> bool:
        return False

    def laid_out(self, a: Any, channels_last: bool) -> Any:
        return a

    def own(self, a: Any) -> Any:
        """Numba's array; a view where `a` is another library's."""
        return a if hasattr(a, "copy_to_host") else self._kernel.cuda.as_cuda_array(a)
