"""What a single setting may be, in a file, on the command line and in code."""

import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

from keras_senti.errors import require, suggest


def require_fraction(key: str, value: float):
    require(0 <= value < 1, key, value, "a fraction of at least 0 and below 1")


def require_at_least(minimum, key: str, value):
    require(not isinstance(value, int) or value < 2**31, key, value, "less than 2**31")  # TensorFlow's sizes are int32
    require(value is None or (math.isfinite(value) and value >= minimum), key, value, f"at least {minimum}")


_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}


def _convert(value, hint):
    """Returns a value from code as the plain Python object of its type hint, which YAML can write.

    Raises:
        TypeError: with what was expected, in words.
    """
    if hasattr(value, "tolist"):  # of NumPy: a number, a text or an array
        value = value.tolist()
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is types.UnionType:
        reasons = []
        for one in inner:
            try:
                return _convert(value, one)
            except TypeError as error:
                reasons.append(str(error))
        raise TypeError(", or ".join(reasons))
    if kind is Literal:
        if isinstance(value, str) and value in inner:
            return str(value)
        raise TypeError(f"one of {', '.join(inner)}")
    if kind is str and isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str):
        return str(os.fspath(value))
    if kind in (int, float) and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if kind is list and isinstance(value, list | tuple):
        return [_convert(one, inner[0]) for one in value]
    if kind is dict and isinstance(value, Mapping):
        return {_convert(key, inner[0]): _convert(one, inner[1]) for key, one in value.items()}
    if kind not in (int, float, str, list, dict) and isinstance(value, kind):  # bool, None, or a section
        return value
    raise TypeError("null" if kind is types.NoneType else _EXPECTED.get(kind, f"a {kind.__name__}"))


def convert_all(settings, section: str = ""):
    """Converts the values of settings that were built in code; see `_convert`.

    Raises:
        ValueError: for one that the settings do not take.
    """
    for item in fields(settings):
        value, key = getattr(settings, item.name), section + item.name
        if key == "data.label_map":  # DataConfig cleans it: labels may be numbers
            require(value is None or isinstance(value, Mapping), key, value, "a mapping, or null for no map")
            continue
        try:
            object.__setattr__(settings, item.name, _convert(value, item.type))
        except TypeError as error:
            choices = typing.get_args(item.type) if typing.get_origin(item.type) is Literal else ()
            near = suggest(value.lower(), choices) if isinstance(value, str) else ""
            received = " ".join(repr(value).split())
            received = received if len(received) <= 200 else received[:199] + "…"
            raise ValueError(f"{key}: received {received}, expected {error}.{near}") from None


BOOLEAN_LABEL = (
    "received the label {0} as true or false, which is how YAML reads an unquoted yes, no, on or off. "
    'Put labels in quotes: {{"no": negative}}.'
)
LARGEST_SEED = 2**32 - 1  # NumPy's limit
