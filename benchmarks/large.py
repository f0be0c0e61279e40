"""Trains on a generated file of many reviews and reports peak memory, throughput by size, and what the cache saves.

    python benchmarks/large.py --rows 30000 300000 3000000 --out benchmarks/results/large.json
    python benchmarks/large.py --language_model --rows 10000 100000 1000000 --out benchmarks/results/large_text.json

The reviews are made of a Zipf-distributed vocabulary of 200,000 words, 20 words on average, and a few words that decide
the class. One process a size, with its own empty cache; the largest runs twice, to show what a second run costs.
With --language_model they have 200 words on average, no labels, and a small language model reads them.

Peak memory is what the process has to itself; peak resident memory counts the mapped token ids too, although the system
may drop them at any time.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
LABELS = ("negative", "neutral", "positive")
SETTINGS = (
    "--data.source csv --text.max_tokens 20000 --text.sequence_length 100 --model.cell gru --model.units 32 "
    "--model.bidirectional false --model.embedding_dim 32 --train.epochs 1 --train.batch_size 256"
).split()
LANGUAGE_MODEL_SETTINGS = (
    "--task language_model --data.source csv --text.max_tokens 20000 --model.bidirectional false --model.units 32 "
    "--model.embedding_dim 32 --pretrain.negatives 256 --train.epochs 1 --train.batch_size 128"
).split()


def write_reviews(path: Path, rows: int, words_on_average: int = 20, seed: int = 0):
    """Writes `rows` reviews of words w0, w1, ... by Zipf's law, and 0 to 3 words that tell the class.

    They have 3 to 5 times `words_on_average` words.
    """
    rng = np.random.default_rng(seed)
    rank = np.arange(1, 200_001)
    cumulative = np.cumsum(1 / rank) / (1 / rank).sum()
    with open(path, "w", encoding="utf-8") as file, tqdm(total=rows, desc="writing reviews", unit=" rows") as bar:
        file.write("text,sentiment\n")
        for begin in range(0, rows, 10_000):
            count = min(10_000, rows - begin)
            lengths = np.clip(rng.geometric(1 / words_on_average, count), 3, 5 * words_on_average)
            words = np.searchsorted(cumulative, rng.random(lengths.sum()))
            labels = rng.integers(0, 3, count)
            tells = rng.integers(0, 4, count)
            for text, label, n in zip(np.split(words, np.cumsum(lengths)[:-1]), labels, tells):
                told = [f"{LABELS[label]}{rng.integers(50)}" for _ in range(n)]
                file.write(f"{' '.join([*told, *(f'w{w}' for w in text)])},{LABELS[label]}\n")
            bar.update(count)


def train(csv: Path, folder: Path, cache: Path, language_model: bool) -> dict:
    """Runs train.py in a process of its own and returns seconds, peak memory and throughput."""
    settings, option = (LANGUAGE_MODEL_SETTINGS, "unlabeled_csv") if language_model else (SETTINGS, "csv")
    words = [f"--data.{option}", csv, "--data.cache_dir", cache, "--run_dir", folder]
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "train.py", *settings, *map(str, words)], cwd=ROOT)
    anonymous = watch_memory(process)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"train.py failed with status {status}")
    manifest = json.loads((folder / "manifest.json").read_text())
    history = (folder / "history.csv").read_text().splitlines()
    values = dict(zip(history[0].split(","), history[-1].split(",")))
    scores = json.loads((folder / "metrics.json").read_text())
    found = {
        "seconds": round(time.perf_counter() - begin, 1),
        "training_seconds": round(manifest["training"]["seconds"], 1),
        "peak_gigabytes": anonymous,
        "peak_resident_gigabytes": round(usage.ru_maxrss / 2**20, 2),
        "tokens_per_second": round(float(values["tokens_per_second"])),
    }
    if language_model:
        return {**found, "perplexity": scores["validation"]["perplexity"]}
    return {
        **found,
        "examples_per_second": round(float(values["examples_per_second"])),
        "padding_fraction": round(manifest["training"]["padding_fraction"], 3),
        "accuracy": scores["test"]["accuracy"],
    }


def watch_memory(process) -> float | None:
    """Returns the most memory that a process had to itself until it ended, in GiB; None without Linux' /proc."""
    peak, status = None, Path(f"/proc/{process.pid}/status")
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
        if found:
            peak = max(peak or 0, int(found.group(1)))
        time.sleep(0.2)
    return peak and round(peak / 2**20, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[30_000, 300_000, 3_000_000])
    parser.add_argument("--language_model", action="store_true", help="longer reviews without labels")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=ROOT / "logs", prefix="large-"))
    results = {}
    try:
        for rows in sorted(options.rows):
            csv = work / f"{rows}.csv"
            write_reviews(csv, rows, 200 if options.language_model else 20)
            found = train(csv, work / f"{rows}", work, options.language_model)
            results[f"{rows} rows"] = {"file_megabytes": csv.stat().st_size >> 20, **found}
        results[f"{rows} rows, ids from the cache"] = train(csv, work / "again", work, options.language_model)
    finally:
        shutil.rmtree(work)
    processor = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if os.path.exists("/proc") else None
    )
    machine = {"cpu": processor.group(1) if processor else platform.machine(), "cores": os.cpu_count(),
               "gigabytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30}  # fmt: skip
    content = {"command": " ".join(["python", *sys.argv]), "machine": machine, "results": results}
    options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    sys.exit(main())
