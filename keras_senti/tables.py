"""Reading a user's CSV, TSV or JSON Lines file, with a message for everything that can be wrong with it.

Files are read line by line with the standard library, so that an error can name the line where it happened. Nothing is
kept of them, so they are read several times: `read_stamp` tells whether they are still the same.
"""

import csv
import gzip
import json
import lzma
import zlib
from collections import Counter
from pathlib import Path

from keras_senti.config import UserError, suggest

_CHANGED = "was changed or removed while it was in use. Bring its old content back, or start again with the new one."
_MAGIC = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
_NOT_TEXT = {b"PK\x03\x04": "a zip archive or an Excel workbook", b"%PDF": "a PDF", b"\x89PNG": "a picture"}
csv.field_size_limit(2**31 - 1)  # the default refuses texts above 131,072 characters


def read_stamp(path) -> tuple[int, int] | None:
    """Returns size and time of change of a file, which tell whether it is still the same; None if it is not there."""
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def check_stamp(path, stamp):
    """Raises a UserError if a file is no longer what it was when `read_stamp` returned `stamp`."""
    if read_stamp(path) != stamp:
        raise UserError(f"{path}: {_CHANGED}")


def read_lines(path: Path):
    """Yields (line number from 1, bytes with their line end) of a plain, .gz or .xz file; its first bytes tell which.

    Raises:
        UserError: if it cannot be read, is damaged or plainly no text.
    """
    number = 0
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        for magic, what in _NOT_TEXT.items():
            if head.startswith(magic):
                raise UserError(f"{path}: is {what}, expected text in UTF-8. Unpack it, or export it as CSV.")
        opener = next((o for magic, o in _MAGIC.items() if head.startswith(magic)), None)
        if opener is None and path.suffix in (".gz", ".xz") and head:
            raise UserError(f"{path}: is not compressed although its name ends in {path.suffix}. Rename it.")
        with (opener or open)(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                yield number, raw
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error):
        raise UserError(
            f"{path}: the compressed file is damaged or cut off after line {number}. Fetch or make it again."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


class Table:
    """A CSV, TSV or JSON Lines file, plain, .gz or .xz, as an iterable of (line number, {column: value}).

    Iterating again reads the file again, so it never has to fit in memory. Values are strings, or None where a JSON
    object lacks a key.

    Args:
        path: the file. Its name decides the format, its first bytes the compression.
        damaged: "strict" refuses bytes that are not UTF-8; "replace" turns them into U+FFFD.
    Raises:
        UserError: for whatever is wrong with the file, with its name and the line.
    """

    def __init__(self, path, damaged: str = "strict"):
        self.path, self.damaged = Path(path), damaged
        try:
            is_folder = self.path.is_dir()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
        if is_folder:
            raise UserError(f"{path}: is a folder, expected a CSV, TSV or JSON Lines file. Name the file inside it.")
        if not self.path.is_file():
            folder = self.path.parent
            names = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
            raise UserError(f"{path}: no such file (looked in {folder.resolve()}).{suggest(self.path.name, names)}")
        name = self.path.name.lower().removesuffix(".gz").removesuffix(".xz")
        self.is_json = name.endswith((".jsonl", ".ndjson", ".json"))
        self.delimiter = "\t" if name.endswith((".tsv", ".tab")) else ","
        if self.is_json:
            self.columns = list(dict.fromkeys(key for _, row in self._json_rows() for key in row))
        else:
            self.columns = next(self._csv_records(), (1, []))[1]
        if not self.columns:
            raise UserError(f"{path}: is empty, expected a header line and rows. Is it the right file?")
        repeated = [name for name, count in Counter(self.columns).items() if count > 1]
        if repeated:
            raise UserError(f"{path}, line 1: the column '{repeated[0]}' occurs twice. Give each column its own name.")

    def require_column(self, name: str, setting: str, remedy: str = ""):
        """Raises a UserError, with the nearest name and what else may help, unless the file has the column."""
        if name not in self.columns:
            shown = ", ".join(f"'{c}'" for c in self.columns[:20])
            hint = suggest(name, self.columns)
            if len(self.columns) == 1 and any(c in self.columns[0] for c in ";\t|"):
                hint = " It seems to be separated by something else: save it with commas, or with tabs as .tsv."
            raise UserError(f"{self.path}: no column '{name}' ({setting}). The file has {shown}.{hint}{remedy}")

    def __iter__(self):
        return self._json_rows() if self.is_json else self._csv_rows()

    def _lines(self):
        """Yields (line number from 1, text with its line end)."""
        for number, raw in read_lines(self.path):
            yield number, self._decode(raw, number)

    def _decode(self, raw: bytes, number: int) -> str:
        if number == 1:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError(f"{self.path}: is UTF-16, expected UTF-8. Save it again as UTF-8.")
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in raw:
            raise UserError(
                f"{self.path}, line {number}: holds a NUL byte, so this is a binary or damaged file, expected text."
            )
        try:
            return raw.decode("utf-8", self.damaged)
        except UnicodeDecodeError as error:
            byte = raw[error.start]
            raise UserError(
                f"{self.path}, line {number}: byte 0x{byte:02x} is not UTF-8 (byte {error.start + 1} of the line). "
                "Convert the file: iconv -f ORIGINAL_ENCODING -t UTF-8 (often CP1252 or GB18030)."
            ) from None

    def _csv_records(self):
        """Yields (line where the record begins, list of fields), header first, blank lines left out."""
        reader = csv.reader((line for _, line in self._lines()), delimiter=self.delimiter, strict=True)
        while True:
            begin = reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "new-line" in str(error):
                    raise UserError(f"{self.path}: its line ends are CR only. Save it with LF or CRLF.") from None
                raise UserError(
                    f"{self.path}, line {begin}: the record that begins here is not valid CSV ({error}). Usually a "
                    'quote is never closed: a field that holds a quote must be quoted, and the quote doubled ("").'
                ) from None
            if record:
                yield begin, record

    def _csv_rows(self):
        records = self._csv_records()
        next(records, None)
        for line, record in records:
            if len(record) != len(self.columns):
                raise UserError(
                    f"{self.path}, line {line}: {len(record)} fields, expected {len(self.columns)} as in the header. "
                    "Quote texts that hold the separator."
                )
            yield line, dict(zip(self.columns, record))

    def _json_rows(self):
        for number, line in self._lines():
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{self.path}, line {number}: not JSON ({error}). Expected one object a line."
                ) from None
            if not isinstance(row, dict):
                raise UserError(
                    f"{self.path}, line {number}: received {type(row).__name__}, expected one JSON object a line."
                )
            yield number, {key: self._json_value(value) for key, value in row.items()}

    @staticmethod
    def _json_value(value):
        if value is None:
            return None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()  # half an emoji ("\\ud83d") could not be written again
