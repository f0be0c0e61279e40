"""What a file that cannot be read as it stands probably is, and the line of pandas that makes it one that can."""

import re

# First bytes → what it is, and the function of pandas that reads it; None: none does.
_FORMATS = {
    b"PAR1": ("a Parquet file", "read_parquet"),
    b"ARROW1": ("an Arrow (Feather) file", "read_feather"),
    b"FEA1": ("a Feather file", "read_feather"),
    b"ORC": ("an ORC file", "read_orc"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook (.xls)", "read_excel"),
    b"\x89HDF": ("an HDF5 file", "read_hdf"),
    b"SQLite format 3": ("an SQLite database", None),
    b"\x80\x04\x95": ("a Python pickle, which runs its author's code when it is read", None),
    b"\x80\x05\x95": ("a Python pickle, which runs its author's code when it is read", None),
    b"\x93NUMPY": ("a NumPy array", None),
    b"BZh": ("a bzip2 file", "read_csv"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "read_csv"),
    b"7z\xbc\xaf": ("a 7z archive", None),
    b"Rar!": ("a RAR archive", None),
    b"%PDF": ("a PDF", None),
    b"\x89PNG": ("a picture", None),
}
_ZIPPED = {
    ".xlsx": ("an Excel workbook", "read_excel"),
    ".xlsm": ("an Excel workbook", "read_excel"),
    ".ods": ("an OpenDocument table", "read_excel"),
}


def describe_format(head: bytes, path) -> tuple[str, str] | None:
    """Returns what a file is that is no text, and the remedy; None if its first bytes may be text."""
    found = next((what for magic, what in _FORMATS.items() if head.startswith(magic)), None)
    if head.startswith(b"PK\x03\x04"):
        is_excel = head[30:].startswith((b"[Content_Types]", b"xl/", b"_rels/"))
        found = _ZIPPED.get(path.suffix.lower(), _ZIPPED[".xlsx"] if is_excel else ("a zip archive", "read_csv"))
    if found is None:
        return None
    what, function = found
    if function is None:
        return what, "Export its table as CSV."
    unpack = "Unpack it, or convert" if function == "read_csv" else "Convert"
    name = path.stem + (".csv" if path.suffix != ".csv" else "-text.csv")
    call = f"pandas.{function}({path.name!r}).to_csv({name!r}, index=False)"
    return what, f"{unpack} it to CSV with pandas: {call}"


def suggest_conversion(path, separator: str | None, encoding: str | None, skipped: int = 0) -> str:
    """Returns a sentence with the line of pandas that saves a file with commas and in UTF-8.

    Args:
        skipped: lines before the header.
    """
    options = [repr(path.name)]
    options += [f"skiprows={skipped}"] if skipped else []
    if separator:
        options += [f"sep={separator!r}"] if len(separator) == 1 else [f"sep={re.escape(separator)!r}, engine='python'"]
    options += [f"encoding={encoding!r}"] if encoding else []
    name = path.name.split(".")[0] + "-utf8.csv"
    return (
        f"Save it with commas and in UTF-8, such as with pandas: pandas.read_csv({', '.join(options)}, dtype=str, "
        f"keep_default_na=False).to_csv({name!r}, index=False)"
    )


def suggest_json_lines(path, encoding: str | None = None) -> str:
    """Returns a sentence with the line of pandas that saves a list of JSON objects as JSON Lines, in UTF-8."""
    options = [repr(path.name), f"encoding={encoding!r}, lines=True"] if encoding else [repr(path.name)]
    name = path.name.split(".")[0] + "-utf8.jsonl"
    return (
        f"Save it with one object a line and in UTF-8, such as with pandas: pandas.read_json({', '.join(options)}, "
        f"dtype=False, convert_dates=False).to_json({name!r}, orient='records', lines=True, force_ascii=False)"
    )


def guess_separator(lines: list[str], expected: str, column: str = "") -> str | None:
    """Returns what separates the fields of the first lines, if it is not what was expected, or None.

    Args:
        column: the name of a column that the header should have; "": not known.
    """
    lines = [line for line in lines[:20] if line.strip()]
    if not lines:
        return None
    quoted = re.fullmatch(r'"[^"]*"([^\w\s"]+|[\t ])"[^"]*"(?:\1"[^"]*")*\s*', lines[0])
    if quoted and quoted[1] != expected:
        return quoted[1]
    names = [name.strip(' "') for name in lines[0].split(expected)]
    if column in names or (not column and len(names) > 1):
        return None
    candidates = {c for c in re.findall(r"""[^\w\s"'.-]+|[\t\x01\x1f| ]""", lines[0]) if expected not in c}
    for separator in sorted(candidates, key=lambda found: (found == " ", len(found))):
        cells = [name.strip(' "') for name in lines[0].split(separator)]
        count = lines[0].count(separator)
        if column in cells or (separator != " " and all(line.count(separator) == count for line in lines)):
            return separator
    return None


def detect_wide_encoding(raw: bytes) -> str | None:
    """Returns the encoding of a first line in which a character has two or four bytes."""
    if raw[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if raw.count(b"\0") > len(raw) // 3:
        return "utf-16-be" if raw[0] == 0 else "utf-16-le"
    return None


def guess_encoding(sample: bytes) -> str | None:
    """Returns the probable encoding of whole lines that are not UTF-8, None if they are.

    Each is tried in turn: what its bytes mean there must be mostly what is common in that writing.
    """
    try:
        return sample.decode("utf-8") and None
    except UnicodeDecodeError:
        pass
    for name, count_common, least in _ENCODINGS:
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        if count_common(text) >= least * sum(c > "\x7f" for c in text):
            return name
    return "cp1252"


def _count(pattern: str):
    return lambda text: sum(map(len, re.findall(pattern, text)))


def _count_in_rows(encoding: str, low: int, high: int):
    """Counts characters by the first of their two bytes; 0xA1 to 0xA3 are marks."""

    def count(text: str) -> int:
        codes = (c.encode(encoding, "ignore") for c in text if c > "\x7f")
        return sum(len(code) == 2 and (low <= code[0] <= high or 0xA1 <= code[0] <= 0xA3) for code in codes)

    return count


# What is common in the writing, and its least share of the characters beyond ASCII.
_ENCODINGS = [
    ("euc_kr", _count("[가-힣]"), 0.9),
    ("euc_jp", _count("[ぁ-ヿ、。]"), 0.3),
    ("shift_jis", _count("[ぁ-ヿ、。]"), 0.3),
    ("gb18030", _count_in_rows("gb2312", 0xB0, 0xD7), 0.8),  # the 3,755 most used
    ("big5", _count_in_rows("big5", 0xA4, 0xC6), 0.8),  # the 5,401 most used
    ("cp1251", _count("[А-я]?[а-я]{2,}"), 0.6),  # several in a row, as no accents are
    ("koi8_r", _count("[А-я]?[а-я]{2,}"), 0.6),
]
