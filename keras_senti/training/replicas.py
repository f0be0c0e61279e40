"""Several replicas of a model (GPUs, TPU cores, machines) train as one: of every batch each takes its share.

A small loop around Keras' own `train_step`, with Keras' callbacks, in place of `fit`, which fails with several workers
(https://github.com/keras-team/keras/issues/20585), takes the mean of the means of shares of unequal size, and knows one
dataset, so that a TPU, which wants the shape of a batch before it comes, would get one length for all.

A share too small for its shape is filled up with rows that count nothing: the text [UNK] (a row without any token stops
cuDNN), a label that is 0 for each class, the weight 0. The other weights grow by as much as the batch did, so that the
loss is the mean over the real rows, as without replicas.
"""

import itertools
import math
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_senti.data.batches import SCORED_POSITIONS, SCORED_ROWS, Bucket, padded_length, plan_epoch
from keras_senti.data.dataset import EncodedTexts
from keras_senti.errors import UserError
from keras_senti.training.devices import Device

WORKER_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
)


class Shares:
    """Cuts batches of texts into shares of equal size, one a replica.

    Args:
        encoded: the texts. columns: arrays with one entry a row: one-hot labels and weights; or none.
        batch_size, batch_tokens, bucket: by which the batches were planned, see `batches.plan_epoch`.
        sequence_length: longest text. replicas: among which batches are shared.
    """

    def __init__(self, encoded, columns, batch_size, batch_tokens, bucket: Bucket, sequence_length, replicas: int):
        self.encoded, self.columns, self.bucket, self.replicas = encoded, columns, bucket, replicas
        self.batch_size, self.batch_tokens, self.sequence_length = batch_size, batch_tokens, sequence_length

    def find_length(self, rows: np.ndarray) -> int:
        """Returns the time steps of a batch."""
        return padded_length(self.encoded.lengths[rows], self.sequence_length, self.bucket)

    def find_shape(self, rows: np.ndarray) -> tuple[int, int] | None:
        """Returns the shape (rows, time) of each share of this batch, None if it is known only when it is made."""
        if self.bucket is True:
            return None
        length = self.find_length(rows)
        size = self.batch_size if self.batch_tokens is None else max(1, self.batch_tokens // length)
        return math.ceil(size / self.replicas), length

    def make(self, rows: np.ndarray, replica: int) -> tuple:
        """Returns the share of a replica: (token_ids (rows, time) int32, *columns)."""
        size, length = self.find_shape(rows) or (math.ceil(len(rows) / self.replicas), self.find_length(rows))
        own = rows[replica :: self.replicas]
        ids = np.zeros((size, length), np.int32)
        ids[:, 0] = 1
        ids[: len(own)] = self.encoded.pad(own, length)
        made = [ids]
        for column in self.columns:
            filled = np.zeros((size, *column.shape[1:]), column.dtype)
            filled[: len(own)] = column[own]
            made.append(filled)
        if self.columns:
            made[-1] *= size * self.replicas / len(rows)
        return tuple(made)

    def make_iterators(self, make_batches, shapes: list, strategy) -> dict:
        """Returns by shape of a share (see find_shape) an iterator over the batches of this shape, for all replicas.

        Args:
            make_batches: called without arguments, returns an iterable of row numbers, one array a batch.
            shapes: all that occur.
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
            columns = [tf.TensorSpec((size, *column.shape[1:]), column.dtype) for column in self.columns]
            signature = (tf.TensorSpec((size, length), tf.int32), *columns)
            return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2 * local)

        return {
            shape: iter(strategy.distribute_datasets_from_function(lambda context, s=shape: make_dataset(context, s)))
            for shape in shapes
        }


class ReplicaLoop:
    """Trains a compiled model on all replicas of a device, and predicts with them.

    Every worker does the same, step by step; what they decide together (see `agree`) they must all ask for.

    Args:
        model: made and compiled in `device.scope()`.
    """

    def __init__(self, model: keras.Model, device: Device):
        self.model, self.device, self.strategy = model, device, device.strategy
        self.step_functions = {}

    def fit(
        self,
        shares: Shares,
        make_batches,
        steps: int,
        first_epoch: int,
        first_step: int,
        epochs: int,
        callbacks: list,
        validate,
    ):
        """Does what `model.fit(initial_epoch=first_epoch, epochs=epochs)` does, from a step of the first epoch on.

        Callbacks are called after each execution of one or several steps, with the number of the last one; the logs
        are then those of the first replica. At an epoch's end they are of all.

        Args:
            make_batches: returns the batches from that step on, without an end.
            steps: of a whole epoch.
            validate: called after each epoch, before the callbacks see its end; returns more logs.
        Raises:
            UserError: if another worker has gone.
        """
        try:
            self._fit(shares, make_batches, steps, first_epoch, first_step, epochs, callbacks, validate)
        except WORKER_GONE as error:
            if self.device.workers == 1:
                raise
            raise UserError(
                f"worker {self.device.worker}: another worker is gone or cannot be reached ({type(error).__name__}). "
                "Start all workers again with --resume and the run folder: they go on from the last checkpoint."
            ) from error

    def _fit(self, shares, make_batches, steps, first_epoch, first_step, epochs, callbacks, validate):
        model = self.model
        ahead = iter(make_batches())
        plan = [shares.find_shape(rows) for rows in itertools.islice(ahead, steps - first_step)]
        # All shapes are known from the first epoch: each epoch has equally many batches of each.
        shapes = sorted(set(plan + [shares.find_shape(rows) for rows in itertools.islice(ahead, steps)]), key=str)
        iterators = shares.make_iterators(make_batches, shapes, self.strategy)
        ahead = iter(make_batches())
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_progbar=True, model=model, epochs=epochs, steps=steps - first_step,
            verbose=(1 if sys.stdout.isatty() else 2) if self.device.is_chief else 0,
        )  # fmt: skip
        model.stop_training = False
        callbacks.on_train_begin()
        for epoch in range(first_epoch, epochs):
            left = steps - (first_step if epoch == first_epoch else 0)
            callbacks.set_params({**callbacks.params, "steps": left})
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            run = self._get_step_function()
            planned = (shares.find_shape(rows) for rows in itertools.islice(ahead, left))
            done = 0
            for shape, count in _group(planned, self.device.steps_per_execution):
                callbacks.on_train_batch_begin(done)
                logs = run(iterators[shape], tf.constant(count))
                done += count
                callbacks.on_train_batch_end(done - 1, {name: float(value) for name, value in logs.items()})
            logs = {name: float(value) for name, value in model.get_metrics_result().items()}
            callbacks.on_test_begin()
            logs |= validate()
            callbacks.on_test_end()
            callbacks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
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
        own = tf.constant([float(is_due and self.device.is_chief), float(must_stop)])
        values = self.strategy.experimental_distribute_values_from_function(lambda context: own)
        due, stop = self.strategy.reduce("SUM", values, axis=None).numpy() > 0
        return bool(due), bool(stop)

    def check_equal(self, iterations):
        """Raises a UserError unless all workers have made equally many steps: their checkpoints may not be the same."""
        if self.device.workers == 1:
            return
        own = tf.constant([int(iterations.numpy())])
        found = self.strategy.gather(
            self.strategy.experimental_distribute_values_from_function(lambda context: own), axis=0
        ).numpy()
        if len(set(found.tolist())) > 1:
            raise UserError(
                f"--resume: the workers do not see the same checkpoint: the steps made are {found.tolist()}. The run "
                "folder must be on a disk that all of them share."
            )

    def spread_seeds(self):
        """Lets each replica draw other dropout masks than the rest; after the seeds were set or restored."""
        seeds = [v.value for v in self.model.non_trainable_variables if "seed_generator_state" in v.path]

        @tf.function
        def shift():
            replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
            for seed in seeds:
                seed.assign_add(tf.cast(tf.stack([replica * 7919, 0.0]), seed.dtype))

        self.strategy.run(shift)

    def predict(self, encoded: EncodedTexts, sequence_length: int, bucket: Bucket) -> np.ndarray:
        """Returns probabilities (rows, classes) float32, in the order of the rows, on every worker."""
        plan = plan_epoch(encoded.lengths, SCORED_ROWS, bucket, 0, 0, SCORED_POSITIONS)
        shares = Shares(encoded, (), SCORED_ROWS, SCORED_POSITIONS, bucket, sequence_length, self.device.replicas)
        shapes = sorted({shares.find_shape(rows) for rows in plan}, key=str)
        iterators = shares.make_iterators(lambda: plan, shapes, self.strategy)
        result = np.zeros((len(encoded), self.model.output_shape[-1]), np.float32)
        for rows in plan:
            gathered = self._predict_step(iterators[shares.find_shape(rows)]).numpy()
            gathered = gathered.reshape(self.device.replicas, -1, result.shape[1])
            for replica, share in enumerate(gathered):
                own = rows[replica :: self.device.replicas]
                result[own] = share[: len(own)]
        return result

    @tf.function
    def _predict_step(self, iterator):
        def predict(token_ids):
            return self.model(token_ids, training=False)

        return self.strategy.gather(self.strategy.run(predict, args=next(iterator)), axis=0)


def _group(items, most: int):
    """Yields (item, how often it comes in a row), at most `most` of them at once."""
    for item, equal in itertools.groupby(items):
        count = sum(1 for _ in equal)
        while count > 0:
            yield item, min(count, most)
            count -= most
