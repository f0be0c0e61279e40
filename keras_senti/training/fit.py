"""Compile, callbacks, fit: from batches to the best weights, with curves in TensorBoard; also after a kill -9."""

import dataclasses
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from keras_senti.data.batches import Batching, TextBatches, chain_epochs, predict_in_batches
from keras_senti.data.dataset import EncodedDataset
from keras_senti.data.token_cache import Corpus
from keras_senti.errors import Terminated, UserError
from keras_senti.models.build import find_learning_layers
from keras_senti.settings.schema import TrainConfig
from keras_senti.storage.run_folder import read_manifest
from keras_senti.training.callbacks import (
    Accuracy,
    KeepBest,
    MacroF1,
    SaveProgress,
    Speed,
    StopOnNonFinite,
    StopSignal,
    TrainedRun,
    Unfreeze,
    Validate,
    write_history,
)
from keras_senti.training.checkpoints import Progress, restore_newest
from keras_senti.training.distributed import OnCopy, ReplicaLoop, copy_model
from keras_senti.training.inference import make_predict
from keras_senti.training.optimizers import make_optimizer
from keras_senti.training.run import Run


def compile_model(model: keras.Model, settings: TrainConfig, total_steps: int):
    """Compiles with cross-entropy, accuracy and macro-F1. Labels are one-hot, as label smoothing needs them."""
    model.compile(
        optimizer=make_optimizer(settings, total_steps, find_learning_layers(model), model.dtype_policy.name),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=settings.label_smoothing),
        metrics=[Accuracy(name="accuracy"), MacroF1(average="macro", name="macro_f1")],
        jit_compile=False,
    )
    # Keras would make the metrics' variables in the first step; a checkpoint must find them before.
    one_row = np.zeros((1, model.output_shape[-1]), np.float32)
    model.compute_metrics(None, one_row, one_row)
    model.reset_metrics()


def check_profile_steps(settings: TrainConfig, total_steps: int):
    """Raises a UserError if a run of so many steps does not have those that are to be profiled."""
    if settings.profile_steps and settings.profile_steps[1] > total_steps:
        raise UserError(
            f"train.profile_steps: received {settings.profile_steps}, but all epochs together have {total_steps:,} "
            "steps. Name earlier ones."
        )


def compute_class_weights(labels: np.ndarray, num_classes: int, kind: str) -> np.ndarray:
    """Returns (classes,) float32: 1 each, or rows / (classes * rows of the class)."""
    if kind == "none":
        return np.ones(num_classes, np.float32)
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * np.maximum(counts, 1))).astype(np.float32)


def weigh_rows(corpus: Corpus, class_weights: str) -> Corpus:
    """Returns a corpus whose train part has the weights of rows and classes in the loss."""
    train = corpus.train
    by_class = compute_class_weights(train.labels, len(corpus.class_names), class_weights)
    train = dataclasses.replace(train, weights=train.weights * by_class[train.labels])
    return dataclasses.replace(corpus, parts={**corpus.parts, "train": train})


class KerasLoop:
    """Keras' own `fit`, on one device; what `distributed.ReplicaLoop` is for several.

    Args:
        data: with `steps` and `tokens` of an epoch, its `padding_fraction`, its `batches` from a step on, and
            `make_dataset` of them: `TextBatches`, or `pretraining.Streams`.
        validation_data: a tf.data pipeline of known length, where Keras is to validate.
    """

    is_chief = True

    def __init__(self, model: keras.Model, data, validation_data: tf.data.Dataset | None = None):
        self.model, self.data, self.validation_data = model, data, validation_data

    def begin(self):
        pass

    def agree(self, is_due: bool, must_stop: bool) -> tuple[bool, bool]:
        return is_due, must_stop

    def fit(self, progress: Progress, epochs: int, callbacks: list):
        epoch, step = progress.epoch, progress.step
        self.model.fit(
            self.data.make_dataset(lambda: chain_epochs(self.data.batches, epoch, step)),
            initial_epoch=epoch,
            epochs=epochs,
            steps_per_epoch=self.data.steps - step,
            validation_data=self.validation_data,
            callbacks=callbacks,
            shuffle=False,  # the batches are
            verbose=1 if sys.stdout.isatty() else 2,  # a bar in a log file would be thousands of lines
        )

    def predict(self, part: EncodedDataset) -> np.ndarray:
        """Returns probabilities (rows, classes) float32; seed generators advance as in Keras' own validation."""
        return predict_in_batches(make_predict(self.model), part.token_ids)


