"""What may be wrong with labelled data, for a person to review: label errors, near-duplicates, words that decide.

    python -m keras_senti audit --config configs/tweets.yaml --out audit.csv

Nothing is changed. A finding is a hint: a label that surprises a linear model is often right, and the text hard.
The rows are those that a run with the same settings reads, in its parts; linear models alone look at them.
"""

import argparse
from pathlib import Path

from keras_senti.errors import UserError
from keras_senti.evaluation.label_audit import audit_labels, format_audit, read_rows
from keras_senti.evaluation.predictions import to_csv
from keras_senti.settings.command_line import parse_config
from keras_senti.storage import files


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m keras_senti audit",
        description="Lists what may be wrong with labelled data: label errors, near-duplicates, words that decide.",
        epilog="All other options are settings, as of train.py: --config, --data.csv, ...; its --help lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="new CSV file of the findings")
    options, arguments = parser.parse_known_args(argv)
    config = parse_config(arguments)
    if config.resume is not None:
        raise UserError("--resume: there is no run to continue here. Leave it out.")
    if config.task == "language_model":
        raise UserError("task: received language_model, expected classification: labels are audited.")
    _check_out(options.out)
    rows, class_names = read_rows(config)
    found = audit_labels(rows, class_names)
    _check_out(options.out)  # again: this took minutes
    with files.replace_file(options.out) as file:
        file.write(to_csv(found))
    counts = ", ".join(f"{name} {count:,}" for name, count in rows["part"].value_counts(sort=False).items())
    print(f"{len(rows):,} rows ({counts})\n{format_audit(found)}\n{options.out}: {len(found):,} findings to review")


def _check_out(out: Path):
    if out.exists():
        raise UserError(f"--out: {out} is there already. Name a new file, or move it away.")
    if not out.parent.is_dir():
        raise UserError(f"--out: there is no folder {out.parent}. Make it, or name a file elsewhere.")
