"""Right functions with kinks, as students write them: what a context keeps is x, and no mask that a checker could see.

Each entry of `CASES` draws a function and its inputs from a seed. `LARGE` have 100,000 entries or more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Case = tuple[Callable[..., Any], tuple[Any, ...]]


class Context:
    """What a function returns beside y."""

    def __init__(self, backward: Callable[..., Any]) -> None:
        self.backward = backward


def relu(x: np.ndarray) -> Any:
    return np.maximum(x, 0), Context(lambda dy: (dy * (x > 0),))


def leaky_relu(x: np.ndarray) -> Any:
    return np.where(x > 0, x, 0.1 * x), Context(lambda dy: (dy * np.where(x > 0, 1, 0.1),))


def relu6(x: np.ndarray) -> Any:
    return np.clip(x, 0, 6) / 6, Context(lambda dy: (dy * ((x > 0) & (x < 6)) / 6,))


def absolute(x: np.ndarray) -> Any:
    return np.abs(x), Context(lambda dy: (dy * np.sign(x),))


def clip(x: np.ndarray) -> Any:
    return np.clip(x, -1, 1), Context(lambda dy: (dy * (np.abs(x) < 1),))


def softshrink(x: np.ndarray) -> Any:
    return np.sign(x) * np.maximum(np.abs(x) - 0.5, 0), Context(lambda dy: (dy * (np.abs(x) > 0.5),))


def l1_norm(x: np.ndarray) -> Any:
    return np.abs(x).sum(1), Context(lambda dy: (dy[:, None] * np.sign(x),))


def max_pool(x: np.ndarray) -> Any:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
    y = blocks.max(axis=(3, 5))

    def backward(dy: np.ndarray) -> Any:
        won = blocks == y[:, :, :, None, :, None]
        return ((won * dy[:, :, :, None, :, None]).reshape(x.shape),)

    return y, Context(backward)


def min_pool(x: np.ndarray) -> Any:
    y, context = max_pool(-x)
    return -y, Context(lambda dy: (context.backward(dy)[0],))


def average_of_relu(x: np.ndarray) -> Any:
    n, c, h, w = x.shape
    y = np.maximum(x, 0).reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
    return y, Context(lambda dy: ((x > 0) * dy.repeat(2, 2).repeat(2, 3) / 4,))


def max_along_axis(x: np.ndarray) -> Any:
    y = x.max(1)
    return y, Context(lambda dy: ((x == y[:, None]) * dy[:, None],))


def maxout(x: np.ndarray) -> Any:
    pieces = x.reshape(len(x), -1, 2)
    y = pieces.max(2)
    return y, Context(lambda dy: (((pieces == y[..., None]) * dy[..., None]).reshape(x.shape),))


def median(x: np.ndarray) -> Any:
    rows, middle = np.arange(len(x)), np.argsort(x, 1)[:, x.shape[1] // 2]

    def backward(dy: np.ndarray) -> Any:
        dx = np.zeros_like(x)
        dx[rows, middle] = dy
        return (dx,)

    return x[rows, middle], Context(backward)


def affine_relu(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Any:
    z = x @ w + b

    def backward(dy: np.ndarray) -> Any:
        dz = dy * (z > 0)
        return dz @ w.T, x.T @ dz, dz.sum(0)

    return np.maximum(z, 0), Context(backward)


def gate(x: np.ndarray, w: np.ndarray) -> Any:
    z = x * w

    def backward(dy: np.ndarray) -> Any:
        dz = dy * (np.abs(z) < 0.5)
        return dz * w, dz * x

    return np.clip(z, -0.5, 0.5), Context(backward)


def hinge_loss(scores: np.ndarray, labels: np.ndarray) -> Any:
    rows = np.arange(len(scores))
    margins = np.maximum(scores - scores[rows, labels][:, None] + 1, 0)
    margins[rows, labels] = 0

    def backward(dy: np.ndarray) -> Any:
        dx = (margins > 0).astype(float)
        dx[rows, labels] -= dx.sum(1)
        return dy * dx / len(scores), None

    return margins.sum() / len(scores), Context(backward)


def two_layers(x: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray, b2: np.ndarray) -> Any:
    z = x @ w1 + b1
    h = np.maximum(z, 0)

    def backward(dy: np.ndarray) -> Any:
        dz = dy @ w2.T * (z > 0)
        return dz @ w1.T, x.T @ dz, dz.sum(0), h.T @ dy, dy.sum(0)

    return h @ w2 + b2, Context(backward)


def three_layers(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray) -> Any:
    z1 = x @ w1
    h1 = np.maximum(z1, 0)
    z2 = h1 @ w2
    h2 = np.maximum(z2, 0)

    def backward(dy: np.ndarray) -> Any:
        d2 = dy @ w3.T * (z2 > 0)
        d1 = d2 @ w2.T * (z1 > 0)
        return d1 @ w1.T, x.T @ d1, h1.T @ d2, h2.T @ dy

    return h2 @ w3, Context(backward)


def rnn_step(x: np.ndarray, h: np.ndarray, wx: np.ndarray, wh: np.ndarray, b: np.ndarray) -> Any:
    z = x @ wx + h @ wh + b

    def backward(dy: np.ndarray) -> Any:
        dz = dy * (z > 0)
        return dz @ wx.T, dz @ wh.T, x.T @ dz, h.T @ dz, dz.sum(0)

    return np.maximum(z, 0), Context(backward)


def batch_norm_relu(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> Any:
    scale = 1 / np.sqrt(x.var(0) + 1e-5)
    standard = (x - x.mean(0)) * scale
    z = gamma * standard + beta

    def backward(dy: np.ndarray) -> Any:
        dz = dy * (z > 0)
        d = dz * gamma
        dx = scale * (d - d.mean(0) - standard * (d * standard).mean(0))
        return dx, (dz * standard).sum(0), dz.sum(0)

    return np.maximum(z, 0), Context(backward)


def torch_network(x: np.ndarray, *weights: np.ndarray) -> Any:
    """Conv, ReLU, MaxPool, Linear of torch.nn behind ten lines."""
    import torch

    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(27, 4)
    ).double()
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, *weights)]
    names = [name for name, _ in net.named_parameters()]
    y = torch.func.functional_call(net, dict(zip(names, leaves[1:], strict=True)), leaves[0])
    return y.detach().numpy(), Context(
        lambda dy: tuple(g.numpy() for g in torch.autograd.grad(y, leaves, torch.tensor(dy)))
    )


def _normal(
    function: Callable[..., Any], *shapes: tuple[int, ...], scales: tuple[float, ...] = ()
) -> Callable[[int], Case]:
    def draw(seed: int) -> Case:
        rng = np.random.default_rng(seed)
        return function, tuple(
            scale * rng.standard_normal(shape)
            for shape, scale in zip(shapes, scales or (1.0,) * len(shapes), strict=True)
        )

    return draw


def _hinge(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    return hinge_loss, (rng.standard_normal((40, 10)), rng.integers(0, 10, 40))


CASES: dict[str, Callable[[int], Case]] = {
    "relu": _normal(relu, (6, 7)),
    "leaky_relu": _normal(leaky_relu, (6, 7)),
    "relu6": _normal(relu6, (6, 7), scales=(4.0,)),
    "absolute": _normal(absolute, (6, 7)),
    "clip": _normal(clip, (6, 7)),
    "softshrink": _normal(softshrink, (20, 30)),
    "l1_norm": _normal(l1_norm, (20, 30)),
    "max_pool": _normal(max_pool, (2, 3, 8, 8)),
    "min_pool": _normal(min_pool, (2, 3, 8, 8)),
    "average_of_relu": _normal(average_of_relu, (2, 3, 8, 8)),
    "max_along_axis": _normal(max_along_axis, (20, 30)),
    "maxout": _normal(maxout, (20, 30)),
    "median": _normal(median, (20, 31)),
    "affine_relu": _normal(affine_relu, (20, 50), (50, 30), (30,)),
    "gate": _normal(gate, (20, 30), (20, 30)),
    "hinge_loss": _hinge,
    "two_layers": _normal(two_layers, (30, 40), (40, 50), (50,), (50, 10), (10,), scales=(1, 0.1, 1, 1, 1)),
    "three_layers": _normal(three_layers, (30, 40), (40, 50), (50, 50), (50, 10), scales=(1, 0.1, 0.1, 1)),
    "rnn_step": _normal(rnn_step, (10, 12), (10, 20), (12, 20), (20, 20), (20,)),
    "batch_norm_relu": _normal(batch_norm_relu, (30, 20), (20,), (20,)),
    "torch_network": _normal(
        torch_network, (2, 1, 8, 8), (3, 1, 3, 3), (3,), (4, 27), (4,), scales=(1, 0.3, 0.1, 0.2, 0.1)
    ),
    "large relu": _normal(relu, (100, 1000)),
    "large max_pool": _normal(max_pool, (8, 16, 32, 32)),
    "large two_layers": _normal(
        two_layers, (64, 784), (784, 128), (128,), (128, 10), (10,), scales=(1, 0.05, 0.1, 0.1, 0.1)
    ),
}
LARGE = [name for name in CASES if name.startswith("large")]
