"""A model as weights without a graph: small enough to hand around, whole enough to predict with and to train further.

    python -m keras_senti.compact logs/tweets/<run> FOLDER --dtype float16

A compact folder holds config.yaml (how the model reads and was made; no place on the machine it is from),
vocabulary.txt, weights.npz (one array a weight, named as `models.name_of` says) and, for a classifier,
class_names.json and (unless it is older than that) calibration.json; other files do no harm. A run of the task
language_model leaves one as encoder/ in its folder. data.json says from which files and split the model has learned, by
hashes; folders from before there was one load too.
"""

import argparse
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np

from keras_senti import runs
from keras_senti.config import Config, UserError
from keras_senti.models import EMBEDDINGS, build_model, name_of
from keras_senti.parsing import forget_places, read_config, run_command, write_yaml
from keras_senti.text import TextEncoder

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Pretrained:
    """A finished model: config, vocabulary (tokens by id), class_names, and weights (float32 array by name).

    class_names is empty for a language model, whose weights are those of the encoder and, from `output/` on, its own.
    data: what it has learned from, as in the manifest of its run: "sha256" by file, "split_sha256" by part, and perhaps
    "unlabeled_sha256"; {}: not known.
    calibration: of `evaluation.fit_calibration`, with these weights; None where it is not known.
    """

    config: Config
    vocabulary: list[str]
    class_names: tuple[str, ...]
    weights: dict[str, np.ndarray]
    data: dict = field(default_factory=dict)
    calibration: dict | None = None

    @property
    def is_language_model(self) -> bool:
        return self.config.task == "language_model"


def find_compact(path) -> Path | None:
    """Returns the compact folder that a path means: itself, or encoder/ in the run folder of a language model."""
    return next((folder for folder in (Path(path), Path(path) / "encoder") if is_compact(folder)), None)


def is_compact(path) -> bool:
    return (Path(path) / "weights.npz").is_file()


def write_compact(path: Path, model: Pretrained, dtype: str = "float32"):
    """Writes a compact folder; it has its name only when it is whole.

    Args:
        path: a folder that is not there yet, or is empty; its parent must be there.
        dtype: float32 | float16, of the weights in the file. float16 halves it, rounds to 3 digits, and ends at 65,504.
    Raises:
        UserError: if a weight is not finite, or too large for the dtype; runs.WriteError: if it cannot be written.
    """
    arrays = {}
    for name, weight in model.weights.items():
        with np.errstate(over="ignore"):
            arrays[name] = weight.astype(dtype)
        if not np.isfinite(arrays[name]).all():
            raise UserError(
                f"{path}: the weight {name} has values up to {np.abs(weight).max():g}, expected finite numbers that "
                f"{dtype} can hold. Write float32, or, if they are not finite there either, train again more gently."
            )
    with runs.replace(path) as temporary:
        temporary.mkdir()
        runs.write_text(temporary / "config.yaml", write_yaml(forget_places(model.config)))
        if model.data:
            runs.write_json(temporary / "data.json", _forget_folders(model.data))
        TextEncoder(model.config.text, model.vocabulary).save(temporary / "vocabulary.txt")
        if not model.is_language_model:
            runs.write_json(temporary / "class_names.json", list(model.class_names))
        if model.calibration is not None:
            runs.write_json(temporary / "calibration.json", model.calibration)
        np.savez(temporary / "weights.npz", **arrays)


def _forget_folders(data: dict) -> dict:
    """Returns the hashes in `Pretrained.data` with file names alone; a name that comes again has a number behind it."""
    names = [Path(file).name for file in data["sha256"]]
    unique = [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]
    kept = {name: value for name, value in data.items() if name in ("split_sha256", "unlabeled_sha256")}
    return {"sha256": dict(zip(unique, data["sha256"].values())), **kept}


def read_compact(path) -> Pretrained:
    """Reads and checks a compact folder; weights come out as float32, whatever the file has.

    Raises:
        UserError: if a part of it is missing or damaged, or the parts do not belong together; the message says which.
    """
    path = Path(path)
    _require_parts(path, "config.yaml", "vocabulary.txt", "weights.npz")
    config = read_config(path / "config.yaml")
    vocabulary = TextEncoder.load(config.text, path / "vocabulary.txt").vocabulary
    class_names, calibration = (), None
    if config.task == "classification":
        _require_parts(path, "class_names.json")
        class_names = _read_class_names(path / "class_names.json")
        calibration = read_calibration(path / "calibration.json")
    weights = _read_weights(path / "weights.npz")
    counts = {EMBEDDINGS: ("vocabulary.txt", len(vocabulary)), "head/bias": ("class_names.json", len(class_names))}
    for name, (file, count) in counts.items():
        rows = np.atleast_1d(weights.get(name, ())).shape[0]
        if rows != count:
            raise UserError(
                f"{path}: its parts do not belong together: {file} has {count:,} entries, but the weight {name} in "
                f"weights.npz has {rows:,} rows. Bring the folder back as it was written."
            )
    return Pretrained(config, vocabulary, class_names, weights, _read_data(path / "data.json"), calibration)


