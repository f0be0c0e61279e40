"""Layers that Keras lacks: fast LSTM and GRU; convolution, residual connection and pooling that use the mask.

Mask polarity: True = real token. A row without a real token cannot occur (text.TextEncoder makes it one [UNK]).
"""

import warnings

import keras
import tensorflow as tf
from keras import ops

from keras_senti import devices, kernels


class _FastRecurrence:
    """What LSTM and GRU below add to Keras' layers of these names: another loop, and DropConnect.

    Only `inner_loop` is replaced, so states, dropout, Bidirectional and saving are Keras' own.
    """

    def __init__(self, *args, weight_drop: float = 0.0, kernel: str = "auto", **kwargs):
        if not 0 <= weight_drop < 1:
            raise ValueError(f"weight_drop: received {weight_drop}, expected a fraction of at least 0 and below 1.")
        names = (*devices.KERNELS, "serving")
        if kernel not in ("auto", *names):
            raise ValueError(f"kernel: received '{kernel}', expected auto or one of {', '.join(names)}.")
        super().__init__(*args, **kwargs)
        self.weight_drop, self.kernel = weight_drop, kernel
        settings = {"cell": self.kind, **self.get_config(), "dtype": self.compute_dtype}
        if kernel == "auto" and self.use_cudnn is True:
            kernel = "keras"  # which says so where there is no cuDNN
        self.used_kernel = (
            devices.choose_kernel(devices.find_device_kind(), settings)[0] if kernel == "auto" else kernel
        )
        obstacle = devices.find_obstacle(settings)
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
        cell = self.cell
        recurrent_kernel = tf.convert_to_tensor(cell.recurrent_kernel.value)
        if self.weight_drop and training:
            recurrent_kernel = keras.random.dropout(recurrent_kernel, self.weight_drop, seed=self.weight_drop_seed)
        if self.used_kernel == "keras":
            original = vars(cell)["recurrent_kernel"]
            vars(cell)["recurrent_kernel"] = recurrent_kernel if self.weight_drop and training else original
            try:
                return super().inner_loop(sequences, initial_state, mask, training)
            finally:
                vars(cell)["recurrent_kernel"] = original
        sequences = tf.cast(sequences, self.compute_dtype)  # Keras casts numbers with a point only
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        state = list(initial_state) if isinstance(initial_state, list | tuple) else [initial_state]
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
        if self.go_backwards:
            sequences, mask = tf.reverse(sequences, [1]), None if mask is None else tf.reverse(mask, [1])
        masks = [None, None]
        if training and 0 < cell.dropout < 1:  # Keras' cells take 1 as none
            masks[0] = cell.get_dropout_mask(sequences[:, 0, :])
        if training and 0 < cell.recurrent_dropout < 1:
            masks[1] = cell.get_recurrent_dropout_mask(state[0])
        masks = [None if m is None else tf.stack(m if isinstance(m, list) else [m]) for m in masks]
        weights = [w if w is None else tf.convert_to_tensor(w.value) for w in (cell.kernel, cell.bias)]
        weights.insert(1, recurrent_kernel)
        outputs, last = kernels.run(
            self.kind,
            sequences,
            mask,
            state,
            weights,
            *masks,
            sequences=self.return_sequences,
            training=bool(training),
            compiled=bool(training) and self.used_kernel == "xla" and tf.inside_function(),
            serving=self.used_kernel == "serving",
        )
        for array, shape in [*((o, sequences.shape[:2]) for o in outputs), *((s, sequences.shape[:1]) for s in last)]:
            array.set_shape((*shape, self.units))  # which loops and parts of a batch forget
        if not self.return_sequences:
            output = last[0]
            if mask is not None:  # as Keras: zeros without a real token, whatever the state
                output = tf.where(tf.reduce_any(mask, 1, keepdims=True), output, 0.0)
            return output, output, last
        if mask is not None:
            # As Keras: zeros where Bidirectional asks for them, and before the first real token, whatever the state.
            seen = mask if self.zero_output_for_mask else tf.cumsum(tf.cast(mask, tf.int32), 1) > 0
            outputs = [tf.where(seen[:, :, tf.newaxis], outputs[0], 0.0)]
        return last[0], outputs[0], last

    def get_config(self):
        ours = {"weight_drop": self.weight_drop, "kernel": self.kernel, "implementation": self.cell.implementation}
        return {**super().get_config(), **ours, "use_cudnn": self.use_cudnn}


