"""What a model hands down to what is trained further from it."""

import os
from pathlib import Path

from keras_senti.errors import UserError
from keras_senti.settings.schema import list_settings, read_setting
from keras_senti.settings.yaml_file import read_config
from keras_senti.storage.model_folder import check_file, find_model

_NOT_INHERITED = ("extend_vocabulary", "word_vectors", "embedding_trainable")  # by init_from
# Nor are these from a language model, which reads whole documents and has no pooling.
_NOT_FROM_ENCODER = ("sequence_length", "truncate", "pooling")


def read_model_settings(model_dir: str, task: str | None) -> dict:
    """Returns the settings that a model hands down to what is trained further from it, by dotted key.

    Args:
        model_dir: as `init_from` says. task: of the new run; None: the default.
    """
    model = read_config(_find_model_config(model_dir))
    is_encoder = model.task == "language_model"
    if task == "language_model" and not is_encoder:
        raise UserError(
            f"init_from: received {model_dir}, a classifier, but task is language_model. Expected a language model; or "
            "leave init_from out."
        )
    without = (*_NOT_INHERITED, *(_NOT_FROM_ENCODER if is_encoder else ()))
    keys = [key for key in list_settings() if key.startswith(("text.", "model.")) and key.split(".")[1] not in without]
    if task == "language_model":
        keys.append("pretrain.tie_embeddings")
    elif is_encoder:
        keys = [key for key in keys if "drop" not in key]  # its dropouts suit another task
    return {key: read_setting(model, key) for key in keys}


def _find_model_config(folder) -> Path | None:
    """Returns the config.yaml of the model that a folder is or holds, None if there is none."""
    model = find_model(folder)  # every run has a config.yaml, also one with no model
    if model is None or not os.path.lexists(file := model.settings / "config.yaml"):
        return None
    check_file(file, folder, most_mb=1)
    return file


def find_model_dir(model_dir: str) -> str:
    """Returns the folder that `init_from` means: itself, or the newest finished run in logs/<name>.

    Raises:
        UserError: if it is none of what can be trained further.
    """
    path = Path(model_dir)
    if _find_model_config(path):
        return model_dir
    finished = [folder for folder in path.glob("*/") if _find_model_config(folder)] if os.path.isdir(path) else []
    if finished:
        return str(max(finished, key=lambda folder: _find_model_config(folder).stat().st_mtime))
    what = "no finished run, SavedModel of ours or weights folder" if os.path.isdir(path) else "no such folder"
    recipe = Path("configs") / f"{path.name}.yaml"
    if os.path.isfile(path / "manifest.json"):
        what = f"this run has left no model. If it was stopped, `python train.py --resume {path}` continues it"
    elif os.path.isfile(recipe):
        what += f". `python train.py --config {recipe}` makes one"
    raise UserError(
        f"init_from: {path}: {what}. Expected a run folder, a folder of runs (the newest finished one is taken), a "
        "SavedModel, or a weights folder such as pretrained/imdb_encoder."
    )
