"""What a model answers while it is trained: probabilities, and texts that a language model makes up."""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from keras_senti.models.language_model import LanguageModel

SAMPLED_TEXTS, SAMPLED_TOKENS = 6, 60
TEMPERATURE = 0.8  # below 1: sampled texts read better, because unlikely tokens become less likely


@functools.lru_cache(maxsize=1)
def make_predict(model: keras.Model):
    """Returns a compiled function from (batch, time) int32 token ids to (batch, classes) probabilities.

    For the same model it is the same one: to trace it takes a second.
    """

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def predict(token_ids):
        return model(token_ids, training=False)

    return predict


@contextlib.contextmanager
def keep_seeds(model: keras.Model):
    """Puts the seed generators back: Keras' recurrent layers advance theirs even without dropout being active.

    Keras 3.15: `_maybe_config_dropout_masks` in every call.
    """
    weights = {weight.path for weight in model.weights}
    seeds = [(v, v.numpy()) for v in model.non_trainable_variables if v.path not in weights]
    yield
    for variable, value in seeds:
        variable.assign(value)


def sample_texts(model: LanguageModel, vocabulary: list[str], joint: str, seed) -> list[str]:
    """Returns texts that the model makes up, token by token, each from the beginning of a text.

    Args:
        vocabulary: tokens by id. joint: what stands between two tokens. seed: for numpy.random.default_rng.
    """
    rng, rows = np.random.default_rng(seed), model.input_shape[0]
    output = model.layers[-1]

    @tf.function
    def score(token_ids):
        return output.compute_logits(tf.cast(model(token_ids, training=False)[:SAMPLED_TEXTS, 0], tf.float32))

    model.reset_states()
    ids = np.zeros((rows, 1), np.int32)
    texts = []
    for _ in range(SAMPLED_TOKENS):
        logits = score(tf.constant(ids)).numpy() / TEMPERATURE
        logits[:, 1] = -np.inf  # the model may know what an unknown word is; a reader does not
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # a draw from the softmax
        ids[: len(drawn), 0] = drawn
        texts.append(drawn)
    model.reset_states()
    words = np.array([*vocabulary], dtype=object)
    words[0] = "¶"
    return [joint.join(words[row]) for row in np.stack(texts, axis=1)]
