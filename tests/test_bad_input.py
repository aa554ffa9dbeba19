"""What a user can get wrong, for every op on every host backend: an error that names the op and the argument.

Never a crash, a hang, a wrapped size, or a silently different answer. What is unusual but right (an empty batch, NaN,
Inf) works. Every error is a CnncoreError; the texts are checked for the names they must hold.
"""

from __future__ import annotations

import numpy as np
import pytest
from engines import HOST_BACKENDS
from strategies import DTYPES, cast

import cnncore as cc
from cnncore.errors import BackendError, CnncoreError, DTypeError, ShapeError
from cnncore.ops.domain import Draw
from cnncore.ops.op import run
from cnncore.ops.records import registry
from cnncore.ops.roles import DENSE, INDEX, MAP, RANDOM

OPS = list(registry)
WINDOWED = ["conv", "max_pool", "avg_pool"]
POOLS = ["max_pool", "avg_pool"]
backends = pytest.mark.parametrize("backend", HOST_BACKENDS)


def good(name, seed=3, dtype=np.float32):
    """A right call to spoil: (op, arrays, attributes)."""
    op = registry[name]
    case = op.domain(Draw(seed))
    return op, list(cast(op, case, dtype)), dict(case.attrs)


def windowed(name, shape=(1, 2, 6, 6), **attrs):
    """Arrays and attributes of a call with a 3x3 kernel (or the one in attrs)."""
    kernel = attrs.pop("kernel", 3)
    x = np.ones(shape, np.float32)
    if name != "conv":
        return (x,), {"kernel": kernel, **attrs}
    return (x, np.ones((2, shape[1], *(kernel,) * (len(shape) - 2)), np.float32)), attrs


def refused(error, name, arrays, attrs, backend, match=""):
    with pytest.raises(error, match=rf"(?s)^{name}: .*{match}"):
        run(registry[name], tuple(arrays), attrs, backend)


def arguments(role_wanted=None):
    """(op, index) of every array argument, or of those with one role."""
    return [
        pytest.param(name, i, id=f"{name}-{argument}")
        for name in OPS
        for arrays in [good(name)[1]]
        for i, (argument, role) in enumerate(
            zip(registry[name].names(tuple(arrays)), registry[name].roles(tuple(arrays)), strict=True)
        )
        if role_wanted is None or role in role_wanted
    ]


# --- types ---


class Pretender:
    """Has a shape and a dtype, and is no array."""

    shape, dtype, ndim = (2, 2, 4, 4), np.dtype(np.float32), 4


NOT_ARRAYS = [
    [[1.0, 2.0]], 3.0, "text", b"bytes", {}, {1.0}, object(), Pretender(), np.ma.masked_array([1.0], [True]),
    np.zeros((1, 1)).view(np.matrix), memoryview(b"abcd"), range(3), lambda: 0, np.float32,
]  # fmt: skip


@backends
@pytest.mark.parametrize(("name", "i"), arguments())
def test_what_is_no_array(name, i, backend):
    op, arrays, attrs = good(name)
    for wrong in NOT_ARRAYS:
        arrays[i] = wrong
        refused(DTypeError, name, arrays, attrs, backend, f"{op.names(tuple(arrays))[i]} must be a NumPy array")


WRONG_DTYPES = [
    np.int32, np.int64, np.uint8, bool, np.complex64, np.complex128, np.float16, np.longdouble, object, "U3", "S3",
    "datetime64[s]", ">f4", ">f8", [("a", np.float32)],
]  # fmt: skip


@backends
@pytest.mark.parametrize(("name", "i"), arguments((MAP, DENSE, RANDOM)))
def test_dtypes_that_are_not_float32_or_float64(name, i, backend):
    op, arrays, attrs = good(name)
    shape = (3,) if arrays[i] is None else arrays[i].shape
    for dtype in WRONG_DTYPES:
        arrays[i] = np.zeros(shape, dtype)
        refused(DTypeError, name, arrays, attrs, backend, f"{op.names(tuple(arrays))[i]} must be float32 or float64")


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool, np.complex64, object, ">i4", "datetime64[s]"], ids=str)
@pytest.mark.parametrize(("name", "i"), arguments((INDEX,)))
def test_labels_that_are_no_integers(name, i, dtype, backend):
    op, arrays, attrs = good(name)
    arrays[i] = np.zeros(arrays[i].shape, dtype)
    refused(DTypeError, name, arrays, attrs, backend, f"{op.names(tuple(arrays))[i]} must hold integers")


