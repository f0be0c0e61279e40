import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_senti
from keras_senti.data.batches import encode_texts, predict_in_batches
from keras_senti.data.tokenizer import Tokenizer
from keras_senti.errors import UserError
from keras_senti.export.transfer import BY_TOKEN, copy_weights, find_seen_rows
from keras_senti.export.weights_folder import Pretrained, read_pretrained, read_run, write_weights_folder
from keras_senti.models.build import build_language_model, build_model
from keras_senti.models.weights import name_of, name_weights
from keras_senti.settings.command_line import parse_config
from keras_senti.tasks import evaluate
from keras_senti.tasks.train import train_run
from keras_senti.training.inference import make_predict

ROOT = Path(__file__).parents[2]
SHORT = ["--train.epochs", "1", "--train.learning_rate", "1e-9", "--train.warmup_fraction", "0"]


def train(arguments, *more):
    return train_run(parse_config([*arguments, *map(str, more)]))


def drop(arguments, *keys):
    """The settings without some keys: those that the model brings."""
    pairs = list(zip(arguments[::2], arguments[1::2]))
    return [argument for pair in pairs if pair[0].removeprefix("--") not in keys for argument in pair]


@pytest.fixture
def arguments(tiny_settings):
    return drop(tiny_settings, "text.sequence_length", "model.units", "model.embedding_dim")


