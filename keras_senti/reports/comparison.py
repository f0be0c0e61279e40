"""Two runs side by side on the same rows: which is better in words, and the page that shows it."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from keras_senti.errors import UserError
from keras_senti.evaluation.metrics import compare_predictions, compute_metrics
from keras_senti.evaluation.predictions import ScoredPart
from keras_senti.evaluation.result import Result
from keras_senti.reports.cards import draw_numbers, draw_reliability, draw_systems
from keras_senti.reports.page import (
    Bar,
    draw_bars,
    draw_differences,
    draw_matrix,
    draw_text,
    escape,
    make_card,
    make_head,
    make_page,
    make_section,
)
from keras_senti.reports.rows import SIGNIFICANT, describe_chance, find_surest, format_p, look_at

SHOWN_ROWS = 10  # that one run alone has right
SHOWN_CLASSES = 20
COLORS = ("--c0", "--c3")


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B, on the same rows.

    names: of the runs. part_name: of the part. parts: what A and B say of it, their classes in the order of
    class_names.
    """

    names: tuple[str, str]
    class_names: tuple[str, ...]
    part_name: str
    parts: tuple[ScoredPart, ScoredPart]

    @property
    def labels(self) -> np.ndarray:
        return self.parts[0].labels

    @property
    def probabilities(self) -> list[np.ndarray]:
        return [part.probabilities for part in self.parts]

    @cached_property
    def metrics(self) -> list[dict]:
        """Of A and B, see `metrics.compute_metrics`."""
        return [compute_metrics(self.labels, p, self.class_names) for p in self.probabilities]

    @cached_property
    def difference(self) -> dict:
        """See `metrics.compare_predictions`."""
        return compare_predictions(self.labels, *self.probabilities)

    def describe(self) -> dict:
        """Returns the content of comparison.json."""
        first, second = self.metrics
        runs, part = list(self.names), self.part_name
        return {"runs": runs, "part": part, "first": first, "second": second, "difference": self.difference}


def compare_results(results: tuple[Result, Result], names: tuple[str, str]) -> Comparison:
    """Puts two runs beside each other on the test part if both have scored it, else on the validation part.

    The rows must be the same and in the same order: equal texts and labels. The lines they come from may differ, as
    those of a copied file do.

    Raises:
        UserError: if the classes or the rows are not the same, saying what differs.
    """
    first, second = (result.class_names for result in results)
    if set(first) != set(second):
        raise UserError(
            f"--compare: {names[0]} has the classes {', '.join(first)}, but {names[1]} has {', '.join(second)}. "
            "Expected two runs with the same classes; data.label_map can translate labels."
        )
    part_name = "test" if all("test" in result.parts for result in results) else "validation"
    part = results[1].parts[part_name]
    places = [second.index(name) for name in first]
    part = replace(part, labels=np.argsort(places)[part.labels], probabilities=part.probabilities[:, places])
    compared = Comparison(names, first, part_name, (results[0].parts[part_name], part))
    _check_rows(compared)
    return compared


def _check_rows(compared: Comparison):
    first, second = compared.parts
    a, b = compared.names
    what = f"--compare: the {compared.part_name} parts differ"
    remedy = "Expected runs of the same data and the same data.seed."
    if len(first.labels) != len(second.labels):
        raise UserError(f"{what}: {a} has {len(first.labels):,} rows, {b} has {len(second.labels):,}. {remedy}")
    texts = np.fromiter((x != y for x, y in zip(first.texts, second.texts)), bool, len(first.labels))
    for name, differs in (("text", texts), ("label", first.labels != second.labels)):
        if differs.any():
            row = int(differs.argmax())
            where = f"line {first.lines[row]:,} of the data there, line {second.lines[row]:,} here"
            if name == "label":
                where = " there, ".join(compared.class_names[part.labels[row]] for part in compared.parts) + " here"
            raise UserError(
                f"{what}: {differs.sum():,} of {len(differs):,} rows of {b} have another {name} than those of {a}, "
                f"the first of them row {row + 1:,} ({where}). {remedy}"
            )


