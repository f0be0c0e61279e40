"""What TensorBoard shows of a run, beyond the curves: gradients, errors, examples, words and settings.

In the run's folder tensorboard/: train/ (curves, weights, gradients, graph, projector, profile), validation/ (curves,
confusion matrix, calibration, precision-recall curves, examples, errors) and hparams/ (settings and scores). The
step is the epoch; Keras counts from 0, and so do we.
"""

import contextlib
import dataclasses
import functools
import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api

from keras_senti.data.batches import Batching
from keras_senti.data.dataset import sample_rows
from keras_senti.data.token_cache import Corpus
from keras_senti.evaluation.metrics import METRICS
from keras_senti.models import kernels
from keras_senti.settings.schema import Config
from keras_senti.storage.run_folder import only_shown
from keras_senti.training.inference import keep_seeds, make_predict, sample_texts
from keras_senti.training.trackers import pictures
from keras_senti.training.trackers.base import Tracker

MOST_EXAMPLE_ROWS = 5000  # predicted after each epoch; the error of an accuracy from so many rows is 0.6 points
MOST_HISTOGRAM_VALUES = 1_000_000  # of one weight; the 38 million of a table of pairs took 9 GB


class TensorBoard(Tracker):
    """Writes the folder tensorboard/ of a run; what lies there already, of a run that is resumed, stays.

    Test scores are left out: who compares runs, chooses, and the test part is no part to choose on.
    """

    def __init__(self, config: Config, path: Path):
        self.config, self.path, self.is_classifier = config, path, config.task == "classification"

    @functools.cached_property
    def hparams(self):
        """The writer of the HParams tab; TensorBoard takes all curves in a folder with settings for columns of it."""
        return tf.summary.create_file_writer(str(self.path / "hparams"))

    def log_settings(self, config: Config, name: str):
        if not self.is_classifier:
            return  # in the table of scores it would have none
        settings = {
            f"{section}.{key}": value
            for section in ("text", "model", "train")
            for key, value in dataclasses.asdict(getattr(config, section)).items()
            if isinstance(value, bool | int | float | str)
        }
        with self.hparams.as_default(step=0):
            hparams_api.hparams(settings, trial_id=name)
        self.hparams.flush()

    def make_callback(self, corpus: Corpus, validate=None) -> keras.callbacks.Callback:
        return ClassifierBoard(self, corpus, validate) if self.is_classifier else LanguageModelBoard(self, corpus)

    def log_epoch(self, epoch: int, logs: dict):
        """Runs that are ended early, or are still running, have scores in the table, too."""
        self._write_scores({m.name: logs[f"val_{m.name}"] for m in METRICS.values() if m.each_epoch}, epoch)

    def log_model(self, model: keras.Model, corpus: Corpus):
        if self.is_classifier:
            with only_shown("words in TensorBoard's projector", "The run goes on."):
                pictures.write_projector(self.path, model, corpus.tokenizer.vocabulary, corpus.class_names)

    def log_scores(self, scores: dict):
        shown = {m.name: scores[m.name] for m in METRICS.values() if m.main and m.name in scores}
        if shown:
            with only_shown("scores in TensorBoard", "The run goes on; metrics.json has them."):
                self._write_scores(shown, step=self.config.train.epochs)  # above that of each epoch

    def _write_scores(self, scores: dict[str, float], step: int):
        with self.hparams.as_default(step=step):
            for name, score in scores.items():
                tf.summary.scalar(f"validation/{name}", score)
        self.hparams.flush()

    def close(self):
        if "hparams" in vars(self):
            with contextlib.suppress(tf.errors.OpError):  # whoever could not write before has said so
                self.hparams.close()


class Board(keras.callbacks.TensorBoard):
    """Keras' curves. Whoever adds to them uses Keras' own writers, because two event files that grow in one folder hide
    each other from a reader.
    """

    def __init__(self, tracker: TensorBoard, write_graph: bool):
        profile = tracker.config.train.profile_steps or 0
        super().__init__(str(tracker.path), write_graph=write_graph, profile_batch=profile)
        self.tracker = tracker

    def on_test_end(self, logs=None):
        pass  # Keras would write the validation curves a second time, over steps


class LanguageModelBoard(Board):
    """The curves, and after each epoch texts that the model makes up."""

    def __init__(self, tracker: TensorBoard, corpus: Corpus):
        super().__init__(tracker, write_graph=False)
        self.vocabulary = corpus.tokenizer.vocabulary

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        config = self.tracker.config
        joint = "" if config.text.split == "character" else " "
        with only_shown("texts in TensorBoard", "The run goes on."), self._val_writer.as_default(epoch):
            texts = sample_texts(self.model, self.vocabulary, joint, [config.train.seed, epoch])
            tf.summary.text("made up by the model", "\n\n".join(f"- {text}" for text in texts))


