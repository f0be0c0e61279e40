"""Searches for settings: grid, random or Bayesian search over any keys of a config, by Optuna.

    python -m keras_senti.search --config configs/tweets.yaml --space configs/search/tweets.yaml --trials 30

Other options are settings, as for train.py, of each trial. Everything lies in logs/searches/<name of the config>/
(--out: elsewhere): search.db (SQLite), a run folder and a log for each trial, best.yaml, which train.py takes,
trials.csv, history.png and importance.png. The same command started once more, here or on a machine that shares the
disk, takes part in the search; after Ctrl-C or kill -9 it goes on, and nothing is done twice.

A trial is judged by its best epoch on the validation part, and ended early if it is then worse than half of the others
were (after five trials). The test part is never touched. The best of many flatters itself, since it was chosen by the
score that it shows: so it is trained again with fresh seeds, beside the config that the search began with.
"""

import argparse
import contextlib
import csv
import io
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from keras_senti import runs
from keras_senti.config import UserError
from keras_senti.parsing import parse_config, run_command, settle, write_yaml
from keras_senti.space import Range, list_combinations, make_words, read_space
from keras_senti.study import TITLES, format_summary, run_study
from keras_senti.trials import TrialFailed, TrialStopped, format_duration, run_trial

SAMPLERS = ("grid", "random", "bayes")
FRESH_SEED = 1000  # the first of the seeds with which the best settings are confirmed
MOST_FAILURES = 3  # so many trials fail one after the other from the start: then it is not the settings
OFF = ["--train.evaluate_test", "false", "--baselines.models", "[majority]"]  # baselines do not depend on the settings


