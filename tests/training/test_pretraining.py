import json

import keras
import numpy as np
import pytest

import keras_senti
from keras_senti.data.dataset import EncodedTexts
from keras_senti.data.token_cache import load_corpus
from keras_senti.errors import UserError
from keras_senti.export.weights_folder import read_pretrained
from keras_senti.models.build import build_language_model
from keras_senti.models.weights import name_weights
from keras_senti.settings.command_line import parse_config
from keras_senti.storage.files import compute_sha256
from keras_senti.storage.run_folder import read_manifest
from keras_senti.tasks import evaluate, train
from keras_senti.tasks.train import train_run
from keras_senti.training import devices, inference, pretraining
from keras_senti.training.callbacks import SaveProgress
from keras_senti.training.fit import train_model
from keras_senti.training.inference import sample_texts
from keras_senti.training.pretraining import Streams, compute_unigram_perplexity, count_tokens


def encode(*texts) -> EncodedTexts:
    offsets = np.cumsum([0, *map(len, texts)])
    return EncodedTexts(np.array([id for text in texts for id in text], np.int32), offsets)


# Streams


def test_texts_stand_one_behind_the_other_with_a_zero_before_each():
    streams = Streams([encode([5, 6, 7], [8], [9, 10, 11, 12])], batch_size=2, window=3, seed=None)
    assert (streams.tokens, streams.filled, streams.stream_tokens, streams.steps) == (11, 2, 5, 2)
    first, second = streams.batches(epoch=0)
    np.testing.assert_array_equal(first[0], [[0, 5, 6], [8, 0, 9]])
    np.testing.assert_array_equal(first[1], [[5, 6, 7], [0, 9, 10]])
    np.testing.assert_array_equal(second[0][:, :2], [[7, 0], [10, 11]])
    np.testing.assert_array_equal(second[1][:, :2], [[0, 8], [11, 12]])
    np.testing.assert_array_equal(second[2], [[1, 1, 0], [1, 1, 0]])
    assert first[2].all()


def make_texts(rng, rows: int) -> list[list[int]]:
    return [list(rng.integers(1, 90, rng.integers(1, 30))) for _ in range(rows)]


@pytest.mark.parametrize(("batch_size", "window"), [(1, 4), (3, 7), (8, 5), (5, 1000)])
def test_every_token_is_predicted_once_an_epoch_and_no_other(batch_size, window):
    rng = np.random.default_rng(batch_size)
    texts = make_texts(rng, 23)
    streams = Streams([encode(*texts[:9]), encode(*texts[9:])], batch_size, window, seed=3)
    expected = sorted([token for text in texts for token in text] + [0] * 22)  # the first text's zero follows nothing
    for epoch in (0, 1):
        batches = list(streams.batches(epoch))
        assert len(batches) == streams.steps
        assert sorted(int(t) for _, targets, weights in batches for t in targets[weights > 0]) == expected
        assert {array.shape for batch in batches for array in batch} == {(batch_size, window)}


def test_texts_stay_whole_and_those_of_all_parts_are_mixed_anew_in_each_epoch():
    texts = [(10 * i + 1, 10 * i + 2, 10 * i + 3) for i in range(9)]
    streams, orders = Streams([encode(*texts[:4]), encode(*texts[4:])], batch_size=1, window=100, seed=0), []
    for epoch in range(2):
        ((ids, _, _),) = streams.batches(epoch)
        rows = ids[0, :36].reshape(9, 4)
        assert not rows[:, 0].any()
        orders.append([tuple(row) for row in rows[:, 1:].tolist()])
        assert sorted(orders[-1]) == texts
    assert orders[0] != orders[1] and orders[0] != texts


def test_an_epoch_can_begin_in_its_middle():
    streams = Streams([encode(*make_texts(np.random.default_rng(0), 20))], 3, 4, seed=1)
    whole = list(streams.batches(2))
    for a, b in zip(whole[5:], streams.batches(2, first_step=5)):
        assert all(np.array_equal(x, y) for x, y in zip(a, b))


def test_one_text_longer_than_a_stream_is_cut_into_several():
    streams = Streams([encode(range(1, 101))], batch_size=4, window=10, seed=0)
    ids = np.concatenate([batch[0] for batch in streams.batches(0)], axis=1)
    assert ids[1, 0] == ids[0, 24] + 1 and streams.filled == 4


def test_few_tokens_fill_few_streams():
    streams = Streams([encode([5, 6, 7, 8])], batch_size=64, window=3, seed=0)
    assert (streams.filled, streams.steps) == (2, 1)
    ((_, targets, weights),) = streams.batches(0)
    assert weights.sum() == 4 and weights[2:].sum() == 0 and sorted(targets[weights > 0]) == [5, 6, 7, 8]


