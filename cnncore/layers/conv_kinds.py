"""Convolutions in several steps: factored into space and maps, and followed by a small network per pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.device import to_host
from ..errors import CnncoreError, ShapeError
from ..ops import geometry
from ..ops.scalars import plain
from .base import Layer
from .containers import Sequential
from .contexts import Chain, Context
from .conv import Conv, Conv1d, Conv2d, Conv3d
from .fields import by_rank
from .init import seed_or_next, seeds
from .simple import ReLU


@dataclass(frozen=True)
class Savings:
    """What a factored convolution costs, and the full one in its place. FLOPs are those of one image's forward, two for
    every multiply-add of the filters."""

    parameters: int
    full_parameters: int
    flops: int
    full_flops: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} of {self.full_parameters:,} parameters "
            f"({self.parameters / self.full_parameters:.1%}), "
            f"{self.flops:,} of {self.full_flops:,} FLOPs ({self.flops / self.full_flops:.1%})"
        )


class FactoredConv2d(Layer):
    """A 2-d convolution factored into filters over space, one set per map, and 1-d filters across the maps.

    y_o = b_o + sum over c and j < rank of a[o, c, j] (f[c, j] * x_c): as a full convolution whose filters are
    w[o, c] = sum over j of a[o, c, j] f[c, j], with C rank k^2 + K C rank weights in place of K C k^2.

    `depthwise` holds f as (C rank, 1, *k), `across` holds a as (K, C rank, 1, 1) and the bias. Arguments as for Conv2d;
    `rank` spatial filters per map (1: one alone). `savings(image)` reports what it costs beside the full one.
    Raises ShapeError, DTypeError, CnncoreError. Source: the paper's 4.2 (Anden).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Sequence[int], stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, bias: bool = True, *,
        rank: int = 1, init: str = "he", seed: int | None = None, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        c = geometry.integer("FactoredConv2d", "in_channels", in_channels, 1)
        maps = c * geometry.integer("FactoredConv2d", "rank", rank, 1)
        own = seeds(seed_or_next(seed))
        # No ReLU stands between the two: the first only keeps its maps' size.
        self.depthwise = Conv2d(
            c, maps, kernel_size, stride, padding, dilation, groups=c, bias=False,
            init="xavier", seed=next(own), dtype=dtype,
        )  # fmt: skip
        self.across = Conv2d(maps, out_channels, 1, bias=bias, init=init, seed=next(own), dtype=dtype)

    def apply(self, x: Any) -> tuple[Any, Context]:
        h, first = self.depthwise.apply(x)
        y, second = self.across.apply(h)
        return y, Chain(first, second)

    @classmethod
    def from_conv(cls, conv: Conv, rank: int) -> tuple[FactoredConv2d, float]:
        """The factored convolution nearest to `conv`, and the relative error of its filters (see `factor`).

        Raises CnncoreError unless conv.groups is 1; ShapeError.
        """
        if conv.attrs["groups"] != 1:
            raise CnncoreError(f"FactoredConv2d: conv must have groups=1, got groups={conv.attrs['groups']}")
        weight = to_host(conv.weight.value)
        space, across, error = factor(weight, rank)
        k, c, *kernel = weight.shape
        where = {name: conv.attrs[name] for name in ("stride", "padding", "dilation")}
        layer = cls(c, k, kernel, **where, bias=conv.bias is not None, rank=rank, dtype=weight.dtype)
        layer.depthwise.weight.value, layer.across.weight.value = space, across
        if conv.bias is not None and layer.across.bias is not None:
            layer.across.bias.value = np.array(to_host(conv.bias.value))
        return layer, error

    def full_weight(self) -> np.ndarray:
        """The filters (K, C, *k) of the full convolution that computes the same."""
        space, across = (to_host(conv.weight.value) for conv in (self.depthwise, self.across))
        k, c = len(across), self.depthwise.attrs["groups"]
        a, f = across.reshape(k, c, -1), space.reshape(c, -1, *space.shape[2:])
        return np.einsum("kcr,crij->kcij", a, f)

    def savings(self, image: tuple[int, int]) -> Savings:
        """Parameters and FLOPs on images of size (height, width), beside the full convolution's."""
        attrs, (maps, _, *kernel) = self.depthwise.attrs, self.depthwise.weight.value.shape
        k, c, taps = len(self.across.weight.value), attrs["groups"], math.prod(kernel)
        window = geometry.resolve(
            "FactoredConv2d", plain(image), tuple(kernel), attrs["stride"], attrs["padding"], attrs["dilation"]
        )
        bias, pixels = 0 if self.across.bias is None else k, math.prod(window.out)
        own, full = maps * (taps + k), k * c * taps
        return Savings(own + bias, full + bias, 2 * pixels * own, 2 * pixels * full)


