"""From a finished run or a model to scores, predictions and pages."""

import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_senti.data.checks import describe_reading, format_reading
from keras_senti.data.labels import clean_label, clean_label_map, map_label, read_label
from keras_senti.data.tables import Table, read_text
from keras_senti.data.token_cache import SAMPLE_ROWS
from keras_senti.data.tokenizer import encode_utf8
from keras_senti.errors import UserError, suggest
from keras_senti.evaluation.calibration import compute_scores, read_calibration
from keras_senti.evaluation.predictions import read_parts, write_predictions
from keras_senti.export import saved_model
from keras_senti.export.weights_folder import is_compact
from keras_senti.reports import attribution, attribution_page, comparison, report, terminal
from keras_senti.reports.terminal import format_run_scores
from keras_senti.settings.yaml_file import read_config
from keras_senti.storage import files, run_folder
from keras_senti.storage.model_folder import find_model

NO_LABEL, LEFT_OUT = -1, -2  # instead of the index of a class


def evaluate_stored(run_dir) -> str:
    """Returns a run's own score, computed again from its stored predictions; changes nothing.

    Raises:
        UserError: if the folder is no finished run, or predictions.csv and metrics.json do not agree.
    """
    if is_compact(run_dir):
        use = "Add --text TEXT or --data.csv FILE to use it."
        if read_config(Path(run_dir) / "config.yaml").task == "language_model":
            use = f"It is a language model: fine-tune it with `python train.py --init_from {run_dir} --data.csv FILE`."
        raise UserError(f"{run_dir}: a compact folder holds no scores. {use}")
    run_dir = run_folder.check_run_dir(run_dir)
    if read_config(run_dir / "config.yaml").task == "language_model":
        return format_run_scores(run_dir)  # there is no prediction to compute it from
    class_names = files.read_json(run_dir / "class_names.json")
    stored = files.read_json(run_dir / "metrics.json")
    calibration = read_calibration(run_dir / "calibration.json")
    for name, part in read_parts(run_dir / "predictions.csv", class_names).items():
        again = compute_scores(part.labels, part.probabilities, class_names, calibration)
        before = stored.get(name, {})
        pairs = [(again[k], before.get(k, -1)) for k in ("accuracy", "macro_f1", "log_loss")]
        if calibration:
            pairs.append((again["calibrated"]["log_loss"], before.get("calibrated", {}).get("log_loss", -1)))
        # Another machine may sum in another order; a changed prediction shows in the first digits.
        close = all(math.isclose(*pair, rel_tol=1e-5, abs_tol=1e-9) for pair in pairs)
        if not close or any(again[k] != before.get(k) for k in again if k.startswith("confusion_")):
            raise UserError(
                f"{run_dir}: the {name} score in metrics.json does not follow from predictions.csv and "
                "calibration.json. One of the files was changed after the run; restore it, or train again."
            )
    return format_run_scores(run_dir)


def write_report(run_dir) -> str:
    """Writes report.html into the folder of a finished run, from its stored predictions; returns where it is.

    Raises:
        UserError: see `report.write_run_report`.
    """
    if read_config(Path(run_dir) / "config.yaml").task == "language_model":
        return "no report.html: a language model predicts words, not classes; TensorBoard has its curves"
    return f"the report: {report.write_run_report(run_dir)}"


def compare_stored(first_dir, second_dir) -> tuple[Path, str]:
    """Compares two finished runs on the same rows, from their stored predictions; see `comparison.compare_runs`.

    Raises:
        UserError: also if one of them is no classifier's run.
    """
    for run_dir in (first_dir, second_dir):
        if is_compact(run_dir):
            raise UserError(f"--compare: {run_dir} is a compact folder, which holds no predictions. Name a run folder.")
        if read_config(run_folder.check_run_dir(run_dir) / "config.yaml").task == "language_model":
            raise UserError(
                f"--compare: {run_dir} is a language model's, which predicts no classes. Name a classifier's."
            )
    return comparison.compare_runs(first_dir, second_dir)


def _check_model_dir(path) -> Path:
    """Returns the path of a finished run or a compact folder, which can predict; see `run_folder.check_run_dir`."""
    return Path(path) if is_compact(path) else run_folder.check_run_dir(path)


def evaluate_texts(run_dir, texts: list[str]) -> str:
    """Returns the table of a few texts for the terminal. The model may be in a compact folder too."""
    table = saved_model.load(_check_model_dir(run_dir)).predict(texts)
    table["text"] = [text if len(text) <= 60 else text[:59] + "…" for text in texts]
    if len(table.columns) > 2 + terminal.LISTED_CLASSES:
        table = table[["text", "label"]].assign(probability=table.iloc[:, 2:].max(axis=1))
    return table.to_string(index=False, float_format="{:.3f}".format)


