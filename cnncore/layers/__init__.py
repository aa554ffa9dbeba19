"""Layers: ops with their parameters, and containers. Names and arguments are PyTorch's where it has them."""

from .base import Context, Layer, OpContext, Parameter, ViewContext
from .containers import Branches, Sequential
from .conv import Conv, Conv1d, Conv2d, Conv3d
from .conv_kinds import FactoredConv2d, MLPConv, MLPConv1d, MLPConv2d, MLPConv3d, Savings, factor
from .init import seeds
from .norm import ContrastNorm, LocalResponseNorm, LocalResponseNormWithin
from .pool import AvgPool, AvgPool1d, AvgPool2d, AvgPool3d, MaxPool, MaxPool1d, MaxPool2d, MaxPool3d, Pool
from .simple import Dropout, Dropout1d, Dropout2d, Dropout3d, Flatten, Linear, ReLU, Sigmoid, Softmax, Tanh
from .units import Maxout, Maxout1d, Maxout2d, Maxout3d

__all__ = [
    "AvgPool",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Branches",
    "Context",
    "ContrastNorm",
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FactoredConv2d",
    "Flatten",
    "Layer",
    "Linear",
    "LocalResponseNorm",
    "LocalResponseNormWithin",
    "MLPConv",
    "MLPConv1d",
    "MLPConv2d",
    "MLPConv3d",
    "MaxPool",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Maxout",
    "Maxout1d",
    "Maxout2d",
    "Maxout3d",
    "OpContext",
    "Parameter",
    "Pool",
    "ReLU",
    "Savings",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "ViewContext",
    "factor",
    "seeds",
]
