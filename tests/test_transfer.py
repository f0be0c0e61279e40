import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_senti import workflow
from keras_senti.config import UserError
from keras_senti.models import build_model
from keras_senti.parsing import parse_config
from keras_senti.transfer import Pretrained, copy_weights, find_seen_rows, name_of, read_pretrained

ROOT = Path(__file__).parents[1]
SHORT = ["--train.epochs", "1", "--train.learning_rate", "1e-9", "--train.warmup_fraction", "0"]


def train(words, *more):
    return workflow.train_run(parse_config([*words, *map(str, more)]))


def drop(words, *keys):
    """The settings without some keys: those that the model brings."""
    pairs = list(zip(words[::2], words[1::2]))
    return [word for pair in pairs if pair[0].removeprefix("--") not in keys for word in pair]


@pytest.fixture
def words(tiny_settings):
    return drop(tiny_settings, "text.sequence_length", "model.units", "model.embedding_dim")


def test_training_goes_on_from_the_weights_vocabulary_and_settings_of_a_run(words, trained_run, tmp_path, capsys):
    run_dir = train(words, *SHORT, "--init_from", trained_run, "--run_dir", tmp_path / "run")
    assert "init_from: " in capsys.readouterr().out
    assert (run_dir / "vocabulary.txt").read_bytes() == (trained_run / "vocabulary.txt").read_bytes()
    before, after = read_pretrained(trained_run), read_pretrained(run_dir)
    assert after.config.model == before.config.model and after.config.text == before.config.text
    assert before.weights.keys() == after.weights.keys()
    for name, weight in before.weights.items():
        np.testing.assert_allclose(after.weights[name], weight, atol=1e-5, err_msg=name)
    scores = [json.loads((d / "metrics.json").read_text())["test"]["log_loss"] for d in (trained_run, run_dir)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


def test_a_saved_model_does_as_well_also_where_its_run_is_gone(words, trained_run, tmp_path):
    alone = shutil.copytree(trained_run / "saved_model", tmp_path / "alone")
    run_dir = train(words, *SHORT, "--init_from", alone, "--run_dir", tmp_path / "run")
    shutil.rmtree(alone)
    assert "film" in workflow.evaluate_texts(run_dir, ["the film was good"])  # the new run does not need it


def test_one_that_was_trained_further_in_plain_tensorflow_brings_its_new_weights(trained_run, tmp_path):
    model = tf.saved_model.load(str(trained_run / "saved_model"))
    for variable in model.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    tf.saved_model.save(model, str(tmp_path / "further"), signatures=model.signatures)
    old, new = read_pretrained(trained_run), read_pretrained(tmp_path / "further")
    for name in old.weights:
        np.testing.assert_allclose(new.weights[name], old.weights[name] + 1, atol=1e-6)


def test_other_classes_get_a_new_head_and_that_is_said(words, trained_run, tiny_csv, tmp_path, capsys):
    path = tmp_path / "two.csv"
    path.write_text(tiny_csv.read_text().replace("neutral", "positive"))
    words = [*drop(words, "data.csv"), "--data.csv", str(path), *SHORT]
    run_dir = train(words, "--init_from", trained_run, "--run_dir", tmp_path / "run")
    assert (
        "its classes were negative, neutral, positive and are now negative, positive: the last layer (head) starts anew"
    ) in capsys.readouterr().out
    after, before = read_pretrained(run_dir), read_pretrained(trained_run)
    assert after.weights["head/kernel"].shape[1] == 2
    np.testing.assert_allclose(after.weights["embedding/embeddings"], before.weights["embedding/embeddings"], atol=1e-5)


def test_new_words_join_the_vocabulary_with_the_mean_vector(words, trained_run, tiny_csv, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text(tiny_csv.read_text().replace("the ", "a quite ").replace("film", "movie"))
    words = [*drop(words, "data.csv"), "--data.csv", str(path), *SHORT, "--text.extend_vocabulary", "2"]
    run_dir = train(words, "--init_from", trained_run, "--run_dir", tmp_path / "run")
    after, before = read_pretrained(run_dir), read_pretrained(trained_run)
    assert after.vocabulary[:-2] == before.vocabulary and set(after.vocabulary[-2:]) == {"a", "quite"}
    old = before.weights["embedding/embeddings"]
    new = after.weights["embedding/embeddings"]
    np.testing.assert_allclose(new[: len(old)], old, atol=1e-5)
    np.testing.assert_allclose(new[len(old) :], np.tile(old[2:].mean(axis=0), (2, 1)), atol=1e-5)


def test_dropout_may_differ_but_reading_may_not(words, trained_run):
    start = [*words, "--init_from", str(trained_run)]
    assert parse_config([*start, "--model.dropout", "0.4"]).model.dropout == 0.4
    assert parse_config([*start, "--text.sequence_length", "12"]).text.sequence_length == 12  # as the model's
    message = (
        r"text\.lowercase: received False, but the model in init_from reads text with True\. Leave this setting out"
    )
    with pytest.raises(UserError, match=message):
        parse_config([*start, "--text.lowercase", "false"])
    message = (
        r"model\.activation: received 'relu', but the model in init_from was made with 'tanh'\. Leave this setting"
    )
    with pytest.raises(UserError, match=message):  # the weights would fit
        parse_config([*start, "--model.activation", "relu"])


def test_the_same_data_split_in_another_way_is_warned_of(trained_run):
    data = json.loads((trained_run / "manifest.json").read_text())["data"]
    files, split = data["sha256"], data["split_sha256"]
    for path in (trained_run, trained_run / "saved_model"):
        assert find_seen_rows(path, files, split) == ""
        assert find_seen_rows(path, {"other.csv": "another content"}, {**split, "train": "others"}) == ""
        found = find_seen_rows(path, files, {**split, "train": "others"})
        assert re.match(r"WARNING: the model in init_from learned from the same file \(.*reviews\.csv\)", found)
    assert find_seen_rows("nowhere", files, {**split, "train": "others"}) == ""


@pytest.mark.slow
def test_a_run_with_stop_words_needs_their_file_no_more(words, tiny_csv, tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("the\nwas\n")
    monkeypatch.chdir(tmp_path)
    words = [*words, *SHORT, "--text.stop_words", "words.txt"]
    first = train(words, "--run_dir", "first")
    again = train(words, "--run_dir", "again", "--init_from", "first")  # the words are the model's: no contradiction
    (tmp_path / "words.txt").unlink()
    monkeypatch.chdir("/")
    third = train(words[:-2], "--run_dir", tmp_path / "third", "--init_from", tmp_path / again)
    assert read_pretrained(third).config.text.stop_words == ["the", "was"]
    assert "the" not in read_pretrained(tmp_path / first).vocabulary
    assert "film" in workflow.evaluate_texts(third, ["the film was good"])


def test_the_config_file_and_the_command_line_may_name_the_model(trained_run, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"init_from: {trained_run}\ndata:\n  source: tweets\n")
    assert parse_config(["--config", str(path)]).model.units == 8
    assert parse_config(["--config", str(path), "--init_from", "null"]).model.units == 100


def test_a_weight_that_is_missing_or_extra_or_of_another_shape_is_named():
    config = parse_config(["--data.source", "tweets", "--model.units", "2", "--model.embedding_dim", "3"])
    small = build_model(config.model, 5, 2)
    pretrained = Pretrained(config, list("abcde"), ("n", "p"), {name_of(v): v.numpy() for v in small.weights})
    two_layers = build_model(dataclasses.replace(config.model, num_layers=2), 5, 2)
    with pytest.raises(UserError, match=r"the old model has no weight recurrent_1/.*kernel"):
        copy_weights(pretrained, two_layers, ("n", "p"))
    fewer = build_model(dataclasses.replace(config.model, bidirectional=False), 5, 2)
    with pytest.raises(UserError, match=r"the new model has no weight recurrent_0/backward"):
        copy_weights(pretrained, fewer, ("n", "p"))
    wide = build_model(dataclasses.replace(config.model, embedding_dim=4), 5, 2)
    with pytest.raises(UserError, match=r"the weight embedding/embeddings has the shape \(5, 3\), .* \(5, 4\)"):
        copy_weights(pretrained, wide, ("n", "p"))


def test_names_do_not_depend_on_what_else_the_process_built():
    config = parse_config(["--data.source", "tweets", "--model.units", "2", "--model.num_layers", "2"])
    first, second = (sorted(map(name_of, build_model(config.model, 5, 2).weights)) for _ in range(2))
    assert first == second and len(set(first)) == len(first)
    assert first[0] == "embedding/embeddings"


@pytest.mark.parametrize("kind", ["nothing", "empty folder", "another SavedModel"])
def test_what_is_no_model_of_ours_is_refused(kind, tmp_path):
    path = tmp_path / "model"
    if kind != "nothing":
        path.mkdir()
    if kind == "another SavedModel":
        tf.saved_model.save(tf.Module(), str(path))
    done = subprocess.run(
        [sys.executable, "train.py", "--data.source", "tweets", "--init_from", str(path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "init_from: " in done.stderr and "Traceback" not in done.stderr
    assert ("no such folder" if kind == "nothing" else "neither a finished run nor a SavedModel of ours") in done.stderr


def test_a_model_whose_weights_and_assets_do_not_belong_together_is_refused(trained_run, tmp_path):
    path = shutil.copytree(trained_run / "saved_model", tmp_path / "model")
    (path / "assets" / "vocabulary.txt").write_text("[PAD]\n[UNK]\none\n")
    with pytest.raises(UserError, match="its weights and its assets/ do not belong together"):
        read_pretrained(path)
