"""Changes one setting of a recipe at a time and says what it was worth; writes docs/what-matters.md.

    python benchmarks/what_matters.py --jobs 2 [--only NAME ...] [--seeds 3]     (tweets)
    python benchmarks/what_matters.py --jobs 2 --imdb FOLDER [--seeds 2]         (the five largest, 10,000 reviews)

Each change is trained with the same seeds as the recipe (configs/tweets.yaml; configs/imdb.yaml on a sample), and
compared seed by seed on the validation part. Runs lie in logs/what_matters/; what has finished is not repeated, and
changes that are not named keep the results that they have. The test part is left alone. One change on a file of your
own: `python -m keras_senti study` with two configs and --data.csv FILE.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
from end_to_end import ROOT, describe_machine, write_section
from matplotlib.figure import Figure

sys.path.insert(0, str(ROOT))

from keras_senti.errors import UserError
from keras_senti.experiments.study import compare_paired, format_markdown, pair_scores, run_study, show_difference
from keras_senti.experiments.trial import find_differences
from keras_senti.settings.command_line import parse_config, to_arguments
from keras_senti.settings.schema import Config
from keras_senti.storage.files import replace_file, write_json

RESULTS = ROOT / "benchmarks" / "results" / "what_matters.json"
PICTURE = ROOT / "benchmarks" / "results" / "what_matters.png"
PAGE = ROOT / "docs" / "what-matters.md"
RUNS = ROOT / "logs" / "what_matters"
IMDB_ROWS = 10_000
LARGEST = 5
SHORT_TOKENS = {"tweets": 12, "imdb": 200}  # to which texts are cut: about two thirds of a tweet, most of a review's
# Compared with its own twin: the same network, initialised by a language model of the same train part, or not.
PRETRAINING = "pre-training (against its twin without)"


def make_changes(kind: str, config: Config) -> dict[str, list[str]]:
    """Returns by its name what each change changes in a recipe, relative to it; what changes nothing is left out."""
    model, train = config.model, config.train
    is_lstm = model.cell == "lstm"
    cut = ["--text.sequence_length", str(SHORT_TOKENS[kind]), "--text.truncate"]
    dropouts = ("embedding_dropout", "dropout", "head_dropout")
    changes = {
        "one direction": {"model.bidirectional": False},
        "two layers": {"model.num_layers": 2},
        "half the units": {"model.units": model.units // 2},
        "twice the units": {"model.units": model.units * 2},
        "the other cell": {"model.cell": "gru" if is_lstm else "lstm"},
        **{f"pooling: {pooling}": {"model.pooling": pooling} for pooling in ("last", "mean", "max", "attention")},
        "no dropout at all": {f"model.{name}": 0.0 for name in dropouts},
        "no embedding dropout": {"model.embedding_dropout": 0.0},
        "no dropout of inputs": {"model.dropout": 0.0},
        "no dropout before the head": {"model.head_dropout": 0.0},
        "recurrent dropout 0.3": {"model.recurrent_dropout": 0.3},
        "weight drop 0.3": {"model.weight_drop": 0.3},
        "word dropout 0.2": {"model.word_dropout": 0.2},
        "a fifth of the words": {"text.max_tokens": config.text.max_tokens // 5},
        "three times the words": {"text.max_tokens": config.text.max_tokens * 3},
        "AdamW, weight decay 0.01": {"train.optimizer": "adamw", "train.weight_decay": 0.01},
        "RMSprop": {"train.optimizer": "rmsprop"},
        "SGD, rate 0.5": {"train.optimizer": "sgd", "train.learning_rate": 0.5},
        "constant rate, no warm-up": {"train.schedule": "constant", "train.warmup_fraction": 0.0},
        "half the rate": {"train.learning_rate": train.learning_rate / 2},
        "twice the rate": {"train.learning_rate": train.learning_rate * 2},
        "a quarter of the batch": {"train.batch_size": train.batch_size // 4},
        "four times the batch": {"train.batch_size": train.batch_size * 4},
        "no label smoothing": {"train.label_smoothing": 0.0},
        "no clipping": {"train.clip_norm": None},
        "twice the epochs": {"train.epochs": train.epochs * 2},
    }
    words = {name: to_arguments(values) for name, values in changes.items()}
    words |= {"texts cut to their beginning": [*cut, "tail"], "texts cut to their end": [*cut, "head"]}
    pairs = 0 if model.bigram_buckets else 100_003
    words["no pairs of words" if model.bigram_buckets else "pairs of words"] = ["--model.bigram_buckets", str(pairs)]
    return words


def measure(kind: str, base: list[str], wanted, seeds: int, results: dict, jobs: int):
    """Trains the recipe and each wanted change (None: all), and notes the differences."""
    words = ["--train.evaluate_test", "false", "--baselines.models", "[majority]"]
    changes = make_changes(kind, parse_config(base))
    changes = {name: c for name, c in changes.items() if wanted is None or name in wanted}
    recipe = parse_config(base)
    changes = {name: c for name, c in changes.items() if find_differences(parse_config([*base, *c]), recipe)}
    folders = {name: re.sub("[^a-z0-9.]+", "_", name.lower()) for name in changes}
    configs = {"recipe": base, **{folders[name]: [*base, *change] for name, change in changes.items()}}
    try:
        # All in one study, so that no job waits for the last seed of a change; the studies below read what it has made.
        run_study(configs, list(range(seeds)), RUNS / kind, words, jobs)
    except UserError as error:
        print(error)  # if all seeds of one change have failed, the others are there; all else comes again below
    start = run_study({"recipe": base}, list(range(seeds)), RUNS / kind, words, jobs)["configs"]["recipe"]
    results.setdefault(kind, {})
    for name, change in changes.items():
        try:
            found = run_study({folders[name]: configs[folders[name]]}, list(range(seeds)), RUNS / kind, words, jobs)
        except UserError as error:
            print(f"{name}: {error}")
            continue
        note(results[kind], name, change, start, found["configs"][folders[name]])
        keep(results)


def note(results: dict, name: str, change: list[str], before: dict, after: dict):
    """Stores the differences of a change to what it changes (both as in study.json), seed by seed."""
    if before["split_sha256"] != after["split_sha256"]:
        raise SystemExit(f"{name}: not scored on the same rows as what it changes; remove its runs and start again")
    scores = ("macro_f1", "accuracy", "log_loss")
    seconds = pair_scores(before, after, "seconds")
    if not seconds[0]:
        print(f"{name}: has no seed in common with what it changes that did not fail; left out", flush=True)
        return
    results[name] = {
        "change": " ".join(change),
        "seeds": len(seconds[0]),
        "difference": {score: compare_paired(*pair_scores(before, after, score)) for score in scores},
        "seconds_ratio": sum(seconds[1]) / sum(seconds[0]),
        "machine": describe_machine(),
    }


def measure_pretraining(seeds: int, results: dict, jobs: int):
    """Trains the language model of the tweets' train part once, and both classifiers of its sizes."""
    encoder = RUNS / "tweets" / "language_model"
    if not (encoder / "metrics.json").exists():
        words = ["--resume", str(encoder)] if (encoder / "manifest.json").exists() else []
        words = words or ["--config", "configs/tweets_language_model.yaml", "--run_dir", str(encoder)]
        subprocess.run([sys.executable, "train.py", *words], check=True)
    words = ["--train.evaluate_test", "false", "--baselines.models", "[majority]"]
    configs = {
        "from_scratch": ["--config", "configs/tweets_from_scratch.yaml"],
        "fine_tuned": ["--config", "configs/tweets_fine_tune.yaml", "--init_from", str(encoder)],
    }
    found = run_study(configs, list(range(seeds)), RUNS / "tweets" / "pretraining", words, jobs)["configs"]
    change = ["--config", "configs/tweets_fine_tune.yaml", "--init_from", "RUN"]
    note(results.setdefault("tweets", {}), PRETRAINING, change, *found.values())
    keep(results)


