"""A trial: one training run of many that a study or a search makes, in a process of its own.

In one process Keras would keep what earlier models have left (https://github.com/keras-team/keras/issues/20552), and a
crash would end all of them. A trial that was stopped goes on from its last checkpoint, and one that has finished is not
repeated.
"""

import csv
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from operator import attrgetter
from pathlib import Path

from keras_senti.errors import UserError, run_command
from keras_senti.experiments.local_workers import describe_exit, end_workers
from keras_senti.settings.command_line import parse_config, to_arguments
from keras_senti.settings.portable import resolve_paths
from keras_senti.settings.schema import Config, list_settings
from keras_senti.settings.yaml_file import read_config, write_yaml
from keras_senti.storage.files import read_json, write_text
from keras_senti.storage.run_folder import read_manifest

SECONDS_BETWEEN_LOOKS = 0.5
COMMAND = [sys.executable, "-m", "keras_senti.experiments.trial"]
GROWTH = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}  # else the first of several trials would take a GPU's whole memory


# What a run leaves that was stopped before it had begun.
_BEGINNING = re.compile(r"manifest\.json|checkpoints(/lock)?|(checkpoints/)?writing-[a-z0-9_]{8}(/.*)?")


class TrialFailed(UserError):
    """The run of a trial has ended with an error; the message is its last words."""


class ForeignFolder(TrialFailed):
    """Where the run of a trial would lie, there is something else."""


class TrialStopped(Exception):
    """The run of a trial was ended because whoever watched it had seen enough."""


def make_folder(path: Path, lock: str):
    """Makes the folder of a study or a search; raises a UserError if there is one without the file of its lock."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_foreign = not (path / lock).is_file() and any(path.iterdir())
    except OSError as error:
        raise UserError(f"--out: cannot make the folder {path}: {error.strerror}.") from None
    if is_foreign:
        raise UserError(f"--out: {path} is not empty, and has no {lock} of an earlier start. Name a new folder.")


def check_trial_config(arguments: list[str]) -> Config:
    """Returns the settings of trials; raises a UserError if they are no classifier's, or name a run folder."""
    config = resolve_paths(parse_config(arguments))
    if config.task == "language_model":
        raise UserError(f"task: {config.name} is a language model's config, expected a classifier's.")
    if config.run_dir is not None or config.resume is not None:
        raise UserError("run_dir, resume: each trial has a folder of its own. Leave them out; --out names that of all.")
    return config


def freeze_config(arguments: list[str], path: Path) -> list[str]:
    """Writes the settings that all trials begin with; returns the arguments that name them from now on.

    So a config file that is edited, or a newer run that init_from would find, does not change the trials to come. What
    they run on (device.*), and where their cache lies, may be another from start to start.

    Args:
        arguments: of `train.py`. path: of the file, in the folder of the study or search.
    Raises:
        UserError: if the file says something else already; see `check_trial_config`.
    """
    config = check_trial_config(arguments)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, write_yaml(config))
    places = _find_places(config, path, path.parent)
    return ["--config", str(path), *to_arguments(places)]


def run_trial(arguments: list[str], run_dir: Path, watch=None, stop: threading.Event | None = None) -> dict:
    """Trains a run, or what is left of it. What it says is added to <run_dir>.log.

    Args:
        arguments: of `train.py`, without --run_dir.
        watch: called with the rows of history.csv so far, dictionaries of strings, after each epoch; if it returns
            True, the run is ended.
        stop: ends the run when it is set.
    Returns: what is in the run's metrics.json.
    Raises:
        TrialFailed: if the run failed. ForeignFolder: if the folder has one with other settings, or no run.
        TrialStopped: if `watch` or `stop` ended it.
    """
    arguments = _find_arguments(arguments, run_dir)
    if arguments is None:
        return read_json(run_dir / "metrics.json")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = run_dir.with_name(f"{run_dir.name}.log")
    with open(log, "ab") as file:
        begin = file.tell()
        with subprocess.Popen(
            [*COMMAND, *arguments], stdout=file, stderr=subprocess.STDOUT, env={**GROWTH, **os.environ},
            stdin=subprocess.PIPE,  # see end_with_parent
            start_new_session=True,  # Ctrl-C would let it end early and count as finished
        ) as process:  # fmt: skip
            try:
                _wait(process, run_dir / "history.csv", watch, stop)
            finally:
                end_workers([process])
    if process.returncode and not _has_finished(run_dir):  # after that, only a picture of the report can fail
        raise TrialFailed(_find_last_words(log, begin, process.returncode))
    return read_json(run_dir / "metrics.json")


