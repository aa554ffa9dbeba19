"""ONNX's own test cases (package `onnx`) of every op we have: models of one node, with their inputs and outputs.

Those that ONNX writes for its operators ("node"), and those it keeps from PyTorch ("pytorch-converted" and
"pytorch-operator"). Every case is computed and compared, or EXCLUDED says why not.
"""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from engines import HOST_BACKENDS
from onnx import numpy_helper
from onnx.backend.test.case import node
from onnx.backend.test.loader import load_model_tests

import cnncore as cc

Inputs = list[np.ndarray]
Attrs = dict[str, Any]


class Case(NamedTuple):
    name: str
    attrs: Attrs
    inputs: Inputs
    outputs: list[np.ndarray]


# --- reading what ONNX ships ---


@functools.cache
def cases() -> dict[str, list[Case]]:
    """Operator -> its cases. (ONNX makes them when asked, which takes seconds: so not while tests are collected.)"""
    found: dict[str, list[Case]] = {}
    for test in [*own_cases(), *load_model_tests(kind="pytorch-converted"), *load_model_tests(kind="pytorch-operator")]:
        model = test.model or onnx.load(Path(test.model_dir) / "model.onnx")
        if len(model.graph.node) == 1 and model.graph.node[0].op_type in TABLE:
            [only] = model.graph.node
            inputs, outputs = test.data_sets[0] if test.data_sets else read_files(test.model_dir, model)
            attrs = {a.name: onnx.helper.get_attribute_value(a) for a in only.attribute}
            found.setdefault(only.op_type, []).append(Case(test.name, attrs, list(inputs), list(outputs)))
    return found


def own_cases() -> list[Any]:
    """What ONNX's `collect_testcases` gives, from those modules of it that name an operator of ours, to save time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ONNX's reference, dividing by zero on purpose
        for path in Path(node.__file__).parent.glob("*.py"):
            if any(f'"{operator}"' in path.read_text(encoding="utf-8") for operator in TABLE):
                importlib.import_module(f"{node.__name__}.{path.stem}")
    return node._NodeTestCases


def read_files(folder: str, model: onnx.ModelProto) -> tuple[Inputs, Inputs]:
    """The arrays of a case that lies in files: parameters in the model, the others beside it."""

    def arrays(kind: str) -> list[np.ndarray]:
        files = Path(folder, "test_data_set_0").glob(f"{kind}_*.pb")
        ordered = sorted(files, key=lambda path: int(path.stem.removeprefix(f"{kind}_")))
        return [numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) for path in ordered]

    parameters = {p.name: numpy_helper.to_array(p) for p in model.graph.initializer}
    given = (i.name for i in model.graph.input if i.name not in parameters)
    known = {**parameters, **dict(zip(given, arrays("input"), strict=True))}
    return [known[name] for name in model.graph.node[0].input], arrays("output")


# --- from ONNX's attributes to our calls ---


def geometry(attrs: Attrs, x: np.ndarray, kernel: tuple[int, ...]) -> Attrs:
    """stride, dilation and padding as ONNX means them: strides default to 1, pads are all begins, then all ends."""
    rank = len(kernel)
    stride, dilation = attrs.get("strides", [1] * rank), attrs.get("dilations", [1] * rank)
    pads = attrs.get("pads", [0] * 2 * rank)
    padding = list(zip(pads[:rank], pads[rank:], strict=True))
    auto = attrs.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):  # ceil(size / stride) windows; an odd element of padding last or first
        padding = []
        for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True):
            total = max(0, (math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n)
            small, large = total // 2, total - total // 2
            padding.append((small, large) if auto == b"SAME_UPPER" else (large, small))
    else:
        assert auto == b"NOTSET"
    return {"stride": tuple(stride), "dilation": tuple(dilation), "padding": tuple(padding)}


def pool(op: str, *flags: str, **names: str) -> Any:
    """A pooling op: which ONNX attributes are flags of the same name, and which are called otherwise or are numbers."""

    def call(attrs: Attrs, inputs: Inputs, backend: str) -> Inputs:
        kernel = tuple(attrs["kernel_shape"])
        own = {flag: bool(attrs[flag]) for flag in flags if flag in attrs}
        own |= {ours: attrs[theirs] for theirs, ours in names.items() if theirs in attrs}
        (x,) = inputs
        return [getattr(cc.ops, op)(x, kernel=kernel, **geometry(attrs, x, kernel), **own, backend=backend)[0]]

    return call


def plain(op: str) -> Any:
    """An op without attributes."""
    return lambda attrs, inputs, backend: [getattr(cc.ops, op)(*inputs, backend=backend)[0]]


def conv(attrs: Attrs, inputs: Inputs, backend: str) -> Inputs:
    x, w = inputs[:2]
    where = geometry(attrs, x, w.shape[2:])
    return [cc.ops.conv(*inputs, **where, groups=attrs.get("group", 1), backend=backend)[0]]


def softmax(attrs: Attrs, inputs: Inputs, backend: str) -> Inputs:
    axis = attrs.get("axis", -1)
    y, _ = cc.ops.softmax(np.moveaxis(inputs[0], axis, 1), backend=backend)
    return [np.moveaxis(y, 1, axis)]


def gemm(attrs: Attrs, inputs: Inputs, backend: str) -> Inputs:
    """alpha a b + beta c. Its factors go into x and the bias."""
    a, b, *c = inputs
    x = np.float32(attrs.get("alpha", 1)) * (a.T if attrs.get("transA") else a)
    w = b if attrs.get("transB") else b.T
    bias = [np.broadcast_to(np.float32(attrs.get("beta", 1)) * c[0].reshape(-1), len(w))] if c else []
    return [cc.ops.linear(x, w, *bias, backend=backend)[0]]


def concat(attrs: Attrs, inputs: Inputs, backend: str) -> Inputs:
    return [cc.ops.concat(*inputs, axis=attrs["axis"], backend=backend)[0]]


def slice_(attrs: Attrs, inputs: Inputs, backend: str) -> Inputs:
    """One axis after the other, as maps. ONNX counts negative places from the end, and cuts off what lies outside."""
    x, starts, ends, *rest = inputs
    axes = rest[0] if rest else range(len(starts))
    for axis, start, stop in zip(axes, starts, ends, strict=True):
        start, stop, _ = np.s_[start:stop].indices(x.shape[axis])
        y, _ = cc.ops.slice(np.moveaxis(x, axis, 1), start=start, stop=max(start, stop), backend=backend)
        x = np.moveaxis(y, 1, axis)
    return [x]


def dropout(attrs: Attrs, inputs: Inputs, backend: str, mask: np.ndarray | None = None) -> Inputs:
    """Outside training nothing is dropped. In training ONNX's mask is turned into uniforms that give the same one."""
    x = inputs[0]
    training = len(inputs) == 3 and inputs[2]
    p = float(inputs[1]) if training else 0.0
    u = np.zeros_like(x) if mask is None else np.where(mask, (1 + p) / 2, p / 2).astype(x.dtype)
    y, ctx = cc.ops.dropout(x, u, p=p, backend=backend)
    return [y, ctx.saved[0].astype(bool)]