def sample_imdb(folder: Path) -> Path:
    """Writes 10,000 reviews of the train part with their films, always the same ones; returns the file."""
    path = RUNS / f"imdb_{IMDB_ROWS}.csv"
    if not path.exists():
        table = pd.read_csv(folder / "train.csv.gz", keep_default_na=False)
        table["movie"] = pd.read_csv(folder / "train_meta.csv.gz", keep_default_na=False)["movie"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(table.sample(IMDB_ROWS, random_state=0).to_csv(index=False).encode())
    return path


def find_largest(results: dict) -> list[str]:
    """Returns the changes of the tweets with the largest mean difference in macro-F1, up or down."""
    found = {name: abs(_mean(entry)) for name, entry in results.items() if name != PRETRAINING}
    return sorted(found, key=found.get, reverse=True)[:LARGEST]


def _mean(entry: dict, score: str = "macro_f1") -> float:
    return entry["difference"][score]["mean"]


def keep(results: dict):
    write_json(RESULTS, results)
    for kind in ("tweets", "imdb"):
        if results.get(kind):
            write_section(kind, make_table(results[kind]), PAGE)
    if results.get("tweets"):
        draw(results).savefig(PICTURE, dpi=130)


def make_table(results: dict) -> str:
    """Returns Markdown: a row a change, from the worst to the best, differences in points."""
    rows = []
    for name in sorted(results, key=lambda name: _mean(results[name])):
        entry = results[name]
        shown = [show_difference(entry["difference"][score], 100, 1) for score in ("macro_f1", "accuracy")]
        shown += [f"{_mean(entry, 'log_loss'):+.3f}", f"×{entry['seconds_ratio']:.1f}", str(entry["seeds"])]
        rows.append([name, *shown, f"`{entry['change']}`"])
    head = ["change", "macro-F1 (95%)", "accuracy (95%)", "log loss", "time", "seeds", "settings"]
    return format_markdown(head, rows)


def draw(results: dict) -> Figure:
    """Draws the difference in macro-F1 of each change with its 95% interval; the sample of IMDB beside the tweets."""
    names = sorted(results["tweets"], key=lambda name: _mean(results["tweets"][name]))
    figure = Figure(figsize=(8, 0.6 + 0.27 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    edge = 0.0
    for kind, color, offset in (("tweets", "#2a6fb0", 0.0), ("imdb", "#b05a2a", -0.25)):
        for place, name in enumerate(names):
            entry = results.get(kind, {}).get(name)
            if entry is None:
                continue
            found = entry["difference"]["macro_f1"]
            if found["low"] is not None:
                axes.plot([100 * found["low"], 100 * found["high"]], [place + offset] * 2, color=color, linewidth=1.5)
            axes.plot(100 * found["mean"], place + offset, "o", color=color, markersize=5)
            if kind == "tweets":
                edge = min(edge, 100 * (found["mean"] if found["low"] is None else found["low"]))
            elif 100 * found["mean"] < edge:  # far out: its point would press all others together
                axes.annotate(f"◂ {100 * found['mean']:.0f}", (edge, place + offset), color=color, fontsize=8, va="top")
    axes.set(xlim=(edge - 0.5, 3), ylim=(-0.8, len(names) - 0.4))
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("macro-F1, points against the recipe (blue: tweets; brown: 10,000 IMDB reviews)", fontsize=8)
    axes.grid(axis="x", alpha=0.2)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these changes only, such as 'two layers'")
    parser.add_argument("--imdb", metavar="FOLDER", help="with train.csv.gz and train_meta.csv.gz")
    parser.add_argument("--seeds", type=int, help="default: 3, for IMDB 2")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with its share of the cores")
    options = parser.parse_args()
    if options.only and options.imdb:
        parser.error("--only: received with --imdb, which takes the five largest effects on tweets. Leave one out")
    folder = Path(options.imdb).resolve() if options.imdb else None
    os.chdir(ROOT)
    base = ["--config", "configs/tweets.yaml"]
    known = [*make_changes("tweets", parse_config(base)), PRETRAINING]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"received {', '.join(sorted(unknown))}, expected some of: {', '.join(known)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if folder is None:
        measure("tweets", base, options.only, options.seeds or 3, results, options.jobs)
        if not options.only or PRETRAINING in options.only:
            measure_pretraining(options.seeds or 3, results, options.jobs)
        return
    words = ["--config", "configs/imdb.yaml", "--data.source", "csv", "--data.csv", str(sample_imdb(folder))]
    words += ["--data.group_column", "movie", "--data.test_fraction", "0", "--data.validation_fraction", "0.2"]
    largest = find_largest(results.get("tweets", {}))
    if not largest:
        raise SystemExit("first measure the tweets, which say what the largest effects are")
    measure("imdb", words, largest, options.seeds or 2, results, options.jobs)


if __name__ == "__main__":
    main()
