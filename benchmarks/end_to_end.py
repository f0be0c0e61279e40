"""Trains the recipes with several seeds, one process a run, and writes the table of docs/results.md.

    python benchmarks/end_to_end.py configs/tweets.yaml:3 configs/reviews_zh.yaml configs/imdb.yaml --imdb FOLDER

The number behind a config is how many seeds (0, 1, ...) it is trained with; 1 without one. Rows of the same data stand
together, under the majority class and the linear models on the same rows. A run that has
finished with the same settings is not repeated, and configs that are not named keep the results they have in the file:
so the table can be filled bit by bit. Runs lie in logs/end_to_end/<name>/. A baseline that the file lacks can be fitted
without training anything:

    python benchmarks/end_to_end.py --baselines nb_svm words_characters --validation_only --imdb FOLDER
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from keras_senti.data.reading import load_splits  # noqa: E402
from keras_senti.data.sources import prepare_source  # noqa: E402
from keras_senti.evaluation.baselines import predict_baselines  # noqa: E402
from keras_senti.evaluation.metrics import compute_metrics  # noqa: E402
from keras_senti.experiments.study import format_markdown  # noqa: E402
from keras_senti.settings.command_line import parse_config  # noqa: E402
from keras_senti.settings.portable import resolve_paths  # noqa: E402
from keras_senti.settings.schema import Config  # noqa: E402
from keras_senti.settings.yaml_file import read_config  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "end_to_end.json"
PAGE = ROOT / "docs" / "results.md"
BASELINES = {
    "majority": "majority class",
    "words_characters": "words + characters (linear)",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
    "nb_svm": "NB-SVM",
}
SCORES = [(part, score) for part in ("validation", "test") for score in ("accuracy", "macro_f1")]
HEAD = ("data", "model", "validation accuracy", "macro-F1", "test accuracy", "macro-F1", "seconds")


def find_or_run(config_file: str, name: str, seed: int, options: list[str]) -> Path:
    """Returns the folder of the finished run with these settings and seed; trains it, if there is none."""
    folder = ROOT / "logs" / "end_to_end" / name
    words = ["--config", config_file, "--train.seed", str(seed), *options]
    wanted = resolve_paths(parse_config(words))
    for manifest in folder.glob(f"seed-{seed}_*/manifest.json"):
        if json.loads(manifest.read_text())["status"] == "finished":
            if resolve_paths(read_config(manifest.parent / "config.yaml")) == wanted:
                return manifest.parent
            print(f"{manifest.parent}: finished with other settings, so it does not count")
    run_dir = folder / f"seed-{seed}_{int(time.time())}"
    subprocess.run([sys.executable, "train.py", *words, "--run_dir", str(run_dir)], check=True)
    return run_dir


def summarize(values: list[float]) -> dict:
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0, "all": values}


def measure(config_file: str, seeds: int, options: list[str]) -> dict:
    """Returns what the finished runs of a config scored, with the baselines on the same rows."""
    config = read_config(config_file)
    folders = [find_or_run(config_file, config.name, seed, options) for seed in range(seeds)]
    metrics = [json.loads((f / "metrics.json").read_text()) for f in folders]
    manifests = [json.loads((f / "manifest.json").read_text()) for f in folders]
    parts = [part for part in ("validation", "test") if part in metrics[0]]
    beside = {"validation": metrics[0]["validation_baselines"], "test": metrics[0]["baselines"]}
    return {
        "data": config.data.source,
        "scores": {
            part: {s: summarize([m[part][s] for m in metrics]) for s in ("accuracy", "macro_f1", "log_loss")}
            for part in parts
        },
        "baselines": {part: beside[part] for part in parts},
        "seconds": summarize([m["seconds"] for m in manifests]),
        "rows": manifests[0]["data"]["rows"],
        "split_sha256": manifests[0]["data"]["split_sha256"],
        "history": [pd.read_csv(f / "history.csv").to_dict("list") for f in folders],
        "machine": describe_machine(),
    }


def measure_baselines(config: Config, split_sha256: dict, models: list[str], parts) -> dict[str, dict]:
    """Fits baselines on the rows that a config was measured on; trains nothing else.

    Returns: {part: {model: scores; cpu_seconds of fitting it and predicting all parts, which other work on the machine
        hardly changes; machine}}.
    """
    splits = load_splits(prepare_source(config.data))
    if splits.check["split_sha256"] != split_sha256:
        raise SystemExit(f"{config.name}: the data is not split as it was when its results were measured")
    found = {part: {} for part in parts}
    for model in models:
        begin = time.process_time()
        data = {part: getattr(splits, part) for part in parts}
        predicted, notes = predict_baselines(splits.train, data, len(splits.class_names), [model])
        more = {"cpu_seconds": round(time.process_time() - begin, 1), "machine": describe_machine()}
        for part in parts:
            scores = compute_metrics(data[part].labels, predicted[part][model], splits.class_names)
            found[part][model] = {**scores, **more}
        for note in notes.values():
            print(f"{config.name}, {model}: {note}")
    return found


def describe_machine() -> dict:
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return {"cpu": found.group(1) if found else platform.machine(), "cores": os.cpu_count()}


def make_table(systems: dict[str, dict]) -> str:
    """Returns the Markdown table: for each data set the baselines, then the configs."""
    rows = []
    for data in dict.fromkeys(system["data"] for system in systems.values()):
        same = {config: system for config, system in systems.items() if system["data"] == data}
        first, shown = next(iter(same.values())), data
        for key, title in BASELINES.items():
            if key not in first["baselines"]["validation"]:  # measured before there was this baseline
                continue
            beside = {part: first["baselines"].get(part, {}).get(key) for part, _ in SCORES}
            cells = [f"{beside[part][score]:.3f}" if beside[part] else "" for part, score in SCORES]
            rows.append((shown, title, *cells, ""))
            shown = ""
        for config, system in same.items():
            seeds = len(system["seconds"]["all"])
            cells = [show(system["scores"][p][s]) if p in system["scores"] else "" for p, s in SCORES]
            title = f"`{config}` ({seeds} seed{'s' if seeds > 1 else ''})"
            rows.append(("", title, *cells, f"{system['seconds']['mean']:,.0f}"))
    return format_markdown(HEAD, rows)


def show(score: dict) -> str:
    return f"{score['mean']:.3f} ± {score['sd']:.3f}" if len(score["all"]) > 1 else f"{score['mean']:.3f}"


def write_section(name: str, content: str, page: Path | None = None):
    """Replaces what stands in a page between <!-- name --> and <!-- /name -->; says so where they are not."""
    page, begin, end = page or PAGE, f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        print(f"{page.name} has no {begin} with {end} behind it, so the table was not put there. Add them.")
        return
    page.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help="CONFIG or CONFIG:SEEDS; none: write the table again")
    parser.add_argument("--imdb", metavar="PATH", help="archive, folder or table of IMDB, instead of fetching it")
    parser.add_argument("--baselines", metavar="NAME", nargs="+", help="fit these for the data sets in the file")
    parser.add_argument("--validation_only", action="store_true", help="leave the test part alone")
    options = parser.parse_args()
    unseen = ["--train.evaluate_test", "false"] if options.validation_only else []
    imdb = ["--data.csv", str(Path(options.imdb).resolve())] if options.imdb else []
    os.chdir(ROOT)  # relative paths, such as data.cache_dir, mean the same in each run
    systems = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for word in options.configs:
        config_file, _, count = word.partition(":")
        more = imdb if read_config(config_file).data.source == "imdb" else []
        systems[config_file] = measure(config_file, int(count or 1), [*more, *unseen])
        RESULTS.write_text(json.dumps(systems, indent=1) + "\n", encoding="utf-8")
    if options.baselines:
        for data in dict.fromkeys(system["data"] for system in systems.values()):
            config_file = next(name for name, system in systems.items() if system["data"] == data)  # that of the table
            words = ["--config", config_file, *(imdb if data == "imdb" else [])]
            system = systems[config_file]
            parts = ["validation"] if options.validation_only else list(system["baselines"])
            found = measure_baselines(parse_config(words), system["split_sha256"], options.baselines, parts)
            for part in parts:
                system["baselines"][part] |= found[part]
        RESULTS.write_text(json.dumps(systems, indent=1) + "\n", encoding="utf-8")
    table = make_table(systems)
    print(table)
    write_section("results", table)


if __name__ == "__main__":
    main()
