"""From ids to batches: which texts go together, in which order, and how much padding that costs.

The plan of an epoch is a pure function of (lengths, settings, seed, epoch), so a run can be repeated to the
last digit.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_senti.data.dataset import EncodedDataset, EncodedTexts
from keras_senti.data.tokenizer import encode_utf8
from keras_senti.settings.schema import TrainConfig

# Batches are padded to a multiple of this, which keeps the number of different shapes small (100 up to 400 tokens).
LENGTH_STEP = 4
# Texts are sorted by length within so many batches of a shuffled epoch: enough for little padding (tweets: see
# `padding_fraction` in the manifest), while which texts meet in a batch still changes in every epoch.
WINDOW_BATCHES = 50
SCORED_ROWS = 128  # texts scored at once: 64 to 128 take the least time each, beyond it arrays leave the caches
SCORED_POSITIONS = 65_536  # padded tokens scored at once, as of 128 texts of 512: whole documents would take gigabytes
LENGTH_CLASS = 1.1  # see Batching.plan
ENCODE_ROWS = 4096  # texts that are turned into ids at once


def encode_texts(tokenizer, texts: list[str]) -> EncodedTexts:
    """Turns texts into ids.

    Args:
        tokenizer: a callable from (batch,) string to (batch, time) int32, 0 = padding: a `tokenizer.Tokenizer`.
    """
    pieces, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for begin in range(0, len(texts), ENCODE_ROWS):
        ids = np.asarray(tokenizer(tf.constant(encode_utf8(texts[begin : begin + ENCODE_ROWS]), tf.string)))
        real = ids != 0
        pieces.append(ids[real])
        lengths.append(real.sum(axis=1))
    return EncodedTexts(np.concatenate(pieces), np.concatenate([[0], np.cumsum(np.concatenate(lengths))]))


@dataclass(frozen=True)
class Batching:
    """Which texts go together in a batch, in which order, and to how many time steps they are padded.

    batch_size: rows of every batch, but for the last one (of each of the fixed lengths). sequence_length: of the
    longest text. fixed_lengths: all that batches may have, ascending, sequence_length the last; None: any multiple of
    LENGTH_STEP. batch_tokens: at most so many positions a batch (but at least one row) instead of batch_size. seed: of
    the order.
    """

    batch_size: int
    sequence_length: int
    fixed_lengths: tuple[int, ...] | None = None
    batch_tokens: int | None = None
    seed: int = 0

    @classmethod
    def from_settings(cls, settings: TrainConfig, sequence_length: int, few_lengths: bool = False) -> "Batching":
        """Returns what the settings say; with few_lengths, as a TPU needs them, also where they name no lengths."""
        lengths = settings.bucket_lengths if settings.bucket_by_length else []
        if lengths is None and few_lengths:
            lengths = [max(1, sequence_length // 4), max(1, sequence_length // 2)]
        if lengths is not None:
            lengths = tuple(sorted({min(length, sequence_length) for length in lengths} | {sequence_length}))
        return cls(settings.batch_size, sequence_length, lengths, settings.batch_tokens, settings.seed)

    def padded_length(self, lengths: np.ndarray) -> int:
        """Returns the time steps of a batch of texts with these lengths."""
        if self.fixed_lengths is None:
            return round_length(lengths.max(), self.sequence_length)
        return self.fixed_lengths[np.searchsorted(self.fixed_lengths, lengths.max())]

    def count_rows(self, length: int) -> int:
        """Returns the rows of a full batch of so many time steps."""
        return self.batch_size if self.batch_tokens is None else max(1, self.batch_tokens // length)

    def plan(self, lengths: np.ndarray, epoch: int) -> list[np.ndarray]:
        """Returns the row numbers of each batch; each row once, equally many batches in each epoch, in another order.

        Rows are sorted by length within windows of the shuffled rows. With fixed lengths or batch_tokens they are cut
        into batches within classes of length; where lengths are not fixed, a class is up to 10% longer than the one
        before.

        Args:
            lengths: (rows,) tokens a text.
        """
        rng = np.random.default_rng([self.seed, epoch])
        order, batches = rng.permutation(len(lengths)), []
        if self.fixed_lengths is None and self.batch_tokens is None:
            windows = _cut(order, self.batch_size * WINDOW_BATCHES)
            by_length = [rows[np.argsort(lengths[rows], kind="stable")] for rows in windows]
            batches = _cut(np.concatenate(by_length), self.batch_size)
        else:
            longest, extra = self._classify(lengths)
            for length in np.unique(longest).tolist():
                batches += _cut(order[longest[order] == length], self.count_rows(length + extra))
        return [batches[i] for i in rng.permutation(len(batches))]

    def _classify(self, lengths: np.ndarray) -> tuple[np.ndarray, int]:
        """Returns the longest length of each text's class, (rows,), and by how much padding may exceed it."""
        if self.fixed_lengths is not None:
            return np.array(self.fixed_lengths)[np.searchsorted(self.fixed_lengths, lengths)], 0
        steps = np.ceil(np.log(np.maximum(lengths, 1)) / np.log(LENGTH_CLASS))
        return np.ceil(LENGTH_CLASS**steps).astype(int), LENGTH_STEP

    def compute_padding_fraction(self, lengths: np.ndarray, batches: list[np.ndarray]) -> float:
        """Returns the share of all positions in the batches that holds no token."""
        positions = sum(len(rows) * self.padded_length(lengths[rows]) for rows in batches)
        return float(1 - lengths.sum() / positions)


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return np.split(rows, range(size, len(rows), size))


