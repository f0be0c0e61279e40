"""Probabilities and labels to numbers: pure functions, no TensorFlow."""

import numpy as np
from scipy.stats import binomtest, norm
from sklearn.metrics import log_loss, precision_recall_fscore_support

BOOTSTRAP_SAMPLES = 2000
BOOTSTRAP_COUNTS = 2**21  # held at once, 16 MB
MOST_MATRIX_CLASSES = 100  # of more, a matrix has more zeros than a file should hold
CALIBRATION_BINS = 15  # as Guo et al. 2017
SMALLEST = 1e-12  # a probability of 0 has no logarithm


def compute_metrics(labels: np.ndarray, probabilities: np.ndarray, class_names) -> dict:
    """Returns the scores of one part as plain numbers, ready for metrics.json.

    Args:
        labels: (rows,) int, index into class_names; at least one row.
        probabilities: (rows, classes) float, each row sums to 1.
    Returns:
        accuracy, macro_f1 (mean of the classes' F1, each class alike however rare), log_loss (natural logarithm),
        brier_score (mean of Σ_k (p_k - y_k)², 0 to 2), calibration_error (see `compute_calibration`), *_interval (95%
        bootstrap interval), per_class, confusion_matrix (row: true class, column: predicted), rows. Of more than
        MOST_MATRIX_CLASSES classes, confusion_cells instead: [row, column, count] of the cells that are not 0.
        A class that occurs neither among labels nor predictions has precision, recall and F1 0, and counts as such.
    """
    classes = range(len(class_names))
    probabilities = normalize(probabilities)
    predicted = probabilities.argmax(axis=1)
    cells, counts = np.unique(labels * len(classes) + predicted, return_counts=True)
    true, taken = np.divmod(cells, len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    accuracy, macro_f1 = _accuracy_and_macro_f1(counts[None], true, taken, len(classes))
    intervals = [np.quantile(score, (0.025, 0.975)).tolist() for score in _bootstrap(counts, true, taken, len(classes))]
    return {
        "rows": len(labels),
        "accuracy": float(accuracy[0]),
        "accuracy_interval": intervals[0],
        "macro_f1": float(macro_f1[0]),
        "macro_f1_interval": intervals[1],
        **score_probabilities(labels, probabilities),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int(support[i]),
            }
            for i, name in enumerate(class_names)
        },
        **_arrange_confusions(counts, true, taken, len(classes)),
    }


def score_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Returns log_loss, brier_score and calibration_error, which depend on how sure the model is."""
    classes = probabilities.shape[1]
    return {
        "log_loss": float(log_loss(labels, probabilities, labels=list(range(classes)))),
        "brier_score": float(((probabilities - (labels[:, None] == np.arange(classes))) ** 2).sum(axis=1).mean()),
        "calibration_error": compute_calibration(labels, probabilities)["error"],
    }


def _arrange_confusions(counts, true, taken, classes: int) -> dict:
    if classes > MOST_MATRIX_CLASSES:
        return {"confusion_cells": np.stack([true, taken, counts], axis=1).tolist()}
    matrix = np.zeros((classes, classes), int)
    matrix[true, taken] = counts
    return {"confusion_matrix": matrix.tolist()}


def find_confusions(metrics: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns true class, predicted class and rows of each cell of the confusion matrix that is not 0, row by row."""
    if "confusion_cells" in metrics:
        return tuple(np.array(metrics["confusion_cells"], int).T)
    matrix = np.array(metrics["confusion_matrix"])
    true, taken = np.nonzero(matrix)
    return true, taken, matrix[true, taken]


def _bootstrap(counts, true, taken, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns accuracy and macro-F1 of BOOTSTRAP_SAMPLES samples of the rows, (samples,) each.

    A sample changes these two scores only through its confusion matrix, and the matrix of a sample drawn with
    replacement is a multinomial draw from the observed one: the same distribution, without the rows. NumPy draws cell
    by cell, nothing for an empty one, and gives the last what is left: with the matrix' last cell among them, the cells
    that are not 0 get what they would get in the whole matrix.
    """
    if (true[-1], taken[-1]) != (classes - 1, classes - 1):
        counts, true, taken = (
            np.append(array, last) for array, last in zip((counts, true, taken), (0, classes - 1, classes - 1))
        )
    rng, left, scores = np.random.default_rng(0), BOOTSTRAP_SAMPLES, []
    while left:
        samples = min(left, max(1, BOOTSTRAP_COUNTS // max(len(counts), classes)))
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), samples)
        scores.append(_accuracy_and_macro_f1(drawn, true, taken, classes))
        left -= samples
    return tuple(map(np.concatenate, zip(*scores)))


def _accuracy_and_macro_f1(counts, true, taken, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(samples, cells) counts of the cells in row true[i] and column taken[i] → accuracy, macro-F1 (samples,)."""
    hits, total = (np.zeros((len(counts), classes), int) for _ in range(2))
    right = true == taken
    hits[:, true[right]] = counts[:, right]
    for columns in (true, taken):
        np.add.at(total, (slice(None), columns), counts)
    f1 = np.divide(2 * hits, total, out=np.zeros(hits.shape), where=total > 0)
    return hits.sum(axis=1) / counts.sum(axis=1), f1.mean(axis=1)


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
