"""`train.py --resume`, as a user needs it: after kill -9, on a full disk, with the wrong folder."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from keras_senti.errors import UserError
from keras_senti.export import saved_model
from keras_senti.settings.command_line import parse_config
from keras_senti.storage import run_folder
from keras_senti.tasks import session, train
from keras_senti.training.callbacks import SaveProgress

ROOT = Path(__file__).parents[2]


def read_manifest(run_dir) -> dict:
    return json.loads((run_dir / "manifest.json").read_text())


def resume(run_dir, *arguments):
    return train.train_run(parse_config(["--resume", str(run_dir), *arguments]))


def describe(folder: Path) -> dict:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def run_that_stopped(tiny_settings, tmp_path_factory):
    """A run of two epochs that ended in the export; tests have copies of it."""

    def fail(*_args, **_kwargs):
        raise OSError("the export ended here")

    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    arguments = [*tiny_settings, "--train.epochs", "2", "--run_dir", str(run_dir)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="the export ended here"):
        patch.setattr(saved_model, "export_model", fail)
        train.train_run(parse_config(arguments))
    return run_dir


@pytest.fixture
def stopped_run(run_that_stopped, tmp_path):
    return shutil.copytree(run_that_stopped, tmp_path / "run")


def test_a_run_that_stopped_after_training_does_just_the_rest(stopped_run, monkeypatch):
    (stopped_run / "writing-saved_model").mkdir()
    (stopped_run / "checkpoints" / "writing-step-00000007.npz").write_bytes(b"half")
    history = (stopped_run / "history.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", lambda *_args, **_kwargs: pytest.fail("trained again"))
        assert resume(stopped_run) == stopped_run
    manifest = read_manifest(stopped_run)
    assert manifest["status"] == "finished" and manifest["resumes"] == 1 and manifest["error"] is None
    assert (stopped_run / "history.csv").read_bytes() == history
    assert (stopped_run / "metrics.json").exists() and (stopped_run / "saved_model" / "saved_model.pb").exists()
    assert not list(stopped_run.rglob("writing-*")) and not (stopped_run / "checkpoints").exists()
    message = r"this run has finished; there is nothing to resume. To train its model further: .*--init_from .*run`"
    for more in ([], ["--train.epochs", "3"]):
        with pytest.raises(UserError, match=message):
            resume(stopped_run, *more)
    assert not (stopped_run / "checkpoints").exists()


@pytest.mark.slow
def test_a_run_with_relative_paths_is_resumed_from_anywhere(tiny_settings, tiny_csv, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("the export ended here")

    monkeypatch.chdir(tiny_csv.parent)
    arguments = [*tiny_settings, "--data.csv", tiny_csv.name, "--data.cache_dir", "cache", "--train.epochs", "1"]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="the export ended here"):
        patch.setattr(saved_model, "export_model", fail)
        train.train_run(parse_config([*arguments, "--run_dir", str(tmp_path / "run")]))
    monkeypatch.chdir(tmp_path)
    resume(tmp_path / "run")
    assert read_manifest(tmp_path / "run")["status"] == "finished"


@pytest.mark.slow
def test_more_epochs_can_be_asked_for_and_stand_in_the_settings(stopped_run):
    resume(stopped_run, "--train.epochs", "3")
    assert len(pd.read_csv(stopped_run / "history.csv")) == 3
    settings = parse_config(["--config", str(stopped_run / "config.yaml")])
    assert (settings.train.epochs, settings.resume) == (3, None)


@pytest.mark.slow
def test_a_run_that_stopped_before_its_first_checkpoint_begins_at_the_start_and_says_so(stopped_run, capsys):
    for path in (stopped_run / "checkpoints").glob("step-*"):
        path.unlink()
    resume(stopped_run)
    assert "before its first checkpoint: it begins at the start" in capsys.readouterr().out
    assert pd.read_csv(stopped_run / "history.csv")["epoch"].tolist() == [0, 1]


def test_changed_data_or_settings_are_refused_and_nothing_is_changed(stopped_run, tiny_csv, tmp_path):
    config = stopped_run / "config.yaml"
    settings, before = config.read_text(), describe(stopped_run)
    config.write_text(settings.replace("learning_rate: 0.03", "learning_rate: 0.3"))
    with pytest.raises(UserError, match=r"config\.yaml was changed after the run began"):
        resume(stopped_run)
    config.write_text(settings.replace("  epochs: 2\n", ""))
    with pytest.raises(UserError, match=r"config\.yaml was changed after the run began"):
        resume(stopped_run)
    config.write_text(settings)
    content = tiny_csv.read_bytes()
    try:
        tiny_csv.write_bytes(content + b"so so,neutral\n")
        with pytest.raises(UserError, match=r"the data \(.*reviews\.csv\) is not what it was when the run in"):
            resume(stopped_run)
    finally:
        tiny_csv.write_bytes(content)
    assert describe(stopped_run) == before


def test_what_an_earlier_version_did_not_note_of_the_data_is_no_difference(stopped_run):
    manifest = read_manifest(stopped_run)
    del manifest["data"]["rows"]  # stands for a fact that is noted now
    (stopped_run / "manifest.json").write_text(json.dumps(manifest))
    resume(stopped_run)
    assert read_manifest(stopped_run)["status"] == "finished"


def test_data_that_gives_another_vocabulary_is_refused_and_nothing_is_changed(stopped_run):
    path = stopped_run / "vocabulary.txt"
    path.write_text("\n".join(path.read_text().split("\n")[:-2]) + "\n")  # as other stop words would leave it
    before = describe(stopped_run)
    with pytest.raises(UserError, match="another vocabulary than .*vocabulary.txt: stop words, packages or this code"):
        resume(stopped_run)
    assert describe(stopped_run) == before


def test_a_folder_in_which_a_process_runs_is_refused_at_once_and_left_alone(stopped_run, monkeypatch):
    before = describe(stopped_run)
    with (
        run_folder.lock_run_dir(stopped_run),
        pytest.raises(UserError, match="another process is running in this folder"),
    ):
        monkeypatch.setattr(session, "load_corpus", lambda *_: pytest.fail("not at once"))
        resume(stopped_run)
    assert describe(stopped_run) == before


@pytest.mark.slow
def test_a_folder_that_vanishes_in_training_is_what_the_message_says(tiny_settings, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    begin = SaveProgress.on_epoch_begin

    def on_epoch_begin(self, epoch, logs=None):
        begin(self, epoch, logs)
        if epoch == 1:
            shutil.rmtree(run_dir)

    monkeypatch.setattr(SaveProgress, "on_epoch_begin", on_epoch_begin)
    message = r"cannot write .*run.*No such file or directory.*train.py --resume .*run` continues from the last good"
    with pytest.raises(UserError, match=message):
        train.train_run(parse_config([*tiny_settings, "--train.epochs", "3", "--run_dir", str(run_dir)]))


@pytest.mark.slow
def test_layers_join_in_their_epochs_also_if_the_run_was_stopped_before(tiny_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_folder, "remove_checkpoints", lambda run_dir: None)  # they are to be compared
    arguments = [*tiny_settings, "--train.epochs", "3", "--train.checkpoint_minutes", "1e-6", "--train.monitor", "none"]
    arguments += ["--train.train_from_epoch", "{embedding: 3, recurrent_0: 2}", "--train.layer_rate_decay", "2.6"]
    whole = train.train_run(parse_config([*arguments, "--run_dir", str(tmp_path / "whole")]))

    def stop(self, batch, logs=None):
        if self.progress.epoch == 1 and self.progress.step == 2:
            raise KeyError("stopped here")

    with monkeypatch.context() as patch, pytest.raises(KeyError, match="stopped here"):
        patch.setattr(SaveProgress, "on_train_batch_begin", stop, raising=False)
        train.train_run(parse_config([*arguments, "--run_dir", str(tmp_path / "stopped")]))
    capsys.readouterr()
    resume(tmp_path / "stopped")
    assert [line for line in capsys.readouterr().out.splitlines() if "learn:" in line] == [
        "from epoch 2 on these layers learn: recurrent_0, head",
        "from epoch 3 on these layers learn: embedding, recurrent_0, head",
    ]
    assert read_result(tmp_path / "stopped") == read_result(whole)
    assert read_manifest(whole)["training"]["best_epoch"] == 3


FULL_DISK = """
import resource, sys
from keras_senti.models import kernels
from keras_senti.errors import run_command
from keras_senti.training.callbacks import SaveProgress
import train

