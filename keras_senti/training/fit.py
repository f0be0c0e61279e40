"""Compile, callbacks, fit: from batches to the best weights, with curves in TensorBoard; also after a kill -9."""

import contextlib
import itertools
import math
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

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
from keras_senti.errors import Terminated, UserError
from keras_senti.evaluation.metrics import compute_metrics
from keras_senti.models.build import find_learning_layers
from keras_senti.settings.schema import TrainConfig
from keras_senti.training.callbacks import (
    Accuracy,
    KeepBest,
    MacroF1,
    OnCopy,
    SaveProgress,
    ShowProgress,
    StopOnNonFinite,
    StopSignal,
    Throughput,
    TrainedRun,
    Unfreeze,
    write_history,
)
from keras_senti.training.checkpoints import Progress, restore_newest
from keras_senti.training.devices import Device
from keras_senti.training.optimizers import make_optimizer
from keras_senti.training.replicas import ReplicaLoop, Shares
from keras_senti.training.tensorboard import Board, Examples


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
