"""Starts several workers of one training run on this machine, to try out what several machines do.

    python -m keras_senti launch --workers 2 -- python train.py --config configs/tweets.yaml

Each worker is a process of its own, with its share of the processor cores and the environment variable TF_CONFIG, which
on several machines is set by whoever starts them. The lines of the first worker, the chief, are shown; the others write
into the run's log only what goes wrong. If one ends before its time, the others are ended too.
"""

import argparse
import os
import signal
import sys

from keras_senti.errors import Terminated, UserError
from keras_senti.experiments.local_workers import end_workers, send, start_workers, wait_for_workers


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m keras_senti launch", allow_abbrev=False, description=__doc__.splitlines()[0]
    )
    parser.add_argument("--workers", type=int, required=True, help="processes to start, at least 1")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and what each worker runs")
    options = parser.parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.workers < 1:
        raise UserError(f"--workers: received {options.workers}, expected at least 1.")
    if not command:
        raise UserError(
            "launch: received no command. Example: --workers 2 -- python train.py --config configs/tweets.yaml"
        )
    if os.environ.get("TF_CONFIG"):
        raise UserError(
            "TF_CONFIG is set already: launch sets it for its workers. Unset it, or start the command itself."
        )
    print(
        "launch: tf.distribute opens a port of each worker to the whole network, without a password: use it on a "
        "machine that a firewall protects.", file=sys.stderr, flush=True,
    )  # fmt: skip
    workers = []
    try:
        start_workers(command, options.workers, workers)
        code = wait_for_workers(workers)
    except Terminated:
        raise
    except KeyboardInterrupt:
        send(workers, signal.SIGINT)  # as Ctrl-C would without us; the chief then keeps its best epoch
        code = wait_for_workers(workers)
    finally:
        end_workers(workers)
    if code:
        sys.exit(code)
