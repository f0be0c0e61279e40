"""A run folder is opened, or opened again, and failed writes are explained."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import tensorflow as tf
import yaml

from keras_senti.data.token_cache import Corpus, load_corpus
from keras_senti.data.tokenizer import Tokenizer
from keras_senti.errors import UserError
from keras_senti.evaluation.predictions import to_csv
from keras_senti.export.weights_folder import Pretrained, read_pretrained
from keras_senti.settings.schema import Config
from keras_senti.settings.yaml_file import write_yaml
from keras_senti.storage import environment, files, run_folder


def load_again(config: Config, run_dir: Path) -> tuple[Pretrained | None, Corpus]:
    """Returns what a resumed run trains on. Once there is a checkpoint, the model of init_from may be gone."""
    if config.init_from and has_checkpoint(run_dir):
        vocabulary = Tokenizer.load(config.text, run_dir / "vocabulary.txt").vocabulary
        settings = dataclasses.replace(config, text=dataclasses.replace(config.text, extend_vocabulary=0))
        return None, load_corpus(settings, vocabulary)
    pretrained = read_pretrained(config.init_from) if config.init_from else None
    return pretrained, load_corpus(config, pretrained.vocabulary if pretrained else None)


def has_checkpoint(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("step-*.npz"))


def open_folder(config: Config, corpus: Corpus, run_dir: Path):
    """Writes manifest and settings of a new run; checks that a resumed one is the same run as before."""
    data = describe_data(corpus)
    settings = write_yaml(dataclasses.replace(config, run_dir=None, resume=None))
    if config.resume is None:
        entries = {"data": data, "settings_sha256": _fingerprint(settings), **environment.describe_environment()}
    else:
        run_folder.check_unfinished_run_dir(
            run_dir
        )  # another process may have finished it before this one had the lock
        manifest = run_folder.read_manifest(run_dir)
        before = manifest.get("data", {})
        if not before or before != {name: data.get(name) for name in before}:  # an earlier version noted less
            raise UserError(
                f"--resume: the data ({', '.join(corpus.files)}) is not what it was when the run in {run_dir} began. "
                "Bring the old content back, or start a new run."
            )
        if _fingerprint((run_dir / "config.yaml").read_text(encoding="utf-8")) != manifest.get("settings_sha256"):
            raise UserError(
                f"--resume: {run_dir / 'config.yaml'} was changed after the run began. Undo the change, or start a new "
                f"run with it: --config {run_dir / 'config.yaml'}"
            )
        vocabulary = run_dir / "vocabulary.txt"
        if vocabulary.exists() and Tokenizer.load(config.text, vocabulary).vocabulary != corpus.encoder.vocabulary:
            raise UserError(
                f"--resume: the data gives another vocabulary than {vocabulary}: stop words, packages or this code "
                "have changed since the run began. Bring back what changed, or start a new run."
            )
        run_folder.remove_leftovers(run_dir)
        if not has_checkpoint(run_dir):
            print("the run was stopped before its first checkpoint: it begins at the start", flush=True)
        entries = {"error": None, "resumes": manifest.get("resumes", 0) + 1}
    run_folder.update_manifest(run_dir, status="running", cache=str(corpus.cache), **entries)
    files.write_text(run_dir / "config.yaml", settings)
    files.write_json(run_dir / "data_check.json", corpus.splits.check)
    dropped = pd.DataFrame(corpus.splits.dropped, columns=["file", "line", "reason", "text", "label"])
    with files.replace_file(run_dir / "dropped_rows.csv") as file:
        file.write(to_csv(dropped))
    corpus.encoder.save(run_dir / "vocabulary.txt")
    if config.task == "classification":
        files.write_json(run_dir / "class_names.json", list(corpus.splits.class_names))


def describe_data(corpus: Corpus) -> dict:
    """Returns what the manifest says of the data: all that tells whether another run reads the same."""
    check, unlabeled = corpus.splits.check, corpus.splits.unlabeled
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
