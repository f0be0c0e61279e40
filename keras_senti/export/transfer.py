"""Further training: the weights, vocabulary and classes of a finished model, put into a new one."""

import keras
import numpy as np

from keras_senti.errors import UserError
from keras_senti.export.weights_folder import Pretrained
from keras_senti.models.encoder import Encoder
from keras_senti.models.weights import EMBEDDINGS, assign_weights, name_weights

BY_TOKEN = (EMBEDDINGS, "output/kernel", "output/bias")  # weights with one row a token


def find_seen_rows(before: dict, now: dict) -> str:
    """Returns warnings if rows that the model learned from may be scored now, else "".

    Hashes tell the same file split in another way, and one that was read without its labels and now is scored; not
    texts that two files share.

    Args:
        before: of the model, see `Pretrained.data`. now: the same of the run that begins.
    """
    if not before:
        return ""
    main, unlabeled = next(iter(before["sha256"].values())), before.get("unlabeled_sha256")
    files = enumerate(now["sha256"].items())  # the first, now as then, is the one with the train part
    labelled = {sha256: file for i, (file, sha256) in files if i == 0 or sha256 != now.get("unlabeled_sha256")}
    flatter = "rows that it knows may be in the validation and test parts now, and their scores flatter."
    found = ""
    if main in labelled and before["split_sha256"]["train"] != now["split_sha256"]["train"]:
        found += (
            f"WARNING: the model in init_from learned from the same file ({', '.join(before['sha256'])}), which was "
            f"split in another way: {flatter} Use that run's data settings, or name files that it has not seen.\n"
        )
    if unlabeled in labelled and unlabeled != main:  # of the same file it read what is in no part
        found += (
            f"WARNING: the model in init_from has read all texts of {labelled[unlabeled]} as text without labels: "
            f"{flatter} Score it on files that it has not seen.\n"
        )
    return found


def copy_weights(pretrained: Pretrained, model: keras.Sequential, class_names) -> str:
    """Puts the weights into the new model, by name; returns a sentence that says what was done.

    A new class list gets a new head; a classifier takes a language model's encoder alone, and its own layers behind it
    are new. Tokens that were appended to the vocabulary get the mean of the known vectors.

    Args:
        class_names: of the new model; () for a language model.
    Raises:
        UserError: if a weight of either model is missing in the other, or has another shape.
    """
    part, weights, said = model, pretrained.weights, ""
    if pretrained.is_language_model and class_names:
        part, weights = Encoder.of(model), pretrained.encoder_weights
    elif tuple(class_names) != pretrained.class_names:
        *layers, head = model.layers
        part = Encoder(layers)  # and its pooling
        weights = {name: weight for name, weight in weights.items() if name not in name_weights(head)}
        said = f"; its classes were {', '.join(pretrained.class_names)} and are now {', '.join(class_names)}"
    said = f"{len(weights)} weights from {pretrained.config.name}{said}"
    if new := [layer.name for layer in model.layers if layer not in part.layers and layer.weights]:
        said += f"; starting anew: {', '.join(new)}"
    variables = name_weights(part)
    for name in weights.keys() & variables.keys() & {*BY_TOKEN}:
        old, added = weights[name], variables[name].shape[0] - len(weights[name])
        if added > 0:
            mean = old[2:].mean(axis=0)  # rows 0 and 1 are padding and [UNK]
            weights = {**weights, name: np.concatenate([old, np.broadcast_to(mean, (added, *mean.shape))])}
            if name == EMBEDDINGS:
                said += f"; {added:,} new tokens"
    try:
        assign_weights(part, weights)
    except ValueError as error:
        raise UserError(f"init_from: {error}. Leave the model's settings to init_from, which brings them.") from None
    return said
