"""The SavedModel, out and back in: strings in, probabilities out, anywhere TensorFlow runs; and it can be trained."""

import functools
import os
import reprlib
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from keras_senti.data.batches import SCORED_ROWS, encode_texts, predict_in_batches
from keras_senti.data.tokenizer import Tokenizer
from keras_senti.data.unicode import make_simplifier
from keras_senti.errors import UserError
from keras_senti.evaluation.calibration import apply_temperature
from keras_senti.evaluation.metrics import SMALLEST
from keras_senti.evaluation.predictions import make_table
from keras_senti.export.weights_folder import Pretrained, read_pretrained
from keras_senti.models.build import build_model
from keras_senti.models.weights import assign_weights, name_weights
from keras_senti.settings.schema import Config
from keras_senti.storage.files import read_json, replace

TEXTS = tf.TensorSpec((None,), tf.string, name="text")
TOKEN_IDS = tf.TensorSpec((None, None), tf.int32, name="token_ids")
ASSETS = ("vocabulary.txt", "class_names.json", "config.yaml", "calibration.json")


class _Served(tf.Module):
    """What the SavedModel holds. tf.Module makes `variables` a property; here the lists are saved under that name."""

    variables = trainable_variables = None

    def __init__(self, model, tokenizer, class_names, temperature, assets):
        super().__init__(name="keras_senti")
        self.variables = [v.value for v in model.variables]
        self.trainable_variables = [v.value for v in model.trainable_variables]
        self.weights = {name: v.value for name, v in name_weights(model).items()}  # for whoever trains them further
        self.vectorizer = tokenizer.vectorizer  # holds the vocabulary's look-up table
        self.assets = [tf.saved_model.Asset(str(path)) for path in assets]
        self.class_names = tf.constant(list(class_names))

        @tf.function(input_signature=[TOKEN_IDS])
        def tokens(token_ids):
            probabilities = model(_lengthen(token_ids), training=False)
            logits = tf.math.log(tf.maximum(probabilities, SMALLEST))  # but for a constant a row
            return {"probabilities": probabilities, "calibrated_probabilities": tf.nn.softmax(logits / temperature)}

        @tf.function(input_signature=[TEXTS])
        def serve(text):
            result = tokens(tokenizer(text))
            return {**result, "label": tf.gather(self.class_names, tf.argmax(result["probabilities"], axis=1))}

        @tf.function(input_signature=[TOKEN_IDS])
        def training(token_ids):
            return {"probabilities": model(_lengthen(token_ids), training=True)}

        @tf.function(input_signature=[TEXTS])
        def tokenize(text):
            return {"token_ids": tokenizer(text)}

        self.serve, self.tokens, self.training, self.tokenize = serve, tokens, training, tokenize


def _lengthen(token_ids):
    """Gives ids (batch, 0), which a batch without texts or without tokens has, one step of [UNK], as an empty text."""
    missing = tf.cast(tf.shape(token_ids)[1] == 0, tf.int32)
    return tf.pad(token_ids, [[0, 0], [0, missing]], constant_values=1)


def export_model(model: keras.Model, tokenizer: Tokenizer, class_names, config: Config, run_dir: Path):
    """Writes model.keras (to be read after `import keras_senti.layers`) and saved_model/ into the run folder.

    Endpoints (signatures, and functions of the loaded object):
        serving_default: text (batch,) string → probabilities, calibrated_probabilities (batch, classes) float32,
            label (batch,) string
        tokens: token_ids (batch, time) int32 → probabilities, calibrated_probabilities
        training: token_ids → probabilities with dropout active, differentiable by `trainable_variables`
        tokenize: text → token_ids
    calibrated_probabilities are `calibration.apply_temperature` of probabilities, with the temperature in
    calibration.json; it belongs to these weights, and who trains them further needs another one.
    """
    portable, serving = (  # whatever the run computed with, in float32
        build_model(config.model, len(tokenizer.vocabulary), len(class_names), kernel) for kernel in ("loop", "serving")
    )
    for copy in (portable, serving):
        copy.set_weights(model.get_weights())
    with replace(run_dir / "model.keras") as temporary:
        portable.save(temporary)
    temperature = read_json(run_dir / "calibration.json")["temperature"]
    served = _Served(serving, tokenizer, class_names, temperature, [run_dir / name for name in ASSETS])
    signatures = {name: getattr(served, name) for name in ("tokens", "training", "tokenize")}
    with replace(run_dir / "saved_model") as temporary:
        tf.saved_model.save(served, str(temporary), signatures={"serving_default": served.serve, **signatures})


