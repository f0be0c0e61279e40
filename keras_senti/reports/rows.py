"""What a report is about: rows, what a model says of them, and which of them to show."""

from dataclasses import dataclass

import numpy as np

from keras_senti.evaluation.metrics import find_confusions
from keras_senti.evaluation.predictions import Texts

SIGNIFICANT = 0.05  # a p-value below it counts as more than chance
FEW_ROWS = 20  # of fewer nothing in general can be said
SHOWN_TEXTS = 20
SQUARE = 300  # height of a chart whose axes have the same unit


@dataclass(frozen=True)
class Subject:
    """What a page is about: rows with their predictions.

    title: which model, which rows. what: the rows in words, after a number: "texts of the test part". labels: (rows,)
    int, all -1 if there are none. probabilities: (rows, classes). rows: (rows,) row numbers in the file of predictions.
    lines, line_word: where to find a row of the user's file: "line" 17. texts: see `predictions.Texts`. calibration: of
    `calibration.fit_calibration`, None for an older model. fitted_on: in words, what it was fitted on.
    """

    title: str
    what: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    rows: np.ndarray
    lines: np.ndarray
    line_word: str
    texts: Texts
    calibration: dict | None
    fitted_on: str

    @property
    def right(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1) == self.labels


@dataclass(frozen=True)
class Rival:
    """A simple model on the same rows.

    metrics: of `metrics.compute_metrics`. difference, p_value: how much more accurate ours is, and how often chance
    makes such a difference. paired: whether that is of a test on pairs of predictions; without them it asks for more.
    note: why its score means little on these rows, if so.
    """

    name: str
    metrics: dict
    difference: float
    p_value: float
    paired: bool = True
    note: str = ""


def find_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the indices of the SHOWN_TEXTS wrong rows that the model was surest of, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")[:SHOWN_TEXTS]]


def find_commonest_mistake(metrics: dict) -> tuple[str, str, int]:
    """Returns (true class, class it is taken for, rows)."""
    (true, taken, counts), names = find_confusions(metrics), list(metrics["per_class"])
    wrong = counts * (true != taken)
    first = wrong.argmax()
    return names[true[first]], names[taken[first]], int(wrong[first])


def rank_classes(metrics: dict) -> list[str]:
    """Returns the classes that have rows, the one of which the least are found first."""
    per_class = metrics["per_class"]
    return sorted((name for name in per_class if per_class[name]["rows"]), key=lambda name: per_class[name]["recall"])


def describe_chance(p_value: float) -> str:
    return "a difference too large for chance" if p_value < SIGNIFICANT else "a difference that chance may explain"


def format_p(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
