"""From files to parts: each row is read once, cleaned, and counted if it is left out."""

import dataclasses
import math
from array import array
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_senti.data.checks import check_classes, check_data, describe_reading, find_case_twins
from keras_senti.data.dataset import MAX_VARIANTS, Dataset, Found, Splits, StoredTexts
from keras_senti.data.labels import MISSING_WORDS, clean_label_map, map_label, read_label
from keras_senti.data.sources import Source
from keras_senti.data.splits import hash_text, join_groups, order_class_names, split_rows
from keras_senti.data.tables import Table, read_stamp, read_text
from keras_senti.errors import UserError, suggest
from keras_senti.settings.schema import DataConfig

_KINDS = {"labels": "q", "lines": "q", "hashes": "Q", "groups": "Q", "weights": "f", "characters": "q", "words": "q"}


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
        check_classes(main, everything, class_names, settings.label_map)
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
    check |= {"case_twins": find_case_twins(everything.labels, class_names), **found.describe()}
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