def draw_comparison(compared: Comparison) -> str:
    """Returns the page of two runs."""
    (first, second), found, lettered = compared.names, compared.difference, list(zip("AB", compared.metrics))
    named = zip("AB", compared.names, compared.metrics)
    tiles = [(f"{m['accuracy']:.1%}", f"accuracy of {letter}: {name}") for letter, name, m in named]
    only = zip("AB", (found["only_first"], found["only_second"]))
    tiles += [(f"{rows:,}", f"texts that only {letter} has right") for letter, rows in only]
    title = f"A: {first} · B: {second} · {compared.part_name} part"
    return make_page(
        f"{first} and {second}",
        make_head(title, *write_comparison(compared), tiles),
        make_section("Which is better?", _draw_scores(compared), _draw_together(compared), _draw_classes(compared)),
        make_section(
            "What does each take for what, and how sure is it?",
            *(_draw_matrix(letter, m) for letter, m in lettered),
            _draw_confidence(compared),
        ),
        *_draw_rows(compared),
        make_section("All numbers", draw_numbers(f"texts of the {compared.part_name} part", lettered, lettered)),
    )


def write_comparison(compared: Comparison) -> tuple[str, str]:
    """Returns which of two models is better in one sentence, and how sure that is; plain text."""
    found, (first, second) = compared.difference, (m["accuracy"] for m in compared.metrics)
    points, p_value = abs(found["accuracy_difference"]) * 100, found["p_value"]
    what = f"{len(compared.labels):,} texts of the {compared.part_name} part"
    scores = f"On the same {what}, A puts {first:.1%} into the right class and B {second:.1%}"
    low, high = (100 * edge for edge in found["accuracy_difference_interval"])
    detail = (
        f"B minus A: {100 * found['accuracy_difference']:+.1f} percentage points of accuracy (95% interval "
        f"{low:+.1f} to {high:+.1f}). Only A is right in {found['only_first']:,} texts, only B in "
        f"{found['only_second']:,}: by McNemar's test {format_p(p_value)}."
    )
    if not found["accuracy_difference"]:
        return f"{scores}: no difference.", detail
    if p_value >= SIGNIFICANT:
        return f"{scores}: {describe_chance(p_value)}, so neither can be called the better one.", detail
    better = "B" if second > first else "A"
    return f"{scores}: {better} is better by {points:.1f} percentage points, {describe_chance(p_value)}.", detail


def _draw_scores(compared: Comparison) -> str:
    found, named = compared.difference, zip("AB", compared.names, compared.metrics, COLORS)
    better = (
        "Neither is" if found["p_value"] >= SIGNIFICANT else f"{'B' if found['accuracy_difference'] > 0 else 'A'} is"
    )
    return make_card(
        f"{better} better in accuracy by more than chance",
        draw_systems([(f"{letter}: {name}", metrics, color) for letter, name, metrics, color in named]),
        "Thin lines are 95% intervals of each alone. As both see the same texts, their difference is known better than "
        "that: see the sentence at the top.",
    )


def _draw_together(compared: Comparison) -> str:
    right, found, rows = [part.right for part in compared.parts], compared.difference, len(compared.labels)
    counts = {
        "both right": ((right[0] & right[1]).sum(), "--c7"),
        "only A right": (found["only_first"], COLORS[0]),
        "only B right": (found["only_second"], COLORS[1]),
        "both wrong": ((~right[0] & ~right[1]).sum(), "--wrong"),
    }
    bars = [Bar(name, count / rows, f"{count:,}", None, color) for name, (count, color) in counts.items()]
    either = (right[0] | right[1]).mean()
    return make_card(
        f"One of the two is right in {either:.1%} of the texts",
        draw_bars(bars),
        f"{rows:,} texts. Which is better shows in those that one of them alone has right; many of both kinds mean "
        "that the two have learned different things.",
    )


