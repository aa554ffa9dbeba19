"""`cnncore bench conv --versions`: the steps by which convolution became fast (csrc/conv_versions.c), side by side."""

from __future__ import annotations

from dataclasses import replace

from .problems import Problem

# What the table calls a version: the kernels that compute it, and the algorithm they are asked for.
VERSIONS = {
    "conv v1": ("conv_v1", "auto"),
    "conv v2": ("conv_v2", "auto"),
    "conv direct": ("conv", "direct"),
    "conv": ("conv", "auto"),
}


def versions(problem: Problem) -> list[Problem]:
    """The forward of a convolution, once for every version; only the C backend has them."""
    return [
        replace(
            problem,
            op=replace(problem.op, name=name, kernels_of=kernels, backward=None),
            attrs={**problem.attrs, "algorithm": algorithm},
        )
        for name, (kernels, algorithm) in VERSIONS.items()
    ]
