"""The same work in PyTorch: one entry per op that it has. Arguments are torch tensors, attributes those of our op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cnncore import layers

Call = Callable[..., torch.Tensor]


def _window(attrs: dict[str, Any]) -> dict[str, Any]:
    return {"kernel_size": attrs["kernel"], "stride": attrs.get("stride"), "ceil_mode": attrs.get("ceil_mode", False)}


def _maxout(x: torch.Tensor, pieces: int) -> torch.Tensor:
    n, c, *size = x.shape
    return x.reshape(n, c // pieces, pieces, *size).amax(2)


def _lrn(x: torch.Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> torch.Tensor:
    return F.local_response_norm(x, size, alpha * size, beta, k)  # theirs divides alpha by the size


def _batch_linear(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w, b)


# op -> (torch call from our attributes). What PyTorch has not as one op or a short plain expression is not here.
CALLS: dict[str, Callable[..., Call]] = {
    "conv": lambda **a: lambda x, w, b: F.conv2d(x, w, b, a["stride"], a["padding"], groups=a["groups"]),
    "conv_relu": lambda: lambda x, w, b: F.relu(F.conv2d(x, w, b)),
    "linear": lambda: _batch_linear,
    "relu": lambda: F.relu,
    "sigmoid": lambda: torch.sigmoid,
    "tanh": lambda: torch.tanh,
    "softmax": lambda: lambda x: torch.softmax(x, 1),
    "softmax_cross_entropy": lambda: F.cross_entropy,
    "dropout": lambda p=0.5: lambda x: F.dropout(x, p, training=True),
    "add": lambda: lambda a, b: a + b,
    "concat": lambda: lambda a, b: torch.cat((a, b), 1),
    "max_pool": lambda **a: lambda x: F.max_pool2d(x, **_window(a)),
    "avg_pool": lambda **a: lambda x: F.avg_pool2d(x, **_window(a), count_include_pad=False),
    "lp_pool": lambda p=2.0, **a: lambda x: F.lp_pool2d(x.abs(), p, **_window(a)),
    "global_max_pool": lambda: lambda x: x.amax((2, 3), keepdim=True),
    "global_avg_pool": lambda: lambda x: x.mean((2, 3), keepdim=True),
    "lrn": lambda **a: lambda x: _lrn(x, **a),
    "maxout": lambda pieces: lambda x: _maxout(x, pieces),
}


# --- networks: the same layers with the same weights -----------------------------------------------------------------


def network(layer: layers.Layer) -> nn.Module:
    """A PyTorch module that computes what our layer does. Raises KeyError, naming a layer without counterpart here."""
    if isinstance(layer, layers.Sequential):
        return nn.Sequential(*map(network, layer.children().values()))
    if isinstance(layer, layers.Conv2d):
        return _weighted(_conv(layer), layer)
    if isinstance(layer, layers.Linear):
        k, c = layer.weight.value.shape
        return _weighted(nn.Linear(c, k), layer)
    return PLAIN[type(layer).__name__](layer)


def _conv(layer: Any) -> nn.Module:
    k, c, *size = layer.weight.value.shape
    groups = layer.attrs["groups"]
    return nn.Conv2d(c * groups, k, size, layer.attrs["stride"], layer.attrs["padding"], groups=groups)


def _weighted(module: Any, layer: Any) -> nn.Module:
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(layer.weight.value))
        module.bias.copy_(torch.from_numpy(layer.bias.value))
    return module


class _Lrn(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attrs = layer.attrs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _lrn(x, *(self.attrs[name] for name in ("size", "alpha", "beta", "k")))


PLAIN: dict[str, Callable[[Any], nn.Module]] = {
    "ReLU": lambda layer: nn.ReLU(inplace=True),
    "Flatten": lambda layer: nn.Flatten(),
    "Dropout": lambda layer: nn.Dropout(layer.p),
    "MaxPool2d": lambda layer: nn.MaxPool2d(**_window(layer.attrs), padding=layer.attrs["padding"]),
    "AvgPool2d": lambda layer: nn.AvgPool2d(
        **_window(layer.attrs), padding=layer.attrs["padding"], count_include_pad=False
    ),
    "GlobalAvgPool2d": lambda layer: nn.AdaptiveAvgPool2d(1),
    "GlobalMaxPool2d": lambda layer: nn.AdaptiveMaxPool2d(1),
    "LocalResponseNorm": _Lrn,
}
