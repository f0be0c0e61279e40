"""Processes of their own for what is timed, because the thread pools of TensorFlow and PyTorch disturb each other."""

import multiprocessing
import os
import time
import traceback
from concurrent.futures import ProcessPoolExecutor


def run_alone(function, *arguments):
    """Returns what the function returns in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def serve(connection):
    """Runs in a process of its own: builds the competitor that it is told, and times as many steps as it is told.

    A builder returns a function that does a step; what it has noted as `note` is the reply.
    """
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # the first process would take a whole GPU
    # PyTorch's threads would else wait in busy loops, and a step takes 10 times as long when anything else runs.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    step = None
    while True:
        try:
            request = connection.recv()
        except EOFError:  # the main process has ended
            return
        try:
            if isinstance(request, tuple):
                step = request[0](*request[1:])
                for _ in range(2):  # these compile
                    step()
                reply = getattr(step, "note", None)
            else:
                begin = time.perf_counter()
                for _ in range(request):
                    step()
                reply = (time.perf_counter() - begin) / request
            connection.send((True, reply))
        except Exception:
            connection.send((False, traceback.format_exc()))


class Workers:
    """The processes, one for each name of a competitor; they start when they are first needed and serve all cases."""

    def __init__(self):
        self.context = multiprocessing.get_context("spawn")
        self.connections = {}

    def send(self, name: str, request):
        if name not in self.connections:
            self.connections[name], end = self.context.Pipe()
            self.context.Process(target=serve, args=(end,), daemon=True).start()
        self.connections[name].send(request)

    def build(self, requests: dict[str, tuple]) -> dict:
        """Sends each process the builder of a step and its arguments; returns the replies."""
        for name, request in requests.items():
            self.send(name, request)
        return {name: self.receive(name) for name in requests}

    def receive(self, name: str):
        succeeded, reply = self.connections[name].recv()
        if not succeeded:
            raise SystemExit(f"{name} failed:\n{reply}")
        return reply

    def time(self, name: str, steps: int) -> float:
        time.sleep(0.005)  # threads of the one before may still look for work
        self.send(name, steps)
        return self.receive(name)
