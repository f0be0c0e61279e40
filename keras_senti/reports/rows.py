"""What a report is about: the rows of a part, what a model and simple ones say of them, and which of them to show."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from keras_senti.evaluation.metrics import find_confusions
from keras_senti.evaluation.predictions import ScoredPart

SIGNIFICANT = 0.05  # a p-value below it counts as more than chance
FEW_ROWS = 20  # of fewer nothing in general can be said
SHOWN_TEXTS = 20


def find_surest(wanted: np.ndarray, probabilities: np.ndarray, most: int) -> np.ndarray:
    """Returns the indices of at most so many of the wanted rows (bool), those with the highest probability first."""
    rows = np.flatnonzero(wanted)
    return rows[np.argsort(-probabilities.max(axis=1)[rows], kind="stable")[:most]]


@dataclass(frozen=True)
class ReportInput:
    """What a page is about: the rows of a part, and what a model says of them.

    title: which model, which rows. what: the rows in words, after a number: "texts of the test part". metrics: of
    `calibration.compute_scores`; None without labels. fitted_on: in words, what their calibration was fitted on.
    note: what else is to be known at once. line_word: what the part's lines are: "line" 17. categories: see
    `predictions.read_categories`. color_words: from (texts, predicted classes: (texts,) int) to the pieces of each text
    in order, a word with the space before it, as [(piece, weight), ...]: how much it speaks for the predicted class.
    """

    title: str
    what: str
    class_names: tuple[str, ...]
    part: ScoredPart
    metrics: dict | None
    fitted_on: str
    note: str = ""
    line_word: str = "line"
    categories: dict = field(default_factory=dict)
    color_words: Callable | None = None

    @cached_property
    def shown(self) -> np.ndarray:
        """Indices of the SHOWN_TEXTS surest mistakes, surest first; without labels of the least sure rows."""
        if self.metrics is None:
            return np.argsort(self.part.probabilities.max(axis=1), kind="stable")[:SHOWN_TEXTS]
        return find_surest(~self.part.right, self.part.probabilities, SHOWN_TEXTS)

    @cached_property
    def texts(self) -> tuple[np.ndarray, dict[int, str]]:
        """(rows,) lengths in characters, and the shown texts by index."""
        return look_at(self.part.texts, self.shown)


@dataclass(frozen=True)
class BaselineResult:
    """A simple model on the same rows.

    metrics: of `metrics.compute_metrics`. difference, p_value: how much more accurate ours is, and how often chance
    makes such a difference. note: why its score means little on these rows, if so.
    """

    name: str
    metrics: dict
    difference: float
    p_value: float
    note: str = ""


def look_at(texts, shown: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Returns the length of each text in characters, and the shown ones by index: in one pass over all of them."""
    lengths, found, wanted = np.empty(len(texts), np.int64), {}, set(shown.tolist())
    for index, text in enumerate(texts):
        lengths[index] = len(text)
        if index in wanted:
            found[index] = text
    return lengths, found


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
