import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_senti.errors import UserError
from keras_senti.models.build import build_language_model, build_model, list_learning_layers
from keras_senti.models.encoder import Encoder
from keras_senti.models.recurrent import LSTM
from keras_senti.models.weights import iterate_encoder_weights, iterate_weights, name_weights
from keras_senti.settings.schema import Config, DataConfig, ModelConfig, PretrainConfig
from keras_senti.settings.yaml_file import read_config

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


def list_shapes(part) -> dict:
    return {name: tuple(variable.shape) for name, variable in name_weights(part).items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "gru", "bidirectional": False, "pooling": "last", "num_layers": 2},
        {"cell": "simple_rnn", "pooling": "attention", "layer_normalization": True, "num_layers": 2},
        {"residual": True, "layer_normalization": True, "conv_filters": 5, "bigram_buckets": 7, "num_layers": 2},
        {"residual": True, "bidirectional": False, "embedding_dim": 4, "pooling": "mean", "conv_width": 2},
        {"conv_filters": 8, "conv_width": 2, "residual": True, "weight_drop": 0.1, "word_dropout": 0.1},
    ],
)
def test_the_weights_of_a_network_are_known_before_it_is_built(options):
    config = Config(data=DataConfig(source="tweets"), model=ModelConfig(**{**SMALL, **options}))
    model = build_model(config.model, 9, 3)
    assert dict(iterate_weights(config, 9, 3)) == list_shapes(model)
    assert dict(iterate_encoder_weights(config.model, 9)) == list_shapes(Encoder.of(model))


@pytest.mark.parametrize("tied, units", [(True, 4), (False, 4), (True, 3)])
def test_the_weights_of_a_language_model_are_known_before_it_is_built(tied, units):
    settings = ModelConfig(**{**SMALL, "units": units, "bidirectional": False})
    pretrain = PretrainConfig(tie_embeddings=tied)
    config = Config(task="language_model", data=DataConfig(source="tweets"), model=settings, pretrain=pretrain)
    model = build_language_model(config, 9)
    assert dict(iterate_weights(config, 9, 0)) == list_shapes(model)
    assert dict(iterate_encoder_weights(settings, 9)) == list_shapes(Encoder.of(model))


OPTIONS = {"bigram_buckets": 7, "conv_filters": 5, "residual": True, "layer_normalization": True}


@pytest.mark.parametrize(
    "cell,pooling,options",
    [(cell, pooling, OPTIONS) for cell, pooling in itertools.product(CELLS, POOLINGS)]
    + [
        ("gru", pooling, {option: True})
        for pooling in ("last", "mean")
        for option in OPTIONS
        if option in ("residual", "layer_normalization")
    ],
)
@pytest.mark.parametrize("bidirectional,num_layers", [(False, 1), (True, 2)])
def test_with_options_a_text_gives_the_same_alone_and_beside_a_longer_one(
    cell, pooling, bidirectional, num_layers, options
):
    arguments = {**SMALL, "dropout": 0.3, "bidirectional": bidirectional, "num_layers": num_layers}
    keras.utils.set_random_seed(0)
    model = build_model(ModelConfig(cell=cell, pooling=pooling, **arguments, **options), 9, 3)
    assert type(model) is keras.Sequential
    # Were padding read, its vector would show, so it gets a large one.
    table, *others = model.get_layer("embedding").get_weights()
    table[0] = 50
    model.get_layer("embedding").set_weights([table, *others])
    probabilities = model(IDS).numpy()
    np.testing.assert_allclose(model(np.pad(IDS, ((0, 0), (0, 7)))), probabilities, atol=1e-6)
    for row, length in enumerate((4, 1, 6)):
        np.testing.assert_allclose(model(IDS[row : row + 1, :length])[0], probabilities[row], atol=1e-6)
    assert abs(probabilities[0] - probabilities[1]).max() > 1e-6


@pytest.mark.parametrize("pooling", POOLINGS)
def test_with_all_options_every_weight_gets_a_gradient_and_keras_reads_the_model_back(pooling, tmp_path):
    keras.utils.set_random_seed(0)
    model = build_model(ModelConfig(pooling=pooling, num_layers=2, **SMALL, **OPTIONS), 9, 3)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_sum(tf.math.log(model(IDS, training=True)[:, 0]))
    names = [w.path.removeprefix("classifier/") for w in model.trainable_weights]
    assert {"residual_0/normalization/gamma", "residual_0/projection/kernel", "convolution/kernel"} < set(names)
    assert len(names) == len(set(names))
    for name, gradient in zip(names, tape.gradient(loss, [w.value for w in model.trainable_weights])):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, name
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    for layer, other in zip(model.layers, again.layers):  # layer by layer in the same order, as set_weights takes them
        assert all((a == b).all() for a, b in zip(layer.get_weights(), other.get_weights(), strict=True))
    np.testing.assert_array_equal(again(IDS), model(IDS))


