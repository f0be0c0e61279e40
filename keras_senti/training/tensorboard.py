"""What TensorBoard shows of a run, beyond the curves: gradients, errors, examples, words and settings.

In the run's folder tensorboard/: train/ (curves, weights, gradients, graph, projector, profile), validation/ (curves,
confusion matrix, calibration, precision-recall curves, examples, errors) and hparams/ (settings and scores). The
step is the epoch; Keras counts from 0, and so do we.
"""

import dataclasses
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.pr_curve import summary as pr_curve_summary

from keras_senti.data.batches import padded_length, predict_in_batches
from keras_senti.data.dataset import EncodedTexts, sample_rows
from keras_senti.evaluation import figures
from keras_senti.evaluation.metrics import compute_calibration
from keras_senti.models import kernels
from keras_senti.settings.schema import Config
from keras_senti.storage.files import write_text
from keras_senti.storage.run_folder import only_shown

MOST_EXAMPLE_ROWS = 5000  # predicted after each epoch; the error of an accuracy from so many rows is 0.6 points
MOST_HISTOGRAM_VALUES = 1_000_000  # of one weight; the 38 million of a table of pairs took 9 GB
MOST_WORDS = 10000  # above this the projector in a browser samples or stalls
LISTED = 12  # texts in a table of examples
MOST_CHARACTERS = 300  # of a text in such a table
LINE_CHARACTERS = 60  # a longer line makes TensorBoard break the words of the other columns


@dataclass(frozen=True)
class Examples:
    """Validation rows that are looked at after each epoch, always the same ones: see `sample_rows`.

    rows: (shown,) int, row numbers in the validation part. texts: of these rows. class_names: by label.
    """

    rows: np.ndarray
    texts: list[str]
    class_names: tuple[str, ...]


class Board(keras.callbacks.TensorBoard):
    """Keras' curves and conceptual graph, and what they lack, after each epoch.

    Gradients (histograms, and their norm: all together and a layer, where vanishing gradients show) are those of the
    training loss, before clipping, on one fixed probe batch of train texts, without dropout, for the layers that learn
    in the epoch. Of an embedding's gradient the histogram has the rows of the probe's tokens only; the others are 0.

    Nothing that training depends on changes: Keras' recurrent layers advance their seed generators even without
    dropout being active (3.15: `_maybe_config_dropout_masks` in every call), so these are put back.

    Keras' own writers are used, because two event files that grow in one folder hide each other from a reader.

    Args:
        path: the folder tensorboard/; a second call (resumed training) adds to what is there.
        train: (encoded texts, labels (rows,) int, weight in the loss (rows,) float32).
        validation: (encoded texts, labels (rows,) int).
        probe_rows: size of the probe batch: no more than a training step has, so that it fits into memory, as it goes
            the same backward pass.
        predict: a tf.function with input signature, from (batch, time) int32 token ids to (batch, classes)
            probabilities, without dropout.
        examples: what to show of the validation part.
        profile_steps: as train.profile_steps.
    """

    def __init__(self, path: Path, train, validation, probe_rows: int, predict, examples: Examples, profile_steps=None):
        super().__init__(str(path), write_graph=True, profile_batch=profile_steps or 0)
        self.hparams_path = str(path / "hparams")
        encoded, labels, weights = train
        rows = sample_rows(len(encoded), probe_rows)
        lengths = encoded.lengths[rows]
        ids = encoded.pad(rows, padded_length(lengths, int(lengths.max()), True))
        self.probe = tuple(map(tf.constant, (ids, labels[rows], weights[rows])))
        self.compute_gradients = tf.function(self._compute_gradients)
        self.predict, self.examples = predict, examples
        encoded, labels = validation
        self.encoded = encoded.take(examples.rows)
        self.labels = labels[examples.rows]

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        # The graphs tab opens with the graph of operations, and with an error where there is only a conceptual one.
        with self._train_writer.as_default():
            tf.summary.graph(self.predict.get_concrete_function().graph)

    def on_test_end(self, logs=None):
        pass  # Keras would write the validation curves a second time, over steps

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        weights = {weight.path for weight in self.model.weights}
        seeds = [(v, v.numpy()) for v in self.model.non_trainable_variables if v.path not in weights]
        with only_shown(f"pictures in TensorBoard of epoch {epoch + 1}", "The run goes on."):
            self._write_epoch(epoch, logs)
        for variable, value in seeds:
            variable.assign(value)

    def _write_epoch(self, epoch, logs):
        with self._train_writer.as_default(epoch):
            self._write_weights_and_gradients()
        with self._val_writer.as_default(epoch):
            # Of a model that diverged, probabilities may be no numbers: what watches does not stop the run.
            probabilities = np.nan_to_num(predict_in_batches(self.predict, self.encoded))
            scored = self.labels, probabilities, self.examples.class_names
            write_confusion_matrix(*scored)
            write_calibration(self.labels, probabilities)
            write_pr_curves(*scored)
            for tag, page in format_examples(self.examples.texts, *scored).items():
                tf.summary.text(tag, page)
        if "hparams" not in self._writers:
            self._writers["hparams"] = tf.summary.create_file_writer(self.hparams_path)
        with self._writers["hparams"].as_default(epoch):
            # Runs that are ended early, or are still running, have scores, too.
            for name in ("accuracy", "macro_f1"):
                tf.summary.scalar(f"validation/{name}", logs[f"val_{name}"])
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


