"""Reading the pickles that CIFAR is distributed as, without Python's unpickler.

A pickle is a program. Python's own unpickler imports what it names and calls it; this one knows the few instructions
that write a dict of strings, integers, lists and arrays of bytes, and nothing else. Nothing that a file names is ever
imported or called: NumPy's constructors are recognised by name, and an array is made here, from bytes that are there.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import FormatError

MOST = 1 << 20  # instructions; CIFAR-100's 50,000 images and their names take 250,000
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "BINBYTES",
          "SHORT_BINBYTES"}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ARRAY, CLASS, DTYPE = "_reconstruct", "ndarray", "dtype"
NAMES = {
    "numpy.core.multiarray _reconstruct": ARRAY,
    "numpy._core.multiarray _reconstruct": ARRAY,
    "numpy ndarray": CLASS,
    "numpy dtype": DTYPE,
}


@dataclass(frozen=True)
class Name:
    """Something that the file may name, and that stands for nothing but itself."""

    what: str


@dataclass
class Made:
    """What the file says a constructor makes: an array, or the dtype uint8. (`state` is what makes an array of it.)"""

    what: str
    state: tuple[Any, ...] = ()

    def array(self) -> np.ndarray:
        """The array that `state` describes: (version, shape, dtype, column-major?, bytes). Raises ValueError.

        Called for the arrays that are wanted: a file can name the same bytes in any number of them.
        """
        types = [type(s) for s in self.state]
        if self.what != ARRAY or types not in ([int, tuple, Made, bool, str], [int, tuple, Made, bool, bytes]):
            raise ValueError("must be an array of uint8")
        _, shape, kind, columns, raw = self.state
        data = raw.encode("latin-1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as str
        if kind.what != DTYPE or len(shape) > 4 or not all(type(n) is int and 0 <= n <= len(data) for n in shape):
            raise ValueError("must be an array of uint8 with at most 4 axes, none longer than its bytes")
        if math.prod(shape) != len(data):
            raise ValueError(f"an array of shape {shape} must have {math.prod(shape)} bytes, got {len(data)}")
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if columns else "C")


@dataclass
class Machine:
    """The state of a pickle program. Every instruction checks the types of what it takes."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"{kind.__name__} expected, {type(self.stack[-1]).__name__} found")
        return self.stack[-1]

    def pop(self, kind: type) -> Any:
        self.top(kind)
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def step(self, code: str, arg: Any) -> None:
        match code:
            case _ if code in VALUES:
                self.stack.append(arg)
            case _ if code in CONSTANTS:
                self.stack.append(CONSTANTS[code])
            case _ if code in EMPTY:
                self.stack.append(EMPTY[code]())
            case _ if code in TUPLES:
                self.stack.append(tuple(self.stack.pop() for _ in range(TUPLES[code]))[::-1])
            case "TUPLE":
                self.stack.append(tuple(self.since_mark()))
            case "MARK":
                self.marks.append(len(self.stack))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[arg] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[arg])
            case "APPEND":
                value = self.stack.pop()
                self.top(list).append(value)
            case "APPENDS":
                values = self.since_mark()
                self.top(list).extend(values)
            case "SETITEM":
                value, key = self.stack.pop(), self.pop(str)
                self.top(dict)[key] = value
            case "SETITEMS":
                items = self.since_mark()
                if not all(type(key) is str for key in items[::2]):  # hashing a tuple of tuples may take for ever
                    raise ValueError("keys must be str")
                self.top(dict).update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                if arg not in NAMES:
                    raise ValueError(f"{arg[:80]!r} is not what an array is made of")
                self.stack.append(Name(NAMES[arg]))
            case "REDUCE":
                arguments, name = self.pop(tuple), self.pop(Name)
                self.stack.append(make(name.what, arguments))
            case "BUILD":
                state = self.pop(tuple)
                self.top(Made).state = state
            case "PROTO":
                pass
            case _:
                raise ValueError("not needed for a dict of arrays and lists")


def make(what: str, arguments: tuple[Any, ...]) -> Made:
    """The call of a constructor: an array, its state to follow, or the dtype uint8."""
    if what == ARRAY and arguments and arguments[0] == Name(CLASS):
        return Made(ARRAY)
    if what == DTYPE and arguments and type(arguments[0]) is str and arguments[0] in ("u1", "|u1"):
        return Made(DTYPE)
    raise ValueError("only arrays of uint8 are read")


def unpickle(name: str, data: bytes) -> dict[str, Any]:
    """The dict that a pickle of protocol 1 to 3 holds: its values are str, bytes, int, bool, None, lists and tuples of
    such, and `Made` arrays.

    Raises FormatError, which names the file and the byte where it does something else: any other instruction or name
    (so also every other call), more than MOST instructions, truncation, bytes behind the end.
    """
    machine, code, at = Machine(), "", 0
    try:
        for count, (opcode, arg, position) in enumerate(pickletools.genops(data)):
            code, at = opcode.name, position or 0
            if count == MOST:
                raise ValueError(f"must have at most {MOST} instructions")
            if code != "STOP":  # which is the last
                machine.step(code, arg)
        [found] = machine.stack
    except LookupError:
        raise FormatError(f"{name}: pickle: {code} at byte {at}: takes what is not there") from None
    except ValueError as error:
        raise FormatError(f"{name}: pickle: {code} at byte {at}: {error}") from None
    if at + 1 != len(data):
        raise FormatError(f"{name}: pickle: must end at byte {at}, {len(data) - at - 1} bytes follow")
    if type(found) is not dict:
        raise FormatError(f"{name}: pickle: must hold a dict, got {type(found).__name__}")
    return found
