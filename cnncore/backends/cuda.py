"""The CUDA backend: device arrays, and who launches what. Kernels: cnncore/ops/*_cuda.py. Numba is imported on use.

NumPy arrays are copied to the device and results come back as NumPy arrays. Arrays made by `to_device` stay there, and
so does everything computed from them, so that a network can live on the device: results are device arrays as soon as
one argument (other than the randomness) is. Kernels take C-contiguous arrays; others are copied once, on entry.

Without a GPU, NUMBA_ENABLE_CUDASIM=1 in the environment (before Numba is imported) gives NVIDIA's simulator.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..errors import BackendError
from . import device
from .cuda_device import numba
from .device import is_foreign, to_device

# Each enters its ops in a TABLE: name -> (forward(params, results, *arrays), backward(params, needs, dy, *saved)).
# Forward fills results; backward returns a new array, or None, for every array argument.
FILES = (
    "contrast_cuda", "conv_cuda", "dense_cuda", "norm_cuda", "pointwise_cuda", "pool_cuda", "pool_power_cuda",
    "steps_cuda", "units_cuda",
)  # fmt: skip

Arrays = tuple[Any, ...]


def load_tables() -> dict[str, tuple[Callable[..., None], Callable[..., Arrays] | None]]:
    """Every op's kernels. Imports Numba; raises BackendError where it is missing."""
    numba()
    modules = [importlib.import_module(f"cnncore.ops.{file}") for file in FILES]
    return {name: pair for module in modules for name, pair in module.TABLE.items()}


class CudaBackend:
    """See select.py for what a backend is. Raises BackendError where there is no Numba, and no GPU or simulator."""

    name = "cuda"
    on_device = True

    def __init__(self) -> None:
        self._table = load_tables()
        self.device: Any = device.cuda()  # raises where there is none
        self.simulated = numba().SIMULATED

    def missing(self, op: Any) -> str | None:
        if op.kernel not in self._table:
            return f"no kernels for {op.name!r}"
        if op.backward is not None and self._table[op.kernel][1] is None:
            return f"no backward kernel for {op.name!r}"
        return None

    def channels_last(self, arrays: Arrays, roles: Any) -> bool:
        return False

    def prepare(self, plan: Any) -> None:
        return None

    def forward(self, plan: Any, arrays: Arrays, out: Any = None, numbers: Any = None) -> Arrays:
        op, spec = plan.op, plan.spec
        stay = any(is_foreign(a) for a, role in zip(arrays, plan.roles, strict=True) if not role.drawn)
        inputs = tuple(self._enter(a) for a in arrays)
        targets = (*(out or ()), *(None,) * (len(spec.results) - len(out or ())))
        results = []
        for target, (shape, kind) in zip(targets, spec.results.values(), strict=True):
            if target is not None and is_foreign(target) and not target.is_c_contiguous():
                raise BackendError(f"{op.name}: out on the device must be C-contiguous, has strides {target.strides}")
            ours = op.elementwise and any(target is a for a in inputs)
            results.append(target if ours else self.device.empty(shape, plan.dtype if kind is None else kind))
        self._table[op.kernel][0](plan.params(numbers), tuple(results), *inputs)
        return tuple(self._leave(r, stay, target) for r, target in zip(results, targets, strict=True))

    def backward(self, plan: Any, needs: tuple[bool, ...], dys: Arrays, saved: Arrays, spare: bool = False) -> Arrays:
        stay = any(is_foreign(a) for a in (*dys, *saved))
        compute = self._table[plan.op.kernel][1]
        if compute is None:  # run() never asks: such an op has no gradient
            raise BackendError(f"{plan.op.name}: no backward kernel")
        grads = compute(plan.spec.params, needs, *(self._enter(a) for a in (*dys, *saved)))
        return tuple(None if grad is None else self._leave(grad, stay, None) for grad in grads)

    def uniform(self, key: tuple[int, int], shape: tuple[int, ...], dtype: Any) -> Any:
        """A device array; `forward` does not take it for a sign that the network lives on the device."""
        from .philox_cuda import uniform

        return uniform(key, shape, dtype)

    random = uniform

    def _enter(self, a: Any) -> Any:
        """An argument as kernels take it: on the device, C-contiguous."""
        if a is None:
            return None
        if is_foreign(a):
            a = self.device.own(a)
            return a if a.is_c_contiguous() else to_device(a)
        return to_device(a)

    def _leave(self, result: Any, stay: bool, target: Any) -> Any:
        """A result where the caller wants it: in `target`, on the device, or as a NumPy array."""
        if target is result:
            return target
        if target is None:
            return result if stay else result.copy_to_host()
        if is_foreign(target):
            numba().copy(target, result)
        else:
            target[...] = result.copy_to_host()
        return target
