"""What makes two runs the same: all that decides a run, as text that every process writes alike.

    identified(functools.partial(halve, every=2))     "partial(halve [code 5c0f...], every=2)"
    differences(settings_then, settings_now)          ["augmentation: shift(1) in the checkpoint, shift(3) now"]

A function is its qualified name, its code, its defaults, what its closure holds, and the numbers, texts, arrays and
collections that it reads of its module; of a partial also the arguments. An object is its class with its attributes, or
its own repr. The other functions that a function calls by their names in its module are not looked at. Code is what
Python compiled, so another minor version of Python tells another text.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .layers.base import Layer
from .layers.parameter import Parameter
from .ops.op import Op
from .ops.scalars import plain

CONSTANTS = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset, np.generic, np.ndarray)
TOLD = 3  # differences of one setting that a message names
MOST, DEEPEST = 10_000, 100  # things inside a thing, and one inside the other
LONGEST = 400  # characters of a text, beyond which a digest stands for the rest


class Plain:
    """A class whose objects are their attributes and nothing else: others of that kind are as large."""


class UnidentifiedError(Exception):
    """Something whose equal in another process cannot be recognised; the text says what."""


def identified(thing: Any) -> str:
    """The text that stands for a function, an object or a value. Raises UnidentifiedError."""
    text = _text(thing, (), itertools.count())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... [digest {_hash(text.encode())}]"


def _text(thing: Any, around: tuple[int, ...], visited: Iterator[int]) -> str:
    if id(thing) in around:
        return "..."  # a function that calls itself has itself in its closure
    if next(visited) > MOST or len(around) > DEEPEST:
        raise UnidentifiedError(f"there is too much in it: a {type(thing).__qualname__} in what is in it, for one")
    inside = functools.partial(_text, around=(*around, id(thing)), visited=visited)
    for kinds, write in WRITERS:
        if isinstance(thing, kinds):
            return str(write(thing, inside))
    return _object(thing, inside)


def _mapping(thing: dict[Any, Any], inside: Any) -> str:
    return f"{{{', '.join(sorted(f'{inside(key)}: {inside(value)}' for key, value in thing.items()))}}}"


def _partial(thing: Any, inside: Any) -> str:
    given = [*map(inside, thing.args), *(f"{name}={inside(value)}" for name, value in thing.keywords.items())]
    return f"partial({', '.join([inside(thing.func), *given])})"


def _function(function: types.FunctionType, inside: Any) -> str:
    if isinstance(op := getattr(function, "op", None), Op):
        return f"ops.{op.name}"
    parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    held = dict(zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True))
    held |= function.__kwdefaults__ or {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # a name that has no value yet
            held[name] = None
    around = function.__globals__
    held |= {name: around[name] for name in _names(function.__code__) if isinstance(around.get(name), CONSTANTS)}
    arguments = ", ".join(f"{name}={inside(value)}" for name, value in held.items())
    code = _hash(_code(function.__code__, inside).encode())
    return f"{function.__qualname__}{f'({arguments})' if held else ''} [code {code}]"


def _names(code: types.CodeType) -> list[str]:
    """The names that a function and those inside it read of their module, or as attributes."""
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return [*code.co_names, *inner]


def _code(code: types.CodeType, inside: Any) -> str:
    return " ".join([code.co_code.hex(), inside(code.co_consts), *code.co_names])


def _object(thing: Any, inside: Any) -> str:
    kind = type(thing)
    own = {}
    if dataclasses.is_dataclass(thing):
        own = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    else:
        told = "" if kind.__repr__ is object.__repr__ else repr(thing)
        if told and not re.search(r"\b0x[0-9a-fA-F]+|\.\.\.", told):
            return told
        if kind.__basicsize__ != Plain.__basicsize__:
            raise UnidentifiedError(f"nothing tells a {kind.__qualname__} from another one: its repr would have to")
        own = vars(thing)
    return f"{kind.__qualname__}({', '.join(f'{name}={inside(value)}' for name, value in own.items())})"


WRITERS: tuple[tuple[Any, Callable[[Any, Any], str]], ...] = (
    (str | bytes | int | float | complex | None, lambda thing, inside: repr(plain(thing))),
    (np.generic, lambda thing, inside: repr(thing.item())),
    (np.ndarray, lambda thing, inside: f"{thing.dtype} {thing.shape} [digest {digest(thing)}]"),
    (dict, _mapping),
    (tuple | list, lambda thing, inside: f"({', '.join(map(inside, thing))})"),
    (set | frozenset, lambda thing, inside: f"({', '.join(sorted(map(inside, thing)))})"),
    (types.CodeType, _code),
    (types.FunctionType, _function),
    (types.MethodType, lambda thing, inside: f"{inside(thing.__self__)}.{thing.__name__}"),
    (types.ModuleType, lambda thing, inside: thing.__name__),
    (functools.partial, _partial),
    (type | types.BuiltinFunctionType, lambda thing, inside: thing.__qualname__),
    (Layer, lambda thing, inside: _mapping(of_network(thing), inside)),
)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def digest(a: np.ndarray) -> str:
    """16 hexadecimal digits that stand for an array's elements."""
    found = hashlib.sha256()  # processors have instructions for it
    if a.dtype.hasobject:
        raise UnidentifiedError("an array of Python objects is not looked into")
    a = a if a.ndim else a.reshape(1)
    step = max(
        1, 2**24 // max(1, a[:1].nbytes)
    )  # samples at a time: a strided or mapped array is not copied as a whole
    for start in range(0, len(a), step):
        found.update(np.ascontiguousarray(a[start : start + step]).reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:16]