def test_counts_have_a_zero_before_each_text(monkeypatch):
    monkeypatch.setattr(pretraining, "COUNTED_AT_ONCE", 2)
    np.testing.assert_array_equal(count_tokens([encode([3, 1], [3]), encode([4])], 6), [3, 1, 0, 2, 1, 0])


def test_the_perplexity_of_a_unigram_model_is_worked_out_by_hand():
    # Shares (1 + 1, 2 + 1, 0 + 1) / 6; the held-out tokens are 0, 1, 1, 2.
    expected = (2 / 6 * 3 / 6 * 3 / 6 * 1 / 6) ** (-1 / 4)
    assert compute_unigram_perplexity(np.array([1, 2, 0]), np.array([1, 2, 1])) == pytest.approx(expected)


# Training


@pytest.fixture(scope="module")
def settings(tiny_csv) -> list[str]:
    return (
        f"--name tiny_lm --task language_model --data.csv {tiny_csv} --model.bidirectional false --model.units 8 "
        "--model.embedding_dim 6 --model.embedding_dropout 0.05 --model.dropout 0.05 --model.weight_drop 0.05 "
        "--model.word_dropout 0.05 --pretrain.output_dropout 0.05 --pretrain.window_tokens 5 --pretrain.negatives 20 "
        "--train.batch_size 4 --train.epochs 8 --train.learning_rate 0.05 --train.checkpoint_minutes 1e-9 "
        f"--data.cache_dir {tiny_csv.parent / 'cache'}"
    ).split()


def pretrain(settings, run_dir, *more):
    return train_run(parse_config([*settings, "--run_dir", str(run_dir), *map(str, more)]))


@pytest.fixture(scope="module")
def language_model(settings, tmp_path_factory):
    return pretrain(settings, tmp_path_factory.mktemp("lm") / "run", "--train.profile_steps", "[2, 3]")


def test_a_run_leaves_an_encoder_and_its_perplexity(language_model):
    metrics = json.loads((language_model / "metrics.json").read_text())
    found, unigram = metrics["validation"]["perplexity"], metrics["baselines"]["unigram"]["perplexity"]
    assert 1 < found < unigram / 2
    assert found == pytest.approx(np.exp(metrics["validation"]["cross_entropy"]))
    assert read_manifest(language_model)["validation_perplexity"] == found
    assert (language_model / "encoder" / "weights.npz").exists()
    assert not (language_model / "class_names.json").exists()
    assert "perplexity" in evaluate.evaluate_stored(language_model)


def test_a_profile_of_the_steps_that_are_asked_for_lies_beside_the_curves(language_model):
    assert len(list((language_model / "tensorboard" / "train" / "plugins" / "profile").rglob("*.xplane.pb"))) == 1


def test_the_perplexity_is_that_of_its_encoder_by_hand(language_model, settings):

    stored = read_pretrained(language_model / "encoder")
    held_out = load_corpus(parse_config(settings)).parts["validation"].token_ids
    w = stored.weights
    lstm = keras.layers.LSTM(8, return_sequences=True)
    lstm.build((1, None, 6))
    lstm.set_weights([w[f"recurrent_0/lstm_cell/{name}"] for name in ("kernel", "recurrent_kernel", "bias")])
    # Four streams as in training: each begins without a state and reads on to its end.
    row = np.concatenate([[0, *held_out.flat[a:b]] for a, b in zip(held_out.offsets, held_out.offsets[1:])])
    length = -(-(len(row) - 1) // 4)
    nats = []
    for begin in range(0, len(row) - 1, length):
        ids = row[begin : begin + length + 1]
        states = np.asarray(lstm(w["embedding/embeddings"][ids[:-1]][np.newaxis]))[0]
        logits = (states @ w["output/projection"] + w["output/projection_bias"]) @ w["embedding/embeddings"].T
        logits += w["output/bias"]
        nats += list(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(ids) - 1), ids[1:]])
    expected = json.loads((language_model / "metrics.json").read_text())["validation"]["cross_entropy"]
    assert np.mean(nats) == pytest.approx(expected, rel=1e-4)


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_encoder(
    settings, language_model, tmp_path, monkeypatch
):
    write, written = SaveProgress._write, []

    def write_and_die(self):
        write(self)
        written.append(self.progress.step)
        if len(written) == 9:
            raise Killed

    monkeypatch.setattr(SaveProgress, "_write", write_and_die)
    with pytest.raises(Killed):
        pretrain(settings, tmp_path / "run")
    assert written[-1] > 0, "it should have been killed within an epoch"
    assert not (tmp_path / "run" / "encoder").exists()
    monkeypatch.setattr(SaveProgress, "_write", write)
    train_run(parse_config(["--resume", str(tmp_path / "run")]))
    with np.load(language_model / "encoder" / "weights.npz") as expected:
        with np.load(tmp_path / "run" / "encoder" / "weights.npz") as received:
            assert [name for name in expected if not np.array_equal(expected[name], received[name])] == []