def cross_entropy(attrs: Attrs, inputs: Inputs, backend: str) -> Inputs:
    """Every pixel is a row. The second output, log softmax, is what our op keeps for backward."""
    x, labels = inputs
    rows = np.moveaxis(x, 1, -1)
    reduction = attrs.get("reduction", b"mean").decode()
    logits = rows.reshape(-1, x.shape[1])
    y, ctx = cc.ops.softmax_cross_entropy(logits, labels.reshape(-1), reduction=reduction, backend=backend)
    return [y, np.moveaxis(np.log(ctx.saved[0]).reshape(rows.shape), -1, 1)]


def lrn(attrs: Attrs, inputs: Inputs, backend: str) -> Inputs:
    own = {"size": attrs["size"], "alpha": attrs.get("alpha", 1e-4), "beta": attrs.get("beta", 0.75)}
    return [cc.ops.lrn(*inputs, **own, k=attrs.get("bias", 1.0), alpha_over_size=True, backend=backend)[0]]


# ONNX's operator -> (our op, how it is called).
TABLE = {
    "Add": ("add", plain("add")),
    "AveragePool": ("avg_pool", pool("avg_pool", "ceil_mode", "count_include_pad")),
    "Concat": ("concat", concat),
    "Conv": ("conv", conv),
    "Dropout": ("dropout", dropout),
    "Gemm": ("linear", gemm),
    "GlobalAveragePool": ("global_avg_pool", plain("global_avg_pool")),
    "GlobalMaxPool": ("global_max_pool", plain("global_max_pool")),
    "LRN": ("lrn", lrn),
    "LpPool": ("lp_pool", pool("lp_pool", "ceil_mode", p="p")),
    "MaxPool": ("max_pool", pool("max_pool", "ceil_mode")),
    "Relu": ("relu", plain("relu")),
    "Sigmoid": ("sigmoid", plain("sigmoid")),
    "Slice": ("slice", slice_),
    "Softmax": ("softmax", softmax),
    "SoftmaxCrossEntropyLoss": ("softmax_cross_entropy", cross_entropy),
    "Sum": ("add", plain("add")),
    "Tanh": ("tanh", plain("tanh")),
}

