"""Two runs side by side on the same rows: compare.html in the first one's evaluations/, from stored predictions."""

from pathlib import Path

import numpy as np

from keras_senti.errors import UserError
from keras_senti.evaluation.metrics import compare_predictions, compute_metrics, find_confusions
from keras_senti.evaluation.predictions import StoredPart, hash_texts, read_parts, read_texts
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
from keras_senti.reports.report import name_run
from keras_senti.reports.rows import SIGNIFICANT, describe_chance, format_p
from keras_senti.storage import files, run_folder

SHOWN_ROWS = 10  # that one run alone has right
SHOWN_CLASSES = 20
COLORS = ("--c0", "--c3")


def compare_runs(first_dir, second_dir) -> tuple[Path, str]:
    """Writes compare.html and comparison.json into the first run's evaluations/compare-<second>-<time>/.

    They are compared on the test part if both have scored it, else on the validation part. The rows must be the same
    and in the same order: equal texts and labels. The lines they come from may differ, as those of a copied file do.

    Returns: (folder, a summary for the terminal).
    Raises:
        UserError: if the rows are not the same (saying what differs), or a file is missing or damaged.
    """
    dirs = [Path(first_dir), Path(second_dir)]
    class_names = _check_classes(dirs)
    parts = [read_parts(run_dir / "predictions.csv", class_names) for run_dir in dirs]
    part = "test" if all("test" in found for found in parts) else "validation"
    first, second = (found[part] for found in parts)
    _check_rows(dirs, first, second, class_names)
    labels, probabilities = first.labels, (first.probabilities, second.probabilities)
    metrics = [compute_metrics(labels, p, class_names) for p in probabilities]
    found = compare_predictions(labels, *probabilities)
    names = [name_run(run_dir) for run_dir in dirs]
    right = [p.argmax(axis=1) == labels for p in probabilities]
    only = [_find_surest(right[i] & ~right[1 - i], probabilities[i]) for i in (0, 1)]
    shown = first.rows[np.concatenate(only)]
    texts = read_texts(dirs[0] / "predictions.csv", "text", first.rows, shown).shown
    verdict, detail = write_comparison(metrics, found, f"texts of the {part} part")
    systems = [(f"{letter}: {name}", m) for letter, name, m in zip("AB", names, metrics)]
    lettered = list(zip("AB", metrics))
    tiles = [
        (f"{metrics[0]['accuracy']:.1%}", f"accuracy of A: {names[0]}"),
        (f"{metrics[1]['accuracy']:.1%}", f"accuracy of B: {names[1]}"),
        (f"{found['only_first']:,}", "texts that only A has right"),
        (f"{found['only_second']:,}", "texts that only B has right"),
    ]
    page = make_page(
        f"{names[0]} and {names[1]}",
        make_head(f"A: {names[0]} · B: {names[1]} · {part} part", verdict, detail, tiles),
        make_section(
            "Which is better?",
            _draw_scores(systems, found),
            _draw_together(right, found),
            _draw_classes(labels, probabilities, class_names),
        ),
        make_section(
            "What does each take for what, and how sure is it?",
            *(_draw_matrix(letter, m, class_names) for letter, m in zip("AB", metrics)),
            _draw_confidence(labels, probabilities, metrics),
        ),
        *(
            make_section(
                f"Only {'AB'[i]} is right",
                _draw_rows(i, only[i], first, probabilities, class_names, texts, found[key]),
            )
            for i, key in enumerate(("only_first", "only_second"))
        ),
        make_section("All numbers", draw_numbers(f"texts of the {part} part", lettered, lettered)),
    )
    folder = run_folder.create_stamped_dir(dirs[0] / "evaluations", f"compare-{dirs[1].resolve().name}-")
    files.write_text(folder / "compare.html", page)
    result = {"runs": names, "part": part, "first": metrics[0], "second": metrics[1], "difference": found}
    files.write_json(folder / "comparison.json", result)
    return folder, f"A: {names[0]}\nB: {names[1]}\n{verdict}\n{detail}"


def _check_classes(dirs: list[Path]) -> tuple[str, ...]:
    """Returns the class names, in the order of the first run."""
    first, second = (tuple(files.read_json(run_dir / "class_names.json")) for run_dir in dirs)
    if set(first) != set(second):
        raise UserError(
            f"--compare: {dirs[0]} has the classes {', '.join(first)}, but {dirs[1]} has {', '.join(second)}. Expected "
            "two runs with the same classes; data.label_map can translate labels."
        )
    return first


