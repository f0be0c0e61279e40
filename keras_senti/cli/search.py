"""Searches for settings: grid, random or Bayesian search over any keys of a config, by Optuna.

    python -m keras_senti search --config configs/tweets.yaml --space configs/search/tweets.yaml --trials 30

Other options are settings, as for train.py, of each trial. Everything lies in logs/searches/<name of the config>/
(--out: elsewhere): start.yaml, the settings that all trials begin with, also if the config is edited meanwhile;
search.db (SQLite); a run folder and a log for each trial; best.yaml, which train.py takes; trials.csv, history.png and
importance.png. The same command started once more, here or on a machine that shares the disk and its file locks, takes
part in the search; after Ctrl-C or kill -9 it goes on, and nothing is done twice. With more --trials it is extended.

A trial is judged by its best epoch on the validation part (train.monitor follows --metric), and ended early, from the
third epoch on, if it is worse than half of those that were trained to their end were by then (once there are five of
them). The test part is never touched. The best of many flatters itself, since it was chosen by the score that it shows:
so it is trained again with fresh seeds, beside the config that the search began with.
"""

import argparse

from keras_senti.errors import UserError
from keras_senti.evaluation.metrics import DECISIVE, METRICS
from keras_senti.experiments.search import SAMPLERS, run_search


def _read_options(argv) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, checked, and the other arguments, which are settings."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_senti search", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )  # fmt: skip
    parser.add_argument("--config", required=True, metavar="FILE", help="what the search begins with")
    parser.add_argument("--space", required=True, metavar="FILE", help="what it may change: see configs/search/")
    parser.add_argument("--trials", type=int, default=30, help="of all processes together (default: 30)")
    parser.add_argument("--sampler", choices=SAMPLERS, default="bayes")
    parser.add_argument("--metric", choices=[m.name for m in METRICS.values() if m.each_epoch], default=DECISIVE.name)
    parser.add_argument("--hours", type=float, help="after so many no trial begins")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    parser.add_argument("--confirm", type=int, default=3, metavar="SEEDS", help="fresh seeds at the end; 0: none")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trials at a time (no TPU), each with its share of the cores"
    )
    parser.add_argument("--out", metavar="FOLDER", help="default: logs/searches/<name of the config>")
    options, arguments = parser.parse_known_args(argv)
    limits = {"trials": 1, "confirm": 0, "seed": 0, "jobs": 1}
    for name, least in limits.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name}: received {getattr(options, name)}, expected at least {least}.")
    if options.hours is not None and not options.hours > 0:
        raise UserError(f"--hours: received {options.hours}, expected a number above 0.")
    return options, arguments


def main(argv):
    run_search(*_read_options(argv))
