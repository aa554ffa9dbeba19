"""gradcheck: is a backward the derivative of its forward?

    report = cc.gradcheck(cc.ops.conv, (x, w, b), padding=2)     an op, on the backend that `backend` names
    report = cc.gradcheck(fn, (x, w))                            any fn(*arrays) -> (y, ctx), ctx.backward(dy) -> tuple
    report = cc.gradcheck(net, (x,))                             a layer or network: x and every parameter
    print(report); report.ok; report.max_error; report.wrong; report.plot("curves.png")

How the verdict is formed, and why it rests on convergence, stands in `gradcheck_curve.py`. Where it is taken:

1. y is made a scalar by random weights, f = sum(dy * y) with |dy| between 0.5 and 1.5: in float64, on the NumPy
   definition.
2. Every argument is tested along two directions over all its entries at once, whatever its size: one follows the signs
   of the gradient under test, so that a wrong factor shows at full strength; one has random signs. No entry of either
   is small, and the error is held against rounding, not against the whole gradient, so that one wrong pixel in a
   million right ones is seen: its error stays when all else has fallen to 10^-10. The first is swept over all steps,
   two evaluations each; the second is judged at the steps that decided the first.
3. A direction that fails, or meets a kink at every step, is cut into halves, again and again, until single entries are
   left: 2 log2(n) directions per wrong entry instead of n for all. Wrong ones are named (ten per argument at most), the
   entries at a kink are listed as not compared.

A gradient in float32 is computed by the backend in float32 and compared with the float64 derivative at the same point
(inputs are rounded first). What rounding may do to it is measured: the definition runs eight times in float32 with the
last bit of its inputs, and of what it keeps for backward, changed at random. Each entry's scatter s is allowed
(4 + sqrt(size of y)) s, since another backend may add up in another order; and the whole slope four last bits, for
constants that are rounded once.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backends import select
from .errors import CnncoreError, DTypeError
from .gradcheck_curve import COUNT, ENOUGH, FIRST, KINK, MORE, OK, RATIO, UNDECIDED, WRONG, Curve, Step, judge
from .gradcheck_report import CONSTANT, EMPTY, UNTESTED, Argument, Report, Wrong
from .layers import Drawing, Layer
from .ops.op import FLOATS, Context, Op, run

NAMED = 10  # wrong entries named per argument
PARTS = 2000  # parts of one argument looked at to name them
PROBES = 8  # float32 runs that measure rounding

Call = Callable[..., tuple[Any, Any]]


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
        per input (None: claimed constant); or a layer or network, whose parameters are checked with x.
    inputs: its arrays, in order. Float arrays are differentiated; integers, None and random keys are held constant.
    backend: whose gradient is tested ("numpy", "c", "cuda"; default: whoever computes the call). The derivative is
        always that of the NumPy definition in float64.
    dtype: the type the gradient under test is computed in; inputs are converted to it.
    seed: of the weights dy and the directions. gap: no step moves any entry by more than half of it (`Case.gap`).

    A kink is recognised by integer or boolean arrays that the context keeps (a mask, a winner), so keep them as its
    attributes. Returns a Report and raises nothing for a wrong gradient. Raises CnncoreError, DTypeError for inputs
    that cannot be checked, BackendError for a backend that is not there, and whatever fn itself raises.
    """
    kind = np.dtype(dtype)
    if kind not in FLOATS:
        raise DTypeError(f"gradcheck: dtype must be float32 or float64, got {kind}")
    if not gap > 0:
        raise CnncoreError(f"gradcheck: gap must be positive, got {gap!r}")
    arrays = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    if isinstance(fn, Layer) or (hasattr(fn, "apply") and hasattr(fn, "parameters")):
        if attrs or len(arrays) != 1:
            raise CnncoreError("gradcheck: a layer or network takes one input and no attributes")
        with _as_function(fn) as (call, parameters):
            names, values = ["x", *parameters], (*arrays, *parameters.values())
            constant = frozenset(parameters if getattr(fn, "frozen", False) else ())
            return _check(call, names, values, type(fn).__name__, backend, kind, seed, gap, constant)
    if not callable(fn):
        raise CnncoreError(f"gradcheck: fn must be an op, a function or a layer, got {type(fn).__name__}")
    op = getattr(fn, "op", None)
    if op is not None and op.backward is None:
        return _check_forward(op, arrays, attrs, backend, kind)
    subject = getattr(fn, "__name__", type(fn).__name__)
    names = _names(fn, len(arrays)) if op is None else op.names(arrays)[: len(arrays)]
    fixed: frozenset[str] = frozenset()
    if op is not None:
        fixed = frozenset(n for n, d in zip(names, op.differentiable(_all(op, arrays)), strict=False) if not d)
    return _check(lambda *a: fn(*a, **attrs), names, arrays, subject, backend, kind, seed, gap, fixed)


