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
import yaml
from end_to_end import ROOT, describe_machine, format_markdown, show, summarize, write_section
from few_labels_rows import Part, draw_rows, read_parts, take_watched, write_part
from matplotlib.figure import Figure

sys.path.insert(0, str(ROOT))

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
class Job:
    """A cell to be computed. settings: what decides its result. arguments: of train.py; [] for a linear model."""

    cell: Cell
    train: Part
    settings: dict
    arguments: list[str]


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
        settings, arguments = {"train_sha256": train_sha256, "validation_sha256": validation_sha256}, []
        if cell.system not in LINEAR:
            parts = ["--data.validation_csv", validation_csv, "--data.test_fraction", "0"]
            if cell.labels != "all":
                watched = path.with_stem(f"watched-{cell.labels}-{cell.seed}")
                write_part(take_watched(train, drawn, cell.seed), class_names, watched)
                parts = ["--data.validation_csv", watched, "--data.test_csv", validation_csv]
            arguments, more = describe_network(cell, len(drawn.labels), path, parts, options)
            settings |= more
        jobs.append(Job(cell, drawn, settings, arguments))
    return jobs


def describe_network(cell: Cell, rows: int, train_csv: Path, parts: list, options) -> tuple[list[str], dict]:
    """Returns the arguments for train.py, checked, and what they say besides the rows, without this machine's paths.

    Args:
        parts: arguments that name the other parts.

    Raises:
        UserError: for settings that train.py would refuse.
    """
    pretrained = options.pretrained if cell.system == "pretrained" else None
    fine_tune = options.fine_tune_config if cell.labels == "all" else options.few_labels_config
    config = fine_tune if pretrained else options.config
    init_from = ["--init_from", pretrained] if pretrained else []
    source = ["--data.source", "csv", "--data.csv", train_csv, *parts, "--data.cache_dir", options.work / "cache"]
    source += [word for name, value in COLUMNS.items() for word in (f"--data.{name}", value)]
    arguments = [str(word) for word in ("--config", config, *init_from, *source, "--baselines.models", "[majority]")]
    chosen = list_options(cell, rows, options.steps or STEPS[cell.system], parse_config(arguments).train)
    arguments += chosen
    found = parse_config(arguments).init_from  # of a folder of runs, the newest one
    content = json.dumps(yaml.safe_load(config.read_text(encoding="utf-8")), sort_keys=True)  # comments do not count
    settings = {"config": shorten(config), "config_sha256": hashlib.sha256(content.encode()).hexdigest()}
    if found:
        weights = [file for name in ("weights.npz", "variables.data-*") for file in sorted(Path(found).rglob(name))]
        settings |= {"init_from": shorten(Path(found)), "weights_sha256": [compute_sha256(file) for file in weights]}
    return arguments, {**settings, "options": chosen}


def list_options(cell: Cell, rows: int, steps: int, config: TrainConfig) -> list[str]:
    """Returns what train.py is told besides the config and the files.

    A layer that learns from a later epoch on does so after the same share of all epochs as in the config: the token
    vectors of configs/few_labels.yaml, {embedding: 2} of 6, after a sixth. As it stands there, they would join after
    one of the 15 epochs of 100 labels, when the new head still knows next to nothing.

    Args:
        config: the config's own settings of training.
    """
    arguments = ["--train.seed", str(cell.seed), "--train.monitor", "none"]
    if cell.labels == "all":
        return [*arguments, "--train.evaluate_test", "false"]  # the config's own schedule is for all of them
    epochs, batch_size = choose_schedule(rows, steps, config.epochs)
    schedule = {"epochs": epochs, "batch_size": batch_size, "batch_tokens": "null"}
    if config.train_from_epoch:
        first = config.train_from_epoch.items()
        scaled = {layer: epoch and 1 + (epoch - 1) * epochs // config.epochs for layer, epoch in first}
        schedule["train_from_epoch"] = json.dumps(scaled)
    return [*arguments, *(word for key, value in schedule.items() for word in (f"--train.{key}", str(value)))]


def shorten(path: Path) -> str:
    """Returns a path without what only this machine knows: below the repository, or its last part."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def train_network(arguments: list[str], run_dir: Path) -> dict:
    """Trains a run, or what is left of it (see `trial.run_trial`), and removes its largest files.

    Returns: the scores, and the last process's seconds.
    Raises:
        UserError: if it fails.
    """
    metrics = run_trial(arguments, run_dir)
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
                scores = train_network(job.arguments, run_dir)
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
    lines = [
        (name, *(show(summarize(found[rows])) if rows in found else "" for found in grouped.values()))
        for rows, name in name_sizes(results).items()
    ]
    return format_markdown(["labels", *(SYSTEMS[system] for system in grouped)], lines)


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
