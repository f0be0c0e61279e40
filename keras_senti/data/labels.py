"""A label as it stands in a file, and the class that it means."""

import functools
import re
import unicodedata

from keras_senti.data.records import INVISIBLE
from keras_senti.data.tables import JsonValue, refuse_object
from keras_senti.errors import UserError, suggest

# What programs write for a missing value. It may be a word too, so it is kept, and said.
MISSING_WORDS = frozenset(r"nan -nan none null (null) \n nil <na> nat n/a n.a. #n/a na undefined missing".split())
_BRACKETS, _CLOSING = ("[", "(", "{"), ("]", ")", "}")
SEVERAL_LABELS = (
    "Make a column of each label with yes or no in it, and a model of each column; or, where each label is about an "
    "aspect of the text, write a row for each aspect."
)


@functools.lru_cache(maxsize=10_000)
def _is_list(label: str) -> bool:
    """Says whether a label is a list as Python or JSON, or as NumPy writes one."""
    is_list = label[:1] in _BRACKETS and label[-1:] in _CLOSING and "," in label
    return is_list or re.fullmatch(r"""\[ ?[-+\d'"].* .*\]""", label) is not None


@functools.lru_cache(maxsize=10_000)
def clean_label(raw: str | None) -> str:
    """Returns a label as it is meant: composed (NFC), without invisible characters, with single spaces.

    2.0, as tables with missing labels write 2, becomes 2, and so do +2 and 2 in wide characters; a minus sign or a dash
    before a number becomes a hyphen.
    """
    label = " ".join(INVISIBLE.sub("", unicodedata.normalize("NFC", raw or "")).split())
    number = re.fullmatch(r"([+\-\u2212\u2013]?)(\d+)((?:\.\d*)?)", unicodedata.normalize("NFKC", label))
    if number is None or unicodedata.category(label[-1]) == "No":  # a circled or raised digit
        return label
    fraction = number[3] if number[3].strip(".0") else ""
    has_minus = number[1] not in ("", "+") and (int(number[2]) or fraction)
    return ("-" if has_minus else "") + number[2] + fraction


def clean_label_map(label_map: dict | None) -> dict[str, str | None] | None:
    """Returns the map with its keys cleaned as labels are; {} becomes None.

    Raises:
        UserError: if two keys are one label then, with different names.
    """
    cleaned = {}
    for raw, name in (label_map or {}).items():
        label = clean_label(str(raw))
        if cleaned.setdefault(label, name) != name:
            raise UserError(
                f"data.label_map: received both '{cleaned[label]}' and '{name}' for the label '{label}' (as "
                f"'{raw}' is read), expected one class name. Leave one of them out."
            )
    return cleaned or None


def map_label(raw: str, label_map: dict | None, where: str) -> str | None:
    """Returns the class name of a clean label; None if the map leaves it out."""
    if label_map is None:
        return raw
    if raw not in label_map:
        raise UserError(
            f"{where}: unknown label '{raw}'; data.label_map names {', '.join(map(repr, label_map))}."
            f"{suggest(raw, label_map)} Add it to data.label_map, or mend the file."
        )
    return label_map[raw]


def read_label(row: dict, column: str, label_map: dict | None, where: str) -> tuple[str, str]:
    """Returns the label of a row as it stands, and clean; both "" where it is missing.

    Raises:
        UserError: for several labels (a list) or an object, unless data.label_map names them.
    """
    raw = row.get(column) or ""
    label = clean_label(raw)
    if (isinstance(raw, JsonValue) or _is_list(label)) and label not in (label_map or ()):
        refuse_object(raw, column, where)
        raise UserError(f"{where}: the label is a list ({label[:60]}), expected one label a text. {SEVERAL_LABELS}")
    return raw, label
