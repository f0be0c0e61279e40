import csv
import dataclasses
import itertools
import json
import math
import os
import signal
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_senti.data.batches import Batching
from keras_senti.data.dataset import EncodedDataset, EncodedTexts
from keras_senti.data.token_cache import Corpus
from keras_senti.errors import Terminated, UserError
from keras_senti.evaluation.metrics import METRICS, Metric
from keras_senti.models.build import build_model
from keras_senti.settings.schema import Config, ModelConfig, TextConfig, TrainConfig
from keras_senti.training import callbacks, fit
from keras_senti.training.callbacks import KeepBest, SaveProgress, Speed, StopOnNonFinite
from keras_senti.training.checkpoints import Progress
from keras_senti.training.devices import Device
from keras_senti.training.fit import compile_model, compute_class_weights, train_model
from keras_senti.training.inference import make_predict
from keras_senti.training.optimizers import OPTIMIZERS
from keras_senti.training.run import Run
from keras_senti.training.trackers.base import Tracker
from keras_senti.training.trackers.tensorboard import TensorBoard

SMALL = ModelConfig(units=5, embedding_dim=4, embedding_dropout=0.2, dropout=0.1)


def make_twelve_rows(rows=12, labels=None, weights=None) -> EncodedDataset:
    """Twelve texts of 2 to 7 tokens; the class is the first token less 2."""
    classes = np.arange(12) % 3
    kept = np.arange(12)[:rows] if isinstance(rows, int) else rows
    texts = [np.array([classes[i] + 2, *range(5, 6 + i % 6)], np.int32) for i in kept]
    encoded = EncodedTexts(np.concatenate(texts), np.append(0, np.cumsum([len(t) for t in texts])))
    labels = classes[kept] if labels is None else labels
    weights = np.ones(len(kept), np.float32) if weights is None else weights
    return EncodedDataset(None, encoded, labels, weights, kept)


WRONG = make_twelve_rows(labels=(np.arange(12) + 1) % 3)


def train(run_dir, model_settings=SMALL, validation=None, part=None, trackers=(), **settings):
    keras.utils.set_random_seed(settings.get("seed", 0))
    model = build_model(model_settings, vocabulary_size=12, num_classes=3)
    before = [w.copy() for w in model.get_weights()]
    run_dir.mkdir(exist_ok=True)
    defaults = {"epochs": 2, "batch_size": 5, "learning_rate": 0.05, "schedule": "constant", "warmup_fraction": 0.0}
    settings = TrainConfig(**{**defaults, **settings})
    config = Config(text=TextConfig(sequence_length=20), model=model_settings, train=settings)
    run = Run(config, Device("cpu", "a CPU"), run_dir, 0.0, list(trackers))
    run.note(status="running")
    parts = {"train": part or make_twelve_rows(), "validation": validation or make_twelve_rows()}
    alone, trained = train_model(model, Corpus(parts, None, ("a", "b", "c"), {}, [], {}, run_dir), run)
    assert alone is model
    return model, before, trained


@pytest.mark.parametrize("cell,pooling", [("lstm", "attention"), ("gru", "concat"), ("simple_rnn", "last")])
def test_training_moves_every_weight(tmp_path, cell, pooling):
    settings = ModelConfig(cell=cell, pooling=pooling, units=5, embedding_dim=4)
    model, before, _ = train(tmp_path, settings)
    for weight, old in zip(model.weights, before):
        assert np.abs(weight.numpy() - old).max() > 0, weight.path


