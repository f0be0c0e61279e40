"""Which device and how many threads a run uses."""

import tensorflow as tf

from keras_senti.config import DeviceConfig, UserError


def set_up_device(settings: DeviceConfig) -> str:
    """Applies the thread count and makes results repeatable; returns a line that says what will be used.

    Call it before anything else of TensorFlow runs in the process.

    Raises:
        UserError: if TensorFlow has already started with another number of threads.
    """
    if settings.cpu_threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(settings.cpu_threads)
            tf.config.threading.set_inter_op_parallelism_threads(settings.cpu_threads)
        except RuntimeError:
            if tf.config.threading.get_intra_op_parallelism_threads() != settings.cpu_threads:
                raise UserError(
                    f"device.cpu_threads: received {settings.cpu_threads}, but TensorFlow is already running in this "
                    "process with another number. Set it before TensorFlow is used."
                ) from None
    # Same seed, same machine: the same result to the last digit.
    tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    threads = settings.cpu_threads or "all"
    return f"{len(gpus)} GPU(s), {gpus[0].name} first" if gpus else f"CPU, {threads} threads"
