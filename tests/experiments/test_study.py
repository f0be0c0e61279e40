"""Several seeds of one config, or two configs with the same seeds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from keras_senti.cli.study import main
from keras_senti.errors import UserError
from keras_senti.experiments import study, trial
from keras_senti.experiments.study import (
    compare_paired,
    flatten_scores,
    format_summary,
    format_table,
    pair_scores,
    run_study,
    summarize,
)
from keras_senti.settings.yaml_file import read_config
from keras_senti.storage import locks

ROOT = Path(__file__).parents[2]
STUDY = f"""
import sys
from keras_senti.cli import study
from keras_senti.errors import run_command
from keras_senti.experiments import trial
trial.COMMAND = [sys.executable, {str(ROOT / "tests" / "stub_trial.py")!r}]
sys.exit(run_command(study.main))
"""
ARGUMENTS = ["--data.source", "tweets", "--train.epochs", "1"]


pytestmark = pytest.mark.usefixtures("stub_trials")


def test_mean_and_sd_are_those_of_a_sample():
    assert summarize([1.0, 2.0, 3.0]) == {"mean": 2.0, "sd": 1.0} and summarize([4.0]) == {"mean": 4.0, "sd": None}


def test_the_paired_test_is_the_textbooks():
    # Differences 1, 2, 3: mean 2, sd 1, t = 2 / (1 / √3) = 3.464 with 2 degrees of freedom; t(0.975) = 4.303.
    found = compare_paired([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert found["mean"] == 2 and found["high"] == pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-3)
    assert found["p_value"] == pytest.approx(0.0742, abs=1e-3)
    for first, second, mean in (([1.0], [2.0], 1.0), ([1.0, 2.0], [1.5, 2.5], 0.5), ([0.1, 0.2], [0.3, 0.4], 0.2)):
        # Without a spread nothing can be said of chance.
        assert compare_paired(first, second) == {
            "mean": pytest.approx(mean),
            "low": None,
            "high": None,
            "p_value": None,
        }


def test_only_seeds_that_both_have_are_paired():
    first = {"seeds": [0, 2, 3], "scores": {"accuracy": {"all": [1, 2, 3]}}}
    second = {"seeds": [3, 1, 0], "scores": {"accuracy": {"all": [7, 8, 9]}}}
    assert pair_scores(first, second, "accuracy") == ([1, 3], [9, 7])


def test_all_numbers_of_a_part_are_scores():
    scores = {"rows": 3, "accuracy": 0.5, "interval": [0, 1], "per_class": {"a": {"f1": 0.25, "rows": 2}}}
    assert flatten_scores(scores) == {"accuracy": 0.5, "per_class.a.f1": 0.25}


@pytest.mark.slow
def test_two_configs_are_compared_seed_by_seed_and_a_second_start_repeats_nothing(tmp_path, monkeypatch, capsys):
    configs = {"narrow": [*ARGUMENTS, "--model.units", "44"], "wide": [*ARGUMENTS, "--model.units", "64"]}
    result = run_study(configs, [0, 1, 2], tmp_path, [])
    assert "wide, seed 2 (6 of 6): accuracy 0.902, macro-F1 0.802" in capsys.readouterr().out
    wide = result["configs"]["wide"]
    assert wide["scores"]["macro_f1"]["mean"] == pytest.approx(0.801) and wide["scores"]["macro_f1"]["sd"] > 0
    assert wide["scores"]["per_class.good.f1"]["all"] == pytest.approx([0.9, 0.901, 0.902])
    assert result["difference"]["macro_f1"]["mean"] == pytest.approx(0.2)
    assert result["baselines"]["nb_svm"]["macro_f1"] == 0.7 and result["part"] == "validation"
    table = (tmp_path / "table.md").read_text()
    assert "narrow (3 seeds) | wide (3 seeds) | wide − narrow (95% interval)" in table
    assert "| macro-F1 | 0.601 ± 0.001 | 0.801 ± 0.001 | +0.200 |" in table
    assert "| memory (GB) | 0.7 ± 0.0 | 0.7 ± 0.0 | +0.000 |" in table
    assert "macro-F1, wide against narrow: +0.200: whether by chance, these seeds do not" in format_summary(result)
    assert json.loads((tmp_path / "study.json").read_text())["seeds"] == [0, 1, 2]
    assert (tmp_path / "study.png").stat().st_size > 10_000
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *_a, **_k: pytest.fail("trained again"))
        assert run_study(configs, [0, 1, 2], tmp_path, []) == result
    more = run_study(configs, [0, 1, 2, 3], tmp_path, [])
    assert len(more["configs"]["wide"]["scores"]["accuracy"]["all"]) == 4


def test_a_failed_run_is_told_and_left_out_and_if_all_fail_it_stops(tmp_path, monkeypatch, capsys):
    original = study.run_trial

    def fail_once(arguments, run_dir, **_):
        if run_dir.name == "seed-1":
            raise trial.TrialFailed("out of memory")
        return original(arguments, run_dir)

    monkeypatch.setattr(study, "run_trial", fail_once)
    result = run_study({"one": ARGUMENTS}, [0, 1], tmp_path / "a", [])
    assert "one, seed 1: FAILED: out of memory" in capsys.readouterr().out
    assert result["configs"]["one"]["seeds"] == [0] and "seed 1, failed: out of memory" in format_table(result)
    with pytest.raises(UserError, match="all runs of one failed. The first: training: the loss became nan"):
        run_study({"one": [*ARGUMENTS, "--train.learning_rate", "3"]}, [0, 1], tmp_path / "b", [])


def test_runs_at_the_same_time_share_the_cores_and_are_told_in_the_order_of_their_seeds(tmp_path, monkeypatch):
    original = trial.run_trial
    running, most = [], []

    def run_late(arguments, run_dir, **more):
        running.append(run_dir)
        most.append(len(running))
        time.sleep(0.5 if run_dir.name == "seed-0" else 0)  # the first ends last
        metrics = original(arguments, run_dir, **more)
        running.remove(run_dir)
        return metrics

    monkeypatch.setattr(study, "run_trial", run_late)
    result = run_study({"one": ARGUMENTS}, [0, 1, 2], tmp_path, [], jobs=2)["configs"]["one"]
    assert max(most) == 2 and result["seeds"] == [0, 1, 2]
    assert result["scores"]["accuracy"]["all"] == sorted(result["scores"]["accuracy"]["all"])  # of the seeds 0, 1, 2
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert read_config(tmp_path / "one" / "seed-1" / "config.yaml").device.cpu_threads == share
    assert trial.share_cores([*ARGUMENTS, "--device.cpu_threads", "7"], 2) == [] == trial.share_cores(ARGUMENTS, 1)


def test_what_runs_is_ended_if_the_study_is_stopped_and_goes_on_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_PAUSE", "3")
    original, begin = study.run_folder.read_manifest, time.monotonic()

    def stop(_run_dir):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study.run_folder, "read_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            run_study({"short": ARGUMENTS, "long": [*ARGUMENTS, "--train.epochs", "40"]}, [0], tmp_path, [], jobs=2)
    assert time.monotonic() - begin < 60 and original(tmp_path / "long" / "seed-0")["status"] == "running"


LANGUAGE_MODEL = ["--config", "configs/tweets_language_model.yaml"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--jobs", "0"], "--jobs: received 0, expected at least 1"),
        (["--seeds", "0"], "--seeds: received 0, expected at least 1"),
        (["--config", "configs/tweets.yaml"], "expected one, or two files of different names"),
        (["--config", "configs/imdb.yaml", "--config", "configs/document.yaml"], "received 3 files"),
        (["--train.epoch", "3"], r"train\.epochs"),
        (LANGUAGE_MODEL, "tweets_language_model is a language model's config"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_studied_is_refused_before_any_run(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        main(["--config", "configs/tweets.yaml", "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_configs_that_are_scored_on_other_rows_are_not_compared(tmp_path):
    configs = {"a": ARGUMENTS, "b": [*ARGUMENTS, "--data.seed", "1"]}
    with pytest.raises(
        UserError, match="seed-0 is not scored on the same rows as the runs before it.*Give all the same"
    ):
        run_study(configs, [0, 1], tmp_path, [])
    assert not (tmp_path / "a" / "seed-1").exists()  # at once, not after all of them


def test_a_folder_that_holds_something_else_is_refused_and_stays_as_it_was(tmp_path):
    (tmp_path / "one" / "seed-0").mkdir(parents=True)
    (tmp_path / "one" / "seed-0" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--out: .* is not empty, and has no study\.lock of an earlier start"):
        run_study({"one": ARGUMENTS}, [0], tmp_path, [])
    assert [path.name for path in tmp_path.rglob("*")] == ["one", "seed-0", "thesis.txt"]


def test_sigterm_ends_the_runs_of_a_study(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_PAUSE", "100")
    arguments = ["--config", "configs/tweets.yaml", "--seeds", "1", "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", STUDY, *arguments], cwd=ROOT)
    starts, deadline = tmp_path / "out" / "tweets" / "seed-0" / "starts", time.monotonic() + 60
    while not starts.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_second_process_does_not_disturb_a_study(tmp_path):
    with (
        locks.lock_file(tmp_path / "study.lock"),
        pytest.raises(UserError, match="another process is running in this folder"),
    ):
        run_study({"one": ARGUMENTS}, [0], tmp_path, [])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out: cannot make the folder .*file"):
        run_study({"one": ARGUMENTS}, [0], tmp_path / "file", [])


def test_the_command_leaves_the_test_part_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    main(["--config", "configs/tweets.yaml", "--seeds", "1", "--out", str(tmp_path / "out")])
    assert "evaluate_test: false" in (tmp_path / "out" / "tweets" / "seed-0" / "config.yaml").read_text()
    assert "tweets (1 seed, validation part): macro-F1" in capsys.readouterr().out
