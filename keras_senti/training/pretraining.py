"""Pre-training: a language model reads all texts as streams and learns to predict the next token.

The order of texts is new in every epoch. They stand one behind the other, id 0 (padding elsewhere) before each, and
this long row of tokens is cut into as many streams as a batch has rows. A step reads a window of each stream and goes
on with the state that the window before it ended with (truncated back-propagation through time).
"""

import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_senti.data.batches import EncodedTexts
from keras_senti.models.build import find_learning_layers
from keras_senti.models.language_model import LanguageModel
from keras_senti.settings.schema import Config
from keras_senti.storage.run_folder import only_shown
from keras_senti.training.callbacks import ShowProgress, TrainedRun
from keras_senti.training.checkpoints import Progress
from keras_senti.training.fit import chain_epochs, fit_model, make_keras_fit
from keras_senti.training.optimizers import make_optimizer

COUNTED_AT_ONCE = 10_000_000
SAMPLED_TEXTS, SAMPLED_TOKENS = 6, 60
TEMPERATURE = 0.8  # below 1: sampled texts read better, because unlikely tokens become less likely


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


class LanguageModelBoard(keras.callbacks.TensorBoard):
    """The curves, and after each epoch texts that the model makes up.

    Args:
        path: the folder tensorboard/. sample: called with the epoch, returns texts. profile_steps: as
            train.profile_steps.
    """

    def __init__(self, path: Path, sample, profile_steps=None):
        super().__init__(str(path), write_graph=False, profile_batch=profile_steps or 0)
        self.sample = sample

    def on_test_end(self, logs=None):
        pass  # Keras would write the validation curves a second time, over steps

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        with only_shown("texts in TensorBoard", "The run goes on."), self._val_writer.as_default(epoch):
            tf.summary.text("made up by the model", "\n\n".join(f"- {text}" for text in self.sample(epoch)))


def sample_texts(model: LanguageModel, vocabulary: list[str], joint: str, seed) -> list[str]:
    """Returns texts that the model makes up, token by token, each from the beginning of a text.

    Args:
        vocabulary: tokens by id. joint: what stands between two tokens. seed: for numpy.random.default_rng.
    """
    rng, rows = np.random.default_rng(seed), model.input_shape[0]
    output = model.layers[-1]

    @tf.function
    def score(token_ids):
        return output.compute_logits(tf.cast(model(token_ids, training=False)[:SAMPLED_TEXTS, 0], tf.float32))

    model.reset_states()
    ids = np.zeros((rows, 1), np.int32)
    texts = []
    for _ in range(SAMPLED_TOKENS):
        logits = score(tf.constant(ids)).numpy() / TEMPERATURE
        logits[:, 1] = -np.inf  # the model may know what an unknown word is; a reader does not
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # a draw from the softmax
        ids[: len(drawn), 0] = drawn
        texts.append(drawn)
    model.reset_states()
    words = np.array([*vocabulary], dtype=object)
    words[0] = "¶"
    return [joint.join(words[row]) for row in np.stack(texts, axis=1)]


def train_language_model(
    model: LanguageModel,
    train: list[EncodedTexts],
    validation: EncodedTexts,
    vocabulary: list[str],
    config: Config,
    run_dir: Path,
) -> tuple[TrainedRun, dict]:
    """Trains a language model in place, or what is left of it: see `fit.fit_model`, also for what is raised.

    Args:
        train: the texts that are read, in parts. validation: those whose perplexity is computed after each epoch, by
            the full softmax. run_dir: receives checkpoints/, tensorboard/ and history.csv.
    Returns: what training found out; and {"validation": {"perplexity", "cross_entropy" (nats a token), "tokens"},
        "baselines": {"unigram": {"perplexity"}}}.
    """
    settings, window = config.train, config.pretrain.window_tokens
    streams = Streams(train, settings.batch_size, window, settings.seed)
    held_out = Streams([validation], settings.batch_size, window, None)
    if streams.filled < settings.batch_size:
        print(
            f"WARNING: {streams.tokens:,} tokens fill {streams.filled} of {settings.batch_size} streams with a window "
            f"of {window}. Lower train.batch_size or pretrain.window_tokens, or bring more text."
        )
    counts = count_tokens(train, len(vocabulary))
    model.layers[-1].set_frequencies(counts)
    optimizer = make_optimizer(
        settings, streams.steps * settings.epochs, find_learning_layers(model), model.dtype_policy.name
    )
    model.compile(optimizer=optimizer, jit_compile=False)
    joint = "" if config.text.split == "character" else " "
    board = LanguageModelBoard(
        run_dir / "tensorboard",
        lambda epoch: sample_texts(model, vocabulary, joint, [settings.seed, epoch]),
        settings.profile_steps,
    )

    def make_data(epoch, step):
        return streams.make_dataset(lambda: chain_epochs(streams.batches, epoch, step))

    def make_callbacks(progress):
        shown = ShowProgress(progress, streams.steps, settings.epochs, streams.steps * streams.filled * window)
        return [CarryState(progress), shown, Perplexity(), board]

    validation_data = held_out.make_dataset(lambda: held_out.batches(0)).apply(
        tf.data.experimental.assert_cardinality(held_out.steps)
    )
    padding = 1 - (streams.tokens - 1) / (streams.batch_size * window * streams.steps)
    fit = make_keras_fit(model, streams.steps, make_data, validation_data)
    trained, history = fit_model(model, settings, run_dir, streams.steps, padding, fit, make_callbacks)
    held_out_counts = count_tokens([validation], len(vocabulary))
    return trained, _make_scores(history[trained.best_epoch - 1], counts, held_out_counts)


def _make_scores(best: dict, counts: np.ndarray, held_out_counts: np.ndarray) -> dict:
    """Returns the content of metrics.json from the logs of the best epoch and the counts of the tokens."""
    return {
        "validation": {
            "perplexity": best["val_perplexity"],
            "cross_entropy": best["val_loss"],
            "tokens": int(held_out_counts.sum()),
        },
        "baselines": {"unigram": {"perplexity": compute_unigram_perplexity(counts, held_out_counts)}},
    }
