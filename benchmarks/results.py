"""Trains and scores the recipes on many data sets, beside linear models on the same rows, and writes the
table in docs/results.md.

    python benchmarks/results.py FOLDER [--data sst2 uci_sentences ...] [--recipes scratch ...] [--seeds 3] [--jobs 2]
    python benchmarks/results.py FOLDER --baselines words_characters     (fits it on the same rows, trains no network)

FOLDER has a folder for each data set that is not inside a package (imdb, sst2, uci_sentences, amazon_blitzer,
chnsenticorp, online_shopping_10_cats), each with train.csv.gz (`text,sentiment`). Three recipes:

    document     the first design document's plain LSTM
    scratch      the best settings without pre-training: configs/tweets.yaml for short texts, imdb.yaml, reviews_zh.yaml
    pretrained   fine-tuned from one encoder a language: pretrained/imdb_encoder; --zh_encoder RUN of
                 configs/reviews_zh_language_model.yaml

All scores are of a validation part of train (settings were tuned on those of tweets, imdb and reviews_zh only); test
parts are left alone. A cell is three seeds, each a process of its own, in logs/results/<data>/<recipe>/; what has
finished is not repeated, a cell that was not run says so in the table, and results are kept in
benchmarks/results/results.json, which several processes can share.

The Amazon file does not say which of the four domains a review is of, so nothing is trained on books and tested on
kitchen. chnsenticorp and online_shopping_10_cats have many texts of reviews_zh, which the Chinese language model reads;
those in their validation parts it does not: a text's hash says which part it goes to, in each file alike. For a file of
your own: `python -m keras_senti study --config ... --data.csv FILE`.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from end_to_end import ROOT, describe_machine, measure_baselines, write_section

sys.path.insert(0, str(ROOT))

from keras_senti.errors import UserError
from keras_senti.experiments.study import count_seeds, format_markdown, run_study
from keras_senti.settings.command_line import parse_config
from keras_senti.storage.files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "results.json"
RECIPES = {"document": "document's LSTM", "scratch": "from scratch", "pretrained": "pre-trained"}
BASELINES = {
    "majority": "majority",
    "words_characters": "words + characters (linear)",
    "tfidf_logistic_regression": "TF-IDF + LR",
    "nb_svm": "NB-SVM",
}
SHORT, LONG, CHINESE = "tweets", "imdb", "reviews_zh"  # configs from scratch; with _fine_tune those of pre-training
DATA = {
    "tweets": SHORT,
    "imdb": LONG,
    "sst2": SHORT,
    "uci_sentences": SHORT,
    "amazon_blitzer": LONG,
    "reviews_zh": CHINESE,
    "chnsenticorp": CHINESE,
    "online_shopping_10_cats": CHINESE,
}
# With the 128 rows a batch of configs/tweets.yaml a small set would have few steps. From scratch only.
FEW_ROWS = {"uci_sentences": ["--train.batch_size", "32"], "sst2": ["--train.batch_size", "64"]}


def find_words(data: str, recipe: str, folder: Path, zh_encoder: str | None) -> list[str] | None:
    """Returns the command-line words of a cell; None if what it begins with is not there."""
    kind = DATA[data]
    if recipe == "document":
        words = ["--config", "configs/document.yaml", "--train.monitor", "val_macro_f1"]
        words += ["--text.sequence_length", "400"] if kind != SHORT else []
        words += ["--text.split", "character"] if kind == CHINESE else []
    elif recipe == "scratch":
        words = ["--config", f"configs/{kind}.yaml"]
    elif kind == CHINESE:
        if zh_encoder is None:
            return None
        words = ["--config", "configs/reviews_zh_fine_tune.yaml", "--init_from", zh_encoder]
    else:
        words = ["--config", "configs/imdb_fine_tune.yaml"]
        words += ["--train.batch_tokens", "2000", "--train.monitor", "val_macro_f1"] if kind == SHORT else []
        # Two epochs are for the 22,000 reviews of IMDB; what has fewer or shorter texts learns longer.
        words += ["--train.epochs", "4", "--train.learning_rate", "0.003"] if data != "imdb" else []
    words += FEW_ROWS.get(data, []) if recipe == "scratch" else []
    if data in ("tweets", "reviews_zh"):
        return [*words, "--data.source", data, "--data.validation_fraction", "0.2"]
    file = folder / data if data == "imdb" else folder / data / "train.csv.gz"
    if not file.exists():
        raise UserError(f"{file}: not found. Name the folder that has it, or leave {data} out: --data ...")
    source = "imdb" if data == "imdb" else "csv"
    fractions = ["--data.validation_fraction", "0.1" if data == "imdb" else "0.2"]
    # Of the other files the held-out test rows lie elsewhere: all rows are for training and validation.
    fractions += [] if data == "imdb" else ["--data.test_fraction", "0"]
    return [*words, "--data.source", source, "--data.csv", str(file), *fractions]


def forget_places(words: list[str], folder: Path, zh_encoder: str | None) -> list[str]:
    """Returns the words of a cell without what only this machine knows, as they can be shown."""
    words = ["RUN" if word == zh_encoder else word.replace(str(folder), "FOLDER") for word in words]
    return [word.replace(f"{ROOT}/", "") for word in words]


def measure(data: str, recipe: str, words: list[str], seeds: int, jobs: int) -> dict:
    """Returns what the seeds of a cell scored, and the baselines on the same rows."""
    folder = ROOT / "logs" / "results" / data
    result = run_study({recipe: words}, list(range(seeds)), folder, ["--train.evaluate_test", "false"], jobs)
    config = result["configs"][recipe]
    shown = ("accuracy", "macro_f1", "log_loss", "seconds", "memory_gb")
    return {
        "scores": {name: config["scores"][name] for name in shown if name in config["scores"]},
        "seeds": config["seeds"],
        "failed": config["failed"],
        "split_sha256": config["split_sha256"],
        "baselines": {name: {s: scores[s] for s in shown[:3]} for name, scores in result["baselines"].items()},
        "machine": describe_machine(),
    }


def read_results() -> dict:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def keep(data: str, recipe: str, cell: dict):
    """Adds a cell to the file, which is read again: other processes may have added theirs."""
    results = read_results()
    results.setdefault(data, {})[recipe] = cell
    write_json(RESULTS, results)


def add_baselines(data: str, folder: Path, models: list[str]):
    """Fits baselines on the rows of a data set's cells, and adds what they score to each cell in the file."""
    splits = [cell["split_sha256"] for cell in read_results().get(data, {}).values()]
    if not splits:
        raise UserError(f"{data}: has no cell to add baselines to. Train one first, or leave it out: --data ...")
    config = parse_config(find_words(data, "scratch", folder, None))
    found = measure_baselines(config, splits[0], models, ["validation"])["validation"]
    for recipe, cell in read_results()[data].items():
        for model, scores in found.items():
            kept = ("accuracy", "macro_f1", "log_loss", "cpu_seconds", "machine")
            cell["baselines"][model] = {name: scores[name] for name in kept}
        keep(data, recipe, cell)