@backends
@pytest.mark.parametrize(("name", "i"), arguments((MAP, DENSE, RANDOM)))
def test_mixed_dtypes(name, i, backend):
    """Any one argument in float64 among float32 ones (a second array is added where an op takes many)."""
    op, arrays, attrs = good(name)
    arrays += [arrays[0]] if op.variadic else []
    if arrays[i] is None:
        arrays[i] = np.ones(3, np.float32)
    arrays[i] = arrays[i].astype(np.float64)
    if sum(a is not None and a.dtype.kind == "f" for a in arrays) > 1:
        refused(DTypeError, name, arrays, attrs, backend, "all must be the same")


@backends
@pytest.mark.parametrize("name", OPS)
def test_required_arrays(name, backend):
    op, arrays, attrs = good(name)
    refused(CnncoreError, name, [], attrs, backend)
    refused(DTypeError, name, [None, *arrays[1:]], attrs, backend, "must be a NumPy array, got None")
    if not op.variadic:
        refused(CnncoreError, name, [*arrays, arrays[0]], attrs, backend, "takes")


@backends
@pytest.mark.parametrize("name", OPS)
def test_too_many_axes(name, backend):
    op, arrays, attrs = good(name)
    arrays[0] = np.zeros((1,) * 6, np.float32)
    refused(ShapeError, name, arrays, attrs, backend, f"{op.names(tuple(arrays))[0]} has 6 axes")


# --- shapes ---


@backends
@pytest.mark.parametrize("shape", [(), (3,), (3, 3)])
@pytest.mark.parametrize("name", WINDOWED)
def test_wrong_rank(name, shape, backend):
    arrays, attrs = windowed(name)
    refused(ShapeError, name, (np.ones(shape, np.float32), *arrays[1:]), attrs, backend, "x must be")


def ones(*shape):
    return np.ones(shape, np.float32)


