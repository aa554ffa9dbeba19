"""The mistakes that students make are recognised: each backward below is wrong in one way, and the report says how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kinked import Context, batch_norm_relu, max_pool

import cnncore as cc

RNG = np.random.default_rng(0)
X, W, B = RNG.standard_normal((8, 5)), RNG.standard_normal((5, 5)), RNG.standard_normal(5)
IMAGES = RNG.standard_normal((2, 3, 8, 6))


def product(dx: Callable[..., Any]) -> Any:
    """y = x w with a gradient for x of one's own."""
    return lambda x, w: (x @ w, Context(lambda dy: (dx(x, w, dy), x.T @ dy)))


def weights(dw: Callable[..., Any]) -> Any:
    return lambda x, w: (x @ w, Context(lambda dy: (dy @ w.T, dw(x, w, dy))))


def bias(db: Callable[..., Any]) -> Any:
    return lambda x, b: (x + b, Context(lambda dy: (dy, db(dy))))


def elementwise(derivative: Callable[..., Any], y: Callable[..., Any] = lambda x: x**2) -> Any:
    return lambda x: (y(x), Context(lambda dy: (derivative(x, dy),)))


def where(index: Any, factor: float) -> Callable[..., Any]:
    """2 x dy, times a factor at some entries."""

    def derivative(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        g = 2 * x * dy
        g[index] *= factor
        return g

    return derivative


def border(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    g = 2 * x * dy
    inner = np.zeros(x.shape, bool)
    inner[:, :, 1:-1, 1:-1] = True
    return np.where(inner, g, 0.3 * g)


def centred(x: np.ndarray) -> Any:
    return x - x.mean(0), Context(lambda dy: (dy,))


def unscaled_batch_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> Any:
    y, context = batch_norm_relu(x, gamma, beta)

    def backward(dy: np.ndarray) -> Any:
        dx, dgamma, dbeta = context.backward(dy)
        return dx / gamma, dgamma, dbeta

    return y, Context(backward)


def all_to_every_winner(x: np.ndarray) -> Any:
    """Average pooling's gradient for max pooling."""
    y, _ = max_pool(x)
    return y, Context(lambda dy: (dy.repeat(2, 2).repeat(2, 3),))


def flipped_kernel(x: np.ndarray, w: np.ndarray) -> Any:
    y, context = cc.ops.conv(x, w)

    def backward(dy: np.ndarray) -> Any:
        dx, dw, _ = context.backward(dy)
        return dx, dw[:, :, ::-1, ::-1]

    return y, Context(backward)


LABELS = RNG.integers(0, 5, 8)


def softmax_loss(one: float) -> Any:
    """The mean cross entropy; `one` is what is taken from the probability of the right class."""

    def fn(x: np.ndarray, labels: np.ndarray) -> Any:
        e = np.exp(x - x.max(1, keepdims=True))
        p, rows = e / e.sum(1, keepdims=True), np.arange(len(x))

        def backward(dy: np.ndarray) -> Any:
            dx = p.copy()
            dx[rows, labels] -= one
            return dy * dx / len(x), None

        return -np.log(p[rows, labels]).mean(), Context(backward)

    return fn


class Accumulates:
    def __init__(self, x: np.ndarray) -> None:
        self.x, self.dx = x, np.zeros_like(x)

    def backward(self, dy: np.ndarray) -> Any:
        self.dx += 2 * self.x * dy
        return (1.1 * self.dx,)


MISTAKES: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "a forgotten 2": (elementwise(lambda x, dy: x * dy), (X,), "x: backward is 0.5 times the derivative throughout"),
    "a sign": (
        product(lambda x, w, dy: -dy @ w.T), (X, W), "x: backward is -1 times the derivative throughout: its sign",
    ),
    "a mean without its 1/N": (
        lambda x: (x.mean(), Context(lambda dy: (dy * np.ones_like(x),))),
        (X,),
        "x: backward is 40 times the derivative throughout (40 times too large; x has 40 entries)",
    ),
    "no gradient at all": (product(lambda x, w, dy: 0 * x), (X, W), "x: backward is 0 throughout"),
    "a transpose": (weights(lambda x, w, dy: dy.T @ x), (X, W), "w: it is the derivative's transpose"),
    "an unflipped kernel": (
        flipped_kernel, (IMAGES, RNG.standard_normal((4, 3, 3, 3))),
        "w: it is the derivative reversed along axes 2 and 3",
    ),
    "arguments exchanged": (
        lambda x, w: (x * w, Context(lambda dy: (dy * x, dy * w))), (W, W.T.copy() + 1), "x: it is the derivative to w",
    ),
    "a forgotten factor": (elementwise(lambda x, dy: 2 * dy), (X,), "x: the factor x is missing"),
    "a forgotten mean": (centred, (X,), "x: a constant is missing along axis 0"),
    "a forgotten gamma": (unscaled_batch_norm, (X, B, B + 1), "x: the factor gamma is missing (along axis 1)"),
    "a loop that ends early": (elementwise(where(np.s_[-1], 0)), (X,), "x: all 5 wrong entries lie in x[7, :]"),
    "rows of an image": (
        elementwise(where(np.s_[:, :, 3:5, :], 0.5)), (IMAGES,), "x: all 72 wrong entries lie in x[:, :, 3:5, :]",
    ),
    "every second entry": (elementwise(where(np.s_[:, 1::2], 3)), (X,), "x: all 16 wrong entries lie in x[:, 1::2]"),
    "padding": (elementwise(border), (IMAGES,), "entries at the border"),
    "no mask": (elementwise(lambda x, dy: dy, lambda x: np.maximum(x, 0)), (X,), "a mask (of a ReLU, a maximum"),
    "no winner": (all_to_every_winner, (IMAGES,), "a mask (of a ReLU, a maximum"),
    "dy forgotten": (elementwise(lambda x, dy: 2 * x), (X,), "backward does not use dy"),
    "dy squared": (elementwise(lambda x, dy: 2 * x * dy * abs(dy)), (X,), "backward is not linear in dy"),
    "a cache that is added to": (lambda x: (x**2, Accumulates(x)), (X,), "a second call of backward gives another"),
    "NaN": (elementwise(where((2, 3), np.nan)), (X,), "x: backward's gradient is NaN or Inf in 1 of 40 entries"),
    "a mean for a sum": (bias(lambda dy: dy.mean(0)), (X, B), "b: backward is 0.125 times the derivative throughout"),
    "off by one": (
        elementwise(lambda x, dy: np.roll(2 * x * dy, 1, axis=1)), (X,),
        "x: it is the derivative shifted by 1 along axis 1",
    ),
    "padding kept": (
        elementwise(lambda x, dy: np.pad(2 * x * dy, ((0, 0), (0, 0), (1, 0), (1, 0)))[:, :, :-1, :-1]), (IMAGES,),
        "x: it is the derivative shifted by 1 along axes 2 and 3",
    ),
    "the right class": (
        softmax_loss(0.0), (X, LABELS), "x: all 8 wrong entries are those at the labels: x[i, labels[i]]",
    ),
    "the wrong axis": (
        bias(lambda dy: dy.sum(1)), (W, B),
        "b: dy is summed over the wrong axes: all but axis 0, instead of all but axis 1",
    ),
    "one that ignores dy": (
        product(lambda x, w, dy: np.ones_like(dy) @ w.T), (X, W), "x: backward does not use dy",
    ),
    "a mask of dy": (
        elementwise(lambda x, dy: dy * (dy > 0), lambda x: np.maximum(x, 0)), (X,), "x: backward is not linear in dy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("seed", range(3))
def test_a_mistake_is_recognised(mistake: str, seed: int) -> None:
    fn, inputs, expected = MISTAKES[mistake]
    report = cc.gradcheck(fn, inputs, seed=seed)
    assert report.verdict == "wrong"
    assert any(expected in text for text in report.diagnosis), report
    assert f"diagnosis: {report.diagnosis[0]}" in str(report)


def test_every_mistake_has_a_right_counterpart() -> None:
    """Factors of 1 leave the same functions right, so that the reports above come from the mistakes."""
    for fn in (elementwise(where(np.s_[:], 1)), elementwise(lambda x, dy: dy * (x > 0), lambda x: np.maximum(x, 0))):
        report = cc.gradcheck(fn, (X,))
        assert report.ok
        assert report.diagnosis == []


@pytest.mark.parametrize("seed", range(10))
def test_noise_has_no_diagnosis(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = 1 + 0.1 * rng.standard_normal(X.shape)
    report = cc.gradcheck(elementwise(lambda x, dy: 2 * x * dy * noise), (X,), seed=seed)
    assert report.verdict == "wrong"
    assert report.diagnosis == []


def test_a_large_array_is_diagnosed_from_a_part_of_it() -> None:
    x = np.random.default_rng(1).standard_normal((4, 16, 20, 20))
    report = cc.gradcheck(elementwise(lambda x, dy: 6 * x * dy), (x,))
    assert report.diagnosis == ["x: backward is 3 times the derivative throughout"]
