"""What an earlier layout of this package wrote still loads: a small SavedModel, its Keras file, and an encoder.

made_before/classifier is a run on 60 rows, less the SavedModel's graph, which is never read; made_before/language_model
has the encoder of another.
"""

from pathlib import Path

import keras
import numpy as np

import keras_senti
import keras_senti.layers
from keras_senti.export.weights_folder import read_pretrained

FOLDER = Path(__file__).parent / "made_before"
TEXTS = ["the film was good", "the song was awful", "a table"]
PROBABILITIES = [  # of the code that wrote it
    [0.062193792, 0.42619175, 0.5116145],
    [0.95687246, 0.026299002, 0.01682863],
    [0.083688416, 0.4738427, 0.44246888],
]


def test_a_saved_model_predicts_as_it_did():
    classifier = keras_senti.load(FOLDER / "classifier")
    assert classifier.class_names == ["negative", "neutral", "positive"]
    np.testing.assert_allclose(classifier.predict_proba(TEXTS), PROBABILITIES, atol=1e-5)


def test_a_keras_file_loads_under_the_names_that_its_layers_had():
    ids = keras_senti.load(FOLDER / "classifier").tokenizer(TEXTS)
    model = keras.models.load_model(FOLDER / "classifier" / "model.keras")
    np.testing.assert_allclose(model(ids), PROBABILITIES, atol=1e-5)


def test_an_encoder_is_still_what_training_begins_with():
    encoder = read_pretrained(FOLDER / "language_model")
    assert encoder.is_language_model and encoder.vocabulary[:2] == ["[PAD]", "[UNK]"]
    assert encoder.weights["embedding/embeddings"].shape == (len(encoder.vocabulary), 3)
