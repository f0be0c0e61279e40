"""Registers our layers with Keras."""

import keras


def register(layer):
    """Registers a layer as "keras_senti>NAME", of the module that a file's error then tells its reader to import."""
    layer.__module__ = "keras_senti.layers"
    return keras.saving.register_keras_serializable("keras_senti")(layer)
