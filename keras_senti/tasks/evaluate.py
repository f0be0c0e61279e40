"""From a finished run or a model to scores, predictions and pages."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

from keras_senti.data.checks import describe_reading, format_reading
from keras_senti.data.labels import clean_label_map, map_label, read_label
from keras_senti.data.tables import Table, read_text
from keras_senti.data.token_cache import SAMPLE_ROWS
from keras_senti.data.tokenizer import encode_utf8
from keras_senti.errors import UserError, suggest
from keras_senti.evaluation.calibration import compute_scores
from keras_senti.evaluation.metrics import METRICS
from keras_senti.evaluation.predictions import ScoredPart, StoredColumn, write_predictions
from keras_senti.evaluation.result import Result
from keras_senti.export import saved_model
from keras_senti.export.weights_folder import is_weights_folder
from keras_senti.reports import attribution, attribution_page, comparison, report, terminal
from keras_senti.settings.yaml_file import read_config
from keras_senti.storage import files, run_folder
from keras_senti.storage.model_folder import find_model


def evaluate_stored(run_dir) -> str:
    """Returns a run's own score, computed again from its stored predictions; changes nothing.

    Raises:
        UserError: if the folder is no finished run, or predictions.csv and metrics.json do not agree.
    """
    if is_weights_folder(run_dir):
        use = "Add --text TEXT or --data.csv FILE to use it."
        if read_config(Path(run_dir) / "config.yaml").task == "language_model":
            use = f"It is a language model: fine-tune it with `python train.py --init_from {run_dir} --data.csv FILE`."
        raise UserError(f"{run_dir}: a weights folder holds no scores. {use}")
    run_dir = run_folder.check_run_dir(run_dir)
    if read_config(run_dir / "config.yaml").task == "language_model":
        # There is no prediction to compute it from.
        return terminal.format_perplexity(files.read_json(run_dir / "metrics.json"))
    result = Result.read(run_dir)
    for name, part in result.parts.items():
        again = compute_scores(part.labels, part.probabilities, result.class_names, result.calibration)
        before = result.scores.get(name, {})
        pairs = [(again[k], before.get(k, -1)) for k, metric in METRICS.items() if k in before or metric.main]
        pairs.append([scores.get("calibrated", {}).get("log_loss", -1) for scores in (again, before)])
        # Another machine may sum in another order; a changed prediction shows in the first digits.
        close = all(math.isclose(*pair, rel_tol=1e-5, abs_tol=1e-9) for pair in pairs)
        if not close or any(again[k] != before.get(k) for k in again if k.startswith("confusion_")):
            raise UserError(
                f"{run_dir}: the {name} score in metrics.json does not follow from predictions.csv and "
                "calibration.json. One of the files was changed after the run; restore it, or train again."
            )
    return terminal.format_run_scores(result)


def write_report(run_dir) -> str:
    """Writes report.html into the folder of a finished run, from its stored predictions; returns where it is.

    Raises:
        UserError: if a file is missing, damaged, or cannot be written.
    """
    run_dir = Path(run_dir)
    if read_config(run_dir / "config.yaml").task == "language_model":
        return "no report.html: a language model predicts words, not classes; TensorBoard has its curves"
    return f"the report: {write_run_report(run_dir, Result.read(run_dir))}"


def write_run_report(run_dir: Path, result: Result, color_words=None) -> Path:
    """Writes report.html into a run's folder and returns its path.

    Args:
        color_words: see `ReportInput`; what it finds is kept in attributions.json. None: the words are coloured as that
            file says, if there is one, so that drawing a page again needs no model.
    """
    kept = run_dir / "attributions.json"

    def color(texts, predicted):
        pieces = dict(zip(texts, color_words(texts, predicted))) if color_words else files.read_json(kept)
        if color_words:
            files.write_json(kept, pieces)
        return [pieces.get(text) for text in texts]

    try:
        history = pd.read_csv(run_dir / "history.csv", dtype=defaultdict(lambda: float, epoch=int))
    except (OSError, ValueError):
        history = None
    manifest, config = run_folder.read_manifest(run_dir), read_config(run_dir / "config.yaml")
    facts = report.RunFacts(report.name_run(run_dir), config, manifest, history)
    page = report.draw_run_report(result, facts, color if color_words or kept.exists() else None)
    files.write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


def compare_stored(first_dir, second_dir) -> tuple[Path, str]:
    """Compares two finished runs, from their stored predictions; see `comparison.compare_results`.

    Writes compare.html and comparison.json into the first run's evaluations/compare-<second>-<time>/.

    Returns: (folder, a summary for the terminal).
    Raises:
        UserError: if one of them is no classifier's run, or they cannot be compared.
    """
    dirs = Path(first_dir), Path(second_dir)
    for run_dir in dirs:
        if is_weights_folder(run_dir):
            raise UserError(f"--compare: {run_dir} is a weights folder, which holds no predictions. Name a run folder.")
        if read_config(run_folder.check_run_dir(run_dir) / "config.yaml").task == "language_model":
            raise UserError(f"--compare: {run_dir} is a language model's, which predicts no classes.")
    compared = comparison.compare_results(tuple(map(Result.read, dirs)), tuple(map(report.name_run, dirs)))
    page = comparison.draw_comparison(compared)
    folder = run_folder.create_stamped_dir(dirs[0] / "evaluations", f"compare-{dirs[1].resolve().name}-")
    files.write_text(folder / "compare.html", page)
    files.write_json(folder / "comparison.json", compared.describe())
    return folder, "A: {}\nB: {}\n{}\n{}".format(*compared.names, *comparison.write_comparison(compared))


def _check_model_dir(path) -> Path:
    """Returns the path of a finished run or a weights folder, which can predict; see `run_folder.check_run_dir`."""
    return Path(path) if is_weights_folder(path) else run_folder.check_run_dir(path)


def evaluate_texts(run_dir, texts: list[str]) -> str:
    """Returns the table of a few texts for the terminal. The model may be in a weights folder too."""
    table = saved_model.load(_check_model_dir(run_dir)).predict(texts)
    table["text"] = [text if len(text) <= 60 else text[:59] + "…" for text in texts]
    if len(table.columns) > 2 + terminal.LISTED_CLASSES:
        table = table[["text", "label"]].assign(probability=table.iloc[:, 2:].max(axis=1))
    return table.to_string(index=False, float_format="{:.3f}".format)


def explain_texts(path, texts: list[str], class_name: str | None = None) -> tuple[Path, str]:
    """Explains what a model says of a few texts, into evaluations/explanation-<time>/explanation.html of its folder.

    Args:
        path: folder of a run or of the SavedModel in it, or a weights folder.
        class_name: whose probability is explained; None: of each text the predicted one's.
    Returns: (folder, what to print).
    Raises:
        UserError: for a language model, an unfinished run or an unknown class, before anything is written.
    """
    home, model = Path(path), find_model(path)
    if model is None or model.path != home:
        run_folder.check_run_dir(home)
    elif model.is_saved_model and (home.parent / "manifest.json").is_file():
        home = home.parent
    explainer = attribution.load_explainer(path)
    found = [explainer.explain(text, class_name) for text in tqdm(texts, "explaining", delay=2, disable=None)]
    page = attribution_page.format_page(found, f"{home.parent.name}/{home.name}")
    try:
        folder = run_folder.create_stamped_dir(home / "evaluations", "explanation-")
    except OSError as error:
        raise files.WriteError(f"cannot write into {home}: {error.strerror}.") from None
    files.write_text(folder / "explanation.html", page)
    color = attribution_page.wants_color()
    return folder, "\n\n".join(attribution_page.format_explanation(explanation, color) for explanation in found)


NO_LABEL, LEFT_OUT = -1, -2  # instead of the index of a class


@dataclass(frozen=True)
class _LabelledFile:
    """A user's file as a model is to read it. label_column: None: no labels. classes: index by name."""

    table: Table
    text_column: str
    label_column: str | None
    label_map: dict | None
    classes: dict[str, int]

    def read(self) -> tuple[np.ndarray, list[str], list[dict]]:
        """Returns (rows,) int class index, NO_LABEL or LEFT_OUT; the first texts; and notes of `describe_reading`.

        Raises:
            UserError: for whatever is wrong with the file, which has at least one row then.
        """
        labels, sample, listed = [], [], []
        for line, row in self.table:
            where = f"{self.table.path}, line {line}"
            text = read_text(row, self.text_column, where)
            if text and text is not row[self.text_column]:
                listed.append(line)
            if len(sample) < SAMPLE_ROWS:
                sample.append(text)
            labels.append(self._read_class(row, where))
        if not labels:
            raise UserError(f"{self.table.path}: has no rows. Is it the right file?")
        notes = describe_reading(self.table, self.label_column, self.label_map or self.classes, listed)
        return np.array(labels, int), sample, notes

    def _read_class(self, row: dict, where: str) -> int:
        _, raw = read_label(row, self.label_column, self.label_map, where) if self.label_column else ("", "")
        if not raw:
            return NO_LABEL
        # As in training the map comes first; a label that it does not name may be a class name already.
        known = self.label_map and raw not in self.label_map and raw in self.classes
        name = raw if known else map_label(raw, self.label_map, where)
        if name is None:
            return LEFT_OUT
        if name not in self.classes:
            raise UserError(
                f"{where}: unknown label '{name}', but this model knows {', '.join(self.classes)}."
                f"{suggest(name, self.classes)} Translate every label with --data.label_map "
                f"'{{\"{raw}\": CLASS, ...}}', or predict without scoring: --data.label_column ''."
            )
        return self.classes[name]


