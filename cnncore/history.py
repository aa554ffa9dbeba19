"""What a training leaves: a record for every epoch."""

from __future__ import annotations

from typing import Any

from .tables import html_table


class History(list[dict[str, Any]]):
    """The records of all epochs, the first first; shown in short, and in a notebook as a table."""

    def __repr__(self) -> str:
        if not self:
            return "History(no epochs)"
        last = ", ".join(f"{name} {_told(value)}" for name, value in self[-1].items() if value is not None)
        return f"History({len(self)} epoch{'s' * (len(self) > 1)}; the last: {last})"

    def _repr_html_(self) -> str:
        columns = list(self[-1]) if self else []
        return html_table(columns, ([_told(record.get(name)) for name in columns] for record in self), left=0)


def _told(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
