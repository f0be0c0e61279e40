import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_senti.models import language_model
from keras_senti.models.build import build_language_model
from keras_senti.models.language_model import (
    Negatives,
    NextToken,
    Positions,
    Table,
    compute_cross_entropy,
    compute_sampled_cross_entropy,
)
from keras_senti.settings.schema import Config, DeviceConfig, ModelConfig, PretrainConfig, TrainConfig

POSITIONS, FEATURES, VOCABULARY = 7, 3, 11
NEGATIVES = np.array([4, 1, 4, 9, 0], np.int32)  # 4 twice, and two of the targets


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "vectors": rng.normal(size=(POSITIONS, FEATURES)).astype(np.float32),
        "targets": np.array([4, 2, 9, 0, 2, 10, 1], np.int32),
        "weights": np.array([1, 1, 0, 2, 1, 0.5, 1], np.float32),
        "table": rng.normal(size=(VOCABULARY, FEATURES)).astype(np.float32),
        "bias": rng.normal(size=VOCABULARY).astype(np.float32),
    }


@pytest.fixture(params=[512, 3])
def pieces(request, monkeypatch):
    monkeypatch.setattr(language_model, "PIECE", request.param)  # 3: in three pieces, the last one padded


LOG_COUNTS = np.log([0.5, 2.0, 0.5, 1.0, 3.0]).astype(np.float32)


def sum_up(vectors, targets, weights, table, bias):
    """The equation of compute_sampled_cross_entropy, position by position."""
    total = 0.0
    for v, y, weight in zip(vectors, targets, weights):
        score = table @ v + bias
        others = sum(np.exp(score[j] - q) for j, q in zip(NEGATIVES, LOG_COUNTS) if j != y)
        total += -weight * np.log(np.exp(score[y]) / (np.exp(score[y]) + others))
    return total


