"""Several replicas train one model. What needs processes of its own is marked slow."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_senti.data.batches import Batching, TextBatches
from keras_senti.data.dataset import EncodedDataset, EncodedTexts
from keras_senti.data.token_cache import Corpus
from keras_senti.errors import UserError
from keras_senti.experiments import local_workers
from keras_senti.models.build import build_model
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import Config, ModelConfig, TextConfig, TrainConfig
from keras_senti.tasks.checks import check_replicas
from keras_senti.training import optimizers
from keras_senti.training.checkpoints import Progress
from keras_senti.training.devices import Device
from keras_senti.training.distributed import ReplicaLoop, Shares, _group
from keras_senti.training.fit import compile_model, train_model
from keras_senti.training.run import Run

ROOT = Path(__file__).parents[2]
MODEL = ModelConfig(cell="gru", units=5, embedding_dim=4, pooling="concat", bidirectional=True)


def make_part(rows=45, longest=12, vocabulary=30) -> EncodedDataset:
    """Texts whose label follows from the first token, with weights."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, longest + 1, rows)
    flat = rng.integers(2, vocabulary, lengths.sum()).astype(np.int32)
    encoded = EncodedTexts(flat, np.append(0, np.cumsum(lengths)))
    weights = np.linspace(0.5, 1.5, rows, dtype=np.float32)
    return EncodedDataset(None, encoded, flat[encoded.offsets[:-1]] % 3, weights, np.arange(rows))


def make_shares(fixed_lengths=(12,), replicas=1) -> Shares:
    return Shares(TextBatches(make_part(), Batching(8, 12, fixed_lengths), num_classes=3), replicas)


def make_device(strategy=None, **changes) -> Device:
    """One replica, but by the loop of several."""
    return Device("cpu", "one replica", strategy or tf.distribute.OneDeviceStrategy("/cpu:0"), **changes)


def train(tmp_path, device, settings=None, model_settings=MODEL, kernel="loop"):
    keras.utils.set_random_seed(0)
    with device.scope():
        model = build_model(model_settings, 30, 3, kernel)
    folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    settings = settings or TrainConfig(epochs=2, batch_size=8, learning_rate=0.01)
    run = Run(Config(text=TextConfig(sequence_length=12), model=model_settings, train=settings), device, folder, 0.0)
    run.note(status="running")
    part = make_part()
    corpus = Corpus({"train": part, "validation": part}, None, ("a", "b", "c"), {}, [], {}, folder)
    _, trained = train_model(model, corpus, run)
    return model, trained, folder


