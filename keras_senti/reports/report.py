"""The page a person looks at: report.html of a run or of a predicted file, drawn from predictions.

It opens with a verdict in words. Nothing is predicted here, and no time of drawing is written: the same predictions
give the same page.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from keras_senti.evaluation.baselines import choose_baseline
from keras_senti.evaluation.metrics import DECISIVE, METRICS
from keras_senti.evaluation.predictions import ScoredPart, read_categories
from keras_senti.evaluation.result import Result
from keras_senti.reports import cards, weakness_cards
from keras_senti.reports.charts import Axis, Curve, Mark, draw_chart
from keras_senti.reports.page import (
    Bar,
    class_color,
    draw_bars,
    escape,
    make_card,
    make_head,
    make_page,
    make_section,
)
from keras_senti.reports.rows import FEW_ROWS, BaselineResult, ReportInput, rank_classes
from keras_senti.reports.verdict import make_constant_baseline, read_baseline, write_verdict
from keras_senti.settings.schema import Config

SHOWN_CATEGORIES = 6  # columns
SHOWN_CLASSES = 20


@dataclass(frozen=True)
class RunFacts:
    """How a run was made, as its page says it.

    name: see `name_run`. history: the content of history.csv; None if there is no such file.
    """

    name: str
    config: Config
    manifest: dict
    history: pd.DataFrame | None


def draw_run_report(result: Result, facts: RunFacts, color_words=None) -> str:
    """Returns the page of a run. It is about the test part if that was scored, else about the validation part.

    Args:
        color_words: see `ReportInput`; None: no word is coloured.
    """
    name, part = list(result.parts.items())[-1]
    note = ""
    if name == "validation":
        note = "The best epoch was chosen on these very texts, which flatters a little."
        if facts.config.train.monitor == "none":
            note = "The last epoch was kept: none was chosen on these texts."
    source = ReportInput(
        title=f"{facts.name}, {name} part",
        what=f"texts of the {name} part",
        class_names=result.class_names,
        part=part,
        metrics=result.scores[name],
        fitted_on="these very texts" if name == "validation" else "the validation part",
        note=note,
        color_words=color_words,
    )
    ours, baselines = _read_baselines(result.scores, name)
    learned = make_section("How it learned", *_draw_learning(facts), _draw_run(facts.manifest))
    return make_page(source.title, *_draw_scored(source, ours, baselines, learned))


def _read_baselines(scores: dict, part: str) -> tuple[dict, list[BaselineResult]]:
    """Returns the model's metrics on the rows that the baselines were scored on, and those, the strong one first."""
    ours = scores["sampled"][part]["this_model"] if part in scores["sampled"] else scores[part]
    beside = scores["validation_baselines"] if part == "validation" else scores["baselines"]
    notes = scores["baselines_notes"]
    first = choose_baseline(beside, notes) if beside else None
    names = sorted(beside, key=lambda name: name != first)
    return ours, [read_baseline(name, ours, beside[name], notes.get(name, "")) for name in names]


def draw_file_report(result: Result, model: str, others) -> str:
    """Returns the page of a user's file that a model has predicted.

    Args:
        result: of one part, which has the file's name; its texts are a `StoredColumn`. Without labels it has no scores.
        model: its name. others: columns beside the texts that may be categories.
    """
    ((name, part),) = result.parts.items()
    labelled = np.flatnonzero(part.labels >= 0)
    rows = labelled if len(labelled) else np.arange(len(part.labels))
    unlabelled, texts = len(part.labels) - len(rows), replace(part.texts, rows=rows)
    source = ReportInput(
        title=f"{name}, predicted by {model}",
        what=f"texts of {name}",
        class_names=result.class_names,
        part=ScoredPart(texts, part.lines[rows], part.labels[rows], part.probabilities[rows]),
        metrics=result.scores.get(name),
        fitted_on="the validation part of the run",
        note=f"{unlabelled:,} more rows have no label: predicted, not scored." if unlabelled else "",
        line_word="row",
        categories=read_categories(texts.path, others, rows),
    )
    if source.metrics is None:
        return make_page(source.title, *_draw_unlabelled(source))
    return make_page(source.title, *_draw_scored(source, source.metrics, []))


