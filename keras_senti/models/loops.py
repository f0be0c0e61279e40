"""LSTM and GRU over whole sequences, forwards and backwards: what `kernels.run` runs.

Why this is faster than Keras' loop, which is differentiated automatically (Appleyard et al. 2016,
https://arxiv.org/abs/1604.01946, do the first two on a GPU):

1. The inputs of all steps are multiplied by the kernel in one product before the loop; a step of the loop holds one
   product with the recurrent kernel and element-wise work.
2. The loop backwards computes the gradients of the gates and nothing else. Their local derivatives are computed for all
   steps at once before it, and the gradients of the kernels, one product each, after it.
3. σ(x) = (1 + tanh(x / 2)) / 2, so one tanh serves all gates. Its values are written where the step's inputs stood;
   they and the states are all that is kept for the backward pass.

Arrays are time-major here, (time, batch, features); T, B, E and H are the sizes of time, batch, inputs and state.
Products are computed in the type of the inputs, the state and element-wise work in float32.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from keras_senti.models import kernel_choice


class Batch(NamedTuple):
    """What has a row for each text.

    inputs: (T, B, E) float32 or bfloat16. mask: (T, B, 1) bool, or None; True = real token, and a masked step hands the
    state on as it is. state: [h] or [h, c], (B, H) each. input_masks, recurrent_masks: dropout masks (1 or gates, B, E
    or H), one for all gates or one each, or None.
    """

    inputs: tf.Tensor
    mask: tf.Tensor | None
    state: list[tf.Tensor]
    input_masks: tf.Tensor | None = None
    recurrent_masks: tf.Tensor | None = None


class Weights(NamedTuple):
    """As Keras has them: (E, gates * H), (H, gates * H), and of a GRU (2, gates * H), else (gates * H,)."""

    kernel: tf.Tensor
    recurrent_kernel: tf.Tensor
    bias: tf.Tensor | None = None


def _project(inputs, kernels, masks=None):
    """Multiplies (..., B, n) by the kernels of all gates, side by side. Returns (..., B, gates * H).

    Args:
        kernels: [(n, gates * H)], or one (n, H) for each gate: see _split_kernel.
        masks: None, or as many (B, n): what each kernel sees of the inputs.
    """
    if masks is None:
        return _multiply(inputs, kernels[0])
    return tf.concat([_multiply(inputs * mask, k) for mask, k in zip(tf.unstack(masks), kernels)], -1)


def _split_kernel(kernel, masks=None):
    """Returns the kernels for `_project`: as many as there are masks."""
    return [kernel] if masks is None else tf.split(kernel, masks.shape[0], axis=1)


def _project_back(gradient, transposed, masks=None):
    """Returns the gradient of `_project` for its inputs, (..., B, n), from the transposed kernels."""
    if masks is None:
        return _multiply(gradient, transposed[0])
    gradients = tf.split(gradient, len(transposed), axis=-1)
    return tf.add_n([_multiply(g, k) * mask for g, k, mask in zip(gradients, transposed, tf.unstack(masks))])


def _differentiate_kernel(inputs, gradient, masks=None):
    """Returns the gradient of `_project` for its kernel, (n, gates * H): one product over all steps a kernel."""
    if masks is None:
        flat, flat_gradient = (tf.reshape(x, (-1, x.shape[-1])) for x in (inputs, gradient))
        return tf.matmul(flat, flat_gradient, transpose_a=True)
    gradients = tf.split(gradient, masks.shape[0], axis=-1)
    return tf.concat([_differentiate_kernel(inputs * m, g) for m, g in zip(tf.unstack(masks), gradients)], 1)


def _multiply(inputs, kernel):
    if inputs.shape.rank == 2:
        return tf.matmul(inputs, kernel)
    product = tf.matmul(tf.reshape(inputs, (-1, inputs.shape[-1])), kernel)
    return tf.reshape(product, (*tf.unstack(tf.shape(inputs))[:-1], kernel.shape[1]))


def _scan(step, reads, state, writes, backwards=False):
    """Runs a step over time.

    Args:
        step: (what is read at t, *state) → (what is written at t, new state).
        reads: arrays (T, B, n) or None. state: arrays (B, H).
        writes: (type, width) of the arrays that the step writes.
    Returns: (the written arrays, (T, B, width) each; the last state).
    """
    steps, rows = tf.shape(reads[0])[0], state[0].shape[0]
    read = [
        r if r is None else tf.TensorArray(r.dtype, steps, clear_after_read=False, element_shape=r.shape[1:]).unstack(r)
        for r in reads
    ]
    written = tuple(tf.TensorArray(dtype, steps, element_shape=(rows, width)) for dtype, width in writes)

    def body(k, arrays, *state):
        t = steps - 1 - k if backwards else k
        values, state = step([a if a is None else a.read(t) for a in read], *state)
        return k + 1, tuple(a.write(t, tf.cast(v, a.dtype)) for a, v in zip(arrays, values)), *state

    _, arrays, *state = tf.while_loop(lambda k, *_: k < steps, body, (0, written, *state))
    return [a.stack() for a in arrays], state


def _transpose(kernel, masks):
    return [tf.transpose(k) for k in _split_kernel(kernel, masks)]


def _floats(*arrays):
    return [None if a is None else tf.cast(a, tf.float32) for a in arrays]


def _sigmoid(halved):
    """Returns σ(x) from tanh(x / 2)."""
    return 0.5 * halved + 0.5


def _before(first, states):
    """Returns the state before each step, (T, B, H)."""
    return tf.concat([first[tf.newaxis], states[:-1]], 0)


def _lstm_forward(batch: Batch, weights: Weights, keep: bool, sequences: bool):
    """Returns (what the backward pass needs, or the states if `sequences`, or nothing; h and c after the last step)."""
    (x, mask, (h, c), x_masks, h_masks), (kernel, recurrent_kernel, bias) = batch, weights
    half = tf.repeat(tf.constant([0.5, 0.5, 1.0, 0.5], kernel.dtype), h.shape[-1])  # for i, f, o; see 3 above
    gates = _project(x, _split_kernel(kernel * half, x_masks), x_masks)
    if bias is not None:
        gates += bias * half
    recurrent_kernels = _split_kernel(recurrent_kernel * half, h_masks)
    h, c = _floats(h, c)

    def step(now, h, c):
        z, real = now
        inner = _project(tf.cast(h, x.dtype), recurrent_kernels, h_masks)
        y = tf.tanh(tf.cast(z, tf.float32) + tf.cast(inner, tf.float32))
        i, f, g, o = tf.split(y, 4, 1)
        new_c = _sigmoid(f) * c + _sigmoid(i) * g
        new_h = _sigmoid(o) * tf.tanh(new_c)
        if real is not None:
            new_h, new_c = tf.where(real, new_h, h), tf.where(real, new_c, c)
        return [y, new_c, new_h] if keep else [new_h], (new_h, new_c)

    units = h.shape[-1]
    states = [(tf.float32, units)] if sequences or keep else []
    return _scan(step, [gates, mask], (h, c), [(x.dtype, 4 * units), *states, *states] if keep else states)


def _differentiate_lstm_cell(y, c, cs, mask):
    """Returns, of all steps, what dC, dC, dC and dh are multiplied with to become the gradients before the gates' σ and
    tanh (T, B, 4 H); what dh adds to dC; what dC becomes for the step before; and where there is padding, or None.
    """
    i, f, g, o = tf.split(tf.cast(y, tf.float32), 4, 2)
    i, f, o, tanh_c = _sigmoid(i), _sigmoid(f), _sigmoid(o), tf.tanh(cs)
    local = tf.concat([g * i * (1 - i), _before(c, cs) * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)], 2)
    from_h = o * (1 - tanh_c * tanh_c)
    if mask is not None:
        real = tf.cast(mask, tf.float32)
        local, from_h, f, mask = local * real, from_h * real, f * real + (1 - real), 1 - real
    return tf.cast(local, y.dtype), from_h, f, mask


@functools.cache
def _compile_derivatives():
    return tf.function(_differentiate_lstm_cell, jit_compile=True)


def _lstm_backward(batch: Batch, weights: Weights, kept, d_sequence, d_state):
    """Returns the gradients of x, h, c, kernel, recurrent_kernel and bias."""
    (x, mask, state, x_masks, h_masks), (kernel, recurrent_kernel, bias), (y, cs, hs) = batch, weights, kept
    h, c, d_h, d_c, d_sequence = _floats(*state, *d_state, d_sequence)
    # With bfloat16 the loop is seldom compiled, but of what comes before it XLA makes one pass instead of thirty. It
    # compiles for each shape anew: not where lengths vary, nor outside of a graph, where each call's shape is fixed.
    is_fixed = x.dtype == tf.bfloat16 and x.shape.is_fully_defined() and tf.inside_function()
    differentiate = _differentiate_lstm_cell
    if is_fixed and kernel_choice.find_device_kind() == "cpu":
        differentiate = _compile_derivatives()
    local, from_h, f, mask = differentiate(y, c, cs, mask)
    transposed = _transpose(recurrent_kernel, h_masks)

    def step(now, d_h, d_c):
        local, from_h, f, padding, d_output = now
        if d_output is not None:
            d_h += d_output
        d_c += d_h * from_h
        d_z = tf.cast(tf.concat([d_c, d_c, d_c, d_h], 1) * tf.cast(local, tf.float32), x.dtype)
        d_before = tf.cast(_project_back(d_z, transposed, h_masks), tf.float32)
        if padding is not None:
            d_before += padding * d_h
        return [d_z], (d_before, d_c * f)

    reads = [local, from_h, f, mask, d_sequence]
    (d_z,), (d_h, d_c) = _scan(step, reads, (d_h, d_c), [(x.dtype, y.shape[-1])], backwards=True)
    d_recurrent = _differentiate_kernel(tf.cast(_before(h, hs), x.dtype), d_z, h_masks)
    d_bias = None if bias is None else tf.reduce_sum(tf.cast(d_z, tf.float32), [0, 1])
    d_x, d_kernel = _project_back(d_z, _transpose(kernel, x_masks), x_masks), _differentiate_kernel(x, d_z, x_masks)
    return d_x, d_h, d_c, d_kernel, d_recurrent, d_bias


def _gru_forward(batch: Batch, weights: Weights, keep: bool, sequences: bool):
    """Returns (what the backward pass needs, or the states if `sequences`, or nothing; h after the last step)."""
    (x, mask, (h,), x_masks, h_masks), (kernel, recurrent_kernel, bias) = batch, weights
    half = tf.repeat(tf.constant([0.5, 0.5, 1.0], kernel.dtype), h.shape[-1])  # for z and r; see 3 above
    gates = _project(x, _split_kernel(kernel * half, x_masks), x_masks)
    if bias is not None:
        gates += bias[0] * half
    recurrent_kernels = _split_kernel(recurrent_kernel * half, h_masks)
    recurrent_bias = 0.0 if bias is None else tf.cast(bias[1] * half, tf.float32)
    (h,), units = _floats(h), h.shape[-1]

    def step(now, h):
        a, real = now
        a = tf.cast(a, tf.float32)
        inner = tf.cast(_project(tf.cast(h, x.dtype), recurrent_kernels, h_masks), tf.float32) + recurrent_bias
        y = tf.tanh(a[:, : 2 * units] + inner[:, : 2 * units])
        z, r = tf.split(y, 2, 1)
        inner = inner[:, 2 * units :]
        candidate = tf.tanh(a[:, 2 * units :] + _sigmoid(r) * inner)
        new_h = candidate + _sigmoid(z) * (h - candidate)
        if real is not None:
            new_h = tf.where(real, new_h, h)
        return [tf.concat([y, candidate], 1), inner, new_h] if keep else [new_h], (new_h,)

    states = [(tf.float32, units)] if sequences or keep else []
    return _scan(step, [gates, mask], (h,), [(x.dtype, 3 * units), (x.dtype, units), *states] if keep else states)


def _gru_backward(batch: Batch, weights: Weights, kept, d_sequence, d_state):
    """Returns the gradients of x, h, kernel, recurrent_kernel and bias."""
    (x, mask, (h,), x_masks, h_masks), (kernel, recurrent_kernel, bias), (y, inner, hs) = batch, weights, kept
    h, d_h, d_sequence, inner = _floats(h, *d_state, d_sequence, inner)
    z, r, candidate = tf.split(tf.cast(y, tf.float32), 3, 2)
    z, r, before = _sigmoid(z), _sigmoid(r), _before(h, hs)
    # What dh is multiplied with to become the gradients before σ and tanh, for the recurrent product and the inputs.
    of_candidate = (1 - z) * (1 - candidate * candidate)
    of_gates = [(before - candidate) * z * (1 - z), of_candidate * inner * r * (1 - r)]
    local, local_inputs = tf.concat([*of_gates, of_candidate * r], 2), tf.concat([*of_gates, of_candidate], 2)
    if mask is not None:
        real = tf.cast(mask, tf.float32)
        local, local_inputs, z = local * real, local_inputs * real, z * real + (1 - real)

    transposed = _transpose(recurrent_kernel, h_masks)

    def step(now, d_h):
        local, z, d_output = now
        if d_output is not None:
            d_h += d_output
        d_inner = tf.cast(tf.concat([d_h, d_h, d_h], 1) * tf.cast(local, tf.float32), x.dtype)
        return [d_h], (d_h * z + tf.cast(_project_back(d_inner, transposed, h_masks), tf.float32),)

    local = tf.cast(local, x.dtype)
    (d_hs,), (d_h,) = _scan(step, [local, z, d_sequence], (d_h,), [(tf.float32, h.shape[-1])], backwards=True)
    d_hs = tf.concat([d_hs, d_hs, d_hs], 2)
    d_inner, d_gates = (tf.cast(d_hs * tf.cast(factor, tf.float32), x.dtype) for factor in (local, local_inputs))
    d_recurrent = _differentiate_kernel(tf.cast(before, x.dtype), d_inner, h_masks)
    d_bias = None
    if bias is not None:
        d_bias = tf.stack([tf.reduce_sum(tf.cast(d, tf.float32), [0, 1]) for d in (d_gates, d_inner)])
    d_x, d_kernel = (
        _project_back(d_gates, _transpose(kernel, x_masks), x_masks),
        _differentiate_kernel(x, d_gates, x_masks),
    )
    return d_x, d_h, d_kernel, d_recurrent, d_bias


LOOPS = {"lstm": (_lstm_forward, _lstm_backward), "gru": (_gru_forward, _gru_backward)}


@functools.cache
def compile_cell(cell: str) -> list:
    return [tf.function(way, jit_compile=True) for way in LOOPS[cell]]
