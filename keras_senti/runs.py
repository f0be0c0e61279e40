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
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np

from keras_senti.config import UserError
from keras_senti.folders import check_file

try:
    import fcntl
    import resource
except ImportError:  # Windows: nothing there keeps two runs out of one folder
    fcntl = resource = None


_CACHED = re.compile(r"(ids|imdb|reviews_zh)-[0-9a-f]{16}|aclImdb_v1\.tar\.gz")  # names in a cache


class WriteError(UserError):
    """A file cannot be written: the disk is full, the folder is gone or not ours."""


def read_peak_memory() -> float | None:
    """Returns the largest resident size that this process has had, in GB (10^9 bytes); None on Windows."""
    if resource is None:
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(size * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


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


@contextlib.contextmanager
def lock_file(path: Path, wait: bool = False):
    """Holds the lock of a file, which is made. It ends with the process, also by kill -9.

    Yields False where there are no locks (Windows, some network drives), else True.

    Raises:
        BlockingIOError: if another process has it, and not `wait`.
        WriteError: if the file cannot be made.
    """
    try:
        file = open(path, "a")
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}.") from None
    with file:
        has_lock = fcntl is not None
        try:
            if has_lock:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            has_lock = False
        yield has_lock


@contextlib.contextmanager
def lock_run_dir(run_dir: Path):
    """Keeps other processes out of a run folder.

    Raises:
        UserError: if another process has it, before anything is changed.
    """
    with contextlib.ExitStack() as stack:
        try:
            (run_dir / "checkpoints").mkdir(exist_ok=True)
            stack.enter_context(lock_file(run_dir / "checkpoints" / "lock"))
        except BlockingIOError:
            raise UserError(f"{run_dir}: another process is running in this folder. Wait until it has ended.") from None
        except OSError as error:
            raise WriteError(f"cannot write into {run_dir}: {error.strerror}.") from None
        yield run_dir


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
            names = [*run_dir.glob("checkpoints/step-*.npz"), *run_dir.glob("*.json"), *run_dir.glob("*.yaml")]
            for path in [*names, *run_dir.glob("*.txt")]:
                with contextlib.suppress(FileNotFoundError):  # the chief may be removing a damaged checkpoint
                    shutil.copy(path, copy / path.relative_to(run_dir))
        yield copy


def remove_leftovers(run_dir: Path):
    """Removes what was half-written when a run was killed, and what it will write again."""
    again = (
        "model.keras",
        "saved_model",
        "encoder",
        "calibration.json",
        "metrics.json",
        "predictions.csv",
        "attributions.json",
        "report.html",
    )
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


@contextlib.contextmanager
def share_cache(folder: Path):
    """Tells other processes that this one may be writing into a cache; removes what killed ones left half-written.

    Whoever writes holds the lock with others, and who gets it alone knows that nobody does. Without locks (Windows,
    some network drives) nothing is removed. Where nothing can be written, the first write says so.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / "lock", "a"))
            if fcntl is not None:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for path in folder.glob("writing-*"):  # a user may have folders of such a name there
                        if all(_CACHED.fullmatch(inner.name) for inner in path.glob("*")):
                            shutil.rmtree(path, ignore_errors=True)
                fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def replace(path: Path):
    """Yields a path for a file or a folder that takes the place of `path` when it is whole and on the disk.

    A crash leaves the old one. A folder takes no other's place: there must be none.

    Raises:
        WriteError: if it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="writing-", dir=path.parent, ignore_cleanup_errors=True) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            for written in [temporary, *temporary.rglob("*")]:
                if written.is_file():
                    with open(written, "ab") as file:  # else a power cut could leave the new name without its content
                        os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}.") from None


@contextlib.contextmanager
def replace_file(path: Path):
    """Opens a binary file that takes the place of `path`; see `replace`."""
    with replace(path) as temporary, open(temporary, "wb") as file:
        yield file


def write_text(path: Path, text: str):
    """Writes UTF-8 text so that a crash leaves the old file or the new one."""
    with replace_file(path) as file:
        file.write(text.encode("utf-8"))


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
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


class _BoundedFile(io.FileIO):
    """Refuses to read much at once: zipfile does that only where an archive says that its directory is so long."""

    def read(self, size=-1):
        if (size if size >= 0 else os.fstat(self.fileno()).st_size - self.tell()) > 2**20:
            raise ValueError("its directory is too long")
        return super().read(size)


def read_arrays(path: Path, check=None) -> dict[str, np.ndarray]:
    """Reads an .npz file as `numpy.savez` writes it, every checksum of it, without pickles.

    No array is given memory before the whole file is known to hold what its headers say.

    Args:
        check: called with (dtype, shape) by name before an array is read; raises what it has against them.
    Raises:
        OSError, MemoryError: if it cannot be read now. ValueError, zipfile.BadZipFile and others: if it is damaged.
    """
    headers, arrays = {}, {}
    if not path.is_file():
        raise ValueError("it is missing, or no plain file")
    with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
        items = archive.infolist()
        if sum(item.file_size for item in items) > path.stat().st_size:  # compressed, or several in one place
            raise ValueError("its entries are larger than the file, expected them as numpy.savez writes them")
        for item in items:
            name = item.filename.removesuffix(".npy")
            with archive.open(item) as stream:
                version = np.lib.format.read_magic(stream)
                if version != (1, 0) or name in headers:
                    raise ValueError(f"{name} is not as numpy.savez writes it")
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject or size != item.file_size - stream.tell():
                    raise ValueError(
                        f"{name} of {dtype} {shape} has another size in the file, {item.file_size:,} bytes"
                    )
            headers[name] = dtype, shape
        if check is not None:
            check(headers)
        for name, item in zip(headers, items):
            with archive.open(item) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def update_manifest(run_dir: Path, **entries):
    """Adds or replaces entries of manifest.json."""
    path = run_dir / "manifest.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), **entries})


def describe_environment() -> dict:
    """Returns the command, the versions and the git commit, for the manifest."""
    packages = ("tensorflow", "tensorflow-tpu", "keras", "numpy", "pandas", "scikit-learn", "tensorboard", "opencc")
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
    """Returns the SHA-256 of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


def check_run_dir(path) -> Path:
    """Returns the path of a finished run.

    Raises:
        UserError: if it is no run folder, or its run has not finished.
    """
    status = read_manifest(path).get("status")
    if status != "finished":
        raise UserError(
            f"{path}: this run is '{status}', not 'finished'; there is nothing to evaluate. If it was "
            f"stopped, `python train.py --resume {path}` continues it."
        )
    return Path(path)


def check_unfinished_run_dir(path) -> Path:
    """Returns the path of a run that can be resumed.

    Raises:
        UserError: if it is no run folder, or its run has finished.
    """
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
    """Returns the manifest of a run folder.

    Raises:
        UserError: if it is no run folder, a file in it is no plain one, or the manifest is damaged.
    """
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
