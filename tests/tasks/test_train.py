"""The whole way, as a user walks it: train.py and evaluate.py on a small file."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evaluate as evaluate_command
from keras_senti.data import tables
from keras_senti.errors import UserError
from keras_senti.evaluation import baselines, predictions
from keras_senti.evaluation.calibration import apply_temperature, cross_fit_temperature, fit_temperature
from keras_senti.evaluation.metrics import compute_metrics
from keras_senti.export import saved_model, weights_folder
from keras_senti.export.weights_folder import read_run, write_weights_folder
from keras_senti.reports import attribution, report
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import Config
from keras_senti.settings.yaml_file import read_config
from keras_senti.tasks import evaluate
from keras_senti.tasks.train import train_run
from keras_senti.training.trackers import pictures
from keras_senti.training.trackers.tensorboard import TensorBoard

ROOT = Path(__file__).parents[2]


def run(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def fingerprint(folder: Path) -> dict:
    files = [p for p in folder.rglob("*") if p.is_file() and "evaluations" not in p.parts]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read_table(path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, dtype=str)


def read_predictions(run_dir) -> dict:
    """Returns (labels, probabilities) by part."""
    table, class_names = read_table(run_dir / "predictions.csv"), ["negative", "neutral", "positive"]
    probabilities = table[[f"probability_{name}" for name in class_names]].to_numpy(np.float32)
    labels = table["label"].map(class_names.index).to_numpy()
    return {part: (labels[rows], probabilities[rows]) for part, rows in table.groupby("part").indices.items()}


def test_a_run_folder_holds_what_the_design_says(trained_run):
    names = {p.name for p in trained_run.iterdir()} - {
        "evaluations",
        "attributions.json",
    }  # of mistakes, if it makes any
    assert names == {
        "config.yaml", "manifest.json", "data_check.json", "dropped_rows.csv", "vocabulary.txt", "class_names.json",
        "history.csv", "tensorboard", "calibration.json", "model.keras", "saved_model", "metrics.json",
        "predictions.csv", "report.html",
    }  # fmt: skip


def test_the_manifest_says_what_was_done(trained_run):
    manifest = json.loads((trained_run / "manifest.json").read_text())
    assert manifest["status"] == "finished" and manifest["seconds"] > 0 and 0.3 < manifest["memory_gb"] < 100
    assert manifest["data"]["rows"] == {"train": 57, "validation": 15, "test": 18}
    assert manifest["seeds"] == {"data": 0, "train": 0} and manifest["versions"]["keras"].startswith("3.")
    (digest,) = manifest["data"]["sha256"].values()
    assert len(digest) == 64 and set(manifest["data"]["split_sha256"]) == {"train", "validation", "test"}
    assert 0 < manifest["training"]["padding_fraction"] < 1


def test_the_tiny_file_is_learned_and_beats_the_majority(trained_run):
    metrics = json.loads((trained_run / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.8 and metrics["validation"]["macro_f1"] > 0.8
    assert metrics["baselines"]["majority"]["accuracy"] == pytest.approx(1 / 3)
    assert set(metrics["baselines"]) == set(metrics["validation_baselines"]) == {
        "majority", "words_characters",
    }  # fmt: skip
    assert metrics["baselines"]["majority"]["rows"] == metrics["test"]["rows"] == 18


def test_the_temperature_is_fitted_on_the_validation_part_and_the_scores_follow_from_it(trained_run):
    metrics = json.loads((trained_run / "metrics.json").read_text())
    calibration = json.loads((trained_run / "calibration.json").read_text())
    parts = read_predictions(trained_run)
    temperature = json.loads((trained_run / "manifest.json").read_text())["temperature"]
    assert temperature == calibration["temperature"]
    assert temperature == pytest.approx(fit_temperature(*parts["validation"]), rel=1e-5)
    assert [entry["wished_precision"] for entry in calibration["abstain"]] == [0.9, 0.95]
    for part, (labels, probabilities) in parts.items():
        scaled = apply_temperature(probabilities, temperature)
        expected = compute_metrics(labels, scaled, ["negative", "neutral", "positive"])
        for name in ("log_loss", "brier_score", "calibration_error"):
            assert metrics[part]["calibrated"][name] == pytest.approx(expected[name], rel=1e-5, abs=1e-9)
        for entry in metrics[part]["abstain"]:
            answered = probabilities.max(axis=1) >= entry["threshold"]
            right = (probabilities.argmax(axis=1) == labels)[answered]
            assert (entry["coverage"], entry["precision"]) == pytest.approx((answered.mean(), right.mean()))
    assert all(entry["precision"] >= entry["wished_precision"] for entry in metrics["validation"]["abstain"])
    crossed = cross_fit_temperature(*parts["validation"])
    assert metrics["validation"]["calibrated"]["cross_fitted"] == pytest.approx(crossed, rel=1e-4)
    assert "cross_fitted" not in metrics["test"]["calibrated"]


def test_no_text_is_in_two_parts_and_the_vocabulary_is_that_of_the_train_part(trained_run):
    table = read_table(trained_run / "predictions.csv")
    by_part = {part: set(rows["text"]) for part, rows in table.groupby("part")}
    assert not by_part["validation"] & by_part["test"]
    config = read_config(trained_run / "config.yaml")
    every = read_table(config.data.csv)["text"]
    train = set(every) - by_part["validation"] - by_part["test"]
    vocabulary = (trained_run / "vocabulary.txt").read_text().split("\n")[2:-1]
    assert set(vocabulary) == {word for text in train for word in text.split()}


def test_evaluating_a_run_draws_its_score_from_stored_predictions_and_changes_nothing(trained_run, monkeypatch):
    monkeypatch.setattr(weights_folder, "read_pretrained", lambda path: pytest.fail("a model is loaded"))
    monkeypatch.setattr(attribution, "read_pretrained", weights_folder.read_pretrained)
    monkeypatch.setattr(saved_model, "read_pretrained", weights_folder.read_pretrained)
    before = fingerprint(trained_run)
    shown = evaluate.evaluate_stored(trained_run)
    assert evaluate.write_report(trained_run) == f"the report: {trained_run / 'report.html'}"
    metrics = json.loads((trained_run / "metrics.json").read_text())
    error = metrics["validation"]["calibrated"]["cross_fitted"]["calibration_error"]
    assert f"{error:.3f} after scaling (temperature" in shown
    assert f"accuracy {metrics['test']['accuracy']:.3f}" in shown and "words_characters" in shown
    assert fingerprint(trained_run) == before


@pytest.mark.slow
def test_a_weights_folder_classifies_texts_and_files_but_has_no_scores(trained_run, tiny_csv, tmp_path):
    write_weights_folder(tmp_path / "weights", read_run(trained_run))
    done = run("evaluate.py", "--run", tmp_path / "weights", "--text", "the film was great")
    assert done.returncode == 0 and "probability_positive" in done.stdout, done.stderr
    folder, summary = evaluate.evaluate_file(tmp_path / "weights", tiny_csv)
    assert folder.parent == tmp_path / "weights" / "evaluations" and "accuracy" in summary
    with pytest.raises(UserError, match=r"a weights folder holds no scores\. Add --text TEXT or --data\.csv FILE"):
        evaluate.evaluate_stored(tmp_path / "weights")


def test_a_weights_folder_of_a_language_model_is_to_be_fine_tuned(language_model, tmp_path):
    write_weights_folder(tmp_path / "encoder", language_model)
    with pytest.raises(
        UserError, match=r"holds no scores\. It is a language model: fine-tune it .* --init_from .*encoder"
    ):
        evaluate.evaluate_stored(tmp_path / "encoder")


def test_stored_predictions_that_were_changed_are_noticed(trained_run, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "run")
    stored = json.loads((copy / "metrics.json").read_text())
    without = {**stored, "validation": {k: v for k, v in stored["validation"].items() if k != "macro_f1"}}
    (copy / "metrics.json").write_text(json.dumps(without))
    with pytest.raises(UserError, match=r"does not follow from predictions.csv"):
        evaluate.evaluate_stored(copy)
    (copy / "metrics.json").write_text(json.dumps(stored))
    calibration = (copy / "calibration.json").read_text()
    (copy / "calibration.json").write_text('{"temperature": 3.0, "abstain": []}')
    with pytest.raises(UserError, match=r"does not follow from predictions.csv and calibration.json"):
        evaluate.evaluate_stored(copy)
    (copy / "calibration.json").write_text(calibration)
    table = read_table(copy / "predictions.csv")
    table["label"] = table["label"].replace("negative", "positive")
    table.to_csv(copy / "predictions.csv", index=False)
    with pytest.raises(UserError, match="does not follow from predictions.csv"):
        evaluate.evaluate_stored(copy)


def test_another_labelled_file_is_scored_into_a_folder_of_its_own(trained_run, tmp_path):
    before = fingerprint(trained_run)
    other = tmp_path / "other.csv"
    other.write_text(
        'id,review,mood\n1,"the film was, well, great",1\n2,an awful hotel,0\n3,,0\n4,the table was stone,\n',
        encoding="utf-8",
    )
    folder, summary = evaluate.evaluate_file(trained_run, other, "review", "mood", {"1": "positive", "0": "negative"})
    assert folder.parent == trained_run / "evaluations" and folder.name.startswith("other.csv-")
    table = read_table(folder / "predictions.csv")
    assert list(table)[:4] == ["id", "review", "mood", "predicted"] and table["id"].tolist() == ["1", "2", "3", "4"]
    assert table["review"][0] == "the film was, well, great" and table["predicted"].tolist()[:2] == [
        "positive", "negative",
    ]  # fmt: skip
    result = json.loads((folder / "metrics.json").read_text())
    assert result["rows"] == 4 and result["rows_without_label"] == 1 and result["scores"]["rows"] == 3
    assert "1 rows have no label" in summary
    assert fingerprint(trained_run) == before


def test_a_file_with_labels_gets_the_numbers_that_the_run_gave_it(trained_run, tmp_path):
    table = read_table(trained_run / "predictions.csv")
    other = tmp_path / "test.csv"
    rows = table[table["part"] == "test"].rename(columns={"label": "sentiment"})
    rows[["text", "sentiment"]].to_csv(other, index=False)
    folder, summary = evaluate.evaluate_file(trained_run, other)
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    expected = json.loads((trained_run / "metrics.json").read_text())["test"]
    assert scores["calibrated"] == pytest.approx(expected["calibrated"], rel=1e-3, abs=1e-6)
    assert [entry["coverage"] for entry in scores["abstain"]] == [entry["coverage"] for entry in expected["abstain"]]
    assert "after scaling (temperature" in summary
    assert list(read_table(folder / "predictions.csv"))[:3] == ["text", "sentiment", "predicted"]


def test_without_labels_there_are_predictions_only_and_every_column_is_kept(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "PREDICTED_ROWS", 3)  # several chunks
    other = tmp_path / "plain.jsonl"
    rows = [{"text": f"the film was {w}", "n": i} for i, w in enumerate(["great", "awful", "stone", "", "nice"] * 2)]
    rows[3] = {"n": 3, "predicted": "a column of the user's own"}
    other.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder, summary = evaluate.evaluate_file(trained_run, other)
    table = read_table(folder / "predictions.csv")
    assert list(table)[:4] == ["text", "n", "predicted", "model_predicted"] and "predictions only" in summary
    assert table["n"].tolist() == [str(i) for i in range(10)]
    assert table["predicted"][3] == "a column of the user's own" and table["model_predicted"][0] == "positive"
    assert "scores" not in json.loads((folder / "metrics.json").read_text())
    assert not list(folder.glob("writing-*"))


def test_a_file_with_columns_that_have_no_name_is_predicted_and_reported(trained_run, tmp_path):
    other = tmp_path / "unnamed.csv"
    pd.DataFrame({"text": ["the film was great", "an awful hotel"], "sentiment": ["positive", "neutral"], "": ["", ""]}
                 ).to_csv(other)  # fmt: skip
    folder, summary = evaluate.evaluate_file(trained_run, other)
    table = read_table(folder / "predictions.csv")
    assert list(table)[:5] == ["Unnamed: 0", "text", "sentiment", "Unnamed: 3", "predicted"]
    assert table["Unnamed: 0"].tolist() == ["0", "1"] and table["predicted"].tolist() == ["positive", "negative"]
    assert "accuracy" in summary and "awful" in (folder / "report.html").read_text(encoding="utf-8")


def test_nested_fields_and_lists_of_tokens_are_predicted_and_reported(trained_run, tmp_path):
    other = tmp_path / "nested.jsonl"
    rows = [
        {"a": {"tokens": ["the", "film", "was", w], "label": n}} for w, n in (("great", "positive"), ("stone", "x"))
    ]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    label_map = {"positive": "negative", "x": None}  # so that the one that is scored is wrong, and shown
    folder, summary = evaluate.evaluate_file(trained_run, other, "a.tokens", "a.label", label_map)
    table = read_table(folder / "predictions.csv")
    assert list(table)[:4] == ["a", "a.tokens", "a.label", "predicted"]
    assert table["predicted"].tolist() == ["positive", "neutral"]
    result = json.loads((folder / "metrics.json").read_text())
    assert [result[key] for key in ("rows", "rows_without_label", "rows_left_out")] == [2, 0, 1]
    assert result["scores"]["rows"] == 1
    assert "1 rows have a label that label_map leaves out: predicted, not scored" in summary
    assert "nested.jsonl: a list of tokens, joined by spaces, in 2 rows (lines 1, 2)" in summary


def test_a_file_of_which_the_model_knows_few_words_is_warned_of(trained_run, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("text\nun très bon film\ntrop long pour moi\n")
    assert (
        "WARNING: 88% of the tokens of the first texts are unknown to" in evaluate.evaluate_file(trained_run, other)[1]
    )
    other.write_text("text\nun très bon film\nthe film was so great\n")
    assert "WARNING" not in evaluate.evaluate_file(trained_run, other)[1]


def test_what_was_not_read_as_it_stands_is_said_of_a_predicted_file_too(trained_run, tmp_path):
    other = tmp_path / "joined.csv"
    other.write_text('text,sentiment\nthe film was great, "positive"\ntext,sentiment\nan\rawful hotel,Negative \n')
    folder, summary = evaluate.evaluate_file(
        trained_run, other, label_map={"positive": "positive", "Negative": "negative"}
    )
    assert 'joined.csv: a space before a quote (, "...), left out, in 1 row (line 2)' in summary
    assert "joined.csv: the header again, dropped, in 1 row (line 3)" in summary
    assert "joined.csv: a carriage return inside the line, read as a space, in 1 row (line 4)" in summary
    assert len(read_table(folder / "predictions.csv")) == 2
    assert [note["lines"] for note in json.loads((folder / "metrics.json").read_text())["reading"]] == [[2], [3], [4]]


def test_the_label_map_of_a_predicted_file_takes_labels_as_they_stand_and_null(trained_run, tmp_path, capsys):
    other = tmp_path / "stars.csv"
    other.write_text("text,stars\nthe film was great,5.0\nan awful hotel,+1\nthe table was stone,3.0\n")
    arguments = ["--run", str(trained_run), "--data.csv", str(other), "--data.label_column", "stars"]
    evaluate_command.main([*arguments, "--data.label_map", '{"5.0": positive, "1.0": negative, 3: null}'])
    assert "1 rows have a label that label_map leaves out" in (shown := capsys.readouterr().out) and "accuracy" in shown


def test_a_map_is_applied_before_class_names_as_in_training(trained_run, tmp_path):
    other = tmp_path / "crossed.csv"
    other.write_text("text,sentiment\nthe film was great,negative\nan awful hotel,neutral\n")
    crossed = {"negative": "positive", "neutral": "negative"}
    folder, _ = evaluate.evaluate_file(trained_run, other, label_map=crossed)
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    assert [scores["per_class"][name]["rows"] for name in ("negative", "neutral", "positive")] == [1, 0, 1]
    again, summary = evaluate.evaluate_file(trained_run, other, label_column="")
    assert again != folder and "predictions only" in summary


def test_an_unknown_label_or_column_stops_before_anything_is_written(trained_run, tmp_path):
    other = tmp_path / "strange.csv"
    other.write_text("text,sentiment\ngood,positive\nbad,horrible\n")
    with pytest.raises(
        UserError, match=r"strange.csv, line 3: unknown label 'horrible', but this model knows negative"
    ):
        evaluate.evaluate_file(trained_run, other)
    with pytest.raises(UserError, match=r"no column 'texte' \(--data.text_column\).*Did you mean 'text'"):
        evaluate.evaluate_file(trained_run, other, "texte")
    with pytest.raises(UserError, match=r"no column 'mood' \(--data.label_column\)"):
        evaluate.evaluate_file(trained_run, other, None, "mood")
    assert not list(trained_run.glob("evaluations/strange-*"))


def test_a_few_texts_give_a_table(trained_run):
    shown = evaluate.evaluate_texts(trained_run, ["the film was great", ""])
    assert "probability_positive" in shown and "the film was great" in shown and len(shown.splitlines()) == 3


def test_separate_files_read_once_dropped_rows_and_an_unscored_test_part(
    tiny_settings, tiny_csv, tmp_path, monkeypatch
):
    read_lines, lines = tables.read_lines, []
    monkeypatch.setattr(tables, "read_lines", lambda path: (lines.append(found) or found for found in read_lines(path)))
    extra = tmp_path / "validation.csv"
    extra.write_text("text,sentiment\ngood film,positive\n ,positive\nbad film,negative\nno label,\nso so,neutral\n")
    arguments = [*tiny_settings, "--run_dir", str(tmp_path / "run"), "--data.validation_csv", str(extra)]
    arguments += ["--train.evaluate_test", "false", "--train.epochs", "1", "--train.class_weights", "balanced"]
    run_dir = train_run(parse_config([*arguments, "--data.cache_dir", str(tmp_path / "cache")]))
    content = [*read_lines(tiny_csv), *read_lines(extra)]
    assert sorted(lines) == sorted([*content, content[0], content[0]])  # the whole run: each once, and the headers
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert "test" not in metrics and metrics["validation"]["rows"] == 3 and metrics["baselines_part"] == "validation"
    with open(run_dir / "dropped_rows.csv", newline="") as file:
        dropped = [(row["line"], row["reason"]) for row in csv.DictReader(file)]
    assert dropped == [("3", "no text"), ("5", "no label")]
    assert "test" not in set(read_table(run_dir / "predictions.csv")["part"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_predictions_to_the_last_digit_in_another_process(tiny_settings, tmp_path):
    for name in ("a", "b"):
        done = run("train.py", *tiny_settings, "--train.epochs", "2", "--run_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "a" / "predictions.csv").read_bytes() == (tmp_path / "b" / "predictions.csv").read_bytes()
    for line in ("tensorboard --logdir", "evaluate.py --run", "saved_model"):
        assert line in done.stdout


@pytest.mark.slow
def test_a_failed_run_says_so_and_is_not_evaluated(tiny_settings, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(saved_model, "export_model", fail)
    arguments = [*tiny_settings, "--run_dir", str(tmp_path / "run"), "--train.epochs", "1"]
    with pytest.raises(OSError, match="disk full"):
        train_run(parse_config(arguments))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed" and "disk full" in manifest["error"]
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.npz"))
    with pytest.raises(UserError, match="this run is 'failed'"):
        evaluate.evaluate_stored(tmp_path / "run")


def test_what_is_only_looked_at_costs_a_run_no_more_than_a_line(tiny_settings, tmp_path, monkeypatch, capsys):
    def fail(*_args, **_kwargs):
        raise ValueError("no font\nin this machine")

    monkeypatch.setattr(report, "draw_run_report", fail)
    for name in ("write_confusion_matrix", "write_projector"):
        monkeypatch.setattr(pictures, name, fail)
    monkeypatch.setattr(TensorBoard, "_write_scores", fail)
    run_dir = train_run(parse_config([*tiny_settings, "--run_dir", str(tmp_path / "run"), "--train.epochs", "1"]))
    assert json.loads((run_dir / "manifest.json").read_text())["status"] == "finished"
    assert (run_dir / "metrics.json").exists() and not (run_dir / "checkpoints").exists()
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    assert warnings == [
        "WARNING: no pictures in TensorBoard of epoch 1 (ValueError: no font). The run goes on.",
        "WARNING: no words in TensorBoard's projector (ValueError: no font). The run goes on.",
        "WARNING: no scores in TensorBoard (ValueError: no font). The run goes on; metrics.json has them.",
        f"WARNING: no report.html (ValueError: no font). `python evaluate.py --run {run_dir}` draws it again.",
    ]
    monkeypatch.undo()
    evaluate.write_report(run_dir)
    assert (run_dir / "report.html").exists()


def test_a_page_that_cannot_be_drawn_loses_no_predictions_of_a_file(trained_run, tmp_path, monkeypatch, capsys):
    def fail(*_args, **_kwargs):
        raise ValueError("no font")

    monkeypatch.setattr(report, "draw_file_report", fail)
    (tmp_path / "a.csv").write_text("text,sentiment\nsuch a fine film,positive\n")
    folder, summary = evaluate.evaluate_file(trained_run, tmp_path / "a.csv")
    assert (folder / "predictions.csv").exists() and "1 rows" in summary
    assert "WARNING: no report.html (ValueError: no font). predictions.csv and metrics.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["train.py", "--data.csv", "nowhere.csv"], "nowhere.csv: no such file"),
        (["train.py", "--model.unit", "3"], "Did you mean 'model.units'?"),
        (["train.py", "--config", "configs/tweet.yaml"], "Did you mean 'configs/tweets.yaml'?"),
        (["evaluate.py", "--run", "nowhere"], "nowhere: no such folder"),
        (["evaluate.py", "--run", "logs", "--data.text_column", "t"], "Add --data.csv FILE"),
        (["evaluate.py", "--run", "logs", "--compare", "logs", "--text", "t"], "not allowed with argument"),
    ],
)
def test_bad_input_ends_with_exit_code_2_and_no_traceback(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_is_not_empty_is_refused_before_any_work_and_stays_as_it_was(tiny_settings, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        train_run(parse_config([*tiny_settings, "--run_dir", str(tmp_path)]))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_settings_without_data_are_refused_in_code_as_on_the_command_line():
    with pytest.raises(UserError, match=r"settings: data\.csv: received nothing, .* Add --data\.csv FILE"):
        train_run(Config())


def test_a_layer_that_the_model_does_not_have_is_named_before_there_is_a_folder(tiny_settings, tmp_path):
    arguments = [*tiny_settings, "--run_dir", str(tmp_path / "run"), "--train.train_from_epoch", "{recurrent_1: 2}"]
    with pytest.raises(UserError, match=r"received 'recurrent_1', .*: embedding, recurrent_0, head\. Did you mean"):
        train_run(parse_config(arguments))
    assert not list(tmp_path.iterdir())


def test_a_baseline_whose_package_is_missing_is_named_before_there_is_a_folder(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines.importlib.util, "find_spec", lambda package: None)
    arguments = [*tiny_settings, "--run_dir", str(tmp_path / "run"), "--baselines.models", "[vader]"]
    with pytest.raises(UserError, match="vader needs the package vaderSentiment, which is not installed"):
        train_run(parse_config(arguments))
    assert not list(tmp_path.iterdir())


def test_a_text_may_begin_with_a_dash_and_was_typed_in_utf_8(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate_texts", lambda run, texts: f"{run} {texts}")
    found = "很好".encode().decode("ascii", "surrogateescape")  # what Python makes of it where the terminal says ASCII
    evaluate_command.main(["--text", "-bad", "--run", "r", "--text", "--really bad", "--text=-x", "--text", found])
    assert capsys.readouterr().out == "r ['-bad', '--really bad', '-x', '很好']\n"
    monkeypatch.setattr(evaluate, "explain_texts", lambda run, texts, name: (Path("f"), f"{texts} {name}"))
    evaluate_command.main(["--run", "r", "--explain", "-bad", "--explain_class", "-1"])
    assert capsys.readouterr().out.startswith("['-bad'] -1")
    with pytest.raises(SystemExit):
        evaluate_command.main(["--text", "--run", "r"])  # a forgotten text is not `--run`
    assert "argument --text: expected one argument" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_scores_and_exports_the_best_epoch(tiny_settings, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [sys.executable, "train.py", *tiny_settings, "--train.epochs", "100000", "--run_dir", str(run_dir)]
    with open(tmp_path / "out.txt", "w") as out:
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell that runs the tests in the background makes its children ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        history, deadline = run_dir / "history.csv", time.monotonic() + 120
        while not (history.exists() and history.read_text().count("\n") >= 3):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "out.txt").read_text()
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=400) == 0, (tmp_path / "out.txt").read_text()
    finally:
        process.kill()
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["status"] == "finished" and manifest["training"]["interrupted"]
    losses = [float(row["val_loss"]) for row in csv.DictReader(history.read_text().splitlines())]
    assert manifest["training"]["best_epoch"] == int(np.argmin(losses)) + 1
    assert (run_dir / "saved_model" / "saved_model.pb").exists() and (run_dir / "metrics.json").exists()


@pytest.mark.slow
def test_1200_classes_of_three_rows_take_little_memory_and_leave_pages_to_be_read(tmp_path):
    rows = "".join(f"this is topic{i} with word{(7 * i + j) % 50},class {i}\n" for i in range(1200) for j in range(3))
    (tmp_path / "many.csv").write_text("text,sentiment\n" + rows)
    arguments = "--train.epochs 1 --model.units 8 --model.embedding_dim 8 --baselines.models [majority]".split()
    arguments += ["--data.csv", tmp_path / "many.csv", "--data.cache_dir", tmp_path / "cache"]
    done = run("train.py", *arguments, "--run_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["memory_gb"] < 3
    assert max(map(len, done.stdout.splitlines())) < 1000 and "PerformanceWarning" not in done.stderr
    for name, megabytes in (("metrics.json", 3), ("report.html", 1)):
        assert (tmp_path / "run" / name).stat().st_size < megabytes * 1e6, name
    done = run("evaluate.py", "--run", tmp_path / "run", "--text", "this is topic7 with word3")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) < 200 and " probability" in done.stdout
    done = run("evaluate.py", "--run", tmp_path / "run")
    assert done.returncode == 0 and "of 1,200 classes, the 20 of which it finds the least" in done.stdout
