"""Several workers of one cluster on this machine, to try a distribution strategy out."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from keras_senti.errors import UserError

SECONDS_TO_END = 10  # between asking a worker to end and ending it


def find_free_ports(count: int) -> list[int]:
    """Returns ports of the loopback address that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start_workers(command: list[str], workers: int, started: list[subprocess.Popen]):
    """Starts the command once for each worker; adds each to `started` at once, so that it can be ended.

    TensorFlow listens on all of the machine's addresses, whatever TF_CONFIG names: GrpcServer::Init has it fixed.
    """
    addresses = [f"127.0.0.1:{port}" for port in find_free_ports(workers)]
    for index in range(workers):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster), "PYTHONUNBUFFERED": "1"}
        try:
            worker = subprocess.Popen(
                command, env=environment, text=True, errors="replace", stderr=subprocess.PIPE,
                stdout=None if index == 0 else subprocess.DEVNULL,
                start_new_session=True,  # a group of its own, so that a worker's own children end with it
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"launch: cannot start {command[0]}: {error.strerror}.") from None
        started.append(worker)
        _give_cores(worker, index, workers)
        threading.Thread(target=_show_errors, args=(worker.stderr, index), daemon=True).start()


def _give_cores(worker: subprocess.Popen, index: int, workers: int):
    """Keeps a worker to its share of the cores, where the system can: else all would start threads for each core."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.sched_setaffinity(worker.pid, cores[index::workers] or [cores[index % len(cores)]])


def _show_errors(lines, index: int):
    for line in lines:
        print(f"[worker {index}] {line}", end="", file=sys.stderr, flush=True)


def wait_for_workers(workers: list[subprocess.Popen]) -> int:
    """Waits until all have ended, and ends the others if one fails. Returns its exit code, or 0."""
    codes = [None]
    while None in codes and not any(codes):
        time.sleep(0.2)
        codes = [worker.poll() for worker in workers]
    if not any(codes):
        return 0
    time.sleep(1)  # so that its last words stand before ours
    index, code = next((index, code) for index, code in enumerate(codes) if code)
    if None in codes:
        print(
            f"launch: worker {index} {describe_exit(code)}; ending the others. To go on from the last checkpoint, "
            "start the same command with --resume RUN instead of --config.", file=sys.stderr, flush=True,
        )  # fmt: skip
    end_workers(workers)
    return code if code > 0 else 128 - code


def describe_exit(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def end_workers(workers: list[subprocess.Popen]):
    """Asks those that still run to end, and after a while, or if it is interrupted meanwhile, ends them."""
    try:
        send(workers, signal.SIGTERM)
        _wait_until_ended(workers)
    finally:
        send(workers, getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has one way to end a process
        _wait_until_ended(workers)


def send(workers: list[subprocess.Popen], number: int):
    for worker in workers:
        if worker.poll() is None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, number)
        elif worker.poll() is None and number != signal.SIGINT:  # on Windows Ctrl-C has reached the workers too
            worker.terminate()


def _wait_until_ended(workers: list[subprocess.Popen]):
    deadline = time.monotonic() + SECONDS_TO_END
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