class ClassifierBoard(Board):
    """Keras' curves and conceptual graph, and what they lack, after each epoch.

    Gradients (histograms, and their norm: all together and a layer, where vanishing gradients show) are those of the
    training loss, before clipping, on one fixed probe batch of train texts, without dropout, for the layers that learn
    in the epoch. Of an embedding's gradient the histogram has the rows of the probe's tokens only; the others are 0.

    The probe is no larger than a training step, so that it fits into memory, as it goes the same backward pass. What is
    shown of the validation part are always the same rows. Nothing that training depends on changes.
    """

    def __init__(self, tracker: TensorBoard, corpus: Corpus, validate):
        super().__init__(tracker, write_graph=True)
        train, config = corpus.train, tracker.config
        batching = Batching.from_settings(config.train, config.text.sequence_length)
        lengths = train.token_ids.lengths
        rows = sample_rows(len(train), batching.count_rows(int(lengths.max())))
        ids = train.token_ids.pad(rows, int(lengths[rows].max()))
        self.probe = tuple(map(tf.constant, (ids, train.labels[rows], train.weights[rows])))
        self.compute_gradients = tf.function(self._compute_gradients)
        self.validate, self.rows = validate, sample_rows(len(corpus.validation), MOST_EXAMPLE_ROWS)
        self.labels, self.class_names = corpus.validation.labels[self.rows], corpus.class_names
        self.texts = [corpus.validation.texts[row] for row in self.rows]

    def set_model(self, model):
        super().set_model(model)
        self.predict = make_predict(model)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        # The graphs tab opens with the graph of operations, and with an error where there is only a conceptual one.
        with self._train_writer.as_default():
            tf.summary.graph(self.predict.get_concrete_function().graph)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        with keep_seeds(self.model), only_shown(f"pictures in TensorBoard of epoch {epoch + 1}", "The run goes on."):
            self._write_epoch(epoch, logs)

    def _write_epoch(self, epoch, logs):
        with self._train_writer.as_default(epoch):
            self._write_weights_and_gradients()
        with self._val_writer.as_default(epoch):
            # Of a model that diverged, probabilities may be no numbers: what watches does not stop the run.
            probabilities = np.nan_to_num(self.validate.probabilities[self.rows])
            scored = self.labels, probabilities, self.class_names
            pictures.write_confusion_matrix(*scored)
            pictures.write_calibration(self.labels, probabilities)
            pictures.write_pr_curves(*scored)
            for tag, page in pictures.format_examples(self.texts, *scored).items():
                tf.summary.text(tag, page)
        self.tracker.log_epoch(epoch, logs)
        for writer in self._writers.values():
            writer.flush()

    def _compute_gradients(self) -> dict:
        """Returns gradients by the weight's path, also of layers that do not learn now: one graph for all epochs."""
        ids, labels, weights = self.probe
        with tf.GradientTape() as tape:
            with kernels.own_gradient():
                probabilities = self.model(ids, training=False)
            one_hot = tf.one_hot(labels, probabilities.shape[-1])
            loss = self.model.compute_loss(ids, one_hot, probabilities, weights, training=False)
        found = zip(self.model.weights, tape.gradient(loss, self.model.weights))
        return {weight.path: _drop_untouched_rows(gradient) for weight, gradient in found if gradient is not None}

    def _write_weights_and_gradients(self):
        learning = {variable.path for variable in self.model.trainable_variables}
        gradients = {path: gradient for path, gradient in self.compute_gradients().items() if path in learning}
        tf.summary.scalar("gradient_norm/all", tf.linalg.global_norm(list(gradients.values())))
        for layer in self.model.layers:
            of_layer = [gradients[weight.path] for weight in layer.weights if weight.path in gradients]
            if of_layer:
                tf.summary.scalar(f"gradient_norm/{layer.name}", tf.linalg.global_norm(of_layer))
            for weight in layer.weights:
                name = weight.path.removeprefix(self.model.name + "/")
                _write_histogram(f"weights/{name}", weight)
                if weight.path in gradients:
                    _write_histogram(f"gradients/{name}", gradients[weight.path])


def _write_histogram(name: str, values):
    """Writes a histogram; of a large table that of some rows, as TensorBoard needs 240 bytes for each value."""
    values = tf.convert_to_tensor(values)
    row_size = max(1, math.prod(values.shape[1:]))
    if values.shape.num_elements() > MOST_HISTOGRAM_VALUES:
        values = tf.gather(values, sample_rows(values.shape[0], max(1, MOST_HISTOGRAM_VALUES // row_size)))
    tf.summary.histogram(name, values)


def _drop_untouched_rows(gradient):
    """Sums up a sparse gradient, which an embedding has, into (tokens that occur, embedding_dim)."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    tokens, position = tf.unique(tf.reshape(gradient.indices, [-1]))
    return tf.math.unsorted_segment_sum(gradient.values, position, tf.size(tokens))
