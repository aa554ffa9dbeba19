"""What to reach: the figures of shared/targets.md."""

from __future__ import annotations

from typing import Any

PERCENT = 70  # of the limit, for every op but convolution
MEAN = 1.5  # geometric mean of a convolution layer's forward + backward
ISAS = 1.3  # how many times as long as with AVX-512 anything may take with AVX2, where the processor has both

# Op, its problem's name ("": its size), attributes, and how many times as fast as PyTorch, forward + backward.
OPS: list[tuple[str, str, dict[str, Any], float]] = [
    ("max_pool", "2x2/2", {"kernel": 2}, 1.5),
    ("max_pool", "3x3/2", {"kernel": 3, "stride": 2}, 1.5),
    ("avg_pool", "2x2/2", {"kernel": 2}, 1.3),
    ("avg_pool", "3x3/2", {"kernel": 3, "stride": 2}, 1.5),
    ("lp_pool", "p=2 2x2/2", {"kernel": 2, "p": 2.0}, 5.0),
    ("lp_pool", "p=4 3x3/2", {"kernel": 3, "stride": 2, "p": 4.0}, 5.0),
    ("lrn", "5", {}, 30.0),
    ("dropout", "drawing included", {}, 15.0),
    ("maxout", "4", {"pieces": 4}, 4.0),
    ("global_max_pool", "", {}, 3.0),
    ("tanh", "", {}, 2.0),
    ("relu", "", {}, 1.0),
    ("sigmoid", "", {}, 1.0),
]
THREES = {"alex3", "alex4", "nin3", "vgg56", "vgg28", "vgg14"}  # layers of 3x3 windows and stride 1
TRAINING = {"LeNet": 2.0, "NIN CIFAR": 2.0, "AlexNet": 1.5, "VGG-like": 1.5}


def ratio_goal(row: dict[str, Any]) -> float | None:
    """How many times as fast as PyTorch this row is to be, if anything is stated."""
    section, op, problem, direction = (row[name] for name in ("section", "op", "problem", "direction"))
    if section == "conv":
        return 1.0 if direction != "both" else MEAN if problem in THREES else None
    if section == "ops" and direction == "both":
        return next((goal for name, label, _, goal in OPS if name == op and label in ("", problem)), None)
    if section == "nets" and direction == "train":
        return TRAINING.get(op)
    return None


def percent_goal(row: dict[str, Any]) -> float | None:
    """How many percent of its limit this row is to reach, if anything is stated."""
    return PERCENT if row["section"] == "ops" else None