@pytest.mark.parametrize("products,tolerance", [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_the_sampled_loss_is_its_equation(arrays, pieces, products, tolerance):
    loss = compute_sampled_cross_entropy(*arrange(arrays), SAMPLE, products)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, sum_up(**arrays), rtol=tolerance)


SAMPLE = Negatives(tf.constant(NEGATIVES), tf.constant(LOG_COUNTS))


def arrange(arrays) -> tuple[Positions, Table]:
    vectors, targets, weights, table, bias = map(tf.convert_to_tensor, arrays.values())
    return Positions(vectors, targets, weights), Table(table, bias)


@pytest.mark.parametrize("products,tolerance", [("float32", 1e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("name", ["vectors", "table", "bias"])
def test_its_gradient_is_that_of_small_differences(arrays, pieces, name, products, tolerance):
    given = {k: tf.constant(a) for k, a in arrays.items()}
    with tf.GradientTape() as tape:
        tape.watch(given[name])
        loss = compute_sampled_cross_entropy(*arrange(given), SAMPLE, products)
        loss *= 3.0
    gradient = tf.convert_to_tensor(tape.gradient(loss, given[name])).numpy() / 3.0
    exact = {k: a.astype(np.float64) for k, a in arrays.items() if k != "targets"} | {"targets": arrays["targets"]}
    expected = np.zeros(arrays[name].shape)
    for place in np.ndindex(expected.shape):
        change = np.zeros(expected.shape)
        change[place] = 1e-6
        up, down = (sum_up(**{**exact, name: exact[name] + sign * change}) for sign in (1, -1))
        expected[place] = (up - down) / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=tolerance / 100)


def test_the_full_loss_is_that_of_a_softmax(arrays, pieces):
    vectors, targets, weights, table, bias = arrays.values()
    scores = vectors @ table.T + bias
    expected = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(POSITIONS), targets]
    for weight in (weights, *np.eye(POSITIONS, dtype=np.float32)):  # of all positions, and each alone
        positions, tokens = arrange({**arrays, "weights": weight})
        np.testing.assert_allclose(compute_cross_entropy(positions, tokens), weight @ expected, rtol=1e-5)


def test_a_sample_of_everything_is_the_full_loss(arrays):
    output = NextToken(VOCABULARY, FEATURES, negatives=0)
    loss = compute_sampled_cross_entropy(*arrange(arrays), output.draw_negatives())
    np.testing.assert_allclose(loss, compute_cross_entropy(*arrange(arrays)), rtol=1e-5)


def test_negatives_are_drawn_by_frequency_and_say_how_often_they_were_expected():
    keras.utils.set_random_seed(1)
    output = NextToken(4, FEATURES, negatives=100_000)
    output.set_frequencies(np.array([1, 16, 0, 81]))
    ids, log_counts = output.draw_negatives()
    shares = np.array([1, 8, 1, 27]) / 37  # to the power 3/4; what never occurred counts as once
    np.testing.assert_allclose(np.bincount(ids) / 100_000, shares, atol=0.005)
    np.testing.assert_allclose(np.exp(log_counts), 100_000 * shares[ids], rtol=1e-4)
    assert not np.array_equal(ids, output.draw_negatives()[0])


def build(units=5, tie=True, precision="float32", **more):
    settings = ModelConfig(bidirectional=False, units=units, embedding_dim=4, embedding_dropout=0.0, **more)
    pretrain = PretrainConfig(negatives=6, tie_embeddings=tie)
    train, device = TrainConfig(batch_size=2), DeviceConfig(precision=precision)
    return build_language_model(Config(model=settings, pretrain=pretrain, train=train, device=device), VOCABULARY)


@pytest.mark.parametrize(
    ("units", "tie", "expected"),
    [
        (5, True, ["bias", "projection", "projection_bias"]),
        (4, True, ["bias"]),
        (5, False, ["bias", "kernel", "projection", "projection_bias"]),
    ],
)
def test_the_output_has_the_weights_that_it_needs(units, tie, expected):
    weights = build(units, tie).layers[-1].weights
    assert sorted(w.path.rpartition("/")[2] for w in weights) == expected


def test_tied_vectors_are_those_of_the_embedding():
    model = build()
    table, _ = model.layers[-1].get_table()
    np.testing.assert_array_equal(table, model.get_layer("embedding").get_weights()[0])
    assert [w.path for w in model.trainable_weights].count("embedding/embeddings") == 1


@pytest.mark.parametrize("more", [{}, {"num_layers": 2, "cell": "gru"}, {"residual": True}])
def test_two_windows_are_one_long_window(more):
    model, ids = build(**more), np.random.default_rng(0).integers(0, VOCABULARY, (2, 6)).astype(np.int32)
    whole = model(ids).numpy()
    model.reset_states()
    halves = np.concatenate([model(ids[:, :2]), model(ids[:, 2:])], axis=1)
    np.testing.assert_allclose(halves, whole, atol=1e-6)
    assert not np.allclose(model(ids), whole, atol=1e-3)  # the state was carried over


def make_batch():
    batch = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[2, 3, 7], [5, 6, 8]]), np.ones((2, 3), np.float32)
    return [tf.constant(a, tf.float32 if a.dtype == np.float32 else tf.int32) for a in batch]


@pytest.mark.parametrize("precision,products", [("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float32")])
def test_only_with_bfloat16_scores_are_multiplied_out_in_it(precision, products, monkeypatch):
    asked = []

    def compute(*arguments):
        asked.append(arguments[-1])
        return compute_sampled_cross_entropy(*arguments)

    monkeypatch.setattr(language_model, "compute_sampled_cross_entropy", compute)
    nats = build(precision=precision).compute_nats(*make_batch(), training=True)
    assert asked == [products] and nats.dtype == tf.float32 and np.isfinite(nats)


def test_a_step_moves_every_weight_and_a_score_none():
    model = build()
    model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    batch = make_batch()
    before = model.get_weights()
    score = float(model.test_step(batch)["loss"])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
    assert score == pytest.approx(np.log(VOCABULARY), abs=0.3)  # an untrained model knows nothing
    for _ in range(2):  # in the first step the recurrent kernel has seen a state of zeros only at its begin
        model.train_step(batch)
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
