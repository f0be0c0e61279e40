import numpy as np
import pytest
import tensorflow as tf

from keras_senti.data import batches
from keras_senti.data.batches import Batching, TextBatches, encode_texts, plan_by_length, predict_in_batches
from keras_senti.data.dataset import EncodedDataset, EncodedTexts
from keras_senti.settings.schema import TrainConfig

# Three texts of 2, 0 and 3 tokens.
ENCODED = EncodedTexts(np.array([5, 6, 7, 8, 9], np.int32), np.array([0, 2, 2, 5]))


def test_padding_goes_to_the_right_and_rows_come_in_the_order_asked_for():
    assert ENCODED.pad(np.array([2, 0, 1]), 4).tolist() == [[7, 8, 9, 0], [5, 6, 0, 0], [0, 0, 0, 0]]


def test_texts_are_encoded_in_chunks_without_their_padding(monkeypatch):
    monkeypatch.setattr(batches, "ENCODE_ROWS", 2)

    def encoder(texts):  # as many 4s as the text has letters
        return tf.ragged.constant([[4] * len(t) for t in texts.numpy()], tf.int32).to_tensor(0)

    encoded = encode_texts(encoder, ["abc", "a", "ab"])
    assert encoded.offsets.tolist() == [0, 3, 4, 6] and encoded.flat.tolist() == [4] * 6
    assert encoded.lengths.tolist() == [3, 1, 2] and len(encoded) == 3


@pytest.mark.parametrize("fixed_lengths", [None, (17,)])
def test_an_epoch_holds_every_row_once_in_full_batches_but_one(fixed_lengths):
    batches = Batching(10, 17, fixed_lengths, seed=3).plan(np.arange(103) % 17 + 1, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(103))
    assert sorted(map(len, batches)) == [3] + [10] * 10


def test_the_plan_of_an_epoch_depends_on_seed_and_epoch_alone():
    def plan(seed, epoch):
        return np.concatenate(Batching(5, 50, seed=seed).plan(np.arange(50), epoch)).tolist()

    assert plan(1, 4) == plan(1, 4)
    assert plan(1, 4) != plan(1, 5) and plan(1, 4) != plan(2, 4)


def test_texts_of_similar_length_together_waste_less_and_the_padding_share_can_be_worked_out_by_hand():
    lengths = np.array([1, 12, 1, 12])
    mixed, alike = [np.array([0, 1]), np.array([2, 3])], [np.array([0, 2]), np.array([1, 3])]
    by_length, fixed = Batching(2, 100), Batching(2, 100, (100,))
    # 26 tokens; 4 texts padded to 12, or two to 4 and two to 12.
    assert by_length.compute_padding_fraction(lengths, mixed) == pytest.approx(1 - 26 / 48)
    assert by_length.compute_padding_fraction(lengths, alike) == pytest.approx(1 - 26 / 32)
    assert fixed.compute_padding_fraction(lengths, alike) == pytest.approx(1 - 26 / 400)


def test_a_cap_on_tokens_makes_batches_of_many_short_or_few_long_texts():
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    batching = Batching(10, 100, batch_tokens=200)
    plans = [batching.plan(lengths, epoch) for epoch in (0, 1)]
    for planned in plans:
        assert sorted(np.concatenate(planned)) == list(range(500))
        positions = [len(rows) * batching.padded_length(lengths[rows]) for rows in planned]
        assert max(positions) <= 200
        assert batching.compute_padding_fraction(lengths, planned) < 0.1
    assert len(plans[0]) == len(plans[1])  # the learning rate's schedule counts on it
    assert np.concatenate(plans[0]).tolist() != np.concatenate(plans[1]).tolist()
    assert all(len(rows) == 1 for rows in Batching(10, 100, batch_tokens=1).plan(lengths, 0))


