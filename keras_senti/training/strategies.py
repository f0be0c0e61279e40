"""Strategies of tf.distribute: a TPU, parts of a CPU, several machines. What trains on them is in distributed.py."""

import contextlib
import json
import os
from importlib import metadata

import tensorflow as tf

from keras_senti.errors import UserError

TPU_BUILD = (
    "pip uninstall -y tensorflow && pip install tensorflow-tpu==2.20.0 'setuptools<81', then this package with "
    "pip install --no-deps"
)


def list_tpu_addresses() -> list[str]:
    """Returns where a TPU may be. On its own machine: 'local'. Elsewhere: its name or address."""
    addresses = [os.environ[name] for name in ("TPU_NAME", "COLAB_TPU_ADDR") if os.environ.get(name)]
    return list(dict.fromkeys([*addresses, *["local"] * _has_tpu_library()]))


def _has_tpu_library() -> bool:
    """Returns whether this is TensorFlow's TPU build: asking the others for a local TPU ends in an error."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version("tensorflow-tpu"))
    return False


def connect_tpu(required: bool) -> tf.distribute.Strategy | None:
    """Returns the strategy of a TPU that is connected now; None if there is none and none is required."""
    reasons = []
    for address in dict.fromkeys([*list_tpu_addresses(), *["local"] * required]):
        try:
            if "." in address and "://" not in address:
                address = f"grpc://{address}"
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
            if address != "local":
                tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            return tf.distribute.TPUStrategy(resolver)
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            reasons.append(f"{address}: {str(error).splitlines()[0][:200]}")
    if not required:
        return None
    raise UserError(
        f"device.strategy: received tpu, but TensorFlow {tf.__version__} found none ({'; '.join(reasons)}). Use "
        f"--device.strategy cpu, or install TensorFlow's build for it: {TPU_BUILD}"
    )


def mirror_cpu(replicas: int) -> tf.distribute.Strategy:
    """Returns a strategy of so many parts of the CPU: to try it out on a machine without GPU."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    except RuntimeError:
        if len(tf.config.list_logical_devices("CPU")) < replicas:
            raise UserError(
                f"device.replicas: received {replicas}, but TensorFlow already uses the CPU in one piece in this "
                "process. Set it before TensorFlow is used."
            ) from None
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def read_cluster() -> tuple[int, int] | None:
    """Returns (number of this worker, workers) from the environment variable TF_CONFIG; None without it.

    Raises:
        UserError: if it is not what TensorFlow expects.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    try:
        content = json.loads(text)
        addresses, task = content["cluster"]["worker"], content["task"]
        index = int(task["index"])
        if set(content["cluster"]) != {"worker"} or task["type"] != "worker" or not 0 <= index < len(addresses):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"TF_CONFIG: received {text}, expected the addresses of all workers and which of them this one is: "
            '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
        ) from None
    return index, len(addresses)


def connect_workers() -> tf.distribute.Strategy:
    """Returns the strategy of the workers that TF_CONFIG names, as soon as all of them are there."""
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UserError(
            f"device.strategy: TensorFlow is already running in this process, too late for multi_worker ({error})."
        ) from None
