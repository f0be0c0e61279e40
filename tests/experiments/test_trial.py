"""One training run in a process of its own: finished, failed, stopped, gone on with."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_senti.errors import UserError
from keras_senti.experiments import trial
from keras_senti.experiments.trial import (
    ForeignFolder,
    TrialFailed,
    TrialStopped,
    format_duration,
    freeze_config,
    run_trial,
)
from keras_senti.settings.command_line import parse_config

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["--data.source", "tweets", "--train.epochs", "2"]


pytestmark = pytest.mark.usefixtures("stub_trials")


def test_a_finished_trial_is_not_repeated_and_one_with_other_settings_is_an_error(tmp_path, monkeypatch):
    metrics = run_trial(ARGUMENTS, tmp_path / "run")
    monkeypatch.setattr(subprocess, "Popen", lambda *_a, **_k: pytest.fail("trained again"))
    assert run_trial([*ARGUMENTS, "--device.cpu_threads", "1"], tmp_path / "run") == metrics
    with pytest.raises(TrialFailed, match=r"run: there are runs with train\.epochs 2, but now it is 3"):
        run_trial([*ARGUMENTS, "--train.epochs", "3"], tmp_path / "run")


def test_the_settings_of_all_trials_stay_what_they_were(tmp_path):
    path = tmp_path / "made" / "start.yaml"
    config = tmp_path / "mine.yaml"
    config.write_text("data: {source: tweets}\nmodel: {units: 7}\n")
    arguments = freeze_config(["--config", str(config), "--train.epochs", "2"], path)
    config.write_text("data: {source: tweets}\nmodel: {units: 9}\n")
    assert arguments == ["--config", str(path)] and parse_config(arguments).model.units == 7
    with pytest.raises(UserError, match=r"made: there are runs with model\.units 7, but now it is 9\. .* --out"):
        freeze_config(["--config", str(config), "--train.epochs", "2"], path)
    with pytest.raises(UserError, match="a language model's config, expected a classifier's"):
        other = [*ARGUMENTS, "--task", "language_model", "--model.bidirectional", "false"]
        freeze_config(other, tmp_path / "other.yaml")
    with pytest.raises(UserError, match="each trial has a folder of its own. Leave them out; --out names that of all"):
        freeze_config([*ARGUMENTS, "--run_dir", "x"], tmp_path / "other.yaml")


def test_what_trials_run_on_may_be_another_from_start_to_start(tmp_path):
    file = tmp_path / "config.yaml"
    first = ["--data.source", "tweets", "--data.cache_dir", str(tmp_path / "one")]
    assert trial.freeze_config(first, file) == ["--config", str(file)]
    second = ["--data.source", "tweets", "--data.cache_dir", str(tmp_path / "two"), "--device.cpu_threads", "1"]
    found = parse_config(trial.freeze_config(second, file))
    assert found.device.cpu_threads == 1 and found.data.cache_dir == str(tmp_path / "two")
    assert trial.share_cores(trial.freeze_config(second, file), 2) == []  # it says its own


def test_a_run_that_finished_counts_even_if_its_process_failed_after_that(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_FAILS_AT_THE_END", "1")
    assert run_trial(ARGUMENTS, tmp_path / "run")["validation"]["rows"] == 9


def test_a_failed_trial_says_its_last_words_and_where_the_others_are(tmp_path):
    with pytest.raises(
        TrialFailed, match=r"training: the loss became nan \(it ended with exit code 1; all of it: .*run\.log\)"
    ):
        run_trial([*ARGUMENTS, "--train.learning_rate", "2"], tmp_path / "run")


def test_what_was_stopped_before_it_began_begins_anew_and_a_begun_one_goes_on(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "manifest.json").write_text('{"status": "running"}')  # killed before it wrote its settings
    monkeypatch.setenv("STUB_PAUSE", "0.5")
    with pytest.raises(TrialStopped):
        run_trial(ARGUMENTS, tmp_path / "run", watch=lambda rows: float(rows[0]["val_macro_f1"]) > 0)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "running"
    assert run_trial(ARGUMENTS, tmp_path / "run")["validation"]["rows"] == 9
    assert (tmp_path / "run" / "starts").read_text().count("begun") == 2


def test_a_folder_that_no_trial_has_made_is_left_as_it_was(tmp_path):
    (tmp_path / "run" / "writing-poems").mkdir(parents=True)
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    (tmp_path / "third").mkdir()
    (tmp_path / "run" / "writing-poems" / "mine.txt").write_text("mine")
    (tmp_path / "other" / "checkpoints" / "step-1.npz").write_text("mine")
    (tmp_path / "third" / "manifest.json").write_text('{"name": "mine"}')
    for name in ("run", "other", "third"):
        before = sorted((tmp_path / name).rglob("*"))
        with pytest.raises(ForeignFolder, match=f"{name} holds something else than a run, and is left as it is"):
            run_trial(ARGUMENTS, tmp_path / name)
        assert sorted((tmp_path / name).rglob("*")) == before


def test_what_a_run_that_had_not_begun_has_left_is_removed(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "lock").touch()
    (tmp_path / "run" / "writing-a1b2c3_d").mkdir()
    (tmp_path / "run" / "writing-a1b2c3_d" / "manifest.json").write_text("{")
    assert run_trial(ARGUMENTS, tmp_path / "run")["validation"]["rows"] == 9


def test_durations_are_for_people():
    assert [format_duration(s) for s in (40.4, 600, 7500)] == ["40 s", "10 min", "2 h 5 min"]


@pytest.mark.slow
def test_a_real_trial_ends_with_its_parent_and_then_goes_on(tmp_path, tiny_settings, monkeypatch):
    arguments = [*tiny_settings, "--train.epochs", "40", "--train.evaluate_test", "false"]
    code = "import json, sys, pathlib; from keras_senti.experiments.trial import run_trial; "
    code += "run_trial(json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(arguments), str(tmp_path / "run")], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoints/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    monkeypatch.setattr(trial, "COMMAND", [sys.executable, "-m", "keras_senti.experiments.trial"])
    monkeypatch.chdir(ROOT)
    time.sleep(3)
    lock = os.open(tmp_path / "run" / "checkpoints" / "lock", os.O_RDWR)
    import fcntl

    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more
    os.close(lock)
    assert run_trial(arguments, tmp_path / "run")["validation"]["accuracy"] > 0.5
    assert "going on from" in (tmp_path / "run.log").read_text()