def name_run(run_dir: Path) -> str:
    """Returns the last two parts of its path, which are the recipe's name and the time."""
    return "/".join(Path(run_dir).resolve().parts[-2:])


def _draw_scored(source: ReportInput, ours: dict, baselines: list[BaselineResult], *last: str) -> list[str]:
    """Returns the sections of a page about labelled rows.

    Args:
        ours: metrics of those rows that the baselines were scored on. last: more sections.
    """
    metrics, part = source.metrics, source.part
    if not baselines:  # the settings may name none
        ours, baselines = metrics, [make_constant_baseline(source)]
    verdict, detail = write_verdict(metrics, baselines, source.what)
    if len(rank_classes(metrics)) == 1:
        baselines = []  # always naming the one class is always right
    tiles = []
    for metric in (m for m in METRICS.values() if m.hint and m.name in metrics):
        edges = metrics.get(f"{metric.name}_interval")
        interval = " (95% interval {:.1%} to {:.1%})".format(*edges) if edges else ""
        tiles.append((f"{metrics[metric.name]:.1%}", f"{metric.title}: {metric.hint}{interval}"))
    if baselines:
        tiles.insert(2, (f"{baselines[0].metrics['accuracy']:.1%}", f"accuracy of {baselines[0].name}"))
    few = len(part.labels) < FEW_ROWS
    head = make_head(source.title, verdict, f"{detail} {source.note}".strip(), () if few else tiles)
    systems = [("this model", metrics), *((baseline.name, baseline.metrics) for baseline in baselines)]
    numbers = cards.draw_numbers(source.what, systems, [("this model", metrics)])
    matrix = cards.draw_confusion_matrix(metrics)
    closing = (
        make_section("Its surest mistakes", weakness_cards.draw_errors(source)),
        *last,
        make_section("All numbers", numbers),
    )
    if few:
        return [head, make_section("How good is it?", matrix), *closing]
    categories, (lengths, _) = list(source.categories.items())[:SHOWN_CATEGORIES], source.texts
    return [
        head,
        make_section("How good is it?", cards.draw_baselines(ours, baselines), cards.draw_classes(metrics), matrix),
        make_section(
            "Can it be trusted when it is sure?",
            cards.draw_calibration(source),
            cards.draw_confidence(part.probabilities, part.right),
            cards.draw_coverage(source),
        ),
        make_section(
            "Where is it weak?",
            *weakness_cards.draw_class_curves(source),
            weakness_cards.draw_lengths(lengths, part.right),
            *(weakness_cards.draw_categories(name, *found, part.right) for name, found in categories),
        ),
        *closing,
    ]


