"""Reading a user's CSV, TSV or JSON Lines file, with a message for everything that can be wrong with it.

Files are read line by line with the standard library, so that an error can name the line where it happened.
"""

import ast
import functools
import gzip
import json
import lzma
import os
import re
import stat
import zlib
from collections import Counter
from pathlib import Path

from keras_senti.data.formats import (
    describe_format,
    detect_wide_encoding,
    guess_encoding,
    guess_separator,
    suggest_conversion,
    suggest_json_lines,
)
from keras_senti.data.records import EXCEL_LINE, MOST_BYTES, CsvError, Records
from keras_senti.errors import UserError, suggest

_CHANGED = "was changed or removed while it was in use. Bring its old content back, or start again with the new one."
_LISTS = ("['", '["', "('", '("')
_NUMPY_LIST = re.compile(r"""\[(?:(?:'[^']*'|"[^"]*")\s*)+\]""")  # without commas, which Python would join
MOST_LIST = 1_000_000  # characters of a list in a cell, which are parsed as Python
_MAGIC = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}


def read_stamp(path) -> tuple[int, int] | None:
    """Returns size and time of change of a file, which tell whether it is still the same; None if it is not there."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def check_stamp(path, stamp):
    """Raises a UserError if a file is no longer what it was when `read_stamp` returned `stamp`."""
    if read_stamp(path) != stamp:
        raise UserError(f"{path}: {_CHANGED}")


def check_regular(path):
    """Raises a UserError for a pipe or a device, which would be waited for, or never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder says so itself
        raise UserError(f"{path}: is a pipe or a device, expected a file. Save what it gives as a file, and name that.")


