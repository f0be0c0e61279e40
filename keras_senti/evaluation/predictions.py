"""Predictions as a table in a file: written, and read back a chunk of rows at a time."""

import csv
import itertools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals
from tqdm import tqdm

from keras_senti.data.tables import Table, read_text
from keras_senti.errors import UserError
from keras_senti.storage import files

CHUNK_ROWS = 50_000
MOST_VALUES = 12  # different values of a column that makes categories
ROWS_A_VALUE = 5  # on average at least: else almost every row has a value of its own


@dataclass(frozen=True)
class ScoredPart:
    """What a model says of one part of the data; one entry a row.

    texts: iterable in order, with a length. lines: (rows,) int, of the data file. labels: (rows,) int, index into the
    class names; -1 without label. probabilities: (rows, classes) float32.
    """

    texts: Collection[str]
    lines: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(rows,) bool."""
        return self.probabilities.argmax(axis=1) == self.labels


def read_parts(path: Path, class_names) -> dict[str, ScoredPart]:
    """Returns the parts of a run's predictions.csv, in the order of the file; their texts are read when they are asked.

    Raises:
        UserError: if the file cannot be read, lacks a column, or names another class.
    """
    columns = [f"probability_{name}" for name in class_names]
    index = {name: i for i, name in enumerate(class_names)}
    types = {"part": str, "line": np.int64, "label": str, **dict.fromkeys(columns, np.float32)}
    pieces = {}
    for chunk in read_chunks(path, list(types), types):
        labels = chunk["label"].map(index).to_numpy(float)
        if np.isnan(labels).any():
            row = int(np.isnan(labels).argmax())
            raise UserError(
                f"{path}, row {chunk.index[row] + 1}: unknown label '{chunk['label'].iloc[row]}', expected one of "
                f"{', '.join(class_names)}. The file was changed after the run; restore it, or train again."
            )
        probabilities = chunk[columns].to_numpy(np.float32)
        for name in chunk["part"].unique():
            inside = (chunk["part"] == name).to_numpy()
            lines = chunk["line"].to_numpy()[inside]
            piece = chunk.index.to_numpy()[inside], lines, labels[inside].astype(int), probabilities[inside]
            pieces.setdefault(str(name), []).append(piece)
    joined = {name: map(np.concatenate, zip(*found)) for name, found in pieces.items()}
    return {name: ScoredPart(StoredColumn(path, "text", rows), *rest) for name, (rows, *rest) in joined.items()}


def read_chunks(path: Path, columns, types=str):
    """Yields these columns of a predictions.csv as pandas tables whose index counts on, a chunk of rows at a time.

    Args:
        types: a dtype, or one by column.
    Raises:
        UserError: if it cannot be read, or lacks a column.
    """
    try:
        # pandas would rename a column without a name, and cuts a name at a NUL.
        with open(path, encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
        if missing := [name for name in columns if name not in header]:
            raise ValueError(f"it has no column {', '.join(map(repr, missing))}")
        places = sorted((header.index(name), name) for name in columns)
        settings = {"usecols": [place for place, _ in places], "names": [name for _, name in places], "header": 0}
        settings |= {"dtype": types, "keep_default_na": False, "na_filter": False, "chunksize": CHUNK_ROWS}
        with pd.read_csv(path, **settings) as reader:
            yield from reader
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


@dataclass(frozen=True)
class StoredColumn:
    """Some rows of a column of a predictions.csv, an iterable with a length: each iteration reads the file.

    rows: (rows,) ascending row numbers in the file.
    """

    path: Path
    column: str
    rows: np.ndarray

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        for chunk in _read_rows(self.path, [self.column], self.rows):
            yield from chunk[self.column]


def read_categories(path: Path, columns, rows: np.ndarray) -> dict[str, tuple[list[str], np.ndarray]]:
    """Returns the columns that are categories, by name: their values, and (rows,) int index into them.

    These have 2 to MOST_VALUES different values, and enough rows for each.

    Args:
        rows: (rows,) ascending row numbers in the file.
    """
    pieces = {name: [] for name in columns}
    for chunk in _read_rows(path, columns, rows) if columns else ():
        for name in list(pieces):
            pieces[name].append(pd.Categorical(chunk[name].to_numpy(object)))
            if len(pieces[name][-1].categories) > MOST_VALUES:
                del pieces[name]
    found = {name: union_categoricals(of_chunks) for name, of_chunks in pieces.items()}
    most = min(MOST_VALUES, len(rows) / ROWS_A_VALUE)
    return {n: (list(c.categories), c.codes.astype(int)) for n, c in found.items() if 2 <= len(c.categories) <= most}


def _read_rows(path: Path, columns: list[str], rows: np.ndarray):
    """Yields those of the rows, given by ascending row numbers, that are in one chunk."""
    for chunk in read_chunks(path, columns):
        begin, end = np.searchsorted(rows, [chunk.index[0], chunk.index[-1] + 1])
        if begin < end:
            yield chunk.loc[rows[begin:end]]


def make_table(texts, probabilities: np.ndarray, class_names) -> pd.DataFrame:
    """Returns a table with the columns text, label and probability_<class>."""
    names = np.array(class_names, dtype=object)
    columns = {"text": pd.Series(texts, dtype=object), "label": names[probabilities.argmax(axis=1)]}
    columns |= {f"probability_{name}": probabilities[:, index] for index, name in enumerate(class_names)}
    return pd.DataFrame(columns)


PREDICTED_ROWS = 5000


def write_run_predictions(path: Path, parts: dict[str, ScoredPart], class_names):
    """Writes a row a text, in chunks."""
    names = np.array(class_names, dtype=object)
    with files.replace_file(path) as file:
        for name, part in parts.items():
            texts = iter(tqdm(part.texts, desc=f"writing the {name} predictions", unit=" rows", delay=2))
            for begin in range(0, len(part.lines), PREDICTED_ROWS):
                rows = slice(begin, begin + PREDICTED_ROWS)
                chunk = list(itertools.islice(texts, PREDICTED_ROWS))
                table = make_table(chunk, part.probabilities[rows], class_names)
                table = table.rename(columns={"label": "predicted"})
                table.insert(0, "part", name)
                table.insert(1, "line", part.lines[rows])
                table.insert(3, "label", names[part.labels[rows]])
                file.write(to_csv(table, header=not file.tell()))


def write_predictions(model, table: Table, text_column: str, rows: int, folder: Path) -> np.ndarray:
    """Streams the file through the model into predictions.csv; returns the probabilities (rows, classes)."""
    added = [_new_name(n, table.columns) for n in ("predicted", *(f"probability_{c}" for c in model.class_names))]
    pieces, chunk = [], []
    with files.replace_file(folder / "predictions.csv") as file, tqdm(total=rows, unit=" rows") as bar:
        file.write(to_csv(pd.DataFrame(columns=[*table.columns, *added])))
        for number, (_, row) in enumerate(table, 1):
            chunk.append(row)
            if len(chunk) == PREDICTED_ROWS or number == rows:
                texts = [read_text(row, text_column, str(table.path)) for row in chunk]
                predicted = model.predict(texts).drop(columns="text")
                frame = pd.DataFrame(chunk, columns=table.columns)
                both = pd.concat([frame, predicted.set_axis(added, axis=1)], axis=1)
                file.write(to_csv(both, header=False))
                pieces.append(predicted.iloc[:, 1:].to_numpy(np.float32))
                bar.update(len(chunk))
                chunk = []
    return np.concatenate(pieces)


def _new_name(name: str, taken) -> str:
    while name in taken:
        name = f"model_{name}"
    return name


def to_csv(table: pd.DataFrame, header: bool = True) -> bytes:
    # All texts quoted: by default a lone carriage return stands unquoted and reads as the end of a line.
    return table.to_csv(index=False, header=header, quoting=csv.QUOTE_NONNUMERIC).encode("utf-8")
