"""The encoder: embedding and recurrence, from token ids to states, the same in a classifier and a language model."""

import keras

from keras_senti.errors import UserError
from keras_senti.models import kernel_choice, layers
from keras_senti.models.recurrent import GRU, LSTM
from keras_senti.settings.schema import ModelConfig

CELLS = {"lstm": LSTM, "gru": GRU, "simple_rnn": keras.layers.SimpleRNN}
RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional, layers.ResidualBlock)


class Encoder:
    """The layers of a network up to its last recurrent one: learned by a language model, taken on by a classifier.

    An object beside the network, not a layer in it: the document's model is Sequential([Embedding, LSTM, Dense]). What
    takes a model for its `layers` or `weights` takes an encoder as well.

    Args:
        layers: from the token ids on. Each that learns is a group with a rate and a first epoch of its own, as each
            layer behind them is: see `build.find_learning_layers`.
    """

    def __init__(self, layers: list[keras.layers.Layer]):
        self.layers = layers

    @classmethod
    def of(cls, model: keras.Sequential) -> "Encoder":
        last = max(i for i, layer in enumerate(model.layers) if isinstance(layer, RECURRENT))
        return cls(model.layers[: last + 1])

    @property
    def weights(self) -> list[keras.Variable]:
        return [variable for layer in self.layers for variable in layer.weights]


def build_encoder(
    settings: ModelConfig, vocabulary_size: int, kernel: str, return_sequences: bool, is_stream: bool = False
) -> Encoder:
    """Builds the layers from token ids to states: of every step, or the last one only.

    Args:
        is_stream: keep the state from one batch to the next, and read id 0 as any other.
    Raises:
        UserError: for an activation that Keras does not know.
    """
    check_activation(settings)
    stack = [_build_embedding(settings, vocabulary_size, mask_zero=not is_stream)]
    if settings.embedding_dropout:
        stack.append(keras.layers.Dropout(settings.embedding_dropout, name="embedding_dropout"))
    if settings.conv_filters:
        arguments = {"padding": "same", "activation": "relu", "name": "convolution"}
        stack.append(layers.MaskedConv1D(settings.conv_filters, settings.conv_width, **arguments))
    for index in range(settings.num_layers):
        is_last = index == settings.num_layers - 1
        recurrent = _build_recurrent(settings, index, not is_last or return_sequences, kernel, is_stream)
        if settings.residual:
            stack.append(layers.ResidualBlock(recurrent, settings.layer_normalization, name=f"residual_{index}"))
        elif settings.layer_normalization:
            stack += [keras.layers.LayerNormalization(name=f"normalization_{index}"), recurrent]
        else:
            stack.append(recurrent)
    return Encoder(stack)


def check_activation(settings: ModelConfig):
    """Raises a UserError unless Keras knows the activation."""
    try:
        keras.activations.get(settings.activation)
    except ValueError:
        received = f"model.activation: received '{settings.activation}'"
        raise UserError(f"{received}, expected the name of a Keras activation such as tanh, relu or selu.") from None


def _build_embedding(settings: ModelConfig, vocabulary_size: int, mask_zero: bool) -> keras.layers.Embedding:
    arguments = {"mask_zero": mask_zero, "trainable": settings.embedding_trainable, "name": "embedding"}
    kind = keras.layers.Embedding
    if settings.word_dropout or settings.bigram_buckets:
        kind, arguments["word_dropout"] = layers.Embedding, settings.word_dropout
    if settings.bigram_buckets:
        kind, arguments["buckets"] = layers.BigramEmbedding, settings.bigram_buckets
    return kind(vocabulary_size, settings.embedding_dim, **arguments)


def _build_recurrent(settings: ModelConfig, index: int, return_sequences: bool, kernel: str, stateful: bool):
    arguments = {
        "units": settings.units,
        "activation": settings.activation,
        "dropout": settings.dropout,
        "recurrent_dropout": settings.recurrent_dropout,
        "return_sequences": return_sequences,
        "stateful": stateful,
        "name": f"recurrent_{index}",
    }
    if settings.cell != "simple_rnn":
        arguments["weight_drop"] = settings.weight_drop
        arguments["kernel"] = "keras" if kernel_choice.find_obstacle(vars(settings)) else kernel
    layer = CELLS[settings.cell](**arguments)
    return keras.layers.Bidirectional(layer, name=layer.name) if settings.bidirectional else layer
