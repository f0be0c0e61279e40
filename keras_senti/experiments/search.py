"""A search of settings by Optuna, in which several processes can take part."""

import contextlib
import csv
import io
import math
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from keras_senti.errors import UserError
from keras_senti.evaluation.metrics import METRICS
from keras_senti.experiments.search_space import list_combinations, read_space
from keras_senti.experiments.search_trials import Plan, SharedTrials, explain_storage
from keras_senti.experiments.study import format_summary, run_study
from keras_senti.experiments.trial import (
    ForeignFolder,
    TrialFailed,
    TrialStopped,
    check_trial_config,
    format_duration,
    freeze_config,
    make_folder,
    run_jobs,
    run_trial,
    share_cores,
)
from keras_senti.settings.command_line import parse_config, to_arguments
from keras_senti.settings.yaml_file import write_yaml
from keras_senti.storage.files import replace_file, write_text
from keras_senti.storage.locks import InUse, lock_file
from keras_senti.storage.run_folder import remove_checkpoints

FRESH_SEED = 1000  # the first of the seeds with which the best settings are confirmed
MOST_FAILURES = 3  # so many trials fail one after the other from the start: then it is not the settings
OFF = ["--train.evaluate_test", "false", "--baselines.models", "[majority]"]  # baselines do not depend on the settings


def run_search(options, arguments: list[str]):
    """Searches, writes what was found, and confirms the best settings with fresh seeds.

    Args:
        options: of `cli.search`. arguments: settings of each trial, as for train.py.
    Raises:
        UserError: for settings or a space that cannot work, if Optuna is missing, or if no trial has a score.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError('search needs Optuna: python -m pip install -e ".[search]"') from None
    check_trial_config(["--config", options.config, *arguments])
    arguments = ["--config", options.config, *arguments, "--train.monitor", f"val_{options.metric}"]
    space = read_space(options.space, arguments)
    combinations = list_combinations(space, options.space) if options.sampler == "grid" else None
    most = options.trials if combinations is None else min(options.trials, len(combinations))
    plan = Plan(space, most, options.sampler, options.seed, options.metric, combinations)
    folder = Path(options.out or Path("logs") / "searches" / Path(options.config).stem)
    make_folder(folder, "search.lock")
    deadline, jobs = time.monotonic() + 3600 * (options.hours or math.inf), options.jobs
    try:
        with explain_storage(folder):
            with lock_file(folder / "search.lock", wait=True) as has_lock:
                start = freeze_config(arguments, folder / "start.yaml")
                trials = SharedTrials(folder, plan)
            if not has_lock:
                print(f"{folder} is on a disk without file locks: one process and one job only can search there")
                jobs = 1
            is_over = _search(trials, start, jobs, deadline)
        if not is_over and time.monotonic() < deadline:
            print("other processes run the last trials; the last of them ends the search")
        elif not is_over:
            print("the time is over: the same command goes on with the search")
        elif options.confirm and time.monotonic() >= deadline:
            print("the time is over: the same command confirms the best settings with fresh seeds")
        elif options.confirm:
            _confirm(trials, start, options.confirm, jobs)
    except KeyboardInterrupt:
        print(f"\nstopped: the same command goes on in {folder}", file=sys.stderr)
        raise


def _search(trials: SharedTrials, start: list[str], jobs: int, deadline: float) -> bool:
    """Runs what trials are left, and writes what was found; returns whether all have ended."""
    searcher = Searcher(trials, [*start, *share_cores(start, jobs), *OFF], deadline)
    try:
        for _ in run_jobs(searcher.run, range(jobs), jobs, searcher.stop):
            pass
    finally:
        is_over = trials.is_over()  # before drawing: another process may end the last trial meanwhile
        written = write_results(trials, start)
    best = trials.find_best()
    if best is not None:
        names = ", ".join(path.name for path in written)
        print(f"best: trial {best.number}; in {trials.folder}: {names}", flush=True)
    elif is_over or time.monotonic() >= deadline:
        raise UserError(f"search: no trial has a score; {written[0]} says why. With --hours, give it more of them.")
    return is_over


def _confirm(trials: SharedTrials, start: list[str], seeds: int, jobs: int):
    print(f"\nconfirming with {seeds} fresh seeds, which the search has not seen:", flush=True)
    best = ["--config", str(trials.folder / "best.yaml")]
    configs = {"start": start, f"best-{trials.get_folder(trials.find_best().number).name}": best}
    fresh, folder = list(range(FRESH_SEED, FRESH_SEED + seeds)), trials.folder / "confirmed"
    try:
        result = run_study(configs, fresh, folder, ["--train.evaluate_test", "false"], jobs)
    except InUse:
        print("another process has begun with it")
        return
    print(f"\n{format_summary(result)}\nall scores: {folder / 'table.md'}")


class Searcher:
    """Runs trials of a search in this process.

    Args:
        arguments: of `train.py`, for what does not change. deadline: of time.monotonic(), after which no trial begins.
    """

    def __init__(self, trials: SharedTrials, arguments: list[str], deadline: float):
        self.trials, self.arguments, self.deadline = trials, arguments, deadline
        self.metric, self.stop = trials.plan.metric, threading.Event()

    def run(self, _job: int):
        """Runs trials until there are as many as wished, the time is over, or it is stopped; raises if all fail."""
        while time.monotonic() < self.deadline and not self.stop.is_set():
            with contextlib.ExitStack() as stack:
                trial = self.trials.take(stack)
                if trial is None:
                    return
                self._run_trial(trial)

    def _run_trial(self, trial):
        chosen, begin = self.trials.read_chosen(trial), time.perf_counter()
        run_dir, score, is_ours = self.trials.get_folder(trial.number), None, True
        shown = (
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in chosen.items()
        )
        print(f"trial {trial.number} {'goes on' if run_dir.exists() else 'begins'}: {', '.join(shown)}", flush=True)
        arguments = [*self.arguments, *to_arguments(chosen)]
        try:
            metrics = run_trial(arguments, run_dir, lambda rows: self._watch(trial, rows), self.stop)
            self.trials.check_split(trial.number)
            score, state = metrics["validation"][self.metric], "COMPLETE"
            said = f"{METRICS[self.metric].title} {score:.4f}"
        except TrialStopped:
            if self.stop.is_set():
                return  # it goes on with the next start
            state, said = "PRUNED", "ended early"
        except TrialFailed as error:
            trial.set_user_attr("error", str(error))
            state, said, is_ours = "FAIL", f"FAILED: {error}", not isinstance(error, ForeignFolder)
        trial.set_user_attr("seconds", round(time.perf_counter() - begin, 1))
        self.trials.end(trial, state, score)
        if is_ours:
            remove_checkpoints(run_dir)  # nothing goes on from them any more, and many trials would fill a disk
        self._say(trial, said)

    def _watch(self, trial, rows: list[dict]) -> bool:
        """Returns whether a trial is not worth to be gone on with."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a resumed trial the first epochs have been reported
            for row in rows:
                trial.report(float(row[f"val_{self.metric}"]), int(row["epoch"]))
        return trial.should_prune()

    def _say(self, trial, what: str):
        """Prints how a trial has ended; raises a UserError if all have failed."""
        ended, best, wished = self.trials.list_ended(), self.trials.find_best(), self.trials.plan.trials
        active = 1 + sum(other.state.name == "RUNNING" for other in self.trials.list_all())
        left = np.median([other.user_attrs["seconds"] for other in ended]) * (wished - len(ended)) / active
        seconds = format_duration(trial.user_attrs["seconds"])
        print(
            f"trial {trial.number} ({len(ended)} of {wished}): {what} after {seconds}"
            + (f"; best {best.value:.4f} (trial {best.number})" if best else "")
            + (f"; about {format_duration(left)} left" if len(ended) < wished else ""),
            flush=True,
        )
        if len(ended) >= min(MOST_FAILURES, wished) and all(other.state.name == "FAIL" for other in ended):
            why = ended[-1].user_attrs["error"]
            raise UserError(f"search: all of {len(ended)} trials failed, so it is stopped. The last: {why}")


