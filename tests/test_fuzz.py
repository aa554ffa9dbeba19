"""Anything at all, for any attribute and any array, on every host backend: an answer or a CnncoreError."""

from __future__ import annotations

import numpy as np
import pytest
from engines import HOST_BACKENDS
from hypothesis import given
from hypothesis import strategies as st
from strategies import HypothesisDraw, cast, examples

from cnncore.errors import CnncoreError
from cnncore.ops.op import run
from cnncore.ops.records import registry

backends = pytest.mark.parametrize("backend", HOST_BACKENDS)
OPS = list(registry)
HUGE = [2**31, 2**32 + 1, 2**62, 2**63, 2**64 + 1, 10**30]

NUMBER = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 7, *HUGE, 0.5, -0.0, 1e308, float("nan"), float("inf"), True])
JUNK = st.one_of(
    NUMBER,
    st.lists(NUMBER, max_size=4),
    st.tuples(NUMBER, NUMBER),
    st.tuples(st.tuples(NUMBER, NUMBER), st.tuples(NUMBER, NUMBER)),
    st.sampled_from(["", "mean", "same", b"", None, {}, set(), object(), 1j, np.zeros(2), np.zeros((2, 2), int)]),
    st.sampled_from([np.int8(3), np.float16(2), np.array(1), np.array([1, 2]), slice(None), Ellipsis, range(2)]),
)


@backends
@pytest.mark.parametrize("name", OPS)
@examples(60)
@given(data=st.data())
def test_garbage_attributes(name, backend, data):
    """Any value for any attribute: an answer or a CnncoreError, nothing else."""
    op = registry[name]
    case = op.domain(HypothesisDraw(data, spread=1))
    names = ["kernel", "stride", "padding", "dilation", "ceil_mode"] if "kernel" in case.attrs else []
    attribute = data.draw(st.sampled_from(sorted({*case.attrs, *names, "p", "axis", "groups", "out"})))
    attrs = {**case.attrs, attribute: data.draw(JUNK)}
    out = attrs.pop("out", None)
    try:
        with np.errstate(all="ignore"):
            y, ctx = run(op, cast(op, case, np.float32), attrs, backend, out)
            if op.backward is not None:
                ctx.backward(np.ones_like(y))
    except CnncoreError as error:
        assert str(error).startswith(f"{name}: ")


@backends
@pytest.mark.parametrize("name", OPS)
@examples(60)
@given(data=st.data())
def test_garbage_arrays(name, backend, data):
    """Arrays of other shapes and types than those expected: an answer or a CnncoreError."""
    op = registry[name]
    case = op.domain(HypothesisDraw(data, spread=1))
    arrays = list(cast(op, case, np.float32))
    i = data.draw(st.integers(0, len(arrays) - 1))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=5)))
    kind = data.draw(st.sampled_from([np.float32, np.float32, np.float64, np.int64, bool]))
    arrays[i] = data.draw(st.sampled_from([np.ones(shape, kind), None, (1, 2), np.float32(1), np.bool_(True)]))
    try:
        with np.errstate(all="ignore"):
            y, ctx = run(op, tuple(arrays), case.attrs, backend)
            if op.backward is not None:
                ctx.backward(np.ones_like(y))
    except CnncoreError as error:
        assert str(error).startswith(f"{name}: ")