def factor(weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Dense filters (K, C, kh, kw) as spatial filters (C rank, 1, kh, kw), weights across maps (K, C rank, 1, 1), and
    the relative error |w - w'| / |w| of the filters that these make (Frobenius; 0 for w = 0).

    For each input map, the K filters that read it are a matrix (K, kh kw), cut off behind its `rank` largest singular
    values: no other choice of factors is nearer. The two factors share the singular values alike (their roots). The
    error is 0 but for rounding where rank reaches min(K, kh kw); a rank beyond that adds filters of zeros.
    Raises ShapeError.
    """
    rank = geometry.integer("factor", "rank", rank, 1)
    if weight.ndim != 4:
        raise ShapeError(f"factor: weight must be (K, C, kh, kw), got shape {weight.shape}")
    k, c, *kernel = weight.shape
    u, s, v = np.linalg.svd(weight.astype(np.float64).swapaxes(0, 1).reshape(c, k, -1), full_matrices=False)
    kept, total = min(rank, s.shape[1]), float(np.sum(s * s))
    root = np.sqrt(s[:, :kept])
    across, space = np.zeros((k, c, rank)), np.zeros((c, rank, math.prod(kernel)))
    across[..., :kept] = np.moveaxis(u[..., :kept] * root[:, None, :], 1, 0)
    space[:, :kept] = root[..., None] * v[:, :kept]
    error = math.sqrt(float(np.sum(s[:, kept:] ** 2)) / total) if total else 0.0
    dtype = weight.dtype
    return (
        space.reshape(c * rank, 1, *kernel).astype(dtype), across.reshape(k, c * rank, 1, 1).astype(dtype), error
    )  # fmt: skip


class MLPConv(Sequential):
    """A convolution followed by two 1x1 convolutions, ReLU after each: a small network that slides over the maps.

    `channels` are the maps of the three, as in `MLPConv2d(3, (192, 160, 96), 5, padding=2)`; kernel_size, stride,
    padding and dilation are the first one's. Its layers are 0 to 5, so its parameters are 0, 2 and 4.
    Raises ShapeError, DTypeError, CnncoreError. Source: the paper's 2.7; Lin et al. 2013, section 3.1.
    """

    rank: int

    def __init__(
        self, in_channels: int, channels: tuple[int, int, int], kernel_size: int | Sequence[int], stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, *, init: str = "he", seed: int | None = None, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        who, kind = type(self).__name__, {1: Conv1d, 2: Conv2d, 3: Conv3d}[self.rank]
        channels = plain(channels)
        if not isinstance(channels, tuple) or len(channels) != 3:
            raise ShapeError(f"{who}: channels must be three integers, got {channels!r}")
        first, second, third = channels
        own, same = seeds(seed_or_next(seed)), {"init": init, "dtype": dtype}
        super().__init__(
            kind(in_channels, first, kernel_size, stride, padding, dilation, seed=next(own), **same), ReLU(),
            kind(first, second, 1, seed=next(own), **same), ReLU(),
            kind(second, third, 1, seed=next(own), **same), ReLU(),
        )  # fmt: skip


MLPConv1d, MLPConv2d, MLPConv3d = by_rank(MLPConv)
