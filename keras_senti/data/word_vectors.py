"""Word vectors made elsewhere, as the first values of the embedding: the text format of GloVe, word2vec and fastText.

A line is `word v1 v2 ... vn`, in UTF-8; word2vec and fastText put a line `count n` before. Words are looked up exactly
as they stand in the vocabulary, so lower-cased text finds nothing in a file that has capitals only.
"""

import itertools
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from keras_senti.data.tables import read_lines
from keras_senti.errors import UserError
from keras_senti.storage.files import compute_sha256


def check_word_vectors(path, embedding_dim: int):
    """Raises a UserError for a file that is missing or of another width; reads its first lines only."""
    next(_read_lines(path, embedding_dim), None)


def load_word_vectors(model: keras.Model, path, vocabulary: list[str], token_ids: np.ndarray, seed: int) -> dict:
    """Puts the file's vectors into the layer `embedding`, prints how many words it has, returns that for the manifest.

    Args:
        token_ids: (tokens,) int32, those of the train part without padding; may be memory-mapped.
    """
    embedding = model.get_layer("embedding")
    matrix, found = read_word_vectors(path, vocabulary, embedding.output_dim, seed)
    embedding.embeddings.assign(matrix)
    chunks = range(0, len(token_ids), 1_000_000)
    covered = sum(int(found[token_ids[begin : begin + 1_000_000]].sum()) for begin in chunks)
    coverage = {
        "vocabulary_coverage": float(found[2:].mean()),
        "token_coverage": covered / max(1, len(token_ids)),
    }
    print(
        f"word vectors: {path} has {coverage['vocabulary_coverage']:.1%} of the vocabulary and "
        f"{coverage['token_coverage']:.1%} of the tokens of the train part",
        flush=True,
    )
    return {"file": str(path), "sha256": compute_sha256(path), **coverage}


def read_word_vectors(path, vocabulary: list[str], embedding_dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the vectors of the words of the vocabulary, line by line; the others never stay in memory.

    A word without a vector gets a random one, with the standard deviation of those found, so that it is neither louder
    nor quieter than they are. If a word comes twice, its first vector counts.

    Args:
        vocabulary: tokens by id, [PAD] and [UNK] first; these two are not looked up.
    Returns:
        The matrix (vocabulary, embedding_dim) float32, with zeros for padding; and which words the file has,
        (vocabulary,) bool.
    Raises:
        UserError: for whatever is wrong with the file, with its name and the line; or if it has no word of ours.
    """
    matrix = np.zeros((len(vocabulary), embedding_dim), np.float32)
    found = np.zeros(len(vocabulary), bool)
    ids = {word: index for index, word in enumerate(vocabulary) if index >= 2}
    for number, line in _read_lines(path, embedding_dim):
        # A word may hold spaces (". . ." in GloVe's 840B), so it is what stands before the last n fields. Most lines
        # are no word of ours, which their beginning tells without splitting them.
        if line[: line.index(" ")] not in ids and not line.startswith(" "):
            continue
        word, *fields = line.rsplit(" ", embedding_dim)
        index = ids.get(word)
        if index is None or found[index]:
            continue
        try:
            with np.errstate(over="ignore"):
                matrix[index] = np.array(fields, np.float32)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: the vector of '{word}' is not made of numbers ({error})."
            ) from None
        if not np.isfinite(matrix[index]).all():
            raise UserError(f"{path}, line {number}: the vector of '{word}' is not finite, expected numbers.")
        found[index] = True
    if not found.any():
        raise UserError(
            f"{path}: has none of the {len(ids):,} words of the vocabulary. Is it of another language, or does it have "
            "capitals only (text.lowercase)?"
        )
    missing = ~found
    missing[0] = False
    noise = np.random.default_rng(seed).normal(0, matrix[found].std(), (int(missing.sum()), embedding_dim))
    matrix[missing] = noise
    return matrix, found


def _read_lines(path, embedding_dim: int):
    """Yields (line number from 1, `word v1 ... vn`) with at least embedding_dim spaces a line, and shows progress."""
    path, number = Path(path), 0
    for number, raw in tqdm(read_lines(path), desc="word vectors", unit=" lines", delay=2):
        try:
            line = raw.decode("utf-8").rstrip(" \r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: byte 0x{raw[error.start]:02x} is not UTF-8. Convert another encoding with "
                "iconv, and word2vec's binary format (.bin) to its text format."
            ) from None
        if number == 1:
            width, is_header = _read_width(line, path)
            if width != embedding_dim:
                raise UserError(
                    f"{path}: has vectors of {width} numbers, but model.embedding_dim is {embedding_dim}. Add "
                    f"--model.embedding_dim {width}, or name a file whose vectors have {embedding_dim} numbers."
                )
            if is_header:
                continue
        if not line:
            continue
        if line.count(" ") < embedding_dim:
            raise UserError(
                f"{path}, line {number}: received {line.count(' ')} numbers behind the word, expected "
                f"{embedding_dim}. Is the file cut off?"
            )
        yield number, line
    if number == 0:
        raise UserError(f"{path}: is empty, expected `word v1 v2 ...` lines.")


def _read_width(line: str, path: Path) -> tuple[int, bool]:
    """Returns how many numbers a vector has, as the first line tells, and whether that line is a header `count n`."""
    fields = line.split(" ")
    if len(fields) == 2 and all(field.isdecimal() for field in fields):
        return int(fields[1]), True
    width = len(list(itertools.takewhile(_is_number, reversed(fields[1:]))))
    if width == 0:
        raise UserError(f"{path}, line 1: expected `word v1 v2 ...` with spaces between, received '{line[:40]}'.")
    return width, False


def _is_number(field: str) -> bool:
    try:
        float(field)
        return True
    except ValueError:
        return False
