import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_senti.models import layers, pooling
from keras_senti.models.recurrent import GRU, LSTM

ROOT = Path(__file__).parents[2]
# One text of two tokens and one of one; what stands in masked steps must never count.
INPUTS = np.array([[[1.0, 8.0], [3.0, -2.0], [99.0, 99.0]], [[-5.0, 4.0], [99.0, 99.0], [99.0, 99.0]]], np.float32)
MASK = np.array([[True, True, False], [True, False, False]])


def test_the_convolution_reads_padding_as_zeros_and_passes_the_mask_on():
    layer = layers.MaskedConv1D(1, 3, padding="same", activation="relu")
    layer.build(INPUTS.shape)
    # 1 times the first feature of the token before, 10 times that of the token, 100 times that of the one after.
    layer.set_weights([np.array([[[1.0], [0]], [[10], [0]], [[100], [0]]]), np.array([0.5])])
    output = layer(INPUTS, mask=MASK).numpy()[:, :, 0]
    assert output[0, :2].tolist() == [10 + 300 + 0.5, 1 + 30 + 0.5]
    assert output[1, 0] == 0  # ReLU of -50 + 0.5
    assert layer.compute_mask(INPUTS, MASK) is MASK
    assert layer(INPUTS).numpy()[0, 1, 0] == 1 + 30 + 9900 + 0.5  # without a mask every step counts


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_a_text_alone_has_the_same_convolution_as_a_text_with_padding(width):
    layer = layers.MaskedConv1D(3, width, padding="same")
    np.testing.assert_allclose(layer(INPUTS, mask=MASK)[0, :2], layer(INPUTS[:1, :2])[0], rtol=1e-5)


def normalize(states):
    centred = states - states.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-3)  # Keras' epsilon


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("units", [2, 3])
def test_the_residual_block_follows_its_equation(normalized, units):
    rng = np.random.default_rng(0)
    block = layers.ResidualBlock(keras.layers.SimpleRNN(units, return_sequences=True), normalized)
    block.build(INPUTS.shape)
    kernel, recurrent = rng.normal(size=(2, units)), rng.normal(size=(units, units))
    bias, projection = rng.normal(size=units), rng.normal(size=(2, units))
    block.layer.set_weights([kernel, recurrent, bias])
    assert (block.projection is None) == (units == 2)  # x itself where the widths agree
    if units != 2:
        block.projection.set_weights([projection])
    output = block(INPUTS, mask=MASK).numpy()
    for row, length in enumerate((2, 1)):
        state = np.zeros(units)
        for x, y in zip(INPUTS[row, :length], output[row]):
            state = np.tanh((normalize(x) if normalized else x) @ kernel + state @ recurrent + bias)
            np.testing.assert_allclose(y, (x if units == 2 else x @ projection) + state, rtol=1e-4)
    assert block.compute_mask(INPUTS, MASK) is MASK and block.compute_output_shape(INPUTS.shape) == output.shape


def test_the_residual_block_hands_its_mask_to_a_layer_that_reads_backwards():
    block = layers.ResidualBlock(keras.layers.Bidirectional(keras.layers.GRU(1, return_sequences=True)))
    np.testing.assert_allclose(block(INPUTS, mask=MASK)[0, :2], block(INPUTS[:1, :2])[0], rtol=1e-5)


def test_last_pooling_takes_the_state_after_the_whole_text():
    assert pooling.LastPooling()(INPUTS, mask=MASK).numpy().tolist() == [[3.0, -2.0], [-5.0, 4.0]]
    assert pooling.LastPooling(bidirectional=True)(INPUTS, mask=MASK).numpy().tolist() == [[3.0, 8.0], [-5.0, 4.0]]


def test_max_pooling_ignores_padding_also_where_all_states_are_negative():
    assert pooling.MaxPooling()(INPUTS, mask=MASK).numpy().tolist() == [[3.0, 8.0], [-5.0, 4.0]]


def test_concat_pooling_joins_last_mean_and_max():
    expected = [[3.0, -2.0, 2.0, 3.0, 3.0, 8.0], [-5.0, 4.0, -5.0, 4.0, -5.0, 4.0]]
    assert pooling.ConcatPooling()(INPUTS, mask=MASK).numpy().tolist() == expected


def test_the_last_backward_state_of_a_bidirectional_layer_stands_at_the_first_position():
    pooled = pooling.ConcatPooling(bidirectional=True)(INPUTS, mask=MASK).numpy()
    assert pooled[:, :2].tolist() == [[3.0, 8.0], [-5.0, 4.0]]


def test_the_last_state_is_what_keras_itself_returns():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 3, 5)).astype(np.float32)
    steps = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))
    last = keras.layers.Bidirectional(keras.layers.LSTM(4))
    last.build(inputs.shape)
    steps.build(inputs.shape)
    last.set_weights(steps.get_weights())
    pooled = pooling.ConcatPooling(bidirectional=True)(steps(inputs, mask=MASK), mask=MASK)
    np.testing.assert_allclose(pooled[:, :8], last(inputs, mask=MASK), atol=1e-6)


