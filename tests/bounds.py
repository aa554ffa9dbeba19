"""How far a result may lie from the exact one: bounds that follow from rounding, not tolerances that happen to pass.

Notation: eps is the distance from 1 to the next number of the dtype, so one operation errs by at most eps/2 of its
result. A sum of n products, in whatever order, with or without fused multiply-add, errs by at most

    (n + 1) eps / 2  sum |terms|   to first order;  we allow   (n + 2) eps sum |terms|,

twice that, which also pays for the float64 reference's own rounding. An op that is linear in what it sums gets
sum |terms| by running the definition on absolute values. The other ops' bounds are derived at their functions.
A bound of 0 means: equal. The reference is always the NumPy definition in float64, on the very same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnncore.ops.contrast import blur
from cnncore.ops.norm import box_sum
from cnncore.ops.op import Op, run
from cnncore.ops.records import registry
from cnncore.ops.roles import INDEX

Arrays = tuple[Any, ...]


class Problem(NamedTuple):
    """One call in the dtype under test: arrays as they are handed over, attributes, and the output's gradient."""

    op: Op
    arrays: Arrays
    attrs: dict[str, Any]
    dtype: Any
    dy: Any = None  # None: the op has no gradient


class Answer(NamedTuple):
    """The exact results in float64, and how far from them each may lie."""

    outputs: Arrays
    gradients: Arrays
    output_bounds: Arrays
    gradient_bounds: Arrays


def outputs_of(op: Op, y: Any) -> Arrays:
    return (y,) if op.outputs == 1 else tuple(y)


def exact(a: Any, role: str = "") -> Any:
    """A float64 copy with plain strides; None, keys and integers stay."""
    return a if a is None or isinstance(a, tuple) else np.array(a, None if role == INDEX else np.float64, order="C")


def definition(problem: Problem, transform: Callable[[Any], Any] = lambda a: a) -> tuple[Arrays, Arrays]:
    """Outputs and gradients of the NumPy definition in float64, of `transform` of all floats."""
    op = problem.op
    roles = op.roles(problem.arrays)
    arrays = tuple(
        a if a is None or isinstance(a, tuple) or r == INDEX else transform(exact(a))
        for a, r in zip(problem.arrays, roles, strict=True)
    )
    y, ctx = run(op, arrays, problem.attrs, "numpy")
    gradients = ctx.backward(transform(exact(problem.dy))) if problem.dy is not None else ()
    return outputs_of(op, y), gradients


def answer(problem: Problem) -> Answer:
    """The exact answer to a problem, with its bounds."""
    outputs, gradients = definition(problem)
    eps = float(np.finfo(problem.dtype).eps)
    with np.errstate(all="ignore"):
        bound = BOUNDS.get(problem.op.name, by_flops)(problem, outputs, gradients, eps)
    return Answer(outputs, gradients, *bound)


def check(got: Any, want: Any, bound: Any, what: str) -> None:
    """Raise where `got` is farther from `want` than `bound`, or one of them alone is NaN or infinite."""
    if want is None:
        assert got is None, f"{what}: expected None, got an array"
        return
    assert got is not None, f"{what}: expected an array, got None"
    got = np.asarray(got)
    assert got.shape == np.shape(want), f"{what}: shape {got.shape}, expected {np.shape(want)}"
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - want)
        fine = (error <= bound) | (got == want) | (np.isnan(got) & np.isnan(want))
    if not fine.all():
        worst = tuple(int(i) for i in np.argwhere(~fine)[0])
        raise AssertionError(
            f"{what}: {np.count_nonzero(~fine)} of {fine.size} wrong, the first at {worst}: got {got[worst]!r}, "
            f"expected {np.asarray(want)[worst]!r} within {np.broadcast_to(bound, fine.shape)[worst]:.3g}"
        )


# --- sums of products ---

Terms = Callable[[Problem], tuple[int, tuple[int, ...]]]  # how many an output sums, and each gradient