class Search:
    """A search in a folder, in which several processes may take part.

    Args:
        folder: where everything lies. words: command-line words of the config. space: what may change.
        trials: how many there are to be, in all processes together. sampler: one of SAMPLERS. seed: of the sampler.
        metric: macro_f1 | accuracy, of the validation part. space_file: its name, for messages.
    Raises:
        UserError: if the folder has a search with other settings, or its storage is damaged or locked.
    """

    def __init__(
        self, folder: Path, words, space: list[Range], trials: int, sampler: str, seed: int, metric, space_file
    ):
        self.folder, self.words, self.space, self.trials = folder, [*words, *OFF], space, trials
        self.sampler, self.seed, self.metric = sampler, seed, metric
        combinations = list_combinations(space, space_file) if sampler == "grid" else None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out: cannot make the folder {folder}: {error.strerror}.") from None
        with runs.lock_file(folder / "search.lock", wait=True), _explain_storage(folder / "search.db"):
            self.study = self._open()
            if combinations and not self.study.trials:
                self._enqueue(combinations)
        if combinations:
            self.trials = min(trials, len(combinations))

    def _open(self):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{self.folder / 'search.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
        study = optuna.create_study(
            storage=storage, study_name="search", direction="maximize", pruner=pruner, load_if_exists=True
        )
        config = settle(parse_config(self.words))
        asked = {
            "config": json.loads(json.dumps(_to_dict(config))),
            "space": [repr(values) for values in self.space],
            "sampler": self.sampler,
            "seed": self.seed,
            "metric": self.metric,
        }
        before = study.user_attrs.get("asked")
        if before is None:
            study.set_user_attr("asked", asked)
        elif before != asked:
            wrong = ", ".join(name for name in asked if asked[name] != before.get(name))
            raise UserError(
                f"{self.folder}: there is a search with another {wrong}. Name another folder with --out, or go back to "
                "what it began with."
            )
        return study

    def _enqueue(self, combinations: list[dict]):
        order = np.random.default_rng(self.seed).permutation(len(combinations))
        listed = {values.key for values in self.space if values.choices}
        for index in order[: self.trials]:
            chosen = combinations[index]
            self.study.enqueue_trial({k: json.dumps(v) if k in listed else v for k, v in chosen.items()})

    def _make_sampler(self, number: int):
        """Makes the sampler of one trial: with a seed of its own, or two processes would draw the same."""
        import optuna

        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "bayes":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def _take(self, stack: contextlib.ExitStack):
        """Returns the next trial to be run here, also one whose process was killed, or None; keeps its lock."""
        import optuna

        state = optuna.trial.TrialState
        with runs.lock_file(self.folder / "search.lock", wait=True):
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == state.RUNNING and self._lock(trial.number, stack):
                    return optuna.trial.Trial(self.study, trial._trial_id)
            waiting = sum(trial.state == state.WAITING for trial in trials)
            if len(trials) - waiting >= self.trials or (self.sampler == "grid" and not waiting):
                return None
            self.study.sampler = self._make_sampler(len(trials) - waiting)
            trial = self.study.ask()
            self._lock(trial.number, stack)
            self._choose(trial)
            return trial

    def _lock(self, number: int, stack: contextlib.ExitStack) -> bool:
        try:
            (self.folder / "trials").mkdir(exist_ok=True)
            stack.enter_context(runs.lock_file(self.folder / "trials" / f"trial-{number:03}.lock"))
            return True
        except BlockingIOError:
            return False

    def _choose(self, trial) -> dict:
        chosen = {}
        for values in self.space:
            if values.is_on(chosen):
                chosen[values.key] = values.ask(trial)
        return chosen

    def run(self, deadline: float | None = None):
        """Runs trials until there are as many as wished, or the time is over.

        Args:
            deadline: of time.monotonic(), after which no trial begins.
        Raises:
            UserError: if all trials fail.
        """
        while deadline is None or time.monotonic() < deadline:
            with contextlib.ExitStack() as stack, _explain_storage(self.folder / "search.db"):
                trial = self._take(stack)
                if trial is None:
                    return
                self._run_trial(trial)
        print("the time is over: the same command goes on with the search", flush=True)

    def _run_trial(self, trial):
        import optuna

        chosen, begin, state = self._choose(trial), time.perf_counter(), optuna.trial.TrialState

        def watch(rows) -> bool:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a resumed trial the first epochs have been reported
                for row in rows:
                    trial.report(float(row[f"val_{self.metric}"]), int(row["epoch"]))
            return trial.should_prune()

        shown = ", ".join(f"{key} {value}" for key, value in chosen.items())
        run_dir = self.folder / "trials" / f"trial-{trial.number:03}"
        try:
            metrics = run_trial([*self.words, *make_words(chosen)], run_dir, watch)
        except TrialStopped:
            self.study.tell(trial, state=state.PRUNED)
            self._say(trial, "ended early", shown, begin)
        except TrialFailed as error:
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=state.FAIL)
            self._say(trial, f"FAILED: {error}", shown, begin)
            self._check_failures(str(error))
        else:
            score = metrics["validation"][self.metric]
            self.study.tell(trial, score)
            self._say(trial, f"{TITLES.get(self.metric, self.metric)} {score:.4f}", shown, begin)

    def _check_failures(self, error: str):
        finished = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        if len(finished) >= min(MOST_FAILURES, self.trials) and all(t.state.name == "FAIL" for t in finished):
            raise UserError(f"search: all of {len(finished)} trials failed, so it is stopped. The last: {error}")

    def _say(self, trial, what: str, shown: str, begin: float):
        trials = self.study.get_trials(deepcopy=False)
        done = [t for t in trials if t.state.is_finished()]
        complete = [t for t in done if t.state.name == "COMPLETE"]
        best = max(complete, key=lambda t: t.value, default=None)
        spent = [(t.datetime_complete - t.datetime_start).total_seconds() for t in done]
        active = max(1, sum(t.state.name == "RUNNING" for t in trials) + 1)
        left = np.mean(spent) * (self.trials - len(done)) / active
        print(
            f"trial {trial.number} ({len(done)} of {self.trials}): {what} after {time.perf_counter() - begin:.0f} s"
            + (f"; best {best.value:.4f} (trial {best.number})" if best else "")
            + (f"; about {format_duration(left)} left" if len(done) < self.trials else "")
            + f"\n    {shown}",
            flush=True,
        )

    def is_over(self) -> bool:
        """Says whether all trials have ended, also those of other processes."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(t.state.is_finished() for t in trials) >= self.trials

    def write(self) -> Path | None:
        """Writes best.yaml, trials.csv and the pictures; returns the path of the first, None without a good trial."""
        trials = self.study.get_trials(deepcopy=False)
        complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
        names = [values.key for values in self.space]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", self.metric, "seconds", *names, "error"])
        for trial in trials:
            chosen = self._read_chosen(trial)
            seconds = trial.duration.total_seconds() if trial.duration else ""
            row = [trial.number, trial.state.name.lower(), "" if trial.value is None else trial.value, seconds]
            writer.writerow([*row, *(chosen.get(n, "") for n in names), trial.user_attrs.get("error", "")])
        runs.write_text(self.folder / "trials.csv", file.getvalue())
        if not complete:
            return None
        best = max(complete, key=lambda trial: trial.value)
        config = parse_config([*self.words[: -len(OFF)], *make_words(self._read_chosen(best))])
        head = (
            f"# The best of {len(complete)} trials of a search: trial {best.number}, {self.metric} {best.value:.4f} on "
        )
        text = f"{head}validation rows,\n# by which it was chosen, so it flatters.\n{write_yaml(settle(config))}"
        runs.write_text(self.folder / "best.yaml", text)
        self._draw(len(complete))
        return self.folder / "best.yaml"

    def _read_chosen(self, trial) -> dict:
        listed = {values.key for values in self.space if values.choices}
        return {key: json.loads(value) if key in listed else value for key, value in trial.params.items()}

    def _draw(self, complete: int):
        from optuna.visualization import matplotlib as drawing

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that drawing is experimental in Optuna
            pictures = {"history.png": drawing.plot_optimization_history}
            if complete > 1:  # the importance of a setting needs a difference
                pictures["importance.png"] = drawing.plot_param_importances
            for name, draw in pictures.items():
                with contextlib.suppress(ValueError, RuntimeError):  # all trials alike: nothing to be told apart
                    axes = draw(self.study)
                    axes.figure.set_size_inches(8, 4.5)
                    with runs.replace_file(self.folder / name) as file:
                        axes.figure.savefig(file, format="png", dpi=120, bbox_inches="tight")


def _to_dict(config) -> dict:
    import dataclasses

    content = dataclasses.asdict(config)
    return {name: value for name, value in content.items() if name not in ("device", "run_dir", "resume")}


@contextlib.contextmanager
def _explain_storage(path: Path):
    """Makes one message of what SQLite raises."""
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except DatabaseError as error:
        reason = str(error.orig or error).splitlines()[0]
        if "locked" in reason:
            what = "another process keeps it locked for a minute: wait until it has ended"
        else:
            what = "move it away to begin the search anew (the runs in trials/ are left as they are)"
        raise UserError(f"{path}: the search's storage cannot be used ({reason}). Mend it, or {what}.") from None


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m keras_senti.search", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )  # fmt: skip
    parser.add_argument("--config", required=True, metavar="FILE", help="what the search begins with")
    parser.add_argument("--space", required=True, metavar="FILE", help="what it may change: see configs/search/")
    parser.add_argument("--trials", type=int, default=30, help="of all processes together (default: 30)")
    parser.add_argument("--sampler", choices=SAMPLERS, default="bayes")
    parser.add_argument("--metric", choices=("macro_f1", "accuracy"), default="macro_f1")
    parser.add_argument("--hours", type=float, help="after so many no trial begins")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    parser.add_argument("--confirm", type=int, default=3, metavar="SEEDS", help="fresh seeds at the end; 0: none")
    parser.add_argument("--out", metavar="FOLDER", help="default: logs/searches/<name of the config>")
    options, words = parser.parse_known_args(argv)
    if options.trials < 1:
        raise UserError(f"--trials: received {options.trials}, expected at least 1.")
    if options.hours is not None and not options.hours > 0:
        raise UserError(f"--hours: received {options.hours}, expected a number above 0.")
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError('search needs Optuna: python -m pip install -e ".[search]"') from None
    start = ["--config", options.config, *words]
    space = read_space(options.space, start)
    folder = Path(options.out or Path("logs") / "searches" / Path(options.config).stem)
    asked = (options.trials, options.sampler, options.seed, options.metric, options.space)
    search = Search(folder, start, space, *asked)
    deadline = None if options.hours is None else time.monotonic() + 3600 * options.hours
    try:
        search.run(deadline)
    finally:
        best = search.write()
    if best is None:
        raise UserError(f"search: no trial has finished with a score; {folder / 'trials.csv'} says why.")
    print(
        f"best settings: {best}\nall trials: {folder / 'trials.csv'}; pictures: history.png, importance.png", flush=True
    )
    if options.confirm and search.is_over():
        _confirm(folder, start, best, options.confirm)


def _confirm(folder: Path, start: list[str], best: Path, seeds: int):
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(runs.lock_file(folder / "confirm.lock"))
        except BlockingIOError:
            print("another process confirms the best settings with fresh seeds")
            return
        print(f"\nconfirming with {seeds} fresh seeds, which the search has not seen:", flush=True)
        fresh = list(range(FRESH_SEED, FRESH_SEED + seeds))
        configs = {"start": start, "best": ["--config", str(best)]}
        result = run_study(configs, fresh, folder / "confirmed", ["--train.evaluate_test", "false"])
    print(f"\n{format_summary(result)}\nall scores: {folder / 'confirmed' / 'table.md'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