def test_training_goes_on_from_the_weights_vocabulary_and_settings_of_a_run(arguments, trained_run, tmp_path, capsys):
    run_dir = train(arguments, *SHORT, "--init_from", trained_run, "--run_dir", tmp_path / "run")
    assert "init_from: " in capsys.readouterr().out
    assert (run_dir / "vocabulary.txt").read_bytes() == (trained_run / "vocabulary.txt").read_bytes()
    before, after = read_pretrained(trained_run), read_pretrained(run_dir)
    assert after.config.model == before.config.model and after.config.text == before.config.text
    assert before.weights.keys() == after.weights.keys()
    for name, weight in before.weights.items():
        np.testing.assert_allclose(after.weights[name], weight, atol=1e-5, err_msg=name)
    scores = [json.loads((d / "metrics.json").read_text())["test"]["log_loss"] for d in (trained_run, run_dir)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


@pytest.mark.slow
def test_a_saved_model_does_as_well_also_where_its_run_is_gone(arguments, trained_run, tmp_path):
    alone = shutil.copytree(trained_run / "saved_model", tmp_path / "alone")
    run_dir = train(arguments, *SHORT, "--init_from", alone, "--run_dir", tmp_path / "run")
    shutil.rmtree(alone)
    assert "film" in evaluate.evaluate_texts(run_dir, ["the film was good"])  # the new run does not need it


def test_one_that_was_trained_further_in_plain_tensorflow_brings_its_new_weights(trained_run, tmp_path):
    model = tf.saved_model.load(str(trained_run / "saved_model"))
    for variable in model.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    tf.saved_model.save(model, str(tmp_path / "further"), signatures=model.signatures)
    old, new = read_pretrained(trained_run), read_pretrained(tmp_path / "further")
    for name in old.weights:
        np.testing.assert_allclose(new.weights[name], old.weights[name] + 1, atol=1e-6)


@pytest.mark.slow
def test_other_classes_get_a_new_head_and_that_is_said(arguments, trained_run, tiny_csv, tmp_path, capsys):
    path = tmp_path / "two.csv"
    path.write_text(tiny_csv.read_text().replace("neutral", "positive"))
    arguments = [*drop(arguments, "data.csv"), "--data.csv", str(path), *SHORT]
    run_dir = train(arguments, "--init_from", trained_run, "--run_dir", tmp_path / "run")
    assert (
        "its classes were negative, neutral, positive and are now negative, positive; starting anew: head\n"
    ) in capsys.readouterr().out
    after, before = read_pretrained(run_dir), read_pretrained(trained_run)
    assert after.weights["head/kernel"].shape[1] == 2
    np.testing.assert_allclose(after.weights["embedding/embeddings"], before.weights["embedding/embeddings"], atol=1e-5)


def test_for_other_classes_all_but_the_head_is_kept():
    config = parse_config(["--data.source", "tweets", "--model.units", "2", "--model.pooling", "attention"])
    old, new = build_model(config.model, 5, 3), build_model(config.model, 5, 2)
    weights, first = ({name: v.numpy() for name, v in name_weights(model).items()} for model in (old, new))
    said = copy_weights(Pretrained(config, list("abcde"), ("a", "b", "c"), weights), new, ("a", "c"))
    assert said.endswith("weights from run; its classes were a, b, c and are now a, c; starting anew: head")
    for name, variable in name_weights(new).items():
        kept = first if name.startswith("head/") else weights
        np.testing.assert_array_equal(variable.numpy(), kept[name], err_msg=name)


@pytest.mark.slow
def test_new_words_join_the_vocabulary_with_the_mean_vector(arguments, trained_run, tiny_csv, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text(tiny_csv.read_text().replace("the ", "a quite ").replace("film", "movie"))
    arguments = [*drop(arguments, "data.csv"), "--data.csv", str(path), *SHORT, "--text.extend_vocabulary", "2"]
    run_dir = train(arguments, "--init_from", trained_run, "--run_dir", tmp_path / "run")
    after, before = read_pretrained(run_dir), read_pretrained(trained_run)
    assert after.vocabulary[:-2] == before.vocabulary and set(after.vocabulary[-2:]) == {"a", "quite"}
    old = before.weights["embedding/embeddings"]
    new = after.weights["embedding/embeddings"]
    np.testing.assert_allclose(new[: len(old)], old, atol=1e-5)
    np.testing.assert_allclose(new[len(old) :], np.tile(old[2:].mean(axis=0), (2, 1)), atol=1e-5)


def test_dropout_may_differ_but_reading_may_not(arguments, trained_run):
    start = [*arguments, "--init_from", str(trained_run)]
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


@pytest.mark.slow
def test_a_run_with_stop_words_needs_their_file_no_more(arguments, tiny_csv, tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("the\nwas\n")
    monkeypatch.chdir(tmp_path)
    arguments = [*arguments, *SHORT, "--text.stop_words", "words.txt"]
    first = train(arguments, "--run_dir", "first")
    again = train(
        arguments, "--run_dir", "again", "--init_from", "first"
    )  # the words are the model's: no contradiction
    (tmp_path / "words.txt").unlink()
    monkeypatch.chdir("/")
    third = train(arguments[:-2], "--run_dir", tmp_path / "third", "--init_from", tmp_path / again)
    assert read_pretrained(third).config.text.stop_words == ["the", "was"]
    assert "the" not in read_pretrained(tmp_path / first).vocabulary
    assert "film" in evaluate.evaluate_texts(third, ["the film was good"])


def test_the_config_file_and_the_command_line_may_name_the_model(trained_run, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"init_from: {trained_run}\ndata:\n  source: tweets\n")
    assert parse_config(["--config", str(path)]).model.units == 8
    assert parse_config(["--config", str(path), "--init_from", "null"]).model.units == 100


def test_a_weight_that_is_missing_or_extra_or_of_another_shape_is_named():
    config = parse_config(["--data.source", "tweets", "--model.units", "2", "--model.embedding_dim", "3"])
    small = build_model(config.model, 5, 2)
    pretrained = Pretrained(
        config, list("abcde"), ("n", "p"), {name: v.numpy() for name, v in name_weights(small).items()}
    )
    two_layers = build_model(dataclasses.replace(config.model, num_layers=2), 5, 2)
    with pytest.raises(UserError, match=r"the stored model has no weight recurrent_1/.*kernel"):
        copy_weights(pretrained, two_layers, ("n", "p"))
    fewer = build_model(dataclasses.replace(config.model, bidirectional=False), 5, 2)
    with pytest.raises(UserError, match=r"the new model has no weight recurrent_0/backward"):
        copy_weights(pretrained, fewer, ("n", "p"))
    wide = build_model(dataclasses.replace(config.model, embedding_dim=4), 5, 2)
    with pytest.raises(UserError, match=r"the weight embedding/embeddings has the shape \(5, 3\), .* \(5, 4\)"):
        copy_weights(pretrained, wide, ("n", "p"))


# Weights folders and language models


def test_a_weights_folder_begins_with_the_predictions_of_its_run(trained_run, tmp_path):
    write_weights_folder(tmp_path / "weights", read_run(trained_run))
    pretrained = read_pretrained(tmp_path / "weights")
    model = build_model(pretrained.config.model, len(pretrained.vocabulary), 3)
    assert copy_weights(pretrained, model, pretrained.class_names) == "9 weights from tiny"
    texts = ["the film was great", "", "the hotel was really awful"]
    encoded = encode_texts(Tokenizer(pretrained.config.text, pretrained.vocabulary), texts)
    expected = keras_senti.load(trained_run).predict_proba(texts)
    np.testing.assert_allclose(predict_in_batches(make_predict(model), encoded), expected, atol=1e-6)


@pytest.mark.slow
def test_a_classifier_is_trained_from_the_encoder_of_a_language_models_run(arguments, language_model, tmp_path, capsys):
    write_weights_folder(tmp_path / "encoder", language_model)
    more = ["--init_from", tmp_path / "encoder", "--text.sequence_length", "9", "--model.pooling", "attention"]
    run_dir = train(arguments, *SHORT, *more, "--run_dir", tmp_path / "run")
    assert "init_from: 4 weights from tiny_lm; starting anew: pooling, head\n" in capsys.readouterr().out
    after = read_pretrained(run_dir)
    assert after.vocabulary == language_model.vocabulary and after.class_names == ("negative", "neutral", "positive")
    text, model = after.config.text, after.config.model
    assert (text.lowercase, text.sequence_length, model.units, model.bidirectional) == (False, 9, 5, False)
    for name, weight in language_model.encoder_weights.items():
        np.testing.assert_allclose(after.weights[name], weight, atol=1e-5, err_msg=name)
    assert after.weights["head/kernel"].shape == (5, 3) and not any(
        name.startswith("output/") for name in after.weights
    )
    assert "film" in evaluate.evaluate_texts(run_dir, ["the film was good"])


def test_a_classifier_of_another_network_than_the_encoders_names_the_weight(language_model):
    settings = dataclasses.replace(language_model.config.model, num_layers=2)
    with pytest.raises(UserError, match=r"init_from: the stored model has no weight recurrent_1/.*kernel"):
        copy_weights(language_model, build_model(settings, 8, 2), ("n", "p"))
    settings = dataclasses.replace(language_model.config.model, units=6)
    with pytest.raises(UserError, match=r"the weight recurrent_0/lstm_cell/kernel has the shape \(4, 20\)"):
        copy_weights(language_model, build_model(settings, 8, 2), ("n", "p"))


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_is_trained_further_with_all_its_weights_also_for_new_words(language_model, tied):
    config = language_model.config
    pretrain = dataclasses.replace(config.pretrain, tie_embeddings=tied)
    old, new = (build_language_model(dataclasses.replace(config, pretrain=pretrain), size) for size in (5, 7))
    weights = {name_of(v): np.random.default_rng(0).normal(size=v.shape).astype("float32") for v in old.weights}
    by_token = {"embedding/embeddings", "output/bias"} if tied else {*BY_TOKEN}
    assert by_token == weights.keys() & {*BY_TOKEN}
    pretrained = Pretrained(config, list("abcde"), (), weights)
    assert copy_weights(pretrained, old, ()) == f"{len(weights)} weights from tiny_lm"
    assert copy_weights(pretrained, new, ()) == f"{len(weights)} weights from tiny_lm; 2 new tokens"
    for variable in new.weights:
        name = name_of(variable)
        weight = weights[name]
        if name in by_token:
            mean = (weight[2] + weight[3] + weight[4]) / 3  # without padding and [UNK]
            weight = np.stack([*weight, mean, mean])
        np.testing.assert_allclose(variable.numpy(), weight, atol=1e-6, err_msg=name)


# Rows that are scored and were learned from


SPLIT = {"train": "a", "validation": "b", "test": "c"}
OTHERS = {**SPLIT, "train": "others"}
SAME_FILE = "WARNING: the model in init_from learned from the same file ({}), which was split in another way: "
READ = "WARNING: the model in init_from has read all texts of {} as text without labels: "


def test_the_same_data_split_in_another_way_is_warned_of_wherever_the_model_is(trained_run, tmp_path):
    now = json.loads((trained_run / "manifest.json").read_text())["data"]
    write_weights_folder(tmp_path / "weights", read_run(trained_run))
    (file,) = now["sha256"]
    for path, named in (
        (trained_run, file),
        (trained_run / "saved_model", file),
        (tmp_path / "weights", "reviews.csv"),
    ):
        before = read_pretrained(path).data
        assert find_seen_rows(before, now) == ""
        assert find_seen_rows(before, {"sha256": {"other.csv": "another content"}, "split_sha256": OTHERS}) == ""
        assert find_seen_rows(before, {**now, "split_sha256": OTHERS}).startswith(SAME_FILE.format(named))
    alone = shutil.copytree(trained_run / "saved_model", tmp_path / "alone")
    assert find_seen_rows(read_pretrained(alone).data, {**now, "split_sha256": OTHERS}) == ""  # nothing is known


def test_a_file_that_was_read_without_labels_and_now_has_some_is_warned_of():
    before = {"sha256": {"a.csv": "A", "u.csv": "U"}, "split_sha256": SPLIT, "unlabeled_sha256": "U"}
    assert find_seen_rows(before, {**before, "split_sha256": SPLIT}) == ""  # read in the same way again
    now = {"sha256": {"b.csv": "B", "v.csv": "U"}, "split_sha256": OTHERS}
    assert find_seen_rows(before, now).startswith(READ.format("v.csv"))  # as validation or test file
    assert find_seen_rows(before, {**now, "sha256": {"v.csv": "U"}}).startswith(READ.format("v.csv"))
    assert find_seen_rows(before, {**now, "unlabeled_sha256": "U"}) == ""
    both = find_seen_rows(before, {**now, "sha256": {"a.csv": "A", "v.csv": "U"}})
    assert both.startswith(SAME_FILE.format("a.csv, u.csv")) and READ.format("v.csv") in both
    # The file of the train part may be both: of it the rows without label were read, which are in no part.
    same = {"sha256": {"a.csv": "A"}, "split_sha256": SPLIT, "unlabeled_sha256": "A"}
    assert find_seen_rows(same, {"sha256": {"a.csv": "A"}, "split_sha256": SPLIT}) == ""
    assert find_seen_rows(same, {"sha256": {"a.csv": "A"}, "split_sha256": OTHERS}).startswith("WARNING")


def test_what_a_weights_folder_says_of_its_data_names_files_without_folders(language_model, tmp_path):
    data = {"sha256": {"/home/me/a.csv": "A", "/more/a.csv": "B"}, "rows": {"train": 3}, "split_sha256": SPLIT}
    data["unlabeled_sha256"] = "B"
    write_weights_folder(tmp_path / "encoder", dataclasses.replace(language_model, data=data))
    expected = {"sha256": {"a.csv": "A", "a.csv (2)": "B"}, "split_sha256": SPLIT, "unlabeled_sha256": "B"}
    assert read_pretrained(tmp_path / "encoder").data == expected == read_pretrained(tmp_path).data
    (tmp_path / "encoder" / "data.json").unlink()  # as in folders from before there was one
    assert read_pretrained(tmp_path / "encoder").data == {}
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "finished", "data": data}))
    assert read_pretrained(tmp_path).data == read_pretrained(tmp_path / "encoder").data == data
    assert read_run(tmp_path).data == data


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
    assert ("no such folder" if kind == "nothing" else "no finished run, SavedModel of ours or weights") in done.stderr


def test_a_model_whose_weights_and_assets_do_not_belong_together_is_refused(trained_run, tmp_path):
    path = shutil.copytree(trained_run / "saved_model", tmp_path / "model")
    (path / "assets" / "vocabulary.txt").write_text("[PAD]\n[UNK]\none\n")
    with pytest.raises(
        UserError, match=r"variables does not belong to .* embedding/embeddings has the shape .* expected \(3, 6\)"
    ):
        read_pretrained(path)
