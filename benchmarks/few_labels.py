"""Trains on 100 to all labels of IMDB, with and without pre-training, beside linear models on the same rows.

    python benchmarks/few_labels.py --pretrained ENCODER_OR_RUN --imdb FOLDER
    python benchmarks/few_labels.py --systems words_characters nb_svm tfidf_logistic_regression --imdb FOLDER

The labels are drawn from the train part of --config, the same share of each class, and with one seed the 100 are among
the 500. Scored is its validation part, whose films are not in the train part, never the test part. Who has 100 labels
does not have 2,511 more to choose by, so nothing is chosen: the number of epochs is fixed before (see
`choose_schedule`), and the weights of the last one count. But the settings of --config and --fine_tune_config, all of
`scratch` and of `pretrained` with all labels, were chosen on this validation part.

A cell is a system, a number of labels and a seed. Networks are trained by train.py, one process a cell, in
--work/<system>/; one that was killed goes on where it was. A cell is written to --out as soon as it is there, and is
not computed again while its settings and rows are the same; cells that are not asked for stay as they are, so several
processes can share --out and --work. The curves are drawn beside --out, as .png, and the default file's table goes into
docs/training-further.md. --systems without a name makes only curves and table again.
"""

import argparse
import contextlib
import csv
import datetime
import hashlib
import itertools
import json
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from end_to_end import ROOT, describe_machine, show, summarize, write_section
from matplotlib.figure import Figure

sys.path.insert(0, str(ROOT))

from keras_senti.data.reading import load_splits
from keras_senti.data.sources import prepare_source
from keras_senti.errors import UserError, run_command
from keras_senti.evaluation import baselines
from keras_senti.evaluation.metrics import compute_metrics
from keras_senti.experiments.trial import run_trial
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import TrainConfig
from keras_senti.storage.files import compute_sha256, read_json, replace_file, write_json

RESULTS = ROOT / "benchmarks" / "results" / "few_labels.json"
PAGE = ROOT / "docs" / "training-further.md"
SYSTEMS = {
    "pretrained": "pre-trained, then fine-tuned",
    "scratch": "from scratch",
    "words_characters": "words + characters (linear)",
    "nb_svm": "NB-SVM",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}
COLORS = dict(zip(SYSTEMS, ("tab:blue", "tab:orange", "tab:red", "tab:green", "tab:gray")))
# The rows are written with these, whatever the columns and labels of the file that they were drawn from.
COLUMNS = {"text_column": "text", "label_column": "sentiment"}
COLUMNS |= dict.fromkeys(("label_map", "group_column", "weight_column"), "null")
LINEAR = {
    "words_characters": baselines.fit_words_characters,
    "nb_svm": baselines.fit_nb_svm,
    "tfidf_logistic_regression": baselines.fit_tfidf_logistic_regression,
}
WATCHED = 100  # rows whose scores TensorBoard shows after each epoch
# From scratch as many as configs/imdb.yaml has with all labels (22,489 rows, 32 a step). Pre-trained fewer: with 500
# labels the 6 epochs of configs/few_labels.yaml, for which its learning rate was chosen, on other train rows.
STEPS = {"pretrained": 192, "scratch": 700}


@dataclass(frozen=True)
class Cell:
    """labels: how many, or "all". seed: of the draw, and of initial weights, order and dropout."""

    system: str
    labels: int | str
    seed: int


@dataclass(frozen=True)
class Part:
    """Rows in memory, in an order that follows from the texts alone. labels: (rows,) int, index into class names."""

    texts: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class Job:
    """A cell, ready to be computed. settings: what decides its result. words: for train.py; [] for a linear model."""

    cell: Cell
    train: Part
    settings: dict
    words: list[str]


def list_cells(systems: list[str], sizes: list[int | str], seeds: int) -> list[Cell]:
    """Returns the cells in the order in which they are computed: all sizes of the first seed, then of the next."""
    cells = [Cell(system, labels, seed) for seed, labels, system in itertools.product(range(seeds), sizes, systems)]
    # Nothing but the draw is random in a linear model, and all labels can be drawn in one way only.
    return [cell for cell in cells if not (cell.system in LINEAR and cell.labels == "all" and cell.seed)]


