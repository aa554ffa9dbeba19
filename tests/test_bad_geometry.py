"""Geometry that cannot be, and sizes beyond every memory: errors that name op and argument."""

from __future__ import annotations

import numpy as np
import pytest
from engines import HOST_BACKENDS
from test_bad_input import POOLS, WINDOWED, backends, ones, refused, windowed

from cnncore.errors import CnncoreError, ShapeError
from cnncore.ops.op import run
from cnncore.ops.records import registry

# --- geometry ---


@backends
@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize(
    ("attrs", "match"),
    [
        ({"kernel": 7}, "kernel 7 with dilation 1 spans 7 elements along spatial axis 0, the padded input has 6"),
        ({"kernel": 3, "dilation": 3}, "kernel 3 with dilation 3 spans 7"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"stride": -1}, "stride must be at least 1, got -1"),
        ({"stride": (1, 0)}, "stride must be at least 1, got 0"),
        ({"dilation": 0}, "dilation must be at least 1"),
        ({"padding": -1}, "padding must be at least 0"),
        ({"padding": ((0, 0), (0, -1))}, "padding must be at least 0"),
        ({"stride": 1.0}, "stride must be an integer, got 1.0"),
        ({"stride": np.float32(1)}, "stride must be an integer"),
        ({"stride": True}, "stride must be an integer, got True"),
        ({"stride": "2"}, "stride must be an integer, got '2'"),
        ({"stride": b"22"}, "stride must be an integer"),
        ({"stride": (1, 1, 1)}, r"stride must have one integer per spatial axis \(2\)"),
        ({"stride": ()}, "stride must have one integer"),
        ({"stride": np.ones((2, 2), int)}, "stride must be an integer"),
        ({"stride": {1, 2}}, "stride must be an integer"),
        ({"dilation": None}, "dilation must be an integer"),
        ({"padding": None}, "padding must be an integer"),
        ({"padding": "same"}, "padding must be an integer"),
        ({"padding": ((1, 2, 3), (0, 0))}, "padding must be an integer"),
        ({"padding": ((1, 2),)}, "padding must have one integer"),
        ({"padding": (0.5, 0)}, "padding must be an integer"),
    ],
    ids=str,
)
def test_geometry(name, attrs, match, backend):
    arrays, attrs = windowed(name, **attrs)
    refused(ShapeError, name, arrays, attrs, backend, match)


@backends
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize(
    ("attrs", "match"),
    [
        ({"kernel": 0}, "kernel must be at least 1"),
        ({"kernel": -3}, "kernel must be at least 1"),
        ({"kernel": None}, "kernel must be an integer"),
        ({"kernel": 2.5}, "kernel must be an integer"),
        ({"kernel": (3, 3, 3)}, "kernel must have one integer"),
        ({"kernel": 1, "padding": 1}, "padding alone"),
        ({"kernel": 2, "padding": 2}, "padding alone"),
        ({"kernel": 2, "padding": ((0, 2), (0, 0))}, "along spatial axis 0 .*padding alone"),
        ({"kernel": 2, "padding": ((0, 0), (0, 3))}, "along spatial axis 1 .*padding alone"),
        ({"kernel": 2, "dilation": 7, "padding": 7, "stride": 1}, "padding alone"),
        ({"ceil_mode": 1}, "ceil_mode must be True or False"),
        ({"ceil_mode": "no"}, "ceil_mode must be True or False"),
        ({"ceil_mode": None}, "ceil_mode must be True or False"),
    ],
    ids=str,
)
def test_pooling_geometry(name, attrs, match, backend):
    arrays, attrs = windowed(name, **attrs)
    refused(CnncoreError, name, arrays, attrs, backend, match)


HUGE = [2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63, 2**64 + 1, 10**30]