def write_confusion_matrix(labels: np.ndarray, probabilities: np.ndarray, class_names):
    """Writes the image `confusion_matrix` to the default writer; arguments as of `metrics.compute_metrics`."""
    predicted, classes = probabilities.argmax(axis=1), len(class_names)
    title = f"accuracy {(predicted == labels).mean():.3f}\n{len(labels):,} rows"
    shown, left_out = np.arange(classes), ""
    if classes > figures.MOST_DRAWN_CLASSES:
        wrong = predicted != labels
        mistakes = sum(np.bincount(found[wrong], minlength=classes) for found in (labels, predicted))
        shown = np.sort(np.argsort(-mistakes, kind="stable")[: figures.MOST_DRAWN_CLASSES])
        left_out = (
            f"; of {classes:,} classes, the {figures.MOST_DRAWN_CLASSES} that have a part in most mistakes (shares "
            "among them)"
        )
    inside = np.isin(labels, shown) & np.isin(predicted, shown)
    matrix = np.zeros((len(shown),) * 2, np.int64)
    np.add.at(matrix, tuple(np.searchsorted(shown, found[inside]) for found in (labels, predicted)), 1)
    names = [class_names[i] for i in shown]
    image, is_named = figures.draw_confusion_matrix(matrix, names, title)
    legend = "" if is_named else ": " + ", ".join(f"{i} = {escape_markdown(n)}" for i, n in enumerate(names))
    description = f"{len(labels):,} fixed validation rows{left_out}{legend}"
    tf.summary.image("confusion_matrix", image[None], description=description)


def write_calibration(labels: np.ndarray, probabilities: np.ndarray):
    """Writes the image `calibration` to the default writer; arguments as of `metrics.compute_calibration`."""
    image = figures.draw_calibration(compute_calibration(labels, probabilities))
    description = (
        f"{len(labels):,} fixed validation rows. Below the diagonal the model is surer than it is right. These are the "
        "`probabilities`; the temperature of `calibrated_probabilities` is fitted after training."
    )
    tf.summary.image("calibration", image[None], description=description)


def write_pr_curves(labels: np.ndarray, probabilities: np.ndarray, class_names):
    """Writes `pr_curve/<class>` to the default writer: is a row of the class, or of any other one?

    Of more than figures.MOST_COUNTED_CLASSES classes the commonest among the rows have a curve.

    The plugin's own function for TensorFlow 2 does not exist; its curve is written as it computes it: (6, 201) true and
    false positives, true and false negatives, precision and recall at thresholds from 0 to 1.
    """
    commonest = np.argsort(-np.bincount(labels, minlength=len(class_names)), kind="stable")[
        : figures.MOST_COUNTED_CLASSES
    ]
    for index in np.sort(commonest):  # the same in each epoch
        description = f"{len(labels):,} fixed validation rows"
        curve = pr_curve_summary.pb("", labels == index, probabilities[:, index], description=description)
        (value,) = curve.value
        tf.summary.write(f"pr_curve/{class_names[index]}", tf.make_ndarray(value.tensor), metadata=value.metadata)


def format_examples(texts, labels: np.ndarray, probabilities: np.ndarray, class_names) -> dict[str, str]:
    """Returns two Markdown tables by tag, examples: the same texts of every class in each epoch; errors: the most
    certain ones, surest first.
    """
    per_class = max(1, LISTED // len(class_names))
    fixed = [row for label in range(len(class_names)) for row in np.flatnonzero(labels == label)[:per_class]]
    predicted, certainty = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-certainty[wrong], kind="stable")[:LISTED]]
    pages = {}
    for tag, title, rows in (
        ("examples", "The same texts after each epoch", fixed[:LISTED]),
        ("errors", f"The most certain errors ({len(wrong):,} of {len(labels):,} rows are wrong)", worst),
    ):
        lines = [f"### {title}", ""]
        if len(rows):
            lines += ["| text | true class | predicted | probability |", "| --- | --- | --- | --- |"]
        for row in rows:
            text = texts[row] if len(texts[row]) <= MOST_CHARACTERS else texts[row][:MOST_CHARACTERS] + "…"
            text = "<br>".join(map(escape_markdown, textwrap.wrap(text, LINE_CHARACTERS)))
            true, found = (escape_markdown(class_names[label]) for label in (labels[row], predicted[row]))
            found = found if predicted[row] == labels[row] else f"**{found}**"
            lines.append(f"| {text} | {true} | {found} | {certainty[row]:.3f} |")
        pages[tag] = "\n".join(lines) + "\n"
    return pages


