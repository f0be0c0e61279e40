"""Trains configs with several seeds, one process a run, and writes mean and spread beside the baselines.

    python benchmarks/seeds.py configs/tweets.yaml:3 configs/document.yaml:1 --out benchmarks/results/tweets.json

The number behind a config is how many seeds (0, 1, ...) it is trained with; 3 without one.

A run that has finished is not repeated: start the command again to continue. Runs lie in logs/seeds/<name>/.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from keras_senti.config import read_config  # noqa: E402

SYSTEMS = {"majority": "majority class", "tfidf_logistic_regression": "TF-IDF (1,2) + logistic regression"}


def find_or_run(config_file: str, name: str, seed: int) -> Path:
    """Returns the folder of the finished run of this config and seed."""
    folder = ROOT / "logs" / "seeds" / name
    for manifest in folder.glob(f"seed-{seed}_*/manifest.json"):
        if json.loads(manifest.read_text())["status"] == "finished":
            return manifest.parent
    run_dir = folder / f"seed-{seed}_{int(time.time())}"
    command = [sys.executable, "train.py", "--config", config_file]
    subprocess.run([*command, "--train.seed", str(seed), "--run_dir", str(run_dir)], check=True, cwd=ROOT)
    return run_dir


def summarize(values: list[float]) -> dict:
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0, "all": values}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    systems, rows = {}, []
    for word in options.configs:
        config_file, _, count = word.partition(":")
        name = read_config(config_file).name
        folders = [find_or_run(config_file, name, seed) for seed in range(int(count or 3))]
        metrics = [json.loads((f / "metrics.json").read_text()) for f in folders]
        manifests = [json.loads((f / "manifest.json").read_text()) for f in folders]
        baselines = metrics[0]
        systems[config_file] = {
            part: {
                score: summarize([m[part][score] for m in metrics]) for score in ("accuracy", "macro_f1", "log_loss")
            }
            for part in ("validation", "test")
        }
        systems[config_file]["history"] = [pd.read_csv(f / "history.csv").to_dict("list") for f in folders]
        systems[config_file]["seconds"] = summarize([m["seconds"] for m in manifests])
        systems[config_file]["split_sha256"] = manifests[0]["data"]["split_sha256"]
    for key, title in SYSTEMS.items():
        validation, test = baselines["validation_baselines"][key], baselines["baselines"][key]
        rows.append((title, *(f"{part[s]:.3f}" for part in (validation, test) for s in ("accuracy", "macro_f1")), ""))
    for config_file, result in systems.items():
        scores = [result[part][s] for part in ("validation", "test") for s in ("accuracy", "macro_f1")]
        seeds = len(scores[0]["all"])
        shown = [f"{s['mean']:.3f} ± {s['sd']:.3f}" if seeds > 1 else f"{s['mean']:.3f}" for s in scores]
        rows.append(
            (f"`{config_file}` ({seeds} seed{'s' if seeds > 1 else ''})", *shown, f"{result['seconds']['mean']:.0f}")
        )
    head = ("", "validation accuracy", "validation macro-F1", "test accuracy", "test macro-F1", "seconds")
    table = "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * 6, *rows))
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "system": platform.system()}
    content = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine,
        "systems": systems,
        "baselines": {"validation": baselines["validation_baselines"], "test": baselines["baselines"]},
        "table": table,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