class Classifier:
    """A trained classifier, from `load`.

    Args:
        path: the folder that it is from, for messages.
        pretrained: a classifier's. Its network is built here, anew: nothing that a folder brings is executed.
    """

    def __init__(self, path, pretrained: Pretrained):
        self.path, self.class_names = Path(path), list(pretrained.class_names)
        self.calibration, self._config = pretrained.calibration, pretrained.config
        self.tokenizer = Tokenizer(pretrained.config.text, pretrained.vocabulary)
        model = build_model(pretrained.config.model, len(pretrained.vocabulary), len(self.class_names), "serving")
        assign_weights(model, pretrained.weights)
        self._tokenize = tf.function(self.tokenizer, input_signature=[TEXTS])
        # Where the rows of a batch are known, no choice between ways to compute it has to be traced, which takes longer
        # than all the rest of loading.
        self._run, call = {}, functools.partial(model, training=False)
        for rows in (1, SCORED_ROWS, None):
            self._run[rows] = tf.function(call, input_signature=[tf.TensorSpec((rows, None), tf.int32)])

    def __repr__(self):
        model = self._config.model
        cell = f"{'bidirectional ' * model.bidirectional}{model.cell}"
        return (
            f"Classifier({str(self.path)!r}, class_names={self.class_names}, {model.num_layers} × {cell} of "
            f"{model.units} units, {len(self.tokenizer.vocabulary):,} tokens)"
        )

    def predict_token_ids(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Returns the probabilities (batch, classes) float32 of token_ids (batch, time) int32, 0 = padding."""
        rows = len(token_ids)
        if SCORED_ROWS // 2 <= rows < SCORED_ROWS:
            token_ids = tf.pad(token_ids, [[0, SCORED_ROWS - rows], [0, 0]], constant_values=1)
        return self._run.get(len(token_ids), self._run[None])(token_ids)[:rows]

    def predict_proba(self, texts, chunk_rows: int = 10_000, calibrated: bool = False) -> np.ndarray:
        """Returns the probabilities, (rows, classes) float32, in the order of `class_names`; arguments of `predict`."""
        _check_process()
        if calibrated and self.calibration is None:
            received = f"predict: received calibrated=True, but {self.path} is from before models had a temperature"
            raise UserError(f"{received}. Leave it out, or train the model again.")
        texts, parts = _clean(texts), [np.zeros((0, len(self.class_names)), np.float32)]
        for begin in range(0, len(texts), chunk_rows):
            encoded = encode_texts(self._tokenize, texts[begin : begin + chunk_rows])
            parts.append(predict_in_batches(self.predict_token_ids, encoded))
        probabilities = np.concatenate(parts)
        if not np.isfinite(probabilities).all():  # argmax of NaN would be the first class
            wrong = "probabilities that are no numbers, as its weights are too large for float32"
            raise UserError(f"predict: {self.path} gives {wrong}. Bring it back as it was written.")
        if calibrated:
            return np.float32(apply_temperature(probabilities, self.calibration["temperature"]))
        return probabilities

    def predict(self, texts, chunk_rows: int = 10_000, calibrated: bool = False) -> pd.DataFrame:
        """Classifies texts.

        Args:
            texts: a string, or a sequence of strings such as a list or a column of a table, whose index the answer then
                has. A missing value counts as "".
            chunk_rows: texts that are in memory as ids at once.
            calibrated: give probabilities that are as high as the model is right (see `calibration.fit_temperature`);
                the labels are the same. The thresholds in `calibration` are for those that are not calibrated.
        Returns: one row a text, in order: text, label, and probability_<class> for each class.
        Raises:
            UserError: for what is no text, if the model has no temperature, or in a process that forked after loading.
        """
        if not isinstance(texts, str | pd.Series):
            texts = list(_check_texts(texts))
        probabilities = self.predict_proba(texts, chunk_rows, calibrated)
        table = make_table([texts] if isinstance(texts, str) else list(texts), probabilities, self.class_names)
        return table.set_axis(texts.index, axis=0) if isinstance(texts, pd.Series) else table


_processes = set()  # that have used TensorFlow here: this one, and after a fork also its parent


def _check_process():
    """Raises a UserError in a child of a process that has used TensorFlow: there it would wait for ever for threads."""
    _processes.add(os.getpid())
    if len(_processes) > 1:
        raise UserError(
            "this process was forked from one that had loaded a classifier, without its threads. Load it in the child "
            'only, or start children with multiprocessing.get_context("spawn").'
        )


def _check_texts(texts):
    """Returns what may be a sequence of texts.

    Raises:
        UserError: for what looks like one and is none: iterating over a table gives its column names, for instance.
    """
    kind, remedy = type(texts).__name__, None
    if isinstance(texts, pd.DataFrame):
        names = [str(name) for name in texts.columns]
        name = next((name for name in names if name in ("text", "review", "tweet", "sentence")), (*names, "text")[0])
        kind = f"a table with the columns {', '.join(names)[:100]}"
        remedy = f'one column of texts, such as predict(frame["{name}"])'
    elif isinstance(texts, Mapping):
        kind, remedy = f"a {kind}", "texts: predict(list(texts.values()))"
    elif isinstance(texts, bytes | bytearray):
        remedy = 'a string: text.decode("utf-8")'
    elif isinstance(texts, Set) or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) != 1:
        kind, remedy = f"{reprlib.repr(texts)} ({kind})", "a string or a sequence of them, such as a list"
    if remedy:
        raise UserError(f"predict: received {kind}, expected {remedy}.")
    return texts


def _clean(texts) -> list[str]:
    """Returns a list of strings, "" for what is missing; see `Classifier.predict`."""
    clean = []
    for row, text in enumerate([texts] if isinstance(texts, str) else _check_texts(texts)):
        if not isinstance(text, str) and not (pd.api.types.is_scalar(text) and pd.isna(text)):
            raise UserError(f"predict: entry {row} is {type(text).__name__} ({reprlib.repr(text)}), expected a string.")
        clean.append(text if isinstance(text, str) else "")
    return clean


def load(path) -> Classifier:
    """Loads a trained classifier from a run folder, a SavedModel folder or a weights folder, even a stranger's.

    Raises:
        UserError: if the folder is none of them, is damaged, or holds a language model; or in a process that was forked
            from one that had loaded a classifier.
    """
    _check_process()
    pretrained = read_pretrained(path)
    if pretrained.is_language_model:
        tune = f"`python train.py --init_from {path} --data.csv FILE`"
        raise UserError(f"{path}: a language model: it has no classes. Fine-tune it with {tune}, and load that run.")
    if pretrained.config.text.simplify_chinese:
        make_simplifier()  # without opencc it says so
    return Classifier(path, pretrained)
