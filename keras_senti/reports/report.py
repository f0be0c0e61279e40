"""The page a person looks at: report.html of a run or of a predicted file, drawn from stored predictions.

It opens with a verdict in words. Nothing is predicted here, and no time of drawing is written: the same predictions
give the same page.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from keras_senti.evaluation.baselines import choose_rival
from keras_senti.evaluation.calibration import read_calibration
from keras_senti.evaluation.metrics import DECISIVE, METRICS, compute_metrics
from keras_senti.evaluation.predictions import read_parts, read_texts
from keras_senti.reports import weakness_cards
from keras_senti.reports.cards import (
    draw_calibration,
    draw_classes,
    draw_confidence,
    draw_confusion_matrix,
    draw_coverage,
    draw_numbers,
    draw_rivals,
)
from keras_senti.reports.charts import Axis, Curve, Mark, draw_chart
from keras_senti.reports.page import (
    Bar,
    class_color,
    draw_bars,
    escape,
    make_card,
    make_head,
    make_legend,
    make_page,
    make_section,
)
from keras_senti.reports.rows import FEW_ROWS, SHOWN_TEXTS, Subject, find_errors, rank_classes
from keras_senti.reports.verdict import make_constant_rival, read_rival, write_verdict
from keras_senti.settings.yaml_file import read_config
from keras_senti.storage import files, run_folder

SHOWN_CATEGORIES = 6  # columns
SHOWN_CLASSES = 20


def write_run_report(run_dir, color_words=None) -> Path:
    """Writes report.html into the folder of a finished run and returns its path.

    It is about the test part if that was scored, else about the validation part.

    Args:
        run_dir: see `run_folder.check_run_dir`.
        color_words: from (texts, predicted classes: (texts,) int) to the pieces of each text in order, a word with the
            space before it, as [(piece, weight), ...]: how much it speaks for the predicted class. They are kept in
            attributions.json; None: those that lie there already, so that drawing a page again needs no model.
    Raises:
        UserError: if a file is missing, damaged, or cannot be written.
    """
    run_dir = Path(run_dir)
    color_words = _keep_attributions(color_words, run_dir / "attributions.json")
    class_names = tuple(files.read_json(run_dir / "class_names.json"))
    metrics, manifest = files.read_json(run_dir / "metrics.json"), run_folder.read_manifest(run_dir)
    stored = run_dir / "predictions.csv"
    parts = read_parts(stored, class_names)
    part = list(parts.values())[-1]
    errors = part.rows[find_errors(part.labels, part.probabilities)]
    subject = Subject(
        title=f"{name_run(run_dir)}, {part.name} part",
        what=f"texts of the {part.name} part",
        class_names=class_names,
        labels=part.labels,
        probabilities=part.probabilities,
        rows=part.rows,
        lines=part.lines,
        line_word="line",
        texts=read_texts(stored, "text", part.rows, errors),
        calibration=read_calibration(run_dir / "calibration.json"),
        fitted_on="these very texts" if part.name == "validation" else "the validation part",
    )
    found = compute_metrics(part.labels, part.probabilities, class_names)
    sampled = metrics.get("sampled", {}).get(part.name)
    ours = sampled["this_model"] if sampled else found
    beside = metrics["validation_baselines"] if part.name == "validation" else metrics["baselines"]
    notes = metrics.get("baselines_notes", {})
    if beside:
        first = choose_rival(beside, notes)
        names = [first, *(name for name in beside if name != first)]
        rivals = [read_rival(name, ours, beside[name], notes.get(name, "")) for name in names]
    else:  # the settings may name none
        ours, rivals = found, [make_constant_rival(subject)]
    note = ""
    if part.name == "validation":
        note = "The best epoch was chosen on these very texts, which flatters a little."
        if read_config(run_dir / "config.yaml").train.monitor == "none":
            note = "The last epoch was kept: none was chosen on these texts."
    learned = _draw_learning(run_dir / "history.csv", manifest)
    learned = make_section("How it learned", *learned, _draw_run(manifest))
    sections = _draw_scored(subject, found, rivals, ours, color_words, note, learned)
    files.write_text(run_dir / "report.html", make_page(subject.title, *sections))
    return run_dir / "report.html"


def _keep_attributions(color_words, file: Path):
    """Returns `color_words` that also writes what it finds, text → pieces; without it one that reads that, or None."""
    if color_words is None:
        stored = files.read_json(file) if file.exists() else None
        return stored and (lambda texts, predicted: [stored.get(text) for text in texts])

    def color_and_write(texts, predicted):
        pieces = color_words(texts, predicted)
        files.write_json(file, dict(zip(texts, pieces)))
        return pieces

    return color_and_write


def write_file_report(
    folder: Path, run_dir, name: str, columns, class_names, labels, probabilities, calibration
) -> Path:
    """Writes report.html beside the predictions.csv of a user's file and returns its path.

    Args:
        folder: where predictions.csv is. run_dir: run or weights folder. name: of the file.
        columns: (column of the texts, list of columns that may be categories).
        labels: (rows,) int, -1 without label. probabilities: (rows, classes). calibration: of the model, or None.
    """
    class_names, rows = tuple(class_names), np.arange(len(labels))
    labelled = labels >= 0
    if labelled.any():
        rows, labels, probabilities = rows[labelled], labels[labelled], probabilities[labelled]
        shown = find_errors(labels, probabilities)
    else:
        shown = np.argsort(probabilities.max(axis=1), kind="stable")[:SHOWN_TEXTS]
    text_column, others = columns
    subject = Subject(
        title=f"{name}, predicted by {name_run(run_dir)}",
        what=f"texts of {name}",
        class_names=class_names,
        labels=labels,
        probabilities=probabilities,
        rows=rows,
        lines=rows + 1,
        line_word="row",
        texts=read_texts(folder / "predictions.csv", text_column, rows, rows[shown], others),
        calibration=calibration,
        fitted_on="the validation part of the run",
    )
    if labelled.any():
        metrics, unlabelled = compute_metrics(labels, probabilities, class_names), len(labelled) - len(labels)
        note = f"{unlabelled:,} more rows have no label: predicted, not scored." if unlabelled else ""
        sections = _draw_scored(subject, metrics, [make_constant_rival(subject)], metrics, None, note)
    else:
        sections = _draw_unlabelled(subject, shown)
    files.write_text(folder / "report.html", make_page(subject.title, *sections))
    return folder / "report.html"


def name_run(run_dir: Path) -> str:
    """Returns the last two parts of its path, which are the recipe's name and the time."""
    return "/".join(Path(run_dir).resolve().parts[-2:])


