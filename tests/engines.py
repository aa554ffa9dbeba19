"""Who computes: every available backend but the definition's own, and every instruction set of the C one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cnncore.backends import device, select, slots


class Engine(NamedTuple):
    backend: str
    isa: str | None = None

    def __str__(self) -> str:
        return self.backend if self.isa is None else f"{self.backend}-{self.isa}"

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Compute on this engine, with every output and scratch array of the C kernels full of NaN beforehand."""
        if self.isa is None:
            yield self.backend
            return
        from cnncore.backends import native

        before, slots.POISON = slots.POISON, True
        try:
            with native.use_isa(self.isa):
                yield self.backend
        finally:
            slots.POISON = before


def available(name: str) -> bool:
    try:
        return select.why_not(name) is None
    except ModuleNotFoundError:
        return False


def _engines() -> list[Engine]:
    found = []
    if available("c"):
        from cnncore.backends import native

        found += [Engine("c", isa) for isa in native.supported()]
    if available("cuda"):
        found.append(Engine("cuda"))
    return found


ENGINES = _engines()
NATIVE = [e for e in ENGINES if e.backend == "c"]
HOST_BACKENDS = ["numpy"] + ["c"] * bool(NATIVE)


def at_once(work: Callable[[int], None], numbers: Iterable[int]) -> None:
    """`work` of every number, each in a thread of its own."""
    threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def to_host(results: Any) -> Any:
    return tuple(None if r is None else device.to_host(r) for r in results)
