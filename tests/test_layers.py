import keras
import numpy as np
import pytest

from keras_senti import layers

# One text of two tokens and one of one; what stands in masked steps must never count.
INPUTS = np.array([[[1.0, 8.0], [3.0, -2.0], [99.0, 99.0]], [[-5.0, 4.0], [99.0, 99.0], [99.0, 99.0]]], np.float32)
MASK = np.array([[True, True, False], [True, False, False]])


def test_max_pooling_ignores_padding_also_where_all_states_are_negative():
    assert layers.MaxPooling()(INPUTS, mask=MASK).numpy().tolist() == [[3.0, 8.0], [-5.0, 4.0]]


def test_concat_pooling_joins_last_mean_and_max():
    expected = [[3.0, -2.0, 2.0, 3.0, 3.0, 8.0], [-5.0, 4.0, -5.0, 4.0, -5.0, 4.0]]
    assert layers.ConcatPooling()(INPUTS, mask=MASK).numpy().tolist() == expected


def test_the_last_backward_state_of_a_bidirectional_layer_stands_at_the_first_position():
    pooled = layers.ConcatPooling(bidirectional=True)(INPUTS, mask=MASK).numpy()
    assert pooled[:, :2].tolist() == [[3.0, 8.0], [-5.0, 4.0]]


def test_the_last_state_is_what_keras_itself_returns():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 3, 5)).astype(np.float32)
    steps = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))
    last = keras.layers.Bidirectional(keras.layers.LSTM(4))
    last.build(inputs.shape)
    steps.build(inputs.shape)
    last.set_weights(steps.get_weights())
    pooled = layers.ConcatPooling(bidirectional=True)(steps(inputs, mask=MASK), mask=MASK)
    np.testing.assert_allclose(pooled[:, :8], last(inputs, mask=MASK), atol=1e-6)


def test_attention_pooling_follows_its_equation():
    layer = layers.AttentionPooling()
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


@pytest.mark.parametrize("layer", [layers.MaxPooling(), layers.ConcatPooling(), layers.AttentionPooling()])
def test_a_pooling_without_a_mask_counts_every_step_and_knows_its_output_shape(layer):
    output = layer(INPUTS)
    np.testing.assert_allclose(output, layer(INPUTS, mask=np.ones((2, 3), bool)), rtol=1e-6)
    assert layer.compute_output_shape((2, 3, 2)) == output.shape
    assert layer.compute_mask(INPUTS, MASK) is None