def _draw_unlabelled(source: ReportInput) -> list[str]:
    """Returns the sections of a page about rows without labels."""
    probabilities, names, rows = source.part.probabilities, source.class_names, len(source.part.probabilities)
    predicted = probabilities.argmax(axis=1)
    counts = np.bincount(predicted, minlength=len(names))
    common = names[counts.argmax()]
    verdict = f"The model calls the one text of this file “{common}” ({probabilities.max():.1%} sure)."
    finding, hint = "The text", ""
    if rows > 1:
        verdict = (
            f"The model calls {counts.max() / rows:.1%} of the {rows:,} {source.what} “{common}”; as there are no "
            "labels, nothing can be said about how often it is right."
        )
        finding = f"The {len(source.shown)} texts that it is least sure of"
        hint = "If some texts can be labelled by hand, these would teach the model most."
    shown, how = np.arange(len(names)), f"{rows:,} texts."
    if len(names) > SHOWN_CLASSES:
        shown = np.argsort(-counts, kind="stable")[:SHOWN_CLASSES]
        how += f" Of {len(names)} classes, the {SHOWN_CLASSES} commonest."

    def draw_shares(counts) -> str:
        colors = {i: class_color(i, len(names)) for i in shown}
        return draw_bars(Bar(names[i], counts[i] / counts.sum(), f"{counts[i]:,}", None, colors[i]) for i in shown)

    drawn = [make_card(f"“{escape(common)}” is the commonest prediction", draw_shares(counts), how)]
    drawn.append(cards.draw_confidence(probabilities, None))
    for column, (values, codes) in list(source.categories.items())[:SHOWN_CATEGORIES]:
        table = np.zeros((len(values), len(names)), int)
        np.add.at(table, (codes, predicted), 1)
        groups = (f"<h4>{escape(v or '(empty)')}</h4>{draw_shares(found)}" for v, found in zip(values, table))
        drawn.append(make_card(f"Predicted classes by column “{escape(column)}”", "".join(groups), how))
    unsure = make_card(finding, weakness_cards.draw_texts(source), hint, wide=True)
    return [
        make_head(source.title, verdict),
        make_section("What does it say?", *drawn),
        make_section("Where is it unsure?", unsure),
    ]


def _draw_learning(facts: RunFacts) -> list[str]:
    """Returns the learning curves of a run."""
    history = facts.history
    if history is None:
        return []
    epochs = history["epoch"].to_numpy() + 1
    kept = facts.manifest["training"]["best_epoch"]
    x_axis = Axis("epoch", *((epochs[0], epochs[-1]) if len(epochs) > 1 else (0, 2)), "g", True)
    hints = {
        "loss": "Less is better; on train texts dropout and label smoothing may add to it.",
        DECISIVE.name: "More is better; on train texts it is measured while they are learned.",
    }
    drawn = []
    for key, name, find in (("loss", "loss", np.nanargmin), (DECISIVE.name, DECISIVE.title, np.nanargmax)):
        if not {key, f"val_{key}"} <= set(history) or not np.isfinite(history[f"val_{key}"]).any():
            continue
        train, validation = (history[k].to_numpy(float) for k in (key, f"val_{key}"))
        finite = np.concatenate([train, validation])
        finite = finite[np.isfinite(finite)]
        pad = 0.06 * (finite.max() - finite.min()) or 0.1
        y_axis = Axis(name, finite.min() - pad, finite.max() + pad, ".3g")
        marks = [Mark(kept, y, name="kept epoch") for y in validation[epochs == kept] if np.isfinite(y)]
        finding = f"On validation texts the {name} is best in epoch {epochs[find(validation)]} of {epochs[-1]}"
        curves = [Curve(epochs, train, "--c7", "train"), Curve(epochs, validation, name="validation")]
        chart = draw_chart(curves, (x_axis, y_axis), f"Learning curve: {name}", *marks)
        how = f"{hints[key]} Where validation gets worse and train better, the model overfits."
        drawn.append(make_card(finding, chart, how))
    return drawn


def _draw_run(manifest: dict) -> str:
    """Returns what a manifest says of a run."""
    data, training, versions = (manifest[key] for key in ("data", "training", "versions"))
    entries = {
        "texts": ", ".join(f"{name} {count:,}" for name, count in data["rows"].items()),
        "data": ", ".join(Path(name).name for name in data["sha256"]),
        "parameters": f"{manifest['parameters']:,}",
        "vocabulary": f"{manifest['vocabulary_size']:,} tokens",
        "trained": f"{training['epochs_run']} epochs, {training['seconds']:,.0f} seconds",
        "device": manifest["device"],
        "seeds": ", ".join(f"{name} {seed}" for name, seed in manifest["seeds"].items()),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "keras") if name in versions),
        "code": (manifest["git_commit"] or "")[:12],
    }
    body = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in entries.items() if text)
    return make_card("What was trained", f"<dl>{body}</dl>", "All settings are in config.yaml beside this page.")
