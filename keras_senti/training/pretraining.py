"""Pre-training: a language model reads all texts as streams and learns to predict the next token.

The order of texts is new in every epoch. They stand one behind the other, id 0 (padding elsewhere) before each, and
this long row of tokens is cut into as many streams as a batch has rows. A step reads a window of each stream and goes
on with the state that the window before it ended with (truncated back-propagation through time).
"""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_senti.data.dataset import EncodedTexts
from keras_senti.data.token_cache import Corpus
from keras_senti.models.build import find_learning_layers
from keras_senti.models.language_model import LanguageModel
from keras_senti.training.callbacks import Speed, StopOnNonFinite, TrainedRun
from keras_senti.training.checkpoints import Progress
from keras_senti.training.fit import KerasLoop, fit_model
from keras_senti.training.optimizers import make_optimizer
from keras_senti.training.run import Run

COUNTED_AT_ONCE = 10_000_000


class Streams:
    """Texts as streams of tokens, cut into windows; nothing but a few numbers a text is in memory.

    Args:
        parts: the texts, whose order is mixed over all parts. batch_size: streams. window: tokens of each in a batch.
        seed: of the order of the texts; None: as they stand, in every epoch.
    """

    def __init__(self, parts: list[EncodedTexts], batch_size: int, window: int, seed: int | None):
        self.parts, self.batch_size, self.window, self.seed = parts, batch_size, window, seed
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.tokens = int(self.lengths.sum()) + len(self.lengths)  # with an id 0 before each text
        # Few texts fill few streams: with less than a window each there would be nothing to remember.
        self.filled = min(batch_size, math.ceil((self.tokens - 1) / window))
        self.stream_tokens = math.ceil((self.tokens - 1) / self.filled)
        self.steps = math.ceil(self.stream_tokens / window)
        first_rows = np.cumsum([0, *(len(part) for part in parts)])
        self.part_of_row = np.repeat(np.arange(len(parts)), np.diff(first_rows))
        self.begin_of_row = np.concatenate([part.offsets[:-1] for part in parts])

    @property
    def padding_fraction(self) -> float:
        return 1 - (self.tokens - 1) / (self.batch_size * self.window * self.steps)

    def batches(self, epoch: int, first_step: int = 0):
        """Yields (token_ids, targets, weights), (batch_size, window) each: int32, int32, float32.

        targets are the tokens one position further; weights are 0 where a stream has ended, or was never filled.
        """
        rows = len(self.lengths)
        order = np.arange(rows) if self.seed is None else np.random.default_rng([self.seed, epoch]).permutation(rows)
        ends = np.cumsum(self.lengths[order] + 1)
        stream = np.arange(self.batch_size)[:, np.newaxis]
        for step in range(first_step, self.steps):
            within = step * self.window + np.arange(self.window + 1)
            place = stream * self.stream_tokens + within
            ids = self._read(place, order, ends)
            # The target of a stream's last token is the first token of the next stream, which is the next one indeed.
            is_real = (within[1:] <= self.stream_tokens) & (place[:, 1:] < self.tokens) & (stream < self.filled)
            yield ids[:, :-1], ids[:, 1:], is_real.astype(np.float32)

    def _read(self, place: np.ndarray, order: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Returns the ids at these places of the whole row of tokens, 0 behind its end."""
        index = np.minimum(np.searchsorted(ends, place, side="right"), len(order) - 1)
        row = order[index]
        offset = place - (ends[index] - self.lengths[row] - 1)  # 0: the place before the text
        is_token = (offset > 0) & (offset <= self.lengths[row])
        ids = np.zeros(place.shape, np.int32)
        for number, part in enumerate(self.parts):
            chosen = is_token & (self.part_of_row[row] == number)
            ids[chosen] = part.flat[self.begin_of_row[row[chosen]] + offset[chosen] - 1]
        return ids

    def make_dataset(self, make_batches) -> tf.data.Dataset:
        """Returns a tf.data pipeline of batches with static shapes."""
        shape = (self.batch_size, self.window)
        signature = tuple(tf.TensorSpec(shape, kind) for kind in (tf.int32, tf.int32, tf.float32))
        return tf.data.Dataset.from_generator(make_batches, output_signature=signature).prefetch(2)


def count_tokens(parts: list[EncodedTexts], vocabulary_size: int) -> np.ndarray:
    """Returns how often each id occurs, (vocabulary_size,) int64; id 0 once before each text."""
    counts = np.zeros(vocabulary_size, np.int64)
    for part in parts:
        for begin in range(0, len(part.flat), COUNTED_AT_ONCE):
            counts += np.bincount(part.flat[begin : begin + COUNTED_AT_ONCE], minlength=vocabulary_size)
        counts[0] += len(part)
    return counts


def compute_unigram_perplexity(counts: np.ndarray, held_out: np.ndarray) -> float:
    """Returns the perplexity of a model that knows how frequent tokens are, and nothing of their order.

    Args:
        counts, held_out: (vocabulary,) how often each id occurs in the train texts, and in those to be predicted.
    """
    shares = (counts + 1) / (counts + 1).sum()
    return float(np.exp(-(held_out * np.log(shares)).sum() / held_out.sum()))


class Perplexity(keras.callbacks.Callback):
    """Adds val_perplexity, e to the power of the validation loss, to the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_perplexity"] = math.exp(min(logs["val_loss"], 700))


class CarryState(keras.callbacks.Callback):
    """Lets every epoch, and every validation, begin without a state; within them it is carried over."""

    def __init__(self, progress: Progress):
        super().__init__()
        self.progress = progress

    def on_epoch_begin(self, epoch, logs=None):
        if not self.progress.step:  # else a checkpoint from mid-epoch gave the state back
            self.model.reset_states()

    def on_test_begin(self, logs=None):
        self.model.reset_states()


def train_language_model(model: LanguageModel, corpus: Corpus, run: Run) -> tuple[TrainedRun, dict]:
    """Trains a language model in place, or what is left of it: see `fit.fit_model`, also for what is raised.

    It reads all parts but the validation part, whose perplexity is computed after each epoch, by the full softmax.

    Returns: what training found out, and the content of metrics.json; the cross-entropy is in nats a token.
    """
    settings, window = run.config.train, run.config.pretrain.window_tokens
    read = [part.token_ids for name, part in corpus.parts.items() if name != "validation"]
    streams = Streams(read, settings.batch_size, window, settings.seed)
    held_out = Streams([corpus.validation.token_ids], settings.batch_size, window, None)
    if streams.filled < settings.batch_size:
        filled = f"{streams.filled} of {settings.batch_size} streams with a window of {window}"
        print(
            f"WARNING: {streams.tokens:,} tokens fill {filled}. Lower train.batch_size or pretrain.window_tokens, or "
            "bring more text."
        )
    vocabulary_size = len(corpus.tokenizer.vocabulary)
    counts, held_out_counts = count_tokens(read, vocabulary_size), count_tokens(held_out.parts, vocabulary_size)
    model.layers[-1].set_frequencies(counts)
    layers, precision = find_learning_layers(model), model.dtype_policy.name
    model.compile(make_optimizer(settings, streams.steps * settings.epochs, layers, precision), jit_compile=False)
    validation_data = held_out.make_dataset(lambda: held_out.batches(0))
    # Else Keras warns that the data ran out.
    loop = KerasLoop(model, streams, validation_data.apply(tf.data.experimental.assert_cardinality(held_out.steps)))
    watching = [tracker.make_callback(corpus) for tracker in run.trackers]

    def make_callbacks(progress):
        speed = Speed(progress, loop, settings.epochs)
        return [StopOnNonFinite(progress), CarryState(progress), speed, Perplexity(), *watching]

    trained, history = fit_model(model, loop, run, make_callbacks)
    for tracker in run.trackers:
        tracker.log_model(model, corpus)
    best, tokens = history[trained.best_epoch - 1], int(held_out_counts.sum())
    found = {"perplexity": best["val_perplexity"], "cross_entropy": best["val_loss"], "tokens": tokens}
    unigram = {"perplexity": compute_unigram_perplexity(counts, held_out_counts)}
    return trained, {"validation": found, "baselines": {"unigram": unigram}}
