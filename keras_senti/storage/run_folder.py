"""The run folder: where a run leaves what it made. Knows the names of the files, not what is in them.

config.yaml · manifest.json · data_check.json · dropped_rows.csv · vocabulary.txt · class_names.json · checkpoints/
(until the run has finished) · history.csv · tensorboard/ · model.keras · saved_model/ · metrics.json ·
predictions.csv · attributions.json (of the mistakes that report.html shows) · report.html · evaluations/;
with the task language_model encoder/ instead of model.keras, saved_model/, predictions.csv and what a report needs

Everything but tensorboard/ is written in a temporary folder (writing-...) and then renamed: whoever reads finds the old
content or the new, never half.
"""

import contextlib
import datetime
import itertools
import math
import os
import shutil
import tempfile
from pathlib import Path

from keras_senti.errors import UserError
from keras_senti.storage.files import read_json, write_json
from keras_senti.storage.locks import lock_file
from keras_senti.storage.model_folder import check_file


def check_new_run_dir(run_dir) -> Path:
    """Returns the path of a folder that is not there yet, or is empty; raises a UserError otherwise."""
    path = Path(run_dir)
    if path.exists() and not path.is_dir():
        raise UserError(f"run_dir: {path} is a file, expected a new folder.")
    if path.exists() and any(path.iterdir()):
        raise UserError(
            f"run_dir: {path} is not empty; a run never writes over another. Name a new folder, or leave --run_dir out."
        )
    return path


def create_run_dir(name: str, run_dir: str | None = None) -> Path:
    """Creates the folder of a new run: `run_dir` exactly, or logs/<name>/<UTC time>; raises a UserError if it fails."""
    try:
        if run_dir is None:
            return create_stamped_dir(Path("logs") / name)
        path = check_new_run_dir(run_dir)
        path.mkdir(parents=True, exist_ok=True)
        return path
    except OSError as error:
        raise UserError(f"run_dir: cannot make the folder {run_dir or 'logs/' + name}: {error.strerror}.") from None


def create_stamped_dir(parent: Path, prefix: str = "") -> Path:
    """Creates <parent>/<prefix><UTC time>, with -2, -3, ... behind it if that second is taken."""
    stamp = prefix + datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for attempt in itertools.count(1):
        path = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue


def lock_run_dir(run_dir: Path):
    """Keeps other processes out of a run folder; see `lock_file`."""
    return lock_file(run_dir / "checkpoints" / "lock")


@contextlib.contextmanager
def make_worker_dir(run_dir: Path | None):
    """Yields a temporary run folder, for a worker that is not the chief: what it would write is the chief's to write.

    Args:
        run_dir: the run that is resumed, from whose checkpoints and settings it begins; None: a new run.
    """
    with tempfile.TemporaryDirectory(prefix="keras_senti-worker-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder)
        (copy / "checkpoints").mkdir()
        if run_dir is not None:
            patterns = ("checkpoints/step-*.npz", "*.json", "*.yaml", "*.txt")
            for path in itertools.chain.from_iterable(map(run_dir.glob, patterns)):
                with contextlib.suppress(FileNotFoundError):  # the chief may be removing a damaged checkpoint
                    shutil.copy(path, copy / path.relative_to(run_dir))
        yield copy


def remove_leftovers(run_dir: Path):
    """Removes what was half-written when a run was killed, and what it will write again."""
    again = ("model.keras", "saved_model", "encoder", "report.html")
    again += ("calibration.json", "metrics.json", "predictions.csv", "attributions.json")
    for path in [*run_dir.glob("writing-*"), *run_dir.glob("checkpoints/writing-*"), *map(run_dir.joinpath, again)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_checkpoints(run_dir: Path):
    """Removes what a finished run does not need any more. What cannot be removed does no harm."""
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)


@contextlib.contextmanager
def only_shown(what: str, remedy: str):
    """Makes one line of whatever fails within: what is only looked at must not cost a run what it has learned."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        print(f"WARNING: no {what} ({type(error).__name__}: {reason}). {remedy}", flush=True)


def update_manifest(run_dir: Path, **entries):
    """Adds or replaces entries of manifest.json."""
    path = run_dir / "manifest.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), **entries})


def check_run_dir(path) -> Path:
    """Returns the path of a finished run; raises a UserError if it is none."""
    status = read_manifest(path).get("status")
    if status != "finished":
        raise UserError(
            f"{path}: this run is '{status}', not 'finished'. To continue it: `python train.py --resume {path}`"
        )
    return Path(path)


def check_unfinished_run_dir(path) -> Path:
    """Returns the path of a run that can be resumed; raises a UserError if it is none."""
    if read_manifest(path).get("status") == "finished":
        raise UserError(
            f"{path}: this run has finished; there is nothing to resume. To train its model further: "
            f"`python train.py --init_from {path}`"
        )
    return Path(path)


_READ_LATER = (
    "config.yaml", "vocabulary.txt", "class_names.json", "calibration.json", "data_check.json", "metrics.json",
    "history.csv", "predictions.csv",
)  # fmt: skip


def read_manifest(path) -> dict:
    """Returns a run's manifest; raises a UserError for another folder, a damaged manifest, or a file that is none."""
    path = Path(path)
    if not os.path.isdir(path):  # unlike Path.is_dir also for a name that is too long, or a folder that is closed
        raise UserError(f"{path}: no such folder. Expected a run folder such as logs/tweets/2026-01-31T12-00-00Z.")
    if not os.path.lexists(path / "manifest.json"):
        runs = sorted(p.parent for p in path.glob("**/manifest.json"))
        hint = f" Did you mean {runs[-1]}?" if runs else ""
        raise UserError(f"{path}: not a run folder (no manifest.json).{hint}")
    check_file(path / "manifest.json", path, most_mb=64)
    for name in _READ_LATER:
        check_file(path / name, path, math.inf)
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict):
        raise UserError(f"{path / 'manifest.json'} is damaged: expected an object, received {type(manifest).__name__}.")
    return manifest
