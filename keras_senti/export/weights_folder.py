"""A model as weights without a graph: small enough to hand around, whole enough to predict with and to train further.

A weights folder holds config.yaml (without places on the machine it is from), vocabulary.txt, weights.npz (one array a
weight, named as `weights.name_of` says), for a classifier class_names.json and calibration.json, and data.json: from
which files and split it has learned, by hashes. The last two may be missing; other files do no harm. A run of the task
language_model leaves one as encoder/ in its folder.
"""

import functools
import itertools
import math
import os
import re
import reprlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from keras_senti.data.tokenizer import Tokenizer, check_vocabulary, read_vocabulary
from keras_senti.errors import UserError
from keras_senti.evaluation.calibration import read_calibration
from keras_senti.models.weights import iterate_encoder_weights, iterate_weights
from keras_senti.settings.portable import without_paths
from keras_senti.settings.schema import Config
from keras_senti.settings.yaml_file import read_config, write_yaml
from keras_senti.storage import files, run_folder
from keras_senti.storage.model_folder import ModelFolder, check_file, find_model

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Pretrained:
    """A finished model: config, vocabulary (tokens by id), class_names, and weights (float32 array by name).

    class_names: () for a language model. data: what it has learned from, as in the manifest of its run: "sha256" by
    file, "split_sha256" by part, and perhaps "unlabeled_sha256"; {}: not known. calibration: of
    `calibration.fit_calibration`, with these weights; None: not known.
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

    @property
    def encoder_weights(self) -> dict[str, np.ndarray]:
        names = (name for name, _ in iterate_encoder_weights(self.config.model, len(self.vocabulary)))
        return {name: self.weights[name] for name in names}


def is_weights_folder(path) -> bool:
    """Returns whether the folder holds weights of ours; what else is in it does not count."""
    found = find_model(path)
    return found is not None and not found.is_saved_model and found.path == Path(path)


def write_weights_folder(path: Path, model: Pretrained, dtype: str = "float32"):
    """Writes a weights folder; it has its name only when it is whole.

    Args:
        path: a folder that is not there yet, or is empty; its parent must be there.
        dtype: float32 | float16, of the weights in the file. float16 halves it, rounds to 3 digits, and ends at 65,504.
    Raises:
        UserError: if a weight is not finite, or too large for the dtype; files.WriteError: if it cannot be written.
    """
    arrays = {}
    for name, weight in model.weights.items():
        with np.errstate(over="ignore"):
            arrays[name] = weight.astype(dtype)
        if not np.isfinite(arrays[name]).all():
            raise UserError(
                f"{path}: the weight {name} has values up to {np.abs(weight).max():g}, expected finite numbers that "
                f"{dtype} can hold. Write float32, or train again more gently."
            )
    with files.replace(path) as temporary:
        temporary.mkdir()
        files.write_text(temporary / "config.yaml", write_yaml(without_paths(model.config)))
        if model.data:
            files.write_json(temporary / "data.json", _forget_folders(model.data))
        Tokenizer(model.config.text, model.vocabulary).save(temporary / "vocabulary.txt")
        if not model.is_language_model:
            files.write_json(temporary / "class_names.json", list(model.class_names))
        if model.calibration is not None:
            files.write_json(temporary / "calibration.json", model.calibration)
        np.savez(temporary / "weights.npz", **arrays)


def _forget_folders(data: dict) -> dict:
    """Returns the hashes in `Pretrained.data` with file names alone; a name that comes again has a number behind it."""
    names = [Path(file).name for file in data["sha256"]]
    unique = [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]
    kept = {name: value for name, value in data.items() if name in ("split_sha256", "unlabeled_sha256")}
    return {"sha256": dict(zip(unique, data["sha256"].values())), **kept}


def read_pretrained(path) -> Pretrained:
    """Reads a weights folder, a SavedModel (also one that was trained further in plain TensorFlow), or a run with one.

    The folder may be a stranger's: nothing in it is executed. Of a SavedModel the assets are read, and the weights by
    name; its graph is left alone. Sizes are compared with the settings before memory is spent on them.

    Returns: the model, with weights in float32, whatever the file has.
    Raises:
        UserError: if it is none of them, a part of it is missing or damaged, or the parts do not belong together.
    """
    found = find_model(path)
    if found is None:
        is_file = "is a file, not a folder" if os.path.isfile(path) else "no such folder"
        what = "has no weights.npz and no saved_model" if os.path.isdir(path) else is_file
        raise UserError(f"{path}: {what}. Expected a run folder, a SavedModel, or a weights folder.")
    for name, most_mb in _MOST_MB.items():
        check_file(found.settings / name, path, most_mb)
    _require_parts(found, "config.yaml", "vocabulary.txt")
    config = read_config(found.settings / "config.yaml")
    vocabulary = read_vocabulary(found.settings / "vocabulary.txt")
    class_names, calibration = (), None
    if config.task == "classification":
        _require_parts(found, "class_names.json")
        class_names = _read_class_names(found.settings / "class_names.json")
        calibration = read_calibration(found.settings / "calibration.json")
    expected = functools.partial(iterate_weights, config, len(vocabulary), len(class_names))
    if found.is_saved_model:
        weights = _read_variables(found.path, path, expected)
    else:
        check_file(found.path / "weights.npz", path, math.inf)
        weights = _read_npz(found.path / "weights.npz", expected)
    for name, weight in weights.items():
        if not np.isfinite(weight).all():
            raise UserError(f"{found.path}: the weight {name} has values that are no finite numbers.")
    check_vocabulary(vocabulary, found.settings / "vocabulary.txt")
    data = {} if found.is_saved_model else _read_data(found.path / "data.json")
    return Pretrained(config, vocabulary, class_names, weights, data or _read_data_of_run(found.path), calibration)


_UNWRITABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # also what commands a terminal
_MOST_MB = {"config.yaml": 1, "vocabulary.txt": 64, "class_names.json": 4, "calibration.json": 1, "data.json": 4}
_NOT_OURS = "Another one can be used with tf.saved_model.load, which runs its author's operations."


def _require_parts(model: ModelFolder, *names: str):
    expected = (
        "A weights folder holds config.yaml, vocabulary.txt and, for a classifier, class_names.json: bring it back."
    )
    if model.is_saved_model:
        expected = f"Expected a SavedModel that keras_senti wrote. {_NOT_OURS}"
    for name in names:
        if not (model.settings / name).is_file():
            raise UserError(f"{model.path}: has no {'assets/' * model.is_saved_model}{name}. {expected}")


def _read_class_names(file: Path) -> tuple[str, ...]:
    names = files.read_json(file)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise UserError(f"{file} is damaged: expected a list of different names, received {reprlib.repr(names)}.")
    if wrong := [name for name in names if not name or _UNWRITABLE.search(name)]:
        raise UserError(f"{file} is damaged: expected names that can be written, received {ascii(wrong[0][:40])}.")
    return tuple(names)


def _read_data(file: Path) -> dict:
    data = files.read_json(file) if file.is_file() else {}
    if data and not _says_data(data):
        received = reprlib.repr(data)
        raise UserError(f"{file} is damaged: expected sha256 and split_sha256, received {received}. Or remove it.")
    return data or {}


def _read_data_of_run(path: Path) -> dict:
    """Returns what the manifest beside a model says of its data, {} if there is none, or of something else."""
    file = path.parent / "manifest.json"
    check_file(file, path.parent, most_mb=64)
    manifest = files.read_json(file) if file.is_file() else None
    data = manifest.get("data") if isinstance(manifest, dict) else None
    return data if _says_data(data) else {}


def _says_data(data) -> bool:
    hashes = [data.get(name) for name in ("sha256", "split_sha256")] if isinstance(data, dict) else [None]
    whole = all(found and isinstance(found, dict) for found in hashes) and "train" in hashes[1]
    return whole and all(isinstance(value, str | None) for found in hashes for value in found.values())


def _read_npz(file: Path, expected) -> dict[str, np.ndarray]:
    try:
        arrays = files.read_arrays(file, lambda headers: _compare(headers, expected, file))
    except UserError:
        raise
    except (OSError, MemoryError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    except Exception as error:  # a damaged zip file fails in many ways
        raise UserError(f"{file} is damaged: {error}. Bring it back as it was written.") from None
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _compare(headers: dict, expected, file: Path):
    """Raises a UserError unless the weights in a file are those that the settings beside it mean.

    Args:
        headers: (dtype, shape) by name. expected: returns an iterator over (name, shape); its end may be far away.
    """
    wanted = dict(itertools.islice(expected(), len(headers) + 1))
    for name in [*wanted, *headers]:
        (dtype, shape), right = headers.get(name, (None, None)), wanted.get(name, "none of this name")
        if shape != right:
            has = "is missing" if shape is None else f"has the shape {shape}"
            raise UserError(
                f"{file} does not belong to the config.yaml, vocabulary.txt and class_names.json of its model: the "
                f"weight {name} {has}, expected {right}. Bring the folder back as it was written."
            )
        if dtype.name not in DTYPES:
            raise UserError(f"{file} is damaged: {name} is {dtype}, expected {' or '.join(DTYPES)}.")


def _read_variables(path: Path, folder, expected) -> dict[str, np.ndarray]:
    """Reads the weights of a SavedModel, without its graph, whose operations are its author's.

    The checkpoint in variables/ says which tensor is which attribute of which object; the root's dictionary `weights`
    names them, and TensorFlow keeps that when it loads, trains and saves again.
    """
    variables = path / "variables"
    check_file(variables / "variables.index", folder, most_mb=16)
    for file in variables.glob("variables.data-*"):
        check_file(file, folder, math.inf)
    try:
        reader = tf.train.load_checkpoint(str(variables / "variables"))
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        likely = sum(4 * math.prod(shape) for _, shape in itertools.islice(expected(), len(shapes)))
        size = sum(file.stat().st_size for file in variables.glob("variables.data-*"))
        if size > 4 * likely + 64e6:  # an optimiser's share is 2 of the 4
            raise ValueError(f"{size / 1e6:,.0f} MB, where the settings mean weights of {likely / 1e6:,.0f} MB")
        graph = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        places = {child.local_name: child.node_id for child in graph.nodes[0].children}
        if "weights" not in places:
            raise ValueError(f"no weights by name, only {', '.join(places) or 'nothing'}")
        keys = {
            child.local_name: graph.nodes[child.node_id].attributes[0].checkpoint_key
            for child in graph.nodes[places["weights"]].children
        }
        headers = {name: (np.dtype(dtypes[key].as_numpy_dtype), tuple(shapes[key])) for name, key in keys.items()}
    except (tf.errors.OpError, ValueError, LookupError, TypeError, OSError, DecodeError) as error:
        received = f"{variables}: received {_first_line(error)}"
        raise UserError(
            f"{received}, expected the weights of a SavedModel that keras_senti wrote. {_NOT_OURS}"
        ) from None
    _compare(headers, expected, variables)
    try:
        return {name: reader.get_tensor(key).astype(np.float32) for name, key in keys.items()}
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(f"{variables} is damaged: {_first_line(error)}. Bring it back as it was written.") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def read_run(run_dir) -> Pretrained:
    """Reads what a finished run has learned; raises a UserError unless it is one, with all of its files."""
    return read_pretrained(run_folder.check_run_dir(run_dir))
