"""The only place where a network is put together."""

import contextlib
import dataclasses

import keras

from keras_senti.errors import UserError
from keras_senti.models import kernel_choice, layers, pooling
from keras_senti.models.language_model import LanguageModel, NextToken
from keras_senti.models.recurrent import GRU, LSTM
from keras_senti.settings.schema import Config, ModelConfig, PretrainConfig

CELLS = {"lstm": LSTM, "gru": GRU, "simple_rnn": keras.layers.SimpleRNN}
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
        kernel: loop | xla | keras, what computes the recurrent layers: see `kernel_choice.choose_kernel`; serving: see
            `recurrent.LSTM`. The weights are the same; `loop` and `serving` hold nothing that needs a GPU or XLA, so a
            model with one of them can be exported, and one with `serving` gives the same graph on every machine.
        precision: float32 | mixed_bfloat16, Keras' dtype policy of all layers but the last.
    Returns: a model from token_ids (batch, time) int32, 0 = padding, to probabilities (batch, num_classes) float32.
    Raises:
        UserError: for an activation that Keras does not know.
    """
    check_activation(settings)
    # A residual connection adds to every state, so the last state can be taken only behind it.
    needs_pooling = settings.pooling != "last" or settings.residual
    with _use_precision(precision):
        stack = [keras.Input((None,), dtype="int32", name="token_ids")]
        stack += _build_encoder(settings, vocabulary_size, kernel, needs_pooling)
        if needs_pooling:
            stack.append(_build_pooling(settings))
        if settings.head_dropout:
            stack.append(keras.layers.Dropout(settings.head_dropout, name="head_dropout"))
        # float32 also where the other layers compute in less: a softmax loses digits first.
        stack.append(keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name="head"))
        return keras.Sequential(stack, name="classifier")


def build_language_model(
    settings: ModelConfig,
    pretrain: PretrainConfig,
    vocabulary_size: int,
    batch_size: int,
    kernel: str = "loop",
    precision: str = "float32",
) -> LanguageModel:
    """Builds the same layers up to the last recurrent one, with the same names, and NextToken on top; untrained.

    Args:
        vocabulary_size, kernel, precision: as for build_model.
        batch_size: streams that are read side by side; each has a state of its own, so it is fixed.
    Returns: a model from token_ids (batch_size, time) int32, 0 = between two texts, to vectors (batch_size, time,
        features), which its output layer compares with those of all tokens. The padding id has a second meaning
        here, so no mask is made: every position is read.
    Raises:
        UserError: for an activation that Keras does not know.
    """
    check_activation(settings)
    with _use_precision(precision):
        encoder = _build_encoder(settings, vocabulary_size, kernel, return_sequences=True, is_stream=True)
        embedding = encoder[0]
        embedding.build((batch_size, None))
        stack = [keras.Input(batch_shape=(batch_size, None), dtype="int32", name="token_ids"), *encoder]
        if pretrain.output_dropout:
            shape = (batch_size, 1, settings.units)  # one mask for all steps
            stack.append(keras.layers.Dropout(pretrain.output_dropout, noise_shape=shape, name="output_dropout"))
        stack.append(
            NextToken(
                vocabulary_size,
                settings.embedding_dim,
                embedding.embeddings if pretrain.tie_embeddings else None,
                pretrain.negatives,
                name="output",
            )
        )
        return LanguageModel(stack, name="language_model")


def iterate_weights(config: Config, vocabulary_size: int, num_classes: int):
    """Yields (name, shape) of each weight of the network that the settings mean, without building it.

    What a file says it holds is compared with this before memory is spent on either.

    Args:
        num_classes: of a classifier; a language model has none.
    """
    settings, width = config.model, config.model.embedding_dim
    yield EMBEDDINGS, (vocabulary_size, width)
    if settings.bigram_buckets:
        yield "embedding/bigrams", (settings.bigram_buckets, width)
    if settings.conv_filters:
        yield "convolution/kernel", (settings.conv_width, width, settings.conv_filters)
        yield "convolution/bias", (settings.conv_filters,)
        width = settings.conv_filters
    units, directions = settings.units, ["forward", "backward"] if settings.bidirectional else [""]
    gates = {"lstm": 4, "gru": 3, "simple_rnn": 1}[settings.cell] * units
    for index in range(settings.num_layers):
        place = f"residual_{index}/" if settings.residual else ""
        for direction in directions:
            inner = f"{direction}_recurrent_{index}/" if direction else ""
            cell = f"{place}recurrent_{index}/{inner}{settings.cell}_cell"
            yield f"{cell}/kernel", (width, gates)
            yield f"{cell}/recurrent_kernel", (units, gates)
            yield f"{cell}/bias", (2, gates) if settings.cell == "gru" else (gates,)
        if settings.layer_normalization:
            place = f"{place}normalization" if settings.residual else f"normalization_{index}"
            yield from ((f"{place}/{name}", (width,)) for name in ("gamma", "beta"))
        if settings.residual and width != units * len(directions):
            yield f"residual_{index}/projection/kernel", (width, units * len(directions))
        width = units * len(directions)
    if config.task == "language_model":
        yield "output/bias", (vocabulary_size,)
        if not config.pretrain.tie_embeddings:
            yield "output/kernel", (vocabulary_size, settings.embedding_dim)
        if width != settings.embedding_dim:
            yield "output/projection", (width, settings.embedding_dim)
            yield "output/projection_bias", (settings.embedding_dim,)
        return
    if settings.pooling == "attention":
        yield from (("pooling/kernel", (width, width)), ("pooling/bias", (width,)), ("pooling/context", (width, 1)))
    yield "head/kernel", (width * (3 if settings.pooling == "concat" else 1), num_classes)
    yield "head/bias", (num_classes,)


@contextlib.contextmanager
def _use_precision(precision: str):
    """Makes it Keras' policy for a while, so that layers inside of layers have it too."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