def test_batches_have_the_lengths_that_are_asked_for_and_each_row_once():
    lengths = np.random.default_rng(0).integers(1, 13, 103)
    for tokens in (None, 40):
        plan = Batching(10, 12, (4, 12), tokens).plan(lengths, epoch=0)
        assert sorted(np.concatenate(plan)) == list(range(103))
        assert all((lengths[rows] <= 4).all() or (lengths[rows] > 4).all() for rows in plan)
        longest = [4 if lengths[rows].max() <= 4 else 12 for rows in plan]
        assert max(len(rows) for rows in plan) == 10
        assert tokens is None or all(len(rows) * length <= 40 for rows, length in zip(plan, longest))


def test_batches_are_padded_to_a_multiple_of_four_and_never_beyond_the_limit():
    assert Batching(9, 100).padded_length(np.array([5, 2])) == 8
    assert Batching(9, 6).padded_length(np.array([5, 2])) == 6
    assert Batching(9, 100, (100,)).padded_length(np.array([5, 2])) == 100
    assert Batching(9, 100, (4, 6, 100)).padded_length(np.array([5, 2])) == 6


@pytest.mark.parametrize(
    "settings,few_lengths,expected",
    [
        ({}, False, None),
        ({}, True, (5, 10, 20)),
        ({"bucket_by_length": False}, False, (20,)),
        ({"bucket_by_length": False}, True, (20,)),
        ({"bucket_lengths": [30, 8]}, False, (8, 20)),
        ({"bucket_lengths": [8]}, True, (8, 20)),
    ],
)
def test_the_lengths_of_batches_follow_from_the_settings_and_the_device(settings, few_lengths, expected):
    made = Batching.from_settings(TrainConfig(batch_size=7, seed=3, **settings), 20, few_lengths)
    assert made == Batching(7, 20, expected, seed=3)


def test_the_dataset_gives_ids_and_the_columns_of_the_same_rows():
    weights = np.array([0.5, 1.0, 2.0], np.float32)
    part = EncodedDataset(None, ENCODED, np.array([0, 1, 0]), weights, np.arange(3))
    data = TextBatches(part, Batching(2, 9), num_classes=2)
    assert (data.steps, data.tokens, data.padding_fraction) == (2, 5, 1 - 5 / 12)
    ((ids, labels, weights),) = list(data.make_dataset(lambda: [np.array([2, 0])]))
    assert ids.dtype == tf.int32 and ids.numpy().tolist() == [[7, 8, 9, 0], [5, 6, 0, 0]]
    assert labels.numpy().tolist() == [[1, 0], [1, 0]] and weights.numpy().tolist() == [2.0, 0.5]


def test_batches_for_scoring_have_the_longest_texts_first_and_are_capped_in_rows_and_positions(monkeypatch):
    monkeypatch.setattr(batches, "SCORED_POSITIONS", 64)
    lengths = np.array([3, 30, 100, 9, 0, 31, 10, 2, 5, 4])
    planned = [rows.tolist() for rows in plan_by_length(lengths, batch_size=4)]
    # Padded to 100 (one row, whatever it has), 32 and 32, 12 (five would fit, four may), 4.
    assert planned == [[2], [5, 1], [6, 3, 8, 9], [0, 7, 4]]
    assert [len(rows) for rows in plan_by_length(lengths, 4, padded_to=31)] == [2] * 5
    assert plan_by_length(lengths[:0]) == []
    assert [len(rows) for rows in plan_by_length(np.zeros(9, int), 4)] == [4, 4, 1]


def test_usual_texts_are_scored_as_many_at_once_as_ever():
    assert [len(rows) for rows in plan_by_length(np.full(300, 512))] == [128, 128, 44]
    assert [len(rows) for rows in plan_by_length(np.full(60, 2739))] == [23, 23, 14]  # 23 * 2740 <= 65,536


def test_predictions_come_back_in_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 57)
    encoded = EncodedTexts(np.repeat(np.arange(57, dtype=np.int32), lengths) + 1, np.append(0, lengths.cumsum()))
    result = predict_in_batches(lambda ids: tf.cast(ids[:, :1], tf.float32), encoded, batch_size=8)
    assert result[:, 0].tolist() == list(range(1, 58))
