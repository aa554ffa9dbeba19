"""gradcheck: is a backward the derivative of its forward?

    report = cc.gradcheck(cc.ops.conv, (x, w, b), padding=2)     an op, on the backend that `backend` names
    report = cc.gradcheck(fn, (x, w))                            any fn(*arrays) -> (y, ctx), ctx.backward(dy) -> tuple
    report = cc.gradcheck((forward, backward), (x, w))           forward -> (y, cache), backward(dy, cache) -> gradients
    report = cc.gradcheck(net, (x,))                             a layer or network: x and every parameter
    print(report); report.ok; report.max_error; report.wrong; report.diagnosis; report.plot("curves.png")

y is made a scalar by random weights, f = sum(dy * y) with |dy| between 0.5 and 1.5. The slopes of f along directions
that move all entries of one argument, in float64 on the NumPy definition, are set against those that the gradient under
test claims. `gradcheck_curve.py` says how the verdict follows from how their difference falls, `gradcheck_search.py`
how wrong entries and entries without a derivative are found, `gradcheck_diagnosis.py` what a wrong gradient looks like.

The verdicts: ok; WRONG; NOT DIFFERENTIABLE (a kink or a tie lies at x itself, and the gradient lies between the slopes
on its two sides); CANNOT TELL, with the reason and what would help.

A gradient in float32 is computed by the backend in float32 and compared with the float64 derivative at the same point
(inputs are rounded first). What rounding may do to it is measured: the definition runs eight times in float32 with the
last bit of its inputs, and of what it keeps for backward, changed at random. Each entry's scatter s is allowed
(4 + sqrt(size of y)) s, since another backend may add up in another order; and the whole slope four last bits, for
constants that are rounded once.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np

from . import gradcheck_call as calls
from .backends import select
from .backends.device import is_foreign, to_host
from .errors import CnncoreError, DTypeError
from .gradcheck_call import Run, Subject
from .gradcheck_curve import KINK, OK, WRONG
from .gradcheck_diagnosis import diagnose
from .gradcheck_report import CONSTANT, Argument, Report
from .gradcheck_search import Problem, check_argument, weights
from .layers import Layer
from .ops.geometry import integer
from .ops.op import Context, Op, run
from .ops.roles import FLOATS
from .ops.scalars import number

PROBES = 8  # float32 runs that measure rounding


def gradcheck(
    fn: Any,
    inputs: Any,
    *,
    backend: str | None = None,
    dtype: Any = np.float64,
    seed: int = 0,
    gap: float = math.inf,
    **attrs: Any,
) -> Report:
    """Compare a hand-written backward with the derivative of its forward, entry by entry if need be.

    fn: an op of `cc.ops`; or a function fn(*inputs, **attrs) -> (y, ctx), where ctx.backward(dy) returns one gradient
        per input (None: claimed constant); or a pair (forward, backward) with forward(*inputs, **attrs) -> (y, cache)
        and backward(dy, cache) -> gradients; or a layer or network, whose parameters are checked with x. y may be a
        tuple: ctx.backward then takes one dy per output, the backward of a pair a tuple of them. Outputs of integers
        (winners, labels) have no gradient: their dy is 0.
    inputs: its arrays, in order, or one array. Float arrays are differentiated. Integers, strings, dictionaries, None
        and random keys are held constant; gradients for them may be left out or None. The arrays of a dictionary are
        constant too: to check them, give them one by one.
    backend: whose gradient is tested ("numpy", "c", "cuda"; default: whoever computes the call). The derivative is
        always that of the NumPy definition in float64.
    dtype: the type the gradient under test is computed in; inputs are converted to it.
    seed: of the weights dy and the directions. gap: no step moves any entry by more than half of it (`Case.gap`).

    Forward and backward must leave their inputs and dy as they are, and compute in the dtype under test.

    Returns a Report and raises nothing for a wrong gradient. Raises CnncoreError, DTypeError for inputs that cannot be
    checked, BackendError for a backend that is not there, and whatever fn itself raises.
    """
    kind = np.dtype(dtype)
    if kind not in FLOATS:
        raise DTypeError(f"gradcheck: dtype must be float32 or float64, got {kind}")
    if not (number(gap) or 0) > 0:
        raise CnncoreError(f"gradcheck: gap must be positive, got {gap!r}")
    seed = integer("gradcheck", "seed", seed, 0)
    arrays = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    # A step may leave the domain of f, and harmless underflow is part of many functions: neither is worth a warning.
    with np.errstate(all="ignore"):
        if isinstance(fn, Layer) or (hasattr(fn, "apply") and hasattr(fn, "parameters")):
            if attrs or len(arrays) != 1:
                raise CnncoreError("gradcheck: a layer or network takes one input and no attributes")
            with calls.network(fn) as (subject, values):
                return _check(subject, (*arrays, *values), backend, kind, seed, gap)
        if isinstance(fn, tuple) and len(fn) == 2 and all(map(callable, fn)):
            return _check(calls.pair(*fn, arrays, attrs), arrays, backend, kind, seed, gap)
        if not callable(fn):
            raise CnncoreError(
                "gradcheck: fn must be a pair (forward, backward), an op, a function or a layer, "
                f"got {type(fn).__name__}"
            )
        op = getattr(fn, "op", None)
        if op is not None and op.backward is None:
            return _check_forward(op, arrays, attrs, backend, kind)
        return _check(calls.function(fn, arrays, attrs), arrays, backend, kind, seed, gap)


def _check(
    subject: Subject, arrays: tuple[Any, ...], backend: str | None, kind: np.dtype, seed: int, gap: float
) -> Report:
    names = subject.names
    arrays = tuple(_convert(name, a, kind) for name, a in zip(names, arrays, strict=True))
    variable = [_is_float(a) and name not in subject.constant for name, a in zip(names, arrays, strict=True)]
    if not any(variable):
        got = ", ".join(
            f"{name}: {getattr(a, 'dtype', type(a).__name__)}" for name, a in zip(names, arrays, strict=True)
        )
        raise CnncoreError(
            f"gradcheck: {subject.name} has no float array among its inputs, nothing to differentiate; got {got}"
        )
    rng = np.random.default_rng(seed)
    given = _copies(arrays)
    with contextlib.nullcontext() if backend is None else select.use_backend(backend):
        forward = subject.run(given)
        report = Report(subject.name, str(getattr(forward.kept, "backend", backend or "own backward")), kind.name)
        whole = [y.dtype.kind in "iub" for y in forward.outputs]  # labels, winners: they have no gradient
        for y in (y for y, skip in zip(forward.outputs, whole, strict=True) if not skip or all(whole)):
            if y.dtype != kind or not np.isfinite(y).all():
                found = f"is {y.dtype}" if y.dtype != kind else "holds NaN or Inf"
                report.problems.append(f"y {found}; finite {kind.name} values are needed, as in the inputs")
                return report
        dys = tuple(
            np.zeros(y.shape, kind) if skip else weights(rng, y.shape).astype(kind)
            for y, skip in zip(forward.outputs, whole, strict=True)
        )
        gradients = _gradients(report, forward, dys, names, variable, arrays)
    for name, before, after in zip(names, arrays, given, strict=True):
        if isinstance(before, np.ndarray) and not np.array_equal(before, after):
            report.problems.append(f"{name} was changed in place by forward or backward")
            return report
    exact = tuple(a.astype(np.float64) if _is_float(a) else a for a in arrays)
    problem = Problem(lambda inputs: _flat(subject, inputs), exact, _joined(dys), gap)
    if not np.array_equal(problem.base, _flat(subject, exact)):
        report.problems.append("two calls with equal inputs differ: give the randomness as an input (uniforms, a key)")
        return report
    noise = _scatter(subject, arrays, dys, gradients, variable, rng) if kind == np.float32 else {}
    for i, name in enumerate(names):
        argument = Argument(name, tuple(getattr(arrays[i], "shape", ())), CONSTANT)
        if i in gradients:
            _check_gradient(report, problem, i, gradients[i], noise.get(i), rng, argument)
        elif variable[i]:
            argument.verdict = WRONG  # its shape or type is among the problems
        report.arguments.append(argument)
    if any(a.verdict == WRONG for a in report.arguments):
        report.diagnosis = diagnose(report, problem, forward, dys, gradients, noise)
    return report


def _check_gradient(
    report: Report, problem: Problem, i: int, g: np.ndarray | None, noise: np.ndarray | None,
    rng: np.random.Generator, found: Argument,
) -> None:  # fmt: skip
    zeros = np.zeros(found.shape)
    check_argument(problem, i, zeros if g is None else g, zeros if noise is None else noise, rng, found)
    if g is None and found.verdict == WRONG:
        report.problems.append(f"backward gave None for {found.name}, but y depends on it")
    elif g is None and found.verdict == OK:
        found.verdict = CONSTANT
    elif found.verdict in (OK, KINK) and not np.any(g):
        report.notes.append(
            f"{found.name}: the gradient is 0 everywhere here, so this proves little; try inputs where it is not"
        )


def _flat(subject: Subject, arrays: tuple[Any, ...]) -> np.ndarray:
    """All outputs of the definition as one flat array."""
    with select.use_backend("numpy"):
        return _joined(subject.run(arrays).outputs)


def _joined(ys: tuple[np.ndarray, ...]) -> np.ndarray:
    """A copy: a function may use its arrays again."""
    return np.concatenate([y.ravel() for y in ys], dtype=np.float64)


def _is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype in FLOATS


def _convert(name: str, a: Any, kind: np.dtype) -> Any:
    """A float array in the dtype under test; anything that is held constant as it is."""
    if is_foreign(a):
        raise DTypeError(f"gradcheck: {name} must be on the host, `backend` moves it")
    if isinstance(a, np.ndarray | np.generic):
        if a.dtype.kind in "iub":
            return a
        if a.dtype not in FLOATS:
            raise DTypeError(f"gradcheck: {name} must be float32 or float64 (or integers), got {a.dtype}")
        if not np.isfinite(a).all():
            raise CnncoreError(f"gradcheck: {name} holds NaN or Inf, where nothing has a derivative")
        return np.array(a, kind)
    if isinstance(a, list):
        raise DTypeError(f"gradcheck: {name} must be a NumPy array, got a list")
    return a


def _copies(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arrays)


def _gradients(
    report: Report, forward: Run, dys: tuple[np.ndarray, ...], names: list[str], variable: list[bool],
    arrays: tuple[Any, ...],
) -> dict[int, np.ndarray | None]:  # fmt: skip
    """Number of each variable argument -> its gradient in float64 (None: backward gave None), where it has the form of
    one; what has not is told in `report.problems`."""
    given = _copies(dys)
    result = forward.backward(*given)
    if not all(map(np.array_equal, given, dys)):
        report.problems.append("backward changed dy in place")
    entries = _entries(result, variable, forward.names)
    if entries is None:
        got = f"{len(result)} entries" if isinstance(result, tuple | list) else f"one {type(result).__name__}"
        report.problems.append(
            f"backward must return a tuple with a gradient per input ({', '.join(names)}), got {got}"
        )
        return {}
    found: dict[int, np.ndarray | None] = {}
    for i, name in enumerate(names):
        if not variable[i]:
            continue
        if entries[i] is None:
            found[i] = None
            continue
        g, like = np.asarray(to_host(entries[i])), arrays[i]
        if g.shape != like.shape:
            report.problems.append(f"the gradient for {name} must have its shape {like.shape}, got {g.shape}")
        elif g.dtype != like.dtype:
            report.problems.append(f"the gradient for {name} must have its dtype {like.dtype}, got {g.dtype}")
        else:
            found[i] = g.astype(np.float64)
    if isinstance(forward.kept, Context):
        _check_needs(report, forward.kept, dys, found)
    return found


def _entries(result: Any, variable: list[bool], op_names: tuple[str, ...] | None) -> list[Any] | None:
    """A gradient (or None) per input, from a tuple with one per input or one per input that has a gradient, or from
    that gradient alone; None for anything else."""
    if op_names is not None:  # an op's arguments may be left out
        return list(result) if isinstance(result, tuple) and len(result) == len(op_names) else None
    count = sum(variable)
    if not isinstance(result, tuple | list):
        result = (result,) if count == 1 and result is not None else ()
    if len(result) == len(variable):
        return list(result)
    if len(result) != count:
        return None
    each = iter(result)
    return [next(each) if v else None for v in variable]


def _check_needs(
    report: Report, ctx: Context, dys: tuple[np.ndarray, ...], together: dict[int, np.ndarray | None]
) -> None:
    """Asked for one gradient, an op gives the same one, and None for the others."""
    for i, expected in together.items():
        asked = f"needs={{{ctx.names[i]!r}}}"
        single = ctx.backward(*dys, needs={ctx.names[i]})
        others = [name for j, name in enumerate(ctx.names) if j != i and single[j] is not None]
        if others:
            report.problems.append(f"{asked}: backward gave a gradient for {', '.join(others)} too")
        if expected is None:
            continue
        near = 100 * float(np.finfo(dys[0].dtype).eps) * np.abs(expected).max(initial=0.0)
        same = single[i] is not None and np.allclose(to_host(single[i]), expected, rtol=0, atol=near, equal_nan=True)
        if not same:
            report.problems.append(f"{asked}: backward gave another gradient than without needs")


def _scatter(
    subject: Subject, arrays: tuple[Any, ...], dys: tuple[np.ndarray, ...], tested: dict[int, Any],
    variable: list[bool], rng: np.random.Generator,
) -> dict[int, np.ndarray]:  # fmt: skip
    """What float32 rounding may do to each entry of each gradient: see the module's docstring, point on float32."""
    bit = np.finfo(np.float32).eps

    def nudge(a: Any) -> None:
        if isinstance(a, np.ndarray) and a.dtype == np.float32 and a.flags.writeable:
            a *= (1 + bit * rng.uniform(-1, 1, a.shape)).astype(np.float32)

    runs = []
    with select.use_backend("numpy"):
        for _ in range(PROBES):
            moved = _copies(arrays)
            for i in tested:
                nudge(moved[i])
            forward = subject.run(moved)
            for a in calls.kept_arrays(forward.kept):
                nudge(a)
            above = _copies(dys)
            for dy in above:
                nudge(dy)
            runs.append(_entries(forward.backward(*above), variable, forward.names))
    growth = 4 + math.sqrt(sum(dy.size for dy in dys))
    return {
        i: growth * np.std([np.asarray(run[i], np.float64) for run in runs if run], axis=0) + bit * np.abs(g)
        for i, g in tested.items()
        if g is not None
    }


