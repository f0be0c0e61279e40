"""The layers around the recurrence: embeddings, convolution, residual blocks."""

import keras
from keras import ops

from keras_senti.models.pooling import to_weights
from keras_senti.models.registry import register


@register
class MaskedConv1D(keras.layers.Conv1D):
    """Convolution over time that reads padding as zeros and passes the mask on; Keras' Conv1D drops the mask.

    With padding "same", what lies beyond the end of a text is then zero with and without padding behind it.

    Call: inputs (batch, time, features) float, mask (batch, time) bool. Returns (batch, time, filters).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return super().call(inputs * to_weights(inputs, mask))


@register
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


@register
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


@register
class BigramEmbedding(Embedding):
    """Vector of a token plus a vector of the pair that it makes with the token before it.

        x_t = E[i_t] + B[h(i_{t-1}, i_t)],   h(a, b) = (65521 (a mod 32719) + b) mod buckets

    Pairs are hashed, so two may share a vector; the first token of a text has no pair. Linear models owe pairs much of
    their strength, and a network has too few labelled texts to find each of them out by itself.

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
