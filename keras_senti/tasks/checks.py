"""What is checked before any data is read: the settings, what they need to be installed, and the device."""

from keras_senti.data import word_vectors
from keras_senti.data.unicode import make_simplifier
from keras_senti.errors import UserError
from keras_senti.evaluation import baselines
from keras_senti.evaluation.metrics import METRICS
from keras_senti.models.build import list_learning_layers
from keras_senti.models.encoder import check_activation
from keras_senti.settings.checks import check_settings
from keras_senti.settings.portable import resolve_paths
from keras_senti.settings.schema import Config
from keras_senti.storage import run_folder
from keras_senti.training.devices import Device
from keras_senti.training.optimizers import check_train_from_epoch


def check_run(config: Config) -> Config:
    """Returns the settings with whole paths.

    Raises:
        UserError: for settings that cannot work, whatever the device; starts nothing.
    """
    config = check_settings(resolve_paths(config))  # of those built in code; `parse_config` calls it before TensorFlow
    check_activation(config.model)
    if config.task == "classification":
        baselines.check_packages(config.baselines.models)
        monitors = ["val_loss", *(f"val_{name}" for name, metric in METRICS.items() if metric.each_epoch), "none"]
        if config.train.monitor not in monitors:
            raise UserError(f"train.monitor: received {config.train.monitor!r}, expected one of {', '.join(monitors)}.")
    if config.text.simplify_chinese:
        make_simplifier()
    return config


def check_on_device(config: Config, device: Device):
    """Raises a UserError for settings that cannot work on this device, or need TensorFlow to be looked at."""
    if config.run_dir is not None and device.is_chief:
        run_folder.check_new_run_dir(config.run_dir)
    check_replicas(config, device)
    if config.train.train_from_epoch:
        check_train_from_epoch(config.train, list_learning_layers(config.model))
    if config.resume is None and config.text.word_vectors is not None:
        word_vectors.check_word_vectors(config.text.word_vectors, config.model.embedding_dim)


def check_replicas(config: Config, device: Device):
    """Raises a UserError unless this device can do the task."""
    if device.is_distributed and config.task == "language_model":
        raise UserError(
            f"device.strategy: {device.line}: a language model carries the state of each stream from step to step, "
            "which one device can do. Use --device.strategy cpu, or gpu; the classifier that begins with its encoder "
            "can be trained on any."
        )
    if device.is_distributed and config.train.profile_steps:
        raise UserError(
            f"train.profile_steps: received {config.train.profile_steps}, but a profile is taken with one CPU or GPU "
            f"only ({device.line}). Leave it out, or use --device.strategy cpu, or gpu."
        )
    if device.replicas > config.train.batch_size:
        raise UserError(
            f"train.batch_size: received {config.train.batch_size}, expected at least {device.replicas}: each replica "
            f"takes its share of a batch ({device.line})."
        )
