"""A model as weights without a graph: small enough to hand around, whole enough to predict with and to train further.

    python -m keras_senti export logs/tweets/<run> FOLDER --dtype float16

What is in such a folder: `export.weights_folder`.
"""

import argparse
from pathlib import Path

from keras_senti.errors import UserError
from keras_senti.export.weights_folder import DTYPES, read_run, write_compact


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m keras_senti export",
        description="Makes a weights folder, for keras_senti.load and --init_from, from a finished run.",
        allow_abbrev=False,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of a finished run, of either task")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="new folder")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights; default: %(default)s")
    options = parser.parse_args(argv)
    folder = options.folder
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"FOLDER: {folder} is there already and not an empty folder. Name a new one.")
    model = read_run(options.run_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"FOLDER: cannot make {folder.parent}: {error.strerror}.") from None
    write_compact(folder, model, options.dtype)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {len(model.weights)} weights of {model.config.name} in {options.dtype}, {size / 1e6:.1f} MB")
