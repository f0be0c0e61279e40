"""Changes one setting of a recipe at a time and says what it was worth; writes docs/what-matters.md.

    python benchmarks/what_matters.py [--only NAME ...] [--seeds 3]          (tweets: 90 minutes on 2 CPU cores)
    python benchmarks/what_matters.py --imdb FOLDER [--seeds 2]              (the five largest effects, 10,000 reviews)

Each change is trained with the same seeds as the recipe (configs/tweets.yaml; configs/imdb.yaml on a sample), and
compared seed by seed on the validation part. Runs lie in logs/what_matters/; what has finished is not repeated, and
changes that are not named keep the results that they have. The test part is left alone.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from end_to_end import ROOT, describe_machine, write_section
from matplotlib.figure import Figure

sys.path.insert(0, str(ROOT))

from keras_senti.config import UserError
from keras_senti.study import compare_paired, run_study

RESULTS = ROOT / "benchmarks" / "results" / "what_matters.json"
PICTURE = ROOT / "benchmarks" / "results" / "what_matters.png"
PAGE = ROOT / "docs" / "what-matters.md"
RUNS = ROOT / "logs" / "what_matters"
IMDB_ROWS = 10_000
LARGEST = 5
NO_DROPOUT = ["--model.embedding_dropout", "0", "--model.dropout", "0", "--model.head_dropout", "0"]
CHANGES = {
    "one direction": ["--model.bidirectional", "false"],
    "two layers": ["--model.num_layers", "2"],
    "half the units": ["--model.units", "32"],
    "twice the units": ["--model.units", "128"],
    "LSTM instead of GRU": ["--model.cell", "lstm"],
    "pooling: last": ["--model.pooling", "last"],
    "pooling: mean": ["--model.pooling", "mean"],
    "pooling: max": ["--model.pooling", "max"],
    "pooling: attention": ["--model.pooling", "attention"],
    "no dropout at all": NO_DROPOUT,
    "no embedding dropout": ["--model.embedding_dropout", "0"],
    "no dropout of inputs": ["--model.dropout", "0"],
    "no dropout before the head": ["--model.head_dropout", "0"],
    "recurrent dropout 0.3 more": ["--model.recurrent_dropout", "0.3"],
    "weight drop 0.3 more": ["--model.weight_drop", "0.3"],
    "word dropout 0.2 more": ["--model.word_dropout", "0.2"],
    "first 12 tokens only": ["--text.sequence_length", "12", "--text.truncate", "tail"],
    "last 12 tokens only": ["--text.sequence_length", "12", "--text.truncate", "head"],
    "2,000 words": ["--text.max_tokens", "2000"],
    "30,000 words": ["--text.max_tokens", "30000"],
    "pairs of words": ["--model.bigram_buckets", "100003"],
    "AdamW, weight decay 0.01": ["--train.optimizer", "adamw", "--train.weight_decay", "0.01"],
    "RMSprop": ["--train.optimizer", "rmsprop"],
    "SGD, rate 0.5": ["--train.optimizer", "sgd", "--train.learning_rate", "0.5"],
    "constant rate, no warm-up": ["--train.schedule", "constant", "--train.warmup_fraction", "0"],
    "half the rate": ["--train.learning_rate", "0.001"],
    "batches of 32": ["--train.batch_size", "32"],
    "batches of 512": ["--train.batch_size", "512"],
    "no label smoothing": ["--train.label_smoothing", "0"],
    "no clipping": ["--train.clip_norm", "null"],
    "twice the epochs": ["--train.epochs", "8"],
}
# Compared with its own twin: the same network, initialised by a language model of the same train part, or not.
PRETRAINING = "pre-training on the train part"


def measure(kind: str, base: list[str], changes: dict[str, list[str]], seeds: int, results: dict):
    """Trains the recipe and each change, and notes the differences."""
    words = ["--train.evaluate_test", "false", "--baselines.models", "[majority]"]
    start = _read_scores(run_study({"recipe": base}, list(range(seeds)), RUNS / kind, words), "recipe")
    results.setdefault(kind, {})
    for name, change in changes.items():
        folder = name.replace(" ", "_").replace(":", "").replace(",", "")
        print(f"== {kind}: {name}", flush=True)
        try:
            found = run_study({folder: [*base, *change]}, list(range(seeds)), RUNS / kind, words)
        except UserError as error:
            print(f"{name}: {error}")
            continue
        note(results[kind], name, change, start, _read_scores(found, folder))
        keep(results)


def _read_scores(result: dict, name: str) -> dict:
    scores = result["configs"][name]["scores"]
    return {score: scores[score]["all"] for score in ("accuracy", "macro_f1", "log_loss", "seconds")}


def note(results: dict, name: str, change: list[str], before: dict, after: dict):
    """Stores a change's scores beside those of what it changes, and the differences seed by seed."""
    results[name] = {
        "change": " ".join(change),
        "before": before,
        "after": after,
        "difference": {s: compare_paired(before[s], after[s]) for s in ("accuracy", "macro_f1", "log_loss")},
        "seconds_ratio": sum(after["seconds"]) / sum(before["seconds"]),
        "machine": describe_machine(),
    }


