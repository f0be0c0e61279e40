"""Compile, callbacks, fit: from batches to the best weights, with curves in TensorBoard; also after a kill -9."""

import contextlib
import csv
import io
import itertools
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_senti.checkpoints import Progress, restore_metrics, restore_newest, write_checkpoint
from keras_senti.data.batches import (
    Bucket,
    EncodedTexts,
    compute_padding_fraction,
    find_bucket,
    make_dataset,
    padded_length,
    plan_by_length,
    plan_epoch,
)
from keras_senti.devices import Device
from keras_senti.errors import Terminated, UserError
from keras_senti.evaluation.metrics import compute_metrics
from keras_senti.models.build import find_learning_layers
from keras_senti.optimizers import find_first_epoch, make_optimizer
from keras_senti.replicas import ReplicaLoop, Shares
from keras_senti.settings.schema import TrainConfig
from keras_senti.storage import files
from keras_senti.tensorboard import Board, Examples

SECONDS_BETWEEN_LINES = 60


@dataclass(frozen=True)
class TrainedRun:
    """What training found out, resumed parts together.

    best_epoch, whose weights were kept, counts from 1; padding_fraction is the share of positions without a token.
    """

    best_epoch: int
    epochs_run: int
    interrupted: bool
    seconds: float
    padding_fraction: float


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the best epoch; stops after `patience_epochs` without a better one.

    With monitor none each epoch is better than the one before it.

    Keras' EarlyStopping forgets in `on_train_begin` what it knew; this one has all its state in `progress`.
    """

    def __init__(self, progress: Progress, monitor: str, patience_epochs: int):
        super().__init__()
        self.progress, self.monitor, self.patience_epochs = progress, monitor, patience_epochs
        self.sign = -1 if monitor == "val_loss" else 1

    def on_epoch_end(self, epoch, logs=None):
        value, best = float(epoch if self.monitor == "none" else logs[self.monitor]), self.progress
        if not best.best_epoch or self.sign * value > self.sign * best.best_value:
            best.best_epoch, best.best_value, best.best_weights = epoch + 1, value, self.model.get_weights()
        if epoch + 1 - best.best_epoch >= self.patience_epochs:
            self.model.stop_training = True


class Unfreeze(keras.callbacks.Callback):
    """Lets each layer learn from its epoch on, and says so where that changes.

    What does not learn, and has nothing below it that learns, takes no time on the way back, because TensorFlow drops
    from a graph what no update needs. Measured with two LSTM of 256 units in two directions: with the head alone a step
    took at most 1.1 times as long as the forward way, with all layers 4 to 6 times.

    Reference: Howard & Ruder 2018, https://aclanthology.org/P18-1031, section 3.3 (gradual unfreezing).
    """

    def __init__(self, layers: list, settings: TrainConfig):
        super().__init__()
        self.layers, self.settings = layers, settings

    def on_epoch_begin(self, epoch, logs=None):
        first_epochs = [find_first_epoch(self.settings, layer.name) for layer in self.layers]
        learns = [first is not None and first <= epoch + 1 for first in first_epochs]
        if learns == [layer.trainable for layer in self.layers]:
            return
        for layer, value in zip(self.layers, learns):
            layer.trainable = value
        self.model.make_train_function(force=True)  # the one that Keras has is for the layers that learned before
        names = ", ".join(layer.name for layer in self.layers if layer.trainable)
        print(f"from epoch {epoch + 1} on these layers learn: {names}", flush=True)


class StopSignal:
    """Keeps the first Ctrl-C or SIGTERM until training is between two steps, where a checkpoint can be written.

    The second one ends what runs at once. What nobody handles in Python, as SIGTERM in a program of others, is left.
    """

    def __init__(self):
        self.received, self.handlers = None, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self.handlers = {number: handler for number, handler in found.items() if callable(handler)}
            for number in self.handlers:
                signal.signal(number, self._keep)
        return self

    def __exit__(self, *error):
        if self.received is None:
            self._restore()
        elif error[0] is None:
            self.deliver()

    def _keep(self, number, frame):
        self.received = number
        self._restore()
        with contextlib.suppress(OSError):  # not print, which may be what was interrupted
            os.write(2, b"\nstopping after this step; once more: at once\n")

    def _restore(self):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def deliver(self):
        """Does now what the signal would have done without this object, mostly raise KeyboardInterrupt."""
        number, self.received = self.received, None
        if number is None:
            raise KeyboardInterrupt  # it was another worker that was asked to stop
        self.handlers[number](number, None)


class SaveProgress(keras.callbacks.Callback):
    """Writes history.csv and the checkpoints. The last of the callbacks: what it saves, all the others have seen.

    Args:
        loop: of several replicas, whose workers save at the same step, because metrics are read from all of them; only
            the chief writes.
        stop: if it has received a signal, a checkpoint is written before training ends.
    """

    def __init__(
        self,
        progress: Progress,
        run_dir: Path,
        every_seconds: float,
        loop: ReplicaLoop | None = None,
        stop: StopSignal | None = None,
    ):
        super().__init__()
        self.progress, self.run_dir, self.every_seconds, self.loop = progress, run_dir, every_seconds, loop
        self.stop = stop or StopSignal()
        self.is_chief = loop is None or loop.device.is_chief
        self.written = time.perf_counter()
        self.begin = self.written - progress.seconds

    def on_epoch_begin(self, epoch, logs=None):
        restore_metrics(self.model, self.progress)
        self.first_step = self.progress.step
        self.steps = self.progress.step + self.params["steps"]

    def on_train_batch_end(self, batch, logs=None):
        self.progress.step = self.first_step + batch + 1
        is_due, must_stop = self._agree(time.perf_counter() - self.written >= self.every_seconds)
        # After the last step it is the epoch's end that writes: fit cannot begin an epoch without a step.
        if (is_due or must_stop) and self.progress.step < self.steps:
            self._write()
            if must_stop:
                self.stop.deliver()

    def on_epoch_end(self, epoch, logs=None):
        self.progress.epoch, self.progress.step = epoch + 1, 0
        self.progress.history.append({"epoch": epoch, **{name: float(logs[name]) for name in sorted(logs)}})
        self._write()
        if self.is_chief:
            write_history(self.run_dir, self.progress)
        if self._agree()[1]:
            self.stop.deliver()

    def _agree(self, is_due: bool = False) -> tuple[bool, bool]:
        must_stop = self.stop.received is not None
        return self.loop.agree(is_due, must_stop) if self.loop else (is_due, must_stop)

    def _write(self):
        self.progress.seconds = time.perf_counter() - self.begin
        write_checkpoint(self.run_dir / "checkpoints", self.model, self.progress, self.is_chief)
        self.written = time.perf_counter()


def write_history(run_dir: Path, progress: Progress):
    """Writes history.csv: a row an epoch, counted from 0 as in TensorBoard."""
    file = io.StringIO()
    writer = csv.DictWriter(file, progress.history[0] if progress.history else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(progress.history)
    files.write_text(run_dir / "history.csv", file.getvalue())


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends the run with a clear message as soon as the loss is no longer a number."""

    def __init__(self, progress: Progress):
        super().__init__()
        self.progress = progress

    def on_train_batch_end(self, batch, logs=None):
        self._check(logs["loss"], f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}", "loss")

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs.get("val_loss", 0.0), f"epoch {epoch + 1}", "validation loss")

    def _check(self, loss, where, what):
        if not math.isfinite(loss):
            rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
            raise UserError(
                f"training: the {what} became {loss} in {where}, at learning rate {rate:.3g}. Lower "
                "train.learning_rate, set train.clip_norm, or lengthen train.warmup_fraction."
            )