def read_lines(path: Path):
    """Yields (line number from 1, bytes with their line end) of a plain, .gz or .xz file; its first bytes tell which.

    Raises:
        UserError: if it cannot be read, is damaged, plainly no text, or has a line above MOST_BYTES.
    """
    number = 0
    try:
        check_regular(path)
        with open(path, "rb") as file:
            head = file.read(8)
        opener = next((o for magic, o in _MAGIC.items() if head.startswith(magic)), None)
        if opener is None and path.suffix in (".gz", ".xz") and head and not describe_format(head, path):
            raise UserError(f"{path}: is not compressed although its name ends in {path.suffix}. Rename it.")
        with (opener or open)(path, "rb") as file:
            for number, raw in enumerate(iter(functools.partial(file.readline, MOST_BYTES + 1), b""), 1):
                if number == 1 and (found := describe_format(raw, path)):
                    raise UserError(f"{path}: is {found[0]}, expected text in UTF-8. {found[1]}")
                if len(raw) > MOST_BYTES:
                    raise UserError(
                        f"{path}, line {number}: is longer than {MOST_BYTES >> 20} MB, expected at most that. Is it "
                        "the right file?"
                    )
                yield number, raw
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error):
        raise UserError(
            f"{path}: the compressed file is damaged or cut off after line {number}. Fetch or make it again."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


class JsonValue(str):
    """A list or an object of a JSON row, as the text that is kept of it. value: what it says."""

    def __new__(cls, text: str, value):
        self = super().__new__(cls, text)
        self.value = value
        return self


def read_text(row: dict, column: str, where: str) -> str:
    """Returns the text of a row, "" where it is missing; a list of strings, such as tokens, is joined by spaces.

    Also one that pandas wrote into a cell of a CSV file: "['so', 'good']".

    Raises:
        UserError: for a JSON object, or a list of something else.
    """
    found = row.get(column)
    if not isinstance(found, JsonValue):
        found = found or ""
        return " ".join(tokens) if found.startswith(_LISTS) and (tokens := _parse_tokens(found)) else found
    if isinstance(found.value, list) and all(isinstance(token, str) for token in found.value):
        return _replace_surrogates(" ".join(found.value))
    refuse_object(found, column, where)
    raise UserError(
        f"{where}: '{column}' is a list that holds more than strings ({found[:40]}), expected a text or its tokens. "
        "Write the text itself."
    )


def refuse_object(value, column: str, where: str):
    """Raises a UserError for a JSON object."""
    if isinstance(value, JsonValue) and isinstance(value.value, dict):
        raise UserError(
            f"{where}: '{column}' is an object, expected a text or a label. Name what is inside it with a dot, such as "
            f"'{column}.{next(iter(value.value), 'text')}'."
        )


def _parse_tokens(text: str) -> list[str] | None:
    """Returns the strings of a list or tuple as Python, NumPy or JSON write it, None if it is none."""
    if len(text) > MOST_LIST or text[-1] not in "])":
        return None
    if _NUMPY_LIST.fullmatch(text):
        return [first or second for first, second in re.findall(r"""'([^']*)'|"([^"]*)\"""", text)]
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return list(found) if isinstance(found, list | tuple) and all(isinstance(token, str) for token in found) else None


def _replace_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # half an emoji ("\\ud83d") could not be written again


class Table:
    """A CSV, TSV or JSON Lines file, plain, .gz or .xz, as an iterable of (line number, {column: value}).

    Iterating again reads the file again, so it never has to fit in memory. Values are strings, or None where a JSON
    object has null or NaN.

    Args:
        path: the file. Its name decides the format, its first bytes the compression.
        damaged: "strict" refuses bytes that are not UTF-8; "replace" turns them into U+FFFD.
    Attributes:
        columns: names; an empty one is named by its place, as pandas does ("Unnamed: 0"). Of JSON Lines those of the
            rows read so far.
        records: of the last iteration, see `Records`; None for JSON.
    Raises:
        UserError: for whatever is wrong with the file, with its name and the line.
    """

    def __init__(self, path, damaged: str = "strict"):
        self.path, self.damaged = Path(path), damaged
        self._check_there()
        name = self.path.name.lower().removesuffix(".gz").removesuffix(".xz")
        self.is_json = name.endswith((".jsonl", ".ndjson", ".json"))
        self.delimiter = "\t" if name.endswith((".tsv", ".tab")) else ","
        self.records, self.columns, self.nested, self.required = None, [], [], {}
        if self.is_json:
            next(self._json_rows(), None)
        else:
            self.columns = self._read_header()
        if not self.columns:
            raise UserError(f"{path}: is empty, expected a header line and rows. Is it the right file?")
        repeated = [name for name, count in Counter(self.columns).items() if count > 1]
        if repeated:
            raise UserError(f"{path}, line 1: the column '{repeated[0]}' occurs twice. Give each column its own name.")

    def _check_there(self):
        try:
            if self.path.is_dir():
                raise UserError(
                    f"{self.path}: is a folder, expected a CSV, TSV or JSON Lines file. Name the file inside it."
                )
            if self.path.exists():
                check_regular(self.path)
                return
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}.") from None
        folder = self.path.parent
        names = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
        raise UserError(f"{self.path}: no such file (looked in {folder.resolve()}).{suggest(self.path.name, names)}")

    def _read_header(self) -> list[str]:
        try:
            return next(iter(Records(self.path, self._lines(), self.delimiter)), (1, []))[1]
        except CsvError:  # such as a header of quoted names between other separators
            if not (hint := self._explain_format()):
                raise
            raise UserError(f"{self.path}, line 1: the header is not separated by {self.delimiter!r}.{hint}") from None

    def may_have(self, name: str) -> bool:
        """Says whether the file has a column; of JSON Lines, any row of which may have it: True.

        "a.b" names the value of b inside a there, which is a column of its own from then on.
        """
        self.nested += [name] if "." in name else []
        return self.is_json or name in self.columns

    def require_column(self, name: str, setting: str, remedy: str = ""):
        """Raises a UserError, with the nearest name and what else may help, unless the file has the column.

        If a file of JSON Lines lacks it, the error comes behind the last row.
        """
        if self.is_json:
            self.may_have(name)
            self.required[name] = setting, remedy
        else:
            self._check_column(name, setting, remedy)

    def _check_column(self, name: str, setting: str, remedy: str):
        if name not in self.columns:
            shown = ", ".join(f"'{c}'" for c in self.columns[:20])
            hint = suggest(name, self.columns)
            if not self.is_json:
                hint = self._explain_format(name) or hint
            raise UserError(f"{self.path}: no column '{name}' ({setting}). The file has {shown}.{hint}{remedy}")

    def _explain_format(self, column: str = "", encoding: str | None = None, refused: bytes | None = None) -> str:
        """Returns which other separator and encoding the file seems to have and how to convert it, or "".

        Args:
            refused: the first line that is not UTF-8.
        """
        sample, size = [], 0
        for _, raw in read_lines(self.path):
            sample.append(raw)
            size += len(raw)
            if size > 1_000_000 or raw == refused:
                break
        before = b"".join(sample[:-1]).removeprefix(b"\xef\xbb\xbf")
        if refused is not None and not before.isascii():
            return " The lines before it are UTF-8: it comes from another file, or is damaged. Mend it."
        encoding = encoding or guess_encoding(b"".join([*sample, refused or b""]))
        if self.is_json:
            return f" It seems to be encoded in {encoding.upper()}. {suggest_json_lines(self.path, encoding)}"
        lines = b"".join(sample).decode(encoding or "utf-8-sig", "replace").splitlines()
        excel = EXCEL_LINE.fullmatch(lines[0]) if lines else None
        delimiter, lines = excel[1] if excel else self.delimiter, lines[excel is not None :]
        separator = guess_separator(lines, delimiter, column)
        found = [f"separated by {separator!r}"] if separator else []
        found += [f"encoded in {encoding.upper()}"] if encoding else []
        if not found:
            return ""
        separator = separator or (delimiter if delimiter != "," else None)
        call = suggest_conversion(self.path, separator, encoding, int(excel is not None))
        return f" It seems to be {' and '.join(found)}. {call}"

    def __iter__(self):
        return self._json_rows() if self.is_json else self._csv_rows()

    def _lines(self):
        """Yields the lines as text with their line ends."""
        for number, raw in read_lines(self.path):
            if number == 1 and (name := detect_wide_encoding(raw)):
                raise UserError(f"{self.path}: is not UTF-8.{self._explain_format('', name)}")
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # also inside, where files were joined
            if b"\0" in raw:
                raise UserError(
                    f"{self.path}, line {number}: holds a NUL byte, so this is a binary or damaged file, expected text."
                )
            try:
                yield raw.decode("utf-8", self.damaged)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.path}, line {number}: byte 0x{raw[error.start]:02x} is not UTF-8 (byte {error.start + 1} "
                    f"of the line).{self._explain_format(refused=raw)}"
                ) from None

    def _csv_rows(self):
        self.records = Records(self.path, self._lines(), self.delimiter)
        records = iter(self.records)
        next(records, None)
        columns = self.columns
        for line, record in records:
            yield line, dict(zip(columns, record))

    def _json_rows(self):
        known = set(self.columns)
        for number, line in enumerate(self._json_lines(), 1):
            if not line.strip():
                continue
            found = self._parse_json(line, number)
            row = {key or "Unnamed: 0": _keep_json(value) for key, value in found.items()}
            for name in self.nested:
                if name not in row and (value := _find_nested(found, name)) is not None:
                    row[name] = _keep_json(value)
            if not known.issuperset(row):
                self.columns += [name for name in row if name not in known]
                known.update(row)
            yield number, row
        for name, (setting, remedy) in self.required.items():
            self._check_column(name, setting, remedy)

    def _json_lines(self):
        for lines in self._lines():
            yield from lines.rstrip("\r\n").split("\r")  # which cannot stand inside a JSON string

    def _parse_json(self, line: str, number: int) -> dict:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"not JSON ({error}). Expected one object a line."
        else:
            if isinstance(found, dict):
                return found
            problem = f"received {type(found).__name__}, expected one JSON object a line."
        hint = f" {suggest_json_lines(self.path)}" if number == 1 and line.startswith("[") else ""
        raise UserError(f"{self.path}, line {number}: {problem}{hint}") from None


def _keep_json(value) -> str | None:
    if isinstance(value, str):
        return _replace_surrogates(value)
    if value is None or value != value:  # NaN
        return None
    text = _replace_surrogates(json.dumps(value, ensure_ascii=False))
    return JsonValue(text, value) if isinstance(value, (list, dict)) else text


def _find_nested(value, name: str):
    """Returns what "a.b" names in an object, or None; keys may hold dots themselves."""
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    inner = (_find_nested(value[key], name[len(key) + 1 :]) for key in value if name.startswith(f"{key}."))
    return next((found for found in inner if found is not None), None)