def test_training_overfits_twelve_rows_and_keeps_the_best_epoch(tmp_path):
    plain = ModelConfig(units=8, embedding_dim=6, embedding_dropout=0.0)
    model, _, trained = train(tmp_path, plain, epochs=30, monitor="val_accuracy")
    part = make_twelve_rows()
    predicted = np.asarray(make_predict(model)(part.token_ids.pad(np.arange(12), 8))).argmax(axis=1)
    assert predicted.tolist() == part.labels.tolist()
    with open(tmp_path / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    accuracy = [float(row["val_accuracy"]) for row in history]
    assert trained.epochs_run == len(history) == 30 and trained.best_epoch == accuracy.index(max(accuracy)) + 1


def test_the_best_weights_are_restored_and_stand_in_the_checkpoint(tmp_path):
    # Against wrong labels the validation loss grows with everything that is learned.
    model, _, trained = train(tmp_path, SMALL, WRONG, epochs=8)
    assert trained.best_epoch < trained.epochs_run == 8
    # 3 steps an epoch; the last two checkpoints are kept.
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000021.npz", "step-00000024.npz"]
    with np.load(tmp_path / "checkpoints" / "step-00000024.npz") as stored:
        for index, ours in enumerate(model.get_weights()):
            np.testing.assert_array_equal(ours, stored[f"best/{index}"])
        assert any(
            (stored[name] != stored["best/0"]).any() for name in stored if name == "model/0/embedding/embeddings"
        )


def test_with_monitor_none_the_last_epoch_is_kept(tmp_path):
    model, _, trained = train(tmp_path, SMALL, WRONG, epochs=8, monitor="none")
    assert trained.best_epoch == trained.epochs_run == 8
    with np.load(tmp_path / "checkpoints" / "step-00000024.npz") as stored:
        np.testing.assert_array_equal(model.get_weights()[0], stored["model/0/embedding/embeddings"])


def test_early_stopping_ends_after_the_patience(tmp_path):
    _, _, trained = train(tmp_path, SMALL, WRONG, epochs=50, early_stopping_patience_epochs=2)
    assert trained.epochs_run == trained.best_epoch + 2 < 50


def test_after_a_step_of_sgd_each_layer_has_moved_by_its_gradient_times_its_rate():
    model = build_model(ModelConfig(units=5, embedding_dim=4, num_layers=2, embedding_dropout=0.0), 12, 3)
    settings = TrainConfig(
        optimizer="sgd", learning_rate=0.5, schedule="constant", warmup_fraction=0.0, clip_norm=None, layer_rate_decay=2
    )
    compile_model(model, settings, total_steps=10)
    part = make_twelve_rows()
    ids, one_hot = part.token_ids.pad(np.arange(12), 8), np.eye(3, dtype=np.float32)[part.labels]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(ids, one_hot, model(ids, training=True))
    gradients = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, model.trainable_variables)]
    before = model.get_weights()
    model.train_on_batch(ids, one_hot)
    rates = {"embedding": 0.0625, "recurrent_0": 0.125, "recurrent_1": 0.25, "head": 0.5}
    names = [layer.name for layer in model.layers for _ in layer.weights]
    for name, new, old, gradient in zip(names, model.get_weights(), before, gradients, strict=True):
        np.testing.assert_allclose(new, old - rates[name] * gradient, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.slow
def test_layers_learn_from_their_epoch_on_and_that_is_said(tmp_path, capsys, monkeypatch):
    states, write = [], callbacks.write_checkpoint

    def record(folder, model, progress, *chief):
        states.append(model.get_weights())
        write(folder, model, progress, *chief)

    monkeypatch.setattr(callbacks, "write_checkpoint", record)
    settings = ModelConfig(units=5, embedding_dim=4, num_layers=2, pooling="attention")
    first_epochs = {"embedding": 4, "recurrent_0": 3, "recurrent_1": 3, "pooling": None}
    model, before, _ = train(tmp_path, settings, epochs=5, train_from_epoch=first_epochs, layer_rate_decay=2.6)
    names = [layer.name for layer in model.layers for _ in layer.weights]
    moved = [
        {name for name, old, new in zip(names, *pair, strict=True) if (old != new).any()}
        for pair in itertools.pairwise([before, *states])
    ]
    upper = {"recurrent_0", "recurrent_1", "head"}
    assert moved == [{"head"}, {"head"}, upper, {"embedding", *upper}, {"embedding", *upper}]
    assert [line for line in capsys.readouterr().out.splitlines() if "learn:" in line] == [
        "from epoch 1 on these layers learn: head",
        "from epoch 3 on these layers learn: recurrent_0, recurrent_1, head",
        "from epoch 4 on these layers learn: embedding, recurrent_0, recurrent_1, head",
    ]
    assert len(model.trainable_variables) == len(model.weights)  # whoever trains it further has all of it


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_to_the_last_digit_and_another_does_not(tmp_path):
    settings = ModelConfig(units=5, embedding_dim=4, dropout=0.3, recurrent_dropout=0.3, embedding_dropout=0.3)
    first, again, other = (
        train(tmp_path / name, settings, seed=seed)[0].get_weights() for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert any((a != c).any() for a, c in zip(first, other))


def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_learning_rate(tmp_path):
    settings = ModelConfig(cell="simple_rnn", activation="exponential", units=5, embedding_dim=4, embedding_dropout=0.0)
    message = r"loss became (nan|inf) in epoch \d+, step \d+, at learning rate 1e\+04.*Lower train.learning_rate"
    with pytest.raises(UserError, match=message):
        train(tmp_path, settings, learning_rate=1e4, clip_norm=None, optimizer="sgd", epochs=5)


def test_a_validation_loss_that_is_not_finite_stops_too():
    model = build_model(SMALL, 12, 3)
    compile_model(model, TrainConfig(), total_steps=10)
    callback = StopOnNonFinite(Progress())
    callback.set_model(model)
    with pytest.raises(UserError, match="validation loss became nan in epoch 3"):
        callback.on_epoch_end(2, {"val_loss": math.nan})


def test_ctrl_c_before_the_first_epoch_is_over_goes_through_and_later_keeps_the_best(tmp_path, monkeypatch):
    begin = Speed.on_epoch_begin

    def interrupt_in(epoch):
        def on_epoch_begin(self, current, logs=None):
            begin(self, current)
            if current == epoch:
                raise KeyboardInterrupt

        monkeypatch.setattr(Speed, "on_epoch_begin", on_epoch_begin)

    interrupt_in(0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "first")
    interrupt_in(2)
    model, before, trained = train(tmp_path / "third", epochs=5)
    assert trained.interrupted and trained.epochs_run == 2 and trained.best_epoch <= 2
    assert any((w != old).any() for w, old in zip(model.get_weights(), before))


@pytest.fixture
def signal_in(monkeypatch):
    """Sends this process signals where an epoch begins; SIGTERM is handled as in a command."""

    def terminate(*_):
        raise Terminated

    begin = Speed.on_epoch_begin

    def send(epoch, *numbers):
        def on_epoch_begin(self, current, logs=None):
            begin(self, current)
            for number in numbers if current == epoch else ():
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Speed, "on_epoch_begin", on_epoch_begin)

    before = signal.signal(signal.SIGTERM, terminate), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield send
    assert signal.getsignal(signal.SIGTERM) is terminate
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


def list_checkpoints(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").glob("step-*.npz"))


def test_sigterm_leaves_a_checkpoint_of_its_step_from_which_training_goes_on_to_the_same_weights(tmp_path, signal_in):
    whole, *_ = train(tmp_path / "whole", epochs=3)
    signal_in(1, signal.SIGTERM)
    with pytest.raises(Terminated):
        train(tmp_path / "stopped", epochs=3)
    assert list_checkpoints(tmp_path / "stopped") == ["step-00000003.npz", "step-00000004.npz"]
    signal_in(None)
    again, _, trained = train(tmp_path / "stopped", epochs=3)
    assert trained.epochs_run == 3 and not trained.interrupted
    for one, other in zip(whole.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_ctrl_c_in_the_first_epoch_leaves_a_checkpoint_and_a_second_one_is_not_waited_for(tmp_path, signal_in, capfd):
    signal_in(0, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "once")
    assert list_checkpoints(tmp_path / "once") == ["step-00000001.npz"]
    assert "stopping after this step; once more: at once" in capfd.readouterr().err
    signal_in(0, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "twice")
    assert list_checkpoints(tmp_path / "twice") == []


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_optimizer_settings_reach_the_optimizer(name):
    model = build_model(SMALL, 12, 3)
    compile_model(model, TrainConfig(optimizer=name, weight_decay=0.01, clip_norm=0.5, label_smoothing=0.1), 10)
    assert next(c for c in type(model.optimizer).__mro__ if c.__module__.startswith("keras.")) is OPTIMIZERS[name]
    assert (model.optimizer.weight_decay, model.optimizer.global_clipnorm) == (0.01, 0.5)
    assert model.loss.label_smoothing == 0.1


def test_steps_to_profile_that_the_run_does_not_have_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"received \[3, 7\], but all epochs together have 6 steps\. Name earlier ones"):
        train(tmp_path, profile_steps=[3, 7], epochs=2, batch_size=4)
    with pytest.raises(
        ValueError, match=r"train\.profile_steps: received \[3, 2\], expected the first and the last step"
    ):
        TrainConfig(profile_steps=[3, 2])


def test_class_weights_make_every_class_weigh_the_same():
    labels = np.array([0, 0, 0, 1])
    assert compute_class_weights(labels, 2, "none").tolist() == [1, 1]
    weights = compute_class_weights(labels, 2, "balanced")
    assert weights.tolist() == pytest.approx([4 / 6, 4 / 2])
    assert weights[labels].mean() == pytest.approx(1)


def test_class_weights_change_what_is_learned(tmp_path):
    # Seeded alike, so that only the weights differ; equal class counts would hide it.
    kept = np.flatnonzero((np.arange(12) % 3 != 2) | (np.arange(12) == 2))
    settings = {"part": make_twelve_rows(kept), "epochs": 1}
    results = [train(tmp_path / kind, **settings, class_weights=kind)[0].get_weights()[0] for kind in KINDS]
    assert (results[0] != results[1]).any()


KINDS = ("none", "balanced")


@pytest.mark.slow
def test_weights_of_rows_and_of_classes_are_multiplied(tmp_path):
    labels = make_twelve_rows(11).labels  # 4 + 4 + 3 rows without the last: balanced is not 1 each
    balanced = compute_class_weights(labels, 3, "balanced")[labels]
    results = []
    for kind, weights in (("none", np.ones(11)), ("balanced", 1 / balanced), ("balanced", np.ones(11))):
        part = make_twelve_rows(11, weights=weights.astype(np.float32))
        model, *_ = train(tmp_path / str(len(results)), SMALL, part, part, epochs=1, class_weights=kind)
        results.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)
    assert np.abs(results[2] - results[0]).max() > 1e-5


def test_tensorboard_gets_the_curves(tmp_path):
    texts = ["a text"] * 12
    tracker = TensorBoard(Config(), tmp_path / "tensorboard")
    train(tmp_path, validation=dataclasses.replace(make_twelve_rows(), texts=texts), trackers=[tracker])

    def tags(part):
        return set(EventAccumulator(str(tmp_path / "tensorboard" / part)).Reload().Tags()["tensors"])

    curves = {"epoch_loss", "epoch_accuracy", "epoch_macro_f1"}
    assert curves <= tags("validation")
    speeds = {"epoch_learning_rate", "epoch_examples_per_second", "epoch_tokens_per_second"}
    assert curves | speeds <= tags("train")


def test_a_tracker_is_told_of_each_epoch_and_of_the_trained_model(tmp_path):
    told = []

    class Recorder(Tracker):
        def log_epoch(self, epoch, logs):
            told.append((epoch, set(logs)))

        def log_model(self, model, corpus):
            told.append(([weight.copy() for weight in model.get_weights()], corpus.class_names))

    model, _, trained = train(tmp_path, SMALL, WRONG, trackers=[Recorder()])
    names = {"loss", "accuracy", "macro_f1", *TIMES}
    names |= {"val_loss", "val_accuracy", "val_macro_f1"}
    assert told[:2] == [(0, names), (1, names)]
    (weights, class_names), best = told[2], model.get_weights()
    assert class_names == ("a", "b", "c") and all((a == b).all() for a, b in zip(weights, best, strict=True))


def test_a_metric_that_is_new_in_the_table_is_measured_each_epoch_and_changes_nothing_else(tmp_path, monkeypatch):
    train(tmp_path / "before", RANDOM)
    right = Metric("right", "", lambda hits, true, predicted: hits.sum(axis=1), each_epoch=True)
    surest = Metric("surest", "", lambda labels, p: p.max(), from_probabilities=True, each_epoch=True)
    for metric in (right, surest):
        monkeypatch.setitem(METRICS, metric.name, metric)
    train(tmp_path / "after", RANDOM)
    before, after = read_history(tmp_path / "before"), read_history(tmp_path / "after")
    found = [(float(row.pop("val_right")), float(row.pop("val_surest"))) for row in after]
    assert after == before
    assert [right / 12 for right, _ in found] == pytest.approx([float(row["val_accuracy"]) for row in after])
    assert all(1 / 3 < surest < 1 for _, surest in found)


@pytest.mark.parametrize("monitor,sign", [("val_loss", -1), ("val_accuracy", 1), ("none", 1), ("val_log_loss", -1)])
def test_which_epoch_is_best_follows_from_the_direction_of_the_metric(monitor, sign):
    assert KeepBest(Progress(), monitor, 1).sign == sign


def test_speed_counts_real_tokens_and_leaves_validation_out(monkeypatch):
    clock = iter([10.0, 12.0, 17.0])
    monkeypatch.setattr("keras_senti.training.callbacks.time.perf_counter", lambda: next(clock))
    loop = SimpleNamespace(data=SimpleNamespace(steps=5, tokens=500), is_chief=True)
    speed, logs = Speed(Progress(), loop, epochs=2, examples=30), {}
    speed.on_epoch_begin(0)
    speed.on_train_batch_end(4)
    speed.on_epoch_end(0, logs)
    assert logs == {"examples_per_second": 15.0, "tokens_per_second": 250.0}


def test_a_line_a_minute_says_how_far_training_is(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 80.0])
    monkeypatch.setattr("keras_senti.training.callbacks.time.perf_counter", lambda: next(clock))
    loop = SimpleNamespace(data=SimpleNamespace(steps=10, tokens=5000), is_chief=True)
    speed = Speed(Progress(epoch=1, step=2), loop, epochs=3)
    speed.on_epoch_begin(1)
    speed.on_train_batch_end(0, {"loss": 0.5})
    speed.on_train_batch_end(3, {"loss": 0.25})
    line = "epoch 2 of 3, step 6 of 10 (53% of all): loss 0.250, 25 tokens a second, 5 minutes left\n"
    assert capsys.readouterr().out == line


