"""The trials of a search, in a file of Optuna's that several processes share: who runs which, and what came out."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_senti.errors import UserError
from keras_senti.evaluation.metrics import METRICS
from keras_senti.experiments.search_space import Range
from keras_senti.experiments.trial import TrialFailed
from keras_senti.storage.locks import InUse, lock_file
from keras_senti.storage.run_folder import read_manifest

SAMPLERS = ("grid", "random", "bayes")


@dataclass(frozen=True)
class Plan:
    """What a search is asked for.

    space: what may change. trials: how many, in all processes together. sampler: one of SAMPLERS, with its seed.
    metric: one of METRICS of each epoch, of the validation part. combinations: of a grid, see
    `search_space.list_combinations`.
    """

    space: list[Range]
    trials: int
    sampler: str
    seed: int
    metric: str
    combinations: list[dict] | None


class SharedTrials:
    """The trials that are waiting, running or have ended, of all processes that search in a folder.

    A trial belongs to who holds its lock. Optuna's own means do not serve: with its heartbeat a killed trial fails and
    comes again under another number, one that was stopped by Ctrl-C never.

    Raises:
        UserError: if the folder has a search for something else.
    """

    def __init__(self, folder: Path, plan: Plan):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.plan = folder, plan
        self.listed = {values.key for values in plan.space if values.choices}
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{folder / 'search.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        # Not in the first two epochs: what is regularised more learns later, and may end higher.
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
        direction = "maximize" if METRICS[plan.metric].higher_is_better else "minimize"
        self.study = optuna.create_study(
            storage=storage, study_name="search", direction=direction, pruner=pruner, load_if_exists=True
        )
        asked = {"space": [repr(values) for values in plan.space], "sampler": plan.sampler}
        asked |= {"seed": plan.seed, "metric": plan.metric}
        before = self._agree("asked", asked)
        if wrong := ", ".join(name for name in asked if asked[name] != before[name]):
            raise UserError(f"{folder}: there is a search with another {wrong}. Name another folder with --out.")
        if plan.combinations is not None:
            self._enqueue()

    def _agree(self, name: str, value):
        """Returns what the first process has noted by this name."""
        if name not in self.study.user_attrs:
            self.study.set_user_attr(name, value)
        return self.study.user_attrs[name]

    def _enqueue(self):
        """Adds what is not there yet: all at first, and more if more trials are wished, or a kill came in between."""
        order = np.random.default_rng(self.plan.seed).permutation(len(self.plan.combinations))
        for index in order[len(self.list_all()) : self.plan.trials]:
            chosen = self.plan.combinations[index].items()
            self.study.enqueue_trial({k: json.dumps(v) if k in self.listed else v for k, v in chosen})

    def _set_sampler(self, number: int):
        """Gives a trial a sampler with a seed of its own, or two processes would draw the same."""
        import optuna

        seed = int(np.random.SeedSequence([self.plan.seed, number]).generate_state(1)[0])
        if self.plan.sampler == "bayes":
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        else:
            self.study.sampler = optuna.samplers.RandomSampler(seed=seed)

    def take(self, stack: contextlib.ExitStack):
        """Returns the next trial to be run here, also one whose process was killed, or None; `stack` holds its lock."""
        with lock_file(self.folder / "search.lock", wait=True):
            trial, chosen = self._take_over(stack) or self._begin(stack), {}
            for values in self.plan.space if trial else ():
                if values.is_on(chosen):
                    chosen[values.key] = values.ask(trial)
            return trial

    def _take_over(self, stack: contextlib.ExitStack):
        import optuna

        for number in [trial.number for trial in self.list_all() if trial.state.name == "RUNNING"]:
            if self._lock(number, stack):
                trial = self.list_all()[number]
                if trial.state.name == "RUNNING":  # its process may have ended it between our look and our lock
                    self._set_sampler(number)
                    return optuna.trial.Trial(self.study, trial._trial_id)
                stack.close()
        return None

    def _begin(self, stack: contextlib.ExitStack):
        trials = self.list_all()
        begun = sum(trial.state.name != "WAITING" for trial in trials)
        if begun >= self.plan.trials or (self.plan.combinations is not None and begun == len(trials)):
            return None
        self._set_sampler(begun)
        trial = self.study.ask()
        self._lock(trial.number, stack)
        return trial

    def _lock(self, number: int, stack: contextlib.ExitStack) -> bool:
        try:
            stack.enter_context(lock_file(self.get_folder(number).with_suffix(".lock")))
            return True
        except InUse:
            return False

    def get_folder(self, number: int) -> Path:
        """Returns where the run of a trial lies."""
        return self.folder / "trials" / f"trial-{number:03}"

    def check_split(self, number: int):
        """Raises a TrialFailed if a trial is scored on other rows than the first."""
        split = read_manifest(self.get_folder(number))["data"]["split_sha256"]
        if self._agree("split_sha256", split) != split:
            raise TrialFailed("the data is not what it was for the first trial: other rows are scored")

    def end(self, trial, state: str, score: float | None):
        import optuna

        self.study.tell(trial, score, state=optuna.trial.TrialState[state])

    def list_all(self) -> list:
        return self.study.get_trials(deepcopy=False)

    def list_ended(self) -> list:
        return [trial for trial in self.list_all() if trial.state.is_finished()]

    def is_over(self) -> bool:
        """Says whether all trials have ended, also those of other processes."""
        return len(self.list_ended()) >= self.plan.trials

    def find_best(self):
        """Returns the trial with the best score, None without a finished one."""
        complete = [trial for trial in self.list_all() if trial.state.name == "COMPLETE"]
        choose = max if METRICS[self.plan.metric].higher_is_better else min
        return choose(complete, key=lambda trial: trial.value, default=None)

    def read_chosen(self, trial) -> dict:
        """Returns the values of a trial by the keys of the config."""
        return {key: json.loads(value) if key in self.listed else value for key, value in trial.params.items()}


@contextlib.contextmanager
def explain_storage(folder: Path):
    """Makes one message of what SQLite and Optuna raise of the storage."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__ or error
        reason = str(getattr(cause, "orig", cause)).splitlines()[0]
        remedy = "Wait until no other process keeps it locked" if "locked" in reason else "Bring a good copy back"
        raise UserError(
            f"{folder / 'search.db'}: the search's storage cannot be used ({reason}). {remedy}, or begin anew in "
            "another folder (--out)."
        ) from None
