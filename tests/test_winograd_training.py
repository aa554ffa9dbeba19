"""Training with Winograd reaches what training with direct convolution does.

More seeds and steps: docs/kernels/winograd.md.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from cnncore.backends import native

TEST_IMAGES = 2000
error_of = runpy.run_path(str(Path(__file__).parent.parent / "bench" / "accuracy.py"))["test_error"]


@pytest.mark.slow
@pytest.mark.skipif(not native.compiled(), reason="the C kernels are not built")
@pytest.mark.parametrize(("model", "images", "epochs"), [("lenet", 2000, 2), ("network_in_network", 4000, 2)])
def test_auto_reaches_the_accuracy_of_direct(model, images, epochs):
    """The mean test errors differ by no more than seeds and 2,000 test images explain (two standard deviations)."""
    errors = {name: [error_of(model, name, seed, images, epochs) for seed in range(3)] for name in ("auto", "direct")}
    auto, direct = (np.mean(errors[name]) for name in ("auto", "direct"))
    seeds = np.std(errors["direct"], ddof=1)
    sampling = 100 * np.sqrt(direct / 100 * (1 - direct / 100) / TEST_IMAGES)
    assert abs(auto - direct) <= 2 * np.hypot(seeds, sampling), errors