SHAPES = [
    ("conv", (ones(1, 2, 5), ones(3, 2, 2, 2)), {}, "w must be"),
    ("conv", (ones(1, 2, 5), ones(3, 2)), {}, "w must be"),
    ("conv", (ones(1, 3, 5), ones(3, 2, 2)), {}, "w has 2 input channels per group, x has 3 with groups=1"),
    ("conv", (ones(1, 4, 5), ones(3, 2, 2)), {"groups": 2}, r"output channels \(3\)"),
    ("conv", (ones(1, 0, 5), ones(3, 0, 2)), {}, "C=0"),
    ("conv", (ones(1, 2, 5), ones(0, 2, 2)), {}, "output channels"),
    ("conv", (ones(1, 2, 5), ones(3, 2, 0)), {}, "kernel must be at least 1"),
    ("conv", (ones(1, 2, 0), ones(3, 2, 1)), {}, "kernel 1"),
    ("conv", (ones(1, 2, 5), ones(3, 2, 2), ones(2)), {}, "b must have shape"),
    ("conv", (ones(1, 2, 5), ones(3, 2, 2), ones(3, 1)), {}, "b must have shape"),
    ("conv", (ones(1, 2, 5), ones(3, 2, 2), ones()), {}, "b must have shape"),
    ("max_pool", (ones(1, 2, 0),), {"kernel": 1}, "kernel 1"),
    ("avg_pool", (ones(1, 2, 0, 4),), {"kernel": 1, "padding": (1, 0)}, "padding alone"),
    ("linear", (ones(2, 3), ones(4, 2)), {}, "w has 2 input features"),
    ("linear", (ones(2), ones(4, 2)), {}, "x must be"),
    ("linear", (ones(2, 0), ones(4, 0)), {}, "w has 0"),
    ("linear", (ones(2, 3), ones(0, 3)), {}, "w has 3"),
    ("linear", (ones(2, 3), ones(4, 3), ones(3)), {}, "b must have shape"),
    ("softmax", (ones(3),), {}, r"x must be an array with an axis 1, got shape \(3,\); name one from -1 to 0"),
    ("softmax", (ones(3, 2),), {"axis": 2}, "axis 2"),
    ("softmax", (ones(3, 2),), {"axis": -3}, "axis -3"),
    ("softmax", (ones(3, 2),), {"axis": 6}, "axis 6"),
    ("softmax", (ones(3, 2),), {"axis": -6}, "axis must be at least -5"),
    ("softmax", (ones(3, 2),), {"axis": 0.0}, "axis must be an integer"),
    ("softmax", (ones(3, 2),), {"axis": True}, "axis must be an integer"),
    ("softmax", (ones(),), {}, "x must be an array with an axis 1, got shape"),
    ("softmax", (ones(0, 3),), {"axis": 0}, "x must be of length 1 at least along axis 0"),
    ("softmax", (ones(3, 0),), {}, "x must be"),
    ("softmax_cross_entropy", (ones(3), np.array([0, 0, 0])), {}, "logits must be"),
    ("softmax_cross_entropy", (ones(3, 0), np.array([0, 0, 0])), {}, "logits must be"),
    ("softmax_cross_entropy", (ones(3, 2), np.array([0, 0])), {}, "labels must have shape"),
    ("softmax_cross_entropy", (ones(3, 2), np.zeros((3, 1), int)), {}, "labels must have shape"),
    ("softmax_cross_entropy", (ones(3, 2), np.array([0, 1, 2])), {}, r"labels must lie in \[0, 2\), got 2 at index 2"),
    ("softmax_cross_entropy", (ones(3, 2), np.array([0, -1, 1])), {}, "got -1 at index 1"),
    ("softmax_cross_entropy", (ones(1, 2), np.array([2**63 + 1], np.uint64)), {}, f"got {2**63 + 1}"),
    ("softmax_cross_entropy", (ones(1, 2), np.array([-(2**63)])), {}, "labels must lie"),
    ("dropout", (ones(3, 2), ones(2, 3) / 2), {}, "u must have shape"),
    ("dropout", (ones(3, 2), ones() / 2), {}, "u must have shape"),
    ("add", (ones(3, 2), ones(3, 1)), {}, "xs1 must have the shape of xs0"),
    ("add", (ones(3, 2), ones(2)), {}, "xs1 must have the shape of xs0"),
    ("concat", (ones(3, 2), ones(2, 2)), {}, "xs1 must have the shape of xs0"),
    ("concat", (ones(3, 2), ones(3, 2, 1)), {}, "xs1 must have the shape of xs0"),
    ("concat", (ones(),), {"axis": 0}, "axis must be below"),
    ("concat", (ones(3, 2),), {"axis": 2}, "axis must be below"),
    ("concat", (ones(3, 2),), {"axis": -3}, "axis must be at least -2"),
    ("concat", (ones(3),), {}, "axis must be below"),
    ("slice", (ones(3),), {"start": 0, "stop": 1}, r"x must be \(N, C, ...\)"),
    ("slice", (ones(3, 2),), {"start": 0, "stop": 3}, "start <= stop <= 2, the maps of x; got start=0, stop=3"),
    ("slice", (ones(3, 2),), {"start": 2, "stop": 1}, "expected start <= stop <= 2"),
    ("slice", (ones(3, 2),), {"start": -1, "stop": 1}, "start must be at least 0"),
    ("sgd_step", (ones(3), ones(3), ones(2)), {"lr": 0.1}, "velocity must have value's shape"),
    ("sgd_step", (ones(3), ones(1), ones(3)), {"lr": 0.1}, "grad must have value's shape"),
    ("adam_step", (ones(3), ones(3), ones(3), ones(3, 1)), {"lr": 0.1, "step": 1}, "square must have value's shape"),
]  # fmt: skip


@backends
@pytest.mark.parametrize(("name", "arrays", "attrs", "match"), SHAPES, ids=lambda v: v if isinstance(v, str) else "")
def test_shapes_that_do_not_fit(name, arrays, attrs, match, backend):
    refused(CnncoreError, name, arrays, attrs, backend, match)


# --- attributes ---


@backends
@pytest.mark.parametrize("name", OPS)
def test_unknown_attributes(name, backend):
    op, arrays, attrs = good(name)
    refused(CnncoreError, name, arrays, {**attrs, "strides": 1}, backend, "strides")
    for argument in [] if op.variadic else op.arrays:
        refused(CnncoreError, name, arrays, {**attrs, argument: arrays[0]}, backend, f"argument '{argument}'")


