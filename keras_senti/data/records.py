"""From the lines of a CSV or TSV file to its records, read as they are meant where that can mean one thing only.

What was not read as it stands is counted in `notes`, with the first lines where that was.
"""

import csv
import functools
import re
import unicodedata
from collections import deque

from keras_senti.errors import UserError

MOST_BYTES = 64 * 2**20  # of a line, a cell or a record: what is longer is refused before it fills the memory
MOST_NAMED = 1000  # records that are kept to be named; all are counted
SHOWN_LINES = 5
csv.field_size_limit(MOST_BYTES)  # the default refuses texts above 131,072 characters

# Control characters, zero-width marks, joiners, marks of direction, Hangul fillers, variation selectors, byte-order
# marks.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
EXCEL_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # a first line that Excel writes and reads
_INNER_RETURN = re.compile(r"\r+(?![\r\n]|$)")
_QUOTED_CELL = re.compile(r'(?:^|\t)"[^"\t]*"(?:\t|\s*$)')
# What is tried on a record that is no valid CSV as it stands; taken if its number of fields is right afterwards.
_REPAIRS = {
    "backslash": (re.compile(r'\\([\\"])'), lambda found: '""' if found[1] == '"' else "\\"),
    "space after a quote": (re.compile(r'"[ \xa0]+(?=[,;|]|\r?\n|$)'), '"'),
}
MEANINGS = {
    "repeated header": "the header again, dropped,",
    "space before a quote": 'a space before a quote (, "...), left out,',
    "space after a quote": 'a space after a quote ("... ,), left out,',
    "backslash": 'quotes behind a backslash (\\"), read as quotes,',
    "carriage return": "a carriage return inside the line, read as a space,",
    "carriage return as line end": "a carriage return alone as line end",
    "list of tokens": "a list of tokens, joined by spaces,",
    "quoted cell": "a cell in quotes, which are part of it in a .tsv (save it as .csv if they only wrap it),",
}


class CsvError(UserError):
    """A record is not valid CSV, whatever is tried with it."""


