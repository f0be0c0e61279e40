"""A run: opened or opened again, locked, noted, finished or failed."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import re
import time
from pathlib import Path

import pandas as pd
import tensorflow as tf
import yaml

from keras_senti.data.checks import format_check
from keras_senti.data.token_cache import Corpus, load_corpus
from keras_senti.data.tokenizer import Tokenizer
from keras_senti.errors import UserError
from keras_senti.evaluation.predictions import to_csv
from keras_senti.export.transfer import find_seen_rows
from keras_senti.export.weights_folder import Pretrained, read_pretrained
from keras_senti.settings.schema import Config
from keras_senti.settings.yaml_file import write_yaml
from keras_senti.storage import environment, files, run_folder
from keras_senti.training.devices import Device
from keras_senti.training.run import Run
from keras_senti.training.trackers import make_trackers


@contextlib.contextmanager
def open_run(config: Config, device: Device):
    """Reads the data and opens the folder of a new or a resumed run; yields (Run, Corpus, Pretrained).

    Pretrained is what the model begins with; None where the settings name nothing, or a checkpoint has its weights
    already. The folder is locked meanwhile. If something is raised before `Run.finish`, the manifest says `failed`;
    afterwards no checkpoint is kept.

    Raises:
        UserError: for data that cannot work, a folder that is in use or finished, or another run than was begun there;
            and instead of whatever is raised where a file cannot be written.
    """
    begun = time.perf_counter()
    if config.resume is None:
        pretrained, corpus = _read(config)
        folder = run_folder.create_run_dir(config.name, config.run_dir) if device.is_chief else None
    else:
        folder = run_folder.check_unfinished_run_dir(config.resume)
    with contextlib.ExitStack() as stack:
        if not device.is_chief:
            folder = stack.enter_context(run_folder.make_worker_dir(folder))
        stack.enter_context(run_folder.lock_run_dir(folder))
        run = Run(config, device, folder, begun, make_trackers(config, folder) if device.is_chief else [])
        stack.callback(run.close)
        if config.resume is not None:
            pretrained, corpus = _read_again(run)
        check = format_check(corpus.check)
        print(f"run folder: {folder}\n\ndata ({config.data.source}):\n{check}\n", flush=True)
        if pretrained:
            print(find_seen_rows(pretrained.data, describe_data(corpus)), end="")
        _open_folder(run, corpus)
        try:
            with explain_failed_writes(folder):
                run.log_settings()
                yield run, corpus, pretrained
        except BaseException as error:
            if not run.is_finished:
                _note_failure(run, error)
            raise
    if device.is_chief:
        run_folder.remove_checkpoints(folder)


def _note_failure(run: Run, error: BaseException):
    with contextlib.suppress(UserError):  # the disk may be full: the first error is the one to be shown
        run.note(status="failed", error=f"{type(error).__name__}: {error}")
    if isinstance(error, KeyboardInterrupt) and run.device.is_chief:
        print(f"\nto go on from here: python train.py --resume {run.folder}", flush=True)


def _read(config: Config) -> tuple[Pretrained | None, Corpus]:
    pretrained = read_pretrained(config.init_from) if config.init_from else None
    return pretrained, load_corpus(config, pretrained.vocabulary if pretrained else None)


def _read_again(run: Run) -> tuple[Pretrained | None, Corpus]:
    """Returns what a resumed run trains on. Once there is a checkpoint, the model of init_from may be gone."""
    config = run.config
    if not (config.init_from and run.has_checkpoint):
        return _read(config)
    vocabulary = Tokenizer.load(config.text, run.folder / "vocabulary.txt").vocabulary
    settings = dataclasses.replace(config, text=dataclasses.replace(config.text, extend_vocabulary=0))
    return None, load_corpus(settings, vocabulary)


def _open_folder(run: Run, corpus: Corpus):
    """Writes manifest and settings of a new run; checks that a resumed one is the same run as before."""
    config = run.config
    data, settings = describe_data(corpus), write_yaml(dataclasses.replace(config, run_dir=None, resume=None))
    if config.resume is None:
        facts = {"data": data, "settings_sha256": _fingerprint(settings), **environment.describe_environment()}
    else:
        resumes = _check_same_run(run, corpus, data)
        run_folder.remove_leftovers(run.folder)
        if not run.has_checkpoint:
            print("the run was stopped before its first checkpoint: it begins at the start", flush=True)
        facts = {"error": None, "resumes": resumes + 1}
    run.note(status="running", cache=str(corpus.folder), **facts)
    files.write_text(run.folder / "config.yaml", settings)
    files.write_json(run.folder / "data_check.json", corpus.check)
    dropped = pd.DataFrame(corpus.dropped, columns=["file", "line", "reason", "text", "label"])
    with files.replace_file(run.folder / "dropped_rows.csv") as file:
        file.write(to_csv(dropped))
    corpus.tokenizer.save(run.folder / "vocabulary.txt")
    if config.task == "classification":
        files.write_json(run.folder / "class_names.json", list(corpus.class_names))


def _check_same_run(run: Run, corpus: Corpus, data: dict) -> int:
    """Returns how often the run was resumed; raises a UserError if it is another one than what began in its folder."""
    folder = run.folder
    run_folder.check_unfinished_run_dir(folder)  # another process may have finished it before this one had the lock
    manifest = run_folder.read_manifest(folder)
    before = manifest.get("data", {})
    if not before or before != {name: data.get(name) for name in before}:  # an earlier version noted less
        raise UserError(
            f"--resume: the data ({', '.join(corpus.files)}) is not what it was when the run in {folder} began. "
            "Bring the old content back, or start a new run."
        )
    if _fingerprint((folder / "config.yaml").read_text(encoding="utf-8")) != manifest.get("settings_sha256"):
        raise UserError(
            f"--resume: {folder / 'config.yaml'} was changed after the run began. Undo the change, or start a new "
            f"run with it: --config {folder / 'config.yaml'}"
        )
    vocabulary = folder / "vocabulary.txt"
    if vocabulary.exists() and Tokenizer.load(run.config.text, vocabulary).vocabulary != corpus.tokenizer.vocabulary:
        raise UserError(
            f"--resume: the data gives another vocabulary than {vocabulary}: stop words, packages or this code "
            "have changed since the run began. Bring back what changed, or start a new run."
        )
    return manifest.get("resumes", 0)


def describe_data(corpus: Corpus) -> dict:
    """Returns what the manifest says of the data: all that tells whether another run reads the same."""
    check, unlabeled = corpus.check, corpus.parts.get("unlabeled")
    data = {"sha256": corpus.files, "rows": check["rows"], "split_sha256": check["split_sha256"]}
    return data if unlabeled is None else {**data, "unlabeled_sha256": corpus.files.get(str(unlabeled.texts.path))}


def _fingerprint(settings: str) -> str:
    """Returns the SHA-256 of those settings (YAML) that a resumed run keeps; "" if one of the others is missing."""
    content = yaml.safe_load(settings)
    try:
        del content["device"], content["train"]["epochs"]
    except (KeyError, TypeError):
        return ""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def explain_failed_writes(run_dir: Path):
    """Makes one message of what Python, Keras and TensorFlow raise when a file of the run cannot be written."""
    try:
        yield
    except (OSError, tf.errors.OpError, files.WriteError) as error:
        # Keras' own files fail without a file name; a closed pipe or a data file that is gone must pass.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        if not full and str(run_dir) not in str(error):
            raise
        where = "" if isinstance(error, files.WriteError) else f"cannot write into {run_dir}: "
        reason = re.sub(r"^\{\{.*?\}\} ", "", str(error).splitlines()[0])
        raise UserError(
            f"{where}{reason} Mend this (a full disk, a missing folder?); then `python train.py --resume {run_dir}` "
            "continues from the last good state."
        ) from error
