"""Two runs on the same rows: what the page says, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from test_report import NAMES, make_predictions, read_shown, write_run

from keras_senti.errors import UserError
from keras_senti.evaluation.predictions import ScoredPart
from keras_senti.reports.comparison import Comparison, write_comparison
from keras_senti.tasks import evaluate


def compare_runs(*run_dirs):
    for run_dir in run_dirs:
        manifest = json.loads((run_dir / "manifest.json").read_text())
        (run_dir / "manifest.json").write_text(json.dumps(manifest | {"status": "finished"}))
    return evaluate.compare_stored(*run_dirs)


LABELS, FIRST = make_predictions(300, right=0.9)
_, SECOND = make_predictions(300, right=0.5, seed=1)


def test_the_better_one_is_named_only_if_it_is_not_chance():
    labels = np.zeros(100, int)
    right, wrong = np.array([0.8, 0.2]), np.array([0.3, 0.7])
    first = np.array([right] * 60 + [wrong] * 40)
    for count, expected in (
        (80, "A puts 60.0% into the right class and B 80.0%: B is better by 20.0 percentage points, a difference too"),
        (62, "a difference that chance may explain, so neither can be called the better one."),
        (60, "and B 60.0%: no difference."),
    ):
        second = np.array([right] * count + [wrong] * (100 - count))
        parts = tuple(ScoredPart([], labels, labels, p) for p in (first, second))
        verdict, detail = write_comparison(Comparison(("a", "b"), ("bad", "good"), "test", parts))
        assert verdict.startswith("On the same 100 texts of the test part, A puts 60.0%") and expected in verdict
        assert f"B minus A: {count - 60:+.1f} percentage points" in detail and f"only B in {count - 60}" in detail


def test_two_runs_make_a_page_with_the_rows_that_one_alone_has_right(tmp_path):
    first, second = write_run(tmp_path / "a", LABELS, FIRST), write_run(tmp_path / "b", LABELS, SECOND)
    folder, summary = compare_runs(first, second)
    assert folder.parent == first / "evaluations" and folder.name.startswith("compare-b-") and "A is better" in summary
    shown = read_shown((folder / "compare.html").read_text(encoding="utf-8"))
    result = json.loads((folder / "comparison.json").read_text())
    right = [p.argmax(axis=1) == LABELS for p in (FIRST, SECOND)]
    assert result["difference"]["only_first"] == (right[0] & ~right[1]).sum()
    rows = np.flatnonzero(right[0] & ~right[1])
    surest = rows[FIRST.max(axis=1)[rows].argmax()]
    assert f"line {surest + 2} text number {surest} word" in shown
    assert f"The 10 of them that A is surest of, out of {len(rows)}" in shown and "McNemar's test p < 0.001" in shown
    assert not (second / "evaluations").exists()


def test_the_order_of_classes_and_a_test_part_that_one_lacks_do_not_matter(tmp_path):
    first = write_run(tmp_path / "a", LABELS, FIRST)
    second = write_run(tmp_path / "b", 2 - LABELS, FIRST[:, ::-1], NAMES[::-1])
    test = write_run(tmp_path / "c", LABELS, SECOND, part="test") / "predictions.csv"
    with open(second / "predictions.csv", "a") as file:
        columns = ["part", "line", "text", "label", "predicted", *(f"probability_{name}" for name in NAMES[::-1])]
        file.write(pd.read_csv(test)[columns].to_csv(index=False, header=False))
    folder, summary = compare_runs(first, second)
    assert "texts of the validation part" in summary and "no difference" in summary
    assert "There is no text that only A has right" in read_shown((folder / "compare.html").read_text())


def test_of_many_classes_those_that_differ_most_are_drawn(tmp_path):
    names = [f"class {i}" for i in range(30)]
    labels, probabilities = make_predictions(600, 30)
    other = np.roll(probabilities, 1, axis=1)
    other[labels == 7] = probabilities[labels == 7]  # the one class of which both find the same
    first, second = (write_run(tmp_path / n, labels, p, names) for n, p in (("a", probabilities), ("b", other)))
    page = (compare_runs(first, second)[0] / "compare.html").read_text()
    before = page[: page.index("Recall of B minus recall of A")]
    card = before[before.rindex("<h3>") :]
    assert card.count('class="bar"') == 20 and ">class 7<" not in card
    assert "Of 30 classes, those that differ most." in page


def test_other_rows_are_refused_and_the_difference_is_named(tmp_path):
    first = write_run(tmp_path / "a", LABELS, FIRST)
    texts = [f"text number {i} " + "word " * (i % 50) for i in range(300)]
    texts[7] = "another"
    labels = LABELS.copy()
    labels[9] = (labels[9] + 1) % 3
    for name, content, message in (
        ("rows", (LABELS[:200], FIRST[:200]), r"a has 300 rows, .*rows has 200\. Expected runs of the same data"),
        (
            "texts",
            (LABELS, FIRST, NAMES, texts),
            r"1 of 300 rows of .*texts have another text .* row 8 \(line 9 of the",
        ),
        ("labels", (labels, FIRST), rf"another label .* row 10 \({NAMES[LABELS[9]]} there, {NAMES[labels[9]]} here\)"),
        (
            "names",
            (LABELS, FIRST, ("a", "b", "c")),
            r"has the classes negative, .* has a, b, c\. Expected two runs with",
        ),
    ):
        with pytest.raises(UserError, match=message):
            compare_runs(first, write_run(tmp_path / name, *content))
    assert not (first / "evaluations").exists()


def test_a_finished_run_compared_with_itself_and_what_has_no_predictions(trained_run, tmp_path):
    folder, summary = evaluate.compare_stored(trained_run, trained_run)
    assert "texts of the test part" in summary and "no difference" in summary and (folder / "compare.html").exists()
    copy = shutil.copytree(trained_run, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "status": "failed"}))
    with pytest.raises(UserError, match="this run is 'failed', not 'finished'"):
        evaluate.compare_stored(trained_run, copy)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "config.yaml").write_text("task: language_model\ndata: {source: tweets}\n")
    with pytest.raises(UserError, match="is a language model's, which predicts no classes"):
        evaluate.compare_stored(trained_run, copy)
