"""LSTM and GRU against their equations in NumPy, and against Keras' layers with the same weights."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_senti.models import kernels, loops
from keras_senti.models.recurrent import GRU, LSTM

KERAS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
OURS = {"lstm": LSTM, "gru": GRU}
BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 2


@pytest.fixture(autouse=True)
def two_parts(monkeypatch):
    """As with two threads and a large batch: 3 rows become parts of 1 and 2."""
    monkeypatch.setattr(kernels.kernel_choice, "count_threads", lambda: 2)
    monkeypatch.setattr(kernels, "PART_ROWS", 1)
    monkeypatch.setattr(kernels, "MOST_PARTS", 4)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def compute_lstm(x, kernel, recurrent_kernel, bias):
    """The last state h_T of one text x (time, features), step by step as in the docstring of layers.LSTM."""
    h = c = np.zeros(UNITS)
    for x_t in x:
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent_kernel + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def compute_gru(x, kernel, recurrent_kernel, bias):
    h = np.zeros(UNITS)
    for x_t in x:
        z, r, g = np.split(x_t @ kernel + bias[0], 3)
        inner_z, inner_r, inner_g = np.split(h @ recurrent_kernel + bias[1], 3)
        z, r = sigmoid(z + inner_z), sigmoid(r + inner_r)
        h = z * h + (1 - z) * np.tanh(g + r * inner_g)
    return h


@pytest.mark.parametrize("kernel", ["loop", "xla"])
@pytest.mark.parametrize("cell,equations", [("lstm", compute_lstm), ("gru", compute_gru)])
def test_the_way_there_and_back_follows_from_the_equations(cell, equations, kernel):
    rng = np.random.default_rng(0)
    layer = OURS[cell](UNITS, kernel=kernel)
    layer.build((None, None, FEATURES))
    weights = [rng.normal(size=w.shape) for w in layer.weights]
    layer.set_weights(weights)
    x, toward = rng.normal(size=(BATCH, TIME, FEATURES)), rng.normal(size=(BATCH, UNITS))
    lengths = [5, 1, 3]

    def loss(x, *weights):
        return sum(equations(x[row, :length], *weights) @ toward[row] for row, length in enumerate(lengths))

    @tf.function
    def differentiate(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, mask=tf.sequence_mask(lengths, TIME), training=True)
            result = tf.reduce_sum(outputs * toward.astype("float32"))
        return outputs, tape.gradient(result, [inputs, *(w.value for w in layer.weights)])

    outputs, gradients = differentiate(tf.constant(x, tf.float32))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(outputs[row], equations(x[row, :length], *weights), atol=1e-5)
    arguments = [x, *weights]
    for position, gradient in enumerate(gradients):
        for index in np.ndindex(*gradient.shape):
            step = np.zeros(gradient.shape)
            step[index] = 1e-6
            beside = [a + step if i == position else a for i, a in enumerate(arguments)]
            before = [a - step if i == position else a for i, a in enumerate(arguments)]
            assert float(gradient[index]) == pytest.approx((loss(*beside) - loss(*before)) / 2e-6, rel=1e-4, abs=1e-5)


def make_pair(cell, arguments, kernel, bidirectional=False):
    """Returns Keras' layer and ours with the same name, seed and (random) weights."""
    rng, pair = np.random.default_rng(1), []
    for kind, more in ((KERAS[cell], {}), (OURS[cell], {"kernel": kernel})):
        layer = kind(UNITS, name="recurrent", seed=7, **arguments, **more)
        layer = keras.layers.Bidirectional(layer, name="both") if bidirectional else layer
        layer.build((BATCH if arguments.get("stateful") else None, None, FEATURES))
        pair.append(layer)
    theirs, ours = pair
    assert [(w.path, w.shape) for w in ours.weights] == [(w.path, w.shape) for w in theirs.weights]
    weights = [rng.normal(size=w.shape) * 0.5 for w in theirs.weights]
    for layer in pair:
        layer.set_weights(weights)
    return theirs, ours


