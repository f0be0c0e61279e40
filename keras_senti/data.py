"""Where text and labels come from: sources, class order, the split into parts, and the data check."""

import dataclasses
import functools
import hashlib
import json
import math
import re
import unicodedata
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse
from tqdm import tqdm

from keras_senti.config import DataConfig, UserError, suggest
from keras_senti.records import INVISIBLE, MEANINGS, SHOWN_LINES
from keras_senti.sources import Source
from keras_senti.tables import JsonValue, Table, check_stamp, read_stamp, read_text

# Sentiment has an order of its own; other names are sorted, integers by value.
SENTIMENT_ORDER = ("negative", "neutral", "positive")
LISTED_CLASSES = 20  # in a terminal
MAX_DROPPED = 10_000  # dropped rows that are listed; all are counted
SWALLOWED = "swallowed lines"  # the one note that is a warning
MAX_VARIANTS = 1000  # spellings of labels that are listed
# What programs write for a missing value. It may be a word too, so it is kept, and said.
MISSING_WORDS = frozenset(r"nan -nan none null (null) \n nil <na> nat n/a n.a. #n/a na undefined missing".split())
_KINDS = {"labels": "q", "lines": "q", "hashes": "Q", "groups": "Q", "weights": "f", "characters": "q", "words": "q"}


_BRACKETS = ("[", "(", "{")
_SEVERAL_LABELS = (
    "Make a column of each label with yes or no in it, and a model of each column; or, where each label is about an "
    "aspect of the text, write a row for each aspect."
)


@dataclass
class Found:
    """What was found while rows were read.

    counts: rows left out, by reason. rows: the first MAX_DROPPED of them. labels: rows by (label as it stands, as it
    was read) where these differ. missing_words: by "text" and "label", rows by word, such as nan, that may stand for a
    missing value. notes: how a file was read where it was not as it should be, see `records.MEANINGS`.
    """

    counts: dict[str, int] = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    labels: Counter = field(default_factory=Counter)
    missing_words: dict[str, Counter] = field(default_factory=lambda: {"text": Counter(), "label": Counter()})
    notes: list[dict] = field(default_factory=list)

    def drop(self, path, line: int, reason: str, text: str, label: str):
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.rows) < MAX_DROPPED:
            self.rows.append({"file": str(path), "line": line, "reason": reason, "text": text, "label": label})

    def join(self, other: "Found"):
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
        self.rows = (self.rows + other.rows)[:MAX_DROPPED]
        self.labels += other.labels
        for kind, words in other.missing_words.items():
            self.missing_words[kind] += words
        self.notes += other.notes

    def describe(self) -> dict:
        """Returns what data_check.json says of it, beside the rows left out."""
        labels = [{"stands": a, "read": b, "rows": rows} for (a, b), rows in self.labels.most_common(MAX_VARIANTS)]
        words = {kind: dict(counts) for kind, counts in self.missing_words.items()}
        return {"normalized_labels": labels, "missing_words": words, "notes": self.notes}


@dataclass(frozen=True)
class StoredTexts:
    """Some texts of a table as an iterable with a length.

    Every iteration reads the file again, so no text stays in memory; if it is not the same file as before, it is an
    error.

    lines: (rows,) int64, ascending: the lines of the file where the rows begin. stamp: of the file, see `read_stamp`.
    """

    path: Path
    column: str
    lines: np.ndarray
    damaged: str = "strict"
    stamp: tuple | None = None

    def __len__(self):
        return len(self.lines)

    def __iter__(self):
        if not len(self.lines):
            return
        check_stamp(self.path, self.stamp)
        wanted = iter(self.lines.tolist())
        line = next(wanted)
        table = Table(self.path, self.damaged)
        table.require_column(self.column, "data.text_column")
        for number, row in table:
            if number == line:
                yield read_text(row, self.column, f"{self.path}, line {number}")
                line = next(wanted, None)
            if line is None:
                break
        check_stamp(self.path, self.stamp)


