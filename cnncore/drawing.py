"""The Figure that plots are drawn in. Imported where one is made, since matplotlib is an extra."""

from __future__ import annotations

import io

from matplotlib.figure import Figure  # not pyplot, which keeps global state and looks for a display


class Drawing(Figure):
    """A Figure that a notebook shows when it is a cell's last value: matplotlib shows pyplot's alone."""

    def png(self) -> bytes:
        """The drawing as a PNG file."""
        picture = io.BytesIO()
        self.savefig(picture, dpi=120, format="png")
        return picture.getvalue()

    _repr_png_ = png