def make_table(results: dict) -> str:
    """Returns Markdown: a row a data set, accuracy / macro-F1 of each baseline and recipe on its validation part."""
    rows = []
    for data in DATA:
        cells = results.get(data, {})
        if len({json.dumps(cell["split_sha256"]) for cell in cells.values()}) > 1:
            raise SystemExit(f"{data}: its cells are not scored on the same rows; run them again: --data {data}")
        beside = next(iter(cells.values()))["baselines"] if cells else {}
        row = [data]
        row += [f"{b['accuracy']:.3f} / {b['macro_f1']:.3f}" if (b := beside.get(n)) else "" for n in BASELINES]
        for recipe in RECIPES:
            if recipe not in cells:
                row.append("not run")
                continue
            accuracy, f1 = (cells[recipe]["scores"][name] for name in ("accuracy", "macro_f1"))
            spread = "" if f1["sd"] is None else f" ± {f1['sd']:.3f}"
            row.append(f"{accuracy['mean']:.3f} / {f1['mean']:.3f}{spread} ({count_seeds(cells[recipe])})")
        rows.append(row)
    return format_markdown(["validation part of", *BASELINES.values(), *RECIPES.values()], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of the data sets that are not inside a package")
    parser.add_argument("--data", nargs="*", choices=list(DATA), default=list(DATA))
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--baselines", metavar="NAME", nargs="+", help="fit these on the rows of the cells in the file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with its share of the cores")
    parser.add_argument("--precision", help="mixed_bfloat16: faster on a CPU with AMX; kept with the cell's command")
    parser.add_argument(
        "--zh_encoder", metavar="RUN", help="a Chinese language model; without: these cells are not run"
    )
    options = parser.parse_args()
    folder, encoder = Path(options.folder).resolve(), options.zh_encoder and str(Path(options.zh_encoder).resolve())
    os.chdir(ROOT)
    for data in options.data:
        if options.baselines:
            print(f"== {data}, {', '.join(options.baselines)}", flush=True)
            add_baselines(data, folder, options.baselines)
        for recipe in [] if options.baselines else options.recipes:
            print(f"== {data}, {recipe}", flush=True)
            try:
                words = find_words(data, recipe, folder, encoder)
                if words is None:
                    print("not run, as it begins with a Chinese language model: --zh_encoder RUN")
                    continue
                words += ["--device.precision", options.precision] if options.precision else []
                cell = measure(data, recipe, words, options.seeds, options.jobs)
            except UserError as error:
                print(f"{data}, {recipe}: {error}")
                continue
            keep(data, recipe, {**cell, "command": forget_places(words, folder, encoder)})
    table = make_table(read_results())
    print(table)
    write_section("datasets", table)


if __name__ == "__main__":
    main()