def test_the_reported_padding_is_that_of_the_first_epoch(tmp_path):
    _, _, trained = train(tmp_path, bucket_by_length=False)
    lengths = make_twelve_rows().token_ids.lengths
    assert trained.padding_fraction == pytest.approx(1 - lengths.sum() / (12 * 20))


# Going on after a stop

RANDOM = ModelConfig(units=5, embedding_dim=4, dropout=0.3, recurrent_dropout=0.3, embedding_dropout=0.3, num_layers=2)
TIMES = {"examples_per_second", "tokens_per_second"}


class Killed(Exception):
    pass


@pytest.fixture
def kill_before_step(monkeypatch):
    """Lets training raise at the beginning of a step, counted over all epochs from 0; None: never."""

    def arrange(number):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations.numpy() == number:
                raise Killed

        monkeypatch.setattr(SaveProgress, "on_train_batch_begin", on_train_batch_begin, raising=False)

    return arrange


def read_history(run_dir):
    with open(run_dir / "history.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


PARTS = {"embedding": 4, "recurrent_0": 2, "recurrent_1": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 50, "early_stopping_patience_epochs": 2},
        {"epochs": 5, "train_from_epoch": PARTS, "layer_rate_decay": 2.6, "monitor": "none"},
    ],
)
def test_a_run_that_was_stopped_in_mid_epoch_ends_as_if_it_had_not_been(tmp_path, kill_before_step, settings):
    # 3 steps an epoch. Stopped in the first epoch, after the last step of the third, and in the one after.
    settings = {**settings, "checkpoint_minutes": 1e-9}
    expected, _, whole = train(tmp_path / "whole", RANDOM, WRONG, **settings)
    assert whole.epochs_run > 3
    for step in (2, 9, 10):
        kill_before_step(step)
        with pytest.raises(Killed):
            train(tmp_path / "stopped", RANDOM, WRONG, **settings)
    kill_before_step(None)
    received, _, stopped = train(tmp_path / "stopped", RANDOM, WRONG, **settings)
    for ours, theirs in zip(received.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    assert (stopped.best_epoch, stopped.epochs_run) == (whole.best_epoch, whole.epochs_run)
    assert read_history(tmp_path / "stopped") == read_history(tmp_path / "whole")
    newest = [sorted((tmp_path / name / "checkpoints").glob("step-*"))[-1] for name in ("stopped", "whole")]
    with np.load(newest[0]) as ours, np.load(newest[1]) as theirs:
        assert set(ours) == set(theirs)
        for name in set(ours) - {"progress"}:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_run_whose_training_is_over_is_not_trained_again(tmp_path, monkeypatch):
    expected, _, first = train(tmp_path)
    (tmp_path / "history.csv").unlink()
    monkeypatch.setattr(keras.Model, "fit", lambda *_args, **_kwargs: pytest.fail("trained again"))
    received, _, again = train(tmp_path)
    for ours, theirs in zip(received.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    assert (again.best_epoch, again.epochs_run) == (first.best_epoch, 2) and len(read_history(tmp_path)) == 2
    with np.load(max((tmp_path / "checkpoints").glob("step-*.npz"))) as newest:
        stored = json.loads(newest["progress"].tobytes())["seconds"]
    assert again.seconds >= stored > 0  # not compared with first.seconds, which has the writing of this file in it


@pytest.mark.parametrize("minutes,expected", [(1e-9, [1, 2, 3, 4, 5, 6]), (60, [3, 6])])
def test_checkpoints_are_written_as_often_as_asked_and_at_each_epochs_end(tmp_path, monkeypatch, minutes, expected):
    written, write = [], callbacks.write_checkpoint

    def record(folder, model, progress, *chief):
        written.append(3 * progress.epoch + progress.step)
        write(folder, model, progress, *chief)

    monkeypatch.setattr(callbacks, "write_checkpoint", record)
    train(tmp_path, checkpoint_minutes=minutes)
    assert written == expected


@pytest.mark.slow
def test_the_rest_of_an_epoch_counts_as_such_in_speed_and_in_messages(tmp_path, kill_before_step, monkeypatch):
    kill_before_step(2)
    with pytest.raises(Killed):
        train(tmp_path, checkpoint_minutes=1e-9)
    kill_before_step(None)
    seen = []
    monkeypatch.setattr(fit, "Speed", lambda *arguments: seen.append(arguments[-1]) or keras.callbacks.Callback())
    monkeypatch.setattr(StopOnNonFinite, "_check", lambda self, loss, where, what: seen.append(where))
    train(tmp_path, checkpoint_minutes=1e-9)
    rest = len(Batching(5, 20).plan(make_twelve_rows().token_ids.lengths, epoch=0)[2])
    assert seen == [rest, "epoch 1, step 3", "epoch 1", 12, *(f"epoch 2, step {s}" for s in (1, 2, 3)), "epoch 2"]