def _draw_scored(subject: Subject, metrics: dict, rivals, ours: dict, color_words, note: str, *last: str) -> list[str]:
    """Returns the parts of a page about labelled rows.

    Args:
        metrics: of all rows. ours: of those that the rivals were scored on. last: more sections.
    """
    verdict, detail = write_verdict(metrics, rivals, subject.what)
    if len(rank_classes(metrics)) == 1:
        rivals = []  # always naming the one class is always right
    tiles = []
    for metric in (metric for metric in METRICS.values() if metric.hint):
        edges = metrics.get(f"{metric.name}_interval")
        interval = " (95% interval {:.1%} to {:.1%})".format(*edges) if edges else ""
        tiles.append((f"{metrics[metric.name]:.1%}", f"{metric.title}: {metric.hint}{interval}"))
    if rivals:
        tiles.insert(2, (f"{rivals[0].metrics['accuracy']:.1%}", f"accuracy of {rivals[0].name}"))
    few = len(subject.labels) < FEW_ROWS
    head = make_head(subject.title, verdict, f"{detail} {note}".strip(), () if few else tiles)
    systems = [("this model", metrics), *((rival.name, rival.metrics) for rival in rivals)]
    numbers = draw_numbers(subject.what, systems, [("this model", metrics)])
    matrix = draw_confusion_matrix(metrics)
    closing = (
        make_section("Its surest mistakes", weakness_cards.draw_errors(subject, color_words)),
        *last,
        make_section("All numbers", numbers),
    )
    if few:
        return [head, make_section("How good is it?", matrix), *closing]
    categories = list(subject.texts.categories.items())[:SHOWN_CATEGORIES]
    return [
        head,
        make_section("How good is it?", draw_rivals(ours, rivals), draw_classes(metrics), matrix),
        make_section(
            "Can it be trusted when it is sure?",
            draw_calibration(subject),
            draw_confidence(subject.probabilities, subject.right),
            draw_coverage(subject),
        ),
        make_section(
            "Where is it weak?",
            *weakness_cards.draw_class_curves(subject),
            weakness_cards.draw_lengths(subject.texts.characters, subject.right),
            *(weakness_cards.draw_categories(name, *found, subject.right) for name, found in categories),
        ),
        *closing,
    ]