def run(layer, inputs, is_fixed=True, **call):
    """Returns the outputs, and the gradients of a weighted sum of them for inputs, initial state and weights.

    The graph is made for this shape of the inputs, or, if not `is_fixed`, for any number of rows and steps.
    """
    inputs = tf.constant(inputs)
    state = call.get("initial_state", [])
    shape = inputs.shape if is_fixed else (None, None, inputs.shape[-1])

    @tf.function(input_signature=[tf.TensorSpec(shape), [tf.TensorSpec(s.shape) for s in state]])
    def compute(inputs, state):
        given = {**call, "initial_state": state} if state else call
        with tf.GradientTape() as tape:
            tape.watch([inputs, state])
            outputs = tf.nest.flatten(layer(inputs, **given))
            loss = sum(
                tf.reduce_sum(
                    tf.cast(o, tf.float32) * tf.reshape(tf.sin(tf.range(tf.size(o), dtype=tf.float32)), tf.shape(o))
                )
                for o in outputs
            )
        return outputs, tape.gradient(loss, [inputs, *state, *(w.value for w in layer.trainable_weights)])

    return compute(inputs, state)


def assert_agree(theirs, ours, inputs, outputs_within=1e-5, gradients_within=1e-4, **call):
    expected, expected_gradients = run(theirs, inputs, **call)
    received, gradients = run(ours, inputs, **call)
    assert [(o.shape, o.dtype) for o in received] == [(o.shape, o.dtype) for o in expected]
    for a, b in zip(received, expected):
        np.testing.assert_allclose(tf.cast(a, tf.float32), tf.cast(b, tf.float32), atol=outputs_within)
    for a, b in zip(gradients, expected_gradients, strict=True):
        a, b = (np.asarray(tf.cast(g, tf.float32)) for g in (a, b))
        assert np.linalg.norm(a - b) <= gradients_within * max(np.linalg.norm(b), 1e-3)


MASKS = {  # 1 = a real token
    "no mask": None,
    "padding behind": np.bool_([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]),
    "padding before": np.bool_([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]),
    "holes": np.bool_([[1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [1, 1, 0, 1, 1]]),
}
OPTIONS = [  # implementation 1: with recurrent_dropout Keras draws a mask for each gate
    {},
    {"return_sequences": True},
    {"return_state": True},
    {"return_sequences": True, "return_state": True, "go_backwards": True},
    {"use_bias": False, "go_backwards": True},
    {"dropout": 0.4},
    {"recurrent_dropout": 0.4, "implementation": 1, "return_sequences": True},
    {"dropout": 0.3, "recurrent_dropout": 0.4, "implementation": 1, "go_backwards": True},
]
INPUTS = np.random.default_rng(2).normal(size=(BATCH, TIME, FEATURES)).astype("float32")


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(o) or "default")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_results_and_gradients_are_those_of_keras(cell, options):
    theirs, ours = make_pair(cell, options, "loop")
    assert_agree(theirs, ours, INPUTS, mask=MASKS["holes"], training=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(o) or "default")
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_results_and_gradients_are_those_of_keras_with_any_mask(cell, mask, options):
    for training in (True, False):
        theirs, ours = make_pair(cell, options, "loop")
        assert_agree(theirs, ours, INPUTS, mask=mask, training=training)


@pytest.mark.slow
@pytest.mark.parametrize("options", [OPTIONS[3], OPTIONS[7]], ids=lambda o: " ".join(o))
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_compiled_by_xla_it_gives_the_same(cell, options):
    theirs, ours = make_pair(cell, options, "xla")
    assert_agree(theirs, ours, INPUTS, mask=MASKS["holes"], training=True)


