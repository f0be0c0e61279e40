"""The run folder: where a run leaves what it made. Knows the names of the files, not what is in them.

config.yaml · manifest.json · data_check.json · dropped_rows.csv · vocabulary.txt · class_names.json · checkpoints/ ·
history.csv · tensorboard/ · model.keras · saved_model/ · metrics.json · predictions.csv · evaluations/

JSON, CSV, weights and the SavedModel are written under a temporary name and then renamed: whoever reads finds the old
content or the new, never half.
"""

import datetime
import hashlib
import itertools
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from keras_senti.config import UserError


def check_new_run_dir(run_dir) -> Path:
    """Returns the path of a folder that is not there yet, or is empty.

    Raises:
        UserError: otherwise.
    """
    path = Path(run_dir)
    if path.exists() and not path.is_dir():
        raise UserError(f"run_dir: {path} is a file, expected a new folder.")
    if path.exists() and any(path.iterdir()):
        raise UserError(
            f"run_dir: {path} is not empty; a run never writes over another. "
            "Name a new folder, or leave --run_dir out to get logs/<name>/<UTC time>."
        )
    return path


def create_run_dir(name: str, run_dir: str | None = None) -> Path:
    """Creates the folder of a new run: `run_dir` exactly, or logs/<name>/<UTC time>.

    Raises:
        UserError: if `run_dir` is a file, is not empty, or cannot be written.
    """
    try:
        if run_dir is not None:
            path = check_new_run_dir(run_dir)
            path.mkdir(parents=True, exist_ok=True)
            return path
        return create_stamped_dir(Path("logs") / name)
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


def write_text(path: Path, text: str):
    """Writes UTF-8 text so that a crash leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}.") from None


def write_json(path: Path, content):
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path):
    """Reads a JSON file of a run folder.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {path.parent} is not the folder of a finished run.") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


def update_manifest(run_dir: Path, **entries):
    """Adds or replaces entries of manifest.json."""
    path = run_dir / "manifest.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), **entries})


def describe_environment() -> dict:
    """Returns the command, the versions and the git commit, for the manifest."""
    packages = ("tensorflow", "tensorflow-tpu", "keras", "numpy", "pandas", "scikit-learn", "tensorboard")
    versions = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    return {"command": sys.argv, "versions": versions, "git_commit": commit}


def compute_sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_run_dir(path) -> Path:
    """Returns the path of a finished run.

    Raises:
        UserError: if it is no run folder, or its run has not finished.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder. Expected a run folder such as logs/tweets/2026-01-31T12-00-00Z.")
    if not (path / "manifest.json").exists():
        runs = sorted(p.parent for p in path.glob("**/manifest.json"))
        hint = f" Did you mean {runs[-1]}?" if runs else ""
        raise UserError(f"{path}: not a run folder (no manifest.json).{hint}")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict):
        raise UserError(f"{path / 'manifest.json'} is damaged: expected an object, received {type(manifest).__name__}.")
    status = manifest.get("status")
    if status != "finished":
        raise UserError(f"{path}: this run is '{status}', not 'finished'; there is nothing to evaluate.")
    return path