@dataclass(frozen=True)
class Dataset:
    """Texts with their labels; one entry a row.

    texts: where to read them. labels: int64, index into class_names; -1 where labels are not read. lines: int64, line
    of the source file. hashes: uint64, equal for equal texts. groups: uint64, equal for rows that belong together.
    weights: float32. characters, words: int64, lengths.
    """

    texts: StoredTexts
    labels: np.ndarray
    lines: np.ndarray
    hashes: np.ndarray
    groups: np.ndarray
    weights: np.ndarray
    characters: np.ndarray
    words: np.ndarray

    def __len__(self):
        return len(self.labels)

    def take(self, indices) -> "Dataset":
        """Returns the rows with these ascending indices."""
        texts = dataclasses.replace(self.texts, lines=self.lines[indices])
        return Dataset(texts, **{name: array[indices] for name, array in self.arrays().items()})

    def sample(self, max_rows: int, seed: int) -> np.ndarray:
        """Returns the ascending indices of all rows, or of max_rows of them, drawn at random."""
        if len(self) <= max_rows:
            return np.arange(len(self))
        return np.sort(np.random.default_rng(seed).choice(len(self), max_rows, replace=False))

    def arrays(self) -> dict[str, np.ndarray]:
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "texts"}


@dataclass(frozen=True)
class Splits:
    """The three parts, the class order they share, and what was found on the way.

    class_names: () where the main file has no labels. check: the content of data_check.json. dropped: one dict a
    dropped row, the first MAX_DROPPED of them. unlabeled: what a language model reads beside the train part, if there
    is such a file.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    class_names: tuple[str, ...]
    check: dict
    dropped: list[dict]
    unlabeled: Dataset | None = None

    def parts(self) -> dict[str, Dataset]:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return parts if self.unlabeled is None else {**parts, "unlabeled": self.unlabeled}


def order_class_names(names) -> tuple[str, ...]:
    """Returns the class order, the same for the same set of names: sentiment order, by value, or by alphabet.

    This function is the only owner of the class order; it travels with the model in class_names.json.
    """
    names = sorted(set(names))
    if all(name.lower() in SENTIMENT_ORDER for name in names):
        return tuple(sorted(names, key=lambda name: SENTIMENT_ORDER.index(name.lower())))
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(names)


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
    is_list = isinstance(raw, JsonValue) or (label[:1] in _BRACKETS and label[-1] in "])}" and "," in label)
    is_list = is_list or re.fullmatch(r"""\[ ?[-+\d'"].* .*\]""", label) is not None  # as NumPy writes one
    if is_list and label not in (label_map or ()):
        if isinstance(raw, JsonValue) and isinstance(raw.value, dict):
            inner = next(iter(raw.value), "label")
            raise UserError(
                f"{where}: '{column}' is an object, expected a label. Name what is inside it with a dot, such as "
                f"'{column}.{inner}'."
            )
        raise UserError(f"{where}: the label is a list ({label[:60]}), expected one label a text. {_SEVERAL_LABELS}")
    return raw, label


def hash_text(text: str, key: bytes) -> int:
    """Returns a 64-bit hash, keyed; upper case and white space do not count."""
    plain = " ".join(text.casefold().split()).encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8, key=key).digest(), "little")


