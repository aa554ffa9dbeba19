"""Every op, by name: `cc.ops.conv(x, w, b, padding=2)` returns (output, context)."""

from typing import Any

from . import contrast, dense, norm, pointwise, pool, steps, units  # noqa: F401  (each registers its ops)
from .conv import conv, conv_relu  # noqa: F401  (the op, where its module would be)
from .records import registry


def __getattr__(name: str) -> Any:
    """Any other op: whatever is registered, here or elsewhere, is there by its name."""
    if name in registry:
        return registry[name].function
    raise AttributeError(f"there is no op cnncore.ops.{name}; there are: {', '.join(registry)}")


def __dir__() -> list[str]:
    return ["registry", *registry]
