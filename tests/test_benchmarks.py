import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.axes import Axes

from keras_senti.data.reading import load_splits
from keras_senti.data.sources import prepare_source
from keras_senti.data.tables import Table
from keras_senti.errors import UserError
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import TrainConfig

sys.path.insert(0, str(ROOT / "benchmarks"))

import curves
import end_to_end
import few_labels
import few_labels_rows
import optimizer
import pretraining
import recurrent
import throughput
import workers

TIMES = {
    "ours_loop": [30.0, 40.0, 50.0],
    "ours_xla": [10.0, 20.0, 40.0],
    "keras_fit": [20.0, 60.0, 120.0],  # 2, 3 and 3 times ours_xla
    "keras_xla": [90.0, 90.0, 90.0],
    "matmul_limit": [5.0, 10.0, 20.0],
}


def test_a_case_is_read_from_its_name_and_padded_on_the_right_with_dropout_only():
    case = recurrent.Case.parse("T6 B3 H4 E2 dropout")
    assert case == recurrent.Case(steps=6, rows=3, units=4, inputs=2, dropout=True, bfloat16=False)
    ids, lengths, labels = case.make_rows(batches=5)
    assert ids.shape == (15, 6) and set(lengths) <= {3, 4, 5, 6} and set(labels) <= {0, 1, 2}
    assert ((ids != 0).sum(axis=1) == lengths).all() and (ids[:, :3] > 1).all()
    assert (recurrent.Case.parse("T6 B3 H4 E2").make_rows()[0] > 1).all()
    with pytest.raises(SystemExit, match="received 'H4', expected a name such as 'T100 B64 H100 E128'"):
        recurrent.Case.parse("H4")


def test_ratios_are_medians_of_paired_ratios_and_what_is_not_installed_is_null():
    result = recurrent.summarize("T6 B3 H4 E2", TIMES, "xla")
    assert (result["ours_ms"], result["ours_loop_ms"], result["ours_xla_ms"]) == (20.0, 40.0, 20.0)
    assert (result["keras_fit_ms"], result["keras_best_ms"], result["keras_best_mode"]) == (60.0, 60.0, "keras_fit")
    assert result["pytorch_ms"] is None and "pytorch" not in result["ratios"]
    assert result["ratios"]["keras_fit"] == 3.0 and result["ratios"]["matmul_limit"] == 0.5
    assert result["ratios"]["ours_loop"] == 2.0  # of 3, 2 and 1.25; of the medians it would be 2 too
    assert result["quartiles_ms"]["ours"] == [15.0, 30.0] and result["ratio_quartiles"]["keras_fit"] == [2.5, 3.0]
    assert result["fastest_ms"]["keras_best"] == 20.0
    assert json.loads(json.dumps(result)) == result


def test_the_table_shows_medians_with_quartiles_and_leaves_out_what_was_not_measured():
    table = recurrent.format_table([recurrent.summarize("T6 B3 H4 E2", TIMES, "loop")]).splitlines()
    assert table[0].startswith("| ms a step | ours | ours_loop | ours_xla | keras_fit |")
    assert table[2].startswith("| T6 B3 H4 E2 | 40.0 (35.0-45.0) | 40.0 (35.0-45.0) | 20.0 (15.0-30.0) | 60.0")
    assert table[4] == "| times ours | keras_fit | keras_best | pytorch | matmul_limit |"
    assert table[6] == "| T6 B3 H4 E2 | 1.50 (1.08-1.95) | 1.50 (1.08-1.95) |  | 0.25 (0.21-0.33) |"


class OneAtATime:
    """A thread's end of a pipe: between a request and its reply no other thread works, as Keras would not like it."""

    lock = threading.Lock()

    def __init__(self, connection):
        self.connection = connection

    def recv(self):
        request = self.connection.recv()
        self.lock.acquire()
        return request

    def send(self, reply):
        self.connection.send(reply)
        self.lock.release()


