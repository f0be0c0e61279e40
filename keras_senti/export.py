"""The SavedModel, out and back in: strings in, probabilities out, anywhere TensorFlow runs; and it can be trained."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from keras_senti.compact import Pretrained, assign_weights, find_compact, read_calibration, read_compact
from keras_senti.config import Config, UserError
from keras_senti.evaluation import SMALLEST, apply_temperature
from keras_senti.models import build_model, name_of
from keras_senti.pipeline import encode_texts, predict_in_batches
from keras_senti.runs import read_json, replace
from keras_senti.text import TextEncoder, make_simplifier

TEXTS = tf.TensorSpec((None,), tf.string, name="text")
TOKEN_IDS = tf.TensorSpec((None, None), tf.int32, name="token_ids")
ASSETS = ("vocabulary.txt", "class_names.json", "config.yaml", "calibration.json")


class _Served(tf.Module):
    """What the SavedModel holds. tf.Module makes `variables` a property; here the lists are saved under that name."""

    variables = trainable_variables = None

    def __init__(self, model, encoder, class_names, temperature, assets):
        super().__init__(name="keras_senti")
        self.variables = [v.value for v in model.variables]
        self.trainable_variables = [v.value for v in model.trainable_variables]
        self.weights = {name_of(v): v.value for v in model.weights}  # by name, for whoever trains them further
        self.vectorizer = encoder.vectorizer  # holds the vocabulary's look-up table
        self.assets = [tf.saved_model.Asset(str(path)) for path in assets]
        self.class_names = tf.constant(list(class_names))

        def predict(token_ids):
            probabilities = model(token_ids, training=False)
            logits = tf.math.log(tf.maximum(probabilities, SMALLEST))  # but for a constant a row
            return {"probabilities": probabilities, "calibrated_probabilities": tf.nn.softmax(logits / temperature)}

        @tf.function(input_signature=[TEXTS])
        def serve(text):
            result = predict(encoder(text))
            return {**result, "label": tf.gather(self.class_names, tf.argmax(result["probabilities"], axis=1))}

        @tf.function(input_signature=[TOKEN_IDS])
        def tokens(token_ids):
            return predict(token_ids)

        @tf.function(input_signature=[TOKEN_IDS])
        def training(token_ids):
            return {"probabilities": model(token_ids, training=True)}

        @tf.function(input_signature=[TEXTS])
        def tokenize(text):
            return {"token_ids": encoder(text)}

        self.serve, self.tokens, self.training, self.tokenize = serve, tokens, training, tokenize


def export_model(model: keras.Model, encoder: TextEncoder, class_names, config: Config, run_dir: Path):
    """Writes model.keras and saved_model/ into the run folder.

    Endpoints (signatures, and functions of the loaded object):
        serving_default: text (batch,) string → probabilities, calibrated_probabilities (batch, classes) float32,
            label (batch,) string
        tokens: token_ids (batch, time) int32 → probabilities, calibrated_probabilities
        training: token_ids → probabilities with dropout active, differentiable by `trainable_variables`
        tokenize: text → token_ids
    calibrated_probabilities are `evaluation.apply_temperature` of probabilities, with the temperature in
    calibration.json; it belongs to these weights, and who trains them further needs another one.
    The ASSETS of the run folder become assets of the SavedModel.
    """
    portable, serving = (  # whatever the run computed with, in float32
        build_model(config.model, len(encoder.vocabulary), len(class_names), kernel) for kernel in ("loop", "serving")
    )
    for copy in (portable, serving):
        copy.set_weights(model.get_weights())
    with replace(run_dir / "model.keras") as temporary:
        portable.save(temporary)
    temperature = read_json(run_dir / "calibration.json")["temperature"]
    served = _Served(serving, encoder, class_names, temperature, [run_dir / name for name in ASSETS])
    signatures = {name: getattr(served, name) for name in ("tokens", "training", "tokenize")}
    with replace(run_dir / "saved_model") as temporary:
        tf.saved_model.save(served, str(temporary), signatures={"serving_default": served.serve, **signatures})


class Classifier:
    """A trained classifier, from `load`.

    Args:
        path: the folder that it is from. saved_model: an object with the endpoints of `export_model` as functions.
        calibration: of `evaluation.fit_calibration`; None for a model from before there was one.
    """

    def __init__(self, path: Path, saved_model, class_names, calibration: dict | None):
        self.path, self.saved_model, self.class_names = path, saved_model, list(class_names)
        self.calibration = calibration

    def predict_probabilities(self, texts: list[str]) -> np.ndarray:
        """Returns (rows, classes) float32, in the order of the texts; texts of similar length are batched together."""
        encoded = encode_texts(lambda batch: self.saved_model.tokenize(batch)["token_ids"], texts)
        probabilities = predict_in_batches(lambda ids: self.saved_model.tokens(ids)["probabilities"], encoded)
        return probabilities.reshape(len(texts), len(self.class_names))

    def predict(self, texts, chunk_rows: int = 10_000, calibrated: bool = False) -> pd.DataFrame:
        """Classifies texts.

        Args:
            texts: a string, or a sequence of strings such as a list or a pandas column. A missing value counts as "".
            chunk_rows: texts that are in memory as ids at once.
            calibrated: give probabilities that are as high as the model is right, by the temperature that was fitted on
                the validation part (see `evaluation.fit_temperature`); the labels are the same. The thresholds in
                `calibration` are for those that are not calibrated.
        Returns:
            One row a text, in order: text, label, and probability_<class> for each class.
        Raises:
            UserError: for an entry that is no text, or if the model has no temperature.
        """
        if calibrated and self.calibration is None:
            raise UserError(
                f"predict: received calibrated=True, but {self.path} is from before models had a temperature (no "
                "calibration.json). Leave it out, or train the model again."
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        clean = []
        for row, text in enumerate(texts):
            if not isinstance(text, str) and not (pd.api.types.is_scalar(text) and pd.isna(text)):
                raise UserError(f"predict: entry {row} is {type(text).__name__} ({text!r}), expected a string.")
            clean.append(text if isinstance(text, str) else "")
        chunks = range(0, len(clean), chunk_rows)
        parts = [self.predict_probabilities(clean[begin : begin + chunk_rows]) for begin in chunks]
        probabilities = np.concatenate([np.zeros((0, len(self.class_names)), np.float32), *parts])
        if calibrated:
            probabilities = np.float32(apply_temperature(probabilities, self.calibration["temperature"]))
        return make_table(texts, probabilities, self.class_names)


def make_table(texts, probabilities: np.ndarray, class_names) -> pd.DataFrame:
    """Returns a table with the columns text, label and probability_<class>."""
    names = np.array(class_names, dtype=object)
    columns = {"text": pd.Series(texts, dtype=object), "label": names[probabilities.argmax(axis=1)]}
    columns |= {f"probability_{name}": probabilities[:, index] for index, name in enumerate(class_names)}
    return pd.DataFrame(columns)


def load(path) -> Classifier:
    """Loads a trained classifier from a run folder, a SavedModel folder or a compact folder.

    Raises:
        UserError: if the folder is none of them, is damaged, or holds a language model.
    """
    path = Path(path)
    for candidate in (path / "saved_model", path):
        if (candidate / "saved_model.pb").exists():
            return _load_saved_model(candidate)
    if folder := find_compact(path):
        return _build_classifier(folder, read_compact(folder))
    what = "has no saved_model and no weights.npz" if path.is_dir() else "no such folder"
    raise UserError(
        f"{path}: {what}. Expected a run folder such as logs/tweets/2026-01-31T12-00-00Z, a SavedModel, or a compact "
        "folder such as pretrained/imdb_classifier."
    )


def _load_saved_model(path: Path) -> Classifier:
    saved_model = tf.saved_model.load(str(path))
    endpoints = getattr(saved_model, "signatures", {})
    if not {"serving_default", "tokens", "tokenize"} <= set(endpoints):
        raise UserError(f"{path}: this SavedModel was not written by keras_senti (endpoints: {list(endpoints)}).")
    assets = path / "assets"
    calibration = read_calibration(assets / "calibration.json")
    return Classifier(path, saved_model, read_json(assets / "class_names.json"), calibration)


def _build_classifier(path: Path, pretrained: Pretrained) -> Classifier:
    config, class_names = pretrained.config, pretrained.class_names
    if pretrained.is_language_model:
        raise UserError(
            f"{path}: a language model: it has no classes. Fine-tune it on labelled texts with "
            f"`python train.py --init_from {path} --data.csv FILE`, and load the run that comes of it."
        )
    if config.text.simplify_chinese:
        make_simplifier()  # which a SavedModel holds; without opencc the graph could not be made
    encoder = TextEncoder(config.text, pretrained.vocabulary)
    model = build_model(config.model, len(encoder.vocabulary), len(class_names), "serving")
    try:
        assign_weights(model, pretrained.weights)
    except ValueError as error:
        raise UserError(
            f"{path}: its parts do not belong together: of config.yaml and weights.npz, {error}. Bring the folder back "
            "as it was written."
        ) from None
    temperature = pretrained.calibration["temperature"] if pretrained.calibration else 1.0  # 1 changes nothing
    served = _Served(model, encoder, class_names, temperature, assets=[])
    return Classifier(path, served, class_names, pretrained.calibration)