def of_data(data: tuple[np.ndarray, np.ndarray] | None) -> str | None:
    """Samples and labels: how many, their shapes and types, and what they hold."""
    if data is None:
        return None
    each = ", ".join(f"{name} {a.dtype} {a.shape[1:]}" for name, a in zip("xy", data, strict=True))
    return f"{len(data[0])} samples, {each} [digest {' '.join(map(digest, data))}]"


def of_network(net: Layer) -> dict[str, str]:
    """Every layer by its path: class, arguments, mode, parameters' types and shapes, and the layers inside it."""
    names = {layer: f"layer {path}" if path else "layers" for path, layer in net.walk()}
    return {name: _layer(layer, names) for layer, name in names.items()}


def _layer(layer: Layer, names: Mapping[Layer, str]) -> str:
    tells = type(layer).describe is not Layer.describe
    arguments = layer.describe() if tells else ", ".join(_attributes(layer))
    parts = [f"{type(layer).__name__}({arguments})"]
    parts += [f"{name} {p.value.dtype} {tuple(p.value.shape)}" for name, p in layer.own_parameters().items()]
    parts += ["frozen"] if layer.frozen else [] if layer.training else ["evaluates"]
    inside = [names[child].removeprefix("layer ") for child in layer.children().values()]
    return ", ".join(parts) + (f": {' '.join(inside)}" if inside else "")


def _attributes(layer: Layer) -> list[str]:
    """Attributes that are arguments: no parameters, layers, arrays nor what is named as private, all of them state."""
    return [
        f"{name}={identified(value)}"
        for name, value in vars(layer).items()
        if not (name.startswith("_") or name in ("training", "frozen", "key") or _is_state(value))
    ]


def _is_state(value: Any) -> bool:
    if isinstance(value, list | tuple | dict) and value:
        return all(map(_is_state, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Layer | Parameter | np.ndarray)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' settings, by name: the first few of every setting, and how many more."""
    found: list[str] = []
    for setting in {**then, **now}:
        before, after = (_flat({setting.replace("_", " "): settings.get(setting)}) for settings in (then, now))
        different = [name for name in {**before, **after} if before.get(name, "") != after.get(name, "")]
        found += [
            f"{name}: {before.get(name, 'nothing')} in the checkpoint, {after.get(name, 'nothing')} now"
            for name in different[:TOLD]
        ]
        if len(different) > TOLD:
            found.append(f"{len(different) - TOLD} more of the {setting}")
    return found


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= {f"{name} {inner}": item for inner, item in _flat(value).items()}
        else:
            found[name] = value
    return found
