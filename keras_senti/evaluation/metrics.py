"""Probabilities and labels to numbers: pure functions, no TensorFlow."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm
from sklearn.metrics import log_loss

BOOTSTRAP_SAMPLES = 2000
BOOTSTRAP_COUNTS = 2**21  # held at once, 16 MB
MOST_MATRIX_CLASSES = 100  # of more, a matrix has more zeros than a file should hold
CALIBRATION_BINS = 15  # as Guo et al. 2017
SMALLEST = 1e-12  # a probability of 0 has no logarithm


@dataclass(frozen=True)
class Metric:
    """One score. Whoever computes, logs or shows scores reads METRICS, so a new one is one entry there.

    name: its key in metrics.json; after val_ in training's logs. title: its name on pages and in tables.
    function: from (hits, true, predicted), each (samples, classes): rows of a class that are right, that have it, that
        are given it, to (samples,) scores; these get a bootstrap interval, too. With from_probabilities, from (labels
        (rows,), probabilities (rows, classes)) to one score; it is computed of calibrated probabilities, too.
    each_epoch: measured on the validation part after each epoch; for train.monitor and search, too.
    main: shown where only a few are: summaries, TensorBoard's HParams. hint: what it says, on a card of the report;
        without one it has no card.
    """

    name: str
    title: str
    function: Callable
    higher_is_better: bool = True
    from_probabilities: bool = False
    each_epoch: bool = False
    main: bool = False
    hint: str = ""


def compute_accuracy(hits, true, predicted):
    return hits.sum(axis=1) / true.sum(axis=1)


def compute_macro_f1(hits, true, predicted):
    """Returns the mean of the classes' F1, each class alike however rare; a class that never occurs has 0."""
    return _divide(2 * hits, true + predicted).mean(axis=1)


def compute_log_loss(labels, probabilities):
    """Returns the mean negative natural logarithm of the label's probability."""
    return log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1]))


def compute_brier_score(labels, probabilities):
    """Returns the mean of Σ_k (p_k - y_k)², 0 to 2."""
    return ((probabilities - (labels[:, None] == np.arange(probabilities.shape[1]))) ** 2).sum(axis=1).mean()


def compute_calibration_error(labels, probabilities):
    return compute_calibration(labels, probabilities)["error"]


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", compute_accuracy, each_epoch=True, main=True, hint="texts in the right class"),
        Metric(
            "macro_f1", "macro-F1", compute_macro_f1, each_epoch=True, main=True,
            hint="each class counts alike, however rare",
        ),
        Metric("log_loss", "log loss", compute_log_loss, higher_is_better=False, from_probabilities=True, main=True),
        Metric("brier_score", "Brier score", compute_brier_score, higher_is_better=False, from_probabilities=True),
        Metric(
            "calibration_error", "calibration error", compute_calibration_error, higher_is_better=False,
            from_probabilities=True, hint="how far its confidence is off, on average",
        ),
    )
}  # fmt: skip
DECISIVE = METRICS["macro_f1"]  # by it studies and searches say what is better, unless told otherwise


def compute_scalars(labels: np.ndarray, probabilities: np.ndarray, metrics) -> dict[str, float]:
    """Returns these of METRICS by their names, without intervals: cheap enough for each epoch.

    Args:
        labels: (rows,) int, at least one. probabilities: (rows, classes), each row sums to 1: see `normalize`.
    """
    counts = [count[None] for count in _count_by_class(labels, probabilities)]
    found = {
        m.name: m.function(labels, probabilities) if m.from_probabilities else m.function(*counts) for m in metrics
    }
    return {name: float(np.squeeze(score)) for name, score in found.items()}


def compute_metrics(labels: np.ndarray, probabilities: np.ndarray, class_names) -> dict:
    """Returns the scores of one part as plain numbers, ready for metrics.json.

    Args:
        labels: (rows,) int, index into class_names; at least one row.
        probabilities: (rows, classes) float, each row sums to 1.
    Returns:
        rows, each of METRICS, *_interval (95% bootstrap) of those of the predicted classes, per_class and
        confusion_matrix (row: true class, column: predicted). Of more than MOST_MATRIX_CLASSES classes,
        confusion_cells instead: [row, column, count] of the cells that are not 0. A class that occurs neither among
        labels nor predictions has precision, recall and F1 0, and counts as such.
    """
    classes = len(class_names)
    probabilities = normalize(probabilities)
    cells, counts = np.unique(labels * classes + probabilities.argmax(axis=1), return_counts=True)
    cells = counts, *np.divmod(cells, classes)
    intervals, found = _bootstrap(*cells, classes), {"rows": len(labels)}
    for name, score in compute_scalars(labels, probabilities, METRICS.values()).items():
        found |= {name: score, **({f"{name}_interval": intervals[name]} if name in intervals else {})}
    hits, true, predicted = _count_by_class(labels, probabilities)
    columns = {
        "precision": _divide(hits, predicted),
        "recall": _divide(hits, true),
        "f1": _divide(2 * hits, true + predicted),
        "rows": true,
    }
    per_class = {name: {key: column[i].item() for key, column in columns.items()} for i, name in enumerate(class_names)}
    return {**found, "per_class": per_class, **_arrange_confusions(*cells, classes)}


def _count_by_class(labels, probabilities) -> list[np.ndarray]:
    """Returns the rows of each class that are right, that have it, that are given it, (classes,) each."""
    predicted = probabilities.argmax(axis=1)
    rows = labels[labels == predicted], labels, predicted
    return [np.bincount(classes, minlength=probabilities.shape[1]) for classes in rows]


