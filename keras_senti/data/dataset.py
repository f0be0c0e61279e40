"""Texts with labels, the parts they are split into, and what is left of a part for training: its token ids."""

import dataclasses
import functools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from keras_senti.data.texts import StoredTexts

MAX_DROPPED = 10_000  # dropped rows that are listed; all are counted
MAX_VARIANTS = 1000  # spellings of labels that are listed


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
class Dataset:
    """Texts with their labels; one entry a row.

    texts: on the disk. labels: int64, index into class_names; -1 where labels are not read. lines: int64, line
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
        items = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return Dataset(items.pop("texts").take(indices), **{name: array[indices] for name, array in items.items()})


def sample_rows(rows: int, at_most: int, seed: int = 0) -> np.ndarray:
    """Returns the ascending indices of all rows, or of so many of them, drawn at random."""
    return np.sort(np.random.default_rng(seed).choice(rows, min(rows, at_most), replace=False))


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


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of all texts, flat, without padding; in memory, or a file that is mapped into it.

    flat: (tokens,) int32. offsets: (rows + 1,) int64; text i is flat[offsets[i]:offsets[i + 1]].
    """

    flat: np.ndarray
    offsets: np.ndarray

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __len__(self):
        return len(self.offsets) - 1

    def pad(self, rows: np.ndarray, length: int) -> np.ndarray:
        """Returns (len(rows), length) int32, padded with 0 on the right."""
        position = np.arange(length)
        inside = position < self.lengths[rows][:, None]
        return np.where(inside, self.flat[np.where(inside, self.offsets[rows][:, None] + position, 0)], 0)


@dataclass(frozen=True)
class EncodedDataset:
    """One part of the data as a network learns from it; one entry a row.

    texts: on the disk. token_ids: what the tokenizer made of them. labels: int64, index into the class names; -1
    where labels are not read. weights: float32, in the loss. lines: int64, line of the source file.
    """

    texts: StoredTexts
    token_ids: EncodedTexts
    labels: np.ndarray
    weights: np.ndarray
    lines: np.ndarray

    def __len__(self):
        return len(self.labels)
