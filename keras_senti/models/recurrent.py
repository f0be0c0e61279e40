"""LSTM and GRU as in Keras, with a kernel of our own where it can compute them."""

import warnings

import keras
import tensorflow as tf

from keras_senti.models import kernel_choice, kernels
from keras_senti.models.loops import Batch, Weights
from keras_senti.models.registry import register


class _FastRecurrence:
    """What LSTM and GRU below add to Keras' layers of these names: another loop, and DropConnect.

    Only `inner_loop` is replaced, so states, dropout, Bidirectional and saving are Keras' own.
    """

    def __init__(self, *args, weight_drop: float = 0.0, kernel: str = "auto", **kwargs):
        if not 0 <= weight_drop < 1:
            raise ValueError(f"weight_drop: received {weight_drop}, expected a fraction of at least 0 and below 1.")
        names = (*kernel_choice.KERNELS, "serving")
        if kernel not in ("auto", *names):
            raise ValueError(f"kernel: received '{kernel}', expected auto or one of {', '.join(names)}.")
        super().__init__(*args, **kwargs)
        self.weight_drop, self.kernel = weight_drop, kernel
        settings = {"cell": self.kind, **self.get_config(), "dtype": self.compute_dtype}
        if kernel == "auto" and self.use_cudnn is True:
            kernel = "keras"  # which says so where there is no cuDNN
        self.used_kernel = kernel
        if kernel == "auto":
            self.used_kernel, _ = kernel_choice.choose_kernel(kernel_choice.find_device_kind(), settings)
        obstacle = kernel_choice.find_obstacle(settings)
        if obstacle and kernel != "keras":
            warnings.warn(f"{self.name}: {obstacle}; Keras' own, slower loop is used.", stacklevel=3)
            self.used_kernel = "keras"
        if self.used_kernel != "keras":
            self.supports_jit = self.used_kernel != "serving"
            if kwargs.get("implementation", 2) == 2:  # Keras' cells go to 1 with recurrent_dropout
                self.cell.implementation, self.cell.dropout_mask_count = 2, None
        if weight_drop:  # only then: a layer without it has the variables of Keras' own
            self.weight_drop_seed = keras.random.SeedGenerator(self.cell.seed)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        recurrent_kernel = tf.convert_to_tensor(self.cell.recurrent_kernel.value)
        if self.weight_drop and training:
            recurrent_kernel = keras.random.dropout(recurrent_kernel, self.weight_drop, seed=self.weight_drop_seed)
        if self.used_kernel == "keras":
            return self._run_keras(recurrent_kernel, sequences, initial_state, mask, training)
        batch = self._make_batch(sequences, initial_state, mask, training)
        kernel, bias = (w if w is None else tf.convert_to_tensor(w.value) for w in (self.cell.kernel, self.cell.bias))
        outputs, last = kernels.run(
            self.kind,
            batch,
            Weights(kernel, recurrent_kernel, bias),
            sequences=self.return_sequences,
            training=bool(training),
            compiled=bool(training) and self.used_kernel == "xla" and tf.inside_function(),
            serving=self.used_kernel == "serving",
        )
        rows, steps = batch.inputs.shape[:2]  # which loops and parts of a batch forget
        for array in last:
            array.set_shape((rows, self.units))
        for array in outputs:
            array.set_shape((rows, steps, self.units))
        output = self._mask_output(outputs[0] if outputs else last[0], batch.mask)
        return last[0] if self.return_sequences else output, output, last

    def _run_keras(self, recurrent_kernel, sequences, initial_state, mask, training):
        held = vars(self.cell)
        original = held["recurrent_kernel"]
        if self.weight_drop and training:
            held["recurrent_kernel"] = recurrent_kernel
        try:
            return super().inner_loop(sequences, initial_state, mask, training)
        finally:
            held["recurrent_kernel"] = original

    def _make_batch(self, sequences, initial_state, mask, training) -> Batch:
        """Returns the arguments of `inner_loop` in the order of reading, with dropout masks in training."""
        sequences = tf.cast(sequences, self.compute_dtype)  # Keras casts numbers with a point only
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        state = list(initial_state) if isinstance(initial_state, list | tuple) else [initial_state]
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
        if self.go_backwards:
            sequences, mask = tf.reverse(sequences, [1]), None if mask is None else tf.reverse(mask, [1])
        masks = [None, None]
        if training and 0 < self.cell.dropout < 1:  # Keras' cells take 1 as none
            masks[0] = self.cell.get_dropout_mask(sequences[:, 0, :])
        if training and 0 < self.cell.recurrent_dropout < 1:
            masks[1] = self.cell.get_recurrent_dropout_mask(state[0])
        masks = [None if m is None else tf.stack(m if isinstance(m, list) else [m]) for m in masks]
        return Batch(sequences, mask, state, *masks)

    def _mask_output(self, output, mask):
        """Puts zeros where Keras has them, whatever the state: where no real token was yet, or Bidirectional asks."""
        if mask is None:
            return output
        if not self.return_sequences:
            return tf.where(tf.reduce_any(mask, 1, keepdims=True), output, 0.0)
        seen = mask if self.zero_output_for_mask else tf.cumsum(tf.cast(mask, tf.int32), 1) > 0
        return tf.where(seen[:, :, tf.newaxis], output, 0.0)

    def get_config(self):
        ours = {"weight_drop": self.weight_drop, "kernel": self.kernel, "implementation": self.cell.implementation}
        return {**super().get_config(), **ours, "use_cudnn": self.use_cudnn}


