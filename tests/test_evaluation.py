import math

import numpy as np
import pytest

from keras_senti.evaluation import compute_metrics, format_comparison, format_metrics

NAMES = ("negative", "neutral", "positive")
# True classes and predictions: 2 of 3 negatives, 1 of 2 neutrals, no positive row; one neutral is called positive.
LABELS = np.array([0, 0, 0, 1, 1])
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]])


def test_the_numbers_are_those_worked_out_by_hand():
    metrics = compute_metrics(LABELS, PROBABILITIES, NAMES)
    assert metrics["rows"] == 5 and metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["confusion_matrix"] == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    negative, neutral, positive = (metrics["per_class"][name] for name in NAMES)
    assert negative == pytest.approx({"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "rows": 3})
    assert neutral == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 2})
    assert positive == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 0}
    assert metrics["macro_f1"] == pytest.approx((0.8 + 0.5 + 0.0) / 3)
    expected = -sum(math.log(p) for p in (0.8, 0.5, 0.2, 0.8, 0.2)) / 5
    assert metrics["log_loss"] == pytest.approx(expected)


def test_the_bootstrap_interval_has_the_width_that_theory_gives():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 2000)
    right = rng.random(2000) < 0.8
    probabilities = np.eye(2)[np.where(right, labels, 1 - labels)] * 0.9 + 0.05
    low, high = compute_metrics(labels, probabilities, ("a", "b"))["accuracy_interval"]
    expected = 2 * 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert low < right.mean() < high and high - low == pytest.approx(expected, rel=0.1)


def test_one_row_and_certain_predictions_give_finite_numbers():
    metrics = compute_metrics(np.array([1]), np.float32([[1, 0, 0]]), NAMES)
    assert metrics["accuracy"] == 0 and math.isfinite(metrics["log_loss"])


def test_what_is_printed_names_the_classes_and_the_baselines():
    metrics = compute_metrics(LABELS, PROBABILITIES, NAMES)
    text = format_metrics(metrics, NAMES, "validation")
    assert "validation: 5 rows" in text and "accuracy 0.600" in text and "neutral" in text
    assert "majority" in format_comparison({"this model": metrics, "majority": metrics}, "on validation")
