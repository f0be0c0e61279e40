"""A folder with a model, which may come from a stranger: what it is, and whether a file of it may be opened."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from keras_senti.errors import UserError


@dataclass(frozen=True)
class ModelFolder:
    """Where a model lies.

    path: of weights.npz, or of a SavedModel's assets/ and variables/. settings: of config.yaml, vocabulary.txt and the
    others that say what the weights mean. is_saved_model: whether they are in variables/.
    """

    path: Path
    settings: Path
    is_saved_model: bool


def find_model(path) -> ModelFolder | None:
    """Returns the model that a folder is or holds, None if there is none. One folder is one model.

    Weights come first: beside weights.npz, here or in encoder/ (of a language model's run), nothing else counts. Then
    comes a SavedModel, here or in saved_model/ (of a classifier's run).
    """
    path = Path(path)
    for folder in (path, path / "encoder"):
        if os.path.lexists(folder / "weights.npz"):
            return ModelFolder(folder, folder, is_saved_model=False)
    for folder in (path, path / "saved_model"):
        if os.path.lexists(folder / "saved_model.pb") or os.path.lexists(folder / "assets" / "config.yaml"):
            return ModelFolder(folder, folder / "assets", is_saved_model=True)
    return None


def check_file(file: Path, folder, most_mb: float):
    """Raises a UserError unless a file, if it is there, can be read without surprise; opens nothing.

    A named pipe would wait for ever, a device never ends, and a link may lead to what is not the author's to show.

    Args:
        folder: as the user named it; the file must lie in it, wherever links lead. most_mb: its size at most.
    """
    try:
        found = file.stat()
    except FileNotFoundError:
        if not file.is_symlink():
            return
        raise UserError(f"{file}: a link that leads nowhere. Copy the folder with what its links mean.") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.") from None
    if not file.resolve().is_relative_to(Path(folder).resolve()):
        raise UserError(f"{file}: leads out of the model's folder, to {file.resolve()}. Copy what links mean: cp -rL.")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{file}: is no plain file. Expected the files of a model as keras_senti wrote them.")
    if found.st_size > most_mb * 1e6:
        raise UserError(f"{file}: has {found.st_size / 1e6:,.1f} MB, expected at most {most_mb:g}. Bring it back.")