def choose_schedule(rows: int, steps: int, fewest: int) -> tuple[int, int]:
    """Returns (epochs, batch size) for few labels: at least `fewest` epochs, and so many that they have `steps` steps.

    A batch is a 32nd of the rows, but 8 to 32: of few rows it is smaller, as otherwise they would be seen too often.
    """
    batch_size = next((size for size in (8, 16) if rows <= 32 * size), 32)
    return max(fewest, math.ceil(steps / math.ceil(rows / batch_size))), batch_size


def read_parts(words: list[str]) -> tuple[Part, Part, tuple[str, ...]]:
    """Returns the train and the validation part of the data that these words for train.py name, and the class names."""
    splits = load_splits(prepare_source(parse_config(words).data))
    parts = []
    for part in (splits.train, splits.validation):
        texts, order = list(part.texts), np.argsort(part.hashes, kind="stable")
        parts.append(Part([texts[row] for row in order], part.labels[order]))
    return *parts, splits.class_names


def draw_rows(part: Part, count: int, seed: int) -> Part:
    """Draws `count` rows, of which each class has its share; a smaller draw of the same seed is part of a larger one.

    Raises:
        UserError: if there are fewer rows, or a class would have fewer than two.
    """
    if count > len(part.labels):
        raise UserError(
            f"--sizes: received {count}, expected fewer than the {len(part.labels):,} train rows, or `all`."
        )
    order = np.random.default_rng(seed).permutation(len(part.labels))
    place = np.empty(len(order))  # of a row among those of its class, between 0 and 1
    classes = np.unique(part.labels)
    for label in classes:
        rows = order[part.labels[order] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    drawn = np.sort(np.argsort(place, kind="stable")[:count])
    fewest = min((part.labels[drawn] == label).sum() for label in classes)
    if fewest < 2:
        raise UserError(
            f"--sizes: received {count}, which leaves {fewest} for a class, expected at least 2. Ask for more."
        )
    return Part([part.texts[row] for row in drawn], part.labels[drawn])


def take_watched(part: Part, drawn: Part, seed: int) -> Part:
    """Returns at most WATCHED rows that were not drawn: the validation part of a run with few labels.

    Nothing is chosen by it, and to score 2,511 whole reviews after each of 54 epochs takes longer than training: they
    are the run's test part, which is scored at its end.
    """
    known = set(drawn.texts)
    left = [row for row, text in enumerate(part.texts) if text not in known]
    rows = np.sort(np.random.default_rng(seed).permutation(left)[:WATCHED])
    return Part([part.texts[row] for row in rows], part.labels[rows])


def write_part(part: Part, class_names, path: Path) -> str:
    """Writes the rows as train.py reads them; returns the SHA-256 of the file.

    A file that has this content is left alone: a run of another process that reads it would stop if it was replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"text": part.texts, "sentiment": [class_names[label] for label in part.labels]})
    # All quoted: by default a lone carriage return stands unquoted and reads as the end of a line.
    content = table.to_csv(index=False, quoting=csv.QUOTE_ALL, lineterminator="\n").encode("utf-8")
    sha256 = hashlib.sha256(content).hexdigest()
    if not path.exists() or compute_sha256(path) != sha256:
        with replace_file(path) as file:
            file.write(content)
    return sha256


def prepare_jobs(cells: list[Cell], options, train: Part, validation: Part, class_names) -> list[Job]:
    """Draws the rows of each cell, writes them to options.work, and checks the settings of the networks.

    Raises:
        UserError: for settings that train.py would refuse, before hours have passed.
    """
    jobs, draws, validation_csv = [], {}, options.work / "validation.csv"
    validation_sha256 = write_part(validation, class_names, validation_csv)
    for cell in cells:
        if cell.labels == len(train.labels):
            raise UserError(f"--sizes: received {cell.labels}, which are all train rows. Write `all`.")
        path = options.work / f"train-{cell.labels}-{cell.seed}.csv"
        if path not in draws:
            drawn = draw_rows(train, len(train.labels) if cell.labels == "all" else cell.labels, cell.seed)
            draws[path] = drawn, write_part(drawn, class_names, path)
        drawn, train_sha256 = draws[path]
        settings, words = {"train_sha256": train_sha256, "validation_sha256": validation_sha256}, []
        if cell.system not in LINEAR:
            parts = ["--data.validation_csv", validation_csv, "--data.test_fraction", "0"]
            if cell.labels != "all":
                watched = path.with_stem(f"watched-{cell.labels}-{cell.seed}")
                write_part(take_watched(train, drawn, cell.seed), class_names, watched)
                parts = ["--data.validation_csv", watched, "--data.test_csv", validation_csv]
            words, more = describe_network(cell, len(drawn.labels), path, parts, options)
            settings |= more
        jobs.append(Job(cell, drawn, settings, words))
    return jobs


def describe_network(cell: Cell, rows: int, train_csv: Path, parts: list, options) -> tuple[list[str], dict]:
    """Returns the words for train.py, checked, and what they say besides the rows, without this machine's paths.

    Args:
        parts: words that name the other parts.

    Raises:
        UserError: for settings that train.py would refuse.
    """
    pretrained = options.pretrained if cell.system == "pretrained" else None
    fine_tune = options.fine_tune_config if cell.labels == "all" else options.few_labels_config
    config = fine_tune if pretrained else options.config
    init_from = ["--init_from", pretrained] if pretrained else []
    source = ["--data.source", "csv", "--data.csv", train_csv, *parts, "--data.cache_dir", options.work / "cache"]
    source += [word for name, value in COLUMNS.items() for word in (f"--data.{name}", value)]
    words = [str(word) for word in ("--config", config, *init_from, *source, "--baselines.models", "[majority]")]
    chosen = list_options(cell, rows, options.steps or STEPS[cell.system], parse_config(words).train)
    words += chosen
    found = parse_config(words).init_from  # of a folder of runs, the newest one
    content = json.dumps(yaml.safe_load(config.read_text(encoding="utf-8")), sort_keys=True)  # comments do not count
    settings = {"config": shorten(config), "config_sha256": hashlib.sha256(content.encode()).hexdigest()}
    if found:
        weights = [file for name in ("weights.npz", "variables.data-*") for file in sorted(Path(found).rglob(name))]
        settings |= {"init_from": shorten(Path(found)), "weights_sha256": [compute_sha256(file) for file in weights]}
    return words, {**settings, "options": chosen}


def list_options(cell: Cell, rows: int, steps: int, config: TrainConfig) -> list[str]:
    """Returns what train.py is told besides the config and the files.

    A layer that learns from a later epoch on does so after the same share of all epochs as in the config: the token
    vectors of configs/few_labels.yaml, {embedding: 2} of 6, after a sixth. As it stands there, they would join after
    one of the 15 epochs of 100 labels, when the new head still knows next to nothing.

    Args:
        config: the config's own settings of training.
    """
    words = ["--train.seed", str(cell.seed), "--train.monitor", "none"]
    if cell.labels == "all":
        return [*words, "--train.evaluate_test", "false"]  # the config's own schedule is for all of them
    epochs, batch_size = choose_schedule(rows, steps, config.epochs)
    schedule = {"epochs": epochs, "batch_size": batch_size, "batch_tokens": "null"}
    if config.train_from_epoch:
        first = config.train_from_epoch.items()
        scaled = {layer: epoch and 1 + (epoch - 1) * epochs // config.epochs for layer, epoch in first}
        schedule["train_from_epoch"] = json.dumps(scaled)
    return [*words, *(word for key, value in schedule.items() for word in (f"--train.{key}", str(value)))]


def shorten(path: Path) -> str:
    """Returns a path without what only this machine knows: below the repository, or its last part."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def train_network(words: list[str], run_dir: Path) -> dict:
    """Trains a run, or what is left of it (see `trial.run_trial`), and removes its largest files.

    Returns: the scores, and the last process's seconds.
    Raises:
        UserError: if it fails.
    """
    metrics = run_trial(words, run_dir)
    for name in ("checkpoints", "saved_model"):  # 2 GB where pairs of words have vectors
        shutil.rmtree(run_dir / name, ignore_errors=True)
    return {
        **(metrics.get("test") or metrics["validation"]),
        "seconds": read_json(run_dir / "manifest.json")["seconds"],
    }


def fit_linear(system: str, train: Part, validation: Part, class_names) -> dict:
    """Returns the scores of a linear model, and the seconds that fitting and predicting took."""
    begin = time.perf_counter()
    probabilities = LINEAR[system](train.texts, train.labels).predict_proba(validation.texts)
    scores = compute_metrics(validation.labels, probabilities, class_names)
    return {**scores, "seconds": round(time.perf_counter() - begin, 1)}


def read_results(file: Path) -> dict[Cell, dict]:
    stored = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.exists() else []
    return {Cell(r["system"], r["labels"], r["seed"]): r for r in stored}


def compute_cells(cells: list[Cell], options, results: dict[Cell, dict]):
    """Computes the cells whose result is not there yet with the same settings and rows, and writes each to the file.

    What other processes have written there meanwhile is read again before, and stays.
    """
    imdb = ["--data.csv", str(options.imdb)] if options.imdb else []
    cache = ["--data.cache_dir", str(options.work / "cache")]
    train, validation, class_names = read_parts(["--config", str(options.config), *imdb, *cache])
    jobs = prepare_jobs(cells, options, train, validation, class_names)

    def is_done(job):
        return job.settings == results.get(job.cell, {}).get("settings")

    jobs = [job for job in jobs if not is_done(job)]
    for index, job in enumerate(jobs):
        cell, left = job.cell, [job.cell for job in jobs[index:]]
        results.update(read_results(options.out))
        if is_done(job):
            continue
        title = f"[{index + 1}/{len(jobs)}] {SYSTEMS[cell.system]}, {cell.labels} labels, seed {cell.seed}"
        print(f"{title}; {estimate_time(left, results)} left", flush=True)
        if cell.system in LINEAR:
            scores = fit_linear(cell.system, job.train, validation, class_names)
        else:
            name = hashlib.sha256(json.dumps(job.settings).encode()).hexdigest()[:8]
            run_dir = options.work / cell.system / f"{cell.labels}-{cell.seed}-{name}"
            with contextlib.chdir(ROOT):  # the package of this folder, installed or not
                scores = train_network(job.words, run_dir)
        kept = {name: scores[name] for name in ("accuracy", "macro_f1", "log_loss", "seconds")}
        rows = {"rows": len(job.train.labels), "validation_rows": len(validation.labels)}
        results.update(read_results(options.out))
        results[cell] = {**asdict(cell), **rows, **kept, "machine": describe_machine(), "settings": job.settings}
        write_json(options.out, {"cells": list(results.values())})
        print(f"    accuracy {kept['accuracy']:.3f} after {kept['seconds']:,.0f} s", flush=True)


def estimate_time(left: list[Cell], results: dict[Cell, dict]) -> str:
    """Returns how long cells take, judged by those of the same system and, if there are any, number of labels."""
    seconds, unknown = 0.0, 0
    for cell in left:
        same = [r for r in results.values() if r["system"] == cell.system]
        alike = [r["seconds"] for r in same if r["labels"] == cell.labels] or [r["seconds"] for r in same]
        seconds, unknown = seconds + (float(np.mean(alike)) if alike else 0.0), unknown + (not alike)
    known = str(datetime.timedelta(seconds=round(seconds)))
    return f"at least {known} (nothing is known of {unknown} cells)" if unknown else f"about {known}"


def group_accuracies(results: dict[Cell, dict]) -> dict[str, dict[int, list[float]]]:
    """Returns the accuracies of the seeds, by system and number of rows (ascending)."""
    grouped = {}
    for system in SYSTEMS:
        for result in sorted(results.values(), key=lambda r: r["rows"]):
            if result["system"] == system:
                grouped.setdefault(system, {}).setdefault(result["rows"], []).append(result["accuracy"])
    return grouped


def name_sizes(results: dict[Cell, dict]) -> dict[int, str]:
    """Returns the names of the numbers of rows, ascending, for table and axis."""
    sizes = {result["rows"]: result["labels"] for result in results.values()}
    return {rows: f"{rows:,}" + (" (all)" if sizes[rows] == "all" else "") for rows in sorted(sizes)}


def make_table(results: dict[Cell, dict]) -> str:
    """Returns the Markdown table: accuracy on the validation part, a row a number of labels, a column a system."""
    grouped = group_accuracies(results)
    lines = [("labels", *(SYSTEMS[system] for system in grouped)), ("---",) * (1 + len(grouped))]
    for rows, name in name_sizes(results).items():
        lines.append((name, *(show(summarize(found[rows])) if rows in found else "" for found in grouped.values())))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_curves(results: dict[Cell, dict], target: Path):
    """Draws accuracy over labels: the mean of the seeds, and a band from the worst to the best."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for system, found in group_accuracies(results).items():
        low, mean, high = ([of(values) for values in found.values()] for of in (min, np.mean, max))
        axes.plot(list(found), mean, color=COLORS[system], marker="o", label=SYSTEMS[system])
        axes.fill_between(list(found), low, high, color=COLORS[system], alpha=0.2, linewidth=0)
    names = name_sizes(results)
    axes.set(xscale="log", xlabel="labelled reviews", ylabel="accuracy on the validation part")
    axes.set_xticks(list(names), list(names.values()))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replace_file(target) as file:
        figure.savefig(file, format="png", dpi=110)


def read_size(word: str) -> int | str:
    if word != "all" and not word.isdecimal():
        raise argparse.ArgumentTypeError(f"received {word!r}, expected a number of labels, such as 500, or all")
    return word if word == "all" else int(word)


def read_path(word: str) -> Path:
    return Path(word).resolve()


def main(argv: list[str]):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=read_path, metavar="DIR", help="as train.py --init_from")
    parser.add_argument("--imdb", type=read_path, metavar="PATH", help="data.csv of --config, instead of fetching IMDB")
    parser.add_argument("--sizes", type=read_size, nargs="+", default=[100, 500, 1000, 5000, "all"], metavar="LABELS")
    parser.add_argument("--seeds", type=int, default=3, help="how many draws (0, 1, ...)")
    parser.add_argument("--systems", nargs="*", choices=list(SYSTEMS), default=list(SYSTEMS), metavar="SYSTEM")
    steps = " and ".join(f"{count} ({system})" for system, count in STEPS.items())
    parser.add_argument("--steps", type=int, help=f"of training, with fewer than all labels (default: {steps})")
    parser.add_argument("--config", type=read_path, default=ROOT / "configs" / "imdb.yaml", help="data, and `scratch`")
    fine_tune = ROOT / "configs" / "imdb_fine_tune.yaml"
    few = ROOT / "configs" / "few_labels.yaml"
    parser.add_argument("--fine_tune_config", type=read_path, default=fine_tune, help="`pretrained`, all labels")
    parser.add_argument("--few_labels_config", type=read_path, default=few, help="`pretrained`, fewer")
    parser.add_argument("--work", type=read_path, default=ROOT / "logs" / "few_labels", help="rows drawn, and runs")
    parser.add_argument("--out", type=read_path, default=RESULTS)
    options = parser.parse_args(argv)
    if "pretrained" in options.systems and not options.pretrained:
        parser.error(f"--pretrained is missing. Give it, or leave its curve out: --systems {' '.join([*SYSTEMS][1:])}")
    results = read_results(options.out)
    if cells := list_cells(options.systems, options.sizes, options.seeds):
        compute_cells(cells, options, results)
    table = make_table(results)
    print(table)
    draw_curves(results, options.out.with_suffix(".png"))
    if options.out == RESULTS:
        write_section("few_labels", table, PAGE)


if __name__ == "__main__":
    sys.exit(run_command(main))
