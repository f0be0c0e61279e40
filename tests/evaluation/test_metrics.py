import math
import tracemalloc

import numpy as np
import pytest

from keras_senti.errors import UserError
from keras_senti.evaluation import metrics
from keras_senti.evaluation.calibration import (
    apply_temperature,
    compute_calibrated_metrics,
    compute_coverage,
    cross_fit_temperature,
    fit_calibration,
    fit_temperature,
)
from keras_senti.evaluation.metrics import (
    BOOTSTRAP_SAMPLES,
    METRICS,
    Metric,
    compare_predictions,
    compute_calibration,
    compute_metrics,
    find_confusions,
)
from keras_senti.reports.cards import draw_numbers
from keras_senti.reports.terminal import format_comparison, format_metrics
from keras_senti.settings.command_line import parse_config
from keras_senti.tasks.checks import check_run

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
    squares = (0.06, 0.38, 0.98, 0.06, 1.14)  # of the first row 0.2² + 0.1² + 0.1², and so on
    assert metrics["brier_score"] == pytest.approx(sum(squares) / 5)
    # Bins of 1/15: 0.8 (two rows, both right), 0.7 (one, wrong), 0.5 (two, one right).
    assert metrics["calibration_error"] == pytest.approx((2 * 0.2 + 0.7 + 2 * 0.0) / 5)


def test_the_bootstrap_interval_has_the_width_that_theory_gives():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 2000)
    right = rng.random(2000) < 0.8
    probabilities = np.eye(2)[np.where(right, labels, 1 - labels)] * 0.9 + 0.05
    low, high = compute_metrics(labels, probabilities, ("a", "b"))["accuracy_interval"]
    expected = 2 * 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert low < right.mean() < high and high - low == pytest.approx(expected, rel=0.1)


