"""LSTM and GRU over whole sequences: the recurrence of `recurrent.LSTM` and `recurrent.GRU`, with our own gradients.

Why this is faster than Keras' loop, which is differentiated automatically (Appleyard et al. 2016,
https://arxiv.org/abs/1604.01946, do the first two on a GPU):

1. The inputs of all steps are multiplied by the kernel in one product before the loop; a step of the loop holds one
   product with the recurrent kernel and element-wise work.
2. The loop backwards computes the gradients of the gates and nothing else. Their local derivatives are computed for all
   steps at once before it, and the gradients of the kernels, one product each, after it.
3. σ(x) = (1 + tanh(x / 2)) / 2, so one tanh serves all gates. Its values are written where the step's inputs stood;
   they and the states are all that is kept for the backward pass.
4. The rows of a batch do not depend on each other: a batch is cut into parts, which run side by side. The products in a
   step are too small to be shared between processor cores.

Within this file arrays are time-major, (time, batch, features); T, B, E and H are the sizes of time, batch, inputs and
state. Mask polarity: True = real token; a masked step hands the state on as it is. Dropout masks (drawn by the layer)
are (1 or gates, B, features): one for all gates, or one each. Products are computed in the type of the inputs, the
state and element-wise work in float32.
"""

import contextlib
import contextvars
import functools

import tensorflow as tf

from keras_senti.models import kernel_choice

# A batch is cut into as many parts as there are threads, but no more than MOST_PARTS and, where its size is known or it
# does not train, none below PART_ROWS rows, where products get slow. With two threads forward and backward of 64
# rows and 256 units took 0.6 to 0.8 of the time so, on a noisy machine.
MOST_PARTS, PART_ROWS = 4, 16
SERVED_PARTS = 2  # in a SavedModel, whose graph is then the same wherever it was made
_has_own_gradient = contextvars.ContextVar("_has_own_gradient", default=False)


@contextlib.contextmanager
def own_gradient():
    """Within it `run` has the gradient of this file also where nothing is trained, so without dropout."""
    token = _has_own_gradient.set(True)
    try:
        yield
    finally:
        _has_own_gradient.reset(token)


def project(inputs, kernels, masks=None):
    """Multiplies (..., B, n) by the kernels of all gates, side by side. Returns (..., B, gates * H).

    Args:
        kernels: [(n, gates * H)], or one (n, H) for each gate: see split_kernel.
        masks: None, or as many (B, n): what each kernel sees of the inputs.
    """
    if masks is None:
        return _multiply(inputs, kernels[0])
    return tf.concat([_multiply(inputs * mask, k) for mask, k in zip(tf.unstack(masks), kernels)], -1)


def split_kernel(kernel, masks=None):
    """Returns the kernels for `project`: as many as there are masks."""
    return [kernel] if masks is None else tf.split(kernel, masks.shape[0], axis=1)


def project_back(gradient, transposed, masks=None):
    """Returns the gradient of `project` for its inputs, (..., B, n), from the transposed kernels."""
    if masks is None:
        return _multiply(gradient, transposed[0])
    gradients = tf.split(gradient, len(transposed), axis=-1)
    return tf.add_n([_multiply(g, k) * mask for g, k, mask in zip(gradients, transposed, tf.unstack(masks))])


def differentiate_kernel(inputs, gradient, masks=None):
    """Returns the gradient of `project` for its kernel, (n, gates * H): one product over all steps a kernel."""
    if masks is None:
        flat, flat_gradient = (tf.reshape(x, (-1, x.shape[-1])) for x in (inputs, gradient))
        return tf.matmul(flat, flat_gradient, transpose_a=True)
    gradients = tf.split(gradient, masks.shape[0], axis=-1)
    return tf.concat([differentiate_kernel(inputs * m, g) for m, g in zip(tf.unstack(masks), gradients)], 1)


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
    return [tf.transpose(k) for k in split_kernel(kernel, masks)]


def _floats(*arrays):
    return [None if a is None else tf.cast(a, tf.float32) for a in arrays]


def _sigmoid(halved):
    """Returns σ(x) from tanh(x / 2)."""
    return 0.5 * halved + 0.5


def _before(first, states):
    """Returns the state before each step, (T, B, H)."""
    return tf.concat([first[tf.newaxis], states[:-1]], 0)


def _lstm_forward(x, mask, h, c, kernel, recurrent_kernel, bias, x_masks, h_masks, keep, sequences):
    """Returns (what the backward pass needs, or the states if `sequences`, or nothing; h and c after the last step)."""
    half = tf.repeat(tf.constant([0.5, 0.5, 1.0, 0.5], kernel.dtype), h.shape[-1])  # for i, f, o; see 3. above
    gates = project(x, split_kernel(kernel * half, x_masks), x_masks)
    if bias is not None:
        gates += bias * half
    recurrent_kernels = split_kernel(recurrent_kernel * half, h_masks)
    h, c = _floats(h, c)

    def step(now, h, c):
        z, real = now
        y = tf.tanh(
            tf.cast(z, tf.float32) + tf.cast(project(tf.cast(h, x.dtype), recurrent_kernels, h_masks), tf.float32)
        )
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


