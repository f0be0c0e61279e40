"""Several replicas of a model (GPUs, TPU cores, machines) train as one: of every batch each takes its share.

A small loop around Keras' own `train_step`, with Keras' callbacks, in place of `fit`, which fails with several workers
(https://github.com/keras-team/keras/issues/20585), takes the mean of the means of shares of unequal size, and knows one
dataset, so that a TPU, which wants the shape of a batch before it comes, would get one length for all.

A share too small for its shape is filled up with rows that count nothing: the text [UNK] (a row without any token stops
cuDNN), a label that is 0 for each class, the weight 0. The other weights grow by as much as the batch did, so that the
loss is the mean over the real rows, as without replicas.
"""

import dataclasses
import itertools
import math
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_senti.data.batches import SCORED_POSITIONS, SCORED_ROWS, TextBatches, chain_epochs
from keras_senti.data.dataset import EncodedDataset
from keras_senti.errors import UserError
from keras_senti.models.build import build_model
from keras_senti.settings.schema import ModelConfig

WORKER_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
)


class Shares:
    """Cuts batches of texts into shares of equal size, one a replica."""

    def __init__(self, data: TextBatches, replicas: int):
        self.data, self.replicas = data, replicas

    def find_shape(self, rows: np.ndarray) -> tuple[int, int] | None:
        """Returns the shape (rows, time) of each share of this batch, None if it is known only when it is made."""
        if self.data.batching.fixed_lengths is None:
            return None
        length = self.data.find_length(rows)
        return math.ceil(self.data.batching.count_rows(length) / self.replicas), length

    def make(self, rows: np.ndarray, replica: int) -> tuple:
        """Returns the share of a replica: token_ids, labels and weights as of `TextBatches.make`."""
        size, length = self.find_shape(rows) or (math.ceil(len(rows) / self.replicas), self.data.find_length(rows))
        own = rows[replica :: self.replicas]
        made = self.data.make(own, length)
        filled = [np.zeros((size, *column.shape[1:]), column.dtype) for column in made]
        filled[0][:, 0] = 1
        for column, real in zip(filled, made):
            column[: len(own)] = real
        filled[2] *= size * self.replicas / len(rows)
        return tuple(filled)

    def make_iterators(self, make_batches, batches, strategy: tf.distribute.Strategy) -> dict:
        """Returns by shape of a share (see find_shape) an iterator over the batches of this shape, for all replicas.

        Args:
            make_batches: called without arguments, returns an iterable of row numbers, one array a batch.
            batches: some of them, among which all shapes occur.
        """

        def make_dataset(context, shape):
            local = context.num_replicas_in_sync // context.num_input_pipelines
            own = range(context.input_pipeline_id * local, (context.input_pipeline_id + 1) * local)

            def generate():
                for rows in make_batches():
                    if self.find_shape(rows) == shape:
                        for replica in own:
                            yield self.make(rows, replica)

            size, length = shape or (None, None)
            signature = (
                tf.TensorSpec((size, length), tf.int32),
                tf.TensorSpec((size, len(self.data.one_hot)), tf.float32),
                tf.TensorSpec((size,), tf.float32),
            )
            return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2 * local)

        return {
            shape: iter(strategy.distribute_datasets_from_function(lambda context, s=shape: make_dataset(context, s)))
            for shape in sorted(set(map(self.find_shape, batches)), key=str)
        }