@backends
@pytest.mark.parametrize("name", [n for n in OPS if good(n)[2]])
def test_missing_attributes(name, backend):
    """Attributes without a default are asked for by name."""
    _op, arrays, _ = good(name)
    required = {"max_pool": "kernel", "avg_pool": "kernel", "lrn_within": "kernel", "sgd_step": "lr", "adam_step": "lr"}
    if name in required:
        refused(CnncoreError, name, arrays, {}, backend, required[name])


NUMBERS = [-0.1, float("nan"), float("inf"), "0.1", None, True, 1j, [0.1], np.ones(2), 10**400]


@backends
@pytest.mark.parametrize("value", NUMBERS, ids=lambda v: repr(v)[:12])
@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("dropout", "p"), ("sgd_step", "lr"), ("sgd_step", "momentum"), ("sgd_step", "weight_decay"),
        ("adam_step", "lr"), ("adam_step", "beta1"), ("adam_step", "beta2"), ("adam_step", "eps"),
        ("adam_step", "step"), ("adam_step", "weight_decay"),
    ],
)  # fmt: skip
def test_rates(name, attribute, value, backend):
    _, arrays, attrs = good(name)
    refused(CnncoreError, name, arrays, {**attrs, attribute: value}, backend, f"{attribute} must be")


@backends
@pytest.mark.parametrize(
    ("name", "attrs", "match"),
    [
        ("dropout", {"p": 1}, "p must be"),
        ("dropout", {"per": "channel"}, "per must be 'element' or 'map'"),
        ("adam_step", {"beta1": 1.0}, "beta1 must be"),
        ("adam_step", {"step": 0}, "step must be at least 1"),
        ("adam_step", {"step": 1.5}, "step must be an integer"),
        ("sgd_step", {"nesterov": "yes"}, "nesterov must be True or False"),
        ("avg_pool", {"count_include_pad": 1}, "count_include_pad must be True or False"),
        ("softmax_cross_entropy", {"reduction": "none"}, "reduction must be"),
        ("softmax_cross_entropy", {"reduction": None}, "reduction must be"),
        ("softmax_cross_entropy", {"reduction": np.array(["mean", "sum"])}, "reduction must be"),
        ("conv", {"groups": 0}, "groups must be at least 1"),
        ("conv", {"groups": 1.0}, "groups must be an integer"),
        ("conv", {"groups": 2**70}, "groups must be at most"),
        ("concat", {"axis": "1"}, "axis must be an integer"),
        ("concat", {"axis": None}, "axis must be an integer"),
        ("concat", {"axis": 2**70}, "axis must be"),
        ("concat", {"axis": -(2**70)}, "axis must be"),
    ],
)
def test_other_attributes(name, attrs, match, backend):
    _, arrays, right = good(name)
    refused(CnncoreError, name, arrays, {**right, **attrs}, backend, match)


@backends
@pytest.mark.parametrize("key", [(), (1,), (1, 2, 3), (-1, 0), (0, 2**64), (0.5, 0), ("a", "b")], ids=repr)
def test_bad_keys(key, backend):
    refused(CnncoreError, "dropout", (ones(3), key), {}, backend, "a random key is")


@pytest.mark.parametrize("name", ["fpga", "", 3, None, "NumPy"])
def test_unknown_backends(name):
    x = ones(3)
    if name in ("", None):  # the default
        cc.ops.relu(x, backend=name)
        return
    with pytest.raises(BackendError, match="backend must be one of"):
        cc.ops.relu(x, backend=name)


def test_an_unknown_op():
    with pytest.raises(CnncoreError, match="no op is called 'convolve'"):
        registry["convolve"]


# --- backward ---


@backends
@pytest.mark.parametrize("name", OPS)
def test_wrong_dy_and_needs(name, backend):
    op, arrays, attrs = good(name)
    y, ctx = run(op, tuple(arrays), attrs, backend)
    if op.backward is None:
        with pytest.raises(CnncoreError, match=f"^{name}: has no gradient"):
            ctx.backward(y)
        return
    for wrong in (np.ones((*y.shape, 2), y.dtype), np.ones((3,) * (y.ndim + 1), y.dtype), y.reshape(1, *y.shape)):
        with pytest.raises(ShapeError, match=f"^{name}: dy must have y's shape"):
            ctx.backward(wrong)
    for dtype in (np.float64, np.int32, ">f4", object):
        with pytest.raises(DTypeError, match=f"^{name}: dy must have y's dtype"):
            ctx.backward(np.ones(y.shape, dtype))
    for wrong in ([1.0], "dy", np.ma.masked_array(np.ones(y.shape, y.dtype)), *([None] if y.shape else [])):
        with pytest.raises(DTypeError, match=f"^{name}: dy must be a NumPy array"):
            ctx.backward(wrong)
    for needs in (["nothing"], "nothing", 5, [1, "x"], [["x"]], [None], {"nothing": 1}, b"x"):
        with pytest.raises(CnncoreError, match=f"^{name}: needs must name arguments among"):
            ctx.backward(np.ones_like(y), needs=needs)
    assert all(g is None for g in ctx.backward(np.ones_like(y), needs=[]))


