"""What a run found out about its model: handed on in memory, and kept in the run's folder for the next process."""

from dataclasses import dataclass
from pathlib import Path

from keras_senti.evaluation.calibration import read_calibration
from keras_senti.evaluation.predictions import ScoredPart, read_parts, write_run_predictions
from keras_senti.storage import files


@dataclass(frozen=True)
class Result:
    """What a classifier says of the parts that were scored, and how good that is.

    parts: by name, validation before test. scores: the content of metrics.json. calibration: of
    `calibration.fit_calibration`; None where it is not known.
    """

    class_names: tuple[str, ...]
    parts: dict[str, ScoredPart]
    scores: dict
    calibration: dict | None

    def write(self, folder: Path):
        """Writes predictions.csv and metrics.json, beside the class_names.json and calibration.json of the model."""
        write_run_predictions(folder / "predictions.csv", self.parts, self.class_names)
        files.write_json(folder / "metrics.json", self.scores)

    @classmethod
    def read(cls, folder: Path) -> "Result":
        """Reads it from the folder of a run; texts are read when they are asked for.

        Raises:
            UserError: if a file is missing or damaged.
        """
        class_names = tuple(files.read_json(folder / "class_names.json"))
        parts = read_parts(folder / "predictions.csv", class_names)
        scores = files.read_json(folder / "metrics.json")
        return cls(class_names, parts, scores, read_calibration(folder / "calibration.json"))