class Records:
    """The records of a file as an iterable of (line where it begins, list of fields), blank lines left out.

    The first is the header, with clean names. Each other one is as long as the header; those that repeat it are left
    out. With tabs, quotes are part of a cell, unless a cell of the header is quoted. A first line `sep=,` is obeyed.

    Args:
        path: for messages. lines: iterator of the lines with their line ends. delimiter: one character.
    Attributes:
        notes: what was not read as it stands (a key of MEANINGS) → (rows, the first lines).
        repeated_headers: lines of rows that repeat the header, MOST_NAMED at most.
        swallowed: (first line, last line, the first of its lines as rows) of records whose lines may be rows of their
            own, joined by a stray quote. MOST_NAMED at most.
    """

    def __init__(self, path, lines, delimiter: str):
        self.path, self.lines, self.delimiter = path, lines, delimiter
        self.notes, self.repeated_headers, self.swallowed = {}, [], []
        self.begin, self.columns, self.taken, self.again = 1, None, [], deque()

    def __iter__(self):
        first = next(self.lines, "")
        if found := EXCEL_LINE.fullmatch(first):
            self.delimiter, self.begin, first = found[1], 2, next(self.lines, "")
        self.again.append(first)
        self.is_quoted = self.delimiter != "\t" or _QUOTED_CELL.search(first) is not None
        self._parse = functools.partial(
            csv.reader,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.is_quoted else csv.QUOTE_NONE,
            strict=True,
        )
        taken, reader = self.taken, self._parse(self._feed())
        while True:
            problem = None
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                record, problem = None, error
            if self.columns is None and (problem or record):
                record = record or self._mend(record, problem)
                reader = self._parse(self._feed()) if problem else reader
                self.columns = columns = name_columns(record)
                width, key = len(columns), max((i for i, name in enumerate(record) if name.strip()), default=0)
                last = columns[key].casefold()
                yield self.begin, columns
            elif record != []:
                if problem or len(record) != width:
                    record = self._mend(record, problem)
                    reader = self._parse(self._feed())
                if len(taken) > 1 or '"' in taken[0]:
                    self._look_at_quotes(record)
                if record[key].strip().casefold() == last and _fold(record) == _fold(columns):
                    self._note("repeated header")
                    self.repeated_headers += [self.begin] if len(self.repeated_headers) < MOST_NAMED else []
                else:
                    yield self.begin, record
            self.begin += len(taken)
            taken.clear()

    def _feed(self):
        """Yields lines, those in `again` first, and keeps those of the record in `taken`."""
        again, taken, lines, size = self.again, self.taken, self.lines, 0
        spaced, more = f'{self.delimiter} "', [f"{self.delimiter}{blank}" for blank in ("  ", "\t", "\xa0")]
        while True:
            line = again.popleft() if again else next(lines, None)
            if line is None:
                return
            at = line.find("\r")
            if -1 < at < len(line) - 1 - line.endswith("\n"):
                pieces = self._split_at_returns(line)
                line = pieces[0]
                again.extendleft(pieces[:0:-1])
            if spaced in line or more[0] in line or more[1] in line or more[2] in line or line.startswith(' "'):
                line = self._drop_spaces(line)
            size = size + len(line) if taken else len(line)
            if size > MOST_BYTES:
                raise UserError(
                    f"{self.path}, line {self.begin}: the record that begins here is longer than {MOST_BYTES >> 20} "
                    "MB. Usually a quote is never closed."
                )
            taken.append(line)
            yield line

    def _note(self, what: str, line: int | None = None):
        rows, lines = self.notes.get(what, (0, []))
        self.notes[what] = rows + 1, lines if len(lines) == SHOWN_LINES else [*lines, line or self.begin]

    def _drop_spaces(self, line: str) -> str:
        """Drops the spaces before a quote that opens a cell: so many others before it are even in number."""
        quotes, pieces, start = sum(before.count('"') for before in self.taken), [], 0
        blanks = "[ \xa0]" if self.delimiter == "\t" else "[ \t\xa0]"
        opening = rf'(?:^|(?<={re.escape(self.delimiter)})){blanks}+(?=")'
        for found in re.finditer(opening, line) if self.is_quoted else ():
            quotes += line.count('"', start, found.start())
            pieces.append(line[start : found.start()] if quotes % 2 == 0 else line[start : found.end()])
            start = found.end()
        mended = "".join([*pieces, line[start:]])
        if mended != line:
            self._note("space before a quote")
        return mended

    def _split_at_returns(self, line: str) -> list[str]:
        """Splits a line at carriage returns outside of quotes where these are line ends, else makes them spaces.

        They are line ends in the header, and where each piece has the right number of fields.
        """
        quotes = sum(before.count('"') for before in self.taken)
        pieces, start, counted = [], 0, 0
        for found in _INNER_RETURN.finditer(line):
            quotes, counted = quotes + line.count('"', counted, found.start()), found.start()
            if not self.is_quoted or quotes % 2 == 0:
                pieces.append(line[start : found.start()])
                start = found.end()
        if not pieces:
            return [line]
        pieces.append(line[start:])
        number = self.begin + len(self.taken)
        if self.columns is None or (len(self.columns) > 1 and all(map(self._is_row, pieces))):
            self._note("carriage return as line end", number)
            return pieces
        self._note("carriage return", number)
        return [" ".join(pieces)]

    def _is_row(self, line: str) -> bool:
        try:
            return len(next(self._parse([line]), ())) == len(self.columns)
        except csv.Error:
            return False

    def _mend(self, record: list[str] | None, problem: csv.Error | None) -> list[str]:
        """Returns a record as long as the header, if it can be had without a doubt; raises a UserError if not."""
        width, taken, held = len(self.columns or ()), self.taken, list(self.taken)
        if record is not None:  # cells that are empty, or have no name, and are last carry nothing
            if len(record) > width and not any(cell.strip() for cell in record[width:]):
                return record[:width]
            if len(record) < width and all(name.startswith("Unnamed: ") for name in self.columns[len(record) :]):
                return record + [""] * (width - len(record))
        for what, (pattern, by) in _REPAIRS.items():
            if not any(pattern.search(line) for line in held):
                continue
            self.again.extendleft(reversed(taken))
            taken.clear()
            reader = self._parse(pattern.sub(by, line) for line in self._feed())
            try:
                found = next(reader, [])
            except csv.Error:
                continue
            if found and len(found) == (width or len(found)):
                self.again.extendleft(reversed(taken[reader.line_num :]))
                del taken[reader.line_num :]
                self._note(what)
                return found
        hint = ' Quotes behind a backslash (\\") do not make it right either.' if '\\"' in "".join(held) else ""
        if f"\\{self.delimiter}" in "".join(held):
            hint = f" A backslash before it (\\{self.delimiter}) does not make it part of a text."
        if problem is not None:
            raise CsvError(
                f"{self.path}, line {self.begin}: the record that begins here is not valid CSV ({problem}). Usually a "
                f'quote is never closed: a field that holds a quote must be quoted, and the quote doubled ("").{hint}'
            )
        remedy = "Quote texts that hold the separator."
        if not self.is_quoted:
            remedy = "Quotes mean nothing in a .tsv: save texts that hold tabs or line ends as .csv."
        raise UserError(
            f"{self.path}, line {self.begin}: {len(record)} fields, expected {width} as in the header. {remedy}{hint}"
        )

    def _look_at_quotes(self, record: list[str]):
        """Notes what quotes did to a record."""
        taken, delimiter = self.taken, self.delimiter
        if not self.is_quoted:
            if any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in record):
                self._note("quoted cell")
            return
        if len(taken) > 1 and len(self.columns) > 1 and len(self.swallowed) < MOST_NAMED:
            rows = [line.rstrip("\r\n").split(delimiter) for line in taken if line.count(delimiter) == len(record) - 1]
            if len(rows) > 1:
                rows = [{name: cell[:100] for name, cell in zip(self.columns, row)} for row in rows[:3]]
                self.swallowed.append((self.begin, self.begin + len(taken) - 1, rows))


def name_columns(header: list[str]) -> list[str]:
    """Returns clean names; one that is empty is named by its place, as pandas does: "Unnamed: 0"."""
    names = [INVISIBLE.sub("", unicodedata.normalize("NFC", name)).strip() for name in header]
    found = []
    for i, name in enumerate(names):
        while not name or (name in names and not names[i]):
            name = f"{name}_" if name else f"Unnamed: {i}"
        found.append(name)
    return found


def _fold(header: list[str]) -> list[str]:
    return [name.casefold() for name in name_columns(header)]
