"""Further training: the weights, vocabulary and classes of a finished model, put into a new one."""

from pathlib import Path

import keras
import numpy as np

from keras_senti.compact import Pretrained
from keras_senti.config import UserError
from keras_senti.export import load
from keras_senti.models import EMBEDDINGS, build_model, name_of
from keras_senti.parsing import read_config
from keras_senti.runs import read_json
from keras_senti.text import TextEncoder


def read_pretrained(path) -> Pretrained:
    """Reads a run folder or a SavedModel that this package wrote, also one that was trained further in TensorFlow.

    Raises:
        UserError: if the folder is neither, or its parts do not belong together.
    """
    classifier = load(path)
    assets = Path(classifier.path) / "assets"
    try:
        config = read_config(assets / "config.yaml")
        class_names = tuple(read_json(assets / "class_names.json"))
        vocabulary = TextEncoder.load(config.text, assets / "vocabulary.txt").vocabulary
        model = build_model(config.model, len(vocabulary), len(class_names))
        stored = list(classifier.saved_model.variables)
        if len(stored) != len(model.variables):
            raise ValueError(f"{len(stored)} variables instead of {len(model.variables)}")
        for variable, value in zip(model.variables, stored):
            variable.assign(value)
    except (AttributeError, ValueError, UserError) as error:
        raise UserError(
            f"init_from: the SavedModel {classifier.path} cannot be trained further: its weights and its assets/ "
            f"do not belong together ({error})."
        ) from None
    return Pretrained(config, vocabulary, class_names, {name_of(v): v.numpy() for v in model.weights})


def find_seen_rows(path, files: dict[str, str], split_sha256: dict[str, str]) -> str:
    """Returns a warning if rows that the model learned from may be scored now, else "".

    What a run folder knows of its data is enough for the common case, the same file split in another way; texts that
    two different files share are not found.

    Args:
        path: run folder or the SavedModel in it. files: SHA-256 by path. split_sha256: of the hashes of each part.
    """
    manifests = [folder / "manifest.json" for folder in (Path(path), Path(path).parent)]
    manifest = next((file for file in manifests if file.is_file()), None)
    before = read_json(manifest).get("data", {}) if manifest else {}
    main = next(iter(before.get("sha256", {}).values()), None)  # the file that its train part is from
    if main not in files.values() or before["split_sha256"]["train"] == split_sha256["train"]:
        return ""
    return (
        f"WARNING: the model in init_from learned from the same file ({', '.join(before['sha256'])}), which was split "
        "in another way: rows that it knows may be in the validation and test parts now, and their scores flatter. Use "
        "that run's data settings (seed, fractions, columns), or name files that it has not seen.\n"
    )


def copy_weights(pretrained: Pretrained, model: keras.Model, class_names) -> str:
    """Puts the weights into the new model, by name; returns a sentence that says what was done.

    A new class list gets a new head. Tokens that were appended to the vocabulary get the mean of the known vectors.

    Raises:
        UserError: if a weight of either model is missing in the other, or has another shape.
    """
    weights, said = dict(pretrained.weights), f"{len(pretrained.weights)} weights from {pretrained.config.name}"
    variables = {name_of(v): v for v in model.weights}  # without the seeds of dropout
    if tuple(class_names) != pretrained.class_names:
        for name in [name for name in weights if name.startswith("head/")]:
            variables.pop(name)
            weights.pop(name)
        said += (
            f"; its classes were {', '.join(pretrained.class_names)} and are now {', '.join(class_names)}: "
            "the last layer (head) starts anew"
        )
    if EMBEDDINGS in weights and EMBEDDINGS in variables:
        old, rows = weights[EMBEDDINGS], variables[EMBEDDINGS].shape[0]
        if rows > len(old):
            new = np.tile(old[2:].mean(axis=0), (rows - len(old), 1))  # rows 0 and 1 are padding and [UNK]
            weights[EMBEDDINGS] = np.concatenate([old, new])
            said += f"; {rows - len(old):,} new tokens"
    for names, other, where in ((weights, variables, "new"), (variables, weights, "old")):
        if lacking := sorted(set(names) - set(other)):
            raise UserError(
                f"init_from: the {where} model has no weight {', '.join(lacking)}. Leave the model's settings as they "
                "were: they are taken from init_from unless you give others."
            )
    for name, variable in variables.items():
        if weights[name].shape != tuple(variable.shape):
            raise UserError(
                f"init_from: the weight {name} has the shape {weights[name].shape}, the new model's has "
                f"{tuple(variable.shape)}. Leave the model's settings as they were."
            )
        variable.assign(weights[name])
    return said
