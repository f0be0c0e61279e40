"""How far the weights move in a step: the optimisers and the course of the learning rate."""

import math

import keras
from keras import ops

from keras_senti.config import TrainConfig

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
}


@keras.saving.register_keras_serializable("keras_senti")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then constant, or down to 0 at the last step along a line or half a cosine.

        step < w:  peak (step + 1) / w        otherwise, with p = (step - w) / (total - w):
        constant:  peak       linear: peak (1 - p)       cosine: peak (1 + cos(π p)) / 2

    Slanted triangular, which also begins and ends at a fraction of the peak:

        peak (1 + q (ratio - 1)) / ratio,   q = step / w in the warm-up,   q = 1 - p otherwise

    Keras' CosineDecay does the same for the cosine only.

    Args:
        peak: highest learning rate. schedule: constant | cosine | linear | slanted_triangular.
        total_steps: steps of the whole run. warmup_steps: w above; 0: no warm-up.
    References: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983 (one period, no restart); Howard & Ruder
        2018, https://aclanthology.org/P18-1031, equation 3 (their cut_frac is w / total).
    """

    RATIO = 32  # Howard & Ruder's

    def __init__(self, peak: float, schedule: str, total_steps: int, warmup_steps: int):
        self.peak, self.schedule, self.total_steps, self.warmup_steps = peak, schedule, total_steps, warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        is_warmup = step < self.warmup_steps
        progress = ops.clip((step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps), 0.0, 1.0)
        if self.schedule == "slanted_triangular":
            height = ops.where(is_warmup, step / max(1, self.warmup_steps), 1.0 - progress)
            return self.peak * (1.0 + height * (self.RATIO - 1)) / self.RATIO
        factor = {
            "constant": ops.ones_like(progress),
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + ops.cos(math.pi * progress)),
        }[self.schedule]
        warmup = (step + 1.0) / max(1, self.warmup_steps)
        return self.peak * ops.where(is_warmup, warmup, factor)

    def get_config(self):
        names = ("peak", "schedule", "total_steps", "warmup_steps")
        return {name: getattr(self, name) for name in names}


def make_optimizer(settings: TrainConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """Makes the optimiser of a run of so many steps."""
    warmup_steps = round(total_steps * settings.warmup_fraction)
    return OPTIMIZERS[settings.optimizer](
        learning_rate=WarmupDecay(settings.learning_rate, settings.schedule, total_steps, warmup_steps),
        weight_decay=settings.weight_decay,
        global_clipnorm=settings.clip_norm,
    )
