import re

import pytest

from keras_senti.errors import UserError
from keras_senti.settings.checks import check_settings
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import Config, DataConfig

TWEETS = ("--data.source", "tweets")
LANGUAGE_MODEL = (*TWEETS, "--task", "language_model", "--model.bidirectional", "false")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--text.extend_vocabulary 3", "text.extend_vocabulary: received 3, expected 0 without init_from, whose"),
        ("--model.embedding_trainable false", "received False, expected true without text.word_vectors: random"),
        (
            "--model.embedding_trainable false --text.word_vectors v.txt --model.bigram_buckets 7",
            "model.bigram_buckets: received 7, expected 0 beside model.embedding_trainable false: random vectors",
        ),
        (
            "--model.cell simple_rnn --model.weight_drop 0.2",
            "model.weight_drop: received 0.2, expected 0 with model.cell simple_rnn, which has none.",
        ),
        (
            "--train.bucket_by_length false --train.batch_tokens 9",
            "train.batch_tokens: received 9, expected null where train.bucket_by_length is false.",
        ),
        (
            "--train.bucket_by_length false --train.bucket_lengths [4,8]",
            "train.bucket_lengths: received [4, 8], expected null where train.bucket_by_length is false.",
        ),
        ("--device.replicas 2", "device.replicas: received 2, expected null unless device.strategy is mirrored."),
        (
            "--device.strategy gpu --device.steps_per_execution 4",
            "device.steps_per_execution: received 4, expected null or 1 with device.strategy gpu, where Keras",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(UserError, match=f"^settings: .*{re.escape(message)}"):
        parse_config([*TWEETS, *arguments.split()])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--model.bidirectional true", "received True, expected false with task language_model: its backward half has"),
        ("--model.conv_filters 4", "model.conv_filters: received 4, expected 0 with task language_model: it sees the"),
        ("--model.bigram_buckets 7", "received 7, expected 0 with task language_model: a window's first token"),
        ("--train.monitor val_accuracy", 'received \'val_accuracy\', expected "val_loss" or "none" with task'),
        ("--train.label_smoothing 0.1", "received 0.1, expected 0 with task language_model: it is for classifiers."),
        (
            "--train.class_weights balanced",
            "received 'balanced', expected \"none\" with task language_model: it is for",
        ),
        ("--train.batch_tokens 9", "received 9, expected null with task language_model: it is for classifiers."),
        ("--train.train_from_epoch {head:}", "expected null with task language_model: it is for classifiers."),
    ],
)
def test_what_makes_no_language_model_is_refused(arguments, message):
    with pytest.raises(UserError, match=f"^settings: .*{re.escape(message)}"):
        parse_config([*LANGUAGE_MODEL, *arguments.split()])


def test_what_suits_a_language_model_or_a_device_is_taken():
    assert parse_config([*LANGUAGE_MODEL, "--train.monitor", "none"]).train.monitor == "none"
    arguments = ["--device.strategy", "cpu", "--device.steps_per_execution", "1"]
    assert parse_config([*TWEETS, *arguments]).device.steps_per_execution == 1


def test_random_vectors_are_frozen_only_where_a_model_or_a_file_has_others(tmp_path):
    (tmp_path / "weights.npz").touch()
    (tmp_path / "config.yaml").write_text("model: {bigram_buckets: 7}\n")
    begun = [*TWEETS, "--init_from", str(tmp_path), "--model.embedding_trainable", "false"]
    assert parse_config(begun).model.bigram_buckets == 7
    with pytest.raises(UserError, match="text.word_vectors: received 'v.txt', expected null beside init_from, whose"):
        parse_config([*begun, "--text.word_vectors", "v.txt"])
    assert parse_config([*TWEETS, *begun[4:], "--text.word_vectors", "v.txt"]).text.word_vectors == "v.txt"


def test_settings_that_go_together_come_back_as_they_are():
    config = Config(data=DataConfig(source="tweets"))
    assert check_settings(config) == config
