"""From ids to batches: which texts go together, in which order, and how much padding that costs.

The plan of an epoch is a pure function of (lengths, settings, seed, epoch), so a run can be repeated to the
last digit.
"""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_senti.data.dataset import EncodedTexts
from keras_senti.data.tokenizer import encode_utf8
from keras_senti.settings.schema import TrainConfig

Bucket = bool | tuple[int, ...]  # which lengths batches are padded to: see padded_length
# Batches are padded to a multiple of this, which keeps the number of different shapes small (100 up to 400 tokens).
LENGTH_STEP = 4
# Texts are sorted by length within so many batches of a shuffled epoch: enough for little padding (tweets: see
# `padding_fraction` in the manifest), while which texts meet in a batch still changes in every epoch.
WINDOW_BATCHES = 50
SCORED_ROWS = 128  # texts scored at once: 64 to 128 take the least time each, beyond it arrays leave the caches
SCORED_POSITIONS = 65_536  # padded tokens scored at once, as of 128 texts of 512: whole documents would take gigabytes
LENGTH_CLASS = 1.1  # see plan_epoch
ENCODE_ROWS = 4096  # texts that are turned into ids at once


def encode_texts(encoder, texts: list[str]) -> EncodedTexts:
    """Turns texts into ids.

    Args:
        encoder: a callable from (batch,) string to (batch, time) int32, 0 = padding: a `tokenizer.Tokenizer`.
    """
    pieces, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for begin in range(0, len(texts), ENCODE_ROWS):
        ids = np.asarray(encoder(tf.constant(encode_utf8(texts[begin : begin + ENCODE_ROWS]), tf.string)))
        real = ids != 0
        pieces.append(ids[real])
        lengths.append(real.sum(axis=1))
    return EncodedTexts(np.concatenate(pieces), np.concatenate([[0], np.cumsum(np.concatenate(lengths))]))


def find_bucket(settings: TrainConfig, sequence_length: int, fixed: bool = False) -> Bucket:
    """Returns which lengths batches are padded to, see `padded_length`.

    Args:
        fixed: few lengths, as a TPU needs them, also where the settings name none.
    """
    if not settings.bucket_by_length:
        return False
    lengths = settings.bucket_lengths
    if lengths is None and fixed:
        lengths = [max(1, sequence_length // 4), max(1, sequence_length // 2)]
    if lengths is None:
        return True
    return tuple(sorted({min(length, sequence_length) for length in lengths} | {sequence_length}))


def plan_epoch(
    lengths: np.ndarray,
    batch_size: int,
    bucket: Bucket,
    seed: int,
    epoch: int,
    batch_tokens: int | None = None,
) -> list[np.ndarray]:
    """Returns the row numbers of each batch; each row once, equally many batches in each epoch, in another order.

    Args:
        lengths: (rows,) tokens a text.
        batch_size: rows of every batch, but for the last one (of each of the lengths, if `bucket` names them).
        bucket: see `padded_length`. True: sort by length within windows of the shuffled rows, then shuffle the batches.
        batch_tokens: at most so many positions a batch (but at least one row) instead of batch_size. Rows are then cut
            into batches within classes of length; if `bucket` does not name them, each up to 10% longer than the one
            before.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    if batch_tokens is not None or isinstance(bucket, tuple):
        if isinstance(bucket, tuple):
            longest = padded_lengths = np.array(bucket)[np.searchsorted(bucket, lengths)]
        else:
            longest = np.ceil(LENGTH_CLASS ** np.ceil(np.log(np.maximum(lengths, 1)) / np.log(LENGTH_CLASS))).astype(
                int
            )
            padded_lengths = longest + LENGTH_STEP
        batches = []
        for length, padded in sorted(set(zip(longest.tolist(), padded_lengths.tolist()))):
            rows = order[longest[order] == length]
            size = batch_size if batch_tokens is None else max(1, batch_tokens // padded)
            batches += np.split(rows, range(size, len(rows), size))
        return [batches[i] for i in rng.permutation(len(batches))]
    if bucket:
        window = batch_size * WINDOW_BATCHES
        order = np.concatenate(
            [
                part[np.argsort(lengths[part], kind="stable")]
                for part in np.split(order, range(window, len(order), window))
            ]
        )
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]


def padded_length(lengths: np.ndarray, sequence_length: int, bucket: Bucket) -> int:
    """Returns the time steps of a batch of texts with these lengths.

    Args:
        bucket: False: sequence_length. True: the next multiple of LENGTH_STEP. Lengths: the smallest that suffices.
    """
    if not bucket:
        return sequence_length
    if isinstance(bucket, tuple):
        return bucket[np.searchsorted(bucket, lengths.max())]
    return min(-(-int(lengths.max()) // LENGTH_STEP) * LENGTH_STEP, sequence_length)


def compute_padding_fraction(lengths, batches, sequence_length: int, bucket: Bucket) -> float:
    """Returns the share of all positions in the batches that holds no token."""
    positions = sum(len(rows) * padded_length(lengths[rows], sequence_length, bucket) for rows in batches)
    return float(1 - lengths.sum() / positions)


def make_dataset(make_batches, encoded: EncodedTexts, sequence_length: int, bucket: Bucket, *columns):
    """Returns a tf.data pipeline of (token_ids (batch, time) int32, *columns of the same rows).

    Args:
        make_batches: called without arguments, returns an iterable of row numbers, one array a batch.
        columns: arrays with one entry a row, such as label_one_hot (rows, classes) float32 and weight (rows,) float32.
    """

    def generate():
        for rows in make_batches():
            length = padded_length(encoded.lengths[rows], sequence_length, bucket)
            yield (encoded.pad(rows, length), *(column[rows] for column in columns))

    signature = (
        tf.TensorSpec((None, None), tf.int32),
        *(tf.TensorSpec((None, *column.shape[1:]), column.dtype) for column in columns),
    )
    return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(tf.data.AUTOTUNE)


def plan_by_length(
    lengths: np.ndarray, batch_size: int = SCORED_ROWS, padded_to: int | None = None
) -> list[np.ndarray]:
    """Returns batches for scoring: all rows, longest texts first: a batch too large for memory fails at once.

    A batch has at most batch_size rows and SCORED_POSITIONS positions, but at least one row.

    Args:
        padded_to: time steps of every batch; None: of its longest text, see `padded_length`.
    """
    order, batches, begin = np.argsort(-lengths, kind="stable"), [], 0
    while begin < len(order):
        steps = padded_to or max(1, padded_length(lengths[order[begin : begin + 1]], SCORED_POSITIONS, True))
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
        ids = encoded.pad(rows, padded_length(encoded.lengths[rows], int(encoded.lengths.max()), True))
        probabilities = np.asarray(predict(tf.constant(ids)))
        if result is None:
            result = np.zeros((len(encoded), probabilities.shape[1]), np.float32)
        result[rows] = probabilities
    return np.zeros((0, 0), np.float32) if result is None else result