def _all(op: Op, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments left out count as None."""
    return arrays if op.variadic else arrays + (None,) * (len(op.arrays) - len(arrays))


def _names(fn: Any, count: int) -> list[str]:
    """The names of the first `count` positional arguments."""
    names: list[str] = []
    with contextlib.suppress(ValueError, TypeError):  # a builtin without a signature
        for p in inspect.signature(fn).parameters.values():
            if p.kind is p.VAR_POSITIONAL:
                names += [f"{p.name}{i}" for i in range(count - len(names))]
            elif p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD:
                names.append(p.name)
    return names[:count] + [f"input{i}" for i in range(len(names), count)]


@contextlib.contextmanager
def _as_function(net: Any) -> Iterator[tuple[Call, dict[str, Any]]]:
    """A network as a function of x and the values of its parameters; everything is put back at the end."""
    parameters = net.parameters()
    before = [(p, p.value, p.grad) for p in parameters.values()]
    drawing = [layer for _, layer in net.walk() if isinstance(layer, Drawing)] if isinstance(net, Layer) else []
    keys = [layer.key for layer in drawing]

    def rewind() -> None:
        for layer, key in zip(drawing, keys, strict=True):
            layer.key = key

    def call(x: Any, *values: Any) -> tuple[Any, Any]:
        for parameter, value in zip(parameters.values(), values, strict=True):
            parameter.value = value
        rewind()  # every call draws the same numbers
        y, ctx = net.apply(x)
        return y, _NetworkContext(ctx, net, parameters)

    try:
        yield call, {name: select.to_host(p.value) for name, p in parameters.items()}
    finally:
        rewind()
        for parameter, value, grad in before:
            parameter.value, parameter.grad = value, grad


@dataclass(frozen=True)
class _NetworkContext:
    """Makes a network's backward, which adds to `.grad`, return all gradients."""

    ctx: Any
    net: Any
    parameters: dict[str, Any]

    def backward(self, dy: Any) -> tuple[Any, ...]:
        self.net.zero_grad()
        dx = self.ctx.backward(dy)
        return dx, *(p.grad for p in self.parameters.values())


# --- the check ---------------------------------------------------------------------------------------------------


def _check(
    call: Call, names: list[str], arrays: tuple[Any, ...], subject: str,
    backend: str | None, kind: np.dtype, seed: int, gap: float, fixed: frozenset[str] = frozenset(),
) -> Report:  # fmt: skip
    arrays = tuple(_convert(name, a, kind) for name, a in zip(names, arrays, strict=True))
    variable = [_is_float(a) and name not in fixed for name, a in zip(names, arrays, strict=True)]
    if not any(variable):
        raise CnncoreError(f"gradcheck: {subject} has no float array among its inputs, nothing to differentiate")
    rng = np.random.default_rng(seed)
    given = _copies(arrays)
    with contextlib.nullcontext() if backend is None else select.use_backend(backend):
        y, ctx = _forward(call, given)
        report = Report(subject, str(getattr(ctx, "backend", backend or "own backward")), kind.name)
        if y.dtype != kind or not np.isfinite(y).all():
            found = f"is {y.dtype}" if y.dtype != kind else "holds NaN or Inf"
            report.problems.append(f"y {found}; finite {kind.name} values are needed, as in the inputs")
            return report
        dy = _weights(rng, y.shape).astype(kind)
        gradients = _gradients(report, ctx, dy, names, variable, arrays)
    for name, before, after in zip(names, arrays, given, strict=True):
        if isinstance(before, np.ndarray) and not np.array_equal(before, after):
            report.problems.append(f"{name} was changed in place by forward or backward")
            return report
    exact = tuple(a.astype(np.float64) if _is_float(a) else a for a in arrays)
    problem = _Problem(call, exact, dy.astype(np.float64), gap)
    if not np.array_equal(problem.forward(exact)[0], problem.forward(exact)[0]):
        report.problems.append("two calls with equal inputs differ: give the randomness as an input (uniforms, a key)")
        return report
    noise = _scatter(call, arrays, dy, gradients, rng) if kind == np.float32 else {}
    for i, name in enumerate(names):
        argument = Argument(name, tuple(getattr(arrays[i], "shape", ())), CONSTANT)
        if i in gradients:
            g = gradients[i]
            zeros = np.zeros(argument.shape)
            _check_argument(problem, i, zeros if g is None else g, noise.get(i, zeros), rng, argument)
            if g is None and argument.verdict == WRONG:
                report.problems.append(f"backward gave None for {name}, but y depends on it")
            elif g is None and argument.verdict == OK:
                argument.verdict = CONSTANT
        elif variable[i]:
            argument.verdict = WRONG  # its shape or type is among the problems
        report.arguments.append(argument)
    return report


def _is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype in FLOATS


def _convert(name: str, a: Any, kind: np.dtype) -> Any:
    """A float array in the dtype under test; anything that is held constant as it is."""
    if select.on_device(a):
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


def _forward(call: Call, arrays: tuple[Any, ...]) -> tuple[np.ndarray, Any]:
    """(y on the host, ctx), or an error that says what a function for gradcheck returns."""
    result = call(*arrays)
    if not isinstance(result, tuple) or len(result) != 2 or not hasattr(result[1], "backward"):
        raise CnncoreError("gradcheck: the function must return (y, ctx), with a method ctx.backward(dy)")
    if isinstance(result[0], tuple | list):
        raise CnncoreError("gradcheck: y must be one array; check a function with several outputs one by one")
    return np.asarray(select.to_host(result[0])), result[1]


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs, magnitudes between 0.5 and 1.5: no entry counts little, and no two cancel."""
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape))


def _gradients(
    report: Report, ctx: Any, dy: np.ndarray, names: list[str], variable: list[bool], arrays: tuple[Any, ...]
) -> dict[int, np.ndarray | None]:
    """Number of each variable argument -> its gradient in float64 (None: backward gave None), where it has the form of
    one; what has not is told in `report.problems`."""
    kept = dy.copy()
    result = ctx.backward(dy)
    if not np.array_equal(dy, kept):
        report.problems.append("backward changed dy in place")
        dy = kept
    count = len(ctx.names) if isinstance(ctx, Context) else len(names)  # an op's arguments may be left out
    if not isinstance(result, tuple | list) or len(result) != count:
        got = f"{len(result)} entries" if isinstance(result, tuple | list) else f"one {type(result).__name__}"
        report.problems.append(
            f"backward must return a tuple with a gradient per input ({', '.join(names)}), got {got}"
        )
        return {}
    found: dict[int, np.ndarray | None] = {}
    for i, name in enumerate(names):
        if not variable[i]:
            continue
        if result[i] is None:
            found[i] = None
            continue
        g, like = np.asarray(select.to_host(result[i])), arrays[i]
        if g.shape != like.shape:
            report.problems.append(f"the gradient for {name} must have its shape {like.shape}, got {g.shape}")
        elif g.dtype != like.dtype:
            report.problems.append(f"the gradient for {name} must have its dtype {like.dtype}, got {g.dtype}")
        else:
            found[i] = g.astype(np.float64)
    if isinstance(ctx, Context):
        _check_needs(report, ctx, dy, found)
    return found


def _check_needs(report: Report, ctx: Context, dy: np.ndarray, together: dict[int, np.ndarray | None]) -> None:
    """Asked for one gradient, an op gives the same one, and None for the others."""
    for i, expected in together.items():
        asked = f"needs={{{ctx.names[i]!r}}}"
        single = ctx.backward(dy, needs={ctx.names[i]})
        others = [name for j, name in enumerate(ctx.names) if j != i and single[j] is not None]
        if others:
            report.problems.append(f"{asked}: backward gave a gradient for {', '.join(others)} too")
        if expected is None:
            continue
        size = np.abs(expected).max(initial=0.0)
        same = single[i] is not None and np.allclose(
            select.to_host(single[i]), expected, rtol=0, atol=100 * float(np.finfo(dy.dtype).eps) * size, equal_nan=True
        )
        if not same:
            report.problems.append(f"{asked}: backward gave another gradient than without needs")


def _scatter(
    call: Call, arrays: tuple[Any, ...], dy: np.ndarray, tested: dict[int, Any], rng: np.random.Generator
) -> dict[int, np.ndarray]:
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
            _, ctx = _forward(call, moved)
            for a, _ in kept(ctx):
                nudge(a)
            above = dy.copy()
            nudge(above)
            runs.append(ctx.backward(above))
    growth = 4 + math.sqrt(dy.size)
    return {
        i: growth * np.std([np.asarray(run[i], np.float64) for run in runs], axis=0) + bit * np.abs(g)
        for i, g in tested.items()
        if g is not None
    }


# --- one argument ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """f = sum(dy * y) as a function of one argument, on the NumPy definition in float64."""

    call: Call
    arrays: tuple[Any, ...]
    dy: np.ndarray
    gap: float

    def forward(self, arrays: tuple[Any, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
        """y and the choices made on the way."""
        with select.use_backend("numpy"):
            y, ctx = _forward(self.call, arrays)
        return y.copy(), choices(ctx)

    def step(self, i: int, v: np.ndarray, h: float) -> Step:
        (above, chosen_above), (below, chosen_below) = (
            self.forward((*self.arrays[:i], self.arrays[i] + move * v, *self.arrays[i + 1 :])) for move in (h, -h)
        )
        crossed = len(chosen_above) != len(chosen_below) or not all(map(np.array_equal, chosen_above, chosen_below))
        with np.errstate(invalid="ignore", over="ignore"):
            slope = float(np.sum(self.dy * (above - below))) / (2 * h)
            size = float(np.sum(np.abs(self.dy) * np.maximum(np.abs(above), np.abs(below))))
        return Step(h, slope, size, crossed)

    def sweep(self, i: int, v: np.ndarray) -> list[Step]:
        """All steps; further, smaller ones where kinks took the large."""
        h = min(FIRST, self.gap / (2 * np.abs(v).max()))
        steps: list[Step] = []
        while len(steps) < COUNT or (len(steps) < COUNT + MORE and sum(not s.crossed for s in steps) <= ENOUGH):
            steps.append(self.step(i, v, h))
            h /= RATIO
        return steps

    def curve(self, i: int, v: np.ndarray, g: np.ndarray, noise: np.ndarray, whole: Curve | None = None) -> Curve:
        """The sweep along v, judged. Where a sweep over the whole argument decided, its three steps are enough."""
        moved = np.nonzero(v)
        terms = g[moved] * v[moved]
        slope = float(terms.sum())
        rounding = float(np.linalg.norm(noise[moved] * v[moved])) + (4 * 2.0**-23 * abs(slope) if noise.any() else 0)
        length = float(np.linalg.norm(terms))
        if whole is not None and whole.best is not None:
            steps = [self.step(i, v, whole.best.h * factor) for factor in (RATIO, 1, 1 / RATIO)]
            curve = judge(steps, slope, length, rounding, whole.scatter)
            if curve.best is not None:
                return curve
        return judge(self.sweep(i, v), slope, length, rounding)


def _check_argument(
    problem: _Problem, i: int, g: np.ndarray, noise: np.ndarray, rng: np.random.Generator, found: Argument
) -> None:
    """Fill in `found` for argument i with gradient g."""
    if g.size == 0:
        found.verdict = EMPTY
        return
    x = problem.arrays[i]
    size = float(np.sqrt(np.mean(x * x))) or 1.0
    random = size * _weights(rng, g.shape)
    along = np.where(g == 0, random, np.copysign(size * np.abs(_weights(rng, g.shape)), g))
    first = problem.curve(i, along, g, noise)
    found.curves = (first, problem.curve(i, random, g, noise, first))
    verdicts = [c.verdict for c in found.curves]
    found.verdict = next(v for v in (WRONG, UNDECIDED, KINK, OK) if v in verdicts)
    if found.verdict != OK:
        failed = verdicts.index(found.verdict)
        _locate(problem, i, (along, random)[failed], found.curves[failed], g, noise, found)


def _locate(
    problem: _Problem, i: int, v: np.ndarray, whole: Curve, g: np.ndarray, noise: np.ndarray, found: Argument
) -> None:
    """Cut a direction that failed into halves until the entries are found; settles `found.verdict`."""
    pending, parts, compared, undecided = [np.arange(v.size)], 0, 0, False
    while pending and parts < PARTS and len(found.wrong) < NAMED:
        part = pending.pop()
        parts += 1
        only = np.zeros(v.size)
        only[part] = v.ravel()[part]
        curve = problem.curve(i, only.reshape(v.shape), g, noise, whole)
        if curve.verdict == OK:
            compared += part.size
            found.curves = (*found.curves, curve) if compared == part.size else found.curves
        elif part.size > 1:
            pending += [part[part.size // 2 :], part[: part.size // 2]]
        else:
            index = tuple(int(n) for n in np.unravel_index(part[0], v.shape))
            if curve.verdict == WRONG:
                numeric = curve.best.slope / v[index] if curve.best else math.nan
                found.wrong.append(Wrong(found.name, index, float(g[index]), float(numeric)))
            elif curve.verdict == KINK:
                found.kinks.append(index)
            undecided = undecided or curve.verdict == UNDECIDED
    found.more = bool(pending)
    if found.wrong or found.verdict == WRONG:
        found.verdict = WRONG
    elif undecided or pending:
        found.verdict = UNDECIDED
    else:
        found.verdict = OK if compared else UNTESTED


def choices(ctx: Any) -> list[np.ndarray]:
    """Every choice that a forward saved: integers and booleans anywhere in its context (winners, masks), and the signs
    that an op names in `Op.signs`. Between two points with the same choices a function has no kink."""
    found = ((np.asarray(value), signed) for value, signed in kept(ctx))
    return [np.sign(a) if signed else a for a, signed in found if signed or a.dtype.kind in "biu"]


def kept(ctx: Any) -> Iterator[tuple[Any, bool]]:
    """Every array and number in a context and the contexts inside it, and whether its sign is a choice."""
    pending: list[tuple[Any, bool]] = [(ctx, False)]
    seen: set[int] = set()
    while pending:
        item, signed = pending.pop()
        if id(item) in seen or isinstance(item, type) or hasattr(item, "apply"):
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray | np.generic | int | float):
            yield item, signed
        elif isinstance(item, Context):
            pending += [(a, name in item.op.signs) for name, a in zip(item.op.saved, item.saved, strict=True)]
        elif isinstance(item, tuple | list):
            pending += [(inside, False) for inside in item]
        elif isinstance(item, dict):
            pending += [(inside, False) for inside in item.values()]
        elif hasattr(item, "__dict__"):
            pending += [(inside, False) for inside in vars(item).values()]


# --- ops without a gradient --------------------------------------------------------------------------------------


def _check_forward(
    op: Op, arrays: tuple[Any, ...], attrs: dict[str, Any], backend: str | None, kind: np.dtype
) -> Report:
    """For an op that has no backward (an optimiser step): its results against the definition's in float64."""
    arrays = tuple(_convert(name, a, kind) for name, a in zip(op.names(_all(op, arrays)), arrays, strict=False))
    exact = tuple(a.astype(np.float64) if _is_float(a) else a for a in arrays)
    found, ctx = run(op, arrays, attrs, backend)
    expected, _ = run(op, exact, attrs, "numpy")
    report = Report(op.name, ctx.backend, kind.name, forward_error=0.0)
    largest = max(float(np.abs(a).max(initial=0.0)) for a in exact if _is_float(a)) or 1.0
    for name, y, truth in zip(ctx.spec.results, _tuple(found), _tuple(expected), strict=False):
        error = float(np.abs(select.to_host(y).astype(np.float64) - truth).max(initial=0.0)) / largest
        report.forward_error = max(report.forward_error or 0.0, error)
        if not error <= 32 * float(np.finfo(kind).eps):
            report.problems.append(f"{name} differs from the definition by {error:.1e} of the largest input")
    return report


def _tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)
