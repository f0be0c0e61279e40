"""The only place where a network is put together."""

import keras

from keras_senti import layers
from keras_senti.config import ModelConfig, UserError

CELLS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "simple_rnn": keras.layers.SimpleRNN}


def build_model(
    settings: ModelConfig, vocabulary_size: int, num_classes: int, portable: bool = False
) -> keras.Sequential:
    """Builds Embedding → [convolution] → recurrent layers → pooling → Dense softmax, untrained.

    With `cell: lstm`, one layer, one direction and `pooling: last` this is the design document's
    Sequential([Embedding, LSTM(units, dropout, recurrent_dropout), Dense(num_classes, softmax)]).

    Args:
        vocabulary_size: tokens, padding and [UNK] included.
        num_classes: size of the output, at least 2.
        portable: never use cuDNN, whose operations an exported model could run on a GPU only; the weights are the same.
    Returns: a model from token_ids (batch, time) int32, 0 = padding, to probabilities (batch, num_classes) float32.
    Raises:
        UserError: for an activation that Keras does not know.
    """
    check_activation(settings)
    stack = [
        keras.Input((None,), dtype="int32", name="token_ids"),
        _build_embedding(settings, vocabulary_size),
    ]
    if settings.embedding_dropout:
        stack.append(keras.layers.Dropout(settings.embedding_dropout, name="embedding_dropout"))
    if settings.conv_filters:
        stack.append(
            layers.MaskedConv1D(
                settings.conv_filters, settings.conv_width, padding="same", activation="relu", name="convolution"
            )
        )
    # A residual connection adds to every state, so the last state can be taken only behind it.
    needs_pooling = settings.pooling != "last" or settings.residual
    for index in range(settings.num_layers):
        is_last = index == settings.num_layers - 1
        recurrent = _build_recurrent(settings, index, not is_last or needs_pooling, portable)
        if settings.residual:
            stack.append(layers.ResidualBlock(recurrent, settings.layer_normalization, name=f"residual_{index}"))
        elif settings.layer_normalization:
            stack += [keras.layers.LayerNormalization(name=f"normalization_{index}"), recurrent]
        else:
            stack.append(recurrent)
    if needs_pooling:
        stack.append(_build_pooling(settings))
    if settings.head_dropout:
        stack.append(keras.layers.Dropout(settings.head_dropout, name="head_dropout"))
    # float32 also where the other layers compute in less: a softmax loses digits first.
    stack.append(keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name="head"))
    return keras.Sequential(stack, name="classifier")


def check_activation(settings: ModelConfig):
    """Raises a UserError unless Keras knows the activation."""
    try:
        keras.activations.get(settings.activation)
    except ValueError:
        raise UserError(
            f"model.activation: received '{settings.activation}', expected the name of a Keras activation such as "
            "tanh, relu or selu."
        ) from None


def _build_embedding(settings: ModelConfig, vocabulary_size: int) -> keras.layers.Embedding:
    arguments = {"mask_zero": True, "trainable": settings.embedding_trainable, "name": "embedding"}
    if settings.bigram_buckets:
        arguments["buckets"] = settings.bigram_buckets
        return layers.BigramEmbedding(vocabulary_size, settings.embedding_dim, **arguments)
    return keras.layers.Embedding(vocabulary_size, settings.embedding_dim, **arguments)


def _build_recurrent(settings: ModelConfig, index: int, return_sequences: bool, portable: bool) -> keras.layers.Layer:
    arguments = {
        "units": settings.units,
        "activation": settings.activation,
        "dropout": settings.dropout,
        "recurrent_dropout": settings.recurrent_dropout,
        "return_sequences": return_sequences,
        "name": f"recurrent_{index}",
    }
    if portable and settings.cell != "simple_rnn":
        arguments["use_cudnn"] = False
    layer = CELLS[settings.cell](**arguments)
    return keras.layers.Bidirectional(layer, name=layer.name) if settings.bidirectional else layer


def _build_pooling(settings: ModelConfig) -> keras.layers.Layer:
    with_last_state = {"last": layers.LastPooling, "concat": layers.ConcatPooling}
    if settings.pooling in with_last_state:
        return with_last_state[settings.pooling](bidirectional=settings.bidirectional, name="pooling")
    poolings = {
        "mean": keras.layers.GlobalAveragePooling1D,
        "max": layers.MaxPooling,
        "attention": layers.AttentionPooling,
    }
    return poolings[settings.pooling](name="pooling")
