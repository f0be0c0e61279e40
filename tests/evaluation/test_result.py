"""What a run found out is the same in memory and read back from its folder."""

import json

import numpy as np
import pytest

from keras_senti.errors import UserError
from keras_senti.evaluation.predictions import ScoredPart
from keras_senti.evaluation.result import Result

TEXTS = ['so "good"', "a\rb\nc, d", "", " NA ", "好"]
LABELS = np.array([1, 0, 0, 1, 0])
FIRST = np.float32([0.1, 1 / 3, 1e-9, 0.7, 1.0])
PROBABILITIES = np.stack([FIRST, 1 - FIRST], axis=1)


def make_result() -> Result:
    parts = {
        "validation": ScoredPart(TEXTS, np.arange(2, 7), LABELS, PROBABILITIES),
        "test": ScoredPart(TEXTS[:1], np.array([9]), LABELS[:1], PROBABILITIES[:1]),
    }
    scores = {"validation": {"accuracy": 1 / 3}, "test": {"accuracy": 0.0}}
    return Result(("bad", "1.0"), parts, scores, {"temperature": 1.7, "abstain": []})


def test_a_result_that_was_written_is_read_as_it_was_to_the_last_digit(tmp_path):
    result = make_result()
    result.write(tmp_path)
    for name, content in (("class_names", result.class_names), ("calibration", result.calibration)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = Result.read(tmp_path)
    assert (found.class_names, found.scores, found.calibration) == (
        result.class_names,
        result.scores,
        result.calibration,
    )
    assert list(found.parts) == ["validation", "test"]
    for name, part in found.parts.items():
        expected = result.parts[name]
        assert len(part.texts) == len(expected.texts) and list(part.texts) == list(expected.texts)
        for array in ("lines", "labels", "probabilities", "right"):
            np.testing.assert_array_equal(getattr(part, array), getattr(expected, array))


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"class_names.json is missing: .* is not the folder of a finished run"):
        Result.read(tmp_path)