class ReplicaLoop:
    """Trains a compiled model on all replicas of a device, and predicts with them; what `fit.KerasLoop` does on one.

    Every worker does the same, step by step; what they decide together (see `agree`) they must all ask for.

    Args:
        model: made and compiled in `device.scope()`. device: a `devices.Device` with a strategy.
    """

    def __init__(self, model: keras.Model, device, data: TextBatches):
        self.model, self.device, self.strategy, self.data = model, device, device.strategy, data
        self.step_functions = {}

    @property
    def is_chief(self) -> bool:
        return self.device.is_chief

    def begin(self):
        """Call it once, when the state of a checkpoint, if there is one, is restored."""
        self._check_equal()
        self._spread_seeds()

    def fit(self, progress, epochs: int, callbacks: list):
        """Does what `model.fit(epochs=epochs)` does, from a `checkpoints.Progress` on, also from mid-epoch.

        Callbacks are called after each execution of one or several steps, with the number of the last one; the logs
        are then those of the first replica. At an epoch's end they are of all.

        Raises:
            UserError: if another worker has gone.
        """
        try:
            self._fit(progress.epoch, progress.step, epochs, callbacks)
        except WORKER_GONE as error:
            if self.device.workers == 1:
                raise
            raise UserError(
                f"worker {self.device.worker}: another worker is gone or cannot be reached ({type(error).__name__}). "
                "Start all workers again with --resume and the run folder."
            ) from error

    def _fit(self, first_epoch: int, first_step: int, epochs: int, callbacks: list):
        model, shares, left = self.model, Shares(self.data, self.device.replicas), self.data.steps - first_step

        def make_batches():
            return chain_epochs(self.data.batches, first_epoch, first_step)

        # All shapes are known after a whole epoch: each epoch has equally many batches of each.
        known = itertools.islice(make_batches(), left + self.data.steps)
        iterators, ahead = shares.make_iterators(make_batches, known, self.strategy), make_batches()
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_progbar=True, model=model, epochs=epochs, steps=left,
            verbose=(1 if sys.stdout.isatty() else 2) if self.is_chief else 0,
        )  # fmt: skip
        model.stop_training = False
        callbacks.on_train_begin()
        for epoch in range(first_epoch, epochs):
            callbacks.set_params({**callbacks.params, "steps": left})
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            run, done = self._get_step_function(), 0
            planned = map(shares.find_shape, itertools.islice(ahead, left))
            for shape, count in _group(planned, self.device.steps_per_execution):
                callbacks.on_train_batch_begin(done)
                logs = run(iterators[shape], tf.constant(count))
                done += count
                callbacks.on_train_batch_end(done - 1, {name: float(value) for name, value in logs.items()})
            logs = {name: float(value) for name, value in model.get_metrics_result().items()}
            callbacks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
            left = self.data.steps
        callbacks.on_train_end()

    def _get_step_function(self):
        """Returns what makes several steps of one shape; one for each set of layers that learn."""
        learning = tuple(variable.path for variable in self.model.trainable_variables)
        if learning not in self.step_functions:
            # As in Keras' loop, a function of its own: what happens in a replica is traced once for all steps.
            train_step = tf.function(self.model.train_step)

            @tf.function  # not reduce_retracing: a TPU must know the shape
            def run(iterator, steps):
                logs = self.strategy.run(train_step, args=(next(iterator),))
                for _ in tf.range(steps - 1):
                    logs = self.strategy.run(train_step, args=(next(iterator),))
                return {name: self.strategy.experimental_local_results(value)[0] for name, value in logs.items()}

            self.step_functions[learning] = run
        return self.step_functions[learning]

    def agree(self, is_due: bool, must_stop: bool) -> tuple[bool, bool]:
        """Returns what the chief says of the first, and whether any worker says the second.

        All workers must call it at the same place.
        """
        if self.device.workers == 1:
            return is_due, must_stop
        own = tf.constant([float(is_due and self.is_chief), float(must_stop)])
        values = self.strategy.experimental_distribute_values_from_function(lambda context: own)
        due, stop = self.strategy.reduce("SUM", values, axis=None).numpy() > 0
        return bool(due), bool(stop)

    def _check_equal(self):
        """Raises a UserError unless all workers have made equally many steps: their checkpoints may not be the same."""
        if self.device.workers == 1:
            return
        own = tf.constant([int(self.model.optimizer.iterations.numpy())])
        values = self.strategy.experimental_distribute_values_from_function(lambda context: own)
        found = self.strategy.gather(values, axis=0).numpy().tolist()
        if len(set(found)) > 1:
            raise UserError(
                f"--resume: the workers do not see the same checkpoint: the steps made are {found}. The run folder "
                "must be on a disk that all of them share."
            )

    def _spread_seeds(self):
        """Lets each replica draw other dropout masks than the rest; after the seeds were set or restored."""
        seeds = [v.value for v in self.model.non_trainable_variables if "seed_generator_state" in v.path]

        @tf.function
        def shift():
            replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
            for seed in seeds:
                seed.assign_add(tf.cast(tf.stack([replica * 7919, 0.0]), seed.dtype))

        self.strategy.run(shift)

    def predict(self, part: EncodedDataset) -> np.ndarray:
        """Returns probabilities (rows, classes) float32, in the order of the rows, on every worker."""
        scored = dataclasses.replace(self.data.batching, batch_size=SCORED_ROWS, batch_tokens=SCORED_POSITIONS, seed=0)
        batches = TextBatches(part, scored, len(self.data.one_hot))
        plan, shares = batches.batches(0), Shares(batches, self.device.replicas)
        iterators = shares.make_iterators(lambda: plan, plan, self.strategy)
        result = np.zeros((len(part), self.model.output_shape[-1]), np.float32)
        for rows in plan:
            gathered = self._predict_step(iterators[shares.find_shape(rows)]).numpy()
            gathered = gathered.reshape(self.device.replicas, -1, result.shape[1])
            for replica, share in enumerate(gathered):
                own = rows[replica :: self.device.replicas]
                result[own] = share[: len(own)]
        return result

    @tf.function
    def _predict_step(self, iterator):
        def predict(token_ids, labels, weights):
            return self.model(token_ids, training=False)

        return self.strategy.gather(self.strategy.run(predict, args=next(iterator)), axis=0)


def _group(items, most: int):
    """Yields (item, how often it comes in a row), at most `most` of them at once."""
    for item, equal in itertools.groupby(items):
        count = sum(1 for _ in equal)
        while count > 0:
            yield item, min(count, most)
            count -= most


def copy_model(model: keras.Model, settings: ModelConfig) -> keras.Model:
    """Builds another such model on this process' own device alone, where it is looked at, exported and predicts."""
    return build_model(settings, model.get_layer("embedding").input_dim, model.output_shape[-1])


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
