"""What happens beside the steps of a fit: keep the best, save, show, stop."""

import contextlib
import csv
import io
import math
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_senti.data.dataset import EncodedDataset
from keras_senti.errors import UserError
from keras_senti.evaluation.metrics import METRICS, compute_scalars, normalize
from keras_senti.settings.schema import TrainConfig
from keras_senti.storage import files
from keras_senti.training.checkpoints import Progress, restore_metrics, write_checkpoint
from keras_senti.training.optimizers import find_first_epoch

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

    With monitor none each epoch is better than the one before it. Keras' EarlyStopping forgets in `on_train_begin` what
    it knew; this one has all its state in `progress`.
    """

    def __init__(self, progress: Progress, monitor: str, patience_epochs: int):
        super().__init__()
        self.progress, self.monitor, self.patience_epochs = progress, monitor, patience_epochs
        metric = METRICS.get(monitor.removeprefix("val_"))
        self.sign = -1 if monitor == "val_loss" or (metric and not metric.higher_is_better) else 1

    def on_epoch_end(self, epoch, logs=None):
        value, best = float(epoch if self.monitor == "none" else logs[self.monitor]), self.progress
        if not best.best_epoch or self.sign * value > self.sign * best.best_value:
            best.best_epoch, best.best_value, best.best_weights = epoch + 1, value, self.model.get_weights()
        if epoch + 1 - best.best_epoch >= self.patience_epochs:
            self.model.stop_training = True


class Unfreeze(keras.callbacks.Callback):
    """Lets each layer learn from its epoch on, and says so where that changes.

    What does not learn, and has nothing below it that learns, takes no time in the backward pass. Measured with two
    LSTM of 256 units in two directions: with the head alone a step took at most 1.1 times as long as the forward pass,
    with all layers 4 to 6 times.

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
        loop: what makes the steps; of several workers all save at the same step, because metrics are read from all of
            them, and the chief writes.
        stop: if it has received a signal, a checkpoint is written before training ends.
    """

    def __init__(self, progress: Progress, run_dir: Path, every_seconds: float, loop, stop: StopSignal):
        super().__init__()
        self.progress, self.run_dir, self.every_seconds, self.loop = progress, run_dir, every_seconds, loop
        self.stop = stop
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
        if self.loop.is_chief:
            write_history(self.run_dir, self.progress)
        if self._agree()[1]:
            self.stop.deliver()

    def _agree(self, is_due: bool = False) -> tuple[bool, bool]:
        return self.loop.agree(is_due, self.stop.received is not None)

    def _write(self):
        self.progress.seconds = time.perf_counter() - self.begin
        write_checkpoint(self.run_dir / "checkpoints", self.model, self.progress, self.loop.is_chief)
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


class Speed(keras.callbacks.Callback):
    """Adds tokens and examples a second, validation time left out, to the logs; prints a line a minute.

    The line says how far training is, how fast it is, and how long it will still take.

    Args:
        loop: of which the chief prints. `data` in it has the steps and the real (unpadded) tokens of a whole epoch.
        examples: of the part of an epoch that `fit` runs; None: they are not counted.
    """

    def __init__(self, progress: Progress, loop, epochs: int, examples: int | None = None):
        super().__init__()
        self.progress, self.loop, self.examples = progress, loop, examples
        self.steps, self.all_steps = loop.data.steps, loop.data.steps * epochs
        self.tokens_per_step = loop.data.tokens / self.steps

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = self.shown = time.perf_counter()
        self.first_step, self.done = self.progress.step, 0

    def on_train_batch_end(self, batch, logs=None):
        now, self.done = time.perf_counter(), batch + 1
        self.seconds = now - self.begin
        if self.loop.is_chief and now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            self._show(self.seconds, logs["loss"])

    def _show(self, seconds: float, loss: float):
        step = self.first_step + self.done
        steps_done = self.progress.epoch * self.steps + step
        minutes = (self.all_steps - steps_done) * seconds / self.done / 60
        print(
            f"epoch {self.progress.epoch + 1} of {self.all_steps // self.steps}, step {step:,} of {self.steps:,} "
            f"({steps_done / self.all_steps:.0%} of all): loss {loss:.3f}, "
            f"{self.done * self.tokens_per_step / seconds:,.0f} tokens a second, {minutes:.0f} minutes left",
            flush=True,
        )

    def on_epoch_end(self, epoch, logs=None):
        if self.examples is not None:
            logs["examples_per_second"] = self.examples / self.seconds
        logs["tokens_per_second"] = self.done * self.tokens_per_step / self.seconds


class Validate(keras.callbacks.Callback):
    """Adds to the logs of each epoch val_loss and what METRICS measures; of a loss that is not finite, that alone.

    The part is predicted once an epoch: Keras would do so for its own metrics, and who shows examples once more.

    probabilities: (rows, classes) float32, after the last epoch, of `loop.predict`.
    """

    def __init__(self, loop, part: EncodedDataset):
        super().__init__()
        self.loop, self.part, self.probabilities = loop, part, None

    def on_epoch_end(self, epoch, logs=None):
        self.probabilities, labels = self.loop.predict(self.part), self.part.labels
        one_hot = np.eye(self.probabilities.shape[1], dtype=np.float32)[labels]
        logs["val_loss"] = float(self.model.loss(one_hot, self.probabilities))
        measured = [metric for metric in METRICS.values() if metric.each_epoch and math.isfinite(logs["val_loss"])]
        scores = compute_scalars(labels, normalize(self.probabilities), measured)
        logs |= {f"val_{name}": score for name, score in scores.items()}


class _OfRealRows:
    """Before a Keras metric as base class: a row whose label is 0 for each class only fills up a batch."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, y_pred, ops.sum(ops.cast(y_true, "float32"), axis=-1))


class Accuracy(_OfRealRows, keras.metrics.CategoricalAccuracy):
    """Share of the rows whose largest probability is that of their label."""


class MacroF1(_OfRealRows, keras.metrics.F1Score):
    """Mean of the F1 of each class."""
