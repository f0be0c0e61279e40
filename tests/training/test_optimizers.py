import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_senti.errors import UserError
from keras_senti.settings.schema import TrainConfig
from keras_senti.training.optimizers import (
    OPTIMIZERS,
    InOnePass,
    SumsRepeatedRows,
    WarmupDecay,
    check_train_from_epoch,
    make_optimizer,
)


@pytest.mark.parametrize(
    "schedule,expected",
    [
        # 2 of 6 steps are warm-up; then p = 0, 1/4, 1/2, 3/4, 1.
        ("constant", [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.05, 0.1, 0.1, 0.075, 0.05, 0.025, 0.0]),
        ("cosine", [0.05, 0.1, 0.1, 0.05 * (1 + math.cos(math.pi / 4)), 0.05, 0.05 * (1 - math.cos(math.pi / 4)), 0.0]),
        # 1/32 of the peak, and 31/32 in proportion to the height.
        ("slanted_triangular", [0.1 * (1 + 31 * q) / 32 for q in (0, 1 / 2, 1, 3 / 4, 1 / 2, 1 / 4, 0)]),
    ],
)
def test_the_learning_rate_rises_and_falls_as_written(schedule, expected):
    rate = WarmupDecay(peak=0.1, schedule=schedule, total_steps=6, warmup_steps=2)
    assert [float(rate(step)) for step in range(7)] == pytest.approx(expected, abs=1e-7)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert float(again(3)) == float(rate(3))


@pytest.mark.parametrize("steps,cut_fraction", [(200, 0.1), (60, 0.25)])
def test_slanted_triangular_rates_are_those_of_the_papers_equation(steps, cut_fraction):
    cut, ratio, expected = math.floor(steps * cut_fraction), 32, []
    for t in range(steps):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_fraction - 1))
        expected.append(0.01 * (1 + p * (ratio - 1)) / ratio)
    rate = WarmupDecay(0.01, "slanted_triangular", steps, cut)
    assert [float(rate(step)) for step in range(steps)] == pytest.approx(expected, rel=1e-5)
    assert expected[cut] == max(expected) == 0.01 == 32 * expected[0]


NAMES = ["embedding", "recurrent_0", "head"]
CONSTANT = {"schedule": "constant", "warmup_fraction": 0.0, "clip_norm": None}


def make_layers(*names) -> list[keras.layers.Layer]:
    """Layers of two weights each, all of them 1."""
    layers = [keras.layers.Dense(2, use_bias=False, kernel_initializer="ones", name=name) for name in names]
    for layer in layers:
        layer.build((None, 1))
    return layers


def step(optimizer, layers, gradient=(3.0, -1.0)):
    """Makes one step of these layers, with the same gradient for each; returns their weights, (layers, 2)."""
    optimizer.apply([np.array([gradient], np.float32) for _ in layers], [layer.kernel for layer in layers])
    return np.array([layer.kernel.numpy()[0] for layer in layers])


def test_by_sgd_each_layer_moves_by_its_gradient_times_its_rate():
    layers = make_layers(*NAMES)
    settings = TrainConfig(optimizer="sgd", learning_rate=0.5, layer_rate_decay=2, **CONSTANT)
    weights = step(make_optimizer(settings, 10, layers), layers)
    expected = [[1 - 0.125 * 3, 1 + 0.125], [1 - 0.25 * 3, 1 + 0.25], [1 - 0.5 * 3, 1 + 0.5]]
    assert weights.tolist() == expected  # powers of two: exact


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_has_the_rate_of_the_layer(name):
    layers = make_layers(*NAMES)
    settings = TrainConfig(optimizer=name, learning_rate=0.5, layer_rate_decay=2, weight_decay=0.25, **CONSTANT)
    weights = step(make_optimizer(settings, 10, layers), layers, gradient=(0, 0))
    assert weights[:, 0].tolist() == [1 - 0.125 * 0.25, 1 - 0.25 * 0.25, 1 - 0.5 * 0.25]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_layer_that_joins_late_moves_as_one_of_a_new_optimizer(name):
    # It joins in the third of five epochs of two steps.
    below, head = make_layers("embedding", "head")
    settings = {"optimizer": name, "epochs": 5, "weight_decay": 0.01, **CONSTANT}
    optimizer = make_optimizer(TrainConfig(train_from_epoch={"embedding": 3}, **settings), 10, [below, head])
    for _ in range(4):
        step(optimizer, [head])
    assert below.kernel.numpy().tolist() == [[1, 1]]
    (new,) = make_layers("embedding")
    plain = make_optimizer(TrainConfig(**settings), 10, [new])
    for gradient in ((3.0, -1.0), (-0.1, 0.2), (1.0, 1.0)):
        received, _ = step(optimizer, [below, head], gradient)
        np.testing.assert_allclose(received, step(plain, [new], gradient)[0], rtol=1e-5)


