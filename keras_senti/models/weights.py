"""Weights by name: what a variable is called in a file, what a network will have, and how it is given."""

import numpy as np

from keras_senti.settings.schema import Config, ModelConfig

EMBEDDINGS = "embedding/embeddings"  # the name of the token vectors, see `name_of`


def name_of(variable) -> str:
    """Returns a weight's name: layer name and what is inside it, without the model's own name."""
    return variable.path.removeprefix("classifier/").removeprefix("language_model/")


def name_weights(part) -> dict:
    """Returns variable by name, without the seeds of dropout, of a model, an encoder or a layer."""
    return {name_of(variable): variable for variable in part.weights}


def assign_weights(part, weights: dict[str, np.ndarray]):
    """Gives a model or an encoder its weights, by name: all that it has, all that are there.

    Raises:
        ValueError: if a weight of either is missing in the other, or has another shape; nothing is changed then.
    """
    variables = name_weights(part)
    for names, other, where in ((weights, variables, "new"), (variables, weights, "stored")):
        if lacking := sorted(set(names) - set(other)):
            raise ValueError(f"the {where} model has no weight {', '.join(lacking)}")
    for name, variable in variables.items():
        if weights[name].shape != tuple(variable.shape):
            raise ValueError(
                f"the weight {name} has the shape {weights[name].shape}, the new model's has {tuple(variable.shape)}"
            )
    for name, variable in variables.items():
        variable.assign(weights[name])


def iterate_encoder_weights(settings: ModelConfig, vocabulary_size: int):
    """Yields (name, shape) of each weight of an encoder that is not built; returns the width of its states."""
    width = settings.embedding_dim
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
    return width


def iterate_weights(config: Config, vocabulary_size: int, num_classes: int):
    """Yields (name, shape) of each weight of the network that the settings mean, without building it.

    What a file says it holds is compared with this before memory is spent on either.

    Args:
        num_classes: of a classifier; a language model has none.
    """
    settings = config.model
    width = yield from iterate_encoder_weights(settings, vocabulary_size)
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