def _divide(numerator, denominator) -> np.ndarray:
    """Returns the quotients, 0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)


def _bootstrap(counts, true, predicted, classes: int) -> dict[str, list[float]]:
    """Returns the 95% interval of each score of the predicted classes, from BOOTSTRAP_SAMPLES samples of the rows.

    A sample changes these scores only through its confusion matrix, and the matrix of a sample drawn with
    replacement is a multinomial draw from the observed one: the same distribution, without the rows. NumPy draws cell
    by cell, nothing for an empty one, and gives the last what is left: with the matrix' last cell among them, the cells
    that are not 0 get what they would get in the whole matrix.

    Args:
        counts, true, predicted: (cells,) rows, true class and predicted class of each cell that is not 0, row by row.
    """
    if (true[-1], predicted[-1]) != (classes - 1, classes - 1):
        counts, true, predicted = (
            np.append(array, last) for array, last in zip((counts, true, predicted), (0, classes - 1, classes - 1))
        )
    metrics = [metric for metric in METRICS.values() if not metric.from_probabilities]
    rng, left, scores, right = np.random.default_rng(0), BOOTSTRAP_SAMPLES, [], true == predicted
    while left:
        samples = min(left, max(1, BOOTSTRAP_COUNTS // max(len(counts), classes)))
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), samples)
        sums = np.zeros((3, samples, classes), int)
        sums[0][:, true[right]] = drawn[:, right]
        for total, columns in zip(sums[1:], (true, predicted)):
            np.add.at(total, (slice(None), columns), drawn)
        scores.append([metric.function(*sums) for metric in metrics])
        left -= samples
    edges = np.quantile(np.concatenate(scores, axis=1), (0.025, 0.975), axis=1)
    return {metric.name: edges[:, i].tolist() for i, metric in enumerate(metrics)}


def _arrange_confusions(counts, true, predicted, classes: int) -> dict:
    if classes > MOST_MATRIX_CLASSES:
        return {"confusion_cells": np.stack([true, predicted, counts], axis=1).tolist()}
    matrix = np.zeros((classes, classes), int)
    matrix[true, predicted] = counts
    return {"confusion_matrix": matrix.tolist()}


def find_confusions(metrics: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns true class, predicted class and rows of each cell of the confusion matrix that is not 0, row by row."""
    if "confusion_cells" in metrics:
        return tuple(np.array(metrics["confusion_cells"], int).T)
    matrix = np.array(metrics["confusion_matrix"])
    true, taken = np.nonzero(matrix)
    return true, taken, matrix[true, taken]


def normalize(probabilities: np.ndarray) -> np.ndarray:
    """Returns them as float64 whose rows sum to 1, which float32 does only nearly."""
    probabilities = np.float64(probabilities)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def compute_calibration(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Compares how sure the model is with how often it is right.

    Rows are sorted into 15 equal bins by their confidence, the probability of the predicted class.

    Args:
        labels, probabilities: as for compute_metrics.
    Returns:
        confidence, accuracy (means) and rows of each bin that is not empty, lists in ascending order; and error, the
        mean of |confidence - accuracy| weighted by rows (expected calibration error).
    Reference: Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = rows > 0
    sums = [np.bincount(bins, weights=values, minlength=CALIBRATION_BINS)[filled] for values in (confidence, right)]
    confidences, accuracies = (total / rows[filled] for total in sums)
    error = (np.abs(confidences - accuracies) * rows[filled]).sum() / len(labels)
    return {
        "confidence": confidences.tolist(),
        "accuracy": accuracies.tolist(),
        "rows": rows[filled].tolist(),
        "error": float(error),
    }


def compute_interval(right, rows):
    """Returns the 95% interval (low, high) of a share `right / rows`; numbers or arrays, (0, 1) where rows is 0.

    Reference: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953: unlike share ± 2 standard errors it stays
    within 0 and 1, and is right for few rows too.
    """
    z = norm.ppf(0.975)
    half = z * np.sqrt(right * (rows - right) / np.maximum(rows, 1) + z**2 / 4)
    return (right + z**2 / 2 - half) / (rows + z**2), (right + z**2 / 2 + half) / (rows + z**2)


def compare_predictions(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict:
    """Tests whether two models differ in accuracy on the same rows.

    Args:
        labels: (rows,) int. first, second: (rows, classes) probabilities.
    Returns:
        only_first, only_second: rows that this model alone has right; p_value of McNemar's exact test;
        accuracy_difference (second - first) and its 95% bootstrap interval.
    Reference: McNemar 1947, https://doi.org/10.1007/BF02295996; Dietterich 1998,
        https://doi.org/10.1162/089976698300017197, on comparing classifiers by it.
    """
    right = [probabilities.argmax(axis=1) == labels for probabilities in (first, second)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    rows, differ = len(labels), only_first + only_second
    rng = np.random.default_rng(0)  # a sample of rows changes the difference through these counts only
    samples = rng.multinomial(rows, np.array([only_first, only_second, rows - differ]) / rows, BOOTSTRAP_SAMPLES)
    return {
        "only_first": only_first,
        "only_second": only_second,
        "p_value": float(binomtest(only_first, differ).pvalue) if differ else 1.0,
        "accuracy_difference": (only_second - only_first) / rows,
        "accuracy_difference_interval": np.quantile((samples[:, 1] - samples[:, 0]) / rows, (0.025, 0.975)).tolist(),
    }