# --- out ---


@backends
@pytest.mark.parametrize("name", OPS)
def test_wrong_out(name, backend):
    op, arrays, attrs = good(name)
    y, _ = run(op, tuple(arrays), attrs, backend)
    right = (y,) if op.outputs == 1 else y

    def refuse(error, out):
        with pytest.raises(error, match=f"^{name}: out"):
            run(op, tuple(arrays), attrs, backend, out)

    refuse(CnncoreError, right[0])
    refuse(CnncoreError, ())
    refuse(CnncoreError, (*right, right[0]))
    refuse(CnncoreError, 5)
    for i in range(op.outputs):
        others = list(right)

        def spoiled(wrong, i=i, others=others):
            return tuple(others[:i] + [wrong] + others[i + 1 :])

        refuse(ShapeError, spoiled(np.ones((2, *right[i].shape), right[i].dtype)))
        refuse(DTypeError, spoiled(np.ones(right[i].shape, np.float64)))
        refuse(DTypeError, spoiled(np.ones(right[i].shape, np.int32)))
        refuse(DTypeError, spoiled(right[i].tolist()))
        refuse(DTypeError, spoiled(None))
        locked = np.ones(right[i].shape, right[i].dtype)
        locked.flags.writeable = False
        refuse(CnncoreError, spoiled(locked))


# --- unusual, and right ---


@backends
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_an_empty_batch(name, dtype, backend):
    """N = 0 gives empty results, and zeros for the gradients of parameters."""
    op, arrays, attrs = good(name, dtype=dtype)
    roles = op.roles(tuple(arrays))
    if attrs.get("axis") in (0, -arrays[0].ndim):
        attrs["axis"] = -1 if arrays[0].ndim > 1 else 0
    steps = op.backward is None
    empty = [
        a[:0] if a is not None and (steps or r in (MAP, INDEX, RANDOM)) else a
        for a, r in zip(arrays, roles, strict=True)
    ]
    y, ctx = run(op, tuple(empty), attrs, backend)
    for result in y if steps else (y,):
        assert result.dtype == dtype and (result.size == 0 or result == 0)
    if not steps:
        for a, gradient in zip(empty, ctx.backward(np.ones_like(y)), strict=True):
            assert gradient is None or (gradient.shape == a.shape and gradient.dtype == dtype and not gradient.any())


@backends
@pytest.mark.parametrize("name", ["relu", "add", "dropout", "concat", "softmax", "max_pool", "avg_pool"])
def test_empty_channels_and_space(name, backend):
    """Where no number is needed from nothing, nothing comes out: shapes with other zeros work as well."""
    attrs = {"kernel": 1} if name.endswith("pool") else {}
    for shape in [(2, 0, 3, 3), (2, 3, 0, 3), (0, 0, 4, 4)]:
        if (name == "softmax" and shape[1] == 0) or (attrs and shape[2] == 0):
            continue
        x = np.ones(shape, np.float32)
        arrays = (x, x.copy()) if name in ("dropout", "add") else (x,)
        y, ctx = run(registry[name], arrays, attrs, backend)
        assert y.size == 0 and ctx.backward(np.ones_like(y))[0].shape == shape


@backends
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", OPS)
def test_nan_and_inf_do_not_raise(name, value, backend):
    """Where they go is test_backends.py's subject; here: no error, no crash, no hang."""
    op, arrays, attrs = good(name)
    arrays = [
        a if a is None or r in (INDEX, RANDOM) else np.full_like(a, value)
        for a, r in zip(arrays, op.roles(tuple(arrays)), strict=True)
    ]
    with np.errstate(all="ignore"):
        y, ctx = run(op, tuple(arrays), attrs, backend)
        if op.backward is not None:
            ctx.backward(np.full_like(y, value))
