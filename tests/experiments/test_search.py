"""Grid, random and Bayesian search: shared by processes, resumed after kills, honest at the end."""

import copy
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from keras_senti.cli.search import main
from keras_senti.errors import UserError
from keras_senti.settings.yaml_file import read_config
from keras_senti.storage import locks

ROOT = Path(__file__).parents[2]
STUB = str(ROOT / "tests" / "stub_trial.py")
SPACE = "model.units: {choices: [32, 64, 96]}\ntrain.weight_decay: {low: 0.0, high: 0.3}\n"
# What a test starts as a process of its own: the command, with the stub for a training run.
SEARCH = f"""
import sys
from keras_senti.cli import search
from keras_senti.experiments import trial
trial.COMMAND, trial.SECONDS_BETWEEN_LOOKS = [sys.executable, {STUB!r}], 0.05
search.main(sys.argv[1:])
"""


pytestmark = pytest.mark.usefixtures("stub_trials")


def make_arguments(tmp_path, space=SPACE, **options) -> list[str]:
    (tmp_path / "space.yaml").write_text(space)
    arguments = ["--config", "configs/tweets.yaml", "--space", str(tmp_path / "space.yaml")]
    arguments += ["--out", str(tmp_path / "out")]
    for name, value in {"trials": 6, "confirm": 0, **options}.items():
        arguments += [f"--{name}", str(value)]
    return arguments


def read_trials(tmp_path) -> list[dict]:
    with open(tmp_path / "out" / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def count_starts(tmp_path) -> list[int]:
    return [path.read_text().count("begun") for path in sorted((tmp_path / "out" / "trials").glob("*/starts"))]


@pytest.mark.slow
def test_a_bayesian_search_leaves_the_best_settings_its_history_and_what_mattered(tmp_path, capsys):
    main([*make_arguments(tmp_path, trials=8), "--train.epochs", "1"])
    found = read_trials(tmp_path)
    assert len(found) == 8 and {row["state"] for row in found} <= {"complete", "pruned"}
    best = max((row for row in found if row["state"] == "complete"), key=lambda row: float(row["macro_f1"]))
    config = read_config(tmp_path / "out" / "best.yaml")
    assert config.model.units == int(best["model.units"]) and config.train.epochs == 1
    assert config.train.weight_decay == float(best["train.weight_decay"])
    assert (
        config.train.evaluate_test and "words_characters" in config.baselines.models
    )  # as in the config it began with
    for name in ("history.png", "importance.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
    stored = (tmp_path / "out" / "trials" / "trial-000" / "config.yaml").read_text()
    assert "evaluate_test: false" in stored
    said = capsys.readouterr().out
    assert "trial 7 begins: model.units" in said and "trial 7 (8 of 8): " in said and "; best 0." in said
    names = "trials.csv, best.yaml, history.png, importance.png"
    assert f"best: trial {best['trial']}; in {tmp_path / 'out'}: {names}" in said
    assert config.train.monitor == "val_macro_f1"
    main([*make_arguments(tmp_path, trials=8), "--train.epochs", "1"])  # nothing is left to be done
    assert count_starts(tmp_path) == [1] * 8


def test_a_grid_takes_each_combination_once(tmp_path):
    space = "model.units: {choices: [32, 64]}\nmodel.num_layers: {low: 1, high: 2, if: {model.units: 64}}\n"
    main([*make_arguments(tmp_path, space, sampler="grid", trials=9), "--train.epochs", "1"])
    chosen = sorted((row["model.units"], row["model.num_layers"]) for row in read_trials(tmp_path))
    assert chosen == [("32", ""), ("64", "1"), ("64", "2")]


@pytest.mark.slow
def test_hopeless_trials_are_ended_early(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_PAUSE", "0.3")
    space = "train.weight_decay: {choices: [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.9]}\n"
    seed = next(s for s in range(99) if np.random.default_rng(s).permutation(7)[-1] == 6)  # the hopeless one comes last
    arguments = [*make_arguments(tmp_path, space, sampler="grid", trials=7, seed=seed), "--train.epochs", "6"]
    main(arguments)
    (bad,) = [row for row in read_trials(tmp_path) if row["train.weight_decay"] == "0.9"]
    assert bad["state"] == "pruned"
    rows = (tmp_path / "out" / "trials" / "trial-006" / "history.csv").read_text().splitlines()
    assert 1 + 3 <= len(rows) < 1 + 6  # its first two epochs it has in any case


@pytest.mark.slow
def test_a_failed_trial_is_recorded_and_the_search_goes_on_but_not_if_all_fail(tmp_path):
    space = "train.learning_rate: {choices: [0.01, 5.0, 0.02]}\n"
    main([*make_arguments(tmp_path, space, sampler="grid", trials=3), "--train.epochs", "1"])
    found = {row["train.learning_rate"]: row for row in read_trials(tmp_path)}
    assert found["5.0"]["state"] == "fail" and "the loss became nan" in found["5.0"]["error"]
    assert found["0.01"]["state"] == found["0.02"]["state"] == "complete"
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(
        UserError, match="all of 3 trials failed, so it is stopped. The last: training: the loss became"
    ):
        main(make_arguments(other, "train.learning_rate: {low: 2.0, high: 9.0}\n", trials=20))
    assert len(read_trials(other)) == 3


@pytest.mark.slow
def test_the_best_is_trained_again_with_fresh_seeds_beside_what_the_search_began_with(tmp_path, capsys):
    main([*make_arguments(tmp_path, trials=3, confirm=2), "--train.epochs", "1"])
    result = json.loads((tmp_path / "out" / "confirmed" / "study.json").read_text())
    assert result["seeds"] == [1000, 1001] and list(result["configs"])[0] == "start"
    assert result["part"] == "validation"
    assert "macro-F1, best-trial-00" in capsys.readouterr().out
    with locks.lock_file(tmp_path / "out" / "confirmed" / "study.lock"):  # two processes that end a search together
        main([*make_arguments(tmp_path, trials=3, confirm=3), "--train.epochs", "1"])
    assert "another process has begun with it" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "confirmed").glob("*/seed-*/metrics.json"))) == 4