def _draw_classes(compared: Comparison) -> str:
    bars, tests = [], []
    for i, name in enumerate(compared.class_names):
        rows = compared.labels == i
        if rows.any():
            found = compare_predictions(compared.labels[rows], *(p[rows] for p in compared.probabilities))
            difference = found["accuracy_difference"]
            color = COLORS[int(difference > 0)]
            bars.append(Bar(name, difference, f"of {rows.sum():,}", found["accuracy_difference_interval"], color))
            tests.append((found["p_value"], name, difference))
    most = max((abs(edge) for bar in bars for edge in bar.interval), default=0.0)
    scale = next(size for size in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if most <= size)
    # Several tests: one of them is below 0.05 by chance sooner than a single one (Bonferroni).
    p_value, name, difference = min(tests)
    shown = sorted(bars, key=lambda bar: -abs(bar.value))[:SHOWN_CLASSES] if len(bars) > SHOWN_CLASSES else bars
    left_out = f" Of {len(bars)} classes, those that differ most." if len(bars) > SHOWN_CLASSES else ""
    finding = "Of no class does one find more than the other by more than chance"
    if p_value * len(tests) < SIGNIFICANT:
        finding = f"{'B' if difference > 0 else 'A'} finds more of the “{escape(name)}” texts"
    return make_card(
        finding,
        draw_differences(shown, scale),
        "Recall of B minus recall of A in percentage points: bars to the right are better in B. A track goes from "
        f"{-100 * scale:.0f} to {100 * scale:+.0f}; thin lines are 95% intervals.{left_out}",
    )


def _draw_matrix(letter: str, metrics: dict) -> str:
    return make_card(
        f"{letter}: {metrics['accuracy']:.1%} right",
        draw_matrix(metrics),
        f"Blue is right, orange is wrong; shares are of the true class. {metrics['rows']:,} texts.",
    )


def _draw_confidence(compared: Comparison) -> str:
    errors = [m["calibration_error"] for m in compared.metrics]
    return make_card(
        f"On average the confidence is off by {errors[0]:.1%} in A and {errors[1]:.1%} in B",
        draw_reliability(compared.labels, zip("AB", COLORS, compared.probabilities)),
        "Texts with similar confidence make one point; on the dashed line the confidence is true, below it the model "
        f"is too sure. Vertical lines are 95% intervals. {len(compared.labels):,} texts.",
    )


def _draw_rows(compared: Comparison) -> list[str]:
    """Returns a section about the texts that only A has right, and one of B."""
    right = [part.right for part in compared.parts]
    only = [right[0] & ~right[1], right[1] & ~right[0]]
    shown = [find_surest(wanted, p, SHOWN_ROWS) for wanted, p in zip(only, compared.probabilities)]
    _, texts = look_at(compared.parts[0].texts, np.concatenate(shown))
    sections = []
    for letter, wanted, rows in zip("AB", only, shown):
        finding, body = f"There is no text that only {letter} has right", ""
        if len(rows):
            finding = f"The {len(rows)} of them that {letter} is surest of, out of {wanted.sum():,}"
            drawn = (draw_text(texts[row], _describe_row(compared, row)) for row in rows.tolist())
            body = f'<div class="texts">{"".join(drawn)}</div>'
        sections.append(make_section(f"Only {letter} is right", make_card(finding, body, wide=True)))
    return sections


def _describe_row(compared: Comparison, row: int) -> str:
    names, part, says = compared.class_names, compared.parts[0], []
    for letter, p in zip("AB", compared.probabilities):
        label = p[row].argmax()
        says.append(f"{letter} says <b>{escape(names[label])}</b> ({p[row, label]:.1%} sure)")
    return f"{', '.join(says)}, labelled <b>{escape(names[part.labels[row]])}</b> · line {part.lines[row]:,}"
