"""Every op, by name: `cc.ops.conv(x, w, b, padding=2)` returns (output, context)."""

from .conv import conv
from .dense import linear, softmax, softmax_cross_entropy
from .norm import lrn, lrn_within
from .op import registry
from .pointwise import add, concat, dropout, relu, sigmoid, tanh
from .pool import (
    avg_pool,
    entropy_pool,
    expectation_pool,
    gaussian_lp_pool,
    global_avg_pool,
    global_entropy_pool,
    global_expectation_pool,
    global_gaussian_lp_pool,
    global_lp_pool,
    global_max_pool,
    global_stochastic_pool,
    lp_pool,
    max_pool,
    stochastic_pool,
)
from .steps import adam_step, sgd_step
from .units import maxout

__all__ = [
    "adam_step",
    "add",
    "avg_pool",
    "concat",
    "conv",
    "dropout",
    "entropy_pool",
    "expectation_pool",
    "gaussian_lp_pool",
    "global_avg_pool",
    "global_entropy_pool",
    "global_expectation_pool",
    "global_gaussian_lp_pool",
    "global_lp_pool",
    "global_max_pool",
    "global_stochastic_pool",
    "linear",
    "lp_pool",
    "lrn",
    "lrn_within",
    "max_pool",
    "maxout",
    "registry",
    "relu",
    "sgd_step",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "stochastic_pool",
    "tanh",
]