# Why a case is not computed -> the cases.
REASONS = {
    "integers: ours are float ops": """
        test_add_int8 test_add_int16 test_add_uint8 test_add_uint16 test_add_uint32 test_add_uint64
        test_maxpool_2d_uint8""",
    "argmax output: ours is the winner's number in its window": """
        test_maxpool_with_argmax_2d_precomputed_pads test_maxpool_with_argmax_2d_precomputed_strides""",
    "shapes differ: add does not broadcast": """
        test_add_bcast test_operator_add_broadcast test_operator_add_size1_broadcast
        test_operator_add_size1_right_broadcast test_operator_add_size1_singleton_broadcast""",
    "steps: slice takes neighbours": "test_slice_neg_steps",
    "a bias per row: linear has one per output": "test_gemm_default_matrix_bias",
    "dropped by ONNX's own generator, and the case does not say which": """
        test_training_dropout test_training_dropout_default""",
    "a weight per class, which softmax_cross_entropy does not have": """
        test_sce_mean_weight test_sce_mean_weight_log_prob test_sce_mean_weight_ii test_sce_mean_weight_ii_log_prob
        test_sce_mean_weight_ii_3d test_sce_mean_weight_ii_3d_log_prob test_sce_mean_weight_ii_4d
        test_sce_mean_weight_ii_4d_log_prob test_sce_NCd1d2d3d4d5_mean_weight
        test_sce_NCd1d2d3d4d5_mean_weight_log_prob test_sce_NCd1_mean_weight_negative_ii
        test_sce_NCd1_mean_weight_negative_ii_log_prob test_sce_NCd1d2d3_sum_weight_high_ii
        test_sce_NCd1d2d3_sum_weight_high_ii_log_prob""",
    "a loss per sample, which softmax_cross_entropy does not give": """
        test_sce_none test_sce_none_log_prob test_sce_none_weights test_sce_none_weights_log_prob
        test_sce_NCd1d2d3d4d5_none_no_weight test_sce_NCd1d2d3d4d5_none_no_weight_log_prob
        test_sce_NCd1d2d3_none_no_weight_negative_ii test_sce_NCd1d2d3_none_no_weight_negative_ii_log_prob""",
    "a label to leave out, which softmax_cross_entropy refuses": """
        test_sce_mean_no_weight_ii test_sce_mean_no_weight_ii_log_prob test_sce_mean_no_weight_ii_3d
        test_sce_mean_no_weight_ii_3d_log_prob test_sce_mean_no_weight_ii_4d test_sce_mean_no_weight_ii_4d_log_prob""",
}
EXCLUDED = {name: reason for reason, names in REASONS.items() for name in names.split()}


# ONNX gives four digits of these.
ROUNDED = {"test_averagepool_2d_ceil_last_window_starts_on_pad"}


def disagreement(operator: str, case: Case, backend: str) -> str | None:
    """What is wrong with our answer to a case."""
    _, call = TABLE[operator]
    known = {"mask": case.outputs[1]} if call is dropout and len(case.outputs) == 2 else {}
    found = call(case.attrs, case.inputs, backend, **known)
    assert len(found) >= len(case.outputs)
    for i, (got, want) in enumerate(zip(found, case.outputs, strict=False)):
        try:
            assert got.dtype == want.dtype and got.shape == want.shape, f"{got.dtype} {got.shape}, {want.shape} wanted"
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4 if case.name in ROUNDED else 1e-5)
        except AssertionError as error:
            return f"{case.name}, output {i}: {error}"
    return None


@pytest.mark.parametrize("backend", HOST_BACKENDS)
@pytest.mark.parametrize("operator", [name for name, (op, _) in TABLE.items() if hasattr(cc.ops, op)])
def test_agrees_with_onnx(operator: str, backend: str) -> None:
    found = [case for case in cases()[operator] if case.name not in EXCLUDED]
    assert found
    wrong = [text for case in found if (text := disagreement(operator, case, backend))]
    assert not wrong, "\n\n".join(wrong)


def test_no_case_is_lost() -> None:
    """Every operator has cases, what is excluded is there by that name (and once), and the rest was computed above."""
    names = [case.name for group in cases().values() for case in group]
    assert set(cases()) == set(TABLE)
    assert set(names) >= set(EXCLUDED) | ROUNDED
    assert len(names) == len(set(names)) >= 200


def test_a_wrong_answer_is_seen() -> None:
    [case] = [case for case in cases()["Conv"] if case.name == "test_Conv2d_groups"]
    bad = case._replace(outputs=[case.outputs[0] * 1.001])
    assert disagreement("Conv", case, "numpy") is None
    assert "test_Conv2d_groups, output 0" in str(disagreement("Conv", bad, "numpy"))
    assert "wanted" in str(disagreement("Conv", case._replace(outputs=[case.outputs[0][:, :1]]), "numpy"))
