"""Sentiment classification with recurrent networks, in Keras 3 on TensorFlow.

    import keras_senti
    keras_senti.load("logs/tweets/<run>").predict(["What a wonderful morning!"])

Importing this package imports nothing heavy: TensorFlow starts when something that needs it is first used.
Each folder is a room with one purpose; the rooms, in the order in which they may import each other, stand in
tests/test_rooms.py.
"""

import os

# Text handling, tf.data and SavedModel all need TensorFlow, whatever the environment or ~/.keras/keras.json say.
os.environ["KERAS_BACKEND"] = "tensorflow"
# Less chatter at start-up (six lines remain); real errors arrive as exceptions. Set it to 0 to see everything.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
__all__ = ["load"]


def load(path):
    """Loads a trained classifier from a run, a SavedModel or a weights folder; see `saved_model.load`."""
    from keras_senti.export import saved_model

    return saved_model.load(path)