LANGUAGE_MODEL = ["--config", str(ROOT / "configs" / "tweets_language_model.yaml")]


@pytest.mark.parametrize(
    "options,arguments,message",
    [
        ({"trials": 0}, [], "--trials: received 0"),
        ({"hours": 0}, [], "--hours: received 0.0"),
        ({"confirm": -1}, [], "--confirm: received -1, expected at least 0"),
        ({"seed": -1}, [], "--seed: received -1"),
        ({}, LANGUAGE_MODEL, "a language model's config, expected a classifier's"),
        ({}, ["--run_dir", "x"], "each trial has a folder of its own"),
        ({"sampler": "grid"}, [], r"train\.weight_decay: a grid cannot take all numbers"),
        ({}, ["--model.unit", "3"], r"model\.unit.*Did you mean"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_anything_is_made(options, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main([*make_arguments(tmp_path, **options), *arguments])
    assert not (tmp_path / "out" / "trials").exists()


def test_another_search_in_the_folder_and_a_damaged_storage_are_refused(tmp_path):
    main([*make_arguments(tmp_path, trials=1), "--train.epochs", "1"])
    with pytest.raises(UserError, match=r"there are runs with train\.epochs 1, but now it is 2\. Name another folder"):
        main([*make_arguments(tmp_path, trials=1), "--train.epochs", "2"])
    with pytest.raises(UserError, match="there is a search with another space"):
        main([*make_arguments(tmp_path, "model.units: {low: 4, high: 8}\n", trials=1), "--train.epochs", "1"])
    stored = (tmp_path / "out" / "search.db").read_bytes()
    torn = stored[:4096] + b"\xff" * (len(stored) - 4096)  # a good first page before damaged ones
    for damaged in (b"not a database" * 100, torn):
        (tmp_path / "out" / "search.db").write_bytes(damaged)
        with pytest.raises(UserError, match=r"search\.db: the search's storage cannot be used \(.*another folder"):
            main([*make_arguments(tmp_path, trials=1), "--train.epochs", "1"])
        assert (tmp_path / "out" / "search.db").read_bytes() == damaged


@pytest.mark.slow
def test_a_search_is_extended_and_its_best_confirmed_anew(tmp_path):
    space = "model.units: {choices: [32, 16, 64]}\n"
    seed = next(s for s in range(99) if np.random.default_rng(s).permutation(3)[-1] == 2)  # the best comes last
    options = {"sampler": "grid", "confirm": 1, "seed": seed}
    main([*make_arguments(tmp_path, space, trials=2, **options), "--train.epochs", "1"])
    first = {path.name for path in (tmp_path / "out" / "confirmed").glob("*/")}
    main([*make_arguments(tmp_path, space, trials=9, **options), "--train.epochs", "1"])
    assert [row["model.units"] for row in read_trials(tmp_path)][-1] == "64" and count_starts(tmp_path) == [1] * 3
    new = {path.name for path in (tmp_path / "out" / "confirmed").glob("*/")} - first
    assert new == {"best-trial-002"}


def test_an_edited_config_does_not_change_the_trials_to_come(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("data: {source: tweets}\ntrain: {epochs: 1}\nmodel: {embedding_dim: 7}\n")
    arguments = make_arguments(tmp_path, trials=1)
    arguments[1] = str(config)
    main(arguments)
    config.write_text("data: {source: tweets}\ntrain: {epochs: 1}\nmodel: {embedding_dim: 9}\n")
    with pytest.raises(UserError, match=r"there are runs with model\.embedding_dim 7, but now it is 9"):
        main(arguments)
    assert read_config(tmp_path / "out" / "best.yaml").model.embedding_dim == 7


def test_a_trial_that_another_process_has_just_ended_is_not_taken_over(tmp_path, monkeypatch):
    import optuna

    arguments = [*make_arguments(tmp_path, trials=1), "--train.epochs", "1"]
    main(arguments)
    seen, original = [], optuna.Study.get_trials

    def look(study, *given, **more):
        found = original(study, *given, **more)
        if not seen:  # the first look was a moment before the end
            seen.append(True)
            found = [copy.copy(trial) for trial in found]
            found[0].state = optuna.trial.TrialState.RUNNING
        return found

    monkeypatch.setattr(optuna.Study, "get_trials", look)
    main(arguments)
    assert seen and count_starts(tmp_path) == [1] and read_trials(tmp_path)[0]["state"] == "complete"


@pytest.mark.slow
def test_after_its_time_no_trial_begins_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STUB_PAUSE", "5")
    main([*make_arguments(tmp_path, trials=3, hours=5 / 3600), "--train.epochs", "1"])
    assert "the time is over: the same command goes on" in capsys.readouterr().out
    assert len(read_trials(tmp_path)) == 1
    monkeypatch.setenv("STUB_PAUSE", "0")
    main([*make_arguments(tmp_path, trials=3), "--train.epochs", "1"])
    assert [row["state"] for row in read_trials(tmp_path)] == ["complete"] * 3 and count_starts(tmp_path) == [1] * 3


def start(arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SEARCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_two_processes_share_30_trials_and_none_is_lost_or_doubled(tmp_path):
    arguments = [*make_arguments(tmp_path, trials=30, sampler="random"), "--train.epochs", "1"]
    both = [start(arguments), start(arguments)]
    said = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    found = read_trials(tmp_path)
    assert [int(row["trial"]) for row in found] == list(range(30)) and count_starts(tmp_path) == [1] * 30
    assert {row["state"] for row in found} <= {"complete", "pruned"}
    assert len({row["train.weight_decay"] for row in found}) == 30  # no two drew the same
    shares = [text.count(" of 30): ") for text in said]
    assert sum(shares) == 30 and min(shares) > 3


@pytest.mark.slow
def test_two_jobs_share_the_trials_and_the_cores_and_the_best_settings_do_not_know_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STUB_PAUSE", "0.3")
    main([*make_arguments(tmp_path, trials=6, jobs=2, confirm=2), "--train.epochs", "1"])
    assert {row["state"] for row in read_trials(tmp_path)} <= {"complete", "pruned"} and count_starts(tmp_path) == [
        1
    ] * 6
    said = capsys.readouterr().out
    assert "trial 1 begins" in said.split(" of 6): ")[0] and "other processes" not in said  # two at a time
    shares = {read_config(path).device.cpu_threads for path in (tmp_path / "out").glob("*/*/config.yaml")}
    assert shares <= {max(1, len(os.sched_getaffinity(0)) // 2), None} and len(shares) == 2  # None: of what is frozen
    assert read_config(tmp_path / "out" / "best.yaml").device.cpu_threads is None
    assert len(list((tmp_path / "out" / "confirmed").glob("*/seed-*/metrics.json"))) == 4


def test_a_folder_that_is_no_trials_costs_one_trial_and_stays_as_it_was(tmp_path):
    (tmp_path / "out" / "trials" / "trial-000" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "trials" / "trial-000" / "checkpoints" / "step-1.npz").write_text("mine")
    arguments = [*make_arguments(tmp_path, trials=1), "--train.epochs", "1"]
    with pytest.raises(UserError, match=r"--out: .* is not empty, and has no search\.lock"):
        main(arguments)
    (tmp_path / "out" / "search.lock").touch()
    with pytest.raises(UserError, match="trial-000 holds something else than a run, and is left as it is"):
        main(arguments)
    assert (tmp_path / "out" / "trials" / "trial-000" / "checkpoints" / "step-1.npz").read_text() == "mine"


def test_if_the_trials_of_two_jobs_fail_both_stop(tmp_path):
    arguments = [*make_arguments(tmp_path, trials=30, jobs=2), "--train.learning_rate", "3"]
    with pytest.raises(UserError, match=r"search: all of \d trials failed"):
        main(arguments)
    assert len(count_starts(tmp_path)) < 8


@pytest.mark.slow
@pytest.mark.parametrize("sign,jobs", [(signal.SIGKILL, 1), (signal.SIGINT, 1), (signal.SIGINT, 2)])
def test_a_killed_search_goes_on_with_nothing_lost_or_repeated(tmp_path, sign, jobs, monkeypatch):
    monkeypatch.setenv("STUB_PAUSE", "0.7")
    arguments = [*make_arguments(tmp_path, trials=4, jobs=jobs), "--train.epochs", "2"]
    process = start(arguments)
    second = tmp_path / "out" / "trials" / "trial-001" / "history.csv"
    deadline = time.monotonic() + 100
    while not second.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sign)
    process.communicate(timeout=200)
    time.sleep(0.5)
    monkeypatch.setenv("STUB_PAUSE", "0")
    main(arguments)
    assert [row["state"] for row in read_trials(tmp_path)] == ["complete"] * 4
    assert Counter(count_starts(tmp_path)) == {1: 4 - jobs, 2: jobs}  # what was going on went on


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'needs Optuna: python -m pip install -e "\.\[search\]"'):
        main(make_arguments(tmp_path))