class Throughput(keras.callbacks.Callback):
    """Adds examples a second to the logs, validation time left out.

    Args:
        examples: of the part of an epoch that `fit` runs.
    """

    def __init__(self, examples: int):
        super().__init__()
        self.examples = examples

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()
        self.seconds = None

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.begin

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.seconds or time.perf_counter() - self.begin
        logs["examples_per_second"] = self.examples / seconds


class ShowProgress(keras.callbacks.Callback):
    """Prints a line a minute: how far, how fast, how long still; and adds tokens_per_second to the logs.

    Args:
        steps: of an epoch; epochs: of the run. tokens: real (unpadded) ones of a whole epoch.
    """

    def __init__(self, progress: Progress, steps: int, epochs: int, tokens: int):
        super().__init__()
        self.progress, self.steps, self.epochs, self.tokens_per_step = progress, steps, epochs, tokens / steps

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = self.shown = time.perf_counter()
        self.first_step, self.done = self.progress.step, 0
        self.seconds = None

    def on_train_batch_end(self, batch, logs=None):
        self.done = batch + 1
        now = time.perf_counter()
        if now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            step = self.first_step + self.done
            steps_done = self.progress.epoch * self.steps + step
            minutes = (self.steps * self.epochs - steps_done) * (now - self.begin) / self.done / 60
            print(
                f"epoch {self.progress.epoch + 1} of {self.epochs}, step {step:,} of {self.steps:,} "
                f"({steps_done / (self.steps * self.epochs):.0%} of all): loss {logs['loss']:.3f}, "
                f"{self.done * self.tokens_per_step / (now - self.begin):,.0f} tokens a second, "
                f"{minutes:.0f} minutes left",
                flush=True,
            )

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.begin

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.seconds or time.perf_counter() - self.begin
        logs["tokens_per_second"] = self.done * self.tokens_per_step / seconds