@backends
@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("attribute", ["kernel", "stride", "dilation", "padding"])
@pytest.mark.parametrize("name", WINDOWED)
def test_huge_geometry_is_computed_or_refused(name, attribute, value, backend):
    """A stride of 2^31 - 1 is fine on six pixels (one window); a number that would wrap is refused by name."""
    if name == "conv" and attribute == "kernel":
        x = ones(1, 1, 6)
        w = np.broadcast_to(np.float32(1), (1, 1, min(value, 2**45)))
        return refused(ShapeError, name, (x, w), {}, backend, "kernel")
    arrays, attrs = windowed(name, **{attribute: value})
    if attribute == "stride" and value < 2**31:
        y, ctx = run(registry[name], arrays, attrs, backend)
        assert y.shape[2:] == (1, 1) and ctx.backward(np.ones_like(y))[0].shape == arrays[0].shape
    else:
        refused(ShapeError, name, arrays, attrs, backend, f"{attribute}|too many elements")
    return None


@backends
@pytest.mark.parametrize("name", WINDOWED)
def test_huge_dilation_of_a_single_tap(name, backend):
    arrays, attrs = windowed(name, kernel=1, dilation=2**31 - 1, stride=1)
    y, ctx = run(registry[name], arrays, attrs, backend)
    assert y.shape[2:] == (6, 6)
    assert ctx.backward(np.ones_like(y))[0].shape == arrays[0].shape


def endless(*shape):
    """An array of any size in four bytes."""
    return np.broadcast_to(np.float32(1), shape)


ENDLESS = [
    ("relu", (endless(2**40),), {}),
    ("relu", (endless(2**20, 2**20),), {}),
    ("softmax", (endless(2**20, 2**20),), {}),
    ("dropout", (endless(2**40), endless(2**40)), {}),
    ("dropout", (endless(2**40), (1, 2)), {}),
    ("add", (endless(2**40), endless(2**40)), {}),
    ("concat", (endless(1, 2**31), endless(1, 2**31), endless(1, 2**45)), {}),
    ("concat", (endless(0, 2**59), endless(0, 2**59)), {}),
    ("linear", (endless(2**21, 1), endless(2**21, 1)), {}),
    ("linear", (endless(2**31, 1), endless(2**31, 1)), {}),
    ("conv", (endless(1, 1, 2**40), endless(1, 1, 2)), {}),
    ("conv", (endless(1, 1, 2**20, 2**20), endless(2**10, 1, 1, 1)), {}),
    ("conv", (endless(2**15, 2**15, 2**15), endless(2**15, 2**15, 1)), {}),
    ("conv", (endless(1, 1, 4, 4, 4), endless(1, 1, 1, 1, 1)), {"padding": 2**30}),
    ("conv", (endless(1, 1, 4, 4), endless(1, 1, 1, 1)), {"padding": 2**20}),
    ("max_pool", (endless(1, 1, 2**20, 2**20),), {"kernel": 2}),
    ("avg_pool", (endless(2**20, 2**20, 4),), {"kernel": 2}),
    ("softmax_cross_entropy", (endless(1, 2**40), np.array([0])), {}),
    ("sgd_step", (endless(2**40),) * 3, {"lr": 0.1}),
    ("adam_step", (endless(2**40),) * 4, {"lr": 0.1, "step": 1}),
]


@backends
@pytest.mark.parametrize(("name", "arrays", "attrs"), ENDLESS, ids=lambda v: v if isinstance(v, str) else "")
def test_sizes_beyond_memory(name, arrays, attrs, backend):
    """Terabytes asked for with a few bytes: a clear error, before anything is touched."""
    refused(CnncoreError, name, arrays, attrs, backend, "too many elements|out of memory")


@pytest.mark.parametrize("backend", HOST_BACKENDS)
def test_an_index_beyond_2_to_31(backend):
    """Results whose count passes 2^31 in a product of sizes, though nothing is large: no 32-bit product anywhere."""
    x = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 12)
    y, ctx = run(registry["max_pool"], (x,), {"kernel": 2, "dilation": 11, "stride": 2**31 - 1}, backend)
    assert y.tolist() == [[[12.0]]]
    assert ctx.backward(np.ones_like(y))[0].nonzero()[2].tolist() == [11]
    labels = np.zeros(0, np.int64)
    y, _ = run(registry["softmax_cross_entropy"], (np.zeros((0, 2**33), np.float32), labels), {}, backend)
    assert y == 0
