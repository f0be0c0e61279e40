"""The labelled rows that few_labels.py trains on: drawn, and written as train.py reads them."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import end_to_end  # noqa: F401, which makes the package of this folder found
import numpy as np
import pandas as pd

from keras_senti.data.reading import load_splits
from keras_senti.data.sources import prepare_source
from keras_senti.errors import UserError
from keras_senti.settings.command_line import parse_config
from keras_senti.storage.files import compute_sha256, replace_file

WATCHED = 100  # rows whose scores TensorBoard shows after each epoch


@dataclass(frozen=True)
class Part:
    """Rows in memory, in an order that follows from the texts alone. labels: (rows,) int, index into class names."""

    texts: list[str]
    labels: np.ndarray


def read_parts(arguments: list[str]) -> tuple[Part, Part, tuple[str, ...]]:
    """Returns the train and the validation part of the data that arguments of train.py name, and the class names."""
    splits = load_splits(prepare_source(parse_config(arguments).data))
    parts = []
    for part in (splits.train, splits.validation):
        texts, order = list(part.texts), np.argsort(part.hashes, kind="stable")
        parts.append(Part([texts[row] for row in order], part.labels[order]))
    return *parts, splits.class_names


def draw_rows(part: Part, count: int, seed: int) -> Part:
    """Draws `count` rows, of which each class has its share; a smaller draw of the same seed is part of a larger one.

    Raises:
        UserError: if there are fewer rows, or a class would have fewer than two.
    """
    if count > len(part.labels):
        raise UserError(
            f"--sizes: received {count}, expected fewer than the {len(part.labels):,} train rows, or `all`."
        )
    order = np.random.default_rng(seed).permutation(len(part.labels))
    place = np.empty(len(order))  # of a row among those of its class, between 0 and 1
    classes = np.unique(part.labels)
    for label in classes:
        rows = order[part.labels[order] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    drawn = np.sort(np.argsort(place, kind="stable")[:count])
    fewest = min((part.labels[drawn] == label).sum() for label in classes)
    if fewest < 2:
        raise UserError(
            f"--sizes: received {count}, which leaves {fewest} for a class, expected at least 2. Ask for more."
        )
    return Part([part.texts[row] for row in drawn], part.labels[drawn])


def take_watched(part: Part, drawn: Part, seed: int) -> Part:
    """Returns at most WATCHED rows that were not drawn: the validation part of a run with few labels.

    Nothing is chosen by it, and to score 2,511 whole reviews after each of 54 epochs takes longer than training: they
    are the run's test part, which is scored at its end.
    """
    known = set(drawn.texts)
    left = [row for row, text in enumerate(part.texts) if text not in known]
    rows = np.sort(np.random.default_rng(seed).permutation(left)[:WATCHED])
    return Part([part.texts[row] for row in rows], part.labels[rows])


def write_part(part: Part, class_names, path: Path) -> str:
    """Writes the rows as train.py reads them; returns the SHA-256 of the file.

    A file that has this content is left alone: a run of another process that reads it would stop if it was replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"text": part.texts, "sentiment": [class_names[label] for label in part.labels]})
    # All quoted: by default a lone carriage return stands unquoted and reads as the end of a line.
    content = table.to_csv(index=False, quoting=csv.QUOTE_ALL, lineterminator="\n").encode("utf-8")
    sha256 = hashlib.sha256(content).hexdigest()
    if not path.exists() or compute_sha256(path) != sha256:
        with replace_file(path) as file:
            file.write(content)
    return sha256
