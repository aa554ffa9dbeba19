"""The networks that are compared, and a step of ours. No PyTorch here: memory.py measures ours without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import cnncore as cc
from cnncore import models
from cnncore.backends import launch


def vgg_like() -> cc.Sequential:
    """64-64-128-128-256-256-256 on 32x32, a max pooling after the second, fourth and last."""
    layers: list[Any] = []
    c = 3
    for k, pool in ((64, False), (64, True), (128, False), (128, True), (256, False), (256, False), (256, True)):
        layers += [cc.layers.Conv2d(c, k, 3, padding=1, seed=len(layers)), cc.layers.ReLU()]
        layers += [cc.layers.MaxPool2d(2)] if pool else []
        c = k
    return cc.Sequential(*layers, cc.layers.Flatten(), cc.layers.Linear(256 * 16, 10, seed=len(layers)))


# How it is built, and its batch.
NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "LeNet": (models.lenet, (128, 1, 28, 28)),
    "NIN CIFAR": (models.network_in_network, (128, 3, 32, 32)),
    "NIN digits": (lambda: models.network_in_network(channels=1), (128, 1, 28, 28)),
    "AlexNet": (models.alexnet, (32, 3, 227, 227)),
    "VGG-like": (vgg_like, (128, 3, 32, 32)),
}
CLASSES = 10  # labels are drawn from; every network has as many outputs or more


def batch(shape: tuple[int, ...], layout: str) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    return launch.dense(x, layout == "channels_last"), np.random.default_rng(1).integers(0, CLASSES, len(x))


def our_step(net: Any, x: np.ndarray, labels: np.ndarray) -> Callable[[], Any]:
    """Forward, loss, backward, SGD with momentum."""
    optimizer = cc.optim.SGD(net.train(), lr=1e-3, momentum=0.9)

    def step() -> None:
        net.zero_grad()
        y, ctx = net.apply(x)
        _, loss = cc.ops.softmax_cross_entropy(y, labels)
        ctx.backward(loss.backward()[0], dx=False, last=True)
        optimizer.step()

    return step


def our_inference(net: Any, x: np.ndarray) -> Callable[[], Any]:
    frozen = net.freeze()
    return lambda: frozen.apply(x)[0]