def escape_markdown(text: str) -> str:
    """Returns text that Markdown and HTML show as it is, in one line; what cannot be seen becomes a space."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(c if c.isalnum() or c == " " or c > "~" else f"&#{ord(c)};" for c in plain)


def write_projector(path: Path, model: keras.Model, predict, vocabulary: list[str], class_names):
    """Writes the words' vectors with what the model says of each word alone, for the projector tab.

    Keras' `embeddings_freq` names a tensor that its weights file does not hold, so the tab stays empty
    (https://github.com/keras-team/keras/issues/20210). The folder is train/: it has events, so the projector looks
    there whatever `--logdir` is, and none below it, which would show the same words again.

    Args:
        path: the folder tensorboard/. model: with its best weights. predict: as for `Board`.
        vocabulary: tokens by id, padding first, then [UNK], then the most frequent; at most MOST_WORDS are written.
    """
    ids = np.arange(1, min(len(vocabulary), MOST_WORDS + 1), dtype=np.int32)
    probabilities = predict_in_batches(predict, EncodedTexts(ids, np.arange(len(ids) + 1)))
    listed = class_names if len(class_names) <= figures.MOST_COUNTED_CLASSES else ()
    header = ["word", "predicted", *(f"probability_{name}" for name in listed), "rank"]
    lines = ["\t".join(map(_escape_cell, header))]
    for token_id, row in zip(ids, probabilities):
        # The rank of [UNK], which stands for all rare words, is 0.
        cells = [
            vocabulary[token_id],
            class_names[row.argmax()],
            *(f"{p:.3f}" for p in row[: len(listed)]),
            str(token_id - 1),
        ]
        lines.append("\t".join(map(_escape_cell, cells)))
    folder = path / "train"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
    config = projector.ProjectorConfig()
    config.embeddings.add(tensor_name="embedding/.ATTRIBUTES/VARIABLE_VALUE", metadata_path="metadata.tsv")
    write_text(folder / "projector_config.pbtxt", text_format.MessageToString(config))
    vectors = model.get_layer("embedding").get_weights()[0][ids]
    # `save`, not `write`: the projector finds it by the file `checkpoint`, with a relative path, so the run can move.
    tf.train.Checkpoint(embedding=tf.Variable(vectors)).save(str(folder / "words"))


def _escape_cell(text: str) -> str:
    """One cell of a TSV file: no tab, no line end, and something to be seen."""
    plain = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return plain if plain.strip() else repr(plain)


def write_hparams(path: Path, config: Config, run_name: str):
    """Writes the settings of text, model and training: a row of the HParams tab, before training begins.

    Its scores are those of the last epoch so far (`Board`), in the end those of the kept one (`write_hparams_scores`).
    The folder is one of its own, because TensorBoard takes every curve below a run with settings for a column of the
    table.

    Args:
        path: the folder tensorboard/. run_name: the name of the row.
    """
    settings = {
        f"{section}.{key}": value
        for section in ("text", "model", "train")
        for key, value in dataclasses.asdict(getattr(config, section)).items()
        if isinstance(value, bool | int | float | str)
    }
    writer = tf.summary.create_file_writer(str(path / "hparams"))
    with writer.as_default(step=0):
        hparams_api.hparams(settings, trial_id=run_name)
    writer.close()


def write_hparams_scores(path: Path, scores: dict, step: int):
    """Writes the final validation scores of a row of the HParams tab.

    Test scores are left out: who compares runs, chooses, and the test part is no part to choose on.

    Args:
        path: the folder tensorboard/. scores: of `metrics.compute_metrics`.
        step: above that of each epoch, whose scores stand in the same curves.
    """
    writer = tf.summary.create_file_writer(str(path / "hparams"))
    with writer.as_default(step=step):
        for name in ("accuracy", "macro_f1", "log_loss"):
            tf.summary.scalar(f"validation/{name}", scores[name])
    writer.close()
