import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_senti
from keras_senti.cli import export
from keras_senti.errors import UserError
from keras_senti.export import weights_folder
from keras_senti.export.weights_folder import read_pretrained, read_run, write_weights_folder
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.yaml_file import read_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def classifier(trained_run):
    return read_run(trained_run)


@pytest.fixture
def folder(classifier, tmp_path):
    write_weights_folder(tmp_path / "weights", classifier)
    return tmp_path / "weights"


# Out and back in


def test_a_classifier_comes_back_as_it_was(classifier, folder):
    again = read_pretrained(folder)
    names = {"config.yaml", "data.json", "vocabulary.txt", "weights.npz", "class_names.json", "calibration.json"}
    assert {p.name for p in folder.iterdir()} == names
    assert again.calibration == classifier.calibration and again.calibration["temperature"] > 0
    assert again.vocabulary == classifier.vocabulary and again.class_names == ("negative", "neutral", "positive")
    assert (again.config.text, again.config.model) == (classifier.config.text, classifier.config.model)
    assert again.weights.keys() == classifier.weights.keys() and "head/kernel" in again.weights
    for name, weight in classifier.weights.items():
        np.testing.assert_array_equal(again.weights[name], weight)


def test_a_folder_from_before_there_was_a_temperature_loads(folder):
    (folder / "calibration.json").unlink()
    assert read_pretrained(folder).calibration is None
    assert len(keras_senti.load(folder).predict("the film was great")) == 1
    with pytest.raises(UserError, match=r"received calibrated=True, but .*weights is from before"):
        keras_senti.load(folder).predict("the film was great", calibrated=True)


def test_a_language_model_comes_back_as_it_was_and_has_no_classes(language_model, tmp_path):
    write_weights_folder(tmp_path / "encoder", language_model)
    assert {p.name for p in (tmp_path / "encoder").iterdir()} == {"config.yaml", "vocabulary.txt", "weights.npz"}
    again = read_pretrained(tmp_path / "encoder")
    assert again.is_language_model and again.class_names == () and again.config.task == "language_model"
    np.testing.assert_array_equal(again.weights["output/bias"], language_model.weights["output/bias"])


def test_float16_halves_the_weights_and_keeps_three_digits(classifier, tmp_path):
    for dtype in ("float32", "float16"):
        write_weights_folder(tmp_path / dtype, classifier, dtype)
    with np.load(tmp_path / "float16" / "weights.npz") as stored:
        assert {array.dtype.name for array in stored.values()} == {"float16"}
    again = read_pretrained(tmp_path / "float16").weights
    for name, weight in classifier.weights.items():
        assert again[name].dtype == np.float32
        np.testing.assert_allclose(again[name], weight, rtol=1e-3, atol=1e-7, err_msg=name)  # below 6e-5: fewer digits


def test_its_settings_name_no_place_and_can_be_read(classifier, tmp_path):
    arguments = [f"--data.{key} {tmp_path}/{key}" for key in ("csv", "validation_csv", "test_csv")]
    more = f"--data.cache_dir {tmp_path}/cache --text.word_vectors {tmp_path}/v.txt --run_dir {tmp_path}/run"
    config = parse_config(f"{' '.join(arguments)} {more} --data.text_column review".split())
    further = dataclasses.replace(config.text, extend_vocabulary=3)
    data = dataclasses.replace(config.data, unlabeled_csv=f"{tmp_path}/u.csv")  # as a language model has it
    config = dataclasses.replace(
        config, data=data, model=classifier.config.model, init_from=f"{tmp_path}/first", text=further
    )
    write_weights_folder(tmp_path / "weights", dataclasses.replace(classifier, config=config))
    assert str(tmp_path) not in (tmp_path / "weights" / "config.yaml").read_text()
    again = read_config(tmp_path / "weights" / "config.yaml")
    assert (again.data.source, again.data.csv, again.data.text_column) == ("csv", None, "review")
    assert (again.init_from, again.text.word_vectors, again.text.extend_vocabulary) == (None, None, 0)


