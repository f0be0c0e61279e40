import math

import keras
import pytest

from keras_senti.optimizers import WarmupDecay


@pytest.mark.parametrize(
    "schedule,expected",
    [
        # 2 of 6 steps are warm-up; then p = 0, 1/4, 1/2, 3/4, 1.
        ("constant", [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.05, 0.1, 0.1, 0.075, 0.05, 0.025, 0.0]),
        ("cosine", [0.05, 0.1, 0.1, 0.05 * (1 + math.cos(math.pi / 4)), 0.05, 0.05 * (1 - math.cos(math.pi / 4)), 0.0]),
    ],
)
def test_the_learning_rate_rises_and_falls_as_written(schedule, expected):
    rate = WarmupDecay(peak=0.1, schedule=schedule, total_steps=6, warmup_steps=2)
    assert [float(rate(step)) for step in range(7)] == pytest.approx(expected, abs=1e-7)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert float(again(3)) == float(rate(3))