def evaluate_file(run_dir, csv_file, text_column=None, label_column=None, label_map=None) -> tuple[Path, str]:
    """Predicts every row of a file and, if it has labels, scores it; into the run's evaluations/<file>-<time>/.

    The folder has predictions.csv, metrics.json and report.html. All input columns are kept; `predicted` and
    `probability_<class>` are added. No row is dropped but those that repeat the header: one without text is predicted
    as [UNK], one without label is predicted and not scored. Of a row only its label and probabilities stay in memory.

    Args:
        run_dir: run folder or weights folder.
        text_column, label_column, label_map: None: as in the run's settings. A label column that the run's settings
            name, but the file lacks, means that there are no labels; so does label_column "". A label that label_map
            gives as None is not scored.
    Returns: (folder, what to print).
    Raises:
        UserError: for a damaged file, a missing column or an unknown label, before anything is written.
    """
    run_dir = _check_model_dir(run_dir)
    model, settings, table = saved_model.load(run_dir), read_config(run_dir / "config.yaml").data, Table(csv_file)
    text_column, label_map = text_column or settings.text_column, clean_label_map(label_map or settings.label_map)
    table.require_column(text_column, "--data.text_column")
    label_column = _find_label_column(table, label_column, settings.label_column)
    classes = {name: index for index, name in enumerate(model.class_names)}
    # The first pass finds whatever is wrong with the file before the slow second one begins.
    labels, sample, notes = _LabelledFile(table, text_column, label_column, label_map, classes).read()
    name, rows, labelled = table.path.name, np.arange(len(labels)), labels >= 0
    folder = run_folder.create_stamped_dir(run_dir / "evaluations", f"{name}-")
    probabilities = write_predictions(model, table, text_column, len(labels), folder)
    found = {
        "file": str(csv_file),
        "sha256": files.compute_sha256(csv_file),
        "rows": len(labels),
        "rows_without_label": int((labels == NO_LABEL).sum()),
        "rows_left_out": int((labels == LEFT_OUT).sum()),
        "reading": notes,
    }
    if labelled.any():
        found["scores"] = compute_scores(labels[labelled], probabilities[labelled], tuple(classes), model.calibration)
    files.write_json(folder / "metrics.json", found)
    part = ScoredPart(StoredColumn(folder / "predictions.csv", text_column, rows), rows + 1, labels, probabilities)
    scores = {name: found["scores"]} if labelled.any() else {}
    result = Result(tuple(classes), {name: part}, scores, model.calibration)
    with run_folder.only_shown("report.html", "predictions.csv and metrics.json are whole."):
        others = [column for column in table.columns if column not in (text_column, label_column)]
        files.write_text(folder / "report.html", report.draw_file_report(result, report.name_run(run_dir), others))
    return folder, "\n".join([*_format_file(found, tuple(classes)), *_warn_of_unknown_words(model, sample)])