def test_the_options_are_layers_with_names_of_their_own():
    def names(**options):
        settings = ModelConfig(num_layers=2, pooling="last", **SMALL, **options)
        return [layer.name for layer in build_model(settings, 9, 3).layers][2:-1]

    assert names() == ["recurrent_0", "recurrent_1"]
    assert names(conv_filters=5) == ["convolution", "recurrent_0", "recurrent_1"]
    assert names(layer_normalization=True) == ["normalization_0", "recurrent_0", "normalization_1", "recurrent_1"]
    assert names(residual=True) == names(residual=True, layer_normalization=True) == [
        "residual_0", "residual_1", "pooling",
    ]  # fmt: skip


def test_the_convolution_has_the_settings_size():
    model = build_model(ModelConfig(conv_filters=5, conv_width=2, **SMALL), 9, 3)
    assert model.get_layer("convolution").kernel.shape == (2, 3, 5)  # width, embedding_dim, filters


@pytest.mark.parametrize("name", ["document", "document_review"])
def test_the_documents_model_is_exactly_the_documents(name):
    model = build_model(read_config(f"configs/{name}.yaml").model, vocabulary_size=5000, num_classes=3)
    embedding, lstm, head = model.layers
    assert [type(layer) for layer in model.layers] == [keras.layers.Embedding, LSTM, keras.layers.Dense]
    assert (lstm.units, lstm.return_sequences, head.units) == (100, False, 3)
    assert (lstm.dropout, lstm.recurrent_dropout) == ((0.2, 0.2) if name == "document" else (0.0, 0.0))
    assert head.activation is keras.activations.softmax and embedding.mask_zero
    # 5000 * 128; an LSTM has four gates with a kernel, a recurrent kernel and a bias each; 100 * 3 + 3.
    assert model.count_params() == 640_000 + 4 * (128 * 100 + 100 * 100 + 100) + 303
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_model_takes_the_same_weights_and_gives_the_same_probabilities_whatever_computes_it(cell):
    for options in ({}, OPTIONS):
        settings = ModelConfig(cell=cell, num_layers=2, **SMALL, **options)
        model = build_model(settings, 9, 3, kernel="keras")
        for kernel in ("loop", "xla"):
            other = build_model(settings, 9, 3, kernel=kernel)
            other.set_weights(model.get_weights())
            assert [w.path for w in other.weights] == [w.path for w in model.weights]
            np.testing.assert_allclose(other(IDS), model(IDS), atol=1e-6)
            recurrent = other.get_layer("residual_0").layer if options else other.get_layer("recurrent_0")
            for layer in (recurrent.forward_layer, recurrent.backward_layer):
                assert layer.used_kernel == kernel


def test_an_activation_that_the_fast_loop_lacks_is_computed_by_keras_without_a_warning(recwarn):
    model = build_model(ModelConfig(activation="relu", **SMALL), 9, 3, kernel="loop")
    assert model.get_layer("recurrent_0").forward_layer.used_kernel == "keras"
    assert not [w for w in recwarn if "recurrent_0" in str(w.message)]


def test_in_bfloat16_the_weights_stay_float32_and_the_probabilities_are_near():
    settings = ModelConfig(**{**SMALL, "units": 8}, **OPTIONS)
    keras.utils.set_random_seed(0)
    model, other = build_model(settings, 9, 3), build_model(settings, 9, 3, precision="mixed_bfloat16")
    other.set_weights(model.get_weights())
    assert {w.dtype for w in other.trainable_weights} == {"float32"}
    assert other.get_layer("pooling").compute_dtype == "bfloat16" and other(IDS).dtype == tf.float32
    difference = np.abs(other(IDS) - model(IDS)).max()
    assert 0 < difference < 0.02  # eight bits of mantissa
    assert keras.config.dtype_policy().name == "float32"
    long = np.full((1, 303), 2, np.int32)  # bfloat16 counts to 256 only
    np.testing.assert_allclose(other(long), model(long), atol=0.02)


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


def test_the_layers_that_learn_are_listed_from_input_to_output():
    names = ["recurrent_0", "recurrent_1", "head"]
    assert list_learning_layers(ModelConfig(num_layers=2)) == ["embedding", *names]
    assert list_learning_layers(ModelConfig(num_layers=2, embedding_trainable=False)) == names
    settings = ModelConfig(pooling="attention", units=10**7, **{**OPTIONS, "bigram_buckets": 10**9})
    assert list_learning_layers(settings) == ["embedding", "convolution", "residual_0", "pooling", "head"]


def test_a_classifier_and_a_language_model_have_the_same_encoder():
    config = Config(model=ModelConfig(num_layers=2, pooling="attention", **{**SMALL, **OPTIONS}))
    models = build_model(config.model, 9, 3), build_language_model(config, 9)
    classifiers, language_models = (Encoder.of(model) for model in models)
    assert [layer.name for layer in classifiers.layers] == [
        "embedding", "embedding_dropout", "convolution", "residual_0", "residual_1",
    ]  # fmt: skip
    assert list_shapes(classifiers) == list_shapes(language_models)
    assert [layer.name for layer in models[0].layers if layer not in classifiers.layers] == ["pooling", "head"]
