"""CUDA: what is missing, what lives on the device, and the table of kernels."""

import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from test_cuda import agree, normal

import cnncore as cc
from cnncore.backends import cuda, cuda_device, kernel, select
from cnncore.backends.device import is_foreign, to_device, to_host
from cnncore.errors import BackendError, CnncoreError, install_hint

# --- what is missing ---


def test_an_op_without_kernels_is_refused(monkeypatch):
    backend = select.load("cuda")
    monkeypatch.delitem(backend._table, "relu")
    with pytest.raises(BackendError, match=r"relu.*no kernel"):
        cc.ops.relu(normal(3), backend="cuda")
    monkeypatch.setitem(backend._table, "softmax", (backend._table["softmax"][0], None))
    with pytest.raises(BackendError, match=r"softmax.*no backward kernel"):
        cc.ops.softmax(normal(3, 3), backend="cuda")


def test_without_numba_or_a_gpu_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(cuda_device.importlib.util, "find_spec", lambda name: None)
    cuda_device.numba.cache_clear()
    with pytest.raises(BackendError, match=re.escape(f"not installed ({install_hint('cuda')})")):
        cuda.CudaBackend()
    code = "from cnncore.backends import select; print(select.why_not('cuda'))"
    hidden = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", code], env=hidden, capture_output=True, text=True, timeout=120)
    assert "no GPU found (NUMBA_ENABLE_CUDASIM=1" in done.stdout, done.stderr


def test_a_wrong_label_is_an_error_not_a_wild_read():
    with pytest.raises(CnncoreError, match=r"labels must lie in \[0, 3\)"):
        cc.ops.softmax_cross_entropy(to_device(normal(2, 3)), to_device(np.array([0, 3])))


@pytest.mark.parametrize(
    "make", [lambda net: cc.optim.SGD(net, 0.1, momentum=0.9), lambda net: cc.optim.Adam(net, 0.1)]
)
def test_an_optimiser_s_state_lives_where_its_parameter_lives(make):
    nets = [cc.Sequential(cc.layers.Linear(3, 2, seed=1), cc.layers.Tanh()) for _ in range(2)]
    for parameter in nets[1].parameters().values():
        parameter.value = to_device(parameter.value)
    optimizers = [make(net) for net in nets]
    x = normal(4, 3).astype(np.float32)
    for _ in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            net.zero_grad()
            y, ctx = net.apply(x)
            ctx.backward(np.ones_like(to_host(y)))
            optimizer.step()
    for name, state in optimizers[1].state.items():
        assert all(is_foreign(a) for a in (*state, nets[1].parameters()[name].value))
        for got, expected in zip(state, optimizers[0].state[name], strict=True):
            agree(to_host(got), expected, name)
    for got, expected in zip(nets[1].state_dict().values(), nets[0].state_dict().values(), strict=True):
        agree(got, expected, "value")
    held = optimizers[1].state_dict()
    optimizers[1].load_state_dict(held)
    assert all(is_foreign(a) for state in optimizers[1].state.values() for a in state)


def test_calls_on_device_arrays_have_plans():
    x = to_device(normal(2, 3))
    relu = cc.ops.relu.op
    relu.plans.clear()
    first, second = cc.ops.relu(x)[1], cc.ops.relu(x)[1]
    assert first.plan is second.plan and first.backend == "cuda" and len(relu.plans) == 1
    assert cc.ops.relu(normal(2, 3))[1].backend != "cuda"


# --- the kernel table ---


def test_every_kernel_names_its_types_and_has_a_name_of_its_own():
    names = [k.name for k in kernel.KERNELS]
    assert len(names) == len(set(names))
    for k in kernel.KERNELS:
        assert len(k.types) == len(inspect.signature(k.function).parameters), k.name


def test_scalars_reach_kernels_in_the_type_they_are_compiled_for():
    """A float64 scalar would make a float32 kernel another kernel, and compute in float64."""
    seen = []

    @kernel.kernel
    def probe(y: kernel.Float1, s: kernel.Real, n: kernel.Int) -> None:
        seen.append((s, n))

    compiled = {}
    try:
        probe._compiled = type("Spy", (), {"__getitem__": lambda self, launch: lambda *a: compiled.update(args=a)})()
        probe.over(1, to_device(np.zeros(1, np.float32)), 0.1, np.int64(3))
    finally:
        kernel.KERNELS.remove(probe)
    _, s, n = compiled["args"]
    assert type(s) is np.float32 and type(n) is int


def test_out_on_the_device_is_not_for_host_backends():
    out = (to_device(np.zeros(3)),)
    for backend in ("numpy", "c"):
        with pytest.raises(BackendError, match="out for y is on the CUDA device"):
            cc.ops.relu(np.ones(3), backend=backend, out=out)