def measure_pretraining(seeds: int, results: dict):
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
    found = run_study(configs, list(range(seeds)), RUNS / "tweets" / "pretraining", words)
    pair = (_read_scores(found, name) for name in configs)
    note(results.setdefault("tweets", {}), PRETRAINING, ["configs/tweets_fine_tune.yaml", "--init_from RUN"], *pair)
    keep(results)


def sample_imdb(folder: Path) -> Path:
    """Writes 10,000 reviews of the train part with their films, always the same ones; returns the file."""
    path = RUNS / f"imdb_{IMDB_ROWS}.csv"
    if not path.exists():
        table = pd.read_csv(folder / "train.csv.gz", keep_default_na=False)
        table["movie"] = pd.read_csv(folder / "train_meta.csv.gz", keep_default_na=False)["movie"]
        path.parent.mkdir(parents=True, exist_ok=True)
        table.sample(IMDB_ROWS, random_state=0).to_csv(path, index=False)
    return path


def find_largest(results: dict) -> list[str]:
    """Returns the changes of the tweets with the largest mean difference in macro-F1, up or down."""
    found = {
        name: abs(entry["difference"]["macro_f1"]["mean"])
        for name, entry in results.items()
        if name in CHANGES and entry["difference"]["macro_f1"]
    }
    return sorted(found, key=found.get, reverse=True)[:LARGEST]


def keep(results: dict):
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for kind in ("tweets", "imdb"):
        if results.get(kind):
            write_section(kind, make_table(results[kind]), PAGE)
    if results.get("tweets"):
        draw(results).savefig(PICTURE, dpi=130)


def _show(found: dict | None, value: float) -> str:
    if found is None:
        return f"{value:+.1f}"
    return f"{100 * found['mean']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def sort_changes(results: dict) -> list[str]:
    return sorted(results, key=lambda name: _mean(results[name], "macro_f1"))


def _mean(entry: dict, score: str) -> float:
    pairs = list(zip(entry["before"][score], entry["after"][score]))
    return sum(after - before for before, after in pairs) / len(pairs)


def make_table(results: dict) -> str:
    """Returns Markdown: a row a change, from the worst to the best, differences in points."""
    head = ["change", "macro-F1 (95%)", "accuracy (95%)", "log loss", "time", "settings"]
    lines = [head, ["---"] * len(head)]
    for name in sort_changes(results):
        entry = results[name]
        shown = (_show(entry["difference"][s], 100 * _mean(entry, s)) for s in ("macro_f1", "accuracy"))
        lines.append(
            [name, *shown, f"{_mean(entry, 'log_loss'):+.3f}", f"×{entry['seconds_ratio']:.1f}", f"`{entry['change']}`"]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def draw(results: dict) -> Figure:
    """Draws the difference in macro-F1 of each change with its 95% interval; the sample of IMDB beside the tweets."""
    names = sort_changes(results["tweets"])
    figure = Figure(figsize=(8, 0.6 + 0.27 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for kind, color, offset in (("tweets", "#2a6fb0", 0.0), ("imdb", "#b05a2a", -0.25)):
        for place, name in enumerate(names):
            entry = results.get(kind, {}).get(name)
            if entry is None:
                continue
            found = entry["difference"]["macro_f1"]
            if found:
                axes.plot([100 * found["low"], 100 * found["high"]], [place + offset] * 2, color=color, linewidth=1.5)
            axes.plot(100 * _mean(entry, "macro_f1"), place + offset, "o", color=color, markersize=5)
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
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(CHANGES) - {PRETRAINING}
    if unknown:
        parser.error(f"received {', '.join(sorted(unknown))}, expected some of: {', '.join([*CHANGES, PRETRAINING])}")
    folder = Path(options.imdb).resolve() if options.imdb else None
    os.chdir(ROOT)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if folder is None:
        chosen = {name: words for name, words in CHANGES.items() if not options.only or name in options.only}
        measure("tweets", ["--config", "configs/tweets.yaml"], chosen, options.seeds or 3, results)
        if not options.only or PRETRAINING in options.only:
            measure_pretraining(options.seeds or 3, results)
        return
    words = ["--config", "configs/imdb.yaml", "--data.source", "csv", "--data.csv", str(sample_imdb(folder))]
    words += ["--data.group_column", "movie", "--data.test_fraction", "0", "--data.validation_fraction", "0.2"]
    largest = find_largest(results.get("tweets", {}))
    if not largest:
        raise SystemExit("first measure the tweets, which say what the largest effects are")
    measure("imdb", words, {name: CHANGES[name] for name in largest}, options.seeds or 2, results)


if __name__ == "__main__":
    main()
