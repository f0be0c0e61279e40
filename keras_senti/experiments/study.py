"""Several configs and seeds, trained and compared on the same rows."""

import contextlib
import statistics
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from keras_senti.errors import UserError
from keras_senti.evaluation.metrics import DECISIVE, METRICS
from keras_senti.experiments.trial import (
    TrialFailed,
    check_trial_config,
    format_duration,
    freeze_config,
    make_folder,
    run_trial,
    share_cores,
)
from keras_senti.storage import locks, run_folder
from keras_senti.storage.files import replace_file, write_json, write_text

# The main ones, that which decides first.
MAIN_SCORES = sorted((name for name, metric in METRICS.items() if metric.main), key=lambda name: name != DECISIVE.name)
TITLES = {name: metric.title for name, metric in METRICS.items()} | {"memory_gb": "memory (GB)"}


def flatten_scores(scores: dict, prefix: str = "") -> dict[str, float]:
    """Returns all numbers in a part of metrics.json by a dotted name; lists (intervals, confusions) are left out."""
    flat = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            flat |= flatten_scores(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and name != "rows":
            flat[prefix + name] = value
    return flat


def summarize(values: list[float]) -> dict:
    """Returns mean and standard deviation (of the sample: divided by n - 1; None for one value)."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def pair_scores(first: dict, second: dict, score: str) -> tuple[list[float], list[float]]:
    """Returns a score of two configs (of study.json), of the seeds that both have, in the same order."""
    both = [seed for seed in first["seeds"] if seed in second["seeds"]]
    return tuple([c["scores"][score]["all"][c["seeds"].index(seed)] for seed in both] for c in (first, second))


def compare_paired(first: list[float], second: list[float]) -> dict:
    """Compares scores of the same seeds, at least one: the paired t-test, two-sided.

    Returns: {"mean": of second - first, "low", "high": its 95% interval, "p_value"}; the last three None where the
        differences have no spread to judge by: one pair, or all equal.
    """
    differences = np.subtract(second, first)
    found = {"mean": float(differences.mean()), "low": None, "high": None, "p_value": None}
    if len(differences) > 1 and np.ptp(differences) > 1e-12:
        test = scipy.stats.ttest_rel(second, first)
        low, high = test.confidence_interval(0.95)
        found |= {"low": float(low), "high": float(high), "p_value": float(test.pvalue)}
    return found


class StudyInUse(UserError):
    """Another process makes the study of a folder."""


def run_study(configs: dict[str, list[str]], seeds: list[int], folder: Path, words: list[str], jobs: int = 1) -> dict:
    """Trains each config with each seed, each in a process of its own, and writes what came out.

    Args:
        configs: command-line words (`--config FILE`, ...) by a name. words: settings of all runs.
        jobs: so many runs at a time, each with its share of the processor cores unless device.cpu_threads is set.
    Returns: what is in study.json: {"seeds", "part", "configs": {name: {"scores": {score: {"mean", "sd", "all"}},
        "failed": {seed: why}, ...}}, "difference": {score: ...} with two configs}.
    Raises:
        StudyInUse: if another process works in the folder.
        UserError: before any run for settings that cannot work; if all runs of a config failed; as soon as two runs are
            not scored on the same rows.
    """
    check_jobs(jobs)
    for chosen in configs.values():
        check_trial_config([*chosen, *words])
    make_folder(folder, "study.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.lock_file(folder / "study.lock"))
        except BlockingIOError:
            raise StudyInUse(f"{folder}: another process makes this study. Wait until it has ended.") from None
        frozen = {n: freeze_config([*chosen, *words], folder / n / "config.yaml") for n, chosen in configs.items()}
        return _run_study(frozen, seeds, folder, jobs)


def _run_study(configs: dict[str, list[str]], seeds: list[int], folder: Path, jobs: int) -> dict:
    found, failed = {name: {} for name in configs}, {name: {} for name in configs}
    begin, made, split = time.perf_counter(), 0, None
    plan = [(seed, name) for seed in seeds for name in configs]
    for number, (seed, name, outcome) in enumerate(_run_all(configs, plan, folder, jobs), 1):
        run_dir = folder / name / f"seed-{seed}"
        if isinstance(outcome, TrialFailed):
            failed[name][seed] = str(outcome)
            print(f"{name}, seed {seed}: FAILED: {outcome}", flush=True)
            continue
        metrics, seconds = outcome
        made += seconds > 1  # the others were there
        manifest = run_folder.read_manifest(run_dir)
        split = split or manifest["data"]["split_sha256"]
        if manifest["data"]["split_sha256"] != split:
            raise UserError(
                f"{run_dir} is not scored on the same rows as the runs before it, so they cannot be compared: other "
                "data settings (source, files, seed, fractions), or a file that has changed. Give all the same data."
            )
        found[name][seed] = metrics, manifest
        scores = metrics["validation"]
        shown = ", ".join(f"{m.title} {scores[m.name]:.3f}" for m in METRICS.values() if m.main and m.name in scores)
        left = (time.perf_counter() - begin) / max(made, 1) * (len(plan) - number)
        print(
            f"{name}, seed {seed} ({number} of {len(plan)}): {shown}"
            + (f"; about {format_duration(left)} left" if number < len(plan) and made else ""),
            flush=True,
        )
    for name, why in failed.items():
        if not found[name]:
            raise UserError(f"study: all runs of {name} failed. The first: {next(iter(why.values()))}")
    found = {name: dict(sorted(by_seed.items())) for name, by_seed in found.items()}  # not as they happened to end
    result = _gather(found, failed, seeds)
    write_json(folder / "study.json", result)
    write_text(folder / "table.md", format_table(result))
    with replace_file(folder / "study.png") as file:
        draw_study(result).savefig(file, format="png", dpi=150)
    return result


def _run_all(configs: dict[str, list[str]], plan: list[tuple[int, str]], folder: Path, jobs: int):
    """Yields (seed, name, (metrics, seconds) or why it failed) of each run of the plan as soon as it has ended."""
    stop, threads = threading.Event(), {name: share_cores(words, jobs) for name, words in configs.items()}

    def run(seed: int, name: str):
        begin = time.perf_counter()
        words = [*configs[name], *threads[name], "--train.seed", str(seed)]
        try:
            return run_trial(words, folder / name / f"seed-{seed}", stop=stop), time.perf_counter() - begin
        except TrialFailed as error:
            return error

    waiting, running = list(plan), {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    item = waiting.pop(0)
                    running[pool.submit(run, *item)] = item
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield *running.pop(future), future.result()
        finally:
            stop.set()  # also after Ctrl-C: what has begun is ended, and goes on with the next start


def _gather(found: dict, failed: dict, seeds: list[int]) -> dict:
    by_config = {name: list(by_seed.values()) for name, by_seed in found.items()}
    has_test = any("test" in metrics for pairs in by_config.values() for metrics, _ in pairs)
    part, key = ("test", "baselines") if has_test else ("validation", "validation_baselines")
    result = {"seeds": seeds, "part": part, "configs": {}, "baselines": {}}
    for name, pairs in by_config.items():
        flat = [
            {
                **flatten_scores(metrics[part]),
                **{name: manifest[name] for name in ("seconds", "memory_gb") if manifest.get(name) is not None},
                "best_epoch": manifest["training"]["best_epoch"],
            }
            for metrics, manifest in pairs
        ]
        names = [score for score in flat[0] if all(score in scores for scores in flat)]
        columns = {score: [scores[score] for scores in flat] for score in names}
        metrics, manifest = pairs[0]
        result["configs"][name] = {
            "seeds": list(found[name]),
            "scores": {score: {**summarize(column), "all": column} for score, column in columns.items()},
            "failed": failed[name],
            "parameters": manifest["parameters"],
            "split_sha256": manifest["data"]["split_sha256"],
        }
        result["baselines"] |= {baseline: flatten_scores(scores) for baseline, scores in metrics[key].items()}
    if len(found) == 2:
        first, second = result["configs"].values()
        if set(first["seeds"]) & set(second["seeds"]):
            result["difference"] = {
                score: compare_paired(*pair_scores(first, second, score))
                for score in first["scores"]
                if score in second["scores"]
            }
    return result


def _show(summary: dict, digits: int = 3) -> str:
    spread = "" if summary["sd"] is None else f" ± {summary['sd']:.{digits}f}"
    return f"{summary['mean']:.{digits}f}{spread}"


def show_difference(found: dict, scale: float = 1.0, digits: int = 3) -> str:
    """Returns a difference with its 95% interval, if it has one."""
    shown = f"{scale * found['mean']:+.{digits}f}"
    if found["low"] is None:
        return shown
    return f"{shown} ({scale * found['low']:+.{digits}f} to {scale * found['high']:+.{digits}f})"


def format_markdown(head, rows) -> str:
    """Returns a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def format_table(result: dict) -> str:
    """Returns Markdown: a row a score, a column a config (mean ± sd), the baselines, and how two configs differ."""
    names = list(result["configs"])
    difference = result.get("difference")
    head = [f"{result['part']} part", *(f"{n} ({count_seeds(result['configs'][n])})" for n in names)]
    head += [f"{names[1]} − {names[0]} (95% interval)", "p"] if difference else []
    head += [name for name in result["baselines"]]
    rows = []
    for score in result["configs"][names[0]]["scores"]:
        cells = [TITLES.get(score, score)]
        digits = {"seconds": 0, "best_epoch": 1, "memory_gb": 1}.get(score, 3)
        for name in names:
            summary = result["configs"][name]["scores"].get(score)
            cells.append(_show(summary, digits) if summary else "")
        if difference and score in difference:
            p_value = difference[score]["p_value"]
            cells += [show_difference(difference[score]), "" if p_value is None else f"{p_value:.3f}"]
        elif difference:
            cells += ["", ""]
        for scores in result["baselines"].values():
            cells.append(f"{scores[score]:.3f}" if score in scores else "")
        rows.append(cells)
    lines = [format_markdown(head, rows)]
    for name in names:
        lines += [f"\n{name}, seed {seed}, failed: {why}" for seed, why in result["configs"][name]["failed"].items()]
    return "\n".join(lines) + "\n"


def count_seeds(config: dict) -> str:
    """Returns how many seeds a config (of study.json) was scored with, and of how many, if some failed."""
    count, all_ = len(config["seeds"]), len(config["seeds"]) + len(config["failed"])
    return f"{count} of {all_} seeds" if count < all_ else f"{count} seed{'s' if count > 1 else ''}"


def format_summary(result: dict) -> str:
    """Returns a few lines for the terminal: the main scores, and which config is better."""
    lines = []
    for name, config in result["configs"].items():
        shown = ", ".join(
            f"{TITLES.get(s, s)} {_show(config['scores'][s])}" for s in MAIN_SCORES if s in config["scores"]
        )
        lines.append(f"{name} ({count_seeds(config)}, {result['part']} part): {shown}")
    for name, scores in result["baselines"].items():
        shown = ", ".join(f"{TITLES.get(s, s)} {scores[s]:.3f}" for s in MAIN_SCORES if s in scores)
        lines.append(f"{name}: {shown}")
    if found := result.get("difference", {}).get(DECISIVE.name):
        first, second = result["configs"]
        if found["p_value"] is None:
            verdict = "whether by chance, these seeds do not tell"
        else:
            verdict = "more than chance" if found["p_value"] < 0.05 else "no more than chance explains"
            verdict += f" (paired t-test over seeds, p = {found['p_value']:.3f})"
        lines.append(f"{DECISIVE.title}, {second} against {first}: {show_difference(found)}: {verdict}")
    return "\n".join(lines)


def draw_study(result: dict) -> Figure:
    """Draws a point a seed, a bar a mean, baselines as dashed lines; equal seeds of two configs are joined."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    names = list(result["configs"])
    for axes, score in zip(figure.subplots(1, 2), MAIN_SCORES):
        for place, name in enumerate(names):
            summary = result["configs"][name]["scores"][score]
            values = summary["all"]
            width = 0.12 if len(names) == 1 and len(values) > 1 else 0.0  # lines join the points of two configs
            axes.plot(place + np.linspace(-width, width, len(values)), values, "o", color="#2a6fb0", zorder=3)
            axes.hlines(summary["mean"], place - 0.25, place + 0.25, color="#222222", linewidth=2)
        if len(names) == 2:
            first, second = result["configs"].values()
            for pair in zip(*pair_scores(first, second, score)):
                axes.plot([0, 1], pair, color="#2a6fb0", alpha=0.25, linewidth=1)
        for name, scores in result["baselines"].items():
            if name != "majority":  # far below: it would press the rest together
                axes.axhline(scores[score], color="#b05a2a", linestyle="--", linewidth=1)
                axes.annotate(
                    name.replace("_", " "), (len(names) - 0.52, scores[score]), ha="right", va="bottom", fontsize=7,
                    color="#b05a2a",
                )  # fmt: skip
        axes.set_xticks(range(len(names)), names)
        axes.set(xlim=(-0.5, len(names) - 0.5), title=f"{TITLES.get(score, score)} ({result['part']} part)")
        axes.grid(axis="y", alpha=0.2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


def name_configs(files: list[str]) -> dict[str, list[str]]:
    """Returns command-line words by the name of the file.

    Raises:
        UserError: if two files have the same name.
    """
    stems = [Path(file).stem for file in files]
    if len(set(stems)) < len(stems):
        raise UserError(f"--config: received {' and '.join(files)}, expected files of different names: rename one.")
    return {stem: ["--config", file] for stem, file in zip(stems, files)}


def check_seeds(count: int):
    if count < 1:
        raise UserError(f"--seeds: received {count}, expected at least 1 (5 tell something of the spread).")


def check_jobs(count: int):
    if count < 1:
        raise UserError(f"--jobs: received {count}, expected at least 1: how many runs train at a time.")
