"""The commands of the package: python -m keras_senti COMMAND ..."""

import importlib
import sys

from keras_senti.errors import run_command, suggest

COMMANDS = {
    "train": "trains, scores and exports a classifier",
    "evaluate": "shows a run's score, or applies its model to other texts",
    "study": "trains a config with several seeds, or two configs with the same",
    "search": "searches for settings",
    "audit": "lists what may be wrong with labelled data",
    "export": "writes a model as weights without a graph",
    "launch": "starts several workers of one training run on this machine",
}


def main(argv: list[str]) -> int:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print("usage: python -m keras_senti COMMAND ...\n")
        print("\n".join(f"  {name:9} {what}" for name, what in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command '{name}'.{suggest(name, COMMANDS)} `--help` lists them.", file=sys.stderr)
        return 2
    sys.argv = [f"python -m keras_senti {name}", *argv[1:]]
    return run_command(importlib.import_module(f"keras_senti.cli.{name}").main)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