def _lstm_backward(x, mask, h, c, kernel, recurrent_kernel, bias, x_masks, h_masks, kept, d_sequence, d_h, d_c):
    """Returns the gradients of x, h, c, kernel, recurrent_kernel and bias."""
    y, cs, hs = kept
    h, c, d_h, d_c, d_sequence = _floats(h, c, d_h, d_c, d_sequence)
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
        d_before = tf.cast(project_back(d_z, transposed, h_masks), tf.float32)
        if padding is not None:
            d_before += padding * d_h
        return [d_z], (d_before, d_c * f)

    reads = [local, from_h, f, mask, d_sequence]
    (d_z,), (d_h, d_c) = _scan(step, reads, (d_h, d_c), [(x.dtype, y.shape[-1])], backwards=True)
    d_recurrent = differentiate_kernel(tf.cast(_before(h, hs), x.dtype), d_z, h_masks)
    d_bias = None if bias is None else tf.reduce_sum(tf.cast(d_z, tf.float32), [0, 1])
    return (
        project_back(d_z, _transpose(kernel, x_masks), x_masks),
        d_h,
        d_c,
        differentiate_kernel(x, d_z, x_masks),
        d_recurrent,
        d_bias,
    )


def _gru_forward(x, mask, h, kernel, recurrent_kernel, bias, x_masks, h_masks, keep, sequences):
    """Returns (what the backward pass needs, or the states if `sequences`, or nothing; h after the last step)."""
    half = tf.repeat(tf.constant([0.5, 0.5, 1.0], kernel.dtype), h.shape[-1])  # for z and r; see 3. above
    gates = project(x, split_kernel(kernel * half, x_masks), x_masks)
    if bias is not None:
        gates += bias[0] * half
    recurrent_kernels = split_kernel(recurrent_kernel * half, h_masks)
    recurrent_bias = 0.0 if bias is None else tf.cast(bias[1] * half, tf.float32)
    (h,), units = _floats(h), h.shape[-1]

    def step(now, h):
        a, real = now
        a = tf.cast(a, tf.float32)
        inner = tf.cast(project(tf.cast(h, x.dtype), recurrent_kernels, h_masks), tf.float32) + recurrent_bias
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


def _gru_backward(x, mask, h, kernel, recurrent_kernel, bias, x_masks, h_masks, kept, d_sequence, d_h):
    """Returns the gradients of x, h, kernel, recurrent_kernel and bias."""
    y, inner, hs = kept
    h, d_h, d_sequence, inner = _floats(h, d_h, d_sequence, inner)
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
        return [d_h], (d_h * z + tf.cast(project_back(d_inner, transposed, h_masks), tf.float32),)

    local = tf.cast(local, x.dtype)
    (d_hs,), (d_h,) = _scan(step, [local, z, d_sequence], (d_h,), [(tf.float32, h.shape[-1])], backwards=True)
    d_hs = tf.concat([d_hs, d_hs, d_hs], 2)
    d_inner, d_gates = (tf.cast(d_hs * tf.cast(factor, tf.float32), x.dtype) for factor in (local, local_inputs))
    d_recurrent = differentiate_kernel(tf.cast(before, x.dtype), d_inner, h_masks)
    d_bias = None
    if bias is not None:
        d_bias = tf.stack([tf.reduce_sum(tf.cast(d, tf.float32), [0, 1]) for d in (d_gates, d_inner)])
    return (
        project_back(d_gates, _transpose(kernel, x_masks), x_masks),
        d_h,
        differentiate_kernel(x, d_gates, x_masks),
        d_recurrent,
        d_bias,
    )


CELLS = {"lstm": (_lstm_forward, _lstm_backward), "gru": (_gru_forward, _gru_backward)}


@functools.cache
def _compile(cell: str) -> list:
    return [tf.function(way, jit_compile=True) for way in CELLS[cell]]


def _run_fused(inputs, mask, state, weights):
    """Runs an LSTM over one text by TensorFlow's operation `BlockLSTM`; a loop's steps cost more than they compute.

    Not `BlockLSTMV2`, whose gradient TensorFlow 2.21 takes from `BlockLSTM`, where the gates stand in another order.

    Args: inputs (1, T, E) float32, and the others of `run`.
    Returns: all states (1, T, H), the last state [h, c].
    """
    units = weights[1].shape[0]

    def reorder(weights):  # i, f, C, o to i, C, f, o
        return tf.gather(tf.reshape(weights, (-1, 4, units)), (0, 2, 1, 3), axis=1)

    bias = tf.zeros(4 * units) if weights[2] is None else reorder(weights[2])
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


