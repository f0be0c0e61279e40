import numpy as np
import pytest
import tensorflow as tf

from keras_senti.data import batches
from keras_senti.data.batches import (
    EncodedTexts,
    compute_padding_fraction,
    encode_texts,
    make_dataset,
    padded_length,
    plan_by_length,
    plan_epoch,
    predict_in_batches,
)

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


@pytest.mark.parametrize("bucket", [True, False])
def test_an_epoch_holds_every_row_once_in_full_batches_but_one(bucket):
    batches = plan_epoch(np.arange(103) % 17 + 1, 10, bucket, seed=3, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(103))
    assert sorted(map(len, batches)) == [3] + [10] * 10


def test_the_plan_of_an_epoch_depends_on_seed_and_epoch_alone():
    def plan(seed, epoch):
        return np.concatenate(plan_epoch(np.arange(50), 5, True, seed, epoch)).tolist()

    assert plan(1, 4) == plan(1, 4)
    assert plan(1, 4) != plan(1, 5) and plan(1, 4) != plan(2, 4)


def test_bucketing_wastes_less_and_the_padding_share_can_be_worked_out_by_hand():
    lengths = np.array([1, 12, 1, 12])
    mixed, alike = [np.array([0, 1]), np.array([2, 3])], [np.array([0, 2]), np.array([1, 3])]
    # 26 tokens; 4 texts padded to 12, or two to 4 and two to 12.
    assert compute_padding_fraction(lengths, mixed, 100, True) == pytest.approx(1 - 26 / 48)
    assert compute_padding_fraction(lengths, alike, 100, True) == pytest.approx(1 - 26 / 32)
    assert compute_padding_fraction(lengths, alike, 100, False) == pytest.approx(1 - 26 / 400)


def test_a_cap_on_tokens_makes_batches_of_many_short_or_few_long_texts():
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    plans = [plan_epoch(lengths, 10, True, 0, epoch, batch_tokens=200) for epoch in (0, 1)]
    for planned in plans:
        assert sorted(np.concatenate(planned)) == list(range(500))
        positions = [len(rows) * padded_length(lengths[rows], 100, True) for rows in planned]
        assert max(positions) <= 200
        assert compute_padding_fraction(lengths, planned, 100, True) < 0.1
    assert len(plans[0]) == len(plans[1])  # the learning rate's schedule counts on it
    assert np.concatenate(plans[0]).tolist() != np.concatenate(plans[1]).tolist()
    assert all(len(rows) == 1 for rows in plan_epoch(lengths, 10, True, 0, 0, batch_tokens=1))


def test_batches_are_padded_to_a_multiple_of_four_and_never_beyond_the_limit():
    assert padded_length(np.array([5, 2]), 100, True) == 8
    assert padded_length(np.array([5, 2]), 6, True) == 6
    assert padded_length(np.array([5, 2]), 100, False) == 100


def test_the_dataset_gives_ids_and_the_columns_of_the_same_rows():
    one_hot = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    weight = np.array([0.5, 1.0, 2.0], np.float32)
    dataset = make_dataset(lambda: [np.array([2, 0])], ENCODED, 9, True, one_hot, weight)
    ((ids, labels, weights),) = list(dataset)
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