@pytest.mark.slow
def test_recurrent_measures_every_competitor_but_one_that_is_not_installed(tmp_path, monkeypatch, capsys):
    find_spec = importlib.util.find_spec  # TensorFlow and PyTorch in one process crash
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    serve = workers.serve  # in threads: processes would import TensorFlow once each, half a minute together
    monkeypatch.setattr(workers, "serve", lambda connection: serve(OneAtATime(connection)))
    threads = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=threading.Thread)
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: threads)
    file = tmp_path / "result.json"
    words = ["--cases", "T4 B4 H3 E2 dropout", "--repeats", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/recurrent.py", *words])
    recurrent.main()
    content = json.loads(file.read_text())
    assert content["command"].startswith("python benchmarks/recurrent.py --cases") and content["machine"]["cores"]
    (result,) = content["cases"]
    assert result["pytorch_ms"] is None and content["machine"]["versions"]["torch"] is None
    names = ("ours", "ours_loop", "ours_xla", "keras_fit", "keras_xla", "keras_best", "matmul_limit", "step_products")
    for name in (*names, "ours_no_dropout", "ours_gate_masks"):
        low, high = result["quartiles_ms"][name]
        assert 0 < low <= result[f"{name}_ms"] <= high, name
    assert "| T4 B4 H3 E2 dropout |" in capsys.readouterr().out


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.slow
def test_pytorch_trains():
    code = (
        "import recurrent as r\n"
        "for name in ('T4 B4 H3 E2', 'T4 B4 H3 E2 dropout'):\n"
        "    step = r.build_pytorch(r.Case.parse(name))\n"
        "    print([step() for _ in range(40)])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        losses = json.loads(line)
        assert losses[-1] < losses[0]


def test_an_epoch_is_extrapolated_from_the_timed_steps_and_counts_real_tokens():
    lengths = np.full(10 * throughput.ROWS, 5)
    rows = np.arange(throughput.ROWS)
    batches = {"ours": [rows] * 6, "script": [rows] * 6}
    ours, script = throughput.summarize_epoch(lengths, batches, {"ours": [0.5] * 6, "script": [2.0] * 6})
    assert (ours["timed_steps"], ours["steps"], ours["epoch_seconds"], script["epoch_seconds"]) == (6, 10, 5.0, 20.0)
    assert ours["tokens_per_second"] == 10 * throughput.ROWS * 5 / 5.0 and ours["times_script"] == 4.0


def test_the_timed_batches_are_of_all_lengths():
    lengths = np.random.default_rng(0).integers(1, 100, 50 * throughput.ROWS)
    plan = throughput.sample_batches(lengths, True, None)
    longest = [lengths[rows].max() for rows in throughput.sample_batches(lengths, True, 10)]
    assert len(plan) == 50 and len(longest) == 10
    assert abs(np.mean(longest) - np.mean([lengths[rows].max() for rows in plan])) < 1


def test_growth_is_measured_in_steps_of_our_model():
    entry = throughput.grow(130, 4, 3)
    assert entry["timed_steps"] == 2 and entry["step_ms"] > 0  # the third batch of the epoch has two rows only
    table = throughput.format_table("growth", [entry, {"name": "b", "reason": "none", "all": [1.0, 2.5]}])
    assert table.splitlines()[0].startswith("| growth | timed_steps | step_ms | token_us | plan_ms | epoch_seconds |")
    assert table.splitlines()[3].endswith("| none | 1 - 2.5 |")


def test_a_section_of_a_page_is_replaced_and_one_that_is_not_there_is_said(tmp_path, monkeypatch, capsys):
    file = tmp_path / "results.md"
    monkeypatch.setattr(end_to_end, "PAGE", file)
    file.write_text("above\n<!-- results -->\nold\n<!-- /results -->\nbelow\n")
    end_to_end.write_section("results", "| new |")
    end_to_end.write_section("few_labels", "| new |")
    assert file.read_text() == "above\n<!-- results -->\n| new |\n<!-- /results -->\nbelow\n"
    assert "no <!-- few_labels --> with <!-- /few_labels --> behind it" in capsys.readouterr().out


def test_a_baseline_is_fitted_on_the_rows_that_were_scored_and_the_table_shows_where_it_was(tiny_csv):
    config = parse_config(["--data.csv", str(tiny_csv)])
    splits = load_splits(prepare_source(config.data))
    majority, one = {"accuracy": 0.5, "macro_f1": 0.3}, {"mean": 0.9, "sd": 0.0, "all": [0.9]}
    system = {
        "data": "csv",
        "scores": {p: {"accuracy": one, "macro_f1": one} for p in ("validation", "test")},
        "baselines": {p: {"majority": majority, "tfidf_logistic_regression": majority} for p in ("validation", "test")},
        "seconds": one,
        "split_sha256": splits.check["split_sha256"],
    }
    titles = [row.split(" | ")[1] for row in end_to_end.make_table({"a.yaml": system}).splitlines()[2:]]
    assert titles == ["majority class", "TF-IDF + logistic regression", "`a.yaml` (1 seed)"]
    models = ["words_characters", "nb_svm"]
    found = end_to_end.measure_baselines(config, system["split_sha256"], models, ["validation"])
    assert list(found) == ["validation"] and list(found["validation"]) == models  # the test part is left alone
    for scores in found["validation"].values():
        assert scores["rows"] == len(splits.validation) and scores["cpu_seconds"] >= 0 and "cores" in scores["machine"]
    system["baselines"]["validation"] |= found["validation"]
    table = end_to_end.make_table({"a.yaml": system})
    shown = [f"{found['validation']['words_characters'][score]:.3f}" for score in ("accuracy", "macro_f1")]
    assert f"|  | words + characters (linear) | {shown[0]} | {shown[1]} |  |  |  |" in table and "| NB-SVM | " in table
    with pytest.raises(SystemExit, match="run: the data is not split as it was when its results were measured"):
        end_to_end.measure_baselines(config, {}, models, ["validation"])


def test_the_learning_curves_lie_beside_the_rival_of_the_verdict(tmp_path, monkeypatch):
    beside = {"words_characters": {"accuracy": 0.7, "macro_f1": 0.6}, "nb_svm": {"accuracy": 0.8, "macro_f1": 0.7}}
    history = {"epoch": [0, 1], "loss": [1, 0.8], "val_loss": [1, 0.9], "val_macro_f1": [0.5, 0.6]}
    system = {"data": "tweets", "history": [history], "baselines": {"validation": beside}}
    older = {**system, "baselines": {"validation": {"nb_svm": beside["nb_svm"]}}}
    (tmp_path / "results.json").write_text(json.dumps({"configs/a.yaml": system, "configs/b.yaml": older}))
    monkeypatch.setattr(curves, "RESULTS", tmp_path / "results.json")
    lines, axhline = [], Axes.axhline
    monkeypatch.setattr(Axes, "axhline", lambda axes, y, **more: lines.append((y, more["label"])) or axhline(axes, y))
    curves.main("tweets", tmp_path / "curves.png")
    assert lines == [(0.6, "words + characters (linear)")] and (tmp_path / "curves.png").stat().st_size > 5_000


def make_part(**rows) -> few_labels_rows.Part:
    """So many rows of each class, of which each has a text of its own."""
    labels = np.repeat(np.arange(len(rows)), list(rows.values()))
    return few_labels_rows.Part([f"text {row}" for row in range(len(labels))], labels)


def test_few_labels_are_drawn_with_the_shares_of_the_classes_and_the_smaller_draw_is_in_the_larger_one():
    part = make_part(negative=60, positive=30)
    draws = {count: few_labels_rows.draw_rows(part, count, seed=1) for count in (9, 30, 90)}
    for count, drawn in draws.items():
        assert np.bincount(drawn.labels).tolist() == [2 * count // 3, count // 3]
        assert all(part.labels[part.texts.index(text)] == label for text, label in zip(drawn.texts, drawn.labels))
    assert set(draws[9].texts) < set(draws[30].texts) < set(draws[90].texts) and draws[90].texts == part.texts
    assert few_labels_rows.draw_rows(part, 9, seed=1).texts == draws[9].texts
    assert few_labels_rows.draw_rows(part, 9, seed=2).texts != draws[9].texts


def test_a_draw_that_cannot_be_is_refused():
    part = make_part(negative=60, positive=30)
    with pytest.raises(UserError, match="--sizes: received 91, expected fewer than the 90 train rows, or `all`"):
        few_labels_rows.draw_rows(part, 91, seed=0)
    with pytest.raises(UserError, match="received 3, which leaves 1 for a class, expected at least 2"):
        few_labels_rows.draw_rows(part, 3, seed=0)


def test_drawn_rows_come_back_from_their_file_whatever_is_in_the_texts(tmp_path):
    part = few_labels_rows.Part(
        ['a "quote", a comma', "two\nlines", "a lone\rreturn", " 酒店 "], np.array([1, 0, 0, 1])
    )
    first = few_labels_rows.write_part(part, ("negative", "positive"), tmp_path / "train.csv")
    rows = [row for _, row in Table(tmp_path / "train.csv")]
    assert [row["text"] for row in rows] == part.texts
    assert [row["sentiment"] for row in rows] == ["positive", "negative", "negative", "positive"]
    assert few_labels_rows.write_part(part, ("negative", "positive"), tmp_path / "again.csv") == first


def test_rows_that_stand_in_their_file_are_not_written_again(tmp_path):
    path, part = tmp_path / "train.csv", make_part(negative=2, positive=1)
    first = few_labels_rows.write_part(part, ("negative", "positive"), path)
    os.utime(path, (1, 1))
    assert few_labels_rows.write_part(part, ("negative", "positive"), path) == first and path.stat().st_mtime == 1
    assert few_labels_rows.write_part(make_part(negative=2), ("negative", "positive"), path) != first
    assert path.stat().st_mtime > 1 and [p.name for p in tmp_path.iterdir()] == ["train.csv"]


def test_the_rows_to_watch_were_not_drawn(monkeypatch):
    monkeypatch.setattr(few_labels_rows, "WATCHED", 20)
    part = make_part(negative=30, positive=60)
    drawn = few_labels_rows.draw_rows(part, 50, seed=1)
    watched = few_labels_rows.take_watched(part, drawn, seed=1)
    assert len(watched.texts) == len(set(watched.texts) - set(drawn.texts)) == len(watched.labels) == 20
    labels = dict(zip(part.texts, part.labels))
    assert [labels[text] for text in watched.texts] == watched.labels.tolist()


def test_few_labels_get_more_epochs_of_smaller_batches_and_as_many_steps():
    schedules = {rows: few_labels.choose_schedule(rows, 192, fewest=2) for rows in (100, 500, 1000, 5000, 22489)}
    assert schedules == {100: (15, 8), 500: (6, 16), 1000: (6, 32), 5000: (2, 32), 22489: (2, 32)}
    options = few_labels.list_options(few_labels.Cell("scratch", "all", 2), 22489, 700, TrainConfig())
    assert options == "--train.seed 2 --train.monitor none --train.evaluate_test false".split()
    assert "train_from_epoch" not in " ".join(
        few_labels.list_options(few_labels.Cell("scratch", 100, 2), 100, 700, TrainConfig())
    )


@pytest.mark.parametrize(
    "rows,epochs,expected", [(100, 54, (14, 28)), (500, 22, (6, 12)), (5000, 5, (2, 3)), (20000, 4, (2, 3))]
)
def test_with_few_labels_a_layer_joins_after_the_same_share_of_the_epochs(rows, epochs, expected):
    # In the config after 1 and 2 of 4 epochs.
    config = TrainConfig(epochs=4, train_from_epoch={"embedding": 2, "recurrent_0": 3, "pooling": None})
    options = few_labels.list_options(few_labels.Cell("pretrained", rows, 0), rows, 700, config)
    found = parse_config(["--data.source", "tweets", *options]).train
    assert found.epochs == epochs
    assert found.train_from_epoch == {"embedding": expected[0], "recurrent_0": expected[1], "pooling": None}


def test_a_linear_model_of_all_labels_is_fitted_once():
    cells = few_labels.list_cells(["scratch", "words_characters"], [100, "all"], 2)
    assert [(cell.system, cell.labels, cell.seed) for cell in cells] == [
        ("scratch", 100, 0), ("words_characters", 100, 0), ("scratch", "all", 0), ("words_characters", "all", 0),
        ("scratch", 100, 1), ("words_characters", 100, 1), ("scratch", "all", 1),
    ]  # fmt: skip


def make_results(*rows) -> dict:
    """From (system, labels, seed, rows, accuracy, seconds)."""
    names = ("system", "labels", "seed", "rows", "accuracy", "seconds")
    return {few_labels.Cell(*row[:3]): dict(zip(names, row)) for row in rows}


def test_the_time_left_is_that_of_like_cells_and_says_what_it_does_not_know():
    results = make_results(("scratch", 100, 0, 100, 0.7, 60), ("scratch", "all", 0, 900, 0.9, 3600))
    left = [few_labels.Cell("scratch", labels, 1) for labels in (100, "all")]
    assert few_labels.estimate_time(left, results) == "about 1:01:00"
    left = [few_labels.Cell("scratch", 500, 1), few_labels.Cell("nb_svm", 500, 1)]
    assert few_labels.estimate_time(left, results) == "at least 0:30:30 (nothing is known of 1 cells)"


def test_the_table_of_few_labels_has_a_row_a_size_and_mean_and_deviation_of_the_seeds(tmp_path):
    results = make_results(
        ("nb_svm", "all", 0, 22489, 0.9, 1), ("nb_svm", 100, 0, 100, 0.7, 1), ("nb_svm", 100, 1, 100, 0.8, 1),
        ("scratch", 100, 0, 100, 0.6, 1),
    )  # fmt: skip
    assert few_labels.make_table(results).splitlines() == [
        "| labels | from scratch | NB-SVM |",
        "| --- | --- | --- |",
        "| 100 | 0.600 | 0.750 ± 0.071 |",
        "| 22,489 (all) |  | 0.900 |",
    ]
    few_labels.draw_curves(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_of_a_network_that_was_trained_the_largest_files_are_removed(stub_trials, tmp_path):
    run_dir, words = tmp_path / "work" / "run", ["--config", str(ROOT / "configs" / "tweets.yaml")]
    first = few_labels.train_network(words, run_dir)
    assert first["rows"] == 9 and first["seconds"] == 1.5
    (run_dir / "checkpoints").mkdir()
    assert few_labels.train_network(words, run_dir) == first  # not trained again
    assert (run_dir / "starts").read_text().count("begun") == 1 and not (run_dir / "checkpoints").exists()
    with pytest.raises(UserError, match="the loss became nan.*all of it: .*fast.log"):
        few_labels.train_network([*words, "--train.learning_rate", "3"], tmp_path / "work" / "fast")


@pytest.fixture
def few_labels_words(tiny_csv, tmp_path) -> list[str]:
    """Options for a benchmark of the tiny file, with other names of columns and labels: 57 train rows, 15 to score."""
    file, config = tmp_path / "stars.csv", tmp_path / "tiny.yaml"
    file.write_text(tiny_csv.read_text().replace("text,sentiment", "review,stars").replace(",positive", ",5"))
    config.write_text(
        f"name: tiny\ndata: {{csv: {file}, text_column: review, label_column: stars, "
        "label_map: {negative: negative, neutral: neutral, '5': positive}}\ntext: {sequence_length: 12}\n"
        "model: {units: 8, embedding_dim: 6}\ntrain: {epochs: 2, batch_size: 8, learning_rate: 0.03}\n"
    )
    fine_tune = tmp_path / "tiny_fine_tune.yaml"
    fine_tune.write_text("name: tiny_fine_tune\ntrain: {epochs: 1, batch_size: 8, learning_rate: 0.001}\n")
    folder = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "few.json")]
    configs = [("--config", config), ("--fine_tune_config", fine_tune), ("--few_labels_config", fine_tune)]
    return [*(word for name, file in configs for word in (name, str(file))), "--seeds", "1", "--steps", "4", *folder]


def test_few_labels_keeps_its_cells_and_names_no_machine(few_labels_words, tmp_path, monkeypatch, capsys):
    words = [*few_labels_words, "--sizes", "12", "all"]
    few_labels.main([*words, "--systems", "nb_svm", "words_characters"])
    cells = json.loads((tmp_path / "few.json").read_text())["cells"]
    assert [(c["system"], c["labels"], c["rows"], c["validation_rows"]) for c in cells] == [
        ("nb_svm", 12, 12, 15), ("words_characters", 12, 12, 15),
        ("nb_svm", "all", 57, 15), ("words_characters", "all", 57, 15),
    ]  # fmt: skip
    assert all(0 <= c["accuracy"] <= 1 for c in cells) and str(tmp_path) not in (tmp_path / "few.json").read_text()
    shown = capsys.readouterr().out
    assert "[4/4] words + characters (linear), all labels, seed 0; about " in shown and "| 57 (all) |" in shown
    monkeypatch.setattr(few_labels, "fit_linear", None)  # nothing is fitted again
    few_labels.main([*words, "--systems", "nb_svm"])
    (tmp_path / "few.png").unlink()
    few_labels.main([*words, "--systems"])
    assert json.loads((tmp_path / "few.json").read_text())["cells"] == cells and (tmp_path / "few.png").exists()


def test_processes_that_share_a_file_keep_each_others_cells(few_labels_words, tmp_path, monkeypatch):
    words = [*few_labels_words, "--sizes", "12", "--systems", "nb_svm", "tfidf_logistic_regression"]
    few_labels.main([*words, "--out", str(tmp_path / "other.json")])
    first, second = json.loads((tmp_path / "other.json").read_text())["cells"]
    others = {**first, "system": "scratch"}
    fitted, fit_linear = [], few_labels.fit_linear

    def fit_beside_another(system, *arguments):
        """Meanwhile another process finishes a cell of its own, and the second one of ours."""
        fitted.append(system)
        (tmp_path / "few.json").write_text(json.dumps({"cells": [others, {**second, "seconds": 77.0}]}))
        return fit_linear(system, *arguments)

    monkeypatch.setattr(few_labels, "fit_linear", fit_beside_another)
    few_labels.main(words)
    assert fitted == ["nb_svm"]
    cells = {cell["system"]: cell for cell in json.loads((tmp_path / "few.json").read_text())["cells"]}
    assert cells["scratch"] == others and cells["tfidf_logistic_regression"]["seconds"] == 77.0
    assert cells["nb_svm"]["accuracy"] == first["accuracy"]


def test_few_labels_says_what_is_missing_before_it_trains(few_labels_words, capsys):
    with pytest.raises(SystemExit):
        few_labels.main(few_labels_words)
    assert "--pretrained is missing. Give it, or leave its curve out: --systems scratch" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        few_labels.main([*few_labels_words, "--sizes", "some"])
    assert "received 'some', expected a number of labels, such as 500, or all" in capsys.readouterr().err
    with pytest.raises(UserError, match="init_from: .*no such folder"):
        few_labels.main([*few_labels_words, "--sizes", "12", "--pretrained", "nowhere"])
    with pytest.raises(UserError, match="--sizes: received 57, which are all train rows. Write `all`"):
        few_labels.main([*few_labels_words, "--sizes", "57", "--systems", "scratch"])


@pytest.mark.slow
def test_few_labels_trains_networks_with_and_without_pre_training(few_labels_words, trained_run, tmp_path, monkeypatch):
    from keras_senti.tasks.train import train_run

    def train(words, run_dir):  # in this process, which has TensorFlow already
        train_run(parse_config([*words, "--run_dir", str(run_dir)]))
        return json.loads((run_dir / "metrics.json").read_text())

    monkeypatch.setattr(few_labels, "run_trial", train)
    systems = ["--systems", "pretrained", "scratch"]
    few_labels.main([*few_labels_words, "--sizes", "12", "all", "--pretrained", str(trained_run), *systems])
    text = (tmp_path / "few.json").read_text()
    cells = {(c["system"], c["labels"]): c for c in json.loads(text)["cells"]}
    assert len(cells) == 4 and str(tmp_path) not in text
    settings = cells["pretrained", 12]["settings"]
    assert settings["init_from"] == "tiny" and len(settings["weights_sha256"]) == 1  # the folder's name, the SavedModel
    assert "--train.epochs 2 --train.batch_size 8" in " ".join(cells["scratch", 12]["settings"]["options"])
    assert "--train.epochs" not in cells["scratch", "all"]["settings"]["options"]
    assert cells["pretrained", 12]["accuracy"] > 0.8 > cells["scratch", 12]["accuracy"]
    for manifest in (tmp_path / "work").glob("*/*/manifest.json"):
        run = json.loads(manifest.read_text())
        assert run["training"]["best_epoch"] == run["training"]["epochs_run"]
        # With few labels the scored rows are the test part, so that they are scored once, at the end.
        rows = {"all": (15, 0), "12": (45, 15)}[manifest.parent.name.split("-")[0]]
        assert (run["data"]["rows"]["validation"], run["data"]["rows"]["test"]) == rows


class InProcess:
    """Stands for workers.Workers: one process, which has TensorFlow already."""

    def build(self, requests):
        self.steps = {name: function(*arguments) for name, (function, *arguments) in requests.items()}

    def time(self, name, steps):
        assert steps == 1 and np.isfinite(self.steps[name]())
        return {"ours": 2.0, "ours_bfloat16": 1.0, "keras_fit": 3.0, "keras_xla": 5.0}[name]


@pytest.mark.slow
def test_pre_training_is_timed_beside_plain_keras_layers_on_the_same_windows(tmp_path, monkeypatch, capsys):
    from keras_senti.data.dataset import EncodedTexts
    from keras_senti.training.pretraining import Streams, count_tokens

    for name, value in {"STREAMS": 5, "WINDOW": 10, "EMBEDDING": 3, "UNITS": 4, "NEGATIVES": 6, "RATE": 0.05}.items():
        monkeypatch.setattr(pretraining, name, value)
    texts = EncodedTexts(np.tile(np.arange(2, 9, dtype=np.int32), 400), np.arange(0, 2801, 7))  # always the same text
    parts = Streams([texts], 5, 10, 0), Streams([texts], 5, 10, None), count_tokens([texts], 9), 9
    monkeypatch.setattr(pretraining, "load_streams", lambda imdb: parts)
    monkeypatch.setattr(pretraining, "Workers", InProcess)
    monkeypatch.setattr(pretraining, "run_alone", lambda function, *arguments: function(*arguments))
    file = tmp_path / "result.json"
    pretraining.main(["--imdb", "nowhere", "--repeats", "2", "--steps", "60", "--json", str(file)])
    result = json.loads(file.read_text())
    assert result["repeats"] == 2 and result["machine"]["cores"]
    systems = result["systems"]
    assert [systems[name]["ours_is_times_as_fast"] for name in ("ours", "keras_fit", "keras_xla")] == [1.0, 1.5, 2.5]
    assert systems["ours"]["tokens_per_second"] == 25 and systems["ours"]["tokens"] == 60 * 50
    for name in ("ours", "ours_bfloat16", "keras_fit"):
        assert 1 < systems[name]["perplexity"] < 6  # 8 for who knows how frequent tokens are
    assert "perplexity" not in systems["keras_xla"] and "ours is 2.50 times as fast" in capsys.readouterr().out


@pytest.mark.slow
def test_optimisers_are_timed_on_a_whole_network_that_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer, "CASES", {"few_labels": (True, 30_000, 2, 5)})
    out, words = tmp_path / "optimizer.json", ["--rounds", "2"]
    optimizer.main([*words, "--out", str(out)])
    optimizer.main([*words, "--out", str(out), "--precision", "mixed_bfloat16"])
    stored = json.loads(out.read_text())
    assert set(stored) == {"float32", "mixed_bfloat16"}
    for cases in stored.values():
        low, high = cases["few_labels"]["ratio_quartiles"]
        assert 0 < low <= cases["few_labels"]["ratio"] <= high


def test_a_network_that_learns_nothing_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer, "make_step", lambda *_: lambda: np.nan)
    with pytest.raises(SystemExit, match="few_labels: with the optimiser of keras the loss is nan; nothing is"):
        optimizer.main(["--cases", "few_labels", "--out", str(tmp_path / "optimizer.json")])
    assert not list(tmp_path.iterdir())