def _require_parts(path: Path, *names: str):
    for name in names:
        if not (path / name).is_file():
            raise UserError(
                f"{path}: has no {name}. A compact folder holds config.yaml, vocabulary.txt, weights.npz and, for a "
                "classifier, class_names.json: bring back what is missing."
            )


def _read_class_names(file: Path) -> tuple[str, ...]:
    names = runs.read_json(file)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file} is damaged: expected a list of names, received {names!r}.")
    return tuple(names)


def _read_data(file: Path) -> dict:
    data = runs.read_json(file) if file.is_file() else {}
    if data and not (isinstance(data, dict) and data.get("sha256") and "train" in data.get("split_sha256", ())):
        raise UserError(
            f"{file} is damaged: expected sha256 and split_sha256, received {data!r}. Bring it back as it was written, "
            "or remove it, and the model loads without what it says."
        )
    return data or {}


def read_calibration(file: Path) -> dict | None:
    """Reads calibration.json; None if there is none, as beside models from before there was one.

    Raises:
        UserError: if it is damaged.
    """
    if not file.exists():
        return None
    calibration = runs.read_json(file)
    try:
        temperature = calibration["temperature"]
        thresholds = [entry["threshold"] for entry in calibration["abstain"] if entry["threshold"] is not None]
        whole = all(isinstance(value, int | float) and value > 0 for value in (temperature, *thresholds))
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(
            f"{file} is damaged: expected a temperature above 0 and a list of abstain thresholds, received "
            f"{calibration!r}. Bring it back as it was written."
        )
    return calibration


def _read_weights(file: Path) -> dict[str, np.ndarray]:
    try:
        arrays = runs.read_arrays(file)
        for name, array in arrays.items():
            if array.dtype.name not in DTYPES:
                raise ValueError(f"{name} is {array.dtype}, expected {' or '.join(DTYPES)}")
    except (OSError, MemoryError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    except Exception as error:  # a damaged zip file fails in many ways
        raise UserError(f"{file} is damaged: {error}. Bring it back as it was written.") from None
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def assign_weights(model: keras.Model, weights: dict[str, np.ndarray]):
    """Gives a model its weights, by name: all that it has, all that are there.

    Args:
        weights: array by name, see `models.name_of`.
    Raises:
        ValueError: if a weight of either is missing in the other, or has another shape; nothing is changed then.
    """
    variables = {name_of(v): v for v in model.weights}  # without the seeds of dropout
    for names, other, where in ((weights, variables, "new"), (variables, weights, "stored")):
        if lacking := sorted(set(names) - set(other)):
            raise ValueError(f"the {where} model has no weight {', '.join(lacking)}")
    for name, variable in variables.items():
        if weights[name].shape != tuple(variable.shape):
            raise ValueError(
                f"the weight {name} has the shape {weights[name].shape}, the new model's has {tuple(variable.shape)}"
            )
    for name, variable in variables.items():
        variable.assign(weights[name])


def read_run(run_dir) -> Pretrained:
    """Reads what a finished run has learned: a classifier from model.keras, a language model from encoder/.

    Raises:
        UserError: if it is no finished run, or a file of it is missing or damaged.
    """
    run_dir = runs.check_run_dir(run_dir)
    data = runs.read_manifest(run_dir).get("data", {})
    if is_compact(run_dir / "encoder"):
        return replace(read_compact(run_dir / "encoder"), data=data)
    config = read_config(run_dir / "config.yaml")
    vocabulary = TextEncoder.load(config.text, run_dir / "vocabulary.txt").vocabulary
    class_names = _read_class_names(run_dir / "class_names.json")
    model = build_model(config.model, len(vocabulary), len(class_names))
    try:
        model.load_weights(run_dir / "model.keras")
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{run_dir / 'model.keras'} is missing, damaged or not this run's: {error}.") from None
    weights = {name_of(v): v.numpy() for v in model.weights}
    return Pretrained(config, vocabulary, class_names, weights, data, read_calibration(run_dir / "calibration.json"))


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m keras_senti.compact",
        description="Makes a compact folder, for keras_senti.load and --init_from, from a finished run.",
        allow_abbrev=False,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of a finished run, of either task")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="new folder")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights; default: %(default)s")
    options = parser.parse_args(argv)
    folder = options.folder
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"FOLDER: {folder} is there already and not an empty folder. Name a new one.")
    model = read_run(options.run_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"FOLDER: cannot make {folder.parent}: {error.strerror}.") from None
    write_compact(folder, model, options.dtype)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {len(model.weights)} weights of {model.config.name} in {options.dtype}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(run_command(main))