def _build_encoder(
    settings: ModelConfig, vocabulary_size: int, kernel: str, return_sequences: bool, is_stream: bool = False
) -> list:
    """Returns the layers from token ids to states: of every step, or the last one only.

    Args:
        is_stream: keep the state from one batch to the next, and read id 0 as any other.
    """
    stack = [_build_embedding(settings, vocabulary_size, mask_zero=not is_stream)]
    if settings.embedding_dropout:
        stack.append(keras.layers.Dropout(settings.embedding_dropout, name="embedding_dropout"))
    if settings.conv_filters:
        stack.append(
            layers.MaskedConv1D(
                settings.conv_filters, settings.conv_width, padding="same", activation="relu", name="convolution"
            )
        )
    for index in range(settings.num_layers):
        is_last = index == settings.num_layers - 1
        recurrent = _build_recurrent(settings, index, not is_last or return_sequences, kernel, is_stream)
        if settings.residual:
            stack.append(layers.ResidualBlock(recurrent, settings.layer_normalization, name=f"residual_{index}"))
        elif settings.layer_normalization:
            stack += [keras.layers.LayerNormalization(name=f"normalization_{index}"), recurrent]
        else:
            stack.append(recurrent)
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


def find_learning_layers(model: keras.Sequential) -> list[keras.layers.Layer]:
    """Returns the layers that have weights to train, from the input to the output."""
    return [layer for layer in model.layers if layer.trainable_weights]


def list_learning_layers(settings: ModelConfig) -> list[str]:
    """Returns the names of those layers of a model that is not built yet."""
    sizes = ("units", "embedding_dim", "bigram_buckets", "conv_filters")  # names do not depend on them, time does
    smallest = {size: min(1, getattr(settings, size)) for size in sizes}
    model = build_model(dataclasses.replace(settings, **smallest), vocabulary_size=3, num_classes=2)
    return [layer.name for layer in find_learning_layers(model)]


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


def _build_pooling(settings: ModelConfig) -> keras.layers.Layer:
    with_last_state = {"last": pooling.LastPooling, "concat": pooling.ConcatPooling}
    if settings.pooling in with_last_state:
        return with_last_state[settings.pooling](bidirectional=settings.bidirectional, name="pooling")
    poolings = {
        "mean": keras.layers.GlobalAveragePooling1D,
        "max": pooling.MaxPooling,
        "attention": pooling.AttentionPooling,
    }
    return poolings[settings.pooling](name="pooling")
