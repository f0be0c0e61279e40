"""What TensorBoard shows of a classifier beside curves, each written to the default writer: pictures, texts, words."""

import textwrap
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins import projector
from tensorboard.plugins.pr_curve import summary as pr_curve_summary

from keras_senti.data.batches import predict_in_batches
from keras_senti.data.dataset import EncodedTexts
from keras_senti.evaluation import figures
from keras_senti.evaluation.metrics import compute_calibration
from keras_senti.storage.files import write_text
from keras_senti.training.inference import make_predict

MOST_WORDS = 10000  # above this the projector in a browser samples or stalls
LISTED = 12  # texts in a table of examples
MOST_CHARACTERS = 300  # of a text in such a table
LINE_CHARACTERS = 60  # a longer line makes TensorBoard break the words of the other columns


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
    commonest = np.argsort(-np.bincount(labels, minlength=len(class_names)), kind="stable")
    for index in np.sort(commonest[: figures.MOST_COUNTED_CLASSES]):  # the same in each epoch
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


def write_projector(path: Path, model: keras.Model, vocabulary: list[str], class_names):
    """Writes the words' vectors with what the model says of each word alone, for the projector tab.

    Keras' `embeddings_freq` names a tensor that its weights file does not hold, so the tab stays empty
    (https://github.com/keras-team/keras/issues/20210). The folder is train/: it has events, so the projector looks
    there whatever `--logdir` is, and none below it, which would show the same words again.

    Args:
        path: the folder tensorboard/. model: with its best weights.
        vocabulary: tokens by id, padding first, then [UNK], then the most frequent; at most MOST_WORDS are written.
    """
    ids = np.arange(1, min(len(vocabulary), MOST_WORDS + 1), dtype=np.int32)
    probabilities = predict_in_batches(make_predict(model), EncodedTexts(ids, np.arange(len(ids) + 1)))
    listed = class_names if len(class_names) <= figures.MOST_COUNTED_CLASSES else ()
    header = ["word", "predicted", *(f"probability_{name}" for name in listed), "rank"]
    lines = ["\t".join(map(_escape_cell, header))]
    for token_id, row in zip(ids, probabilities):
        # The rank of [UNK], which stands for all rare words, is 0.
        shares = [f"{p:.3f}" for p in row[: len(listed)]]
        cells = [vocabulary[token_id], class_names[row.argmax()], *shares, str(token_id - 1)]
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