@pytest.mark.parametrize("kernel", ["loop", "xla"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_by_default_all_gates_of_a_sequence_share_a_dropout_mask(cell, kernel):
    dropout = {"dropout": 0.3, "recurrent_dropout": 0.4, "return_sequences": True}
    rng, results = np.random.default_rng(4), []
    gates = 4 if cell == "lstm" else 3
    weights = [rng.normal(size=w.shape) for w in make_pair(cell, {}, kernel)[1].weights]
    of_inputs, of_states = (tf.constant(rng.integers(0, 2, (BATCH, n)) * 2.0, tf.float32) for n in (FEATURES, UNITS))
    for implementation in (2, 1):
        layer = OURS[cell].from_config({**dropout, "units": UNITS, "kernel": kernel, "implementation": implementation})
        layer = OURS[cell].from_config(layer.get_config())  # as a saved model does
        layer.build((None, None, FEATURES))
        layer.set_weights(weights)
        drawn = layer.cell.get_dropout_mask(tf.ones((BATCH, FEATURES)))
        assert len(drawn) == gates if implementation == 1 else drawn.shape == (BATCH, FEATURES)
        for name, mask in (("get_dropout_mask", of_inputs), ("get_recurrent_dropout_mask", of_states)):
            given = mask if implementation == 2 else [mask] * gates
            setattr(layer.cell, name, lambda _, given=given: given)
        results.append(run(layer, INPUTS, mask=MASKS["holes"], training=True))
    for one, many in zip(*(tf.nest.flatten(result) for result in results)):
        np.testing.assert_allclose(one, many, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, pytest.param(OPTIONS[3], marks=pytest.mark.slow)], ids=["default", "go_backwards, sequences"]
)
@pytest.mark.parametrize("mask", [*MASKS.values(), np.zeros((BATCH, TIME), bool)], ids=[*MASKS, "all masked"])
def test_one_text_alone_in_a_saved_model_gives_what_keras_gives(mask, options):
    theirs, ours = make_pair("lstm", options, "serving")
    shapes = [tf.TensorSpec((None, None, FEATURES)), None if mask is None else tf.TensorSpec((None, None), tf.bool)]

    @tf.function
    def predict(inputs, mask):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.nest.flatten(ours(inputs, mask=mask, training=False))
        return outputs, tape.gradient(outputs, inputs)

    concrete = predict.get_concrete_function(*shapes)
    branches = [f for name, f in concrete.graph._functions.items() if "cond" in name]
    assert any(n.op == "BlockLSTM" for f in branches for n in f.cached_definition.node_def)
    for rows in (slice(0, 1), slice(1, 2), slice(0, 3)):
        rows_mask = None if mask is None else tf.constant(mask[rows])
        with tf.GradientTape() as tape:
            inputs = tf.constant(INPUTS[rows])
            tape.watch(inputs)
            expected = tf.nest.flatten(theirs(inputs, mask=rows_mask, training=False))
        received, gradient = concrete(inputs, rows_mask) if rows_mask is not None else concrete(inputs)
        for a, b in zip(received, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(gradient, tape.gradient(expected, inputs), atol=1e-5)


@pytest.mark.parametrize("sequences", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mask", [MASKS["padding before"], pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_in_both_directions_and_from_a_given_state_it_agrees_with_keras(cell, mask, sequences):
    rng = np.random.default_rng(3)
    state = [tf.constant(rng.normal(size=(BATCH, UNITS)), tf.float32) for _ in range(2 if cell == "lstm" else 1)]
    options = {"return_sequences": sequences, "return_state": True}
    theirs, ours = make_pair(cell, options, "loop")
    assert_agree(theirs, ours, INPUTS, mask=mask, training=True, initial_state=state)
    theirs, ours = make_pair(cell, {**options, "dropout": 0.3}, "loop", bidirectional=True)
    assert_agree(theirs, ours, INPUTS, mask=mask, training=True)


@pytest.mark.parametrize("steps", [1, 300])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_it_agrees_at_any_length(cell, steps):
    rng = np.random.default_rng(steps)
    inputs = rng.normal(size=(BATCH, steps, FEATURES)).astype("float32")
    mask = tf.sequence_mask([steps, 1, (steps + 1) // 2], steps)
    theirs, ours = make_pair(cell, {"return_sequences": True}, "loop")
    assert_agree(theirs, ours, inputs, mask=mask, training=True)


@pytest.mark.slow
@pytest.mark.parametrize("kernel,is_fixed", [("loop", True), ("loop", False), ("xla", True)])
@pytest.mark.parametrize("mask", [MASKS["padding behind"], None])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_in_bfloat16_it_is_as_near_to_float32_as_keras_is(cell, mask, kernel, is_fixed, monkeypatch):
    asked, compile_derivatives = [], loops._compile_derivatives
    monkeypatch.setattr(loops, "_compile_derivatives", lambda: asked.append(True) or compile_derivatives())
    # Eight bits of mantissa: Keras itself differs from float32 in the third digit, and we must not differ by more.
    exact, _ = make_pair(cell, {"return_sequences": True}, kernel)
    theirs, ours = make_pair(cell, {"return_sequences": True, "dtype": "mixed_bfloat16"}, kernel)
    (expected,), expected_gradients = run(exact, INPUTS, mask=mask, training=True)
    errors = []
    for layer in (theirs, ours):
        (output,), gradients = run(layer, INPUTS, is_fixed, mask=mask, training=True)
        assert output.dtype == tf.bfloat16
        errors.append(
            [np.abs(np.asarray(tf.cast(output, tf.float32) - expected)).max()]
            + [
                np.linalg.norm(tf.cast(g, tf.float32) - e) / np.linalg.norm(e)
                for g, e in zip(gradients, expected_gradients)
            ]
        )
    assert max(errors[1]) < 0.03
    assert np.mean(errors[1]) <= 1.2 * np.mean(errors[0])
    assert any(asked) == (cell == "lstm" and is_fixed)
    with tf.GradientTape() as tape:
        outputs = tf.reduce_sum(ours(INPUTS, mask=mask, training=True))
    asked.clear()
    tape.gradient(outputs, [w.value for w in ours.trainable_weights])
    assert not asked or kernel == "xla"  # outside of a graph each length would be compiled anew


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_stateful_layer_goes_on_where_the_batch_before_ended(cell):
    theirs, ours = make_pair(cell, {"stateful": True, "return_sequences": True}, "loop")
    for inputs in (INPUTS, 2 * INPUTS):
        np.testing.assert_allclose(ours(inputs), theirs(inputs), atol=1e-5)
    ours.reset_state()
    whole = OURS[cell](UNITS, return_sequences=True)
    whole.build(INPUTS.shape)
    whole.set_weights(ours.get_weights()[:3])
    halves = [ours(INPUTS[:, :2]), ours(INPUTS[:, 2:])]
    np.testing.assert_allclose(np.concatenate(halves, axis=1), whole(INPUTS), atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_one_row_or_a_batch_of_unknown_size_gives_the_same(cell):
    _, layer = make_pair(cell, {"return_sequences": True}, "loop")

    @tf.function(input_signature=[tf.TensorSpec((None, None, FEATURES))])
    def predict(inputs):
        return layer(inputs, training=False)

    for rows in (1, 2, 3):
        np.testing.assert_allclose(predict(INPUTS[:rows]), layer(INPUTS)[:rows], atol=1e-6)


@pytest.mark.parametrize(
    "arguments,said",
    [
        ({"activation": "relu"}, "activation tanh only, not relu"),
        ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation sigmoid only, not hard_sigmoid"),
        ({"unroll": True}, "unroll False only, not True"),
    ],
)
def test_what_the_fast_loop_lacks_is_computed_by_keras_and_said_aloud(arguments, said):
    with pytest.warns(UserWarning, match=f"recurrent: the fast loop has {said}; Keras' own"):
        theirs, ours = make_pair("lstm", arguments, "loop")
    assert ours.used_kernel == "keras"
    assert_agree(theirs, ours, INPUTS, training=True)
    with pytest.warns(UserWarning, match="GRU with reset_after only"):
        GRU(UNITS, reset_after=False)


def test_float64_is_left_to_keras():
    with pytest.warns(UserWarning, match="computes in float32, not in float64"):
        assert LSTM(UNITS, "tanh", dtype="float64").used_kernel == "keras"


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_state_that_a_layer_gives_gets_a_gradient_and_a_row_without_tokens_gives_zeros(cell, dtype):
    dense = keras.layers.Dense(UNITS, activation="tanh", dtype=dtype)
    theirs, ours = make_pair(cell, {"dtype": dtype}, "loop")
    first = tf.constant(INPUTS[:, 0])
    dense.build(first.shape)
    mask, results = np.bool_([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]), []
    for layer in (theirs, ours):
        with tf.GradientTape() as tape:
            state = [dense(first)] * (2 if cell == "lstm" else 1)
            outputs = tf.cast(layer(INPUTS, mask=mask, initial_state=state, training=True), tf.float32)
            loss = tf.reduce_sum(outputs)
        results.append((outputs, tape.gradient(loss, dense.kernel.value)))
    within = 1e-5 if dtype == "float32" else 0.05
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, atol=within)
    assert not np.any(results[1][0][1])


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="weight_drop: received 1.0, expected a fraction"):
        LSTM(UNITS, weight_drop=1.0)
    with pytest.raises(ValueError, match="kernel: received 'cuda', expected auto or one of loop, xla, keras, serving"):
        GRU(UNITS, kernel="cuda")


@pytest.mark.parametrize("kernel", ["loop", "xla", "keras"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_weight_drop_drops_the_same_recurrent_weights_for_all_rows_and_steps(cell, kernel):
    layer = OURS[cell](UNITS, weight_drop=0.5, kernel=kernel, seed=3)
    layer.build((None, None, FEATURES))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    plain = OURS[cell](UNITS, kernel="loop")
    plain.build((None, None, FEATURES))
    kernel_weights, recurrent, bias = layer.get_weights()
    layer.weight_drop_seed.state.assign(keras.random.SeedGenerator(5).state)
    dropped = keras.random.dropout(recurrent, 0.5, seed=keras.random.SeedGenerator(5))
    zeros = np.asarray(dropped) == 0
    assert 0 < zeros.sum() < zeros.size
    np.testing.assert_allclose(np.asarray(dropped)[~zeros], 2 * recurrent[~zeros], rtol=1e-6)  # 1 / (1 - 0.5)
    plain.set_weights([kernel_weights, dropped, bias])
    np.testing.assert_allclose(layer(INPUTS, training=True), plain(INPUTS), atol=1e-5)
    assert np.abs(layer(INPUTS, training=True) - plain(INPUTS)).max() > 1e-3  # another mask the next time
    plain.set_weights([kernel_weights, recurrent, bias])
    np.testing.assert_allclose(layer(INPUTS, training=False), plain(INPUTS), atol=1e-5)
    np.testing.assert_array_equal(layer.get_weights()[1], recurrent)


def test_dropped_weights_get_no_gradient():
    layer = LSTM(UNITS, weight_drop=0.5, seed=3)
    layer.build((None, None, FEATURES))
    layer.weight_drop_seed.state.assign(keras.random.SeedGenerator(5).state)
    dropped = keras.random.dropout(tf.ones((UNITS, 4 * UNITS)), 0.5, seed=keras.random.SeedGenerator(5))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(INPUTS, training=True))
    gradient = tape.gradient(loss, layer.cell.recurrent_kernel.value)
    np.testing.assert_array_equal(gradient == 0, dropped == 0)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_model_trains_the_same_under_jit_compile_and_is_read_back_from_a_keras_file(cell, tmp_path):
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(1)
        layer = OURS[cell](UNITS, recurrent_dropout=1e-9, weight_drop=1e-9)  # XLA draws other random numbers
        model = keras.Sequential([keras.Input((TIME, FEATURES)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=jit)
        losses.append(model.fit(INPUTS, np.ones((BATCH, 1)), epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(INPUTS), model(INPUTS))
    config = again.layers[0].get_config()
    assert (config["weight_drop"], config["kernel"], config["recurrent_dropout"]) == (1e-9, "auto", 1e-9)


MIRRORED = """
import numpy as np, tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
import keras
from keras_senti import layers
x, y = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32"), np.ones((8, 1), "float32")
losses = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((5, 4)), layers.LSTM(2), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    losses.append(model.fit(x, y, batch_size=8, epochs=3, verbose=0, shuffle=False).history["loss"])
assert strategy.num_replicas_in_sync == 2
np.testing.assert_allclose(*losses, rtol=1e-5)
assert losses[0][0] > losses[0][-1]
"""


@pytest.mark.slow
def test_two_replicas_of_a_mirrored_strategy_learn_what_one_device_learns():
    # In a process of its own: devices are cut before TensorFlow starts.
    done = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_saved_model_of_it_has_the_gradients_of_the_live_one(tmp_path):
    _, layer = make_pair("lstm", {"return_sequences": True}, "loop")

    class Served(tf.Module):
        def __init__(self):
            super().__init__()
            self.kept = [w.value for w in layer.weights]
            self.train = tf.function(
                lambda x: layer(x, training=True), input_signature=[tf.TensorSpec((None, None, FEATURES))]
            )

    served = Served()
    tf.saved_model.save(served, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    found = []
    for module in (served, loaded):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(module.train(tf.constant(INPUTS)) ** 2)
        found.append(tape.gradient(loss, list(module.kept)))
    for a, b in zip(*found):
        assert np.abs(a).max() > 0
        np.testing.assert_array_equal(a, b)
