"""report.html: what it says, what it must never do, and what a browser makes of it."""

import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from keras_senti.errors import UserError
from keras_senti.evaluation import metrics, predictions
from keras_senti.evaluation.calibration import compute_scores, fit_calibration, read_calibration
from keras_senti.evaluation.metrics import Metric, compare_predictions, compute_interval, compute_metrics
from keras_senti.evaluation.result import Result
from keras_senti.export.weights_folder import read_run, write_weights_folder
from keras_senti.reports.charts import MOST_POINTS, Axis, Curve, draw_chart
from keras_senti.reports.page import draw_matrix, draw_text
from keras_senti.reports.report import draw_file_report
from keras_senti.reports.rows import BaselineResult
from keras_senti.reports.verdict import write_verdict
from keras_senti.reports.weakness_cards import draw_categories, draw_lengths
from keras_senti.tasks import evaluate

NAMES = ("negative", "neutral", "positive")


def make_predictions(rows: int, classes: int = 3, right: float = 0.8, seed: int = 0):
    """Returns labels (rows,) and probabilities (rows, classes) that are right about this often."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    aim = np.where(rng.random(rows) < right, labels, rng.integers(classes, size=rows))
    return labels, np.float32(rng.dirichlet(np.ones(classes), rows) * 0.5 + 0.5 * np.eye(classes)[aim])


def write_run(folder, labels, probabilities, names=NAMES, texts=None, part="validation", temperature=None):
    """Writes what a report reads of a run folder, with two baselines: one knows nothing, one half of the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = texts or [f"text number {i} " + "word " * (i % 50) for i in range(len(labels))]
    table = pd.DataFrame({"part": part, "line": np.arange(len(labels)) + 2, "text": texts})
    table["label"] = table["predicted"] = np.array(names, dtype=object)[labels]
    for i, name in enumerate(names):
        table[f"probability_{name}"] = probabilities[:, i]
    table.to_csv(folder / "predictions.csv", index=False, quoting=2)
    uniform = np.full((len(labels), len(names)), 1 / len(names))
    half = np.where(np.arange(len(labels))[:, None] % 2, np.eye(len(names))[labels], uniform)
    beside = {"majority": uniform, "tfidf_logistic_regression": half}
    beside = {
        name: {
            **compute_metrics(labels, p, names),
            "against_this_model": compare_predictions(labels, p, probabilities),
        }
        for name, p in beside.items()
    }
    if part == "validation":
        calibration = fit_calibration(labels, probabilities, [0.9, 0.95])
        calibration |= {"temperature": temperature} if temperature else {}
        (folder / "calibration.json").write_text(json.dumps(calibration))
    calibration = read_calibration(folder / "calibration.json")
    metrics = {part: compute_scores(labels, probabilities, names, calibration)}
    metrics |= {"baselines": beside, "validation_baselines": beside, "baselines_notes": {}, "sampled": {}}
    history = "epoch,loss,macro_f1,val_loss,val_macro_f1\n0,1.0,0.4,0.9,0.5\n1,0.8,0.6,0.85,nan\n2,0.7,0.7,0.8,0.6\n"
    (folder / "history.csv").write_text(history)
    manifest = {"training": {"best_epoch": 3, "epochs_run": 3, "seconds": 2.0}, "versions": {}, "git_commit": None}
    manifest |= {"data": {"rows": {"train": 9}, "sha256": {}}, "parameters": 7, "vocabulary_size": 5, "seeds": {}}
    manifest |= {"device": "1 CPU"}
    (folder / "config.yaml").write_text("train: {monitor: val_macro_f1}\n")
    contents = {"class_names": list(names), "metrics": metrics, "manifest": manifest}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def write_run_report(run, color_words=None):
    return evaluate.write_run_report(run, Result.read(run), color_words)


