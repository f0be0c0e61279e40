"""The whole way from settings to a model."""

import contextlib
import time
from pathlib import Path

from keras_senti.data import word_vectors
from keras_senti.data.checks import format_check
from keras_senti.data.token_cache import load_corpus
from keras_senti.data.unicode import make_simplifier
from keras_senti.errors import UserError
from keras_senti.evaluation import baselines
from keras_senti.export.transfer import find_seen_rows
from keras_senti.export.weights_folder import read_pretrained
from keras_senti.models.build import check_activation, list_learning_layers
from keras_senti.reports import attribution, report
from keras_senti.settings.inherit import check_settings
from keras_senti.settings.portable import resolve_paths
from keras_senti.settings.schema import Config
from keras_senti.storage import environment, run_folder
from keras_senti.tasks.classification import train_classifier
from keras_senti.tasks.language_model import pretrain
from keras_senti.tasks.session import describe_data, explain_failed_writes, load_again, open_folder
from keras_senti.training import devices
from keras_senti.training.optimizers import check_train_from_epoch
from keras_senti.training.pretraining import check_language_model


def train_run(config: Config) -> Path | None:
    """Trains, exports and scores as the settings say; prints what happens and returns the run folder.

    Of several workers only the chief has one; the others return None.

    With `config.resume` (see `parse_config`), it does what is left of the run in that folder.

    Raises:
        UserError: for settings or data that cannot work, mostly before a folder is made; after that the manifest says
            `failed`.
    """
    begin = time.perf_counter()
    config = check_settings(resolve_paths(config))
    check_activation(config.model)
    if config.task == "language_model":
        check_language_model(config)
    else:
        baselines.check_packages(config.baselines.models)
    if config.text.simplify_chinese:
        make_simplifier()
    device = devices.set_up_device(config.device, needs_one=config.task == "language_model")
    if config.run_dir is not None and device.is_chief:
        run_folder.check_new_run_dir(config.run_dir)
    check_replicas(config, device)
    if config.train.train_from_epoch:
        check_train_from_epoch(config.train, list_learning_layers(config.model))
    if config.resume is None:
        word_vectors.check_word_vectors(config)
        pretrained = read_pretrained(config.init_from) if config.init_from else None
        corpus = load_corpus(config, pretrained.vocabulary if pretrained else None)
        run_dir = run_folder.create_run_dir(config.name, config.run_dir) if device.is_chief else None
    else:
        run_dir = run_folder.check_unfinished_run_dir(config.resume)
    with contextlib.ExitStack() as stack:
        if not device.is_chief:
            run_dir = stack.enter_context(run_folder.make_worker_dir(run_dir))
        stack.enter_context(run_folder.lock_run_dir(run_dir))
        if config.resume is not None:
            pretrained, corpus = load_again(config, run_dir)
        check = format_check(corpus.splits.check)
        print(f"run folder: {run_dir}\n\ndata ({config.data.source}):\n{check}\n", flush=True)
        if pretrained:
            print(find_seen_rows(pretrained.data, describe_data(corpus)), end="")
        open_folder(config, corpus, run_dir)
        try:
            with explain_failed_writes(run_dir):
                work = pretrain if config.task == "language_model" else train_classifier
                work(config, corpus, pretrained, device, run_dir)
        except BaseException as error:
            with contextlib.suppress(UserError):  # the disk may be full: the first error is the one to be shown
                run_folder.update_manifest(run_dir, status="failed", error=f"{type(error).__name__}: {error}")
            if isinstance(error, KeyboardInterrupt) and device.is_chief:
                print(f"\nstopped; to go on from here: python train.py --resume {run_dir}", flush=True)
            raise
        seconds = round(time.perf_counter() - begin, 1)
        run_folder.update_manifest(
            run_dir, status="finished", seconds=seconds, memory_gb=environment.read_peak_memory()
        )
        if config.task == "classification" and device.is_chief:
            with run_folder.only_shown("report.html", f"`python evaluate.py --run {run_dir}` draws it again."):
                report.write_run_report(run_dir, attribution.load_explainer(run_dir).color_words)
    if not device.is_chief:
        return None
    run_folder.remove_checkpoints(run_dir)
    return run_dir


def check_replicas(config: Config, device: devices.Device):
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