@register
class LSTM(_FastRecurrence, keras.layers.LSTM):
    """keras.layers.LSTM with the same weights, names, arguments and results, mostly faster: see `kernels`.

        f_t = σ(W_f · [h_{t-1}, x_t] + b_f)          what is kept of the memory
        i_t = σ(W_i · [h_{t-1}, x_t] + b_i)          what is added to it
        C̃_t = tanh(W_C · [h_{t-1}, x_t] + b_C)
        C_t = f_t * C_{t-1} + i_t * C̃_t
        o_t = σ(W_o · [h_{t-1}, x_t] + b_o)          what of it is shown
        h_t = o_t * tanh(C_t)

    W_i, W_f, W_C, W_o stand side by side, in this order, in `kernel` (rows of x_t) and `recurrent_kernel` (rows of
    h_{t-1}).

    Args:
        weight_drop: share of the entries of recurrent_kernel that are dropped in training, the same for all rows and
            steps of a batch; the others are divided by 1 - weight_drop. Unlike recurrent_dropout it keeps cuDNN.
        kernel: what computes it, see `kernel_choice.choose_kernel`; auto: that function decides, unless use_cudnn is
            True, which asks for Keras' layer. `xla` is the fastest where batches have few shapes, inside of a
            tf.function. Other activations than tanh and sigmoid, float64 and unroll are left to Keras, with a warning.
            `serving`: the loop, the same for every machine, and for one text alone TensorFlow's fused operation.
        implementation: 2 (default): one mask of each dropout a sequence, for all gates; 1: one a gate, which is slower,
            and what Keras' layer does wherever recurrent_dropout is set (Gal & Ghahramani 2016: tied and untied).
        The others are those of keras.layers.LSTM.
    Call: inputs (batch, time, features), mask (batch, time) bool. Returns (batch, units) or (batch, time, units).
    Reference: Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, with the forget gate of Gers
        et al. 2000; weight_drop: Merity et al. 2018, https://arxiv.org/abs/1708.02182.
    """

    kind = "lstm"


@register
class GRU(_FastRecurrence, keras.layers.GRU):
    """keras.layers.GRU with the same weights, names, arguments and results, mostly faster: see `kernels`.

        z_t = σ(W_z x_t + U_z h_{t-1} + b_z)         what is kept of the state
        r_t = σ(W_r x_t + U_r h_{t-1} + b_r)
        h̃_t = tanh(W_h x_t + b_h + r_t * (U_h h_{t-1} + b'_h))
        h_t = z_t * h_{t-1} + (1 - z_t) * h̃_t

    W and U stand side by side, in the order z, r, h, in `kernel` and `recurrent_kernel`; b_z and b_r are sums of both
    rows of `bias`.

    Args:
        weight_drop, kernel, implementation: as for LSTM; `reset_after=False` is left to Keras too. The others are those
            of keras.layers.GRU.
    Call: inputs (batch, time, features), mask (batch, time) bool. Returns (batch, units) or (batch, time, units).
    Reference: Cho et al. 2014, https://arxiv.org/abs/1406.1078; the reset gate behind the product as in cuDNN.
    """

    kind = "gru"
