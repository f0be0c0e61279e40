import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_senti
from keras_senti.errors import UserError
from keras_senti.settings.checks import check_settings
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import (
    BaselinesConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TextConfig,
    TrainConfig,
    list_settings,
)
from keras_senti.settings.yaml_file import write_yaml

PACKAGE = Path(keras_senti.__file__).parent


# The package


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import keras_senti, sys; print([m for m in ('tensorflow', 'keras', 'pandas', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent, timeout=60
    )
    assert run.stdout.strip() == "[]"


# Defaults and keys


def test_defaults_build_and_only_the_data_are_missing():
    assert Config(data=DataConfig(csv="reviews.csv")).train.learning_rate == 0.001
    with pytest.raises(UserError, match=r"data\.csv: received nothing.*Add --data\.csv FILE, or --data\.source tweets"):
        parse_config([])


def test_only_a_language_model_reads_texts_without_labels_and_they_are_enough_for_it():
    language_model = ["--task", "language_model", "--model.bidirectional", "false"]
    assert parse_config([*language_model, "--data.unlabeled_csv", "u.csv"]).data.csv is None
    with pytest.raises(
        UserError, match=r"data\.csv: received nothing.*--data\.unlabeled_csv FILE for text without lab"
    ):
        parse_config(language_model)
    for arguments in ([], ["--data.csv", "a.csv"], ["--data.source", "imdb"]):
        message = (
            r"data\.unlabeled_csv: received 'u\.csv', expected null unless task is language_model\. Leave it out, or"
        )
        with pytest.raises(UserError, match=message):
            parse_config([*arguments, "--data.unlabeled_csv", "u.csv"])


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().units = 3


# Built in code


def test_values_of_numpy_and_paths_become_plain_ones_that_yaml_can_write():
    data = DataConfig(
        csv=Path("a") / "b.csv", text_column=np.str_("t"), seed=np.uint8(2), test_fraction=np.float32(0.5)
    )
    train = TrainConfig(
        seed=np.int64(3), learning_rate=np.float64(0.25), bucket_lengths=np.array([4, 8]),
        train_from_epoch={np.str_("head"): np.int32(1), "embedding": None}, bucket_by_length=np.bool_(True),
    )  # fmt: skip
    evaluation, text = EvaluationConfig((np.float16(0.5),)), TextConfig(stop_words=("a", "b"))
    config = Config(data=data, train=train, evaluation=evaluation, text=text)
    assert (type(train.seed), type(train.learning_rate), type(data.text_column)) == (int, float, str)
    assert (data.csv, train.bucket_lengths, train.bucket_by_length) == ("a/b.csv", [4, 8], True)
    assert train.train_from_epoch == {"head": 1, "embedding": None} and text.stop_words == ["a", "b"]
    written = write_yaml(config)
    assert "seed: 3\n" in written and "learning_rate: 0.25\n" in written and "test_fraction: 0.5\n" in written
    assert type(TrainConfig(learning_rate=1).learning_rate) is int  # as it was given, and as earlier runs have it


CELL = "model.cell: received 'LSTM', expected one of lstm, gru, simple_rnn. Did you mean 'lstm'?"
WORDS = "a text (in quotes), or a list, or null"
TASK = "task: received 'classify', expected one of classification, language_model. Did you mean 'classification'?"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ModelConfig(cell="LSTM"), CELL),
        (lambda: ModelConfig(cell=None), "model.cell: received None, expected one of lstm, gru, simple_rnn."),
        (lambda: ModelConfig(units=100.0), "model.units: received 100.0, expected a whole number."),
        (lambda: ModelConfig(units=None), "model.units: received None, expected a whole number."),
        (lambda: ModelConfig(units=np.array([3])), "model.units: received array([3]), expected a whole number."),
        (lambda: ModelConfig(units=True), "model.units: received True, expected a whole number."),
        (lambda: ModelConfig(bidirectional="no"), "model.bidirectional: received 'no', expected true or false."),
        (lambda: TrainConfig(clip_norm="1"), "train.clip_norm: received '1', expected a number, or null."),
        (lambda: TrainConfig(bucket_lengths=8), "train.bucket_lengths: received 8, expected a list, or null."),
        (lambda: TextConfig(stop_words=3), f"text.stop_words: received 3, expected {WORDS}."),
        (lambda: DataConfig(csv=b"a.csv"), "data.csv: received b'a.csv', expected a text, or null."),
        (lambda: DataConfig(label_map="a"), "data.label_map: received 'a', expected a mapping, or null."),
        (lambda: BaselinesConfig(models="nb_svm"), "baselines.models: received 'nb_svm', expected a list."),
        (lambda: Config(model={"units": 3}), "model: received {'units': 3}, expected a ModelConfig."),
        (lambda: Config(task="classify"), TASK),
    ],
)  # fmt: skip
def test_what_a_setting_does_not_take_is_refused_by_name_in_one_line(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_settings_built_in_code_are_checked_as_those_of_the_command_line(tmp_path):
    with pytest.raises(UserError) as of_line:
        parse_config([])
    with pytest.raises(UserError) as of_code:
        check_settings(Config())
    assert str(of_line.value) == str(of_code.value)
    tweets = DataConfig(source="tweets")
    with pytest.raises(UserError, match="text.extend_vocabulary: received 3, expected 0 without init_from"):
        check_settings(Config(data=tweets, text=TextConfig(extend_vocabulary=3)))
    (tmp_path / "weights.npz").touch()
    (tmp_path / "config.yaml").write_text("model: {units: 7}\ntext: {lowercase: false}\n")
    message = (
        r"text\.lowercase: received True, but the model in init_from reads text with False; model\.units: received"
    )
    with pytest.raises(UserError, match=message):
        check_settings(Config(data=tweets, init_from=tmp_path))
    same = Config(data=tweets, init_from=tmp_path, model=ModelConfig(units=7), text=TextConfig(lowercase=False))
    assert check_settings(same) == same


def test_list_settings_gives_dotted_names():
    keys = list(list_settings())
    assert keys[:5] == ["name", "task", "run_dir", "init_from", "resume"]
    assert {"text.split", "model.units", "train.seed", "device.cpu_threads"} <= set(keys)
    assert len(keys) == len(set(keys))


def test_every_key_is_read_outside_of_config():
    owners = {"config", "settings", *(f.name for f in dataclasses.fields(Config))}
    read = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "settings" and path.name in ("sections.py", "schema.py", "checks.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            # settings.units, self.settings.units, config.train.seed; not any other object's .name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                if owner in owners:
                    read.add(node.attr)
    assert [key for key in list_settings() if key.rpartition(".")[2] not in read] == []