kernels.MOST_PARTS = 1  # as in conftest.py: the order of sums decides the last digit
begin = SaveProgress.on_epoch_begin

def on_epoch_begin(self, epoch, logs=None):
    begin(self, epoch, logs)
    if epoch == 3:  # from now on no file can grow beyond 100 bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

SaveProgress.on_epoch_begin = on_epoch_begin
sys.exit(run_command(train.main))
"""


@pytest.mark.slow
def test_a_full_disk_ends_clearly_and_the_run_goes_on_from_its_last_good_state(tiny_settings, trained_run, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [sys.executable, "-c", FULL_DISK, *tiny_settings, "--run_dir", str(run_dir)]
    done = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: cannot write")]
    assert "File too large" in line and f"train.py --resume {run_dir}` continues from the last good state" in line
    assert read_manifest(run_dir)["status"] == "running"  # even this could not be written
    resume(run_dir)
    assert (run_dir / "predictions.csv").read_bytes() == (trained_run / "predictions.csv").read_bytes()


# kill -9

SETTINGS = (
    "--text.sequence_length 12 --model.units 8 --model.embedding_dim 6 --model.dropout 0.2 "
    "--model.recurrent_dropout 0.2 --model.embedding_dropout 0.2 --model.head_dropout 0.2 --train.epochs 40 "
    "--train.batch_size 4 --train.learning_rate 0.01 --train.checkpoint_minutes 0.002 --device.cpu_threads 1"
).split()


# The last checkpoint of a finished run, too, is to be compared.
TRAIN = """
import sys
import train
from keras_senti.errors import run_command
from keras_senti.storage import run_folder