def test_the_optimizer_has_variables_for_all_that_will_ever_learn_and_no_others():
    layers = make_layers(*NAMES)
    optimizer = make_optimizer(TrainConfig(train_from_epoch={"embedding": None, "recurrent_0": 2}), 60, layers)
    names = [variable.path.partition("/")[2] for variable in optimizer.variables]
    assert names == ["iteration", *(f"{n}_kernel_{m}" for n in NAMES[1:] for m in ("momentum", "velocity"))]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_with_float16_the_loss_is_scaled_and_what_that_needs_is_there_before_the_first_step(name):
    layers = make_layers(*NAMES)
    settings = TrainConfig(optimizer=name, learning_rate=0.5, layer_rate_decay=2, **CONSTANT)
    optimizer = make_optimizer(settings, 10, layers, precision="mixed_float16")
    names = [variable.path.rpartition("/")[2] for variable in optimizer.variables]
    assert {"step_counter", "dynamic_scale"} < set(names)
    scale = float(optimizer.scale_loss(1.0))
    assert scale > 1000
    before = step(optimizer, layers, (np.inf, 1.0))  # a step that is left out, and halves the scale
    assert (before == 1).all() and float(optimizer.scale_loss(1.0)) == scale / 2
    moved = step(optimizer, layers, (3.0 * scale / 2, -scale / 2))
    assert moved.tolist() == step(make_optimizer(settings, 10, layers := make_layers(*NAMES)), layers).tolist()


@pytest.mark.parametrize("clip_norm", [1.0, None])
@pytest.mark.parametrize("has_strategy", [False, True])
@pytest.mark.parametrize("name,kind", OPTIMIZERS.items())
def test_without_settings_for_layers_the_optimizer_moves_weights_as_that_of_keras(name, kind, has_strategy, clip_norm):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(50, 3)).astype(np.float32)
    values = {**CONSTANT, "optimizer": name, "learning_rate": 0.01, "weight_decay": 0.1, "clip_norm": clip_norm}
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0") if has_strategy else tf.distribute.get_strategy()

    def make_table():
        table = keras.layers.Embedding(50, 3, name="embedding")
        table.build()
        table.set_weights([start])
        return table

    with strategy.scope():
        table = make_table()
        ours = make_optimizer(TrainConfig(**values), 30, [table])
    other = make_table()
    keras_own = kind(0.01, weight_decay=0.1, global_clipnorm=clip_norm)

    def move(table, optimizer, ids, weights, is_dense=False):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(table(ids) * weights)
        gradients = tape.gradient(loss, table.trainable_variables)
        optimizer.apply([tf.convert_to_tensor(g) if is_dense else g for g in gradients], table.trainable_variables)

    for _ in range(30):
        ids = rng.integers(0, 50, 20)  # a few rows, some of them several times
        weights = rng.normal(size=(20, 3)).astype(np.float32)
        strategy.run(move, (table, ours, ids, weights))
        # Without clipping Keras' would square what each entry of a repeated row has, for itself.
        move(other, keras_own, ids, weights, is_dense=not clip_norm)
    received, expected = table.embeddings.numpy(), other.embeddings.numpy()
    assert np.abs(expected - start).max() > 0.01
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name,is_ours", [("adam", True), ("adamw", True), ("sgd", False), ("rmsprop", False)])
def test_adam_moves_weights_in_one_pass_but_not_under_a_distribution_strategy(name, is_ours):
    settings = TrainConfig(optimizer=name)
    assert isinstance(make_optimizer(settings, 10, make_layers(*NAMES)), InOnePass) == is_ours
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        kind = type(make_optimizer(settings, 10, make_layers(*NAMES)))
    assert kind.__bases__ == (SumsRepeatedRows, OPTIMIZERS[name])


@pytest.mark.parametrize(
    "train_from_epoch,message",
    [
        (
            {"recurent_0": 2},
            "received 'recurent_0', expected layers of this model that have something to learn: "
            r"embedding, recurrent_0, head\. Did you mean 'recurrent_0'\?",
        ),
        (
            {"embedding": 2, "recurrent_0": 3, "head": None},
            r"by which nothing learns in epoch 1\. Leave out a layer that is to learn from the start",
        ),
    ],
)
def test_layers_that_are_not_there_and_an_epoch_without_learning_are_refused(train_from_epoch, message):
    with pytest.raises(UserError, match=f"train.train_from_epoch: .*{message}"):
        check_train_from_epoch(TrainConfig(train_from_epoch=train_from_epoch), NAMES)
