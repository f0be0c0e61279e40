"""A run on its way: what each step of a task needs to know of it."""

import time
from dataclasses import dataclass
from pathlib import Path

from keras_senti.settings.schema import Config
from keras_senti.storage import environment, run_folder
from keras_senti.training.devices import Device


@dataclass
class Run:
    """A run on its way.

    folder: where it leaves what it makes; a worker that is not the chief has one of its own. begun:
    `time.perf_counter` then.
    """

    config: Config
    device: Device
    folder: Path
    begun: float
    is_finished: bool = False

    @property
    def has_checkpoint(self) -> bool:
        return any((self.folder / "checkpoints").glob("step-*.npz"))

    def note(self, **facts):
        """Writes what was found out into the manifest."""
        run_folder.update_manifest(self.folder, **facts)

    def finish(self):
        seconds = round(time.perf_counter() - self.begun, 1)
        self.note(status="finished", seconds=seconds, memory_gb=environment.read_peak_memory())
        self.is_finished = True