def write_file_report(folder, name, columns, class_names, labels, probabilities):
    """Writes report.html beside a file's predictions.csv. columns: (of the texts, those that may be categories)."""
    rows, labelled = np.arange(len(labels)), labels >= 0
    texts = predictions.StoredColumn(folder / "predictions.csv", columns[0], rows)
    scores = {}
    if labelled.any():
        scores[name] = compute_metrics(labels[labelled], probabilities[labelled], class_names)
    part = predictions.ScoredPart(texts, rows + 1, labels, probabilities)
    page = draw_file_report(Result(tuple(class_names), {name: part}, scores, None), "some/model", columns[1])
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


def read_shown(page: str) -> str:
    """Returns the text of a page as a person reads it; fails if it holds a tag that could load or run something."""
    shown = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "img", "iframe", "object", "embed", "form", "a"), tag
            assert not [name for name, value in attrs if name.startswith("on") or "url(" in (value or "")]

        def handle_data(self, data):
            shown.append(data)

    Reader().feed(page.split("</style>")[1])
    return " ".join(" ".join(shown).split())


# The verdict


def make_metrics(matrix) -> dict:
    """Metrics of a model that has this confusion matrix over bad and good, and is always 90% sure."""
    pairs = [(i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) for _ in range(count)]
    labels, predicted = np.array(pairs).T
    return compute_metrics(labels, np.array([[0.9, 0.1], [0.1, 0.9]])[predicted], ("bad", "good"))


METRICS = make_metrics([[60, 40], [10, 90]])
BASELINES = [BaselineResult("guessing", make_metrics([[50, 50], [50, 50]]), 0.25, 0.0001)]


def test_the_verdict_says_how_good_against_what_and_where_it_is_bad():
    verdict, detail = write_verdict(METRICS, BASELINES, "texts of the test part")
    assert verdict == (
        "The model puts 75.0% of the 200 texts of the test part into the right class: 25.0 percentage points more than "
        "guessing on the same texts, a difference too large for chance; it is best on “good”, of which it finds 90%, "
        "and worst on “bad” (60%)."
    )
    assert "This model's commonest mistake: “bad” taken for “good”, 40 of 50 mistakes" in detail
    assert "When it says “good”, it is right in 69%" in detail  # 90 of 130
    low, high = METRICS["accuracy_interval"]
    assert f"{low:.1%} to {high:.1%} right answers are to be expected" in detail


@pytest.mark.parametrize(
    "difference,p_value,expected",
    [
        (0.01, 0.3, "1.0 percentage points more than .*, a difference that chance may explain;"),
        (-0.05, 0.001, "5.0 percentage points less than .*, a difference too large for chance;"),
        (0.0001, 1.0, "right class, as many as words"),
    ],
)
def test_the_verdict_does_not_take_chance_for_merit(difference, p_value, expected):
    first = BaselineResult("words", make_metrics([[70, 30], [30, 70]]), difference, p_value)
    verdict, detail = write_verdict(METRICS, [first, *BASELINES], "texts")
    assert re.search(expected, verdict) and " words on the same texts" in verdict
    assert "Other simple models: guessing 50.0%." in detail


def test_the_verdict_names_no_best_class_where_all_are_alike():
    verdict, _ = write_verdict(make_metrics([[88, 12], [12, 88]]), BASELINES, "texts")
    assert verdict.endswith("; of each class it finds 88%.") and "best on" not in verdict


def test_the_verdict_of_few_rows_one_class_and_no_mistake():
    few = write_verdict(make_metrics([[1, 0], [0, 0]]), BASELINES, "texts of a.csv")
    assert few == ("1 of 1 texts of a.csv in the right class: too few to say how good the model is.", "")
    one, _ = write_verdict(make_metrics([[25, 5], [0, 0]]), BASELINES, "texts")
    assert "83.3%" in one and "all are “bad”, so nothing is known of how often it calls other texts that" in one
    perfect, _ = write_verdict(make_metrics([[25, 0], [0, 25]]), BASELINES, "texts")
    assert perfect.endswith("it makes no mistake here.")


