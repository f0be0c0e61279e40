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
        # 1/32 of the peak, and 31/32 in proportion to the height.
        ("slanted_triangular", [0.1 * (1 + 31 * q) / 32 for q in (0, 1 / 2, 1, 3 / 4, 1 / 2, 1 / 4, 0)]),
    ],
)
def test_the_learning_rate_rises_and_falls_as_written(schedule, expected):
    rate = WarmupDecay(peak=0.1, schedule=schedule, total_steps=6, warmup_steps=2)
    assert [float(rate(step)) for step in range(7)] == pytest.approx(expected, abs=1e-7)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert float(again(3)) == float(rate(3))


@pytest.mark.parametrize("steps,cut_fraction", [(200, 0.1), (60, 0.25)])
def test_slanted_triangular_rates_are_those_of_the_papers_equation(steps, cut_fraction):
    cut, ratio, expected = math.floor(steps * cut_fraction), 32, []
    for t in range(steps):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_fraction - 1))
        expected.append(0.01 * (1 + p * (ratio - 1)) / ratio)
    rate = WarmupDecay(0.01, "slanted_triangular", steps, cut)
    assert [float(rate(step)) for step in range(steps)] == pytest.approx(expected, rel=1e-5)
    assert expected[cut] == max(expected) == 0.01 == 32 * expected[0]