def compute_validation_logs(labels: np.ndarray, probabilities: np.ndarray, label_smoothing: float) -> dict:
    """Returns val_loss, val_accuracy and val_macro_f1, as Keras' `fit` has them; the loss alone if it is not finite.

    Args:
        labels: (rows,) int. probabilities: (rows, classes). label_smoothing: of the loss.
    """
    classes = probabilities.shape[1]
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    loss = float(keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)(one_hot, probabilities))
    if not math.isfinite(loss):
        return {"val_loss": loss}
    scores = compute_metrics(labels, probabilities, [str(label) for label in range(classes)])
    return {"val_loss": loss, "val_accuracy": scores["accuracy"], "val_macro_f1": scores["macro_f1"]}


class OnCopy(keras.callbacks.Callback):
    """Lets a callback see, at an epoch's end, a copy of the model that is on this process' own device alone.

    Args:
        callback: what only begins, ends and sees the ends of epochs. copy: a compiled model with the same weights.
    """

    def __init__(self, callback: keras.callbacks.Callback, copy: keras.Model):
        super().__init__()
        self.callback, self.copy = callback, copy

    def set_model(self, model):
        super().set_model(model)
        self.callback.set_model(self.copy)

    def on_train_begin(self, logs=None):
        self.callback.on_train_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.copy.set_weights(self.model.get_weights())
        self.copy.optimizer.iterations.assign(self.model.optimizer.iterations.numpy())  # what the learning rate is of
        for layer in self.copy.layers:
            layer.trainable = self.model.get_layer(layer.name).trainable
        self.callback.on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        self.callback.on_train_end(logs)