def test_the_bootstrap_draws_the_cells_that_are_not_empty_and_gets_what_whole_matrices_would_give(monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(metrics, "BOOTSTRAP_COUNTS", 3000)  # so that it takes several chunks
    for last in (0, 5):  # the matrix' last cell, empty or not
        labels = np.append(rng.integers(0, 4, 60), np.full(last, 4))
        predicted = np.append(np.where(rng.random(60) < 0.8, labels[:60], 0), np.full(last, 4))
        found = compute_metrics(labels, np.eye(5)[predicted] * 0.9 + 0.02, "abcde")
        matrix = np.array(found["confusion_matrix"])
        shares = matrix.ravel() / matrix.sum()
        drawn = np.random.default_rng(0).multinomial(len(labels), shares, BOOTSTRAP_SAMPLES)
        drawn = drawn.reshape(-1, 5, 5)
        hits, both = np.diagonal(drawn, axis1=1, axis2=2), drawn.sum(axis=1) + drawn.sum(axis=2)
        f1 = np.divide(2 * hits, both, out=np.zeros(hits.shape), where=both > 0).mean(axis=1)
        assert found["accuracy_interval"] == np.quantile(hits.sum(axis=1) / len(labels), (0.025, 0.975)).tolist()
        assert found["macro_f1_interval"] == np.quantile(f1, (0.025, 0.975)).tolist()


def test_1200_classes_need_little_memory_and_are_listed_in_few_lines():
    names, labels = [f"class {i}" for i in range(1200)], np.arange(1200)
    probabilities = np.full((1200, 1200), 1e-4)
    probabilities[labels, np.where(labels < 900, labels, 7)] = 0.5  # 300 are taken for class 7
    tracemalloc.start()
    metrics = compute_metrics(labels, probabilities, names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e8  # all samples of the matrix would be 23 GB
    assert metrics["accuracy"] == 0.75 and "confusion_matrix" not in metrics
    true, taken, counts = find_confusions(metrics)
    assert len(true) == 1200 and (taken[true >= 900] == 7).all() and (counts == 1).all()
    text = format_metrics(metrics, names, "test")
    assert len(text.splitlines()) == 24 and max(map(len, text.splitlines())) < 120
    assert "of 1,200 classes, the 20 of which it finds the least" in text and "class 900 " in text


def test_the_cells_of_a_matrix_are_found_row_by_row():
    found = find_confusions(compute_metrics(LABELS, PROBABILITIES, NAMES))
    assert [array.tolist() for array in found] == [[0, 0, 1, 1], [0, 1, 1, 2], [2, 1, 1, 1]]


def test_one_row_and_certain_predictions_give_finite_numbers():
    metrics = compute_metrics(np.array([1]), np.float32([[1, 0, 0]]), NAMES)
    assert metrics["accuracy"] == 0 and math.isfinite(metrics["log_loss"])


def test_one_entry_in_the_table_is_measured_and_shown_everywhere(monkeypatch):
    def compute_matthews(hits, true, predicted):
        pairs = [(true, predicted), (true, true), (predicted, predicted)]
        products, rows = [(a * b).sum(axis=1) for a, b in pairs], true.sum(axis=1)
        spread = np.sqrt((rows**2 - products[1]) * (rows**2 - products[2]))
        return (hits.sum(axis=1) * rows - products[0]) / np.maximum(spread, 1)  # of one class alone: 0

    added = Metric("matthews", "Matthews correlation", compute_matthews, each_epoch=True, main=True)
    monkeypatch.setitem(METRICS, "matthews", added)
    metrics = compute_metrics(LABELS, PROBABILITIES, NAMES)
    # 3 of 5 are right; true 3, 2, 0; predicted 2, 2, 1: (3·5 - 10) / sqrt((25 - 13) (25 - 9))
    assert metrics["matthews"] == pytest.approx(5 / math.sqrt(12 * 16))
    low, high = metrics["matthews_interval"]
    assert low < metrics["matthews"] < high
    assert f"Matthews correlation 0.361 ({low:.3f} to {high:.3f})" in format_metrics(metrics, NAMES, "test")
    assert "macro-F1  log loss  Matthews correlation" in format_comparison({"this model": metrics}, "on test")
    assert "<th>Matthews correlation</th>" in draw_numbers("texts", [("this model", metrics)], [])
    check_run(parse_config(["--data.source", "tweets", "--train.monitor", "val_matthews"]))
    # A run from before it was added is shown without it.
    older = {name: score for name, score in metrics.items() if not name.startswith("matthews")}
    assert "Matthews" not in format_comparison({"this model": older, "majority": metrics}, "on test")


def test_only_what_is_measured_after_each_epoch_can_decide_which_was_best():
    arguments = ["--data.source", "tweets", "--train.monitor"]
    for wrong in ("val_log_loss", "macro_f1"):
        message = rf"train\.monitor: received '{wrong}', expected one of val_loss, val_accuracy, val_macro_f1, none\."
        with pytest.raises(UserError, match=message):
            check_run(parse_config([*arguments, wrong]))


def test_what_is_printed_names_the_classes_and_the_baselines():
    metrics = compute_metrics(LABELS, PROBABILITIES, NAMES)
    text = format_metrics(metrics, NAMES, "validation")
    assert "validation: 5 rows" in text and "accuracy 0.600" in text and "neutral" in text
    assert "majority" in format_comparison({"this model": metrics, "majority": metrics}, "on validation")


def test_a_calibration_bin_holds_its_rows_means_and_the_surest_rows_are_in_the_last_one():
    probabilities = np.array([[1.0, 0.0], [0.96, 0.04], [0.4, 0.6], [0.61, 0.39]])
    found = compute_calibration(np.array([0, 1, 1, 0]), probabilities)
    assert found["rows"] == [2, 2]
    assert found["confidence"] == pytest.approx([0.605, 0.98]) and found["accuracy"] == [1.0, 0.5]
    assert found["error"] == pytest.approx((2 * 0.395 + 2 * 0.48) / 4)


def test_a_temperature_that_was_put_on_is_found_again():
    rng = np.random.default_rng(2)
    honest = rng.dirichlet([1, 1, 1], 20000)
    labels = (honest.cumsum(axis=1) > rng.random((20000, 1))).argmax(axis=1)
    overconfident = apply_temperature(honest, 0.5)
    assert overconfident == pytest.approx(honest**2 / (honest**2).sum(axis=1, keepdims=True))
    assert fit_temperature(labels, overconfident) == pytest.approx(2, rel=0.05)
    better = compute_metrics(labels, apply_temperature(overconfident, 2.0), NAMES)
    assert better["calibration_error"] < 0.02 < compute_metrics(labels, overconfident, NAMES)["calibration_error"]


def test_a_temperature_is_finite_for_predictions_that_are_certain():
    certain = np.eye(3)[[0, 1, 2]]
    assert fit_temperature(np.array([0, 1, 2]), certain) > 0
    assert np.isfinite(apply_temperature(certain, fit_temperature(np.array([1, 1, 2]), certain))).all()


def test_who_abstains_more_answers_better():
    # Confidences 0.8, 0.5, 0.5, 0.8, 0.7; right are both rows of 0.8 and one of 0.5.
    threshold, coverage, accuracy = compute_coverage(LABELS, PROBABILITIES)
    assert threshold.tolist() == [0.8, 0.7, 0.5] and coverage.tolist() == [0.4, 0.6, 1.0]
    assert accuracy == pytest.approx([1.0, 2 / 3, 3 / 5])
    abstain = fit_calibration(LABELS, PROBABILITIES, [0.65, 0.6])["abstain"]
    assert [entry["threshold"] for entry in abstain] == [0.7, 0.5]
    (never,) = fit_calibration(LABELS, np.eye(3)[[1, 1, 1, 0, 0]], [0.9])["abstain"]
    assert never == {"wished_precision": 0.9, "threshold": None}


def test_what_was_fitted_on_one_part_is_applied_to_another():
    calibration = fit_calibration(LABELS, PROBABILITIES, [0.65, 1.0])
    assert calibration["temperature"] == fit_temperature(LABELS, PROBABILITIES)
    assert calibration["abstain"] == [
        {"wished_precision": 0.65, "threshold": 0.7},
        {"wished_precision": 1.0, "threshold": 0.8},
    ]
    labels, other = np.array([0, 1]), np.array([[0.75, 0.15, 0.1], [0.7, 0.2, 0.1]])
    found = compute_calibrated_metrics(labels, other, {**calibration, "temperature": 0.5})
    squared = (0.75**2 / (0.75**2 + 0.15**2 + 0.1**2), 0.2**2 / (0.7**2 + 0.2**2 + 0.1**2))
    assert found["calibrated"]["log_loss"] == pytest.approx(-(math.log(squared[0]) + math.log(squared[1])) / 2)
    assert found["calibrated"]["temperature"] == 0.5
    assert found["abstain"] == [
        {"wished_precision": 0.65, "threshold": 0.7, "coverage": 1.0, "precision": 0.5},
        {"wished_precision": 1.0, "threshold": 0.8, "coverage": 0.0, "precision": None},
    ]


def test_a_precision_that_is_never_reached_has_no_threshold_and_no_answers():
    calibration = fit_calibration(LABELS, np.eye(3)[[1, 1, 1, 0, 0]], [0.9])
    assert calibration["abstain"] == [{"wished_precision": 0.9, "threshold": None}]
    found = compute_calibrated_metrics(LABELS, PROBABILITIES, calibration)["abstain"]
    assert found == [{"wished_precision": 0.9, "threshold": None, "coverage": 0.0, "precision": None}]


def test_cross_fitting_scores_each_half_by_the_temperature_of_the_other():
    # Two rows are two halves. The right one of 0.8 asks the other row for the sharpest temperature, 1/20; the wrong one
    # of 0.8 for the flattest, 20.
    labels, probabilities = np.array([0, 1]), np.array([[0.8, 0.2], [0.8, 0.2]])
    sharp, flat = (1 / (1 + 0.25 ** (1 / t)) for t in (0.05, 20))
    expected = -(math.log(flat) + math.log(1 - sharp)) / 2
    assert cross_fit_temperature(labels, probabilities)["log_loss"] == pytest.approx(expected, rel=1e-3)
    assert cross_fit_temperature(labels[:1], probabilities[:1]) is None


def test_what_is_printed_of_the_calibration_is_the_honest_number():
    metrics = compute_metrics(LABELS, PROBABILITIES, NAMES)
    assert "  calibration error 0.220, Brier score 0.524" in format_metrics(metrics, NAMES, "test")
    metrics["calibrated"] = {"temperature": 1.5, "calibration_error": 0.1}
    assert "0.220, 0.100 after scaling (temperature 1.50), Brier" in format_metrics(metrics, NAMES, "test")
    metrics["calibrated"]["cross_fitted"] = {"calibration_error": 0.2}
    assert "0.220, 0.200 after scaling (temperature 1.50, cross-fitted), Brier" in format_metrics(metrics, NAMES, "v")


def test_mcnemar_counts_the_rows_that_one_model_alone_has_right():
    labels = np.zeros(100, int)
    first, second = np.tile([0.9, 0.1], (100, 1)), np.tile([0.9, 0.1], (100, 1))
    first[:6], second[6:7] = [0.2, 0.8], [0.2, 0.8]
    found = compare_predictions(labels, first, second)
    assert (found["only_first"], found["only_second"]) == (1, 6)
    # Of 7 coins at most one shows this side, or at most one the other: 2 (1 + 7) / 2^7.
    assert found["p_value"] == pytest.approx(0.125)
    assert found["accuracy_difference"] == pytest.approx(0.05)
    low, high = found["accuracy_difference_interval"]
    assert low < 0.05 < high and high - low == pytest.approx(2 * 1.96 * math.sqrt(0.07 - 0.05**2) / 10, rel=0.15)
    assert compare_predictions(labels, first, first)["p_value"] == 1