# --- ops without a gradient --------------------------------------------------------------------------------------


def _check_forward(
    op: Op, arrays: tuple[Any, ...], attrs: dict[str, Any], backend: str | None, kind: np.dtype
) -> Report:
    """For an op that has no backward (an optimiser step): its results against the definition's in float64."""
    arrays = tuple(
        _convert(name, a, kind) for name, a in zip(op.names(calls.with_absent(op, arrays)), arrays, strict=False)
    )
    exact = tuple(a.astype(np.float64) if _is_float(a) else a for a in arrays)
    found, ctx = run(op, arrays, attrs, backend)
    expected, _ = run(op, exact, attrs, "numpy")
    report = Report(op.name, ctx.backend, kind.name, forward_error=0.0)
    largest = max(float(np.abs(a).max(initial=0.0)) for a in exact if _is_float(a)) or 1.0
    for name, y, truth in zip(ctx.spec.results, _tuple(found), _tuple(expected), strict=False):
        error = float(np.abs(to_host(y).astype(np.float64) - truth).max(initial=0.0)) / largest
        report.forward_error = max(report.forward_error or 0.0, error)
        if not error <= 32 * float(np.finfo(kind).eps):
            report.problems.append(f"{name} differs from the definition by {error:.1e} of the largest input")
    return report


def _tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)