def round_length(longest: int, at_most: int) -> int:
    """Returns the next multiple of LENGTH_STEP."""
    return min(-(-int(longest) // LENGTH_STEP) * LENGTH_STEP, at_most)


class TextBatches:
    """The batches of a part, epoch by epoch, as a classifier learns from them.

    Args:
        num_classes: size of a one-hot label, which label smoothing needs.
    """

    def __init__(self, part: EncodedDataset, batching: Batching, num_classes: int):
        self.part, self.batching, self.one_hot = part, batching, np.eye(num_classes, dtype=np.float32)
        self.lengths = part.token_ids.lengths
        first = self.batches(0)
        self.steps, self.tokens = len(first), int(self.lengths.sum())
        self.padding_fraction = batching.compute_padding_fraction(self.lengths, first)

    def batches(self, epoch: int, first_step: int = 0) -> list[np.ndarray]:
        """Returns the row numbers of each batch of an epoch, from a step on."""
        return self.batching.plan(self.lengths, epoch)[first_step:]

    def find_length(self, rows: np.ndarray) -> int:
        """Returns the time steps of a batch."""
        return self.batching.padded_length(self.lengths[rows])

    def make(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns token_ids (rows, length) int32, labels (rows, classes) float32, weights (rows,) float32."""
        return self.part.token_ids.pad(rows, length), self.one_hot[self.part.labels[rows]], self.part.weights[rows]

    def make_dataset(self, make_batches) -> tf.data.Dataset:
        """Returns a tf.data pipeline of what `make` returns.

        Args:
            make_batches: called without arguments, returns an iterable of row numbers, one array a batch.
        """

        def generate():
            for rows in make_batches():
                yield self.make(rows, self.find_length(rows))

        signature = (
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None, len(self.one_hot)), tf.float32),
            tf.TensorSpec((None,), tf.float32),
        )
        return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(tf.data.AUTOTUNE)


def chain_epochs(batches_of, epoch: int, step: int):
    """Yields what is left of an epoch, and then all later epochs: Keras warns if the last step has the last batch.

    Args:
        batches_of: from an epoch and its first step, both counted from 0, to the batches of the epoch from there on.
    """
    yield from batches_of(epoch, step)
    for later in itertools.count(epoch + 1):
        yield from batches_of(later, 0)


def plan_by_length(
    lengths: np.ndarray, batch_size: int = SCORED_ROWS, padded_to: int | None = None
) -> list[np.ndarray]:
    """Returns batches for scoring: all rows, longest texts first: a batch too large for memory fails at once.

    A batch has at most batch_size rows and SCORED_POSITIONS positions, but at least one row.

    Args:
        padded_to: time steps of every batch; None: of its longest text, rounded up.
    """
    order, batches, begin = np.argsort(-lengths, kind="stable"), [], 0
    while begin < len(order):
        steps = padded_to or max(1, round_length(lengths[order[begin]], SCORED_POSITIONS))
        batches.append(order[begin : begin + max(1, min(batch_size, SCORED_POSITIONS // steps))])
        begin += len(batches[-1])
    return batches


def predict_in_batches(predict, encoded: EncodedTexts, batch_size: int = SCORED_ROWS) -> np.ndarray:
    """Calls `predict` on padded ids, similar lengths together, and returns (rows, classes) in the order of the rows.

    Args:
        predict: from (batch, time) int32 to (batch, classes) float32.
    """
    result = None
    plan = plan_by_length(encoded.lengths, batch_size)
    for rows in tqdm(plan, "predicting", unit=" batches", delay=2, leave=False, disable=None):
        ids = encoded.pad(rows, round_length(encoded.lengths[rows].max(), int(encoded.lengths.max())))
        probabilities = np.asarray(predict(tf.constant(ids)))
        if result is None:
            result = np.zeros((len(encoded), probabilities.shape[1]), np.float32)
        result[rows] = probabilities
    return np.zeros((0, 0), np.float32) if result is None else result