def run(
    cell, inputs, mask, state, weights, input_masks, recurrent_masks, *, sequences, training, compiled, serving=False
):
    """Runs a recurrent cell over a batch of sequences; differentiable for inputs, state and weights.

    Args:
        cell: lstm | gru (the one with `reset_after`), with tanh and σ.
        inputs: (B, T, E) float32 or bfloat16. mask: (B, T) bool, or None.
        state: [h] or [h, c], (B, H) each. weights: [kernel, recurrent_kernel, bias or None], as Keras has them.
        input_masks, recurrent_masks: dropout masks (1 or gates, B, E or H), or None.
        sequences: return all states.
        training: with the gradient of this file; otherwise (see `own_gradient`) TensorFlow derives one itself, if it
            is asked for, and keeps far more in memory.
        compiled: by XLA, anew for each shape, so only where shapes are few.
        serving: for a graph that goes to other machines. One text alone may be computed by an operation that XLA cannot
            compile, and a batch of any size is cut into SERVED_PARTS, not into as many as this machine has threads.
    Returns: ([all states (B, T, H)] or [], the last state [h] or [h, c]), float32.
    """
    forward, backward = _compile(cell) if compiled else CELLS[cell]
    training = training or _has_own_gradient.get()

    def run_part(inputs, mask, state, dropout):
        x = tf.transpose(inputs, (1, 0, 2))
        real = None if mask is None else tf.transpose(mask)[:, :, tf.newaxis]

        def arrange(state_and_weights):
            bias = [] if weights[2] is not None else [None]
            return *state_and_weights, *bias, *dropout

        @tf.custom_gradient
        def scan(x, *arrays):
            kept, last = forward(x, real, *arrange(arrays), True, sequences)

            def differentiate(*gradients):
                d_sequence, d_last = (gradients[0], gradients[1:]) if sequences else (None, gradients)
                found = backward(x, real, *arrange(arrays), kept, d_sequence, *d_last)
                return [tf.cast(g, a.dtype) for g, a in zip([g for g in found if g is not None], (x, *arrays))]

            return [*kept[-1:], *last] if sequences else list(last), differentiate

        given = [*state, *(w for w in weights if w is not None)]
        if training:
            states, *last = scan(x, *given) if sequences else (None, *scan(x, *given))
        else:
            states, last = forward(x, real, *arrange(given), False, sequences)
            states = states[-1] if sequences else None
        return (tf.transpose(states, (1, 0, 2)) if sequences else None), last

    def run_parts(parts):
        rows = tf.shape(inputs)[0] if inputs.shape[0] is None else inputs.shape[0]
        bounds = [rows * i // parts for i in range(parts + 1)]
        sizes = [end - begin for begin, end in zip(bounds, bounds[1:])]

        def cut(array, axis=0):  # not by slices: the gradient of a slice is as large as the whole
            return [None] * parts if array is None else tf.split(array, sizes, axis, num=parts)

        states_by_part = zip(*(cut(s) for s in state))
        dropout = zip(cut(input_masks, 1), cut(recurrent_masks, 1))
        results = [run_part(*part) for part in zip(cut(inputs), cut(mask), states_by_part, dropout)]
        last = [tf.concat(part, 0) for part in zip(*(r[1] for r in results))]
        return [tf.concat([r[0] for r in results], 0)] if sequences else [], last

    def run_one():
        all_states, last = _run_fused(inputs, mask, state, weights)
        return [all_states] if sequences else [], last

    # On a GPU or TPU, and outside of a graph, parts would not run side by side.
    is_parallel = kernel_choice.find_device_kind() == "cpu" and tf.inside_function()
    parts = min(kernel_choice.count_threads(), MOST_PARTS) if is_parallel else 1
    rows = inputs.shape[0]
    if serving and rows is None:
        parts = min(SERVED_PARTS, MOST_PARTS)
    can_fuse = serving and not training and cell == "lstm" and inputs.dtype == tf.float32
    if can_fuse and rows == 1:
        return run_one()
    if rows is None and not training:  # one text alone must not wait for empty parts

        def run_few():
            return tf.cond(tf.shape(inputs)[0] >= parts * PART_ROWS, lambda: run_parts(parts), lambda: run_parts(1))

        run_many = run_few if parts > 1 else lambda: run_parts(1)
        if can_fuse:
            return tf.cond(tf.shape(inputs)[0] == 1, run_one, run_many)
        return run_many()
    return run_parts(parts if rows is None else max(1, min(parts, rows // PART_ROWS)))
