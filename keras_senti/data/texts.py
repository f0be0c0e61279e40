"""Texts that are read once and kept on the disk, beside the numbers of their rows."""

import dataclasses
import mmap
import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

READ_ROWS = 10_000  # whose places are Python integers at a time


@dataclass(frozen=True)
class StoredTexts(Sequence):
    """Texts as a sequence; they stay on the disk until one is asked for.

    path: the table that they were read from. content: of the store, which is mapped into memory: one text behind the
    other in UTF-8, lone surrogates too. spans: (rows, 2) int64, where each text begins and ends.
    """

    path: Path
    content: bytes | mmap.mmap
    spans: np.ndarray

    def __len__(self):
        return len(self.spans)

    def __getitem__(self, row: int) -> str:
        begin, end = self.spans[row]
        return self.content[begin:end].decode("utf-8", "surrogatepass")

    def __iter__(self):
        for row in range(0, len(self), READ_ROWS):
            for begin, end in self.spans[row : row + READ_ROWS].tolist():
                yield self.content[begin:end].decode("utf-8", "surrogatepass")

    def take(self, rows) -> "StoredTexts":
        return dataclasses.replace(self, spans=self.spans[rows])


class TextWriter:
    """Writes texts into a file, one behind the other. Without a path it has no name, and is gone with its last user."""

    def __init__(self, path: Path | None = None):
        self.file, self.ends = open(path, "w+b") if path else tempfile.TemporaryFile(), array("q", [0])

    def append(self, text: str):
        raw = text.encode("utf-8", "surrogatepass")
        self.file.write(raw)
        self.ends.append(self.ends[-1] + len(raw))

    def finish(self, table: Path) -> StoredTexts:
        """Closes the file and returns what was written; table: where the texts were read."""
        ends = np.frombuffer(self.ends, np.int64)
        with self.file as file:
            file.flush()
            return StoredTexts(table, map_file(file), np.stack([ends[:-1], ends[1:]], axis=1))


def map_file(file) -> bytes | mmap.mmap:
    """Returns the content of an open file, which is read where it is used; an empty one cannot be mapped."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.seek(0, 2) else b""
