"""A search of settings by Optuna, in which several processes can take part."""

import contextlib
import csv
import io
import json
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from keras_senti.errors import UserError
from keras_senti.experiments.search_space import Range, list_combinations, read_space
from keras_senti.experiments.study import TITLES, StudyInUse, format_summary, run_study
from keras_senti.experiments.trial import (
    ForeignFolder,
    TrialFailed,
    TrialStopped,
    check_trial_config,
    format_duration,
    freeze_config,
    make_folder,
    run_trial,
    share_cores,
)
from keras_senti.settings.command_line import parse_config, to_arguments
from keras_senti.settings.yaml_file import write_yaml
from keras_senti.storage import files, locks, run_folder

SAMPLERS = ("grid", "random", "bayes")
FRESH_SEED = 1000  # the first of the seeds with which the best settings are confirmed
MOST_FAILURES = 3  # so many trials fail one after the other from the start: then it is not the settings
OFF = ["--train.evaluate_test", "false", "--baselines.models", "[majority]"]  # baselines do not depend on the settings


class Search:
    """A search in a folder, in which several processes may take part.

    Args:
        folder: where everything lies. words: command-line words of the config, see `trial.freeze_config`.
        share: further words, of what the trials run on here, see `trial.share_cores`.
        space: what may change. trials: how many there are to be, in all processes together. sampler: one of SAMPLERS.
        seed: of the sampler. metric: macro_f1 | accuracy, of the validation part.
        combinations: of a grid, see `search_space.list_combinations`. stop: ends the trials that run here, when set.
    Raises:
        UserError: if the folder has a search for something else.
    """

    def __init__(
        self,
        folder: Path,
        words,
        share,
        space: list[Range],
        trials: int,
        sampler,
        seed: int,
        metric,
        combinations,
        stop,
    ):
        self.folder, self.words, self.share, self.space, self.sampler = folder, words, share, space, sampler
        self.seed = seed
        self.metric, self.stop = metric, stop
        self.trials = min(trials, len(combinations)) if sampler == "grid" else trials
        self.listed = {values.key for values in space if values.choices}
        (folder / "trials").mkdir(exist_ok=True)
        with locks.lock_file(folder / "search.lock", wait=True):
            self.study = self._open()
            if sampler == "grid":
                self._enqueue(combinations)

    def _open(self):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{self.folder / 'search.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        # Not in the first two epochs: what is regularised more learns later, and may end higher.
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
        study = optuna.create_study(
            storage=storage, study_name="search", direction="maximize", pruner=pruner, load_if_exists=True
        )
        asked = {"space": [repr(values) for values in self.space], "sampler": self.sampler, "seed": self.seed}
        asked["metric"] = self.metric
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
        """Adds what is not there yet: all at first, and more if more trials are wished, or a kill came in between."""
        order = np.random.default_rng(self.seed).permutation(len(combinations))
        for index in order[len(self.study.get_trials(deepcopy=False)) : self.trials]:
            chosen = combinations[index].items()
            self.study.enqueue_trial({k: json.dumps(v) if k in self.listed else v for k, v in chosen})

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
        with locks.lock_file(self.folder / "search.lock", wait=True):
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == state.RUNNING and self._lock(trial.number, stack):
                    # Its process may have ended it between our look and our lock.
                    if self.study.get_trials(deepcopy=False)[trial.number].state == state.RUNNING:
                        self.study.sampler = self._make_sampler(trial.number)
                        return optuna.trial.Trial(self.study, trial._trial_id)
                    stack.close()
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
            stack.enter_context(locks.lock_file(self.folder / "trials" / f"trial-{number:03}.lock"))
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
        """Runs trials, one after the other, until there are as many as wished, the time is over, or it is stopped.

        Args:
            deadline: of time.monotonic(), after which no trial begins.
        Raises:
            UserError: if all trials fail.
        """
        while not is_past(deadline) and not self.stop.is_set():
            with contextlib.ExitStack() as stack:
                trial = self._take(stack)
                if trial is None:
                    return
                self._run_trial(trial)

    def _run_trial(self, trial):
        import optuna

        chosen, begin, state = self._choose(trial), time.perf_counter(), optuna.trial.TrialState
        run_dir = self.folder / "trials" / f"trial-{trial.number:03}"

        def watch(rows) -> bool:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a resumed trial the first epochs have been reported
                for row in rows:
                    trial.report(float(row[f"val_{self.metric}"]), int(row["epoch"]))
            return trial.should_prune()

        def end(what: str, score: float | None = None, state=None, is_ours: bool = True):
            trial.set_user_attr("seconds", round(time.perf_counter() - begin, 1))
            self.study.tell(trial, score, state=state)
            for path in run_dir.glob("checkpoints/step-*.npz") if is_ours else ():
                path.unlink()  # nothing goes on from them any more, and many trials would fill a disk
            self._say(trial, what)

        values = (
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in chosen.items()
        )
        shown = ", ".join(values)
        print(f"trial {trial.number} {'goes on' if run_dir.exists() else 'begins'}: {shown}", flush=True)
        try:
            metrics = run_trial([*self.words, *self.share, *OFF, *to_arguments(chosen)], run_dir, watch, self.stop)
            self._check_split(run_dir)
        except TrialStopped:
            if self.stop.is_set():
                return  # it goes on with the next start
            end("ended early", state=state.PRUNED)
        except TrialFailed as error:
            trial.set_user_attr("error", str(error))
            end(f"FAILED: {error}", state=state.FAIL, is_ours=not isinstance(error, ForeignFolder))
            self._check_failures(str(error))
        else:
            score = metrics["validation"][self.metric]
            end(f"{TITLES.get(self.metric, self.metric)} {score:.4f}", score)

    def _check_split(self, run_dir: Path):
        split = run_folder.read_manifest(run_dir)["data"]["split_sha256"]
        if self.study.user_attrs.get("split_sha256") is None:
            self.study.set_user_attr("split_sha256", split)
        elif self.study.user_attrs["split_sha256"] != split:
            raise TrialFailed("the data is not what it was for the first trial: other rows are scored")

    def _check_failures(self, error: str):
        finished = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        if len(finished) >= min(MOST_FAILURES, self.trials) and all(t.state.name == "FAIL" for t in finished):
            raise UserError(f"search: all of {len(finished)} trials failed, so it is stopped. The last: {error}")

    def _say(self, trial, what: str):
        trials = self.study.get_trials(deepcopy=False)
        done = [t for t in trials if t.state.is_finished()]
        best = max((t for t in done if t.state.name == "COMPLETE"), key=lambda t: t.value, default=None)
        spent = {t.number: t.user_attrs["seconds"] for t in done}
        active = 1 + sum(t.state.name == "RUNNING" for t in trials)
        left = np.median(list(spent.values())) * (self.trials - len(done)) / active
        print(
            f"trial {trial.number} ({len(done)} of {self.trials}): {what} after {format_duration(spent[trial.number])}"
            + (f"; best {best.value:.4f} (trial {best.number})" if best else "")
            + (f"; about {format_duration(left)} left" if len(done) < self.trials else ""),
            flush=True,
        )

    def is_over(self) -> bool:
        """Says whether all trials have ended, also those of other processes."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(t.state.is_finished() for t in trials) >= self.trials

    def find_best(self):
        """Returns the trial with the highest score, None without a finished one."""
        complete = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        return max(complete, key=lambda trial: trial.value, default=None)

    def write(self) -> list[Path]:
        """Writes trials.csv and, if a trial has finished, best.yaml and the pictures; returns their paths."""
        trials, names = self.study.get_trials(deepcopy=False), [values.key for values in self.space]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", self.metric, "seconds", *names, "error"])
        for trial in trials:
            chosen, noted = self._read_chosen(trial), trial.user_attrs
            score = "" if trial.value is None or trial.state.name != "COMPLETE" else trial.value  # else of an epoch
            row = [trial.number, trial.state.name.lower(), score, noted.get("seconds", "")]
            writer.writerow([*row, *(chosen.get(name, "") for name in names), noted.get("error", "")])
        files.write_text(self.folder / "trials.csv", file.getvalue())
        best = self.find_best()
        if best is None:
            return [self.folder / "trials.csv"]
        config = parse_config([*self.words, *to_arguments(self._read_chosen(best))])
        files.write_text(
            self.folder / "best.yaml",
            f"# Trial {best.number} of {len(trials)} of a search: {self.metric} {best.value:.4f} on validation rows,\n"
            f"# by which it was chosen, so it flatters.\n{write_yaml(config)}",
        )
        return [self.folder / "trials.csv", self.folder / "best.yaml", *self._draw()]

    def _read_chosen(self, trial) -> dict:
        return {key: json.loads(value) if key in self.listed else value for key, value in trial.params.items()}

    def _draw(self) -> list[Path]:
        from matplotlib import pyplot, rc_context  # Optuna changes the style of all later pictures
        from optuna.visualization import matplotlib as drawing

        drawn, score = [], f"{TITLES.get(self.metric, self.metric)} on validation rows"
        pictures = {
            "history.png": (drawing.plot_optimization_history, {"ylabel": score}),
            "importance.png": (drawing.plot_param_importances, {"xlabel": f"share in how {score} varies"}),
        }
        for name, (draw, labels) in pictures.items():
            with warnings.catch_warnings(), rc_context(), contextlib.suppress(ValueError, RuntimeError):
                # Without a difference between two trials no setting is important, and Optuna raises.
                warnings.simplefilter("ignore")  # that drawing is experimental in Optuna
                axes = draw(self.study)
                axes.set(**labels)
                for text in axes.get_legend().get_texts() if name == "history.png" else ():
                    text.set_text(
                        text.get_text().replace("Objective Value", "a trial").replace("Best Value", "the best")
                    )
                if name == "importance.png":
                    axes.get_legend().remove()  # of one kind of bar
                axes.figure.set_size_inches(8, 4.5)
                with files.replace_file(self.folder / name) as file:
                    axes.figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
                pyplot.close(axes.figure)
                drawn.append(self.folder / name)
        return drawn


def is_past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


@contextlib.contextmanager
def _explain_storage(folder: Path):
    """Makes one message of what SQLite and Optuna raise of the storage."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = str(getattr(cause, "orig", None) or cause or error).splitlines()[0]
        if "locked" in reason:
            what = "Another process keeps it locked: start the same command again when that has ended."
        else:
            what = f"Bring a good copy back, or begin anew in another folder (--out); {folder} is left as it is."
        raise UserError(f"{folder / 'search.db'}: the search's storage cannot be used ({reason}). {what}") from None


def _run_jobs(searches: list[Search], deadline: float | None, stop: threading.Event):
    with ThreadPoolExecutor(len(searches)) as pool:
        try:
            for job in as_completed([pool.submit(search.run, deadline) for search in searches]):
                job.result()
        finally:  # also after Ctrl-C
            stop.set()


def _confirm(folder: Path, start: list[str], name: str, seeds: int, jobs: int):
    print(f"\nconfirming with {seeds} fresh seeds, which the search has not seen:", flush=True)
    fresh = list(range(FRESH_SEED, FRESH_SEED + seeds))
    configs = {"start": start, name: ["--config", str(folder / "best.yaml")]}
    try:
        result = run_study(configs, fresh, folder / "confirmed", ["--train.evaluate_test", "false"], jobs)
    except StudyInUse:
        print("another process has begun with it")
        return
    print(f"\n{format_summary(result)}\nall scores: {folder / 'confirmed' / 'table.md'}")


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
    start = ["--config", options.config, *arguments, "--train.monitor", f"val_{options.metric}"]
    space = read_space(options.space, start)
    combinations = list_combinations(space, options.space) if options.sampler == "grid" else None
    folder = make_folder(options.out or Path("logs") / "searches" / Path(options.config).stem, "search.lock")
    deadline = None if options.hours is None else time.monotonic() + 3600 * options.hours
    stop = threading.Event()

    def make_search() -> Search:
        share = share_cores(start, options.jobs)
        chosen = (options.trials, options.sampler, options.seed, options.metric, combinations)
        return Search(folder, start, share, space, *chosen, stop)

    try:
        with _explain_storage(folder):
            with locks.lock_file(folder / "search.lock", wait=True) as has_lock:
                start = freeze_config(start, folder / "start.yaml")
            if not has_lock:
                print(f"{folder} is on a disk without file locks: one process and one job only can search there")
                options.jobs = 1
            search = make_search()
            try:
                _run_jobs([search, *(make_search() for _ in range(options.jobs - 1))], deadline, stop)
            finally:
                is_over = search.is_over()  # before drawing: another process may end the last trial meanwhile
                written = search.write()
            best = search.find_best()
            if best is None and is_past(deadline):
                raise UserError(f"search: no trial had a score after {options.hours} hours (--hours).")
            if best is None and is_over:
                raise UserError(f"search: no trial has finished with a score; {folder / 'trials.csv'} says why.")
            if best is not None:
                print(f"best: trial {best.number}; in {folder}: {', '.join(path.name for path in written)}", flush=True)
        if not is_over:
            print(
                "the time is over: the same command goes on with the search"
                if is_past(deadline)
                else "other processes run the last trials; the last of them ends the search"
            )
        elif options.confirm and is_past(deadline):
            print("the time is over: the same command confirms the best settings with fresh seeds")
        elif options.confirm:
            _confirm(folder, start, f"best-trial-{best.number:03}", options.confirm, options.jobs)
    except KeyboardInterrupt:
        print(f"\nstopped: the same command goes on in {folder}", file=sys.stderr)
        raise