def test_the_model_makes_up_texts_of_known_tokens(language_model):
    stored = read_pretrained(language_model / "encoder")
    model = build_language_model(stored.config, len(stored.vocabulary))
    texts = sample_texts(model, stored.vocabulary, " ", seed=0)
    assert len(texts) == stored.config.train.batch_size and texts == sample_texts(model, stored.vocabulary, " ", seed=0)
    words = {word for text in texts for word in text.split(" ")}
    assert words <= {"¶", *stored.vocabulary[2:]}
    assert len(texts[0].split(" ")) == inference.SAMPLED_TOKENS


@pytest.mark.parametrize("task,needs_one", [("language_model", True), ("classification", False)])
def test_of_several_devices_auto_is_to_take_one_for_a_language_model(settings, monkeypatch, task, needs_one):
    asked = []

    def set_up(device, needs_one):
        asked.append((device.strategy, needs_one))
        raise UserError("enough")

    monkeypatch.setattr(devices, "set_up_device", set_up)
    with pytest.raises(UserError, match="enough"):
        train_run(parse_config([*settings, "--task", task]))
    assert asked == [("auto", needs_one)]


def test_a_language_model_goes_on_from_another_one(settings, language_model, tmp_path):
    short = "--train.epochs 1 --train.learning_rate 1e-9 --train.warmup_fraction 0 --pretrain.output_dropout 0.2"
    drop = ("--model.units", "--model.embedding_dim", "--model.bidirectional")
    arguments = [argument for pair in zip(settings[::2], settings[1::2]) if pair[0] not in drop for argument in pair]
    pretrain(arguments, tmp_path / "run", *short.split(), "--init_from", language_model)
    before, after = (read_pretrained(run / "encoder").weights for run in (language_model, tmp_path / "run"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        np.testing.assert_allclose(after[name], weight, atol=1e-5, err_msg=name)


def test_a_classifier_begins_with_the_weights_of_a_pre_training_run_and_learns(
    settings, language_model, tiny_csv, tmp_path, monkeypatch, capsys
):
    begun, ids = [], np.array([[2, 3, 4, 5, 0]], np.int32)

    def watch(model, *arguments):
        begun.append((model, {n: v.numpy() for n, v in name_weights(model).items()}, np.asarray(model(ids))))
        return train_model(model, *arguments)

    monkeypatch.setattr(train, "train_model", watch)
    arguments = (
        f"--data.csv {tiny_csv} --data.cache_dir {tiny_csv.parent / 'cache'} --train.epochs 2 --train.batch_size 8"
    )
    run_dir = train_run(
        parse_config([*arguments.split(), "--init_from", str(language_model), "--run_dir", str(tmp_path / "run")])
    )
    shown = capsys.readouterr().out
    assert "init_from: 4 weights from tiny_lm; starting anew: head\n" in shown  # concat pooling has no weights
    assert "WARNING: the model in init_from" not in shown  # it has read this train part
    ((model, before, first),) = begun
    encoder = read_pretrained(language_model / "encoder")
    assert len(encoder.encoder_weights) == 4 and encoder.encoder_weights.keys() < before.keys()
    for name in encoder.encoder_weights:
        np.testing.assert_array_equal(before[name], encoder.weights[name], err_msg=name)
    after = {name: v.numpy() for name, v in name_weights(model).items()}
    assert all((after[name] != before[name]).any() for name in before)
    assert np.abs(np.asarray(model(ids)) - first).max() > 1e-3
    assert keras_senti.load(run_dir).predict("the film was great")["probability_positive"][0] > 0


def test_an_encoder_knows_the_data_that_it_was_trained_on(language_model, tiny_csv):
    data = read_pretrained(language_model / "encoder").data
    assert data["sha256"] == {"reviews.csv": compute_sha256(tiny_csv)} and set(data) == {"sha256", "split_sha256"}


@pytest.mark.slow
def test_rows_without_label_are_counted_and_read_if_their_file_is_named_for_it(settings, tiny_csv, tmp_path, capsys):
    path = tmp_path / "some.csv"
    path.write_text(tiny_csv.read_text() + "".join(f"an unlabelled film number {i},\n" for i in range(9)))
    short = [*settings, "--train.epochs", "1", "--data.csv", str(path)]
    pretrain(short, tmp_path / "first")
    message = "9 rows without label are not read; to read them, name their file as data.unlabeled_csv too\n"
    assert message in capsys.readouterr().out
    run_dir = pretrain(short, tmp_path / "second", "--data.unlabeled_csv", path)
    assert message not in capsys.readouterr().out
    data = read_manifest(run_dir)["data"]
    assert data["rows"]["unlabeled"] == 9 and data["unlabeled_sha256"] == compute_sha256(path)
    assert read_pretrained(run_dir / "encoder").data["unlabeled_sha256"] == data["unlabeled_sha256"]
