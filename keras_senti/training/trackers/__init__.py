"""Where a run can be followed from outside: a tracker is a file here, and a line in `make_trackers`."""

from pathlib import Path

from keras_senti.settings.schema import Config
from keras_senti.training.trackers.base import Tracker
from keras_senti.training.trackers.tensorboard import TensorBoard


def make_trackers(config: Config, folder: Path) -> list[Tracker]:
    """Returns what follows the run of this folder."""
    return [TensorBoard(config, folder / "tensorboard")]
