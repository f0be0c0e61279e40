"""Trains a config with several seeds, or two configs with the same seeds: how good is it, and was it luck?

    python -m keras_senti study --config configs/tweets.yaml --seeds 5
    python -m keras_senti study --config configs/tweets.yaml --config configs/document.yaml --seeds 5 --train.epochs 3

Other options are settings, as for train.py, of each run. Everything lies in logs/studies/<names>/ (--out: elsewhere): a
run folder and a log for each seed, study.json with every score, table.md, study.png. Started again it goes on where it
stopped, also after kill -9, and does nothing twice; more seeds can be added. A run that fails is said and left out.

Scores are of the validation part; the test part is left alone unless --train.evaluate_test true is given, which is for
the end, when nothing will be chosen any more. The split is the same for all seeds (data.seed), so the spread is that of
initial weights, order and dropout, and says nothing of other texts: for those see the intervals in a run's report.
"""

import argparse
from pathlib import Path

from keras_senti.errors import UserError
from keras_senti.experiments.study import format_summary, run_study


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m keras_senti study", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )  # fmt: skip
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="one, or two to compare")
    parser.add_argument("--seeds", type=int, default=5, help="train.seed 0, 1, ... (default: 5)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (no TPU), each with its share of the cores")
    parser.add_argument("--out", metavar="FOLDER", help="default: logs/studies/<names of the configs>")
    options, arguments = parser.parse_known_args(argv)
    for name in ("seeds", "jobs"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: received {getattr(options, name)}, expected at least 1.")
    configs = {Path(file).stem: ["--config", file] for file in options.config}
    if len(options.config) > 2 or len(configs) < len(options.config):
        received = f"{len(options.config)} files, {', '.join(options.config)}"
        raise UserError(f"--config: received {received}, expected one, or two files of different names.")
    folder = Path(options.out or Path("logs") / "studies" / "-".join(configs))
    if not any(argument.split("=")[0] == "--train.evaluate_test" for argument in arguments):
        arguments = [*arguments, "--train.evaluate_test", "false"]
    result = run_study(configs, list(range(options.seeds)), folder, arguments, options.jobs)
    print(f"\n{format_summary(result)}\n\nall scores: {folder / 'table.md'}, {folder / 'study.json'}; picture: "
          f"{folder / 'study.png'}")  # fmt: skip