def explain_texts(path, texts: list[str], class_name: str | None = None) -> tuple[Path, str]:
    """Explains what a model says of a few texts, into evaluations/explanation-<time>/explanation.html of its folder.

    Args:
        path: folder of a run or of the SavedModel in it, or a compact folder.
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


def evaluate_file(run_dir, csv_file, text_column=None, label_column=None, label_map=None) -> tuple[Path, str]:
    """Predicts every row of a file and, if it has labels, scores it; into the run's evaluations/<file>-<time>/.

    The folder has predictions.csv, metrics.json and report.html.

    All input columns are kept; `predicted` and `probability_<class>` are added. No row is dropped but those that repeat
    the header: one without text is predicted as [UNK], one without label is predicted and not scored. Texts are read in
    chunks; of a row only its label and probabilities stay in memory.

    Args:
        run_dir: run folder or compact folder.
        text_column, label_column, label_map: None: as in the run's settings. A label column that the run's settings
            name, but the file lacks, means that there are no labels; so does label_column "". A label that label_map
            gives as None is not scored.
    Returns: (folder, what to print).
    Raises:
        UserError: for a damaged file, a missing column or an unknown label, before anything is written.
    """
    model = saved_model.load(_check_model_dir(run_dir))
    run_dir, class_names = Path(run_dir), model.class_names
    settings = read_config(run_dir / "config.yaml").data
    table = Table(csv_file)
    text_column, label_map = text_column or settings.text_column, clean_label_map(label_map or settings.label_map)
    table.require_column(text_column, "--data.text_column")
    if label_column:
        table.require_column(label_column, "--data.label_column")
    if label_column == "":
        label_column = None
    elif label_column is None and table.may_have(settings.label_column):
        label_column = settings.label_column
    # The first pass finds whatever is wrong with the file before the slow second one begins.
    # An older model's names may not be as labels are read now.
    index = {clean_label(name): i for i, name in enumerate(class_names)} | {n: i for i, n in enumerate(class_names)}
    labels, listed, sample = [], [], []
    for line, row in table:
        where = f"{table.path}, line {line}"
        text = read_text(row, text_column, where)
        if text and text is not row[text_column]:
            listed.append(line)
        if len(sample) < SAMPLE_ROWS:
            sample.append(text)
        labels.append(_read_class(row, where, label_column, label_map, class_names, index))
    labels = np.array(labels, int)
    notes = describe_reading(table, label_column, label_map or class_names, listed)
    if not len(labels):
        raise UserError(f"{csv_file}: has no rows. Is it the right file?")
    folder = run_folder.create_stamped_dir(run_dir / "evaluations", f"{table.path.name}-")
    probabilities = write_predictions(model, table, text_column, len(labels), folder)
    labelled = labels >= 0
    result = {
        "file": str(csv_file),
        "sha256": files.compute_sha256(csv_file),
        "rows": len(labels),
        "rows_without_label": int((labels == NO_LABEL).sum()),
        "rows_left_out": int((labels == LEFT_OUT).sum()),
        "reading": notes,
    }
    lines = [f"{len(labels):,} rows predicted"]
    if labelled.any():
        scores = compute_scores(labels[labelled], probabilities[labelled], class_names, model.calibration)
        result["scores"] = scores
        lines = [terminal.format_metrics(scores, class_names, str(csv_file))]
        if unlabelled := result["rows_without_label"]:
            lines.append(f"{unlabelled:,} rows have no label: predicted, not scored")
    else:
        lines.append("no labels: predictions only")
    if left_out := result["rows_left_out"]:
        lines.append(f"{left_out:,} rows have a label that label_map leaves out: predicted, not scored")
    lines += format_reading(notes)
    unknown = (model.encoder.encode(tf.constant(encode_utf8(sample), tf.string)).flat_values.numpy() == 1).mean()
    if unknown > 0.5:
        lines.append(
            f"WARNING: {unknown:.0%} of the tokens of the first texts are unknown to the model, which cannot read "
            "them. Is the file in the language and the script that it learned?"
        )
    files.write_json(folder / "metrics.json", result)
    columns = text_column, [name for name in table.columns if name not in (text_column, label_column)]
    found = labels, probabilities, model.calibration
    with run_folder.only_shown("report.html", "predictions.csv and metrics.json are whole."):
        report.write_file_report(folder, run_dir, table.path.name, columns, class_names, *found)
    return folder, "\n".join(lines)


def _read_class(row: dict, where: str, label_column, label_map, class_names, index: dict[str, int]) -> int:
    """Returns the class index of a row, NO_LABEL, or LEFT_OUT."""
    _, raw = read_label(row, label_column, label_map, where) if label_column else ("", "")
    if not raw:
        return NO_LABEL
    # As in training the map comes first; a label that it does not name may be a class name already.
    known = label_map and raw not in label_map and raw in index
    name = raw if known else map_label(raw, label_map, where)
    if name is None:
        return LEFT_OUT
    if name not in index:
        raise UserError(
            f"{where}: unknown label '{name}', but this model knows {', '.join(class_names)}."
            f"{suggest(name, class_names)} Translate every label with --data.label_map '{{\"{raw}\": CLASS, ...}}', or "
            "predict without scoring: --data.label_column ''."
        )
    return index[name]
