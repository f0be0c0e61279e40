"""From files to parts: each row is read once, cleaned, and counted if it is left out."""

import dataclasses
import math
from array import array
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_senti.data.checks import check_classes, check_data, describe_reading, find_case_twins
from keras_senti.data.dataset import MAX_VARIANTS, Dataset, Found, Splits
from keras_senti.data.labels import MISSING_WORDS, clean_label_map, map_label, read_label
from keras_senti.data.sources import Source
from keras_senti.data.splits import hash_text, join_groups, order_class_names, split_rows
from keras_senti.data.tables import Table, check_stamp, read_stamp, read_text
from keras_senti.data.texts import TextWriter
from keras_senti.errors import UserError, suggest
from keras_senti.settings.schema import DataConfig

_KINDS = {"labels": "q", "lines": "q", "hashes": "Q", "groups": "Q", "weights": "f", "characters": "q", "words": "q"}


def read_rows(
    path, settings: DataConfig, class_names=None, damaged="strict", store=None
) -> tuple[Dataset, tuple, Found]:
    """Reads a file once, row by row; of a row only numbers stay in memory.

    Args:
        class_names: the only classes allowed, in order; (): labels are not read; None: take the classes that occur.
        store: path of the file that the texts are written to; None: one that is gone with the last of them.
    Returns: (Dataset, class_names, what was found, such as the rows left out because text or label is missing).
    Raises:
        UserError: for a damaged file, one that changes meanwhile, a missing column, no rows, an unknown label, or a
            weight that is none.
    """
    stamp, table = read_stamp(path), Table(path, damaged)
    usable, texts = _UsableRows(table, settings, class_names), TextWriter(store)
    columns, key = {name: array(kind) for name, kind in _KINDS.items()}, str(settings.seed).encode()
    for line, row, text, label in usable:
        texts.append(text)
        hashed = hash_text(text, key)
        weight = read_weight(row, settings.weight_column, f"{path}, line {line}")
        group = (row.get(settings.group_column) or "").strip() if settings.group_column else ""
        values = (label, line, hashed, hash_text(group, key) if group else hashed, weight,
                  len(text), len(text.split()))  # fmt: skip
        for column, value in zip(columns.values(), values):
            column.append(value)
    check_stamp(path, stamp)
    arrays = {name: np.frombuffer(column, column.typecode) for name, column in columns.items()}
    found = usable.finish(arrays["labels"])
    if class_names is None:
        class_names = order_class_names(usable.index)
        order = {name: i for i, name in enumerate(class_names)}
        arrays["labels"] = np.array([order[name] for name in usable.index], np.int64)[arrays["labels"]]
    elif not len(arrays["labels"]):
        what = "both a text and a label" if class_names else "a text"
        raise UserError(f"{path}: none of its {usable.rows} rows has {what}. Is it the right file?")
    if settings.group_column:
        arrays["groups"] = join_groups(arrays["hashes"], arrays["groups"])
    return Dataset(texts.finish(table.path), **arrays), class_names, found


class _UsableRows:
    """The rows of a table with a text and, unless class_names is (), a label: (line, row, text, index of the label).

    The others are left out and counted. index: numbers the classes in the order in which they occur. rows: read so far.
    """

    def __init__(self, table: Table, settings: DataConfig, class_names):
        self.table, self.settings, self.class_names = table, settings, class_names
        self.has_labels, self.label_map = class_names != (), clean_label_map(settings.label_map)
        self.index = {name: i for i, name in enumerate(class_names or ())}
        self.found, self.rows, self.listed = Found(), 0, array("q")  # listed: lines whose text is a list of tokens
        table.require_column(settings.text_column, "data.text_column")
        if self.has_labels:
            remedy = " Text without labels is for task language_model: name it with data.unlabeled_csv."
            table.require_column(settings.label_column, "data.label_column", remedy)
        for name in ("weight_column", "group_column"):
            if getattr(settings, name):
                table.require_column(getattr(settings, name), f"data.{name}")

    def __iter__(self):
        path, found = self.table.path, self.found
        text_column, label_column = self.settings.text_column, self.settings.label_column
        rows = tqdm(self.table, desc=f"reading {path.name}", unit=" rows", delay=2)
        for self.rows, (line, row) in enumerate(rows, 1):
            where = f"{path}, line {line}"
            text = read_text(row, text_column, where)
            if text and text is not row[text_column]:
                self.listed.append(line)
            raw, label = read_label(row, label_column, self.label_map, where) if self.has_labels else ("", "")
            if not text.strip() or (self.has_labels and not label):
                found.drop(path, line, "no label" if text.strip() else "no text", text, label)
                continue
            index = self._find_class(raw, label, where) if self.has_labels else -1
            if index is None:
                found.drop(path, line, "a label left out", text, label)
                continue
            if len(text) < 12 and (word := text.strip()).casefold() in MISSING_WORDS:
                found.missing_words["text"][word] += 1
            yield line, row, text, index

    def _find_class(self, raw: str, label: str, where: str) -> int | None:
        """Returns the index of a label's class; None if data.label_map leaves it out."""
        name = map_label(label, self.label_map, where)
        if name is None:
            return None
        if raw != label and (len(self.found.labels) < MAX_VARIANTS or (raw, label) in self.found.labels):
            self.found.labels[str(raw), label] += 1
        if self.class_names and name not in self.index:
            raise UserError(
                f"{where}: unknown label '{name}', expected one of {', '.join(map(repr, self.class_names))}."
                f"{suggest(name, self.class_names)} Mend the file, or translate it with data.label_map."
            )
        return self.index.setdefault(name, len(self.index))

    def finish(self, labels: np.ndarray) -> Found:
        """Returns what was found, once all rows were read; labels: (rows,) int64, their indices."""
        found, path, records = self.found, self.table.path, self.table.records
        if not self.rows:
            raise UserError(f"{path}: has a header line and no rows. Is it the right file?")
        for name in self.index if self.label_map is None else ():
            if name.casefold() in MISSING_WORDS and (count := int((labels == self.index[name]).sum())):
                found.missing_words["label"][name] += count
        if records is not None and records.repeated_headers:
            for line in records.repeated_headers:
                found.drop(path, line, "a repeated header", "", "")
            found.counts["a repeated header"] = records.notes["repeated header"][0]
        label_column = self.settings.label_column if self.has_labels else None
        found.notes += describe_reading(self.table, label_column, self.label_map or self.index, self.listed)
        return found