def test_a_baseline_whose_score_means_nothing_is_not_the_best_and_none_at_all_is_no_obstacle(tmp_path):
    run = write_run(tmp_path, *make_predictions(100))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["baselines_notes"] = {"tfidf_logistic_regression": "it reads <other> texts"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    shown = read_shown(write_run_report(run).read_text())
    assert "percentage points more than always the train part's commonest class on the same texts" in shown
    assert "TF-IDF + logistic regression: it reads <other> texts." in shown
    (run / "metrics.json").write_text(json.dumps({**metrics, "baselines": {}, "validation_baselines": {}}))
    assert "more than always saying “" in read_shown(write_run_report(run).read_text())


def test_a_report_compares_with_the_linear_model_of_words_and_characters_whoever_is_better(tmp_path):
    labels, probabilities = make_predictions(100)
    run = write_run(tmp_path, labels, probabilities)
    metrics = json.loads((run / "metrics.json").read_text())
    shown = read_shown(write_run_report(run).read_text())  # the best of those that it has
    assert "percentage points more than TF-IDF + logistic regression on the same" in shown
    weaker = np.where(np.arange(100)[:, None] % 3, np.eye(3)[(labels + 1) % 3], np.eye(3)[labels])
    found = compare_predictions(labels, weaker, probabilities)
    rival = {**compute_metrics(labels, weaker, NAMES), "against_this_model": found}
    metrics["validation_baselines"]["words_characters"] = rival
    (run / "metrics.json").write_text(json.dumps(metrics))
    shown, points = read_shown(write_run_report(run).read_text()), 100 * found["accuracy_difference"]
    assert f"{points:.1f} percentage points more than a linear model of words and characters on the same" in shown
    assert "34.0% accuracy of a linear model of words and characters" in shown
    assert f"against {rival['accuracy']:.1%} by a linear model of words and characters: a difference too" in shown
    assert "Other simple models: always the train part's commonest class" in shown


# Pages


@pytest.mark.parametrize(
    "names", ["0 1", "-1 0 1", "1 2 3 4 5", "False True", "01 1", "1.5 1e3", "nan NA", "2020-01-02 x"]
)
def test_class_names_that_look_like_something_else_are_read_back_as_they_are(tmp_path, names):
    names = tuple(names.split())
    labels, probabilities = make_predictions(60, classes=len(names))
    run = write_run(tmp_path, labels, probabilities, names, texts=[f"{i}.0" for i in range(60)])
    part = predictions.read_parts(run / "predictions.csv", names)["validation"]
    np.testing.assert_array_equal(part.labels, labels)
    np.testing.assert_array_equal(part.lines, np.arange(60) + 2)
    shown = read_shown(write_run_report(run).read_text(encoding="utf-8"))
    assert f"{names[labels[0]]}" in shown and list(part.texts)[59] == "59.0"


def test_a_run_gets_the_same_self_contained_page_again(tmp_path):
    run = write_run(tmp_path / "run", *make_predictions(400), temperature=1.5)
    page = write_run_report(run).read_text(encoding="utf-8")
    shown = read_shown(page)
    for words in (
        "The model puts", "Thin lines are 95% intervals", "The commonest mistake", "scaled (temperature 1.50)",
        "these very texts", "ranks the two rightly", "is the hardest class", "By length", "it was surest of",
        "On validation texts the loss is best in epoch 3 of 3", "All numbers",
    ):  # fmt: skip
        assert words in shown, words
    assert "http" not in page.replace("http-equiv", "") and "@import" not in page
    assert write_run_report(run).read_text(encoding="utf-8") == page


def test_a_run_from_before_a_metric_was_added_is_drawn_without_it(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", *make_predictions(100))
    added = Metric("hits", "hits", lambda hits, true, predicted: hits.sum(axis=1), hint="texts that are right")
    monkeypatch.setitem(metrics.METRICS, "hits", added)
    assert "texts that are right" not in write_run_report(run).read_text(encoding="utf-8")


def test_the_validation_part_flatters_only_where_an_epoch_was_chosen_by_it(tmp_path):
    run = write_run(tmp_path, *make_predictions(400))
    assert "The best epoch was chosen on these very texts" in read_shown(write_run_report(run).read_text())
    (run / "config.yaml").write_text("train: {monitor: none}\n")
    shown = read_shown(write_run_report(run).read_text())
    assert "none was chosen on these texts" in shown and "The best epoch was chosen" not in shown


def test_a_scored_test_part_is_reported_with_thresholds_that_were_chosen_on_validation(tmp_path):
    labels, probabilities = np.arange(100) % 2, np.full((100, 2), 0.5)
    probabilities[:, 0] = np.where(labels == 0, 0.9, 0.1)
    probabilities[:10, 0] = np.where(labels[:10] == 0, 0.3, 0.7)  # wrong, 70% sure
    write_run(tmp_path, labels, np.c_[probabilities[:, 0], 1 - probabilities[:, 0]], ("bad", "good"))
    validation = (tmp_path / "predictions.csv").read_text()
    probabilities[:20, 0] = np.where(labels[:20] == 0, 0.05, 0.95)  # on test, the surest are wrong
    run = write_run(tmp_path, labels, np.c_[probabilities[:, 0], 1 - probabilities[:, 0]], ("bad", "good"), part="test")
    test = (run / "predictions.csv").read_text().split("\n", 1)[1]
    (run / "predictions.csv").write_text(validation + test)
    shown = read_shown(write_run_report(run).read_text())
    assert "test part" in shown and "chosen on the validation part" in shown
    assert "at least 90.0% sure, it answers 100% of the texts and is right in 80.0%" in shown


NASTY = "<script>alert(1)</script> \"><img src=x onerror=alert(2)> '&amp; \x00\x07 </style></p> 好"


def test_whatever_texts_classes_and_columns_hold_is_shown_and_not_run(tmp_path):
    labels, probabilities = make_predictions(60)
    names = ("<b>bad</b>", "so & so", "a" * 200)
    run = write_run(tmp_path / "run", labels, probabilities, names, [NASTY.replace("\x00", "")] * 60)
    shown = read_shown(write_run_report(run).read_text(encoding="utf-8"))
    assert "<script>alert(1)</script> \"><img src=x onerror=alert(2)> '&amp;" in shown and "<b>bad</b>" in shown
    table = pd.DataFrame({"text": "t", NASTY: np.where(np.arange(60) < 30, "<i>", "</td>")})
    table.to_csv(tmp_path / "predictions.csv", index=False)
    page = write_file_report(tmp_path, NASTY, ("text", [NASTY]), names, labels, probabilities).read_text()
    assert "column “<script>alert(1)</script>" in read_shown(page) and "\x00" not in page


def test_a_text_is_cut_and_its_words_are_coloured_by_their_weights():
    assert len(draw_text("x" * 10_000, "")) < 1000 and "(no text)" in draw_text("  ", "")
    drawn = draw_text("not good", "head", [("not", 0.5), (" <good>", -1.0)])
    assert re.findall(r"--(\w+)-rgb\),([\d.]+)", drawn) == [("right", "0.33"), ("wrong", "0.65")]
    assert "not</span> <span" in drawn and "&lt;good&gt;" in drawn
    assert len(draw_text("", "", [("long word ", 0.0)] * 10_000)) < 10_000


def test_a_run_report_asks_once_for_the_weights_of_the_errors_that_it_shows(tmp_path):
    labels, probabilities = make_predictions(100)
    asked = []

    def color_words(texts, predicted):
        asked.append((texts, predicted))
        return [[(text, 1.0)] for text in texts]

    run = write_run(tmp_path, labels, probabilities)
    assert "Blue words speak for" not in write_run_report(run).read_text()
    page = write_run_report(run, color_words).read_text()
    ((texts, predicted),) = asked
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    surest = wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")]
    assert [int(text.split()[2]) for text in texts] == surest[: len(texts)].tolist()
    assert predicted.tolist() == probabilities[surest[: len(texts)]].argmax(axis=1).tolist()
    assert page.count("--right-rgb),0.65)") == len(texts) and "Blue words speak for" in page
    assert write_run_report(run).read_text() == page and len(asked) == 1


def make_file(tmp_path, labels, probabilities, **columns):
    pd.DataFrame({"text": [f"text {i}" for i in range(len(labels))], **columns}).to_csv(
        tmp_path / "predictions.csv", index=False
    )
    columns = "text", list(columns)
    path = write_file_report(tmp_path, "a.csv", columns, NAMES, np.array(labels), probabilities)
    return read_shown(path.read_text())


@pytest.mark.parametrize("label", [0, 1, -1])
def test_one_row_is_enough_for_a_page(tmp_path, label):
    shown = make_file(tmp_path, [label], np.array([[0.7, 0.2, 0.1]]), channel=["web"])
    expected = {0: "1 of 1 texts", 1: "0 of 1 texts", -1: "calls the one text of this file “negative” (70.0% sure)"}
    assert expected[label] in shown


def test_without_labels_there_are_shares_and_unsure_texts_but_no_accuracy(tmp_path):
    labels, probabilities = make_predictions(90)
    channel = np.array(["web", "app", ""])[np.arange(90) % 3]
    shown = make_file(tmp_path, np.full(90, -1), probabilities, channel=channel)
    assert "as there are no labels" in shown and "least sure of" in shown and "accuracy" not in shown
    assert "Predicted classes by column “channel”" in shown and "(empty)" in shown
    unsure = probabilities.max(axis=1).argmin()
    assert f"row {unsure + 1} text {unsure} " in shown


def test_a_single_class_rows_without_label_and_no_mistake(tmp_path):
    _, probabilities = make_predictions(50)
    shown = make_file(tmp_path, [0] * 30 + [-1] * 20, probabilities)
    assert "all are “negative”" in shown and "20 more rows have no label" in shown and "which is which" not in shown
    labels = np.arange(50) % 3
    shown = make_file(tmp_path, labels, np.eye(3)[labels])
    assert "makes no mistake" in shown and "No text is in the wrong class" in shown and "surest" not in shown


def test_columns_with_few_values_are_categories_and_no_others(tmp_path):
    labels, probabilities = make_predictions(300)
    wrong = probabilities.argmax(axis=1) != labels
    columns = {
        "channel": np.where(wrong, "app", "web"),  # as far from chance as can be
        "coin": np.where(np.arange(300) % 2, "heads", "tails"),
        "id": np.arange(300),
        "constant": "x",
        "stars": np.arange(300) % 13,
    }
    shown = make_file(tmp_path, labels, probabilities, **columns)
    assert "By column “channel”: worst at “app” (0% right), best at “web” (100%)" in shown
    assert "By column “coin”: differences that chance may explain" in shown
    assert not [name for name in ("id", "constant", "stars") if f"column “{name}”" in shown]


def test_lengths_are_cut_into_ranges_that_hold_every_row():
    right = np.arange(600) % 2 == 0
    shown = re.findall(r"<span>([\d, to]+) characters</span>.*?of ([\d,]+)<", draw_lengths(np.arange(1, 601), right))
    assert shown[0] == ("1 to 100", "100") and shown[-1][0] == "500 to 600" or len(shown) == 6
    assert sum(int(rows) for _, rows in shown) == 600
    assert "7 characters" in draw_lengths(np.full(30, 7), right[:30])
    assert (
        draw_categories("c", ["a", ""], np.array([0, 1, 1]), np.array([True, False, False])).count('class="bar"') == 2
    )


def test_many_classes_get_the_commonest_mistakes_instead_of_a_matrix(tmp_path):
    labels, probabilities = make_predictions(2000, 40)
    run = write_run(tmp_path, labels, probabilities, [f"class {i}" for i in range(40)])
    page = write_run_report(run).read_text()
    assert "Of 40 classes, the 6 that are hardest to find" in read_shown(page) and 'class="matrix"' not in page
    without_labels = write_file_report(
        run, "a.csv", ("text", []), [f"class {i}" for i in range(40)], np.full(2000, -1), probabilities
    )
    page = without_labels.read_text()
    assert "Of 40 classes, the 20 commonest." in read_shown(page) and page.count('class="bar"') == 20
    found = {"per_class": {"a": {}, "b": {}}, "confusion_matrix": [[0, 0], [1, 3]]}
    assert draw_matrix(found).count("<td style") == 4  # a class without rows


def test_25000_rows_take_under_a_minute_and_5_megabytes(tmp_path):
    labels, probabilities = make_predictions(25_000)
    run = write_run(tmp_path, labels, probabilities, texts=["many words " * 100] * 25_000)
    begin = time.perf_counter()
    path = write_run_report(run)
    assert time.perf_counter() - begin < 60 and path.stat().st_size < 300_000


# Parts


def test_a_curve_is_thinned_and_keeps_its_ends_and_what_is_not_finite_is_left_out():
    x = np.linspace(0, 1, 10_000)
    drawn = draw_chart([Curve(x, x**2)], (Axis("x"), Axis("y")), "a curve")
    points = re.search(r'points="([^"]*)"', drawn).group(1).split()
    assert 200 < len(points) <= MOST_POINTS and points[0] == "46.0,228.0" and points[-1] == "318.0,28.0"
    drawn = draw_chart([Curve(np.array([0, 0.5, 1]), np.array([0, np.nan, 1]))], (Axis("x"), Axis("y")), "a curve")
    assert "nan" not in drawn


def test_ticks_are_round_numbers_within_the_axis():
    assert Axis("share").find_ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Axis("epoch", 1, 5, "g", True).find_ticks() == [1, 2, 3, 4, 5]


def test_the_interval_is_wilsons():
    low, high = compute_interval(np.array([8, 0]), np.array([10, 0]))
    assert (low[0], high[0]) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert (low[1], high[1]) == (0, 1)


def test_parts_and_texts_are_read_in_chunks(tmp_path, monkeypatch):
    labels, probabilities = make_predictions(50)
    run = write_run(tmp_path, labels, probabilities)
    (whole,) = predictions.read_parts(run / "predictions.csv", NAMES).values()
    rows = np.array([3, 10, 11, 49])
    texts = predictions.StoredColumn(run / "predictions.csv", "text", rows)
    categories = predictions.read_categories(run / "predictions.csv", ["label", "line"], np.arange(50))
    assert len(texts) == 4 and list(texts)[2] == "text number 11 " + "word " * 11 and list(categories) == ["label"]
    whole_texts, (values, codes) = list(texts), categories["label"]
    assert [values[code] for code in codes] == [NAMES[label] for label in labels]
    monkeypatch.setattr(predictions, "CHUNK_ROWS", 7)
    (chunked,) = predictions.read_parts(run / "predictions.csv", NAMES).values()
    np.testing.assert_array_equal(chunked.probabilities, whole.probabilities)
    np.testing.assert_array_equal(chunked.labels, labels)
    assert list(texts) == whole_texts
    again, _ = predictions.read_categories(run / "predictions.csv", ["label", "line"], np.arange(50))["label"]
    assert again == values
    content = (run / "predictions.csv").read_text().split('"positive"', 1)
    (run / "predictions.csv").write_text('"changed"'.join(content))
    with pytest.raises(
        UserError, match="unknown label 'changed', expected one of negative, neutral, positive. The file"
    ):
        predictions.read_parts(run / "predictions.csv", NAMES)


# The whole way


def test_a_run_and_a_predicted_file_have_a_report(trained_run, tmp_path):
    shown = read_shown((trained_run / "report.html").read_text(encoding="utf-8"))
    assert "texts of the test part in the right class" in shown and "What was trained" in shown
    metrics = json.loads((trained_run / "metrics.json").read_text())
    paired = metrics["baselines"]["majority"]["against_this_model"]
    ours = metrics["test"]["accuracy"] - metrics["baselines"]["majority"]["accuracy"]
    assert paired["accuracy_difference"] == pytest.approx(ours) and paired["p_value"] < 0.05
    other = tmp_path / "more.csv"
    lines = [
        f"{mood} film,{label},{i % 2}\n"
        for i in range(15)
        for mood, label in (("good", "positive"), ("bad", "negative"))
    ]
    other.write_text("text,sentiment,shop\n" + "".join(lines))
    folder, _ = evaluate.evaluate_file(trained_run, other)
    shown = read_shown((folder / "report.html").read_text(encoding="utf-8"))
    assert "texts of more.csv" in shown and "column “shop”" in shown and "validation part of the run" in shown
    write_weights_folder(tmp_path / "weights", read_run(trained_run))
    folder, _ = evaluate.evaluate_file(tmp_path / "weights", other, label_column="")
    assert "no labels" in read_shown((folder / "report.html").read_text(encoding="utf-8"))


def test_a_language_model_has_no_report_and_says_why(tmp_path):
    (tmp_path / "config.yaml").write_text("task: language_model\ndata: {source: tweets}\n")
    assert evaluate.write_report(tmp_path).startswith("no report.html: a language model predicts words")


# In a browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run's page with everything there is, and one of a file without labels, with long names and texts."""
    folder = tmp_path_factory.mktemp("pages")
    labels, probabilities = make_predictions(2000, right=0.7)
    names = ("negative", "neutral", "a very_long_class_name_without_any_place_to_break_it")
    texts = ["averylongword" * 40, "差评" * 200, NASTY.replace("\x00", "")] * 700
    run = write_run(folder / "run", labels, probabilities, names, texts[:2000], temperature=1.2)
    write_run_report(run)
    columns = {"text": texts[:90], "a_column_with_a_long_name_" * 3: np.where(np.arange(90) % 2, "x" * 90, "y")}
    pd.DataFrame(columns).to_csv(folder / "predictions.csv", index=False)
    others = list(columns)[1:]
    write_file_report(folder, "b.csv", ("text", others), names, np.full(90, -1), probabilities[:90])
    return [run / "report.html", folder / "report.html"]


SMALLEST_FONT = """
let least = 99;
for (const node of document.querySelectorAll('main *')) {
  if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
  const svg = node.closest('svg');
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  least = Math.min(least, parseFloat(getComputedStyle(node).fontSize) * scale);
}
return least;
"""
OVERLAPS = """
const found = [];
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  boxes.forEach(([text, a], i) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1) found.push('outside: ' + text);
    boxes.slice(i + 1).forEach(([other, b]) => {
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top + 3 < b.bottom - 3 && b.top + 3 < a.bottom - 3)
        found.push(text + ' / ' + other);
    });
  });
}
return found;
"""


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_browser_shows_it_without_error_overflow_or_small_print(browser, pages, width, scheme):
    send = browser.execute_cdp_cmd
    send(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    send("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    try:
        for page in pages:
            browser.get(page.as_uri())
            assert browser.get_log("browser") == []
            script = "return [document.documentElement.scrollWidth, innerWidth, document.body.innerText.length]"
            scroll_width, inner_width, characters = browser.execute_script(script)
            assert scroll_width <= inner_width == width and characters > 1000
            assert browser.execute_script(SMALLEST_FONT) >= 12
            assert browser.execute_script(OVERLAPS) == []
            assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
            red, *_ = map(
                int, re.findall(r"\d+", browser.execute_script("return getComputedStyle(document.body).color"))
            )
            assert (red > 128) == (scheme == "dark")
    finally:
        send("Emulation.clearDeviceMetricsOverride", {})
        send("Emulation.setEmulatedMedia", {"features": []})