def run_jobs(work, items, jobs: int, stop: threading.Event):
    """Yields (item, work(item)) as soon as one has ended, so many at a time.

    What raises, or a caller that has seen enough, sets `stop`, by which the others are to end.
    """
    items, running = iter(items), {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while True:
                for item in itertools.islice(items, jobs - len(running)):
                    running[pool.submit(work, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            stop.set()


def share_cores(arguments: list[str], jobs: int) -> list[str]:
    """Returns the arguments that give a run its share of the processor cores; none if it has them all, or says its own.

    A small recurrent model keeps one core busy and two hardly more, so two runs at a time, each with one of two cores,
    take little longer than one with both. A run that goes on keeps the share that it began with.
    """
    if jobs == 1 or parse_config(arguments).device.cpu_threads is not None:
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return to_arguments({"device.cpu_threads": max(1, cores // jobs)})


def _has_finished(run_dir: Path) -> bool:
    return (run_dir / "manifest.json").is_file() and read_manifest(run_dir).get("status") == "finished"


def _find_arguments(arguments: list[str], run_dir: Path) -> list[str] | None:
    """Returns the arguments that begin or continue the run in a folder, None if it has finished."""
    if not all((run_dir / name).is_file() for name in ("manifest.json", "config.yaml")):
        _remove_beginning(run_dir)
        return [*arguments, "--run_dir", str(run_dir)]
    _find_places(parse_config(arguments), run_dir / "config.yaml", run_dir)
    return None if _has_finished(run_dir) else ["--resume", str(run_dir)]


def _remove_beginning(run_dir: Path):
    """Removes what a run has left that was stopped before it had begun; raises a ForeignFolder if there is more."""
    names = [path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*")]
    is_ours = all(map(_BEGINNING.fullmatch, names))
    if is_ours and "manifest.json" in names:
        is_ours = read_manifest(run_dir).get("status") in ("running", "failed")
    if not is_ours:
        raise ForeignFolder(f"{run_dir} holds something else than a run, and is left as it is. Name another --out")
    if names:
        shutil.rmtree(run_dir)


def format_duration(seconds: float) -> str:
    """Returns it for people: 40 s, 12 min, 2 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def find_differences(wanted: Config, stored: Config) -> dict[str, tuple]:
    """Returns (stored value, wanted value) by key where two configs differ, but for where a run lies."""
    stored, wanted = resolve_paths(stored), resolve_paths(wanted)
    both = {key: (attrgetter(key)(stored), attrgetter(key)(wanted)) for key in list_settings()}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1] and key not in ("run_dir", "resume")}


def _find_places(wanted: Config, file: Path, folder: Path) -> dict:
    """Returns what is wanted otherwise than a file says of device and cache; raises a ForeignFolder if more is."""
    differences = find_differences(wanted, read_config(file))
    for key, (before, now) in differences.items():
        if key != "data.cache_dir" and not key.startswith("device."):
            raise ForeignFolder(
                f"{folder}: there are runs with {key} {before!r}, but now it is {now!r}. Name another folder with --out"
            )
    return {key: now for key, (_, now) in differences.items()}


def _wait(process: subprocess.Popen, history: Path, watch, stop: threading.Event | None):
    seen = 0.0
    while process.poll() is None:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if stop is not None and stop.is_set():
            raise TrialStopped
        changed = history.stat().st_mtime_ns if watch and history.exists() else 0
        if changed and changed != seen:
            seen = changed
            with open(history, newline="") as file:
                if watch(list(csv.DictReader(file))):
                    raise TrialStopped


def _find_last_words(log: Path, begin: int, code: int) -> str:
    with open(log, "rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f"{(errors or lines or ['it said nothing'])[-1]} (it {describe_exit(code)}; all of it: {log})"


def end_with_parent():
    """Lets this process end with the one that has started it as a trial, also if that one was killed."""

    def watch():
        os.read(0, 1)  # ends with the pipe from the parent, which writes nothing
        os._exit(1)  # at once, as kill -9 would

    threading.Thread(target=watch, daemon=True).start()


def main(argv):
    end_with_parent()
    from keras_senti.tasks import train

    train.train_run(parse_config(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