def read_weight(row: dict, column: str | None, where: str) -> float:
    """Returns the weight of a row in the loss; 1.0 where it is missing or there is no such column."""
    raw = (row.get(column) or "").strip() if column else ""
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


def load_splits(source: Source, folder: Path | None = None) -> Splits:
    """Reads each file of the data source once and splits the main one into train, validation and test.

    Args:
        folder: where the texts are kept; None: in files that are gone with the last of them.
    Raises:
        UserError: for whatever is wrong with the files, or if too little is left to train on.
    """
    settings, main = source.settings, source.main
    # Weights count in training only, and groups in splitting: the other files need not have these columns.
    plain = dataclasses.replace(settings, weight_column=None, group_column=None)
    stores = {name: folder and folder / f"{name}.bin" for name in ("main", "validation", "test", "unlabeled")}
    allowed = None if source.labelled else ()
    everything, class_names, found = read_rows(main, settings, allowed, source.damaged, stores["main"])
    if source.labelled:
        check_classes(main, everything, class_names, settings.label_map)
    fractions = {
        "test": 0.0 if source.test else settings.test_fraction,
        "validation": 0.0 if source.validation else settings.validation_fraction,
    }
    part = split_rows(everything.groups, everything.labels, fractions["test"], fractions["validation"])
    parts = {name: everything.take(np.flatnonzero(part == p)) for p, name in enumerate(("train", "validation", "test"))}
    for name, path in (("validation", source.validation), ("test", source.test)):
        if path:
            parts[name], _, more = read_rows(path, plain, class_names, store=stores[name])
            found.join(more)
    _check_parts(main, len(everything), parts, class_names)
    if source.unlabeled:
        unlabeled, _, more = read_rows(source.unlabeled, plain, (), store=stores["unlabeled"])
        found.join(more)
        parts["unlabeled"] = _leave_out_known(unlabeled, parts, found)
    asked = {"test": None if source.test else round(len(everything) * settings.test_fraction)}
    left = len(everything) - (0 if source.test else len(parts["test"]))
    asked["validation"] = None if source.validation else round(left * settings.validation_fraction)
    check = {**check_data(parts, class_names, found.counts), "group_column": settings.group_column, "asked": asked}
    check |= {"case_twins": find_case_twins(everything.labels, class_names), **found.describe()}
    check["has_label_map"] = settings.label_map is not None
    return Splits(**parts, class_names=class_names, check=check, dropped=found.rows)


def _check_parts(main: Path, rows: int, parts: dict[str, Dataset], class_names):
    """Raises a UserError if too little is left to train on."""
    for name in ("train", "validation"):
        if not len(parts[name]):
            raise UserError(
                f"{main}: too little data: {rows} usable rows leave none for the {name} part. "
                "Bring more rows, or name a separate file with data.validation_csv."
            )
    for index, name in enumerate(class_names):
        if not (parts["train"].labels == index).any():
            raise UserError(
                f"{main}: no row of the class '{name}' is left for the train part, as its texts stand there under "
                "other labels too. Mend these labels, or join the classes with data.label_map."
            )


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
    left_out = unlabeled.take(np.flatnonzero(known))
    for line, is_held_out, text in zip(left_out.lines.tolist(), held_out[known], left_out.texts):
        found.drop(left_out.texts.path, line, "text held out" if is_held_out else "text of the train part", text, "")
    return unlabeled.take(np.flatnonzero(~known))