def test_a_killed_write_leaves_nothing(classifier, tmp_path, monkeypatch):
    def stop(file, **arrays):
        assert [p.name[:8] for p in tmp_path.iterdir()] == ["writing-"]  # not yet under its own name
        raise KeyboardInterrupt

    monkeypatch.setattr(weights_folder.np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
        write_weights_folder(tmp_path / "weights", classifier)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value, dtype, said", [(7e4, "float16", "70000"), (np.inf, "float32", "inf"), (np.nan, "float32", "nan")]
)
def test_a_weight_that_the_file_cannot_hold_is_refused(classifier, tmp_path, value, dtype, said):
    weights = {**classifier.weights, "head/bias": np.array([0, value, 0], np.float32)}
    with pytest.raises(UserError, match=rf"the weight head/bias has values up to {said}, expected .* {dtype} can hold"):
        write_weights_folder(tmp_path / "weights", dataclasses.replace(classifier, weights=weights), dtype)
    assert list(tmp_path.iterdir()) == []


# What is refused


@pytest.mark.parametrize("name", ["config.yaml", "vocabulary.txt", "class_names.json"])
def test_a_part_that_is_missing_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(
        UserError, match=rf"weights: has no {re.escape(name)}\. A weights folder holds .*: bring it back"
    ):
        read_pretrained(folder)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("config.yaml", "model: {unit: 3}", r"config\.yaml: unknown key 'model\.unit'"),
        ("config.yaml", "a: [", r"config\.yaml: not valid YAML"),
        ("vocabulary.txt", "the\nfilm\n", r"embedding/embeddings has the shape \(\d\d, 6\), expected \(2, 6\)\. Bring"),
        ("class_names.json", '["no", "yes"]', r"head/kernel has the shape \(48, 3\), expected \(48, 2\)"),
        (
            "class_names.json",
            '{"no": 0}',
            r"class_names\.json is damaged: expected a list of different names, rec.*'no'",
        ),
        ("class_names.json", '["no", "no", "yes"]', r"expected a list of different names, received \['no', 'no'"),
        ("class_names.json", "[" * 100_000, r"class_names\.json cannot be read: maximum recursion depth"),
        ("class_names.json", "[", r"class_names\.json cannot be read"),
        ("class_names.json", '["a", "b", ""]', r"class_names\.json is damaged: expected names that can be wr.* ''"),
        ("class_names.json", '["a", "b", "\\ud800"]', r"class_names\.json is damaged: .* received '\\ud800'"),
        ("class_names.json", '["a", "b", "\\u001b[2J"]', r"class_names\.json is damaged: .* received '\\x1b\[2J'"),
        (
            "data.json",
            '{"sha256": {}}',
            r"data\.json is damaged: expected sha256 and split_sha256, received \{'sha256'",
        ),
        ("calibration.json", '{"temperature": -1, "abstain": []}', r"calibration\.json is damaged: expected a temp"),
        (
            "calibration.json",
            '{"temperature": Infinity, "abstain": []}',
            r"calibration\.json is damaged: expected a tem",
        ),
        ("calibration.json", '{"temperature": 1, "abstain": [{}]}', r"calibration\.json is damaged: expected a temp"),
        (
            "calibration.json",
            '{"temperature": 1, "abstain": [{"threshold": 0.5}]}',
            r"calibration\.json is damaged: expected a temp",
        ),
        ("calibration.json", f'{{"temperature": 1{"0" * 400}, "abstain": []}}', r"calibration\.json is damaged: expe"),
        ("calibration.json", '{"temperature": 1e-320, "abstain": []}', r"calibration\.json is damaged: expected a te"),
        ("calibration.json", "[]", r"calibration\.json is damaged: expected a temperature above 0"),
        ("weights.npz", "no archive", r"weights\.npz is damaged: File is not a zip file\. Bring it back"),
    ],
)
def test_a_part_that_is_damaged_is_named(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_pretrained(folder)


def test_a_vocabulary_with_a_token_twice_or_without_padding_is_refused(folder):
    tokens = (folder / "vocabulary.txt").read_text().splitlines()
    for wrong, message in (
        ([*tokens[:-1], tokens[2]], "received the token '.*' twice"),
        (tokens[::-1], r"\['.*first, ex"),
    ):
        (folder / "vocabulary.txt").write_text("\n".join(wrong) + "\n")
        with pytest.raises(UserError, match=f"vocabulary.txt: .*{message}"):
            read_pretrained(folder)


def test_hashes_of_another_kind_are_refused(folder):
    (folder / "data.json").write_text('{"sha256": {"a.csv": []}, "split_sha256": {"train": "a"}}')
    with pytest.raises(UserError, match="data.json is damaged: expected sha256 and split_sha256"):
        read_pretrained(folder)


def test_weights_that_are_damaged_or_no_numbers_are_refused(folder):
    whole = (folder / "weights.npz").read_bytes()
    middle = whole.index(b"NUMPY") + 200
    (folder / "weights.npz").write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    with pytest.raises(UserError, match=r"weights\.npz is damaged: Bad CRC-32 for file 'embedding/embeddings"):
        read_pretrained(folder)
    (folder / "weights.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"weights\.npz is damaged"):
        read_pretrained(folder)


@pytest.mark.parametrize(
    "bias, message",
    [
        (np.zeros(3, np.int64), "is damaged: head/bias is int64, expected float32 or float16"),
        (np.array([None] * 3, object), r"is damaged: head/bias of object \(3,\) has another size in the file"),
        (np.zeros(2, np.float32), r"the weight head/bias has the shape \(2,\), expected \(3,\)\. Bring"),
        (np.array([0, np.nan, 0], np.float32), "the weight head/bias has values that are no finite numbers"),
        (None, r"the weight head/bias is missing, expected \(3,\)\. Bring"),
    ],
)
def test_weights_of_another_kind_or_size_are_refused(folder, bias, message):
    with np.load(folder / "weights.npz") as stored:
        arrays = {**stored, "head/bias": bias}
    np.savez(folder / "weights.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=message):
        read_pretrained(folder)


# The command


@pytest.mark.slow
def test_the_command_makes_a_folder_from_a_finished_run(trained_run, classifier, tmp_path):
    arguments = [str(trained_run), str(tmp_path / "models" / "small"), "--dtype", "float16"]
    command = [sys.executable, "-m", "keras_senti", "export", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"small: 9 weights of tiny in float16, 0\.0 MB\n", done.stdout)
    again = read_pretrained(tmp_path / "models" / "small")
    np.testing.assert_allclose(again.weights["head/kernel"], classifier.weights["head/kernel"], rtol=1e-3, atol=1e-7)


def test_the_command_takes_the_encoder_of_a_language_models_run(language_model, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "manifest.json").write_text('{"status": "finished"}')
    write_weights_folder(run_dir / "encoder", language_model)
    (tmp_path / "empty").mkdir()
    export.main([str(run_dir), str(tmp_path / "empty")])
    assert "empty: 7 weights of tiny_lm in float32" in capsys.readouterr().out
    assert read_pretrained(tmp_path / "empty").weights.keys() == language_model.weights.keys()


def test_the_command_never_writes_over_anything(trained_run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="is there already and not an empty folder. Name a new one"):
            export.main([str(trained_run), str(path)])
    assert (tmp_path / "notes.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match=r"cannot make .*notes\.txt"):
        export.main([str(trained_run), str(tmp_path / "notes.txt" / "small")])


def test_the_command_refuses_what_is_no_finished_run_or_is_damaged(trained_run, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    copy = shutil.copytree(trained_run, tmp_path / "run")
    (copy / "model.keras").unlink()  # which nothing here reads
    assert read_run(copy).weights.keys() == read_run(trained_run).weights.keys()
    variables = next((copy / "saved_model" / "variables").glob("variables.data*"))
    variables.write_bytes(variables.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"variables: received .*, expected the weights of a SavedModel that keras_senti"
    ):
        read_run(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    with pytest.raises(UserError, match="this run is 'running', not 'finished'"):
        read_run(copy)