def fit_model(model: keras.Model, loop, run: Run, make_callbacks) -> tuple[TrainedRun, list[dict]]:
    """Trains a compiled model in place and leaves it with the weights of its best epoch (monitor none: of the last).

    If the run folder has checkpoints, training goes on from the newest one and ends with the weights, to the last
    digit, of a run that was not disturbed: what is random is in the checkpoint or follows from the seed and the epoch.
    Ctrl-C ends training after at least one whole epoch as early stopping would, before that, like SIGTERM always, with
    a checkpoint from which it can go on.

    Args:
        loop: what makes the steps, a KerasLoop or a ReplicaLoop.
        make_callbacks: from a Progress to what a call of `loop.fit` needs besides the callbacks made here.
    Returns: what training found out, and the logs of each epoch.
    Raises:
        UserError: for a loss that is not finite, checkpoints that are all damaged, steps to profile that there are not.
        KeyboardInterrupt: if interrupted before the first epoch was over; Terminated: by SIGTERM.
    """
    settings, folder = run.config.train, run.folder
    check_profile_steps(settings, loop.data.steps * settings.epochs)
    (folder / "checkpoints").mkdir(exist_ok=True)
    progress = restore_newest(folder / "checkpoints", model)
    loop.begin()
    write_history(folder, progress)
    patience = settings.early_stopping_patience_epochs or settings.epochs
    keep = KeepBest(progress, settings.monitor, patience)

    def fit_until(last_epoch):
        with StopSignal() as stop:
            save = SaveProgress(progress, folder, settings.checkpoint_minutes * 60, loop, stop)
            loop.fit(progress, last_epoch, [*make_callbacks(progress), keep, save])

    begin = time.perf_counter() - progress.seconds
    interrupted = _fit_to_end(fit_until, progress, settings.epochs, patience)
    model.set_weights(progress.best_weights)
    seconds, epochs_run = time.perf_counter() - begin, len(progress.history)
    trained = TrainedRun(progress.best_epoch, epochs_run, interrupted, seconds, loop.data.padding_fraction)
    return trained, progress.history


def _fit_to_end(fit_until, progress: Progress, epochs: int, patience: int) -> bool:
    """Does what is left of a run; returns whether Ctrl-C ended it, which after a whole epoch keeps the best one.

    Args:
        fit_until: does the rest of the epoch in which `progress` stands, and then all up to the one it is given.
    """

    def is_unfinished():
        return progress.epoch < epochs and progress.epoch - progress.best_epoch < patience

    try:
        if progress.step and is_unfinished():
            fit_until(progress.epoch + 1)  # the rest of the epoch that was left in the middle
        if is_unfinished():
            fit_until(epochs)
    except KeyboardInterrupt as error:
        if isinstance(error, Terminated) or not progress.best_weights:
            raise
        print(f"\ninterrupted: keeping the weights of epoch {progress.best_epoch}", flush=True)
        return True
    return False


def find_batching(run: Run) -> Batching:
    """Returns how a run's texts are put together; what the device decides of it is kept when the run is resumed."""
    few_lengths = read_manifest(run.folder).get("few_lengths")
    if few_lengths is None:
        few_lengths = run.device.kind == "tpu"
        run.note(few_lengths=few_lengths)
    return Batching.from_settings(run.config.train, run.config.text.sequence_length, few_lengths)


def train_model(model: keras.Model, corpus: Corpus, run: Run) -> tuple[keras.Model, TrainedRun]:
    """Trains a classifier in place, or what is left of it: see `fit_model`, also for what is raised.

    Args:
        model: made in the scope of the run's device.
    Returns: the model on this process' own device alone, and what training found out.
    """
    settings, device, alone = run.config.train, run.device, model
    corpus, layers = weigh_rows(corpus, settings.class_weights), find_learning_layers(model)
    data = TextBatches(corpus.train, find_batching(run), len(corpus.class_names))
    with device.scope():
        compile_model(model, settings, data.steps * settings.epochs)
    loop = ReplicaLoop(model, device, data) if device.is_distributed else KerasLoop(model, data)
    validate = Validate(loop, corpus.validation)
    watching = [tracker.make_callback(corpus, validate) for tracker in run.trackers]
    if device.is_distributed:
        alone = copy_model(model, run.config.model)
        compile_model(alone, settings, data.steps * settings.epochs)
        watching = [OnCopy(callback, alone) for callback in watching]

    def make_callbacks(progress):
        examples = sum(map(len, data.batches(progress.epoch, progress.step)))
        speed = Speed(progress, loop, settings.epochs, examples)
        return [validate, speed, StopOnNonFinite(progress), Unfreeze(layers, settings), *watching]

    trained, _ = fit_model(model, loop, run, make_callbacks)
    for layer in layers:
        layer.trainable = True  # for whoever trains the model further
    if alone is not model:
        alone.set_weights(model.get_weights())
    for tracker in run.trackers:
        tracker.log_model(alone, corpus)
    return alone, trained
