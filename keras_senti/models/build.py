"""The only place where a network is put together."""

import contextlib
import dataclasses

import keras

from keras_senti.models import pooling
from keras_senti.models.encoder import build_encoder
from keras_senti.models.language_model import LanguageModel, NextToken
from keras_senti.settings.schema import Config, ModelConfig


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
        kernel: loop | xla | keras | serving, what computes the recurrent layers with the same weights: see
            `kernel_choice.choose_kernel` and `recurrent.LSTM`. `loop` and `serving` need no GPU and no XLA, so they can
            be exported; `serving` gives the same graph on every machine.
        precision: float32 | mixed_bfloat16, Keras' dtype policy of all layers but the last.
    Returns: a model from token_ids (batch, time) int32, 0 = padding, to probabilities (batch, num_classes) float32.
    """
    # A residual connection adds to every state, so the last state can be taken only behind it.
    needs_pooling = settings.pooling != "last" or settings.residual
    with _use_precision(precision):
        stack = [keras.Input((None,), dtype="int32", name="token_ids")]
        stack += build_encoder(settings, vocabulary_size, kernel, return_sequences=needs_pooling).layers
        if needs_pooling:
            stack.append(_build_pooling(settings))
        if settings.head_dropout:
            stack.append(keras.layers.Dropout(settings.head_dropout, name="head_dropout"))
        # float32 also where the other layers compute in less: a softmax loses digits first.
        stack.append(keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name="head"))
        return keras.Sequential(stack, name="classifier")


def build_language_model(config: Config, vocabulary_size: int, kernel: str = "loop") -> LanguageModel:
    """Builds the same encoder, and NextToken on top; untrained.

    Args:
        config: `model` and `pretrain` say what it consists of; `train.batch_size` how many streams are read side by
            side, each with a state of its own; `device.precision` as for build_model.
        vocabulary_size, kernel: as for build_model.
    Returns: a model from token_ids (streams, time) int32, 0 = between two texts, to vectors (streams, time, features),
        which its output layer compares with those of all tokens. The padding id has a second meaning here, so no mask
        is made: every position is read.
    """
    settings, pretrain, streams = config.model, config.pretrain, config.train.batch_size
    with _use_precision(config.device.precision):
        encoder = build_encoder(settings, vocabulary_size, kernel, return_sequences=True, is_stream=True)
        embedding = encoder.layers[0]
        embedding.build((streams, None))
        stack = [keras.Input(batch_shape=(streams, None), dtype="int32", name="token_ids"), *encoder.layers]
        if pretrain.output_dropout:
            shape = (streams, 1, settings.units)  # one mask for all steps
            stack.append(keras.layers.Dropout(pretrain.output_dropout, noise_shape=shape, name="output_dropout"))
        table = embedding.embeddings if pretrain.tie_embeddings else None
        stack.append(NextToken(vocabulary_size, settings.embedding_dim, table, pretrain.negatives, name="output"))
        return LanguageModel(stack, name="language_model")


def find_learning_layers(model: keras.Sequential) -> list[keras.layers.Layer]:
    """Returns the layers that have weights to train, from the input to the output: the groups of fine-tuning."""
    return [layer for layer in model.layers if layer.trainable_weights]


def list_learning_layers(settings: ModelConfig) -> list[str]:
    """Returns the names of those layers of a model that is not built yet."""
    sizes = ("units", "embedding_dim", "bigram_buckets", "conv_filters")  # names do not depend on them, time does
    smallest = {size: min(1, getattr(settings, size)) for size in sizes}
    model = build_model(dataclasses.replace(settings, **smallest), vocabulary_size=3, num_classes=2)
    return [layer.name for layer in find_learning_layers(model)]


@contextlib.contextmanager
def _use_precision(precision: str):
    """Makes it Keras' policy for a while, so that layers inside of layers have it too."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


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
