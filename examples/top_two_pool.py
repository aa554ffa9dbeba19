"""A made-up pooling variant, the mean of the two largest: all that it takes."""

import numpy as np

from cnncore.ops.pool_walk import variant


def reduce(v, p):  # v.values: (N, C, *O, T), -inf where a window hangs over the edge
    order = np.argsort(-v.values, axis=-1, kind="stable")[..., :2]
    largest = np.take_along_axis(v.values, order, axis=-1)
    y = np.where(v.n == 1, largest[..., 0], largest.mean(axis=-1))
    second = np.where(v.n == 1, order[..., 0], order[..., -1])
    return y, order[..., 0].astype(np.int32), second.astype(np.int32)


def gradient(v, p, dy, first, second):
    taps = np.arange(v.real.shape[-1])
    chosen = v.real & ((taps == first[..., None]) | (taps == second[..., None]))
    return chosen * (dy / np.minimum(v.n, 2))[..., None]


top_two_pool, global_top_two_pool = variant(
    "top_two_pool", reduce, gradient, fill=-np.inf, extras={"first": np.int32, "second": np.int32},
    saved=("first", "second"),
    doc="""The mean of the two largest elements of every window.

    y = (a + b) / 2, a and b the two largest of R.   Gradient: dy / 2 to each, 0 to the others.

    Edges: a window of one element gives that element. Source: made up.""",
)  # fmt: skip
