import itertools

import keras
import numpy as np
import pytest

from keras_senti.config import ModelConfig, UserError, read_config
from keras_senti.models import build_model

CELLS, POOLINGS = ("lstm", "gru", "simple_rnn"), ("last", "mean", "max", "attention", "concat")
SMALL = {"units": 4, "embedding_dim": 3, "embedding_dropout": 0.5}
IDS = np.array([[2, 3, 4, 5, 0, 0], [7, 0, 0, 0, 0, 0], [2, 3, 4, 5, 6, 7]], np.int32)


@pytest.mark.parametrize("cell,pooling", list(itertools.product(CELLS, POOLINGS)))
@pytest.mark.parametrize("bidirectional,num_layers", [(False, 1), (True, 1), (False, 2), (True, 2)])
def test_every_combination_is_sequential_and_does_not_change_with_padding(cell, pooling, bidirectional, num_layers):
    settings = ModelConfig(cell=cell, pooling=pooling, bidirectional=bidirectional, num_layers=num_layers, **SMALL)
    keras.utils.set_random_seed(0)
    model = build_model(settings, vocabulary_size=9, num_classes=3)
    assert type(model) is keras.Sequential
    probabilities = model(IDS).numpy()
    np.testing.assert_allclose(model(np.pad(IDS, ((0, 0), (0, 7)))), probabilities, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert abs(probabilities[0] - probabilities[1]).max() > 1e-6  # and it does read the text


@pytest.mark.parametrize("name", ["document", "document_review"])
def test_the_documents_model_is_exactly_the_documents(name):
    model = build_model(read_config(f"configs/{name}.yaml").model, vocabulary_size=5000, num_classes=3)
    embedding, lstm, head = model.layers
    assert [type(layer) for layer in model.layers] == [keras.layers.Embedding, keras.layers.LSTM, keras.layers.Dense]
    assert (lstm.units, lstm.return_sequences, head.units) == (100, False, 3)
    assert (lstm.dropout, lstm.recurrent_dropout) == ((0.2, 0.2) if name == "document" else (0.0, 0.0))
    assert head.activation is keras.activations.softmax and embedding.mask_zero
    # 5000 * 128; an LSTM has four gates with a kernel, a recurrent kernel and a bias each; 100 * 3 + 3.
    assert model.count_params() == 640_000 + 4 * (128 * 100 + 100 * 100 + 100) + 303
    assert model.output_shape == (None, 3)


def test_the_portable_model_takes_the_same_weights_and_gives_the_same_probabilities():
    settings = ModelConfig(num_layers=2, **SMALL)
    model, portable = build_model(settings, 9, 3), build_model(settings, 9, 3, portable=True)
    portable.set_weights(model.get_weights())
    np.testing.assert_allclose(portable(IDS), model(IDS), atol=1e-6)
    assert portable.get_layer("recurrent_0").forward_layer.use_cudnn is False


def test_settings_reach_the_layers():
    settings = ModelConfig(cell="gru", dropout=0.1, recurrent_dropout=0.3, head_dropout=0.4, activation="relu", **SMALL)
    model = build_model(settings, 9, 4)
    gru = model.get_layer("recurrent_0").forward_layer
    assert (gru.dropout, gru.recurrent_dropout, gru.activation) == (0.1, 0.3, keras.activations.relu)
    assert model.get_layer("embedding_dropout").rate == 0.5 and model.get_layer("head_dropout").rate == 0.4
    assert [layer.name for layer in model.layers] == [
        "embedding", "embedding_dropout", "recurrent_0", "pooling", "head_dropout", "head",
    ]  # fmt: skip


def test_an_unknown_activation_is_refused_by_name():
    with pytest.raises(UserError, match="model.activation: received 'thanh'"):
        build_model(ModelConfig(activation="thanh"), 9, 3)
