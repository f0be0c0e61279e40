"""How sure a model may say it is: temperature, and when to abstain."""

import math
import reprlib
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from keras_senti.errors import UserError
from keras_senti.evaluation.metrics import METRICS, SMALLEST, compute_metrics, compute_scalars, normalize
from keras_senti.storage import files


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns softmax(log p / T), (rows, classes) float64: less sure for T above 1, the same class for any T."""
    scaled = np.log(np.maximum(normalize(probabilities), SMALLEST)) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the T, 0.05 to 20, for which softmax(log p / T) has the least log loss.

    Fit it on rows that neither trained the model nor are reported on. log p is the logits but for a constant a row,
    which a softmax takes no notice of.

    Reference: Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2 (temperature scaling).
    """
    rows = np.arange(len(labels))

    def compute_loss(log_temperature):
        scaled = apply_temperature(probabilities, np.exp(log_temperature))
        return -np.log(np.maximum(scaled[rows, labels], SMALLEST)).mean()

    limit = np.log(20)
    return float(np.exp(minimize_scalar(compute_loss, bounds=(-limit, limit), method="bounded").x))


def compute_coverage(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns how good the model is if it answers its surest rows only: (threshold, coverage, accuracy).

    Each (steps,), one for every different confidence, from the surest on: who answers where the confidence is at least
    the threshold answers this share of the rows, and this share of the answers is right.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    confidence = confidence[order]
    last = np.flatnonzero(np.append(confidence[1:] != confidence[:-1], True))  # equal ones are answered together
    answered = last + 1
    return confidence[last], answered / len(labels), np.cumsum(right)[last] / answered


def find_abstain_threshold(
    labels: np.ndarray, probabilities: np.ndarray, precision: float
) -> tuple[float, float] | None:
    """Returns (threshold, coverage) of the largest share of rows whose answers are right with this probability.

    None: not even the surest answers are.
    """
    threshold, coverage, accuracy = compute_coverage(labels, probabilities)
    enough = np.flatnonzero(accuracy >= precision)
    return (float(threshold[enough[-1]]), float(coverage[enough[-1]])) if len(enough) else None


def fit_calibration(labels: np.ndarray, probabilities: np.ndarray, precisions) -> dict:
    """Returns what is learned from the validation part after training, the content of calibration.json.

    Args:
        labels, probabilities: of the validation part, as for compute_metrics. precisions: those that are wished for.
    Returns:
        temperature: see `fit_temperature`. abstain: for each wished_precision the threshold to answer from on, which
        the largest of the probabilities (not the calibrated ones) must reach; None: not even the surest answers do.
    """
    found = [(precision, find_abstain_threshold(labels, probabilities, precision)) for precision in precisions]
    return {
        "temperature": fit_temperature(labels, probabilities),
        "abstain": [{"wished_precision": wished, "threshold": pair and pair[0]} for wished, pair in found],
    }


def compute_calibrated_metrics(labels: np.ndarray, probabilities: np.ndarray, calibration: dict) -> dict:
    """Returns what calibration.json makes of one part, ready to stand beside the numbers of `compute_metrics`.

    Args:
        labels, probabilities: of any part, as for compute_metrics. calibration: of `fit_calibration`.
    Returns:
        calibrated: temperature, and log_loss, brier_score, calibration_error of the scaled probabilities. abstain: for
        each wished_precision its threshold, the share of the rows that reach it (coverage) and the share of those that
        are right (precision, None where no row reaches it).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    abstain = []
    for entry in calibration["abstain"]:
        answered = confidence >= (np.inf if entry["threshold"] is None else entry["threshold"])
        precision = float(right[answered].mean()) if answered.any() else None
        abstain.append({**entry, "coverage": float(answered.mean()), "precision": precision})
    temperature = calibration["temperature"]
    scaled = _score(labels, apply_temperature(probabilities, temperature))
    return {"calibrated": {"temperature": temperature, **scaled}, "abstain": abstain}


def _score(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Returns the scores that depend on how sure the model is."""
    return compute_scalars(labels, probabilities, [m for m in METRICS.values() if m.from_probabilities])


def cross_fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> dict | None:
    """Returns how good scaling is on rows that the temperature was not fitted on, from one part alone.

    The rows are put into two halves by chance (the same in every call); each is scaled by the temperature of the other.

    Returns: log_loss, brier_score, calibration_error over all rows; None for a single row.
    """
    if len(labels) < 2:
        return None
    halves = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)
    scaled = np.empty(probabilities.shape)
    for rows, others in (halves, halves[::-1]):
        scaled[rows] = apply_temperature(probabilities[rows], fit_temperature(labels[others], probabilities[others]))
    return _score(labels, scaled)


def read_calibration(file: Path) -> dict | None:
    """Reads calibration.json; None if there is none, as beside models from before there was one.

    Raises:
        UserError: if it is damaged.
    """
    if not file.exists():
        return None
    calibration = files.read_json(file)
    try:
        temperature = calibration["temperature"]
        thresholds = [entry["threshold"] for entry in calibration["abstain"] if entry["threshold"] is not None]
        numbers = [temperature, *thresholds, *(entry["wished_precision"] for entry in calibration["abstain"])]
        whole = all(isinstance(value, int | float) and 1e-9 < float(value) < math.inf for value in numbers)
    except (KeyError, TypeError, OverflowError):
        whole = False
    if not whole:
        raise UserError(
            f"{file} is damaged: expected a temperature above 0 and a list of abstain thresholds, received "
            f"{reprlib.repr(calibration)}. Bring it back as it was written."
        )
    return calibration


def compute_scores(labels: np.ndarray, probabilities: np.ndarray, class_names, calibration: dict | None) -> dict:
    """Returns the scores of a part, with those after calibration if the model has one."""
    scores = compute_metrics(labels, probabilities, class_names)
    if calibration:
        scores |= compute_calibrated_metrics(labels, probabilities, calibration)
    return scores
