"""The same work in PyTorch, at its best. Arguments are torch tensors, attributes those of our op.

Compared on 25 MB, AVX2, 2 threads, forward + backward in ms, the better format: maxout 4 by amax 18, max 23,
torch.maximum of the pieces 51, max_pool3d 28; global max by amax 15, adaptive_max_pool2d 2.7, max_pool2d 2.8; lp p=2 by
lp_pool2d 24, squares 13; p=4 43 and 23. A step of SGD on 20 M weights: plain 17, foreach 12, fused 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cnncore import layers

Call = Callable[..., torch.Tensor]


def tensors(arrays: Any, layout: str, dtype: Any = None) -> list[torch.Tensor]:
    where = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    found = [torch.from_numpy(np.array(a, order="C")) for a in arrays]
    found = [t.to(dtype) if dtype and t.is_floating_point() else t for t in found]
    return [t.contiguous(memory_format=where) if t.ndim == 4 else t for t in found]


def _window(attrs: dict[str, Any]) -> dict[str, Any]:
    return {"kernel_size": attrs["kernel"], "stride": attrs.get("stride"), "ceil_mode": attrs.get("ceil_mode", False)}


def _maxout(x: torch.Tensor, pieces: int) -> torch.Tensor:
    n, c, *size = x.shape
    return x.reshape(n, c // pieces, pieces, *size).amax(2)


def _lrn(x: torch.Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> torch.Tensor:
    return F.local_response_norm(x, size, alpha * size, beta, k)  # theirs divides alpha by the size


def _lp_pool(x: torch.Tensor, p: float = 2.0, **attrs: Any) -> torch.Tensor:
    return F.lp_pool2d(x if p % 2 == 0 else x.abs(), p, **_window(attrs))


def _lp_by_squares(x: torch.Tensor, p: float, **attrs: Any) -> torch.Tensor:
    """p = 2 or 4."""
    squares = int(p) // 2
    for _ in range(squares):
        x = x.square()
    x = F.avg_pool2d(x, **_window(attrs), divisor_override=1)
    for _ in range(squares):
        x = x.sqrt()
    return x


def _batch_linear(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w, b)


# op -> (torch call from our attributes), as its users write it. What is no op nor short plain expression is not here.
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
    "lp_pool": lambda **a: lambda x: _lp_pool(x, **a),
    "global_max_pool": lambda: lambda x: x.amax((2, 3), keepdim=True),
    "global_avg_pool": lambda: lambda x: x.mean((2, 3), keepdim=True),
    "lrn": lambda **a: lambda x: _lrn(x, **a),
    "maxout": lambda pieces: lambda x: _maxout(x, pieces),
}
# Other ways to the same result that are faster in some format or direction.
OTHER_FORMS: dict[str, dict[str, Callable[..., Call]]] = {
    "global_max_pool": {"adaptive_max_pool2d": lambda: lambda x: F.adaptive_max_pool2d(x, 1)},
    "lp_pool": {"squares": lambda **a: lambda x: _lp_by_squares(x, **a)},
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


def their_net(layer: layers.Layer, layout: str) -> nn.Module:
    where = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    return network(layer).to(memory_format=where)


def their_step(module: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> Callable[[], Any]:
    """Forward, loss, backward, SGD with momentum."""
    optimizer = torch.optim.SGD(module.train().parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(module(x), labels).backward()
        optimizer.step()

    return step


def their_inference(module: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    module.eval()

    def infer() -> torch.Tensor:
        with torch.inference_mode():
            return module(x)

    return infer
