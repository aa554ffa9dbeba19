"""What gradcheck takes: ops, functions, pairs, every kind of input; and what it says of a backward of wrong form."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_gradcheck import Function, function, places

import cnncore as cc
from cnncore.errors import BackendError, CnncoreError, DTypeError
from cnncore.layers import ReLU
from cnncore.ops.domain import Draw
from cnncore.ops.records import registry

# --- what a user's function can get wrong besides the numbers ----------------------------------------------------


def returning(gradients: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]) -> Function:
    return lambda x, w: (x * w, SimpleNamespace(backward=lambda dy: gradients(x, w, dy)))


X, W = np.arange(1.0, 7).reshape(2, 3), np.linspace(-1, 1, 6).reshape(2, 3)


@pytest.mark.parametrize(
    ("gradients", "problem"),
    [
        (lambda x, w, dy: (dy * w, (dy * x)[0]), r"gradient for w must have its shape \(2, 3\), got \(3,\)"),
        (lambda x, w, dy: ((dy * w).astype(np.float32), dy * x), "gradient for x must have its dtype float64"),
        (lambda x, w, dy: (dy * w,), r"tuple with a gradient per input \(x, w\), got 1 entries"),
        (lambda x, w, dy: (dy * w, dy * x, dy), r"tuple with a gradient per input \(x, w\), got 3 entries"),
        (lambda x, w, dy: dy * w, "tuple with a gradient per input .* got one ndarray"),
        (lambda x, w, dy: (dy * w, None), "backward gave None for w, but y depends on it"),
        (lambda x, w, dy: (np.multiply(dy, w, out=dy), dy * x), "backward changed dy in place"),
        (lambda x, w, dy: (dy * w, np.multiply(dy, x, out=x)), "x was changed in place"),
    ],
)  # fmt: skip
def test_a_backward_of_the_wrong_form_is_reported(gradients: Any, problem: str) -> None:
    report = cc.gradcheck(returning(gradients), (X, W))
    assert not report.ok
    assert any(re.search(problem, text) for text in report.problems), report.problems
    assert report.problems[0] in str(report)


def test_other_arguments_are_checked_beside_a_malformed_one() -> None:
    report = cc.gradcheck(returning(lambda x, w, dy: (1.1 * dy * w, dy)), (X, W[:1]))
    assert {w.argument for w in report.wrong} == {"x"}
    assert [a.verdict for a in report.arguments] == ["wrong", "wrong"]


def test_functions_that_are_no_functions_are_reported() -> None:
    rng = np.random.default_rng(10)
    noisy = cc.gradcheck(lambda x: (x + rng.random(), SimpleNamespace(backward=lambda dy: (dy,))), X)
    assert "two calls with equal inputs differ" in noisy.problems[0]
    infinite = cc.gradcheck(lambda x: (x + np.inf, SimpleNamespace(backward=lambda dy: (dy,))), X)
    assert "y holds NaN or Inf" in infinite.problems[0]
    single = cc.gradcheck(lambda x: (x.astype(np.float32), SimpleNamespace(backward=lambda dy: (dy,))), X)
    assert "y is float32" in single.problems[0]


def test_a_nan_in_the_gradient_is_named() -> None:
    def backward(x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, ...]:
        dx = dy * w
        dx[1, 2] = np.nan
        return dx, dy * x

    report = cc.gradcheck(returning(backward), (X, W))
    assert places(report) == {("x", (1, 2))}
    assert report.max_error == np.inf


def test_none_is_right_for_what_y_does_not_depend_on() -> None:
    fn = lambda x, unused: (x * 1, SimpleNamespace(backward=lambda dy: (dy, None)))  # noqa: E731
    report = cc.gradcheck(fn, (X, W))
    assert report.ok
    assert [a.verdict for a in report.arguments] == ["ok", "constant"]


def test_constants_are_left_alone_and_empty_arrays_pass() -> None:
    rng = np.random.default_rng(11)
    report = cc.gradcheck(cc.ops.dropout, (rng.standard_normal((3, 4)), (5, 6)), p=0.5)
    assert [a.verdict for a in report.arguments] == ["ok", "constant"]
    report = cc.gradcheck(cc.ops.linear, (np.zeros((0, 3)), rng.standard_normal((2, 3)), None))
    assert report.ok
    assert [a.verdict for a in report.arguments] == ["empty", "ok", "constant"]


def test_needs_is_honoured() -> None:
    right = registry["linear"]

    def greedy(p: Any, needs: Any, dy: Any, *saved: Any) -> Any:
        return right.backward(p, (True, True, True), dy, *saved)

    def fickle(p: Any, needs: Any, dy: Any, *saved: Any) -> Any:
        return tuple(g if g is None or sum(needs) == 3 else 1.01 * g for g in right.backward(p, needs, dy, *saved))

    for backward, problem in ((greedy, "backward gave a gradient for w, b too"), (fickle, "gave another gradient")):
        report = cc.gradcheck(function(dataclasses.replace(right, backward=backward)), (X, W, np.ones(2)))
        assert any(problem in text for text in report.problems), report.problems
        assert report.wrong == []


@pytest.mark.parametrize(
    ("fn", "inputs", "options", "error", "text"),
    [
        (cc.ops.relu, ([1.0],), {}, DTypeError, "must be a NumPy array, got a list"),
        (cc.ops.relu, (X.astype(complex),), {}, DTypeError, "complex128"),
        (cc.ops.relu, (X.astype(np.float16),), {}, DTypeError, "float16"),
        (cc.ops.relu, (X * np.nan,), {}, CnncoreError, "x holds NaN or Inf"),
        (cc.ops.relu, (X,), {"dtype": "int32"}, DTypeError, "dtype must be float32 or float64"),
        (cc.ops.relu, (X,), {"gap": 0}, CnncoreError, "gap must be positive"),
        (cc.ops.relu, (X,), {"backend": "fpga"}, BackendError, "fpga"),
        (cc.ops.relu, (X,), {"slope": 1}, CnncoreError, "slope"),
        (cc.ops.linear, (X,), {}, CnncoreError, "linear: argument w is missing"),
        (lambda n: (n, None), (np.arange(3),), {}, CnncoreError, "nothing to differentiate"),
        (lambda x: x, (X,), {}, CnncoreError, r"must return \(y, ctx\)"),
        ((lambda x: x, lambda dy, c: dy), (X,), {}, CnncoreError, r"must return \(y, cache\), got ndarray"),
        ("relu", (X,), {}, CnncoreError, "an op, a function or a layer, got str"),
        (ReLU(), (X, X), {}, CnncoreError, "takes one input"),
    ],
)
def test_what_cannot_be_checked_raises(fn: Any, inputs: Any, options: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        cc.gradcheck(fn, inputs, **options)


def test_an_op_without_gradient_is_compared_forward() -> None:
    right = registry["sgd_step"]
    case = right.domain(Draw(0))
    report = cc.gradcheck(cc.ops.sgd_step, case.arrays, dtype="float32", **case.attrs)
    assert report.ok
    assert "no gradient" in str(report)

    def forward(p: Any, *arrays: np.ndarray) -> Any:
        value, velocity = right.forward(p, *arrays)
        return (value * np.float32(1.0001) if value.dtype == np.float32 else value), velocity

    wrong = dataclasses.replace(right, forward=forward)
    call = function(wrong)
    call.op = wrong  # type: ignore[attr-defined]
    report = cc.gradcheck(call, case.arrays, backend="numpy", dtype="float32", **case.attrs)
    assert "value differs from the definition" in report.problems[0]


# --- pairs, constants, several outputs ---------------------------------------------------------------------------


def affine_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Any:
    return x.reshape(len(x), -1) @ w + b, (x, w)


def affine_backward(dy: np.ndarray, cache: Any) -> Any:
    x, w = cache
    return (dy @ w.T).reshape(x.shape), x.reshape(len(x), -1).T @ dy, dy.sum(0)


def test_a_pair_as_courses_write_it() -> None:
    rng = np.random.default_rng(12)
    inputs = rng.standard_normal((4, 2, 3)), rng.standard_normal((6, 5)), rng.standard_normal(5)
    report = cc.gradcheck((affine_forward, affine_backward), inputs)
    assert report.ok
    assert report.subject == "affine_forward"
    assert [a.name for a in report.arguments] == ["x", "w", "b"]
    wrong = cc.gradcheck((affine_forward, lambda dy, c: (*affine_backward(dy, c)[:2], dy[0])), inputs)
    assert [a.verdict for a in wrong.arguments] == ["ok", "ok", "wrong"]


def test_a_pair_of_one_input_may_give_its_gradient_alone() -> None:
    assert cc.gradcheck((lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0)), X).ok
    assert not cc.gradcheck((lambda x: (np.maximum(x, 0), x), lambda dy, x: 2 * dy * (x > 0)), X).ok


def batch_norm(x: np.ndarray, gamma: np.ndarray, options: dict[str, Any], mode: str | None, n: int) -> Any:
    """As in courses: settings in a dictionary, which the forward changes."""
    options["running_mean"] = 0.9 * options.get("running_mean", 0) + x.mean(0)
    options["calls"] += 1
    scale = 1 / np.sqrt(x.var(0) + options["eps"])
    standard = (x - x.mean(0)) * scale
    return gamma * standard + n * options["calls"], (standard, gamma, scale)


def batch_norm_backward(dy: np.ndarray, cache: Any) -> Any:
    standard, gamma, scale = cache
    d = dy * gamma
    return scale * (d - d.mean(0) - standard * (d * standard).mean(0)), (dy * standard).sum(0)


@pytest.mark.parametrize("entries", [2, 5])
def test_dictionaries_numbers_strings_and_none_are_held_constant(entries: int) -> None:
    rng, options = np.random.default_rng(13), {"eps": 1e-5, "calls": 0}

    def backward(dy: np.ndarray, cache: Any) -> Any:
        return (*batch_norm_backward(dy, cache), None, None, None)[:entries]

    inputs = rng.standard_normal((8, 3)), rng.standard_normal(3), options, None, 2
    report = cc.gradcheck((batch_norm, backward), inputs)
    assert report.ok, report
    assert [a.verdict for a in report.arguments] == ["ok", "ok", "constant", "constant", "constant"]
    assert options == {"eps": 1e-5, "calls": 0}


def two(x: np.ndarray, w: np.ndarray) -> Any:
    return (x * w, np.sin(x)), (x, w)


@pytest.mark.parametrize("factor", [1, 1.001])
def test_several_outputs(factor: float) -> None:
    def gradients(first: np.ndarray, second: np.ndarray, cache: Any) -> Any:
        x, w = cache
        return first * w + factor * second * np.cos(x), first * x

    forms = {
        "a tuple, ctx": lambda x, w: (two(x, w)[0], SimpleNamespace(backward=lambda a, b: gradients(a, b, (x, w)))),
        "a tuple": (two, lambda dys, cache: gradients(*dys, cache)),
        "one after the other": (lambda x, w: (*two(x, w)[0], (x, w)), gradients),
    }
    for name, form in forms.items():
        report = cc.gradcheck(form, (X, W))
        assert report.ok == (factor == 1), f"{name}\n{report}"
        assert [a.verdict for a in report.arguments] == ["ok" if factor == 1 else "wrong", "ok"]


@pytest.mark.parametrize("factor", [1, 1.001])
def test_an_output_of_integers_has_no_gradient(factor: float) -> None:
    """Maximum along an axis, with the winners beside it."""

    def forward(x: np.ndarray) -> Any:
        winner = x.argmax(axis=1)
        return (x.max(axis=1), winner), (x.shape, winner)

    def backward(dys: Any, cache: Any) -> np.ndarray:
        shape, winner = cache
        assert not dys[1].any()
        dx = np.zeros(shape)
        dx[np.arange(shape[0]), winner] = factor * dys[0]
        return dx

    report = cc.gradcheck((forward, backward), np.random.default_rng(1).normal(size=(5, 4)))
    assert report.ok == (factor == 1), report
    constant = cc.gradcheck((lambda x: (x.argmax(axis=1), x), lambda dy, x: 0 * x), np.zeros((5, 4)))
    assert not constant.ok and "y is int64" in str(constant)


@pytest.mark.parametrize("gap", [0.33, 1e-3, 1e-6])
def test_no_step_is_larger_than_the_gap_allows(gap: float) -> None:
    base, moved = np.random.default_rng(14).standard_normal((5, 4)), [0.0]

    def relu(x: np.ndarray, factor: float) -> Any:
        moved.append(float(np.abs(x - base).max()))
        return np.maximum(x, 0), SimpleNamespace(backward=lambda dy: (factor * dy * (x > 0),))

    for factor in (1.0, 1.1):
        cc.gradcheck(lambda x, factor=factor: relu(x, factor), base, gap=gap)
    assert 0 < max(moved) <= gap / 2 * (1 + 1e-9)


def test_a_gradient_that_is_zero_everywhere_is_said_to_prove_little() -> None:
    report = cc.gradcheck(lambda x, w: (x * w, SimpleNamespace(backward=lambda dy: (dy * w, dy * x))), (X, 0 * W))
    assert report.ok
    assert report.notes == ["x: the gradient is 0 everywhere here, so this proves little; try inputs where it is not"]


def test_errors_of_the_floating_point_unit_are_not_raised() -> None:
    with np.errstate(all="raise"):
        assert cc.gradcheck(cc.ops.softmax, (np.array([[0.0, -760.0]]),)).ok


def test_a_report_is_true_where_it_is_ok() -> None:
    assert cc.gradcheck(returning(lambda x, w, dy: (dy * w, dy * x)), (X, W))
    assert not cc.gradcheck(returning(lambda x, w, dy: (2 * dy * w, dy * x)), (X, W))


def test_a_report_is_short_and_its_nan_is_backwards() -> None:
    report = cc.gradcheck(returning(lambda x, w, dy: (dy * w * np.nan, dy * x)), (X, W))
    assert len(repr(report)) < 120
    assert "the NaN is backward's" in str(report)
    assert "derivative nan" not in str(report)
    assert report._repr_html_().startswith("<pre>gradcheck")


def test_the_report_prints_plots_and_becomes_json(tmp_path: Path) -> None:
    report = cc.gradcheck(returning(lambda x, w, dy: (dy * w, 1.001 * dy * x)), (X, W))
    text = str(report)
    assert text.startswith("gradcheck <lambda>: own backward, float64: WRONG")
    assert "w[0, 1]: backward" in text
    found = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [a["verdict"] for a in found["arguments"]] == ["ok", "wrong"]
    assert len(found["arguments"][1]["steps"]) == 10
    pytest.importorskip("matplotlib")
    figure = report.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert labels == ["x: ok", "w: wrong", "slope $h^2$"]