def _draw_unlabelled(subject: Subject, unsure: np.ndarray) -> list[str]:
    """Returns the parts of a page about rows without labels. unsure: indices of the rows to show."""
    probabilities, names, rows = subject.probabilities, subject.class_names, len(subject.probabilities)
    predicted = probabilities.argmax(axis=1)
    counts = np.bincount(predicted, minlength=len(names))
    common = names[counts.argmax()]
    verdict = (
        f"The model calls {counts.max() / rows:.1%} of the {rows:,} {subject.what} “{common}”; as there are no labels, "
        "nothing can be said about how often it is right."
        if rows > 1
        else f"The model calls the one text of this file “{common}” ({probabilities.max():.1%} sure)."
    )

    shown, left_out = np.arange(len(names)), ""
    if len(names) > SHOWN_CLASSES:
        shown = np.argsort(-counts, kind="stable")[:SHOWN_CLASSES]
        left_out = f" Of {len(names)} classes, the {SHOWN_CLASSES} commonest."

    def draw_shares(counts) -> str:
        bars = [
            Bar(names[i], counts[i] / counts.sum(), f"{counts[i]:,}", None, class_color(i, len(names))) for i in shown
        ]
        return draw_bars(bars)

    groups = []
    for column, (values, codes) in list(subject.texts.categories.items())[:SHOWN_CATEGORIES]:
        table = pd.crosstab(codes, predicted).reindex(columns=range(len(names)), fill_value=0)
        body = "".join(
            f"<h4>{escape(values[i] or '(empty)')}</h4>{draw_shares(row)}"
            for i, row in zip(table.index, table.to_numpy())
        )
        groups.append(make_card(f"Predicted classes by column “{escape(column)}”", body, f"{rows:,} texts.{left_out}"))
    finding = f"The {len(unsure)} texts that it is least sure of" if rows > 1 else "The text"
    hint = "If some texts can be labelled by hand, these would teach the model most." if rows > 1 else ""
    return [
        make_head(subject.title, verdict),
        make_section(
            "What does it say?",
            make_card(
                f"“{escape(common)}” is the commonest prediction", draw_shares(counts), f"{rows:,} texts.{left_out}"
            ),
            draw_confidence(probabilities, None),
            *groups,
        ),
        make_section(
            "Where is it unsure?",
            make_card(finding, weakness_cards.draw_texts(subject, unsure), hint, wide=True),
        ),
    ]


def _draw_learning(path: Path, manifest: dict) -> list[str]:
    """Returns the learning curves of a run, from its history.csv; none if there is no such file."""
    try:
        history = pd.read_csv(path, dtype=defaultdict(lambda: float, epoch=int))
        epochs = history["epoch"].to_numpy() + 1
    except (OSError, ValueError, KeyError):
        return []
    kept = (manifest.get("training") or {}).get("best_epoch")
    x_axis = Axis("epoch", *((epochs[0], epochs[-1]) if len(epochs) > 1 else (0, 2)), "g", True)
    hints = {
        "loss": "Less is better; on train texts dropout and label smoothing may add to it.",
        DECISIVE.name: "More is better; on train texts it is measured while they are learned.",
    }
    cards = []
    for key, name, find in (("loss", "loss", np.nanargmin), (DECISIVE.name, DECISIVE.title, np.nanargmax)):
        if not {key, f"val_{key}"} <= set(history) or not np.isfinite(history[f"val_{key}"]).any():
            continue
        train, validation = (history[k].to_numpy(float) for k in (key, f"val_{key}"))
        finite = np.concatenate([train, validation])
        finite = finite[np.isfinite(finite)]
        pad = 0.06 * (finite.max() - finite.min()) or 0.1
        y_axis = Axis(name, finite.min() - pad, finite.max() + pad, ".3g")
        marks = [Mark(kept, y) for epoch, y in zip(epochs, validation) if epoch == kept and np.isfinite(y)]
        finding = f"On validation texts the {name} is best in epoch {epochs[find(validation)]} of {epochs[-1]}"
        curves = [Curve(epochs, train, "--c7"), Curve(epochs, validation)]
        legend = make_legend([("--c7", "train"), ("--right", "validation")], "kept epoch" if marks else "")
        chart = draw_chart(curves, x_axis, y_axis, f"Learning curve: {name}", marks)
        how = f"{hints[key]} Where validation gets worse and train better, the model overfits."
        cards.append(make_card(finding, legend + chart, how))
    return cards


def _draw_run(manifest: dict) -> str:
    """Returns what a manifest says of a run."""
    data, training, versions = (manifest.get(key) or {} for key in ("data", "training", "versions"))
    entries = {
        "texts": ", ".join(f"{name} {count:,}" for name, count in data.get("rows", {}).items()),
        "data": ", ".join(Path(name).name for name in data.get("sha256", {})),
        "parameters": f"{manifest['parameters']:,}" if "parameters" in manifest else "",
        "vocabulary": f"{manifest['vocabulary_size']:,} tokens" if "vocabulary_size" in manifest else "",
        "trained": f"{training['epochs_run']} epochs, {training['seconds']:,.0f} seconds" if training else "",
        "device": manifest.get("device") or "",
        "seeds": ", ".join(f"{name} {seed}" for name, seed in (manifest.get("seeds") or {}).items()),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "keras") if name in versions),
        "code": (manifest.get("git_commit") or "")[:12],
    }
    body = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in entries.items() if text)
    return make_card("What was trained", f"<dl>{body}</dl>", "All settings are in config.yaml beside this page.")