def _find_label_column(table: Table, asked: str | None, usual: str) -> str | None:
    """Returns the column of the labels; None if there are none. usual: that of the run's settings."""
    if asked:
        table.require_column(asked, "--data.label_column")
    elif asked is None and table.may_have(usual):
        return usual
    return asked or None


def _format_file(found: dict, class_names: tuple[str, ...]) -> list[str]:
    """Returns what metrics.json says of a file as lines for the terminal."""
    if "scores" in found:
        lines = [terminal.format_metrics(found["scores"], class_names, found["file"])]
        if unlabelled := found["rows_without_label"]:
            lines.append(f"{unlabelled:,} rows have no label: predicted, not scored")
    else:
        lines = [f"{found['rows']:,} rows predicted", "no labels: predictions only"]
    if left_out := found["rows_left_out"]:
        lines.append(f"{left_out:,} rows have a label that label_map leaves out: predicted, not scored")
    return lines + format_reading(found["reading"])


def _warn_of_unknown_words(model: saved_model.Classifier, sample: list[str]) -> list[str]:
    unknown = (model.tokenizer.encode(tf.constant(encode_utf8(sample), tf.string)).flat_values.numpy() == 1).mean()
    if unknown <= 0.5:
        return []
    return [
        f"WARNING: {unknown:.0%} of the tokens of the first texts are unknown to the model, which cannot read "
        "them. Is the file in the language and the script that it learned?"
    ]