def test_attention_pooling_follows_its_equation():
    layer = pooling.AttentionPooling()
    layer(INPUTS, mask=MASK)
    rng = np.random.default_rng(1)
    kernel, bias, context = rng.normal(size=(2, 2)), rng.normal(size=2), rng.normal(size=(2, 1))
    layer.set_weights([kernel, bias, context])
    expected = []
    for states in (INPUTS[0, :2], INPUTS[1, :1]):
        score = np.tanh(states @ kernel + bias) @ context[:, 0]
        attention = np.exp(score) / np.exp(score).sum()
        expected.append(attention @ states)
    np.testing.assert_allclose(layer(INPUTS, mask=MASK), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "layer", [pooling.LastPooling(), pooling.MaxPooling(), pooling.ConcatPooling(), pooling.AttentionPooling()]
)
def test_a_pooling_without_a_mask_counts_every_step_and_knows_its_output_shape(layer):
    output = layer(INPUTS)
    np.testing.assert_allclose(output, layer(INPUTS, mask=np.ones((2, 3), bool)), rtol=1e-6)
    assert layer.compute_output_shape((2, 3, 2)) == output.shape
    assert layer.compute_mask(INPUTS, MASK) is None


def test_a_pair_of_tokens_adds_its_vector_to_the_second_and_padding_and_the_first_token_have_none():
    layer = layers.BigramEmbedding(10, 3, buckets=7, mask_zero=True)
    ids = np.array([[4, 5, 9, 0], [5, 4, 0, 0]], np.int32)
    layer.build()
    tokens, bigrams = np.arange(30.0).reshape(10, 3), 100 + np.arange(21.0).reshape(7, 3)
    layer.set_weights([tokens, bigrams])
    expected = np.stack([tokens[row] for row in ids])
    for row, step in ((0, 1), (0, 2), (1, 1)):
        first, second = int(ids[row, step - 1]), int(ids[row, step])
        expected[row, step] += bigrams[(65521 * (first % 32719) + second) % 7]
    np.testing.assert_allclose(np.asarray(layer(ids)), expected)
    assert np.asarray(layer.compute_mask(ids)).tolist() == [[True, True, True, False], [True, True, False, False]]


def test_pairs_are_hashed_without_overflow_and_spread_over_all_buckets():
    layer = layers.BigramEmbedding(3_600_000, 1, buckets=1009, embeddings_initializer="zeros")
    layer.build()
    layer.bigrams.assign(np.arange(1009.0)[:, None])
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 3_600_000, (1, 20_000)).astype(np.int32)
    found = np.asarray(layer(ids))[0, 1:, 0].astype(int)
    first, second = ids[0, :-1].astype(np.int64), ids[0, 1:].astype(np.int64)
    np.testing.assert_array_equal(found, (65521 * (first % 32719) + second) % 1009)
    assert np.bincount(found, minlength=1009).max() < 50  # 20 on average


# What Keras' own tests ask for


@pytest.mark.parametrize("layer", [LSTM, GRU])
def test_integers_are_read_as_the_numbers_they_are(layer):
    recurrent = layer(2)
    whole = np.array([[[1, 8], [3, -2]]])
    np.testing.assert_array_equal(recurrent(whole), recurrent(whole.astype(np.float32)))


@pytest.mark.parametrize("layer", [LSTM, GRU])
@pytest.mark.parametrize("wish,kernel", [(True, "keras"), (False, "loop"), ("auto", "loop")])
def test_the_wish_for_cudnn_is_kept_and_true_asks_for_keras_layer(layer, wish, kernel):
    wrapped = keras.layers.Bidirectional(layer(1, use_cudnn=wish))
    for found in (wrapped.forward_layer, wrapped.backward_layer, layer.from_config(wrapped.forward_layer.get_config())):
        assert (found.use_cudnn, found.used_kernel) == (wish, kernel)


RUN_KERAS_TESTS = """
import json, sys, types
import keras.src.layers
import pytest
from keras_senti import layers

ours = types.SimpleNamespace(**{**vars(keras.src.layers), "LSTM": layers.LSTM, "GRU": layers.GRU})
found = {"passed": [], "failed": [], "skipped": []}

class Ours:
    def pytest_collection_modifyitems(self, items):
        for item in items:
            item.module.layers = ours

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            found[report.outcome].append(f"{report.nodeid}: {report.longreprtext[-500:]}")

files = [f"keras.src.layers.rnn.{name}_test" for name in ("lstm", "gru", "bidirectional", "rnn")]
pytest.main(["-q", "-c", sys.argv[1], "-p", "no:cacheprovider", "--pyargs", *files], plugins=[Ours()])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_keras_own_tests_of_recurrent_layers_hold_for_ours(tmp_path):
    if util.find_spec("keras.src.layers.rnn.lstm_test") is None:
        pytest.skip("this Keras comes without its test files")
    arguments = [sys.executable, "-c", RUN_KERAS_TESTS, str(tmp_path / "pytest.ini")]
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == [] and len(found["passed"]) >= 35, found  # Keras itself skips those of another backend