def linear_in_its_terms(terms: Terms) -> Callable[..., tuple[Arrays, Arrays]]:
    def bound(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
        sizes, slopes = definition(problem, np.abs)
        count, counts = terms(problem)
        tiny = float(np.finfo(problem.dtype).tiny)
        return (
            tuple((count + 2) * (eps * s + tiny) for s in sizes),
            tuple(None if s is None else (n + 2) * (eps * s + tiny) for n, s in zip(counts, slopes, strict=False)),
        )

    return bound


def conv_terms(problem: Problem) -> tuple[int, tuple[int, ...]]:
    _, w, _ = problem.arrays
    taps, groups = math.prod(w.shape[2:]), problem.attrs.get("groups", 1)
    above = 0 if problem.dy is None else problem.dy.shape[0] * math.prod(problem.dy.shape[2:])
    return w.shape[1] * taps + 1, (w.shape[0] // groups * taps, above, above)


def conv(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """A sum of products. Where Winograd may compute it, an element errs as its tile does, however small its own terms
    are: by 1e-5 of the largest at most, of the standard normal x and w that are drawn here. (test_winograd.py has the
    bound for any.) The bias' gradient is a plain sum."""
    sums, slopes = linear_in_its_terms(conv_terms)(problem, outputs, gradients, eps)
    window = problem.op.rule(*problem.arrays, **problem.attrs).params.window
    w, groups = problem.arrays[1], problem.attrs.get("groups", 1)
    small = window.kernel in ((3, 3), (5, 5)) and set(window.stride) == set(window.dilation) == {1}
    many = min(w.shape[1], w.shape[0] // groups) >= 8  # FEWEST in csrc/conv_winograd.c
    if problem.dtype != np.float32 or problem.attrs.get("algorithm") == "direct" or not (small and many):
        return sums, slopes

    def widened(bounds: Arrays, results: Arrays) -> Arrays:
        return tuple(np.maximum(b, 1e-5 * np.max(np.abs(a), initial=0)) for b, a in zip(bounds, results, strict=True))

    return widened(sums, outputs), (*widened(slopes[:2], gradients[:2]), *slopes[2:])


def conv_relu(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """As for conv: max(0, y) errs by no more than y. Where y is within its bound of 0, rounding decides whether dy
    passes, so that the gradients of such a dy may be there or not."""
    plain = problem._replace(op=registry["conv"])
    bounds = answer(plain)
    if problem.dy is None:
        return bounds.output_bounds, ()
    (sums,), (within,), dy = bounds.outputs, bounds.output_bounds, exact(problem.dy)
    unsure = np.abs(sums) <= within
    passing = answer(plain._replace(dy=np.where((sums > 0) | unsure, dy, 0)))
    _, lost = definition(plain._replace(dy=np.where(unsure, dy, 0)), np.abs)
    return (within,), tuple(None if a is None else a + b for a, b in zip(passing.gradient_bounds, lost, strict=True))


def pool_taps(problem: Problem) -> int:
    kernel = problem.attrs.get("kernel", problem.arrays[0].shape[2:])  # a global pool's is all of S
    return kernel ** (problem.arrays[0].ndim - 2) if isinstance(kernel, int) else math.prod(kernel)


def linear_terms(problem: Problem) -> tuple[int, tuple[int, ...]]:
    (n, f), o = problem.arrays[0].shape, problem.arrays[1].shape[0]
    return f + 1, (o, n, n)


def max_pool(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """The winner exactly; a gradient sums at most one dy per tap, of the winners that x (not |x|) chooses."""
    if problem.dy is None:
        return (0.0,), ()
    _, ctx = run(problem.op, tuple(exact(a) for a in problem.arrays), problem.attrs, "numpy")
    sizes = ctx.backward(np.abs(exact(problem.dy)))[0]
    return (0.0,), ((pool_taps(problem) + 2) * eps * sizes, None)[: len(problem.arrays)]


def lp_pool(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """With n taps: |x| / m errs by eps/2 of itself, so its power p by p eps/2 and what pow adds (2 eps), the sum by n
    eps/2 more; the root divides all of that by p and errs by 2 eps itself: (n + 6) eps of y. The slope (|x| / y)^(p-1)
    errs by (p - 1) times that and an eps, and by 4 eps; n of them are summed. What underflows is below tiny."""
    n, p = pool_taps(problem), problem.attrs.get("p", 2.0)
    tiny = float(np.finfo(problem.dtype).tiny)
    relative = (n + 6) * eps
    if problem.dy is None:
        return (relative * np.abs(outputs[0]) + tiny,), ()
    steep = ((p * (n + 7) if p < math.inf else 0) + n + 4) * eps
    _, (sizes,) = definition(problem, np.abs)
    lost = n * tiny * (1 + np.abs(problem.dy).max(initial=0))
    return (relative * np.abs(outputs[0]) + tiny,), (steep * sizes + lost,)


def expectation_pool(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """As for lp_pool: both sums, of (a / m)^power and of (a / m)^(power + 1), err by (n + power + 4) eps, so y by r =
    (2 n + 2 power + 8) eps, and a / y by r + eps. Each of a slope's two terms errs by what power makes of that and by
    `total`, which has y to the same power. (a / y)^power <= total and total >= 1 / n: the slopes of at most n windows
    are at most 2 power + 1 times n each."""
    n, power = pool_taps(problem), problem.attrs.get("power", 1.0)
    tiny = float(np.finfo(problem.dtype).tiny)
    relative = (2 * n + 2 * power + 8) * eps
    if problem.dy is None:
        return (relative * np.abs(outputs[0]) + tiny,), ()
    most = (2 * power + 1) * n * n * float(np.abs(problem.dy).max(initial=0))
    return (relative * np.abs(outputs[0]) + tiny,), ((2 * power + 2) * (relative + 6 * eps) * most + tiny,)


def entropy_pool(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """q = n / sum of a / m errs by (n + 3) eps, y by one more. Its square's error is twice that; of at most n windows,
    each with a slope of at most 2 q + q^2 / n <= 3 n."""
    n = pool_taps(problem)
    tiny = float(np.finfo(problem.dtype).tiny)
    y = ((n + 4) * eps * np.abs(outputs[0]) + tiny,)
    if problem.dy is None:
        return y, ()
    return y, ((3 * n + 8) * eps * 3 * n * n * float(np.abs(problem.dy).max(initial=0)),)


def lp_unit(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """t^p errs by (p |log t| + 4) eps of itself, weighted by t^p <= 1 in a mean of n: s errs by p (n + 30) eps of
    itself, its p-th root and y by (n + 30) eps. t^(p-1) errs by p |log t| eps of itself, and no t is in doubt that is
    below eps^8; every gradient errs by these of its sum of magnitudes."""
    x, rho, center = (None if a is None else exact(a) for a in problem.arrays)
    (y,), tiny = outputs, float(np.finfo(problem.dtype).tiny)
    n = problem.attrs["pieces"] * pool_taps(problem)
    bound = (n + 30) * eps * y + tiny
    if problem.dy is None:
        return (bound,), ()
    dy, p = np.abs(exact(problem.dy)), 1 + np.logaddexp(np.max(rho, initial=0), 0)
    _, ctx = run(problem.op, (x, rho, center), problem.attrs, "numpy")
    dx, relative = np.abs(ctx.backward(dy)[0]), 2 * p * (n + 30 + 8 * np.log(1 / eps)) * eps
    rest = (0, *range(2, x.ndim))
    to_rho = (relative + dy.size * eps) * np.sum(dy * y, axis=rest) * (np.log(n) + 1)
    to_center = None if center is None else (relative + dx.size * eps) * np.sum(dx, axis=rest) + tiny
    return (bound,), (relative * dx + tiny, to_rho + tiny, to_center)


def copies(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """Values that are only moved, or replaced by 0."""
    return tuple(0.0 for _ in outputs), tuple(0.0 for _ in gradients)


# --- sigmoid and tanh: y is within 4 units in the last place (an exp of 2, a sum, a quotient), so within 4 eps |y| ---


def sigmoid(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """dy y (1 - y): y errs by 4 eps of itself, 1 - y by as much and a rounding, and there are two products."""
    (y,), tiny = outputs, float(np.finfo(problem.dtype).tiny)
    if problem.dy is None:
        return (4 * eps * y + tiny,), ()
    return (4 * eps * y + tiny,), (np.abs(exact(problem.dy)) * (11 * eps * y + tiny) + tiny,)


def tanh(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """dy (1 - y)(1 + y): each factor errs by 4.5 eps and is at most 2, and there are two products."""
    bound, tiny = 4 * eps * np.abs(outputs[0]), float(np.finfo(problem.dtype).tiny)
    if problem.dy is None:
        return (bound + tiny,), ()
    return (bound + tiny,), (np.abs(exact(problem.dy)) * 12 * eps + tiny,)


# --- softmax ---
# With D the largest |x_j - m|: x - m errs by eps/2 D, so exp errs by (D/2 + 4) eps of itself, allowing it 4 eps of its
# own; the sum of C of them by C/2 eps more, the division by eps/2. In all r = (D + C + 8) eps of y.


def _relative(x: Any, eps: float, axis: int = 1) -> Any:
    return (np.max(x, axis=axis, keepdims=True) - np.min(x, axis=axis, keepdims=True) + x.shape[axis] + 8) * eps


def softmax(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """dx = y (dy - s), s = sum dy y: y errs by r, so s by (r + (C + 2) eps) sum |dy y|, and dx by what follows."""
    x, tiny = exact(problem.arrays[0]), float(np.finfo(problem.dtype).tiny)
    axis = problem.attrs.get("axis", 1)
    (y,), r = outputs, _relative(x, eps, axis)
    if problem.dy is None:
        return (r * y + tiny,), ()
    dy = np.abs(exact(problem.dy))
    s = np.sum(dy * y, axis=axis, keepdims=True)
    return (r * y + tiny,), (y * (dy + s) * (2 * r + (x.shape[axis] + 4) * eps) + tiny * (1 + dy + s),)


def softmax_cross_entropy(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """A row's loss log(total) - shifted: total errs by r of itself, so its log by r; log and difference round on
    values up to log C + D. N rows are summed. The gradient errs as the probabilities do, and by three roundings."""
    logits, labels = exact(problem.arrays[0]), problem.arrays[1]
    if not len(labels):
        return (0.0,), (0.0, None)
    r = _relative(logits, eps)[:, 0]
    spread = np.ptp(logits, axis=1) + math.log(logits.shape[1])
    scale = 1 / len(labels) if problem.attrs.get("reduction", "mean") == "mean" else 1
    loss = np.sum(r + 4 * eps * spread + (len(labels) + 3) * eps * spread) * scale
    dy = 1.0 if problem.dy is None else float(np.abs(problem.dy))
    e = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    probabilities = e / np.sum(e, axis=1, keepdims=True)
    gradient = (r[:, None] * probabilities + 4 * eps) * scale * dy
    return (loss,), (gradient, None)


# --- normalisation ---
# d sums n squares, so it errs by (n + 3) eps of itself; d^b by b times that, by b |log d| eps for b rounded to the
# dtype, and by 8 eps of its own. A gradient has the exponent b + 1, and is a sum of n terms: what its two parts can
# come to follows from the magnitudes, since |d y / d x| is largest where all signs agree.


def lrn(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    op, (x,), attrs = problem.op, problem.arrays, problem.attrs
    p, x = op.rule(*problem.arrays, **attrs).params, exact(x)
    n = math.prod(b + a + 1 for b, a in zip(p.before, p.after, strict=True))
    d = p.k + p.alpha * box_sum(x * x, p.before, p.after)
    r = 2 * ((p.beta + 1) * (n + 4 + np.max(np.abs(np.log(d)), initial=0)) + n + 16) * eps
    tiny = float(np.finfo(problem.dtype).tiny)
    if problem.dy is None:
        return (r * np.abs(outputs[0]) + tiny,), ()
    direct = np.abs(exact(problem.dy)) / d**p.beta
    sizes = direct + 2 * p.alpha * p.beta * np.abs(x) * box_sum(direct * np.abs(x) / d, p.after, p.before)
    return (r * np.abs(outputs[0]) + tiny,), (r * sizes + tiny,)


# The blur of a mean over C maps sums C terms, then the taps of every axis, with weights and their sums that err by a
# few eps themselves: q = (C + 2 taps + 16) eps of its sum of magnitudes.


def _blur_error(problem: Problem, eps: float) -> tuple[Any, float]:
    p = problem.op.rule(*problem.arrays, **problem.attrs).params
    taps = sum(b + a + 1 for b, a in zip(p.before, p.after, strict=True))
    return p, (problem.arrays[0].shape[1] + 2 * taps + 16) * eps


def subtractive_norm(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    p, q = _blur_error(problem, eps)
    tiny = float(np.finfo(problem.dtype).tiny)

    def bound(a: Any, turned: bool) -> Any:
        a = np.abs(exact(a))
        return q * (a + blur(a.mean(axis=1), p, turned)[:, None]) + tiny

    return (bound(problem.arrays[0], False),), () if problem.dy is None else (bound(problem.dy, True),)


def divisive_norm(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """d errs by q, and by the P + 4 roundings of the mean; u by twice that and its C products; e by the sum over the
    image once more, and the blur of e by q. Magnitudes: as the definition computes them, with every sign alike. Where r
    is by chance so near the mean or the floor that rounding may choose, the gradient errs by all that goes through d.
    """
    (x,), tiny = problem.arrays, float(np.finfo(problem.dtype).tiny)
    p, q = _blur_error(problem, eps)
    x, maps, pixels = np.abs(exact(x)), x.shape[1], math.prod(x.shape[2:])
    if problem.dy is None or not x.size:
        return (2 * (q + pixels * eps) * np.abs(outputs[0]) + tiny,), (tiny,)[: problem.dy is not None]
    spatial = tuple(range(1, x.ndim - 1))
    r = np.sqrt(blur((x * x).mean(axis=1), p))
    least = np.maximum(r.mean(axis=spatial, keepdims=True), p.floor)
    dy, d, relative = np.abs(exact(problem.dy)), np.maximum(r, least), 2 * (4 * q + (maps + 4 * pixels + 16) * eps)
    u = (dy * x).sum(axis=1) / (d * d)

    def through(u: Any) -> Any:
        e = np.divide(u + u.mean(axis=spatial, keepdims=True), r, out=np.zeros_like(r), where=r != 0)
        return x * (blur(e, p, turned=True) / maps)[:, None]

    apart = np.abs(r - least) / least
    unsure = (apart < relative + 64 * eps) & (apart > 1e-12)  # what is equal but for float64's rounding counts as equal
    sizes = dy / d[:, None] + through(u)
    return (relative * np.abs(outputs[0]) + tiny,), (relative * sizes + through(np.where(unsure, u, 0)) + tiny,)


# --- optimiser steps: a short formula; every operation rounds, and so does every rate that is cast to the dtype ---


def sgd_step(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """velocity' has 5 roundings, value' at most 10, each of at most its sum of magnitudes."""
    value, grad, velocity = (np.abs(exact(a)) for a in problem.arrays)
    a = problem.attrs
    g = grad + a.get("weight_decay", 0.0) * value
    v = a.get("momentum", 0.0) * velocity + g
    return (10 * eps * (value + a["lr"] * (g + a.get("momentum", 0.0) * v + v)), 6 * eps * v), ()


def adam_step(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """mean' and square' as sums of magnitudes M, S; value' = value - rate mean' / d, d = sqrt(square') c + eps:
    mean' errs by 8 eps M, d by a relative 4 eps S / square' + 4 eps."""
    value, grad, mean, square = (np.abs(exact(a)) for a in problem.arrays)
    a = problem.attrs
    beta1, beta2 = a.get("beta1", 0.9), a.get("beta2", 0.999)
    g = grad + a.get("weight_decay", 0.0) * value
    m, s = beta1 * mean + (1 - beta1) * g, beta2 * square + (1 - beta2) * g * g
    new = np.maximum(np.abs(outputs[2]), np.finfo(problem.dtype).tiny)
    d = np.sqrt(new / (1 - beta2 ** a["step"])) + a.get("eps", 1e-8)
    update = a["lr"] * m / (1 - beta1 ** a["step"]) / d
    return (eps * (2 * value + update * (12 + 6 * s / new)), 8 * eps * m, 8 * eps * s), ()


def by_flops(problem: Problem, outputs: Arrays, gradients: Arrays, eps: float) -> tuple[Arrays, Arrays]:
    """For an op without an entry below: as many roundings as it has operations per output, of its largest magnitude."""
    spec = problem.op.rule(*problem.arrays, **problem.attrs)
    operations = sum(problem.op.flops(spec, problem.arrays)) / max(np.size(outputs[0]), 1) + 8

    def bound(a: Any) -> Any:
        return None if a is None else operations * eps * np.max(np.abs(a), initial=0.0)

    return tuple(bound(a) for a in outputs), tuple(bound(a) for a in gradients)


BOUNDS: dict[str, Callable[..., tuple[Arrays, Arrays]]] = {
    "conv": conv,
    "conv_relu": conv_relu,
    "max_pool": max_pool,
    "relu_max_pool": max_pool,
    "maxout": max_pool,
    "lp_unit": lp_unit,
    "avg_pool": linear_in_its_terms(lambda p: (pool_taps(p) + 1, (2 * pool_taps(p),))),
    "lp_pool": lp_pool,
    "gaussian_lp_pool": lp_pool,
    "stochastic_pool": max_pool,
    "expectation_pool": expectation_pool,
    "entropy_pool": entropy_pool,
    "linear": linear_in_its_terms(linear_terms),
    "softmax": softmax,
    "softmax_cross_entropy": softmax_cross_entropy,
    "subtractive_norm": subtractive_norm,
    "divisive_norm": divisive_norm,
    "lrn": lrn,
    "lrn_within": lrn,
    "relu": copies,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "dropout": linear_in_its_terms(lambda p: (1, (1, 0))),
    "add": linear_in_its_terms(lambda p: (len(p.arrays), (0,) * len(p.arrays))),
    "concat": copies,
    "slice": copies,
    "sgd_step": sgd_step,
    "adam_step": adam_step,
}
BOUNDS |= {f"global_{name}": bound for name, bound in BOUNDS.items() if name.endswith("_pool")}
