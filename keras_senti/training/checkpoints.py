"""The whole state of training in one file, from which a killed run goes on as if nothing had happened.

checkpoints/step-00001234.npz (1234 steps were made) holds, without pickles: every variable that training changes, the
weights of the best epoch, and `progress`, JSON in UTF-8. The newest two are kept; a damaged one is noticed.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from keras_senti.errors import UserError
from keras_senti.storage import files


@dataclass
class Progress:
    """Where training stands, beside the variables.

    epoch: finished epochs. step: finished steps of the epoch after them. best_epoch counts from 1; 0: none yet.
    best_value: what is monitored, in that epoch. history: a row of logs a finished epoch. seconds: of training so far.
    best_weights: as `model.get_weights()` gives them. metrics: values by name, only between reading a checkpoint from
    mid-epoch and going on with that epoch.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_value: float = 0.0
    history: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    best_weights: list[np.ndarray] = field(default_factory=list)
    metrics: dict[str, np.ndarray] = field(default_factory=dict)


ARRAYS = ("best_weights", "metrics")  # the fields of Progress that are entries of their own in the file


def list_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns everything that training changes, by a name that is the same in every process.

    `variables`, unlike `weights`, has the state of the seed generators behind every dropout. The position stands in the
    place of Keras' running numbers (adam_1, seed_generator_7), which depend on what else the process has built.
    """
    groups = {"model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
    groups["states"] = getattr(model, "carried_states", [])
    return {
        f"{group}/{index}/{variable.path.partition('/')[2]}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def write_checkpoint(folder: Path, model: keras.Model, progress: Progress, is_chief: bool = True):
    """Writes a checkpoint and removes all but the newest two; where it cannot be written, they are left as they are.

    Args:
        is_chief: of several workers all must call it together, as metrics are summed over them; one writes.
    """
    arrays = {name: variable.numpy() for name, variable in list_variables(model).items()}
    if not is_chief:
        return
    arrays |= {f"best/{index}": weight for index, weight in enumerate(progress.best_weights)}
    text = json.dumps({name: value for name, value in vars(progress).items() if name not in ARRAYS})
    with files.replace_file(folder / f"step-{int(model.optimizer.iterations.numpy()):08}.npz") as file:
        np.savez(file, progress=np.frombuffer(text.encode(), np.uint8), **arrays)
    for old in sorted(folder.glob("step-*.npz"))[:-2]:
        old.unlink(missing_ok=True)


def read_checkpoint(path: Path, model: keras.Model) -> tuple[Progress, dict[str, np.ndarray]]:
    """Returns the progress and the values of the variables by name; changes nothing.

    Raises:
        ValueError, zipfile.BadZipFile and others: if the file is damaged or belongs to another model.
    """
    arrays = files.read_arrays(path)
    progress = Progress(**json.loads(arrays.pop("progress").tobytes()))
    expected = {name: variable.shape for name, variable in list_variables(model).items()}
    if progress.best_epoch:
        expected |= {f"best/{index}": weight.shape for index, weight in enumerate(model.weights)}
    received = {name: array.shape for name, array in arrays.items()}
    for name in {**expected, **received}:
        if expected.get(name) != received.get(name):
            raise ValueError(f"{name}: received shape {received.get(name)}, this model has {expected.get(name)}")
    progress.best_weights = [arrays.pop(name) for name in expected if name.startswith("best/")]
    if progress.step:
        progress.metrics = {name: array for name, array in arrays.items() if name.startswith("metrics/")}
    return progress, arrays


def restore_newest(folder: Path, model: keras.Model) -> Progress:
    """Loads the newest good checkpoint into a model from `compile_model`; says which one it is.

    Raises:
        UserError: if there are checkpoints, but no good one; or one cannot be read, which need not last.
    """
    damaged = {}
    for path in sorted(folder.glob("step-*.npz"), reverse=True):
        try:
            progress, values = read_checkpoint(path, model)
        except (OSError, MemoryError) as error:
            raise UserError(
                f"{path}: the newest checkpoint cannot be read ({error}). Mend this and resume again, or remove it to "
                "go on from the one before it."
            ) from None
        except Exception as error:  # a damaged zip file fails in many ways
            damaged[path] = error
            continue
        for bad, error in damaged.items():
            print(f"{bad} is damaged ({error}) and was removed; the one before it is used")
            bad.unlink()  # else it would be kept as one of the newest two
        for name, variable in list_variables(model).items():
            variable.assign(values[name])
        where = f"epoch {progress.epoch + 1}, after {progress.step} steps" if progress.step else "an epoch's end"
        print(f"going on from {path}: {progress.epoch} epochs are done ({where})", flush=True)
        return progress
    if damaged:
        reasons = "; ".join(f"{path.name}: {error}" for path, error in damaged.items())
        raise UserError(
            f"{folder}: no checkpoint can be used ({reasons}). Bring them back, or remove them to begin at the start."
        )
    return Progress()


def restore_metrics(model: keras.Model, progress: Progress):
    """Gives the metrics of an epoch that was left in the middle their values back; `fit` has just reset them."""
    for name, variable in list_variables(model).items():
        if name in progress.metrics:
            variable.assign(progress.metrics[name])
    progress.metrics = {}
