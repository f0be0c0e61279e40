"""The recurrence of `recurrent.LSTM` and `recurrent.GRU`: `loops` over a batch in parts, with gradients of our own.

The rows of a batch do not depend on each other: a batch is cut into parts, which run side by side. The products in a
step are too small to be shared between processor cores.
"""

import contextlib
import contextvars

import tensorflow as tf

from keras_senti.models import kernel_choice
from keras_senti.models.loops import LOOPS, Batch, Weights, compile_cell

# A batch is cut into as many parts as there are threads, but no more than MOST_PARTS and, where its size is known or it
# does not train, none below PART_ROWS rows, where products get slow. With two threads forward and backward of 64
# rows and 256 units took 0.6 to 0.8 of the time so, on a noisy machine.
MOST_PARTS, PART_ROWS = 4, 16
SERVED_PARTS = 2  # in a SavedModel, whose graph is then the same wherever it was made
_has_own_gradient = contextvars.ContextVar("_has_own_gradient", default=False)


@contextlib.contextmanager
def own_gradient():
    """Within it `run` has the gradient of `loops` also where nothing is trained, so without dropout."""
    token = _has_own_gradient.set(True)
    try:
        yield
    finally:
        _has_own_gradient.reset(token)


def run(cell: str, batch: Batch, weights: Weights, *, sequences, training, compiled, serving=False):
    """Runs a recurrent cell over a batch of sequences; differentiable for inputs, state and weights.

    Args:
        cell: lstm | gru (the one with `reset_after`), with tanh and σ.
        batch: its inputs (B, T, E) and mask (B, T) with the batch first.
        sequences: return all states.
        training: with the gradient of `loops`; otherwise TensorFlow derives one, if asked, and needs far more memory.
        compiled: by XLA, anew for each shape, so only where shapes are few.
        serving: for a graph that goes to other machines. One text alone may be computed by an operation that XLA cannot
            compile, and a batch of any size is cut into SERVED_PARTS, not into as many as this machine has threads.
    Returns: ([all states (B, T, H)] or [], the last state [h] or [h, c]), float32.
    """
    training = training or _has_own_gradient.get()
    functions = compile_cell(cell) if compiled else LOOPS[cell]

    def run_parts(parts):
        results = [_run_part(functions, part, weights, sequences, training) for part in _cut(batch, parts)]
        last = [tf.concat(part, 0) for part in zip(*(state for _, state in results))]
        return [tf.concat([states for states, _ in results], 0)] if sequences else [], last

    def run_few_or_many():  # one text alone must not wait for empty parts
        is_many = tf.shape(batch.inputs)[0] >= parts * PART_ROWS
        return tf.cond(is_many, lambda: run_parts(parts), lambda: run_parts(1)) if parts > 1 else run_parts(1)

    def run_one():
        states, last = _run_fused(batch, weights)
        return [states] if sequences else [], last

    rows = batch.inputs.shape[0]
    parts = _count_parts(rows, serving)
    can_fuse = serving and not training and cell == "lstm" and batch.inputs.dtype == tf.float32
    if rows is not None or training:
        return run_one() if can_fuse and rows == 1 else run_parts(parts)
    return tf.cond(tf.shape(batch.inputs)[0] == 1, run_one, run_few_or_many) if can_fuse else run_few_or_many()