def join_groups(hashes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns one key a row, equal for rows that are tied by an equal text or an equal group, also through others.

    Args:
        hashes, groups: (rows,) uint64. Returns: (rows,) uint64, the smallest group that a row is tied to.
    """
    _, text = np.unique(hashes, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    texts, nodes = text.max(initial=-1) + 1, text.max(initial=-1) + group.max(initial=-1) + 2
    ties = scipy.sparse.coo_array((np.ones(len(text), bool), (text, group + texts)), shape=(nodes, nodes))
    component = scipy.sparse.csgraph.connected_components(ties, directed=False)[1][text]
    keys = np.full(component.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(keys, component, groups)
    return keys[component]


def split_rows(hashes: np.ndarray, labels: np.ndarray, test_fraction: float, validation_fraction: float) -> np.ndarray:
    """Decides the part of each row: 0 train, 1 validation, 2 test.

    Equal texts (equal hashes) go to the same part, under the lowest of their labels. Within a class the hash, which
    depends on the seed, is the order: the first go to the test part, the next to validation. So the part of a text
    depends on the texts and the seed, not on the order of the rows. A class of three or more different texts is in
    every part; one of two in train and validation.

    Args:
        hashes: (rows,) uint64; or the keys of `join_groups`, if more than equal texts must stay together.
        labels: (rows,) int. test_fraction: of all rows. validation_fraction: of the others.
    Returns: (rows,) int8.
    """
    unique, group_of_row, rows_of_group = np.unique(hashes, return_inverse=True, return_counts=True)
    label_of_group = np.full(len(unique), labels.max(initial=0))
    np.minimum.at(label_of_group, group_of_row, labels)
    part_of_group = np.zeros(len(unique), np.int8)
    for label in np.unique(labels):
        groups = np.flatnonzero(label_of_group == label)
        begin = np.cumsum(rows_of_group[groups]) - rows_of_group[groups]
        rows = rows_of_group[groups].sum()
        test_rows = round(rows * test_fraction)
        validation_rows = round((rows - test_rows) * validation_fraction)
        in_test = (begin < test_rows) & (len(groups) >= 3)
        if test_fraction and len(groups) >= 3:
            in_test[0], in_test[-2:] = True, False
        left = groups[~in_test]
        begin_left = np.cumsum(rows_of_group[left]) - rows_of_group[left]
        in_validation = (begin_left < validation_rows) & (len(left) >= 2)
        if validation_fraction and len(left) >= 2:
            in_validation[0], in_validation[-1] = True, False
        part_of_group[groups[in_test]] = 2
        part_of_group[left[in_validation]] = 1
    return part_of_group[group_of_row]


def read_rows(path, settings: DataConfig, class_names=None, damaged="strict") -> tuple[Dataset, tuple, Found]:
    """Reads a file once, row by row; of a row only numbers stay in memory.

    Args:
        class_names: the only classes allowed, in order; (): labels are not read; None: take the classes that occur.
    Returns: (Dataset, class_names, what was found, such as the rows left out because text or label is missing).
    Raises:
        UserError: for a damaged file, a missing column, no rows, an unknown label, or a weight that is none.
    """
    stamp, table = read_stamp(path), Table(path, damaged)
    table.require_column(settings.text_column, "data.text_column")
    has_labels = class_names != ()
    if has_labels:
        remedy = " Text without labels is for task language_model: name it with data.unlabeled_csv."
        table.require_column(settings.label_column, "data.label_column", remedy)
    for name in ("weight_column", "group_column"):
        if getattr(settings, name):
            table.require_column(getattr(settings, name), f"data.{name}")
    key, found, rows, label_map = str(settings.seed).encode(), Found(), 0, clean_label_map(settings.label_map)
    listed = array("q")  # lines whose text is a list of tokens
    columns = {name: array(kind) for name, kind in _KINDS.items()}
    index = {} if class_names is None else {name: i for i, name in enumerate(class_names)}
    for line, row in tqdm(table, desc=f"reading {Path(path).name}", unit=" rows", delay=2):
        rows += 1
        where = f"{path}, line {line}"
        text = read_text(row, settings.text_column, where)
        if text and text is not row[settings.text_column]:
            listed.append(line)
        raw, label = read_label(row, settings.label_column, label_map, where) if has_labels else ("", "")
        if not text.strip() or (has_labels and not label):
            found.drop(path, line, "no label" if text.strip() else "no text", text, label)
            continue
        name = map_label(label, label_map, where) if has_labels else None
        if has_labels and name is None:
            found.drop(path, line, "a label left out", text, label)
            continue
        if raw != label and (len(found.labels) < MAX_VARIANTS or (raw, label) in found.labels):
            found.labels[str(raw), label] += 1
        if len(text) < 12 and (word := text.strip()).casefold() in MISSING_WORDS:
            found.missing_words["text"][word] += 1
        if class_names and name not in index:
            raise UserError(
                f"{where}: unknown label '{name}', expected one of {', '.join(map(repr, class_names))}."
                f"{suggest(name, class_names)} Mend the file, or translate it with data.label_map."
            )
        weight = read_weight(row.get(settings.weight_column), where) if settings.weight_column else 1.0
        group = (row.get(settings.group_column) or "").strip() if settings.group_column else ""
        hashed = hash_text(text, key)
        label_index = index.setdefault(name, len(index)) if has_labels else -1
        values = (label_index, line, hashed, hash_text(group, key) if group else hashed, weight,
                  len(text), len(text.split()))  # fmt: skip
        for column, value in zip(columns.values(), values):
            column.append(value)
    if not rows:
        raise UserError(f"{path}: has a header line and no rows. Is it the right file?")
    arrays = {name: np.frombuffer(column, column.typecode) for name, column in columns.items()}
    if label_map is None:
        for name in index:
            if name.casefold() in MISSING_WORDS and (count := int((arrays["labels"] == index[name]).sum())):
                found.missing_words["label"][name] += count
    if table.records is not None and (lines := table.records.repeated_headers):
        for line in lines:
            found.drop(path, line, "a repeated header", "", "")
        found.counts["a repeated header"] = table.records.notes["repeated header"][0]
    found.notes += describe_reading(table, settings.label_column if has_labels else None, label_map or index, listed)
    if class_names is None:
        class_names = order_class_names(index)
        order = {name: i for i, name in enumerate(class_names)}
        position = np.array([order[name] for name in index], np.int64)
        arrays["labels"] = position[arrays["labels"]] if index else arrays["labels"]
    elif not len(arrays["labels"]):
        what = "both a text and a label" if has_labels else "a text"
        raise UserError(f"{path}: none of its {rows} rows has {what}. Is it the right file?")
    if settings.group_column:
        arrays["groups"] = join_groups(arrays["hashes"], arrays["groups"])
    texts = StoredTexts(path, settings.text_column, arrays["lines"], damaged, stamp)
    return Dataset(texts, **arrays), class_names, found


def describe_reading(table: Table, label_column: str | None, labels, listed) -> list[dict]:
    """Returns how a file was read where it is not as it should be: {file, what, rows, lines: the first of them}.

    Args:
        table: after its rows were read. labels: all labels that are known; where there is no label_column, not used.
        listed: the lines whose text is a list of tokens.
    """
    notes = [("list of tokens", len(listed), list(listed[:SHOWN_LINES]))] if listed else []
    notes += [(what, *found) for what, found in table.records.notes.items()] if table.records else []
    swallowed = []
    for first, last, rows in table.records.swallowed if table.records else ():
        names = [clean_label(row.get(label_column, "").strip('"')) for row in rows] if label_column else []
        if not label_column or sum(name in labels for name in names) > 1:
            swallowed.append(f"{first} to {last}")
    if swallowed:
        notes.append((SWALLOWED, len(swallowed), swallowed[:5]))
    return [{"file": table.path.name, "what": what, "rows": rows, "lines": lines} for what, rows, lines in notes]


def format_reading(notes: list[dict]) -> list[str]:
    """Returns the notes of `describe_reading` as lines for the terminal."""
    lines = []
    for note in notes:
        where = f"line{'s' if note['rows'] > 1 else ''} {', '.join(map(str, note['lines']))}"
        where += ", ..." if note["rows"] > len(note["lines"]) else ""
        if note["what"] == SWALLOWED:
            lines.append(
                f"WARNING: {note['file']}: lines that look like rows of their own stand inside one record ({where}): "
                "a quote that is not meant as one may have joined them. Double it, or take it out"
            )
        else:
            rows = f"{note['rows']:,} row{'s' if note['rows'] > 1 else ''}"
            lines.append(f"{note['file']}: {MEANINGS[note['what']]} in {rows} ({where})")
    return lines


def read_weight(raw: str | None, where: str) -> float:
    """Returns the weight of a row in the loss; a missing one is 1.0."""
    raw = (raw or "").strip()
    if not raw:
        return 1.0
    try:
        weight = float(raw)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(
            f"{where}: received the weight '{raw}', expected a number of at least 0, or nothing for 1.0. "
            "Mend the file, or name another data.weight_column."
        )
    return weight


def load_splits(source: Source) -> Splits:
    """Reads the data source and splits it once into train, validation and test.

    Raises:
        UserError: for whatever is wrong with the files, or if too little is left to train on.
    """
    settings, main = source.settings, source.main
    everything, class_names, found = read_rows(main, settings, None if source.labelled else (), source.damaged)
    if source.labelled:
        _check_classes(main, everything, class_names, settings.label_map)
    part = split_rows(
        everything.groups,
        everything.labels,
        0.0 if source.test else settings.test_fraction,
        0.0 if source.validation else settings.validation_fraction,
    )
    parts = {name: everything.take(np.flatnonzero(part == p)) for p, name in enumerate(("train", "validation", "test"))}
    # Weights count in training only, and groups in splitting: the other files need not have these columns.
    plain = dataclasses.replace(settings, weight_column=None, group_column=None)
    for name, path in (("validation", source.validation), ("test", source.test)):
        if path:
            parts[name], _, more = read_rows(path, plain, class_names)
            found.join(more)
    for name in ("train", "validation"):
        if not len(parts[name]):
            raise UserError(
                f"{main}: too little data: {len(everything)} usable rows leave none for the {name} part. "
                "Bring more rows, or name a separate file with data.validation_csv."
            )
    for index, name in enumerate(class_names):
        if not (parts["train"].labels == index).any():
            raise UserError(
                f"{main}: no row of the class '{name}' is left for the train part, because its texts also stand there "
                "under other labels. Mend these labels, or join the classes with data.label_map."
            )
    if source.unlabeled:
        unlabeled, _, more = read_rows(source.unlabeled, plain, ())
        found.join(more)
        parts["unlabeled"] = _leave_out_known(unlabeled, parts, found)
    asked = {"test": None if source.test else round(len(everything) * settings.test_fraction)}
    left = len(everything) - (0 if source.test else len(parts["test"]))
    asked["validation"] = None if source.validation else round(left * settings.validation_fraction)
    check = {**check_data(parts, class_names, found.counts), "group_column": settings.group_column, "asked": asked}
    check |= {"case_twins": _find_case_twins(everything.labels, class_names), **found.describe()}
    check["has_label_map"] = settings.label_map is not None
    return Splits(**parts, class_names=class_names, check=check, dropped=found.rows)


def _leave_out_known(unlabeled: Dataset, parts: dict[str, Dataset], found: Found) -> Dataset:
    """Returns the unlabelled rows whose texts are new; the others are added to `found`.

    Texts of the validation and test parts would make perplexity and later scores flatter, and those of the train part
    are read there. Rows that are equal to each other stay, and so do other texts of a held-out group, such as a film of
    the validation part: they carry no label.

    Raises:
        UserError: if no row is left.
    """
    held_out = np.isin(unlabeled.hashes, np.concatenate([parts["validation"].hashes, parts["test"].hashes]))
    known = held_out | np.isin(unlabeled.hashes, parts["train"].hashes)
    if known.all():
        raise UserError(
            f"{unlabeled.texts.path}: all of its {len(known)} texts are in the labelled files too, expected others. "
            "Leave data.unlabeled_csv out, or name another file."
        )
    texts = unlabeled.take(np.flatnonzero(known)).texts
    for line, is_held_out, text in zip(texts.lines.tolist(), held_out[known], texts):
        found.drop(texts.path, line, "text held out" if is_held_out else "text of the train part", text, "")
    return unlabeled.take(np.flatnonzero(~known))


def _find_case_twins(labels: np.ndarray, class_names) -> list[dict[str, int]]:
    """Returns the classes that differ only in upper and lower case, each group with its rows."""
    groups = {}
    for name, rows in zip(class_names, np.bincount(labels[labels >= 0], minlength=len(class_names)).tolist()):
        groups.setdefault(name.casefold(), {})[name] = rows
    return [group for group in groups.values() if len(group) > 1]


def _check_classes(path, rows: Dataset, class_names, label_map):
    labels = rows.labels
    for name in class_names if label_map is None else ():
        parts = [clean_label(part) for part in re.split("[,;|/&+ ]+", name)]
        if len(parts) > 1 and set(parts) <= set(class_names):
            raise UserError(
                f"{path}: the label '{name}' holds several of the others, expected one label a text. {_SEVERAL_LABELS} "
                "If it is a class of its own, say so with data.label_map."
            )
    counts = np.bincount(labels, minlength=len(class_names))
    if len(class_names) < 2:
        raise UserError(
            f"{path}: received {len(labels)} usable rows of {len(class_names)} class(es) "
            f"({', '.join(class_names) or 'none'}), expected at least two classes. Are data.text_column and "
            "data.label_column right?"
        )
    rare = np.flatnonzero(counts < 2).tolist()
    if rare:
        lines = {label: line for label, line in zip(labels.tolist(), rows.lines.tolist()) if counts[label] < 2}
        rare = [f"'{class_names[i]}' (line {lines[i]})" if i in lines else f"'{class_names[i]}' (none)" for i in rare]
        shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
        raise UserError(
            f"{path}: fewer than two rows of the class {shown}. Expected at least two of each: bring more rows, join "
            "classes with data.label_map, or check data.label_column."
        )


def check_data(parts: dict[str, Dataset], class_names, dropped: dict[str, int]) -> dict:
    """Returns what a person should know before training: sizes, balance, lengths, duplicates, conflicts, overlap.

    Args:
        parts: "train", "validation", "test", and "unlabeled" if there is such a file. class_names: () without labels.
        dropped: rows left out, by reason.
    """
    hashes = {name: part.hashes for name, part in parts.items()}
    every, labels, characters, words = (
        np.concatenate([getattr(part, name) for part in parts.values()])
        for name in ("hashes", "labels", "characters", "words")
    )
    distinct = len(np.unique(every))
    labelled = labels >= 0
    pairs = np.unique(np.stack([every[labelled], labels[labelled].astype(np.uint64)]), axis=1)
    rows_per_class = {
        name: np.bincount(part.labels[part.labels >= 0], minlength=len(class_names))
        for name, part in parts.items()
        if name != "unlabeled"
    }
    percentiles = (5, 25, 50, 75, 95, 99, 100)
    overlap = {
        f"{a}_{b}": len(np.intersect1d(hashes[a], hashes[b]))
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test"))
    }
    return {
        "rows": {name: len(part) for name, part in parts.items()},
        "class_names": list(class_names),
        "rows_per_class": {name: dict(zip(class_names, counts.tolist())) for name, counts in rows_per_class.items()},
        "length_percentiles": {
            "percentile": list(percentiles),
            "characters": np.percentile(characters, percentiles).astype(int).tolist(),
            "words": np.percentile(words, percentiles).astype(int).tolist(),
        },
        "dropped_rows": dropped,
        "duplicate_rows": len(every) - distinct,
        "texts_with_conflicting_labels": int((np.unique(pairs[0], return_counts=True)[1] > 1).sum()),
        "texts_in_two_parts": overlap,
        "split_sha256": {name: hashlib.sha256(np.sort(h).tobytes()).hexdigest() for name, h in hashes.items()},
    }


def format_check(check: dict) -> str:
    """Returns the data check as lines for the terminal."""
    shown = check["class_names"] if len(check["class_names"]) <= LISTED_CLASSES else []
    width = max([10, *(len(name) for name in shown)])
    lines = [" " * 12 + f"{'rows':>9}" + "".join(f"  {name:>{width}}" for name in shown)]
    for part, rows in check["rows"].items():
        counts = check["rows_per_class"].get(part, {}).values()
        shares = "".join(f"  {f'{c:,} ({c / max(rows, 1):.0%})':>{width}}" for c in counts)
        if counts and not shown:
            shares = f"  {min(counts):,} to {max(counts):,} in each of {len(counts):,} classes"
        lines.append(f"{part:12}{rows:9,}{shares}")
    length = check["length_percentiles"]
    for unit in ("words", "characters"):
        pairs = zip(length["percentile"], length[unit])
        lines.append(f"{unit} a text: " + ", ".join(f"{v:,} ({'most' if p == 100 else f'{p}%'})" for p, v in pairs))
    dropped = ", ".join(f"{n:,} with {reason}" for reason, n in check["dropped_rows"].items()) or "none"
    lines.append(f"dropped rows: {dropped}; repeated texts: {check['duplicate_rows']:,}")
    if check["class_names"]:
        lines[-1] += f"; texts with conflicting labels: {check['texts_with_conflicting_labels']:,}"
    lines += _format_labels(check) + format_reading(check.get("notes", []))
    reads = check.get("reads", {})
    if (script := reads.get("script_without_spaces")) and reads["split"] == "word":
        lines.append(
            f"WARNING: most letters of the texts are {script}, which has no spaces between words, but text.split is "
            "word: a token is a whole sentence. Use --text.split mixed"
        )
    if reads.get("unknown_tokens", 0) > 0.5:
        lines.append(
            f"WARNING: {reads['unknown_tokens']:.0%} of the tokens of the validation part are unknown to the "
            f"vocabulary, so the model cannot read them. Does text.split ({reads['split']}) suit the script, "
            "text.max_tokens the data, and the model of init_from, if any, the language?"
        )
    if check.get("group_column"):
        lines.append(f"split by {check['group_column']}: rows that share it are in the same part")
    split = sum(check["rows"][part] for part in ("train", "validation", "test"))
    for part, asked in check.get("asked", {}).items():
        rows = check["rows"][part]
        # Rounding may cost a row a class.
        if asked is not None and abs(rows - asked) > max(len(check["class_names"]), 0.02 * split):
            lines.append(
                f"WARNING: the {part} part has {rows:,} rows, not the {asked:,} that its fraction asks for: rows of "
                "one group, and equal texts, stay together"
            )
    shared = {pair: n for pair, n in check["texts_in_two_parts"].items() if n}
    if shared:
        found = ", ".join(f"{n:,} in {pair.replace('_', ' and ')}" for pair, n in shared.items())
        lines.append(f"WARNING: the same text stands in two parts, so scores flatter: {found}")
    if not check["rows"]["test"]:
        lines.append("no test part: the run is scored on the validation part only")
    for part in ("validation", "test"):
        missing = [name for name, n in check["rows_per_class"][part].items() if not n]
        if missing and check["rows"][part]:
            more = f" and {len(missing) - LISTED_CLASSES:,} more" if len(missing) > LISTED_CLASSES else ""
            lines.append(f"WARNING: the {part} part has no row of {', '.join(missing[:LISTED_CLASSES])}{more}")
    return "\n".join(lines)


def _format_labels(check: dict) -> list[str]:
    """Returns what is to be said of labels that were normalised, or may be wrong."""
    lines, found = [], check.get("normalized_labels", [])
    if found:
        shown = ", ".join(f"{ascii(f['stands'])[:40]} is '{f['read']}' ({f['rows']:,})" for f in found[:3])
        more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
        lines.append(f"normalised labels: {sum(f['rows'] for f in found):,} rows: {shown}{more}")
    for kind, counts in check.get("missing_words", {}).items():
        if counts:
            shown = ", ".join(f"'{word}' ({rows:,})" for word, rows in counts.items())
            remedy = "leave these cells empty if a value is missing"
            if kind == "label" and not check["has_label_map"]:
                remedy += ', or leave the label out with data.label_map: {"' + next(iter(counts)) + '": null, ...}'
            lines.append(f"WARNING: {kind}s that may stand for a missing value were kept: {shown}; {remedy}")
    if twins := check.get("case_twins"):
        shown = "; ".join(" and ".join(f"'{n}' ({rows:,})" for n, rows in group.items()) for group in twins[:5])
        joined = {name: max(group, key=group.get) for group in twins for name in group}
        names = check["class_names"] if len(check["class_names"]) <= 12 else list(joined)[:12]
        line = json.dumps({name: joined.get(name, name) for name in names}, ensure_ascii=False)
        line = line if len(names) == len(check["class_names"]) else f"{line[:-1]}, ...}}"
        join = f"join them: --data.label_map '{line}'"
        join = "give them one name in data.label_map" if check["has_label_map"] else join
        lines.append(f"WARNING: classes differ only in case: {shown}; if they mean the same, {join}")
    return lines