run_folder.remove_checkpoints = lambda run_dir: None
sys.exit(run_command(train.main))
"""


def start(run_dir: Path, tiny_csv) -> subprocess.Popen:
    if (run_dir / "config.yaml").exists():
        arguments = ["--resume", str(run_dir)]
    else:  # killed in the first moment, before there was a run
        shutil.rmtree(run_dir, ignore_errors=True)
        arguments = ["--data.csv", str(tiny_csv), "--run_dir", str(run_dir), *SETTINGS]
    with open(f"{run_dir}.out", "a") as out:
        return subprocess.Popen([sys.executable, "-c", TRAIN, *arguments], cwd=ROOT, stdout=out, stderr=out)


def newest(run_dir: Path) -> str:
    return max((p.name for p in (run_dir / "checkpoints").glob("step-*.npz")), default="")


def wait_for(process: subprocess.Popen, happened) -> bool:
    """Returns whether it happened before the process ended."""
    while process.poll() is None:
        if happened():
            return True
        time.sleep(0.002)
    return False


def kill_in(phase: str, process, run_dir: Path, rng: random.Random, resumes: int) -> bool:
    """Kills the process at a random moment of a phase; returns whether it was not over before."""

    def is_open():
        with contextlib.suppress(OSError):  # not there yet
            return read_manifest(run_dir).get("resumes", 0) == resumes and (run_dir / "config.yaml").exists()

    def grow():
        return newest(run_dir) > before

    if phase == "any":  # also while TensorFlow is being imported
        time.sleep(rng.uniform(0, 10))
    elif wait_for(process, is_open):
        before = newest(run_dir)
        happened, seconds = {
            "begin": (lambda: True, 2),
            "training": (grow, 1.5),
            "export": ((run_dir / "model.keras").exists, 3),
            "scoring": ((run_dir / "saved_model").exists, 0.5),
        }[phase]
        if wait_for(process, happened):
            time.sleep(rng.uniform(0, seconds))
    process.kill()
    assert process.wait() in (0, -9), Path(f"{run_dir}.out").read_text()[-3000:]
    return process.returncode == -9


def run_with_kills(run_dir: Path, tiny_csv, seed: int) -> list[str]:
    """Runs to the end through kills; returns in which phases they were."""
    rng, killed = random.Random(seed), []
    early = ["begin", "training", "training", "training", "any"]
    rng.shuffle(early)
    for phase in [*early, "export", "scoring"]:
        if (run_dir / "config.yaml").exists() and read_manifest(run_dir)["status"] == "finished":
            break  # the last kill came after all was written, while the process was going down
        resumes = read_manifest(run_dir).get("resumes", 0) + 1 if (run_dir / "config.yaml").exists() else 0
        process = start(run_dir, tiny_csv)
        try:
            if not kill_in(phase, process, run_dir, rng, resumes):
                break
        finally:
            process.kill()
        killed.append(phase)
    if not (run_dir / "config.yaml").exists() or read_manifest(run_dir)["status"] != "finished":
        assert start(run_dir, tiny_csv).wait() == 0, Path(f"{run_dir}.out").read_text()[-3000:]
    return killed


def read_result(run_dir: Path) -> dict:
    """Returns all that a run ends with, without times."""
    with np.load(run_dir / "checkpoints" / newest(run_dir)) as file:
        state = {name: file[name].tolist() for name in file if name != "progress"}
    history = pd.read_csv(run_dir / "history.csv").drop(columns=["examples_per_second", "tokens_per_second"])
    weights = keras.models.load_model(run_dir / "model.keras").get_weights()
    return {
        "state": state,
        "weights": [w.tolist() for w in weights],
        "history": history.to_dict("list"),
        **{name: (run_dir / name).read_text() for name in ("metrics.json", "predictions.csv")},
    }


@pytest.mark.slow
def test_no_run_is_lost_by_kills_at_random_moments(tiny_csv, tmp_path, capsys):
    seed, begin = int.from_bytes(os.urandom(4)), time.monotonic()
    with capsys.disabled():
        print(f"\nkills at moments from seed {seed}", flush=True)
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(lambda: start(tmp_path / "whole", tiny_csv).wait())
        disturbed = [pool.submit(run_with_kills, tmp_path / f"{i}", tiny_csv, seed + i) for i in range(4)]
        assert whole.result() == 0, (tmp_path / "whole.out").read_text()[-3000:]
        killed = [phase for run in disturbed for phase in run.result()]
    expected = read_result(tmp_path / "whole")
    for i in range(4):
        received = read_result(tmp_path / f"{i}")
        assert [name for name in expected if received[name] != expected[name]] == [], f"run {i}"
    with capsys.disabled():
        counts = ", ".join(f"{killed.count(phase)} {phase}" for phase in sorted(set(killed)))
        print(f"{len(killed)} kills ({counts}) in {time.monotonic() - begin:.0f} s; every result equal", flush=True)
    assert len(killed) >= 20