def write_results(trials: SharedTrials, start: list[str]) -> list[Path]:
    """Writes trials.csv and, if a trial has finished, best.yaml and the pictures; returns their paths."""
    folder, metric, file = trials.folder, trials.plan.metric, io.StringIO()
    keys = [values.key for values in trials.plan.space]
    writer = csv.DictWriter(file, ["trial", "state", metric, "seconds", *keys, "error"], lineterminator="\n")
    writer.writeheader()
    for trial in trials.list_all():
        score = trial.value if trial.state.name == "COMPLETE" else None  # else of an epoch
        row = {"trial": trial.number, "state": trial.state.name.lower(), metric: score}
        writer.writerow({**row, **trials.read_chosen(trial), **trial.user_attrs})
    write_text(folder / "trials.csv", file.getvalue())
    best = trials.find_best()
    if best is None:
        return [folder / "trials.csv"]
    config = parse_config([*start, *to_arguments(trials.read_chosen(best))])
    write_text(
        folder / "best.yaml",
        f"# Trial {best.number} of {len(trials.list_all())} of a search: {metric} {best.value:.4f} on validation "
        f"rows,\n# by which it was chosen, so it flatters.\n{write_yaml(config)}",
    )
    pictures = _draw(trials)
    for name, figure in pictures.items():
        with replace_file(folder / name) as file:
            figure.savefig(file, format="png", dpi=120)
    return [folder / name for name in ("trials.csv", "best.yaml", *pictures)]


def _draw(trials: SharedTrials) -> dict[str, Figure]:
    """Draws the score of each trial and, if they differ, how much of that each setting explains."""
    from optuna.importance import get_param_importances

    metric = METRICS[trials.plan.metric]
    label, better = f"{metric.title} on validation rows", np.maximum if metric.higher_is_better else np.minimum
    scores = {trial.number: trial.value for trial in trials.list_all() if trial.state.name == "COMPLETE"}
    history, importance = (Figure(figsize=(8, 4.5), layout="constrained") for _ in range(2))
    axes = history.subplots()
    axes.plot(list(scores), list(scores.values()), "o", color="#2a6fb0", label="a trial")
    best = better.accumulate(list(scores.values()))
    axes.step(list(scores), best, where="post", color="#b05a2a", label="the best")
    axes.set(xlabel="trial", ylabel=label)
    axes.legend()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that of few trials all are equal
            shares = get_param_importances(trials.study)
    except (ValueError, RuntimeError):  # of one trial, or without a difference between two
        return {"history.png": history}
    axes = importance.subplots()
    axes.bar_label(axes.barh(list(shares)[::-1], list(shares.values())[::-1], color="#2a6fb0"), fmt="%.2f")
    axes.set(xlabel=f"share in how {label} varies")
    return {"history.png": history, "importance.png": importance}