@keras.saving.register_keras_serializable("keras_senti")
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
            steps of a batch; what is left is divided by 1 - weight_drop. Unlike recurrent_dropout it keeps cuDNN.
        kernel: what computes it, see `devices.choose_kernel`; auto: that function decides, unless use_cudnn is True,
            which asks for Keras' layer. `xla` is the fastest where
            batches have few shapes; it works inside of a tf.function only, which `fit` is. Another activation than
            tanh, another recurrent_activation than sigmoid, float64 and unroll are left to Keras, with a warning.
            `serving`: the loop, the same for every machine, and for one text alone TensorFlow's fused operation, which
            XLA does not have.
        implementation: 2 (default): one mask of `dropout` and one of `recurrent_dropout` a sequence, for all gates; 1:
            one a gate, which is slower, and what Keras' layer (so also the kernel `keras`) does wherever
            recurrent_dropout is set. Gal & Ghahramani 2016, https://arxiv.org/abs/1512.05287: tied and untied.
        The others are those of keras.layers.LSTM.
    Call: inputs (batch, time, features), mask (batch, time) bool. Returns (batch, units) or (batch, time, units).
    Reference: Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, with the forget gate of Gers
        et al. 2000; weight_drop: Merity et al. 2018, https://arxiv.org/abs/1708.02182.
    """

    kind = "lstm"


@keras.saving.register_keras_serializable("keras_senti")
class GRU(_FastRecurrence, keras.layers.GRU):
    """keras.layers.GRU with the same weights, names, arguments and results, mostly faster: see `kernels`.

        z_t = σ(W_z x_t + U_z h_{t-1} + b_z)         what is kept of the state
        r_t = σ(W_r x_t + U_r h_{t-1} + b_r)
        h̃_t = tanh(W_h x_t + b_h + r_t * (U_h h_{t-1} + b'_h))
        h_t = z_t * h_{t-1} + (1 - z_t) * h̃_t

    W and U stand side by side, in the order z, r, h, in `kernel` and `recurrent_kernel`; b_z and b_r are sums of
    the two rows of `bias`.

    Args:
        weight_drop, kernel, implementation: as for LSTM; `reset_after=False` is left to Keras' loop too, and there is
            no fused operation.
        The others are those of keras.layers.GRU.
    Call: inputs (batch, time, features), mask (batch, time) bool. Returns (batch, units) or (batch, time, units).
    Reference: Cho et al. 2014, https://arxiv.org/abs/1406.1078; the reset gate behind the product as in cuDNN.
    """

    kind = "gru"


@keras.saving.register_keras_serializable("keras_senti")
class MaskedConv1D(keras.layers.Conv1D):
    """Convolution over time that reads padding as zeros and passes the mask on; Keras' Conv1D drops the mask.

    With padding "same", what lies beyond the end of a text is then zero with and without padding behind it.

    Call: inputs (batch, time, features) float, mask (batch, time) bool. Returns (batch, time, filters).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return super().call(inputs * _weights(inputs, mask))


@keras.saving.register_keras_serializable("keras_senti")
class ResidualBlock(keras.layers.Wrapper):
    """A recurrent layer with a connection around it, normalised before the layer or not at all.

        y = x + RNN(LayerNorm(x)),   or   y = W x + RNN(LayerNorm(x))   where the widths differ

    Args:
        layer: a recurrent layer that returns sequences.
        layer_normalization: without it, y = x + RNN(x).
    Call: inputs (batch, time, features) float, mask (batch, time) bool. Returns (batch, time, width of the layer).
    Reference: He et al. 2016, https://arxiv.org/abs/1512.03385 (W: their option B); Ba et al. 2016,
        https://arxiv.org/abs/1607.06450 (here before the layer, not inside of its gates).
    """

    def __init__(self, layer, layer_normalization: bool = False, **kwargs):
        super().__init__(layer, **kwargs)
        self.supports_masking = True
        self.normalization = self.projection = None
        if layer_normalization:
            self.normalization = keras.layers.LayerNormalization(name="normalization", dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        if self.normalization:
            self.normalization.build(input_shape)
        width = self.layer.compute_output_shape(input_shape)[-1]
        if width != input_shape[-1]:
            self.projection = keras.layers.Dense(width, use_bias=False, name="projection", dtype=self.dtype_policy)
            self.projection.build(input_shape)

    def call(self, inputs, mask=None):
        normalized = self.normalization(inputs) if self.normalization else inputs
        shortcut = self.projection(inputs) if self.projection else inputs
        return shortcut + self.layer(normalized, mask=mask)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "layer_normalization": self.normalization is not None}


class _MaskedPooling(keras.layers.Layer):
    """What the poolings share: they take a mask, consume it, and turn (batch, time, features) into one vector."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])


def _weights(inputs, mask):
    """Returns the mask as numbers, (batch, time, 1): 1 for a real token, 0 for padding."""
    if mask is None:
        return ops.ones_like(inputs[:, :, :1])
    return ops.expand_dims(ops.cast(mask, inputs.dtype), -1)


def _masked_mean(inputs, mask):
    # In float32: bfloat16 counts to 256 only.
    weights, values = ops.cast(_weights(inputs, mask), "float32"), ops.cast(inputs, "float32")
    return ops.cast(ops.sum(values * weights, axis=1) / ops.sum(weights, axis=1), inputs.dtype)


def _masked_max(inputs, mask):
    # float16 ends at 65,504, and padding must lose against every state.
    return ops.max(inputs - (1.0 - _weights(inputs, mask)) * 3e4, axis=1)


def _last_state(inputs, mask, bidirectional: bool):
    """Returns the state after the whole text: at the last token, and for the backward half at the first.

    A Bidirectional layer puts its backward states in reading order, so its last state stands at position 0.
    """
    last = ops.sum(ops.cast(_weights(inputs, mask), "int32"), axis=1) - 1  # (batch, 1)
    forward = ops.squeeze(ops.take_along_axis(inputs, ops.expand_dims(last, -1), axis=1), 1)
    if not bidirectional:
        return forward
    units = inputs.shape[-1] // 2
    return ops.concatenate([forward[:, :units], inputs[:, 0, units:]], axis=-1)


@keras.saving.register_keras_serializable("keras_senti")
class LastPooling(_MaskedPooling):
    """The state after the whole text, for layers that return every state because something is added to each.

    Args:
        bidirectional: the inputs are the joined halves of a Bidirectional layer, whose last state is two positions.
    Call: inputs (batch, time, features) float, mask (batch, time) bool. Returns (batch, features).
    """

    def __init__(self, bidirectional: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.bidirectional = bidirectional

    def call(self, inputs, mask=None):
        return _last_state(inputs, mask, self.bidirectional)

    def get_config(self):
        return {**super().get_config(), "bidirectional": self.bidirectional}


@keras.saving.register_keras_serializable("keras_senti")
class Embedding(keras.layers.Embedding):
    """keras.layers.Embedding that can drop whole words: in a training step some have no vector, wherever they stand.

    Args:
        word_dropout: share of the rows of the table that are dropped; the others are divided by 1 - word_dropout.
        The others are those of `keras.layers.Embedding`.
    Call: token_ids (batch, time) int, 0 = padding. Returns (batch, time, output_dim).
    Reference: Gal & Ghahramani 2016, https://arxiv.org/abs/1512.05287, section 4.2; Merity et al. 2018,
        https://arxiv.org/abs/1708.02182, section 4.3 ("embedding dropout").
    """

    def __init__(self, input_dim, output_dim, word_dropout: float = 0.0, **kwargs):
        super().__init__(input_dim, output_dim, **kwargs)
        self.word_dropout = word_dropout
        if word_dropout:  # only then: a layer without it has the variables of Keras' own
            self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs, training=False):
        outputs = super().call(inputs)
        if training and self.word_dropout:
            ones = ops.ones((self.input_dim, 1), self.compute_dtype)
            kept = keras.random.dropout(ones, self.word_dropout, seed=self.seed_generator)
            outputs *= ops.take(kept, inputs, axis=0)
        return outputs

    def compute_output_spec(self, inputs, training=False):
        return super().compute_output_spec(inputs)

    def get_config(self):
        return {**super().get_config(), "word_dropout": self.word_dropout}


@keras.saving.register_keras_serializable("keras_senti")
class BigramEmbedding(Embedding):
    """Vector of a token plus a vector of the pair that it makes with the token before it.

        x_t = E[i_t] + B[h(i_{t-1}, i_t)],   h(a, b) = (65521 (a mod 32719) + b) mod buckets

    Pairs are hashed, so two may share a vector; the first token of a text has no pair. Linear models owe pairs of
    neighbours much of their strength, and a network has too few labelled texts to find each of them out by itself.

    Args:
        buckets: vectors for pairs, at least 1. The others are those of `Embedding`.
    Call: token_ids (batch, time) int, 0 = padding. Returns (batch, time, output_dim).
    Reference: Joulin et al. 2017, https://aclanthology.org/E17-2068 (hashed pairs, in a bag of words there).
    """

    def __init__(self, input_dim, output_dim, buckets: int, **kwargs):
        super().__init__(input_dim, output_dim, **kwargs)
        self.buckets = buckets

    def build(self, input_shape=None):
        super().build(input_shape)
        self.bigrams = self.add_weight(
            shape=(self.buckets, self.output_dim), initializer=self.embeddings_initializer, name="bigrams"
        )

    def call(self, inputs, training=False):
        ids = ops.cast(inputs, "int32")
        before = ops.pad(ids[:, :-1], [[0, 0], [1, 0]])
        pair = ops.mod(ops.mod(before, 32719) * 65521 + ids, self.buckets)  # below 2**31 up to 3.6 million tokens
        is_pair = ops.cast(ops.logical_and(before != 0, ids != 0), self.compute_dtype)
        bigrams = ops.cast(ops.take(self.bigrams, pair, axis=0), self.compute_dtype)
        return super().call(inputs, training=training) + bigrams * ops.expand_dims(is_pair, -1)

    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)  # that of Embedding knows one table only

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self):
        return {**super().get_config(), "buckets": self.buckets}


@keras.saving.register_keras_serializable("keras_senti")
class MaxPooling(_MaskedPooling):
    """Maximum over the states of the real tokens; Keras' GlobalMaxPooling1D lets padding take part.

    Call: inputs (batch, time, features) float, mask (batch, time) bool. Returns (batch, features).
    Reference: Collobert et al. 2011, https://jmlr.org/papers/v12/collobert11a.html ("max over time").
    """

    def call(self, inputs, mask=None):
        return _masked_max(inputs, mask)


@keras.saving.register_keras_serializable("keras_senti")
class ConcatPooling(LastPooling):
    """Last state, mean and maximum, joined.

    Args:
        bidirectional: as in LastPooling.
    Call: inputs (batch, time, features) float, mask (batch, time) bool. Returns (batch, 3 * features).
    Reference: Howard & Ruder 2018, https://aclanthology.org/P18-1031, section 3.3 (last, max, mean there).
    """

    def call(self, inputs, mask=None):
        parts = [_last_state(inputs, mask, self.bidirectional), _masked_mean(inputs, mask), _masked_max(inputs, mask)]
        return ops.concatenate(parts, axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 3 * input_shape[-1])


@keras.saving.register_keras_serializable("keras_senti")
class AttentionPooling(_MaskedPooling):
    """Weighted mean over time, with weights learned from the states alone.

        u_t = tanh(W h_t + b),   a = softmax_t(v · u_t),   output = Σ_t a_t h_t

    Masked steps get weight 0. The size of u_t is that of h_t.

    Call: inputs (batch, time, features) float, mask (batch, time) bool. Returns (batch, features).
    Reference: Yang et al. 2016, https://aclanthology.org/N16-1174 (word level only; no sentence level here).
    """

    def build(self, input_shape):
        features = input_shape[-1]
        self.kernel = self.add_weight(shape=(features, features), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(features,), initializer="zeros", name="bias")
        self.context = self.add_weight(shape=(features, 1), initializer="glorot_uniform", name="context")

    def compute_attention(self, inputs, mask=None):
        """Returns a, (batch, time, 1), of the arguments of a call."""
        scores = ops.matmul(ops.tanh(ops.matmul(inputs, self.kernel) + self.bias), self.context)  # (batch, time, 1)
        return ops.softmax(scores - (1.0 - _weights(inputs, mask)) * 3e4, axis=1)

    def call(self, inputs, mask=None):
        return ops.sum(self.compute_attention(inputs, mask) * inputs, axis=1)