def read_history(folder):
    import pandas as pd

    return pd.read_csv(folder / "history.csv")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"bucket_by_length": False}, marks=pytest.mark.slow),
        pytest.param({"bucket_lengths": [4, 8]}, marks=pytest.mark.slow),
        pytest.param({"batch_tokens": 40, "bucket_lengths": [6]}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_loop_does_what_fit_does(tmp_path, changes, monkeypatch):
    # Keras' operations for Adam in both: those of InOnePass round otherwise; test_optimizers.py compares them.
    monkeypatch.setattr(optimizers, "InOnePass", type("Nothing", (), {}))
    settings = TrainConfig(epochs=2, batch_size=8, learning_rate=0.01, label_smoothing=0.1, **changes)
    (ours, _, own), (theirs, _, other) = (train(tmp_path, d, settings) for d in (make_device(), Device("cpu", "")))
    for a, b in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(a, b, atol=2e-6)
    histories = read_history(own), read_history(other)
    for name in ("accuracy", "macro_f1", "val_loss", "val_accuracy", "val_macro_f1"):
        np.testing.assert_allclose(*(history[name] for history in histories), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("fixed_lengths", [(12,), None, (4, 12)])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_the_shares_of_a_batch_are_equal_and_count_each_row_once(fixed_lengths, replicas):
    shares = make_shares(fixed_lengths, replicas)
    weights, lengths = shares.data.part.weights, shares.data.lengths
    for rows in shares.data.batches(0):
        made = [shares.make(rows, replica) for replica in range(replicas)]
        shapes = {part[0].shape for part in made}
        assert len(shapes) == 1 and shapes <= {shares.find_shape(rows) or made[0][0].shape}
        ids, seen, weight = (np.concatenate(parts) for parts in zip(*made))
        real = seen.sum(axis=1) > 0
        assert real.sum() == len(rows) and (weight[~real] == 0).all()
        assert (ids != 0).any(axis=1).all()  # cuDNN stops at a row without tokens
        # The mean over all rows of the weighted losses is the mean over the real ones.
        order = np.concatenate([rows[replica::replicas] for replica in range(replicas)])
        np.testing.assert_allclose(weight[real] / len(weight), weights[order] / len(rows), rtol=1e-6)
        np.testing.assert_array_equal((ids[real] != 0).sum(axis=1), lengths[order])


def test_steps_of_one_shape_are_made_together():
    assert list(_group("aaabcc", 2)) == [("a", 2), ("a", 1), ("b", 1), ("c", 2)]
    assert list(_group("", 2)) == []


@pytest.mark.slow
def test_several_steps_an_execution_give_the_same_weights(tmp_path):
    settings = TrainConfig(epochs=2, batch_size=4, learning_rate=0.01, bucket_by_length=False)
    one, trained, _ = train(tmp_path, make_device(), settings)
    many, again, folder = train(tmp_path, make_device(steps_per_execution=5), settings)
    assert (trained.epochs_run, again.epochs_run) == (2, 2)
    for a, b in zip(one.get_weights(), many.get_weights()):
        np.testing.assert_array_equal(a, b)
    (newest,) = sorted((folder / "checkpoints").glob("step-*"))[-1:]
    assert newest.name == "step-00000024.npz"  # 2 epochs of 12 steps


@pytest.mark.slow
def test_layers_that_learn_late_and_early_stopping_work_in_the_loop(tmp_path):
    settings = TrainConfig(
        epochs=6,
        batch_size=8,
        learning_rate=1e-8,
        train_from_epoch={"embedding": 2},
        early_stopping_patience_epochs=2,
        monitor="val_accuracy",
    )
    start = build_initial(settings)
    model, trained, _ = train(tmp_path, make_device(), settings)
    assert (trained.best_epoch, trained.epochs_run) == (1, 3)  # nothing is learned at this rate
    np.testing.assert_array_equal(model.get_weights()[0], start[0])  # the best epoch: the embedding was frozen
    assert any((a != b).any() for a, b in zip(model.get_weights(), start))


def build_initial(_settings):
    keras.utils.set_random_seed(0)
    return build_model(MODEL, 30, 3).get_weights()


@pytest.mark.slow
def test_the_step_is_traced_once_for_each_shape(tmp_path, monkeypatch):
    traces = []
    original = keras.Sequential.train_step

    def train_step(self, data):
        traces.append(tuple(data[0].shape))
        return original(self, data)

    monkeypatch.setattr(keras.Sequential, "train_step", train_step)
    settings = TrainConfig(epochs=3, batch_size=8, bucket_lengths=[4, 8])
    train(tmp_path, make_device(steps_per_execution=3), settings)
    assert sorted(traces) == [(8, 4), (8, 8), (8, 12)]


FORBIDDEN = {"PyFunc", "EagerPyFunc", "BlockLSTM", "BlockLSTMV2", "Unique", "Where", "CudnnRNNV3"}


def list_ops(function) -> set[str]:
    """Returns the operations of a concrete function and of all that it calls; strings as `string`."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    ops = {node.op for node in nodes}
    for node in nodes:
        for name, value in node.attr.items():
            if tf.string.as_datatype_enum in (value.type, *value.list.type) and node.op != "ReadVariableOp":
                ops.add(f"string: {node.op} {name}")
    return ops


@pytest.mark.parametrize("cell", ["lstm", *(pytest.param(c, marks=pytest.mark.slow) for c in ("gru", "simple_rnn"))])
def test_whole_steps_compile_with_xla_under_fixed_shapes_and_hold_nothing_that_a_tpu_refuses(cell):
    """Stands for a TPU: there, too, XLA compiles the whole step, and what it cannot compile it refuses."""
    settings = ModelConfig(
        cell=cell, units=5, embedding_dim=4, pooling="attention", dropout=0.1, recurrent_dropout=0.1, word_dropout=0.1
    )
    settings = dataclasses.replace(settings, weight_drop=0.0 if cell == "simple_rnn" else 0.2)
    keras.utils.set_random_seed(0)
    model = build_model(settings, 30, 3, "keras" if cell == "simple_rnn" else "xla")
    compile_model(model, TrainConfig(learning_rate=0.01, clip_norm=1.0, weight_decay=0.1), 10)
    batch = [tf.constant(column) for column in make_shares().make(np.arange(5), 0)]
    for step, arguments in (
        (model.train_step, (tuple(batch),)),
        (model.test_step, (tuple(batch),)),
        (lambda ids: model(ids, training=False), (batch[0],)),
    ):
        compiled = tf.function(step, jit_compile=True)
        ops = list_ops(compiled.get_concrete_function(*arguments))
        assert not ops & FORBIDDEN, ops & FORBIDDEN
        assert not [op for op in ops if op.startswith("string")], ops
        compiled(*arguments)


def test_a_graph_of_strings_would_be_noticed():
    @tf.function
    def count(text):
        return tf.strings.length(text)

    assert [op for op in list_ops(count.get_concrete_function(tf.constant(["a"]))) if op.startswith("string")]


@pytest.mark.parametrize("kernel", ["loop", pytest.param("xla", marks=pytest.mark.slow)])
def test_a_step_is_the_same_in_graph_and_xla(kernel):
    batch = tuple(tf.constant(column) for column in make_shares().make(np.arange(8), 0))
    found = []
    for compiled in (False, True):
        keras.utils.set_random_seed(0)
        model = build_model(dataclasses.replace(MODEL, embedding_dropout=0.0), 30, 3, kernel)  # XLA draws other masks
        compile_model(model, TrainConfig(learning_rate=0.01), 10)
        logs = tf.function(model.train_step, jit_compile=compiled)(batch)
        found.append((float(logs["loss"]), *model.get_weights()))
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_predictions_come_back_in_order(tmp_path):
    device = make_device()
    with device.scope():
        model = build_model(MODEL, 30, 3)
        compile_model(model, TrainConfig(), 10)
    part = make_part(300)
    expected = model.predict(part.token_ids.pad(np.arange(300), 12), verbose=0)
    for fixed_lengths in (None, (12,), (4, 12)):
        loop = ReplicaLoop(model, device, TextBatches(part, Batching(8, 12, fixed_lengths), 3))
        np.testing.assert_allclose(loop.predict(part), expected, atol=1e-6)


def test_another_workers_end_is_told_and_what_to_do(tmp_path, monkeypatch):
    part = make_part()
    loop = ReplicaLoop(None, make_device(workers=2, worker=1), TextBatches(part, Batching(8, 12), 3))

    def fail(*_args):
        raise tf.errors.UnavailableError(None, None, "connection refused")

    monkeypatch.setattr(loop, "_fit", fail)
    with pytest.raises(UserError, match="worker 1: another worker is gone .* again with --resume"):
        loop.fit(Progress(), 1, [])


def test_what_several_replicas_cannot_do_is_refused(tiny_settings):
    device = Device("gpu", "4 of 4 GPU(s)", SimpleNamespace(num_replicas_in_sync=4))
    with pytest.raises(UserError, match=r"4 of 4 GPU.*: a language model carries the state of each stream"):
        check_replicas(
            parse_config([*tiny_settings, "--task", "language_model", "--model.bidirectional", "false"]), device
        )
    with pytest.raises(UserError, match=r"train\.batch_size: received 3, expected at least 4"):
        check_replicas(parse_config([*tiny_settings, "--train.batch_size", "3"]), device)
    with pytest.raises(UserError, match=r"train\.profile_steps: received \[1, 2\], but a profile is taken with one"):
        check_replicas(parse_config([*tiny_settings, "--train.profile_steps", "[1, 2]"]), device)
    check_replicas(parse_config(tiny_settings), device)


# --- with processes of their own -------------------------------------------------------------------------------------

TRAIN = [sys.executable, "train.py"]
LAUNCH = [sys.executable, "-m", "keras_senti", "launch", "--workers", "2", "--"]
MODES = {
    "one": TRAIN,
    "mirrored": [*TRAIN, "--device.strategy", "mirrored", "--device.replicas", "2"],
    "workers": [*LAUNCH, *TRAIN],
}


def write_reviews(path: Path, rows: int):
    arguments = ["good", "bad", "plain", *(f"w{i}" for i in range(40))]
    rng = np.random.default_rng(0)
    lines = ["text,sentiment"]
    for i in range(rows):
        label = i % 3
        text = [arguments[label], f"n{i}", *rng.choice(arguments[3:], rng.integers(3, 12))]
        lines.append(f"{' '.join(rng.permutation(text))},{['positive', 'negative', 'neutral'][label]}")
    path.write_text("\n".join(lines) + "\n")


def make_arguments(folder: Path, *arguments) -> list[str]:
    """Returns command-line arguments of a run of 20 steps an epoch of 64 rows each, without dropout."""
    if not (folder / "reviews.csv").exists():
        write_reviews(folder / "reviews.csv", 1600)
    return (
        f"--name replicas --data.csv {folder / 'reviews.csv'} --data.cache_dir {folder / 'cache'} "
        "--data.test_fraction 0 --data.validation_fraction 0.2 --text.sequence_length 14 --model.units 16 "
        "--model.embedding_dim 8 --train.epochs 1 --train.batch_size 64 --train.learning_rate 0.003 "
        "--model.embedding_dropout 0 --train.bucket_by_length false --baselines.models [majority] "
        "--model.bidirectional false"
    ).split() + list(arguments)


def read_weights(run_dir: Path) -> list[np.ndarray]:
    import keras_senti.layers  # noqa: F401  (what model.keras names)

    return keras.models.load_model(run_dir / "model.keras").get_weights()


def run_command(command, **arguments):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, **arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.slow
def test_one_process_two_replicas_and_two_workers_agree(tmp_path):
    """20 steps of Adam: the same weights within 1e-5; with float16 and with dropout the losses are alike."""
    weights, losses, both_ways = {}, {}, ["--model.bidirectional", "true"]
    for name, command in MODES.items():
        run_command([*command, *make_arguments(tmp_path, *both_ways), "--run_dir", str(tmp_path / name)])
        weights[name] = read_weights(tmp_path / name)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        losses[name] = metrics["validation"]["log_loss"]
        assert json.loads((tmp_path / name / "manifest.json").read_text())["status"] == "finished"
    for name in ("mirrored", "workers"):
        for a, b in zip(weights["one"], weights[name]):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
        assert abs(losses["one"] - losses[name]) < 1e-5
    for name, command in MODES.items():  # the gradients of the scaled loss are summed before they are looked at
        folder = tmp_path / f"float16_{name}"
        arguments = make_arguments(tmp_path, *both_ways, "--device.precision", "mixed_float16")
        run_command([*command, *arguments, "--run_dir", str(folder)])
        found = json.loads((folder / "metrics.json").read_text())["validation"]["log_loss"]
        assert abs(found - losses["one"]) < 0.01, name
    curves = {}
    dropout = [*both_ways, "--train.epochs", "4", "--model.dropout", "0.3", "--model.embedding_dropout", "0.2"]
    for name in ("one", "mirrored"):
        run_dir = tmp_path / f"dropout_{name}"
        run_command([*MODES[name], *make_arguments(tmp_path, *dropout), "--run_dir", str(run_dir)])
        curves[name] = read_history(run_dir)["loss"].to_numpy()
    np.testing.assert_allclose(curves["one"], curves["mirrored"], rtol=0.05)
    assert (curves["one"] != curves["mirrored"]).any()  # the masks are others


def start_workers(arguments, log: Path) -> list[subprocess.Popen]:
    """Starts two workers as two machines would, without launch."""
    addresses = [f"127.0.0.1:{port}" for port in local_workers.find_free_ports(2)]
    started = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        with open(f"{log}.{index}", "w") as file:
            environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
            started.append(
                subprocess.Popen([*TRAIN, *arguments], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
            )
    return started


def wait_for_checkpoint(run_dir: Path, processes, inside_of_epoch=20):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and all(p.poll() is None for p in processes):
        steps = [int(path.stem[5:]) for path in run_dir.glob("checkpoints/step-*.npz")]
        if steps and max(steps) % inside_of_epoch:
            return
        time.sleep(0.02)
    pytest.fail("no checkpoint inside of an epoch")


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Words of a run with a checkpoint at each step, and the weights with which two workers end it."""
    folder = tmp_path_factory.mktemp("two_workers")
    arguments = make_arguments(
        folder, "--train.epochs", "3", "--model.embedding_dropout", "0.2", "--train.checkpoint_minutes", "0.001"
    )
    run_command([*MODES["workers"], *arguments, "--run_dir", str(folder / "whole")])
    return arguments, read_weights(folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["chief", "worker"])
def test_a_killed_worker_ends_the_other_and_a_resumed_run_ends_with_the_same_weights(tmp_path, two_workers, victim):
    arguments, whole = two_workers
    killed = tmp_path / "killed"
    workers = start_workers([*arguments, "--run_dir", str(killed)], tmp_path / "log")
    try:
        wait_for_checkpoint(killed, workers)
        workers[victim].send_signal(signal.SIGKILL)
        begin = time.monotonic()
        assert workers[1 - victim].wait(60) == 2
        assert time.monotonic() - begin < 60
    finally:
        for worker in workers:
            worker.kill()
    said = Path(f"{tmp_path / 'log'}.{1 - victim}").read_text()
    assert f"worker {1 - victim}: another worker is gone" in said and "--resume" in said
    assert json.loads((killed / "manifest.json").read_text())["status"] != "finished"
    run_command([*MODES["workers"], "--resume", str(killed)])
    for a, b in zip(whole, read_weights(killed)):
        np.testing.assert_array_equal(a, b)
    assert read_history(killed)["epoch"].tolist() == list(range(3))


@pytest.mark.slow
def test_a_saved_model_goes_from_one_kind_of_device_to_another_and_serves_on_a_cpu(tmp_path):
    first, second, third = (tmp_path / name for name in ("one", "mirrored", "again"))
    run_command([*MODES["one"], *make_arguments(tmp_path), "--run_dir", str(first)])
    arguments = [
        argument
        for argument in make_arguments(tmp_path)
        if argument not in ("--model.units", "16", "--model.embedding_dim", "8")
    ]
    for source, target, mode in ((first, second, "mirrored"), (second, third, "one")):
        told = run_command(
            [*MODES[mode], *arguments, "--init_from", str(source / "saved_model"), "--run_dir", str(target)]
        ).stdout
        assert "weights from replicas" in told
        losses = [json.loads((run / "metrics.json").read_text())["validation"]["log_loss"] for run in (source, target)]
        assert losses[1] < losses[0]  # it goes on where the other ended
    loaded = tf.saved_model.load(str(second / "saved_model"))  # held: its variables go with it
    served = loaded.serve(tf.constant(["good w1 w2"]))
    np.testing.assert_allclose(served["probabilities"].numpy().sum(), 1, rtol=1e-5)


@pytest.mark.slow
def test_launch_ends_all_when_one_is_killed(tmp_path):
    arguments = make_arguments(tmp_path, "--train.epochs", "500", "--train.checkpoint_minutes", "0.001")
    run_dir = tmp_path / "run"
    command = [*MODES["workers"], *arguments, "--run_dir", str(run_dir)]
    launched = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(run_dir, [launched])
    found = subprocess.run(["pgrep", "-P", str(launched.pid)], capture_output=True, text=True).stdout.split()
    assert len(found) == 2
    os.kill(int(found[1]), signal.SIGKILL)
    _, said = launched.communicate(timeout=60)
    assert launched.returncode == 128 + signal.SIGKILL
    assert "launch: worker 1 was ended by signal 9; ending the others" in said and "--resume" in said
    assert not Path(f"/proc/{found[0]}").exists()


@pytest.mark.slow
def test_after_sigterm_to_launch_the_workers_leave_a_checkpoint_and_can_be_resumed(tmp_path):
    arguments = make_arguments(tmp_path, "--train.epochs", "500")
    run_dir = tmp_path / "run"
    launched = subprocess.Popen(
        [*MODES["workers"], *arguments, "--run_dir", str(run_dir)], cwd=ROOT, text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not list(run_dir.glob("checkpoints/step-*.npz")) and time.monotonic() < deadline:
        time.sleep(0.02)
    launched.send_signal(signal.SIGTERM)
    _, said = launched.communicate(timeout=60)
    assert launched.returncode == 143 and "stopped." in said and "another worker is gone" not in said, said
    assert json.loads((run_dir / "manifest.json").read_text())["error"] == "Terminated: "
    epochs = str(len(read_history(run_dir)) + 1)
    run_command([*MODES["workers"], "--resume", str(run_dir), "--train.epochs", epochs])
    assert len(read_history(run_dir)) == int(epochs)