def _check_rows(dirs: list[Path], first: StoredPart, second: StoredPart, class_names):
    what, remedy = f"--compare: the {first.name} parts differ", "Expected runs of the same data and the same data.seed."
    if len(first.rows) != len(second.rows):
        counts = f"{dirs[0]} has {len(first.rows):,} rows, {dirs[1]} has {len(second.rows):,}"
        raise UserError(f"{what}: {counts}. {remedy}")
    hashes = [hash_texts(run_dir / "predictions.csv", part.rows) for run_dir, part in zip(dirs, (first, second))]
    for name, differs in (("text", hashes[0] != hashes[1]), ("label", first.labels != second.labels)):
        if differs.any():
            row = int(differs.argmax())
            lines = f"line {first.lines[row]:,} of the data there, line {second.lines[row]:,} here"
            if name == "label":
                lines = f"{class_names[first.labels[row]]} there, {class_names[second.labels[row]]} here"
            raise UserError(
                f"{what}: {differs.sum():,} of {len(differs):,} rows of {dirs[1]} have another {name} than those of "
                f"{dirs[0]}, the first of them row {row + 1:,} ({lines}). {remedy}"
            )


def _find_surest(wanted: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the indices of at most SHOWN_ROWS of the wanted rows (bool), those with the highest probability first."""
    rows = np.flatnonzero(wanted)
    return rows[np.argsort(-probabilities.max(axis=1)[rows], kind="stable")[:SHOWN_ROWS]]


def write_comparison(metrics: list[dict], found: dict, what: str) -> tuple[str, str]:
    """Returns which of two models is better in one sentence, and how sure that is; plain text.

    Args:
        metrics: of A and B, see `metrics.compute_metrics`. found: of `metrics.compare_predictions`.
    """
    rows, (first, second) = metrics[0]["rows"], (m["accuracy"] for m in metrics)
    points, p_value = abs(found["accuracy_difference"]) * 100, found["p_value"]
    scores = f"On the same {rows:,} {what}, A puts {first:.1%} into the right class and B {second:.1%}"
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


def _draw_scores(systems, found: dict) -> str:
    difference = found["accuracy_difference"]
    better = "Neither is" if found["p_value"] >= SIGNIFICANT else f"{'B' if difference > 0 else 'A'} is"
    return make_card(
        f"{better} better in accuracy by more than chance",
        draw_systems([(name, metrics, color) for (name, metrics), color in zip(systems, COLORS)]),
        "Thin lines are 95% intervals of each alone. As both see the same texts, their difference is known better than "
        "that: see the sentence at the top.",
    )


def _draw_together(right: list[np.ndarray], found: dict) -> str:
    rows = len(right[0])
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


def _draw_classes(labels: np.ndarray, probabilities, class_names) -> str:
    bars, tests = [], []
    for i, name in enumerate(class_names):
        rows = labels == i
        if rows.any():
            found = compare_predictions(labels[rows], *(p[rows] for p in probabilities))
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


def _draw_matrix(letter: str, metrics: dict, class_names) -> str:
    return make_card(
        f"{letter}: {metrics['accuracy']:.1%} right",
        draw_matrix(find_confusions(metrics), class_names),
        f"Blue is right, orange is wrong; shares are of the true class. {metrics['rows']:,} texts.",
    )


def _draw_confidence(labels: np.ndarray, probabilities, metrics: list[dict]) -> str:
    errors = [m["calibration_error"] for m in metrics]
    return make_card(
        f"On average the confidence is off by {errors[0]:.1%} in A and {errors[1]:.1%} in B",
        draw_reliability(labels, zip("AB", COLORS, probabilities)),
        "Texts with similar confidence make one point; on the dashed line the confidence is true, below it the model "
        f"is too sure. Vertical lines are 95% intervals. {len(labels):,} texts.",
    )


def _draw_rows(i: int, rows: np.ndarray, part: StoredPart, probabilities, class_names, texts: dict, count: int) -> str:
    if not count:
        return make_card(f"There is no text that only {'AB'[i]} has right", "", wide=True)
    drawn = []
    for row in rows:
        says = []
        for letter, p in zip("AB", probabilities):
            label = p[row].argmax()
            says.append(f"{letter} says <b>{escape(class_names[label])}</b> ({p[row, label]:.1%} sure)")
        head = f"{', '.join(says)}, labelled <b>{escape(class_names[part.labels[row]])}</b> · line {part.lines[row]:,}"
        drawn.append(draw_text(texts[int(part.rows[row])], head))
    return make_card(
        f"The {len(rows)} of them that {'AB'[i]} is surest of, out of {count:,}",
        f'<div class="texts">{"".join(drawn)}</div>',
        wide=True,
    )
