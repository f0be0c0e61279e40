"""How far each weight moves in a step: optimisers, the course of the learning rate, and each layer's share of it."""

import math

import keras
import tensorflow as tf
from keras import ops

from keras_senti.errors import UserError, suggest
from keras_senti.settings.schema import TrainConfig

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

    Args:
        peak: highest learning rate. schedule: constant | cosine | linear | slanted_triangular. warmup_steps: w above.
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
        return {name: getattr(self, name) for name in ("peak", "schedule", "total_steps", "warmup_steps")}


class ByLayer:
    """Lets a Keras optimiser, before which it stands as a base class, treat each variable by itself.

    A variable's rate, also that of its weight decay, is the learning rate times a factor.

    A variable may join late. Adam's rate has the factor √(1 - β2^t) / (1 - β1^t), as its moments begin at 0; t must be
    the steps of the variable. Keras counts those of the optimiser, by which it would move up to 6.6 times too far.

    Args:
        factors, first_steps: of each variable, in the order of `build`; steps count from 0.
    References: Howard & Ruder 2018, https://aclanthology.org/P18-1031, equation 2; Kingma & Ba 2015,
        https://arxiv.org/abs/1412.6980, section 2.
    """

    def __init__(self, factors: list[float], first_steps: list[int], **arguments):
        super().__init__(**arguments)
        self.factors, self.first_steps = factors, first_steps

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = learning_rate * self.factors[index]
        if self.weight_decay:
            self.assign_sub(variable, variable * rate * self.weight_decay)
        if self.first_steps[index] and isinstance(self, keras.optimizers.Adam):
            steps = ops.cast(self.iterations + 1, "float32")
            own = ops.maximum(steps - self.first_steps[index], 1)  # before it joins nothing may be divided by 0
            rate *= self._correct_bias(own) / self._correct_bias(steps)
        super().update_step(gradient, variable, rate)

    def _correct_bias(self, steps):
        return ops.sqrt(1 - self.beta_2**steps) / (1 - self.beta_1**steps)

    def _apply_weight_decay(self, variables):
        pass  # Keras would do it for all variables at the same rate


class SumsRepeatedRows:
    """Lets a Keras optimiser, before which it stands as a base class, sum a table's gradient by row before it squares.

    The gradient of token vectors has an entry for each token of the batch, and Keras' Adam and RMSprop square the
    entries: with g and h for one word v grows by g² + h² instead of (g + h)², unless clipping made the gradient dense.
    """

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(tf.convert_to_tensor(gradient), variable, learning_rate)


class InOnePass:
    """Lets Keras' Adam, before which it stands as a base class, move a variable by TensorFlow's own operation for it.

    Keras' is a dozen operations, which read and write the whole variable. For a table of token vectors they can take as
    long as the network: see benchmarks/optimizer.py. The formula is the same (Kingma & Ba 2015,
    https://arxiv.org/abs/1412.6980, with the order of the end of section 2), for float32 and without amsgrad.
    """

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        steps = ops.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**steps,
            beta2_power=self.beta_2**steps,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class SumFirst:
    """Lets a Keras optimiser, before which it stands as a base class, sum the gradients of all replicas first.

    Keras clips what each replica has, whose norm is another one than that of the sum, and looks in each replica by
    itself whether scaled gradients are finite: with replicas a run would learn otherwise than without, or not at all.
    """

    def apply(self, grads, trainable_variables=None):
        context = tf.distribute.get_replica_context()
        super().apply(context.all_reduce(tf.distribute.ReduceOp.SUM, grads), trainable_variables)


class IsGivenSums:
    """Keeps a Keras optimiser, before which it stands as a base class, from summing what `SumFirst` has summed."""

    def _all_reduce_sum_gradients(self, gradients_and_variables):
        return gradients_and_variables


def find_first_epoch(settings: TrainConfig, layer_name: str) -> int | None:
    """Returns the epoch, counted from 1, from which on a layer learns; None: never."""
    return (settings.train_from_epoch or {}).get(layer_name, 1)


def check_train_from_epoch(settings: TrainConfig, layer_names: list[str]):
    """Raises a UserError if train.train_from_epoch names another layer, or lets none learn at first.

    Args:
        layer_names: of the layers that have something to learn, from the input to the output.
    """
    key, names = "train.train_from_epoch", ", ".join(layer_names)
    for name in settings.train_from_epoch or {}:
        if name not in layer_names:
            expected = f"layers of this model that have something to learn: {names}.{suggest(name, layer_names)}"
            raise UserError(f"{key}: received '{name}', expected {expected}")
    if all(find_first_epoch(settings, name) != 1 for name in layer_names):
        received = f"{key}: received {settings.train_from_epoch}, by which nothing learns in epoch 1"
        raise UserError(
            f"{received}. Leave out a layer that is to learn from the start (of {names}; usually the last)."
        )


def make_optimizer(
    settings: TrainConfig, total_steps: int, layers: list, precision: str = "float32"
) -> keras.optimizers.Optimizer:
    """Makes the optimiser of a run of so many steps, with the variables it needs for all that will ever learn.

    Keras would make them in the first step, for what learns then; but a checkpoint must find all of them at any time.

    Args:
        layers: of `build.find_learning_layers`: what `layer_rate_decay` and `train_from_epoch` are for.
        precision: with mixed_float16 it works on gradients of a scaled loss (`optimizer.scale_loss`), as Keras would
            have it, since small ones vanish in float16.
    """
    steps_per_epoch = total_steps // settings.epochs
    variables, factors, first_steps = [], [], []
    for position, layer in enumerate(layers, 1):
        first_epoch = find_first_epoch(settings, layer.name)
        if first_epoch is not None:
            weights = layer.trainable_weights
            variables += weights
            factors += [settings.layer_rate_decay ** (position - len(layers))] * len(weights)
            first_steps += [(first_epoch - 1) * steps_per_epoch] * len(weights)
    kind = OPTIMIZERS[settings.optimizer]
    warmup_steps = round(total_steps * settings.warmup_fraction)
    rate = WarmupDecay(settings.learning_rate, settings.schedule, total_steps, warmup_steps)
    arguments = {"learning_rate": rate, "weight_decay": settings.weight_decay, "global_clipnorm": settings.clip_norm}
    has_replicas = tf.distribute.get_strategy().num_replicas_in_sync > 1
    is_scaled = precision == "mixed_float16"
    bases = [*[IsGivenSums] * has_replicas, SumsRepeatedRows]
    if issubclass(kind, keras.optimizers.Adam) and not tf.distribute.has_strategy():
        bases.append(InOnePass)
    if has_replicas and not is_scaled:
        bases.insert(0, SumFirst)
    if settings.layer_rate_decay == 1 and not any(first_steps):
        optimizer = _derive(kind, bases)(**arguments)
    else:
        optimizer = _derive(kind, [ByLayer, *bases])(factors, first_steps, **arguments)
    if is_scaled:
        optimizer = _derive(keras.optimizers.LossScaleOptimizer, [SumFirst] * has_replicas)(optimizer)
    optimizer.build(variables)
    return optimizer


def _derive(kind: type, before: list[type]) -> type:
    """Returns the class itself, or one with these in front of its base classes."""
    return type("".join([kind.__name__, *(b.__name__ for b in before)]), (*before, kind), {}) if before else kind