def _count_parts(rows: int | None, serving: bool) -> int:
    if serving and rows is None:
        return min(SERVED_PARTS, MOST_PARTS)
    # On a GPU or TPU, and outside of a graph, parts would not run side by side.
    is_parallel = kernel_choice.find_device_kind() == "cpu" and tf.inside_function()
    parts = min(kernel_choice.count_threads(), MOST_PARTS) if is_parallel else 1
    return parts if rows is None else max(1, min(parts, rows // PART_ROWS))


def _cut(batch: Batch, parts: int) -> list[Batch]:
    rows = batch.inputs.shape[0]
    rows = tf.shape(batch.inputs)[0] if rows is None else rows
    bounds = [rows * i // parts for i in range(parts + 1)]
    sizes = [end - begin for begin, end in zip(bounds, bounds[1:])]

    def cut(array, axis=0):  # not by slices: the gradient of a slice is as large as the whole
        return [None] * parts if array is None else tf.split(array, sizes, axis, num=parts)

    states = zip(*(cut(state) for state in batch.state))
    dropout = cut(batch.input_masks, 1), cut(batch.recurrent_masks, 1)
    return [Batch(*part) for part in zip(cut(batch.inputs), cut(batch.mask), states, *dropout)]


def _run_part(functions, part: Batch, weights: Weights, sequences: bool, training: bool):
    """Returns all states (B, T, H) or None, and the last one."""
    mask = None if part.mask is None else tf.transpose(part.mask)[:, :, tf.newaxis]
    part = part._replace(inputs=tf.transpose(part.inputs, (1, 0, 2)), mask=mask)
    if training:
        states, *last = _run_with_gradient(functions, part, weights, sequences)
    else:
        states, last = functions[0](part, weights, False, sequences)
        states = states[-1] if sequences else None
    return (tf.transpose(states, (1, 0, 2)) if sequences else None), last


def _run_with_gradient(functions, part: Batch, weights: Weights, sequences: bool) -> list:
    """Returns all states (T, B, H) or None, and each of the last one."""
    (forward, backward), size = functions, 1 + len(part.state)

    def arrange(x, *arrays):
        return part._replace(inputs=x, state=arrays[: size - 1]), Weights(*arrays[size - 1 :])

    @tf.custom_gradient
    def scan(*arrays):
        kept, last = forward(*arrange(*arrays), True, sequences)

        def differentiate(*gradients):
            d_sequence, d_state = (gradients[0], gradients[1:]) if sequences else (None, gradients)
            found = backward(*arrange(*arrays), kept, d_sequence, d_state)
            return [tf.cast(g, a.dtype) for g, a in zip([g for g in found if g is not None], arrays)]

        return [*kept[-1:], *last] if sequences else list(last), differentiate

    found = scan(part.inputs, *part.state, *(weight for weight in weights if weight is not None))
    return found if sequences else [None, *found]


def _run_fused(batch: Batch, weights: Weights):
    """Runs an LSTM over one text by TensorFlow's operation `BlockLSTM`; a loop's steps cost more than they compute.

    Not `BlockLSTMV2`, whose gradient TensorFlow 2.21 takes from `BlockLSTM`, where the gates stand in another order.

    Returns: all states (1, T, H), the last state [h, c].
    """
    (inputs, mask, state, *_), units = batch, weights.recurrent_kernel.shape[0]

    def reorder(array):  # i, f, C, o to i, C, f, o
        return tf.gather(tf.reshape(array, (-1, 4, units)), (0, 2, 1, 3), axis=1)

    bias = tf.zeros(4 * units) if weights.bias is None else reorder(weights.bias)
    row, zeros = inputs[0], tf.zeros(units)
    if mask is not None:  # a masked step would hand the state on, which it has no way to say
        row = tf.boolean_mask(row, mask[0])
    outputs = tf.raw_ops.BlockLSTM(
        seq_len_max=tf.shape(row, tf.int64)[0],
        x=row[:, tf.newaxis],
        h_prev=state[0],
        cs_prev=state[1],
        w=tf.reshape(reorder(tf.concat(weights[:2], 0)), (-1, 4 * units)),
        b=tf.reshape(bias, [-1]),
        **dict.fromkeys(("wci", "wcf", "wco"), zeros),  # peepholes, which are not used
        forget_bias=0.0,
        cell_clip=-1.0,
    )
    states, memories = (tf.concat([first, found[:, 0]], 0) for first, found in zip(state, (outputs.h, outputs.cs)))
    steps_done = tf.cumsum(tf.ones_like(inputs[0, :, 0], tf.int32) if mask is None else tf.cast(mask[0], tf.int32))
    return tf.gather(states, steps_done)[tf.newaxis], [states[-1:], memories[-1:]]
