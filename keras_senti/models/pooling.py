"""From the states of all time steps to one vector. Padding never counts."""

import keras
from keras import ops

from keras_senti.models.registry import register


class _MaskedPooling(keras.layers.Layer):
    """What the poolings share: they take a mask, consume it, and turn (batch, time, features) into one vector."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])


def to_weights(inputs, mask):
    """Returns the mask as numbers, (batch, time, 1): 1 for a real token, 0 for padding."""
    if mask is None:
        return ops.ones_like(inputs[:, :, :1])
    return ops.expand_dims(ops.cast(mask, inputs.dtype), -1)


def _masked_mean(inputs, mask):
    # In float32: bfloat16 counts to 256 only.
    weights, values = ops.cast(to_weights(inputs, mask), "float32"), ops.cast(inputs, "float32")
    return ops.cast(ops.sum(values * weights, axis=1) / ops.sum(weights, axis=1), inputs.dtype)


def _masked_max(inputs, mask):
    # float16 ends at 65,504, and padding must lose against every state.
    return ops.max(inputs - (1.0 - to_weights(inputs, mask)) * 3e4, axis=1)


def _last_state(inputs, mask, bidirectional: bool):
    """Returns the state after the whole text: at the last token, and for the backward half at the first.

    A Bidirectional layer puts its backward states in reading order, so its last state stands at position 0.
    """
    last = ops.sum(ops.cast(to_weights(inputs, mask), "int32"), axis=1) - 1  # (batch, 1)
    forward = ops.squeeze(ops.take_along_axis(inputs, ops.expand_dims(last, -1), axis=1), 1)
    if not bidirectional:
        return forward
    units = inputs.shape[-1] // 2
    return ops.concatenate([forward[:, :units], inputs[:, 0, units:]], axis=-1)


@register
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


@register
class MaxPooling(_MaskedPooling):
    """Maximum over the states of the real tokens; Keras' GlobalMaxPooling1D lets padding take part.

    Call: inputs (batch, time, features) float, mask (batch, time) bool. Returns (batch, features).
    Reference: Collobert et al. 2011, https://jmlr.org/papers/v12/collobert11a.html ("max over time").
    """

    def call(self, inputs, mask=None):
        return _masked_max(inputs, mask)


@register
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


@register
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
        return ops.softmax(scores - (1.0 - to_weights(inputs, mask)) * 3e4, axis=1)

    def call(self, inputs, mask=None):
        return ops.sum(self.compute_attention(inputs, mask) * inputs, axis=1)