class _OfRealRows:
    """Before a Keras metric as base class: a row whose label is 0 for each class only fills up a batch."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, y_pred, ops.sum(ops.cast(y_true, "float32"), axis=-1))


class Accuracy(_OfRealRows, keras.metrics.CategoricalAccuracy):
    """Share of the rows whose largest probability is that of their label."""


class MacroF1(_OfRealRows, keras.metrics.F1Score):
    """Mean of the F1 of each class."""


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


def chain_epochs(batches_of, epoch: int, step: int):
    """Yields what is left of an epoch, and then all later epochs: Keras warns if the last step has the last batch.

    Args:
        batches_of: from an epoch and its first step, both counted from 0, to the batches of the epoch from there on.
    """
    yield from batches_of(epoch, step)
    for later in itertools.count(epoch + 1):
        yield from batches_of(later, 0)


def fit_model(
    model: keras.Model,
    settings: TrainConfig,
    run_dir: Path,
    steps: int,
    padding_fraction: float,
    fit,
    make_callbacks,
    loop: ReplicaLoop | None = None,
) -> tuple[TrainedRun, list[dict]]:
    """Trains a compiled model in place and leaves it with the weights of its best epoch (monitor none: of the last).

    If the run folder has checkpoints, training goes on from the newest one and ends with the weights, to the last
    digit, of a run that was not disturbed: what is random is in the checkpoint (weights, optimizer, dropout's seed
    generators, carried states) or follows from the seed and the epoch (the batches). A model's initial weights then do
    not matter. Ctrl-C ends training after at least one whole epoch as early stopping would, before that, like SIGTERM
    always, with a checkpoint from which it can go on.

    Args:
        run_dir: receives checkpoints/ and history.csv.
        steps: of an epoch. padding_fraction: of `TrainedRun`.
        fit: trains from a Progress on up to the end of an epoch, with callbacks: see `make_keras_fit`.
        make_callbacks: from the Progress to what a call of `fit` needs besides the callbacks of this module.
        loop: of several replicas.
    Returns: what training found out, and the logs of each epoch.
    Raises:
        UserError: if the loss is not finite, no checkpoint of those that are there can be used, or settings name steps
            that there are not.
        runs.WriteError: if a file cannot be written.
        KeyboardInterrupt: if interrupted before the first epoch was over; Terminated: by SIGTERM.
    """
    check_profile_steps(settings, steps * settings.epochs)
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    progress = restore_newest(run_dir / "checkpoints", model)
    if loop:
        loop.check_equal(model.optimizer.iterations)
        loop.spread_seeds()
    write_history(run_dir, progress)
    patience = settings.early_stopping_patience_epochs or settings.epochs
    keep = KeepBest(progress, settings.monitor, patience)

    def fit_until(last_epoch):
        with StopSignal() as stop:
            save = SaveProgress(progress, run_dir, settings.checkpoint_minutes * 60, loop, stop)
            fit(progress, last_epoch, [StopOnNonFinite(progress), *make_callbacks(progress), keep, save])

    begin = time.perf_counter() - progress.seconds
    interrupted = _fit_to_end(fit_until, progress, settings.epochs, patience)
    model.set_weights(progress.best_weights)
    seconds = time.perf_counter() - begin
    trained = TrainedRun(progress.best_epoch, len(progress.history), interrupted, seconds, padding_fraction)
    return trained, progress.history


def make_keras_fit(model: keras.Model, steps: int, make_data, validation_data: tf.data.Dataset):
    """Returns `fit` for `fit_model`: Keras' own.

    Args:
        steps: of an epoch.
        make_data: from the epoch and the step to begin with to a tf.data pipeline without an end: see `chain_epochs`.
        validation_data: a tf.data pipeline of known length.
    """

    def fit(progress, last_epoch, callbacks):
        model.fit(
            make_data(progress.epoch, progress.step),
            initial_epoch=progress.epoch,
            epochs=last_epoch,
            steps_per_epoch=steps - progress.step,
            validation_data=validation_data,
            callbacks=callbacks,
            shuffle=False,  # the batches are
            verbose=1 if sys.stdout.isatty() else 2,  # a bar in a log file would be thousands of lines
        )

    return fit


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


def train_model(
    model: keras.Model,
    train: tuple[EncodedTexts, np.ndarray, np.ndarray],
    validation: tuple[EncodedTexts, np.ndarray],
    settings: TrainConfig,
    sequence_length: int,
    run_dir: Path,
    examples: Examples | None = None,
    bucket: Bucket | None = None,
    device: Device | None = None,
    copy: keras.Model | None = None,
) -> TrainedRun:
    """Trains a classifier in place, or what is left of it: see `fit_model`, also for what is raised.

    Args:
        train: (encoded texts, labels (rows,) int, weights (rows,) float32), weights of the rows in the loss.
        validation: (encoded texts, labels (rows,) int).
        run_dir: receives checkpoints/, tensorboard/ and history.csv.
        examples: validation rows that TensorBoard shows after each epoch; None: it shows the curves only.
        bucket: which lengths batches are padded to; None: as the settings say.
        device: in whose scope the model was made; None: Keras' own way.
        copy: with several replicas or a TPU, another such model outside of that scope, for TensorBoard.
    """
    encoded, labels, weights = train
    num_classes, loop = model.output_shape[-1], None
    is_distributed = device is not None and device.is_distributed
    bucket = find_bucket(settings, sequence_length) if bucket is None else bucket
    one_hot = np.eye(num_classes, dtype=np.float32)
    weights = weights * compute_class_weights(labels, num_classes, settings.class_weights)[labels]

    def plan(epoch, step=0):
        batches = plan_epoch(encoded.lengths, settings.batch_size, bucket, settings.seed, epoch, settings.batch_tokens)
        return batches[step:]

    columns, first, layers = (one_hot[labels], weights), plan(0), find_learning_layers(model)
    steps, total_steps = len(first), len(first) * settings.epochs
    with device.scope() if device else contextlib.nullcontext():
        compile_model(model, settings, total_steps)
    texts, validation_labels = validation
    extra = []
    if is_distributed:
        loop = ReplicaLoop(model, device)
        planned = settings.batch_size, settings.batch_tokens, bucket, sequence_length
        shares = Shares(encoded, columns, *planned, device.replicas)

        def fit(progress, last_epoch, callbacks):
            epoch, step = progress.epoch, progress.step
            place = steps, epoch, step, last_epoch
            loop.fit(shares, lambda: chain_epochs(plan, epoch, step), *place, callbacks, validate)

        def validate():
            predicted = loop.predict(texts, sequence_length, bucket)
            return compute_validation_logs(validation_labels, predicted, settings.label_smoothing)

    else:
        validation_plan = plan_by_length(texts.lengths, padded_to=None if bucket else sequence_length)
        fit = make_keras_fit(
            model,
            steps,
            lambda epoch, step: make_dataset(
                lambda: chain_epochs(plan, epoch, step), encoded, sequence_length, bucket, *columns
            ),
            make_dataset(lambda: validation_plan, texts, sequence_length, bucket, one_hot[validation_labels]).apply(
                tf.data.experimental.assert_cardinality(len(validation_plan))  # else Keras warns that the data ran out
            ),
        )
    if copy is not None:
        compile_model(copy, settings, total_steps)
    if not is_distributed or device.is_chief:
        watched = model if copy is None else copy
        board = _make_board(
            run_dir / "tensorboard", watched, (encoded, labels, weights), validation, settings, examples
        )
        extra.append(board if copy is None else OnCopy(board, copy))

    def make_callbacks(progress):
        speed = [Throughput(sum(len(rows) for rows in plan(progress.epoch, progress.step)))]
        if not is_distributed or device.is_chief:
            speed.append(ShowProgress(progress, steps, settings.epochs, int(encoded.lengths.sum())))
        return [*speed, Unfreeze(layers, settings), *extra]

    padding = compute_padding_fraction(encoded.lengths, first, sequence_length, bucket)
    trained, _ = fit_model(model, settings, run_dir, steps, padding, fit, make_callbacks, loop)
    for layer in layers:
        layer.trainable = True  # for whoever trains the model further
    return trained


def _make_board(path: Path, model: keras.Model, train, validation, settings: TrainConfig, examples: Examples | None):
    if examples is None:
        return keras.callbacks.TensorBoard(str(path), write_graph=False, profile_batch=settings.profile_steps or 0)
    shown = (make_predict(model), examples, settings.profile_steps)
    rows = settings.batch_size
    if settings.batch_tokens is not None:
        lengths = train[0].lengths
        rows = max(1, settings.batch_tokens // padded_length(lengths, int(lengths.max()), True))
    return Board(path, train, validation, rows, *shown)


def make_predict(model: keras.Model):
    """Returns a compiled function from (batch, time) int32 token ids to (batch, classes) probabilities."""

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def predict(token_ids):
        return model(token_ids, training=False)

    return predict
