"""What a single setting may be: one conversion for YAML, the command line and code."""

import datetime
import math
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Literal, NamedTuple

from keras_senti.errors import suggest


class Limit(NamedTuple):
    """Within `Annotated`: what a value of the type must be, said and computed."""

    expected: str
    holds: Callable


def at_least(least) -> Limit:
    return Limit(f"at least {least} and below 2**31", lambda value: least <= value < 2**31)  # TensorFlow's int32


PositiveInt = Annotated[int, at_least(1)]
NonNegativeInt = Annotated[int, at_least(0)]
PositiveFloat = Annotated[float, Limit("a number above 0", lambda value: 0 < value < math.inf)]
Fraction = Annotated[float, Limit("a fraction of at least 0 and below 1", lambda value: 0 <= value < 1)]
Seed = Annotated[int, Limit("0 to 4294967295", lambda value: 0 <= value < 2**32)]  # NumPy's limit

_EXPECTED = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "a mapping",
    types.NoneType: "null",
}  # fmt: skip
_shorten = reprlib.Repr()  # bounded: a stranger's YAML may be deep
_shorten.maxstring = _shorten.maxother = 150


def format_value(value) -> str:
    """Returns a value as a message shows it: in one short line."""
    return " ".join(_shorten.repr(value).split())


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def convert(value, hint):
    """Returns a value as the plain Python object of its type hint, which YAML can write.

    Raises:
        TypeError: whose arguments say what was expected, one of them.
    """
    if hasattr(value, "tolist"):  # of NumPy: a number, a text or an array
        value = value.tolist()
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Annotated:
        value, limit = convert(value, inner[0]), inner[1]
        if limit.holds(value):
            return value
        raise TypeError(limit.expected)
    if kind in (types.UnionType, typing.Union):
        return _convert_to_one(value, inner)
    if kind is Literal:
        if isinstance(value, str) and value in inner:
            return str(value)
        raise TypeError(f"one of {', '.join(inner)}")
    if kind is str and isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str):
        return str(os.fspath(value))
    is_whole = isinstance(value, numbers.Integral)
    if _is_number(value) and (kind is float or (kind is int and is_whole)):
        return int(value) if is_whole else float(value)
    if kind is list and isinstance(value, list | tuple):
        return [convert(one, inner[0]) for one in value]
    if kind is dict and isinstance(value, Mapping):
        labels = (str(key) if _is_number(key) else key for key in value)  # which may be numbers in code
        return {convert(key, inner[0]): convert(one, inner[1]) for key, one in zip(labels, value.values())}
    if kind not in (int, float, str, list, dict) and isinstance(value, kind):  # bool, None, or a section
        return value
    quotes = " (in quotes)" if kind is str and isinstance(value, bool | numbers.Real | datetime.date) else ""
    raise TypeError(_EXPECTED.get(kind, f"a {kind.__name__}") + quotes)


def _convert_to_one(value, hints):
    """Returns a value as the first of the types that takes it."""
    reasons = {}
    for hint in hints:
        try:
            return convert(value, hint)
        except TypeError as error:
            reasons |= dict.fromkeys(error.args)
    raise TypeError(*reasons)


class Settings:
    """Frozen settings, whose values are converted where they are made, in code or from a file: see `convert`."""

    def __post_init__(self):
        """Raises a ValueError for a value that its setting does not take."""
        section = type(self).__name__.removesuffix("Config").lower()
        for item in fields(self):
            value = getattr(self, item.name)
            try:
                object.__setattr__(self, item.name, convert(value, item.type))
            except TypeError as error:
                key, expected = f"{section}.{item.name}".strip("."), ", or ".join(error.args)
                choices = typing.get_args(item.type) if typing.get_origin(item.type) is Literal else ()
                near = suggest(value.lower(), choices) if isinstance(value, str) else ""
                raise ValueError(f"{key}: received {format_value(value)}, expected {expected}.{near}") from None
