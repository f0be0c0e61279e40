"""A run on its way: what each step of a task needs to know of it."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from keras_senti.settings.schema import Config
from keras_senti.storage import environment, run_folder
from keras_senti.training.devices import Device
from keras_senti.training.trackers import Tracker


@dataclass
class Run:
    """A run on its way.

    folder: where it leaves what it makes; a worker that is not the chief has one of its own. begun:
    `time.perf_counter` then. trackers: what the run is shown by; none where it is not the chief's.
    """

    config: Config
    device: Device
    folder: Path
    begun: float
    trackers: list[Tracker] = field(default_factory=list)
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

    def log_settings(self):
        for tracker in self.trackers:
            tracker.log_settings(self.config, f"{self.config.name}/{self.folder.name}")

    def log_scores(self, scores: dict):
        for tracker in self.trackers:
            tracker.log_scores(scores)

    def close(self):
        for tracker in self.trackers:
            tracker.close()
