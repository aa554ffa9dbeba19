"""Reading the pickles that CIFAR is distributed as, without Python's unpickler.

A pickle is a program. Python's own unpickler imports what it names and calls it; this one knows the few instructions
that write a dict of strings, integers, lists and arrays, and nothing else. Nothing that a file names is
ever imported or called: NumPy's constructors are recognised by name, and an array is made here, from bytes that are
there.
"""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import FormatError

MOST = 1 << 20  # instructions; CIFAR-100's 50,000 images and their names take 250,000
VALUES = {"INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
          "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
          "BYTEARRAY8"}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = {"PROTO", "FRAME"}
NAMES = {
    **{f"numpy.{core}.multiarray {what}": what for core in ("core", "_core") for what in ("_reconstruct", "scalar")},
    **{f"numpy.{core}.numeric _frombuffer": "_frombuffer" for core in ("core", "_core")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",  # protocols 0 to 2 know no bytes: they write text, and this call
    "__builtin__ bytes": "bytes",
}
DTYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d{1,6})")  # all but objects, and what is made of parts


@dataclass(frozen=True)
class Name:
    """Something that the file may name, and that stands for nothing but itself."""

    what: str


@dataclass
class Made:
    """What the file says a constructor makes of `arguments`, and then of `state`: an array, a number or a dtype.

    Arrays and numbers are made when they are asked for: a file can name the same bytes in any number of them.
    """

    what: str
    arguments: tuple[Any, ...] = ()
    state: tuple[Any, ...] = ()

    def array(self, dtypes: type = np.integer) -> np.ndarray:
        """The array, of one of these dtypes. Raises ValueError where it is no such array, or has other bytes than its
        shape needs."""
        match self.what, *(self.state if self.what == "_reconstruct" else self.arguments):
            # (version, shape, dtype, column-major?, bytes), or (bytes, dtype, shape, order of the axes)
            case ("_reconstruct", int(), tuple(shape), Made("dtype") as kind, bool(columns), raw):
                pass
            case ("_frombuffer", raw, Made("dtype") as kind, tuple(shape), "C" | "F" as order, *_):
                columns = order == "F"
            case _:
                raise ValueError(f"must be an array of {dtypes.__name__}")
        data, dtype = as_bytes(raw), kind.dtype()
        if not np.issubdtype(dtype, dtypes):
            raise ValueError(f"must be an array of {dtypes.__name__}, got {dtype}")
        if len(shape) > 4 or not all(type(n) is int and 0 <= n <= len(data) for n in shape):
            raise ValueError(f"must be an array of {dtypes.__name__} with at most 4 axes, none longer than its bytes")
        needed = math.prod(shape) * dtype.itemsize
        if needed != len(data):
            raise ValueError(f"an array of shape {shape} must have {needed} bytes, got {len(data)}")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if columns else "C")

    def number(self) -> int:
        """The integer that a NumPy scalar is. Raises ValueError where it is none."""
        match self.what, *self.arguments:
            case ("scalar", Made("dtype") as kind, str() | bytes() as raw) if len(raw) == kind.dtype().itemsize:
                if kind.dtype().kind in "iu":
                    return int(np.frombuffer(as_bytes(raw), kind.dtype())[0])
        raise ValueError("must be an integer")

    def dtype(self) -> np.dtype:
        """The dtype: its name, and the order of its bytes if its state (version, order, ...) has one."""
        found = np.dtype(self.arguments[0])
        match self.state:
            case (_, "<" | ">" as order, *_):
                return found.newbyteorder(order)
        return found


def as_bytes(raw: Any) -> bytes | bytearray:
    """The bytes of an array; Python 2, and protocols 0 to 2, wrote them as text. Raises ValueError."""
    if isinstance(raw, str):
        return raw.encode("latin-1")
    if isinstance(raw, bytes | bytearray):
        return raw
    raise ValueError(f"must have bytes, got {type(raw).__name__}")


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
            case "LIST":
                self.stack.append(self.since_mark())
            case "DICT":
                self.stack.append(pairs(self.since_mark()))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[arg] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[arg])
            case "APPEND":
                value = self.stack.pop()
                self.top(list).append(value)
            case "APPENDS":
                values = self.since_mark()
                self.top(list).extend(values)
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self.top(dict).update(pairs([key, value]))
            case "SETITEMS":
                items = self.since_mark()
                self.top(dict).update(pairs(items))
            case "GLOBAL":
                self.stack.append(named(arg))
            case "STACK_GLOBAL":
                what, module = self.pop(str), self.pop(str)
                self.stack.append(named(f"{module} {what}"))
            case "REDUCE":
                arguments, name = self.pop(tuple), self.pop(Name)
                self.stack.append(make(name.what, arguments))
            case "BUILD":
                state = self.pop(tuple)
                self.top(Made).state = state
            case _ if code in IGNORED:
                pass
            case _:
                raise ValueError("not needed for a dict of arrays and lists")


def pairs(items: list[Any]) -> dict[str | bytes, Any]:
    """A dict of keys and values, taking turns."""
    for key in items[::2]:
        if type(key) not in (str, bytes):  # to hash a tuple of tuples may take for ever
            raise ValueError(f"str expected, {type(key).__name__} found")
    return dict(zip(items[::2], items[1::2], strict=True))


def named(name: str) -> Name:
    """What a file may name, by its module and its name."""
    if name not in NAMES:
        raise ValueError(f"{name[:80]!r} is not what an array is made of")
    return Name(NAMES[name])


def make(what: str, arguments: tuple[Any, ...]) -> Any:
    """The call of a constructor: an array (its state may follow), a number, a dtype, or bytes."""
    first = arguments[0] if arguments else None
    if what == "_reconstruct" and first == Name("ndarray"):
        return Made(what)
    if what in ("_frombuffer", "scalar"):
        return Made(what, arguments)
    if what == "dtype" and type(first) is str and DTYPES.fullmatch(first):
        return Made(what, arguments)
    if what == "encode" and type(first) is str and arguments[1:] == ("latin1",):
        return first  # bytes, spelt as text; a copy for each such call could fill the memory
    if what == "bytes" and not arguments:
        return b""
    raise ValueError("only arrays of numbers or text are read")


def unpickle(name: str, data: bytes) -> dict[str, Any]:
    """The dict that a pickle of protocol 0 to 5 holds: its values are str, bytes, int, bool, None, dicts, lists and
    tuples of such, and `Made` arrays and numbers. Keys that are bytes become str; bytes of protocols 0 to 2 are str.

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
    return {key if type(key) is str else key.decode("latin-1"): value for key, value in found.items()}
