"""The end of a network: linear, softmax, softmax_cross_entropy. Kernels: csrc/linear.c, csrc/dense.c, dense_cuda.py."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..backends.device import to_host
from ..errors import CnncoreError, ShapeError
from . import domain, geometry
from .op import Op
from .records import register
from .roles import DENSE, INDEX, MAP
from .spec import MAX_AXES, Arrays, Case, Spec, flops_free
from .sums import product, total

# --- linear ---


def linear_rule(x: Any, w: Any, b: Any = None) -> Spec:
    """Fully connected layer.

    y = x w^T + b.   Gradient: dx = dy w, dw = dy^T x, db = sum of dy over the batch.

    Shapes: x (N, F), w (O, F), b (O,) or None, y (N, O).
    Edges: an empty batch gives an empty y and zero dw, db. NaN and Inf propagate along their rows and columns.
    Raises ShapeError, DTypeError.
    Source: the paper's 1.3.
    """
    if len(x.shape) != 2 or len(w.shape) != 2:
        raise ShapeError(f"linear: x must be (N, F) and w (O, F), got shapes {tuple(x.shape)} and {tuple(w.shape)}")
    if x.shape[1] != w.shape[1] or 0 in w.shape:
        raise ShapeError(f"linear: w has {w.shape[1]} input features for {w.shape[0]} outputs, x has {x.shape[1]}")
    if b is not None and tuple(b.shape) != (w.shape[0],):
        raise ShapeError(f"linear: b must have shape ({w.shape[0]},), got {tuple(b.shape)}")
    return Spec(SimpleNamespace(), {"y": ((x.shape[0], w.shape[0]), None)})


def linear_forward(p: Any, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> Arrays:
    return (product(x, w.T) if b is None else product(x, w.T) + b,)


def linear_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray, x: np.ndarray, w: np.ndarray) -> Arrays:
    return (
        product(dy, w) if needs[0] else None,
        product(dy.T, x) if needs[1] else None,
        total(dy, 0) if needs[2] else None,
    )


def linear_domain(draw: domain.Draw) -> Case:
    n, f, o = draw.integer(1, 5), draw.integer(1, 9), draw.integer(1, 9)
    return Case((draw.normal(n, f), draw.normal(o, f), draw.choice([draw.normal(o), None])), {})


def linear_flops(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    forward = 2 * arrays[0].shape[0] * math.prod(arrays[1].shape)
    return forward, 2 * forward


linear = register(
    Op(
        "linear", linear_rule, linear_forward, linear_backward, {"x": MAP, "w": DENSE, "b": DENSE}, ("x", "w"),
        linear_domain, linear_flops,
    )
)  # fmt: skip

# --- softmax ---


def softmax_rule(x: Any, *, axis: int = 1) -> Spec:
    """Softmax along an axis, by default over axis 1, the maps or classes.

    y_i = exp(x_i - m) / sum over j of exp(x_j - m), m = max of x.   Gradient: y_i (dy_i - sum over j of dy_j y_j).

    Shapes: x of 1 to 5 axes, y the same. `axis` may be negative; of an x with one axis it must be named (0 or -1).
    Edges: no overflow at any finite x. A NaN or +Inf among the x_j makes their whole softmax NaN.
    Raises ShapeError, DTypeError.
    Source: the paper's 1.3.
    """
    shape, rank = tuple(x.shape), len(x.shape)
    place = geometry.integer("softmax", "axis", axis, -MAX_AXES)
    if not -rank <= place < rank:
        hint = f"; name one from {-rank} to {rank - 1}: softmax(x, axis=-1)" if rank else ""
        raise ShapeError(f"softmax: x must be an array with an axis {place}, got shape {shape}{hint}")
    place %= rank
    if shape[place] == 0:
        raise ShapeError(f"softmax: x must be of length 1 at least along axis {place}, got shape {shape}")
    five = place if place < 2 else place + MAX_AXES - rank  # as kernels number axes: those that x lacks are the 2nd on
    return Spec(SimpleNamespace(place=place, axis=five), {"y": (shape, None)})


def softmax_forward(p: Any, x: np.ndarray) -> Arrays:
    e = np.exp(x - x.max(axis=p.place, keepdims=True))
    return (e / total(e, p.place, keepdims=True),)


def softmax_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray, y: np.ndarray) -> Arrays:
    return (y * (dy - total(dy * y, p.place, keepdims=True)) if needs[0] else None,)


def softmax_domain(draw: domain.Draw) -> Case:
    shape = [draw.integer(1, 6) for _ in range(2)] + [draw.integer(1, 3) for _ in range(draw.integer(0, 3))]
    shape = shape if draw.choice([True, True, True, False]) else shape[:1]
    axis = draw.choice([1, draw.integer(-len(shape), len(shape) - 1)]) if len(shape) > 1 else draw.choice([0, -1])
    return Case((3 * draw.normal(*shape),), {} if axis == 1 else {"axis": axis})


softmax = register(
    Op("softmax", softmax_rule, softmax_forward, softmax_backward, {"x": MAP}, ("y",), softmax_domain, flops_free)
)

# --- softmax_cross_entropy ---


def softmax_cross_entropy_rule(logits: Any, labels: Any, *, reduction: str = "mean") -> Spec:
    """Negative log-likelihood of the labels under softmax(logits), through log-sum-exp.

    y = r sum over n of (log sum over j of exp(z_nj - m_n) + m_n - z_n,label),  r = 1 ("sum") or 1/N ("mean").
    Gradient: dlogits = r dy (softmax(logits) - onehot(labels)).

    Shapes: logits (N, K), labels (N,) integers in [0, K), y a scalar (0-d).
    Edges: no overflow at any finite logits; NaN or +Inf gives NaN. An empty batch gives 0.
    Raises ShapeError, DTypeError, CnncoreError (a label out of range, an unknown reduction).
    Source: the paper's 1.3; ONNX's SoftmaxCrossEntropyLoss.
    """
    if len(logits.shape) != 2 or logits.shape[1] == 0:
        raise ShapeError(f"softmax_cross_entropy: logits must be (N, K), got shape {tuple(logits.shape)}")
    n, k = logits.shape
    if tuple(labels.shape) != (n,):
        raise ShapeError(f"softmax_cross_entropy: labels must have shape ({n},), got {tuple(labels.shape)}")
    if not isinstance(reduction, str) or reduction not in ("mean", "sum"):
        raise CnncoreError(f"softmax_cross_entropy: reduction must be 'mean' or 'sum', got {reduction!r}")
    scale = 1.0 / n if reduction == "mean" and n else 1.0
    return Spec(SimpleNamespace(scale=scale), {"y": ((), None), "probabilities": ((n, k), None)})


def softmax_cross_entropy_values(logits: Any, labels: Any) -> None:
    if 0 in labels.shape:
        return
    found, k = to_host(labels), logits.shape[1]
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= k:
        raise CnncoreError(
            f"softmax_cross_entropy: labels must lie in [0, {k}), got {low if low < 0 else high} "
            f"at index {int(found.argmin() if low < 0 else found.argmax())}"
        )


def softmax_cross_entropy_forward(p: Any, logits: np.ndarray, labels: np.ndarray) -> Arrays:
    shifted = logits - logits.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    below = total(e, 1, keepdims=True)
    loss = np.log(below[:, 0]) - shifted[np.arange(len(labels)), labels]
    return np.asarray(loss.sum(dtype=np.float64) * p.scale, logits.dtype), e / below


def softmax_cross_entropy_backward(
    p: Any, needs: tuple[bool, ...], dy: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
) -> Arrays:
    if not needs[0]:
        return None, None
    onehot = np.arange(probabilities.shape[1]) == labels[:, None]
    return ((probabilities - onehot) * (dy * p.scale)).astype(dy.dtype), None


def softmax_cross_entropy_domain(draw: domain.Draw) -> Case:
    n, k = draw.integer(1, 5), draw.integer(1, 6)
    labels = np.array([draw.integer(0, k - 1) for _ in range(n)])
    return Case((3 * draw.normal(n, k), labels), {"reduction": draw.choice(["mean", "sum"])})


softmax_cross_entropy = register(
    Op(
        "softmax_cross_entropy", softmax_cross_entropy_rule, softmax_cross_entropy_forward,
        softmax_cross_entropy_backward, {"logits": MAP, "labels": INDEX}, ("probabilities", "labels"),
        softmax_cross_entropy_domain, flops_free, softmax_cross_entropy_values,
    )
)  # fmt: skip
