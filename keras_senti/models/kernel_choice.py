"""Which recurrent kernel is used, and why."""

import os

import tensorflow as tf

KERNELS = ("loop", "xla", "keras")  # see choose_kernel


def find_device_kind() -> str:
    """Returns tpu, gpu or cpu: the best that TensorFlow sees."""
    return next((kind for kind in ("tpu", "gpu") if tf.config.list_logical_devices(kind.upper())), "cpu")


def count_threads() -> int:
    """Returns the threads that TensorFlow computes with on the CPU."""
    return tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1


def find_obstacle(settings: dict) -> str | None:
    """Returns why a recurrent layer cannot use `kernels.run`, None if it can; `settings` as for choose_kernel."""
    if settings["cell"] not in ("lstm", "gru"):
        return f"there is no fast loop for {settings['cell']}"
    if settings.get("dtype") == "float64":
        return "the fast loop computes in float32, not in float64"
    for name, expected in (("activation", "tanh"), ("recurrent_activation", "sigmoid"), ("unroll", False)):
        if settings.get(name, expected) != expected:
            return f"the fast loop has {name} {expected} only, not {settings[name]}"
    return None if settings.get("reset_after", True) else "the fast loop has a GRU with reset_after only"


def choose_kernel(device_kind: str, settings: dict) -> tuple[str, str]:
    """Returns what computes a recurrent layer, and why.

    loop: `kernels.run` as TensorFlow operations: any length, nothing to compile.
    xla: the same, compiled by XLA once for each shape where it trains; elsewhere loop.
    keras: Keras' layer, which uses cuDNN on a GPU where it can.

    Args:
        device_kind: cpu | gpu | tpu.
        settings: `cell` (lstm | gru | simple_rnn), and where they differ from Keras' defaults `activation`,
            `recurrent_activation`, `recurrent_dropout`, `use_bias`, `unroll`, `reset_after`, `dtype`; `few_shapes`: the
            batches of training have a few shapes only, so that compiling them pays.
    """
    obstacle = find_obstacle(settings)
    if obstacle:
        return "keras", obstacle
    if device_kind == "tpu":
        return "xla", "a TPU runs what XLA compiles"
    if device_kind == "gpu":
        if settings.get("recurrent_dropout"):
            return "xla", "cuDNN has no recurrent_dropout"
        if not settings.get("use_bias", True):
            return "xla", "cuDNN has no layer without bias"
        return "keras", "cuDNN computes it on the GPU"
    if settings.get("dtype") == "bfloat16":
        return "loop", "XLA is slow with bfloat16 on a CPU"  # 1.6 s instead of 0.66 a step, LSTM of 768 units
    if settings.get("few_shapes"):
        return "xla", "the batches have few shapes, so compiling pays"
    return "loop", "any shape, nothing to compile"
