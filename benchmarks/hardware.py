"""Measures what docs/hardware.md says: seconds and memory of an epoch of each config, and what several replicas cost.

    python benchmarks/hardware.py --imdb FOLDER [CONFIG ...]    (all configs: 40 minutes on 2 CPU cores)
    python benchmarks/hardware.py --replicas 5                  (rounds; 15 minutes)

Each run is a process of its own, one after the other; the machine must be quiet. Runs lie in logs/hardware/. Results
that the file has are kept beside the new ones, and the tables of the page are written from all of them.

An epoch is training and validation, with all layers learning; the mean of two (one of IMDB), so the start, in which
graphs are built, has its share. `seconds` are those of the whole command: reading, baselines, export and scores too.
`memory_gb` is the largest resident size.

Replicas: one process, two mirrored replicas on parts of the CPU, and two workers take turns, with the same whole
batches and all threads of the machine (a worker: its share). Compared is the time of a training epoch after the first;
a ratio is the median over the rounds, each round by itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from end_to_end import ROOT, describe_machine, write_section

sys.path.insert(0, str(ROOT))

from keras_senti.experiments.study import format_markdown
from keras_senti.settings.yaml_file import read_config

RESULTS = ROOT / "benchmarks" / "results" / "hardware.json"
PAGE = ROOT / "docs" / "hardware.md"
RUNS = ROOT / "logs" / "hardware"
# In this order, because some begin with what others leave. few_labels has no data of its own; its network is that of
# imdb_fine_tune.
BEGIN_WITH = {
    "tweets": None,
    "fine_tune": "tweets",
    "tweets_language_model": None,
    "tweets_fine_tune": "tweets_language_model",
    "tweets_from_scratch": None,
    "document": None,
    "document_review": None,
    "reviews_zh": None,
    "reviews_zh_language_model": None,
    "reviews_zh_fine_tune": "reviews_zh_language_model",
    "reviews_zh_from_scratch": None,
    "imdb": None,
    "imdb_fine_tune": None,
    "imdb_language_model": None,
}
TRAIN = [sys.executable, "train.py"]
MODES = {
    "one process": [*TRAIN, "--device.strategy", "cpu"],
    "two replicas": [*TRAIN, "--device.strategy", "mirrored", "--device.replicas", "2"],
    "two workers": [sys.executable, "-m", "keras_senti", "launch", "--workers", "2", "--", *TRAIN],
}
SIZES = {
    "`configs/tweets.yaml` (64 units, batches of 128 tweets)": [],
    "the same with 256 units": ["--model.units", "256"],
}


def run(command: list[str]) -> tuple[float, float]:
    """Runs a command to its end. Returns its seconds and the largest resident memory of it or a child, in GB."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{said[-2000:]}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1e6


def measure_config(name: str, imdb: list[str]) -> dict:
    """Returns seconds, speed and memory of a config's epoch."""
    config = read_config(f"configs/{name}.yaml")
    of_imdb = config.data.source == "imdb"
    epochs = 1 if of_imdb else 2
    run_dir = RUNS / f"{name}_{int(time.time())}"
    words = ["--config", f"configs/{name}.yaml", "--run_dir", str(run_dir), "--train.epochs", str(epochs)]
    words += [*(imdb if of_imdb else []), "--train.evaluate_test", "false", "--train.train_from_epoch", "null"]
    if BEGIN_WITH[name]:
        found = sorted(RUNS.glob(f"{BEGIN_WITH[name]}_1*/config.yaml"))
        if not found:
            raise SystemExit(f"{name} begins with {BEGIN_WITH[name]}, which has not been run: name that one too")
        words += ["--init_from", str(found[-1].parent)]
    seconds, memory = run([*TRAIN, *words])
    manifest = json.loads((run_dir / "manifest.json").read_text())
    history = pd.read_csv(run_dir / "history.csv")
    return {
        "epoch_seconds": manifest["training"]["seconds"] / epochs,
        "epochs": config.train.epochs,
        "tokens_per_second": history["tokens_per_second"].iloc[-1],
        "parameters": manifest["parameters"],
        "kernel": manifest["kernel"],
        "seconds": seconds,
        "memory_gb": memory,
        "machine": describe_machine(),
    }


def measure_round(words: list[str], number: int) -> dict[str, float]:
    """Returns for each mode the seconds of a training epoch after the first."""
    seconds = {}
    modes = list(MODES)
    for mode in modes[number % 3 :] + modes[: number % 3]:
        run_dir = RUNS / f"replicas_{mode.replace(' ', '_')}_{int(time.time())}"
        more = ["--config", "configs/tweets.yaml", "--train.epochs", "2", "--train.evaluate_test", "false"]
        more += ["--baselines.models", "[majority]"]
        run([*MODES[mode], *more, *words, "--run_dir", str(run_dir)])
        history = pd.read_csv(run_dir / "history.csv")
        rows = json.loads((run_dir / "manifest.json").read_text())["data"]["rows"]["train"]
        seconds[mode] = rows / history["examples_per_second"].iloc[1:].mean()
    return seconds


def write_page(results: dict):
    rows = [
        [
            f"`{name}`",
            f"{found['epoch_seconds']:,.0f}",
            str(found["epochs"]),
            f"{found['tokens_per_second']:,.0f}",
            f"{found['parameters'] / 1e6:.1f}",
            f"{found['memory_gb']:.1f}",
        ]
        for name in BEGIN_WITH
        if (found := results["configs"].get(name))
    ]
    head = ["config", "seconds an epoch", "epochs", "tokens a second", "million parameters", "memory (GB)"]
    write_section("configs", format_markdown(head, rows), PAGE)
    rows = []
    for size, rounds in results["replicas"].items():
        one = [found["one process"] for found in rounds]
        row = [size, f"{statistics.median(one):.1f}"]
        for mode in list(MODES)[1:]:
            ratios = sorted(found[mode] / found["one process"] for found in rounds)
            row.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        rows.append(row)
    write_section(
        "replicas", format_markdown(["network", "one process (s)", "two replicas", "two workers"], rows), PAGE
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"of {', '.join(BEGIN_WITH)}; none: all")
    parser.add_argument("--imdb", metavar="PATH", help="archive, folder or table of IMDB, instead of fetching it")
    parser.add_argument("--replicas", type=int, metavar="ROUNDS", help="compare replicas instead")
    options = parser.parse_args()
    unknown = set(options.configs) - set(BEGIN_WITH)
    if unknown:
        parser.error(f"received {', '.join(sorted(unknown))}, expected some of {', '.join(BEGIN_WITH)}")
    imdb = ["--data.csv", str(Path(options.imdb).resolve())] if options.imdb else []
    os.chdir(ROOT)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"configs": {}, "replicas": {}}

    def keep():
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write_page(results)

    if options.replicas:
        for size, words in SIZES.items():
            results["replicas"][size] = []
            for number in range(options.replicas):
                results["replicas"][size].append(measure_round(words, number))
                print(size, results["replicas"][size][-1], flush=True)
                keep()
        return
    for name in [name for name in BEGIN_WITH if name in (options.configs or BEGIN_WITH)]:
        results["configs"][name] = measure_config(name, imdb)
        print(name, results["configs"][name], flush=True)
        keep()


if __name__ == "__main__":
    main()
