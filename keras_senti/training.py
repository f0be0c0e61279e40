"""Compile, callbacks, fit: from batches to the best weights, with curves in TensorBoard."""

import itertools
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_senti.config import TrainConfig, UserError
from keras_senti.pipeline import EncodedTexts, compute_padding_fraction, make_dataset, plan_by_length, plan_epoch
from keras_senti.tensorboard import Board, Examples

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
}


@dataclass(frozen=True)
class TrainedRun:
    """What training found out. best_epoch counts from 1; padding_fraction is the share of positions without a token."""

    best_epoch: int
    epochs_run: int
    interrupted: bool
    seconds: float
    padding_fraction: float


@keras.saving.register_keras_serializable("keras_senti")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then constant, or down to 0 at the last step along a line or half a cosine.

        step < w:  peak (step + 1) / w        otherwise, with p = (step - w) / (total - w):
        constant:  peak       linear: peak (1 - p)       cosine: peak (1 + cos(π p)) / 2

    Keras' CosineDecay does the same for the cosine only.

    Args:
        peak: highest learning rate. schedule: constant | cosine | linear.
        total_steps: steps of the whole run. warmup_steps: w above; 0: no warm-up.
    Reference: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983 (one period, no restart).
    """

    def __init__(self, peak: float, schedule: str, total_steps: int, warmup_steps: int):
        self.peak, self.schedule, self.total_steps, self.warmup_steps = peak, schedule, total_steps, warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        progress = ops.clip((step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps), 0.0, 1.0)
        factor = {
            "constant": ops.ones_like(progress),
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + ops.cos(math.pi * progress)),
        }[self.schedule]
        warmup = (step + 1.0) / max(1, self.warmup_steps)
        return self.peak * ops.where(step < self.warmup_steps, warmup, factor)

    def get_config(self):
        names = ("peak", "schedule", "total_steps", "warmup_steps")
        return {name: getattr(self, name) for name in names}


class KeepBest(keras.callbacks.EarlyStopping):
    """Early stopping that also writes the best weights to a file at once, so that a crash leaves them."""

    def __init__(self, path: Path, **kwargs):
        super().__init__(restore_best_weights=True, **kwargs)
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.best_epoch == epoch:
            temporary = self.path.with_name(f"writing-{self.path.name}")
            self.model.save_weights(temporary)
            os.replace(temporary, self.path)


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends the run with a clear message as soon as the loss is no longer a number."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._check(logs["loss"], f"epoch {self.epoch + 1}, step {batch + 1}", "loss")

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
    """Adds examples and real (unpadded) tokens a second to the logs, validation time left out."""

    def __init__(self, examples: int, tokens: int):
        super().__init__()
        self.examples, self.tokens = examples, tokens

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()
        self.seconds = None

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.begin

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.seconds or time.perf_counter() - self.begin
        logs["examples_per_second"] = self.examples / seconds
        logs["tokens_per_second"] = self.tokens / seconds


def compile_model(model: keras.Model, settings: TrainConfig, total_steps: int):
    """Compiles with cross-entropy, accuracy and macro-F1. Labels are one-hot, as label smoothing needs them."""
    model.compile(
        optimizer=OPTIMIZERS[settings.optimizer](
            learning_rate=WarmupDecay(
                settings.learning_rate,
                settings.schedule,
                total_steps,
                round(total_steps * settings.warmup_fraction),
            ),
            weight_decay=settings.weight_decay,
            global_clipnorm=settings.clip_norm,
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=settings.label_smoothing),
        metrics=["accuracy", keras.metrics.F1Score(average="macro", name="macro_f1")],
    )


def compute_class_weights(labels: np.ndarray, num_classes: int, kind: str) -> np.ndarray:
    """Returns (classes,) float32: 1 each, or rows / (classes * rows of the class)."""
    if kind == "none":
        return np.ones(num_classes, np.float32)
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * np.maximum(counts, 1))).astype(np.float32)


def train_model(
    model: keras.Model,
    train: tuple[EncodedTexts, np.ndarray, np.ndarray],
    validation: tuple[EncodedTexts, np.ndarray],
    settings: TrainConfig,
    sequence_length: int,
    run_dir: Path,
    examples: Examples | None = None,
) -> TrainedRun:
    """Trains the model in place and leaves it with the weights of its best epoch.

    Ctrl-C ends training after at least one whole epoch as early stopping would.

    Args:
        train: (encoded texts, labels (rows,) int, weights (rows,) float32). validation: the same without weights.
        run_dir: receives checkpoints/best.weights.h5, tensorboard/ and history.csv.
        examples: validation rows that TensorBoard shows after each epoch.
    Raises:
        UserError: if the loss is not finite.
        KeyboardInterrupt: if interrupted before the first epoch was over.
    """
    encoded, labels, row_weights = train
    num_classes = model.output_shape[-1]
    bucket = settings.bucket_by_length
    one_hot = np.eye(num_classes, dtype=np.float32)
    weights = compute_class_weights(labels, num_classes, settings.class_weights)[labels] * row_weights

    def batches_of_all_epochs():
        for epoch in itertools.count():  # without an end: Keras warns if the last step is the last batch
            yield from plan_epoch(encoded.lengths, settings.batch_size, bucket, settings.seed, epoch)

    first = plan_epoch(encoded.lengths, settings.batch_size, bucket, settings.seed, 0)
    compile_model(model, settings, total_steps=len(first) * settings.epochs)
    train_data = make_dataset(batches_of_all_epochs, encoded, sequence_length, bucket, one_hot[labels], weights)
    encoded_validation, validation_labels = validation
    plan = plan_by_length(encoded_validation.lengths, 256)
    validation_data = make_dataset(
        lambda: plan, encoded_validation, sequence_length, bucket, one_hot[validation_labels]
    ).apply(tf.data.experimental.assert_cardinality(len(plan)))  # else Keras warns that the data ran out
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    keep_best = KeepBest(
        run_dir / "checkpoints" / "best.weights.h5",
        monitor=settings.monitor,
        mode="min" if settings.monitor == "val_loss" else "max",
        patience=settings.early_stopping_patience_epochs or settings.epochs,
    )
    board = Board(
        run_dir / "tensorboard",
        (encoded, labels, weights),
        validation,
        settings.batch_size,
        make_predict(model),
        examples,
    )
    callbacks = [
        StopOnNonFinite(),
        Throughput(len(encoded), len(encoded.flat)),
        keep_best,
        board,
        keras.callbacks.CSVLogger(str(run_dir / "history.csv")),
    ]
    begin, interrupted = time.perf_counter(), False
    try:
        model.fit(
            train_data,
            steps_per_epoch=len(first),
            epochs=settings.epochs,
            validation_data=validation_data,
            callbacks=callbacks,
            shuffle=False,  # plan_epoch did
            verbose=1 if sys.stdout.isatty() else 2,  # a bar in a log file would be thousands of lines
        )
    except KeyboardInterrupt:
        if keep_best.best_weights is None:
            raise
        interrupted = True
        model.set_weights(keep_best.best_weights)
        print(f"\ninterrupted: keeping the weights of epoch {keep_best.best_epoch + 1}", flush=True)
    with open(run_dir / "history.csv", encoding="utf-8") as file:
        epochs_run = sum(1 for _ in file) - 1
    return TrainedRun(
        best_epoch=keep_best.best_epoch + 1,
        epochs_run=epochs_run,
        interrupted=interrupted,
        seconds=time.perf_counter() - begin,
        padding_fraction=compute_padding_fraction(encoded.lengths, first, sequence_length, bucket),
    )


def make_predict(model: keras.Model):
    """Returns a compiled function from (batch, time) int32 token ids to (batch, classes) probabilities."""

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def predict(token_ids):
        return model(token_ids, training=False)

    return predict
