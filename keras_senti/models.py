"""The only place where a network is put together."""

import keras

from keras_senti import devices, layers
from keras_senti.config import ModelConfig, UserError

CELLS = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": keras.layers.SimpleRNN}
EMBEDDINGS = "embedding/embeddings"  # the name of the token vectors, see `name_of`


def name_of(variable) -> str:
    """Returns a weight's name: layer name and what is inside it, without the model's own name."""
    return variable.path.removeprefix("classifier/").removeprefix("language_model/")


def build_model(
    settings: ModelConfig,
    vocabulary_size: int,
    num_classes: int,
    kernel: str = "loop",
    precision: str = "float32",
) -> keras.Sequential:
    """Builds Embedding → [convolution] → recurrent layers → pooling → Dense softmax, untrained.

    With `cell: lstm`, one layer, one direction and `pooling: last` this is the design document's
    Sequential([Embedding, LSTM(units, dropout, recurrent_dropout), Dense(num_classes, softmax)]).

    Args:
        vocabulary_size: tokens, padding and [UNK] included.
        num_classes: size of the output, at least 2.
        kernel: loop | xla | keras, what computes the recurrent layers: see `devices.choose_kernel`. The weights are the
            same; a model with `loop` holds nothing that needs a GPU or XLA, so it can be exported.
        precision: float32 | mixed_bfloat16, Keras' dtype policy of all layers but the last.
    Returns: a model from token_ids (batch, time) int32, 0 = padding, to probabilities (batch, num_classes) float32.
    Raises:
        UserError: for an activation that Keras does not know.
    """
    check_activation(settings)
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)  # so that layers inside of layers have it too
    try:
        return keras.Sequential(_build_layers(settings, vocabulary_size, num_classes, kernel), name="classifier")
    finally:
        keras.config.set_dtype_policy(usual)


def _build_layers(settings: ModelConfig, vocabulary_size: int, num_classes: int, kernel: str) -> list:
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
        recurrent = _build_recurrent(settings, index, not is_last or needs_pooling, kernel)
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
    return stack


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


def _build_recurrent(settings: ModelConfig, index: int, return_sequences: bool, kernel: str) -> keras.layers.Layer:
    arguments = {
        "units": settings.units,
        "activation": settings.activation,
        "dropout": settings.dropout,
        "recurrent_dropout": settings.recurrent_dropout,
        "return_sequences": return_sequences,
        "name": f"recurrent_{index}",
    }
    if settings.cell != "simple_rnn":
        arguments["weight_drop"] = settings.weight_drop
        arguments["kernel"] = "keras" if devices.find_obstacle(vars(settings)) else kernel
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
