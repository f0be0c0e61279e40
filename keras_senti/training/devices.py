"""Which device, how many threads, replicas and which recurrent kernel a run uses, and why."""

import contextlib
import json
import os
from dataclasses import dataclass

import tensorflow as tf

from keras_senti.errors import UserError
from keras_senti.settings.schema import DeviceConfig

TPU_STEPS_PER_EXECUTION = 32  # a TPU step takes about a millisecond, a return to Python as long
WITHOUT_TPU = (
    "A TPU needs TensorFlow's build for it, which must stand alone: pip uninstall -y tensorflow && "
    "pip install tensorflow-tpu==2.20.0 'setuptools<81', then this package with pip install --no-deps"
)


@dataclass(frozen=True)
class Device:
    """What a run computes on, from `set_up_device`.

    kind: cpu | gpu | tpu. strategy: a tf.distribute.Strategy, None where Keras needs none. replicas: copies of the
    model, each of which takes its share of every batch. worker, workers: number of this process, and of all.
    steps_per_execution: of several replicas. line: what was found, for people.
    """

    kind: str
    line: str
    strategy: tf.distribute.Strategy | None = None
    replicas: int = 1
    worker: int = 0
    workers: int = 1
    steps_per_execution: int = 1

    @property
    def is_distributed(self) -> bool:
        """Whether `replicas.fit` makes the steps: also with a single TPU core, for its fixed shapes."""
        return self.strategy is not None

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes the run folder."""
        return self.worker == 0

    def wait_for_all(self):
        """Returns when all workers have called this: who ends earlier would be taken for one that has crashed."""
        if self.workers > 1:
            with contextlib.suppress(tf.errors.OpError):  # whatever a worker still had to do is done
                one = self.strategy.experimental_distribute_values_from_function(lambda context: tf.constant(1.0))
                self.strategy.reduce("SUM", one, axis=None)

    def scope(self):
        """Returns the context in which model and optimiser are made, and trained."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()


def set_up_device(settings: DeviceConfig, needs_one: bool = False) -> Device:
    """Finds the device, applies the thread count and, as `settings.deterministic` says, makes results repeatable.

    Call it before anything else of TensorFlow runs in the process.

    Args:
        needs_one: what is to be computed cannot be shared: `auto` takes one GPU, else the CPU, and says so.
    Raises:
        UserError: if what the settings ask for is not there, or TensorFlow has already started in another way.
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
    device = _find_device(settings, needs_one)
    if settings.deterministic or (settings.deterministic is None and device.kind == "cpu"):
        tf.config.experimental.enable_op_determinism()  # same seed, same machine: the same result to the last digit
    return device


def _find_device(settings: DeviceConfig, needs_one: bool) -> Device:
    strategy, cluster = settings.strategy, _read_cluster()
    if strategy == "auto" and cluster and cluster[1] > 1:
        strategy = "multi_worker"
    left_alone = ""
    if strategy == "auto" and needs_one:
        if _list_tpu_addresses():
            left_alone = "; the TPU is left alone: one device is all that this task can use"
            _show_only([], "TPU")
    elif strategy in ("auto", "tpu"):
        tpu = _find_tpu(required=strategy == "tpu")
        if tpu:
            return _set_up_tpu(tpu, settings)
    gpus = tf.config.list_physical_devices("GPU")
    threads = f"{settings.cpu_threads or 'all'} threads"
    if strategy == "auto":
        strategy = "mirrored" if len(gpus) > 1 and not needs_one else "gpu" if gpus else "cpu"
    steps = settings.steps_per_execution or 1
    if steps > 1 and strategy in ("cpu", "gpu"):
        raise UserError(
            f"device.steps_per_execution: received {steps}, but with one {strategy.upper()} Keras' own loop makes the "
            "steps, one by one. Leave it out."
        )
    if strategy == "cpu":
        _show_only([], "GPU")
        return Device("cpu", f"CPU, {threads}{left_alone}")
    if strategy == "gpu":
        if not gpus:
            raise UserError(
                f"device.strategy: received gpu, but TensorFlow {tf.__version__} sees no GPU, only "
                f"{_list_devices()}. On Linux with an NVIDIA driver: pip install 'tensorflow[and-cuda]=="
                f"{tf.__version__}'. Or use --device.strategy cpu."
            )
        _use_gpus(gpus[:1])
        if settings.strategy == "auto" and len(gpus) > 1:
            left_alone = "; the others are left alone: one device is all that this task can use"
        return Device("gpu", f"{gpus[0].name}, one of {len(gpus)} GPU(s){left_alone}")
    if strategy == "mirrored":
        return _set_up_mirrored(gpus, settings.replicas, steps, threads)
    return _set_up_workers(cluster, gpus, steps, threads)


def _list_devices() -> str:
    return ", ".join(device.name for device in tf.config.list_physical_devices()) or "nothing"


def _show_only(devices: list, kind: str):
    """Lets TensorFlow see no other GPU (or TPU): it would reserve memory on each that it sees."""
    try:
        tf.config.set_visible_devices(devices, kind)
    except RuntimeError:  # it has begun: with these, perhaps
        if tf.config.get_visible_devices(kind) != devices:
            raise UserError(
                f"device.strategy: TensorFlow already uses other {kind}s in this process. Set it before TensorFlow is "
                "used."
            ) from None


def _use_gpus(gpus: list):
    """Lets TensorFlow see these GPUs only, and take their memory as it needs it instead of all of it at once."""
    _show_only(gpus, "GPU")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError, ValueError):  # it has begun, or has been given parts of the memory
            tf.config.experimental.set_memory_growth(gpu, True)


def _find_tpu(required: bool):
    """Returns the resolver of a TPU that is connected now; None if there is none and none is required."""
    reasons = []
    for address in dict.fromkeys([*_list_tpu_addresses(), *["local"] * required]):
        try:
            if "." in address and "://" not in address:
                address = f"grpc://{address}"
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
            if address != "local":
                tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            return resolver
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            reasons.append(f"{address}: {str(error).splitlines()[0][:200]}")
    if not required:
        return None
    raise UserError(
        f"device.strategy: received tpu, but TensorFlow {tf.__version__} found none ({'; '.join(reasons)}); it sees "
        f"{_list_devices()}. {WITHOUT_TPU}. Or use --device.strategy cpu."
    )


def _list_tpu_addresses() -> list[str]:
    """Returns where a TPU may be. On its own machine: 'local'. Elsewhere: its name or address."""
    addresses = [os.environ[name] for name in ("TPU_NAME", "COLAB_TPU_ADDR") if os.environ.get(name)]
    return list(dict.fromkeys([*addresses, *["local"] * _has_tpu_library()]))


def _has_tpu_library() -> bool:
    """Returns whether this is TensorFlow's TPU build: asking the others for a local TPU ends in an error."""
    from importlib import metadata

    try:
        metadata.version("tensorflow-tpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def _set_up_tpu(resolver, settings: DeviceConfig) -> Device:
    strategy = tf.distribute.TPUStrategy(resolver)
    replicas = strategy.num_replicas_in_sync
    steps = settings.steps_per_execution or TPU_STEPS_PER_EXECUTION
    return Device("tpu", f"TPU, {replicas} cores", strategy, replicas, steps_per_execution=steps)


def _set_up_mirrored(gpus: list, replicas: int | None, steps: int, threads: str) -> Device:
    if len(gpus) < (replicas or 2):
        if gpus or replicas is None:
            raise UserError(
                f"device.strategy: received mirrored{f' with {replicas} replicas' if replicas else ''}, but TensorFlow "
                f"sees {len(gpus)} GPU(s) ({_list_devices()}). Use --device.strategy auto, or, to try it out on a "
                "machine without GPU, --device.replicas 2: parts of the CPU."
            )
        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
        except RuntimeError:
            if len(tf.config.list_logical_devices("CPU")) < replicas:
                raise UserError(
                    f"device.replicas: received {replicas}, but TensorFlow already uses the CPU in one piece in this "
                    "process. Set it before TensorFlow is used."
                ) from None
        names, kind, line = [f"CPU:{i}" for i in range(replicas)], "cpu", f"CPU in {replicas} parts, {threads}"
    else:
        replicas = replicas or len(gpus)
        _use_gpus(gpus[:replicas])
        names, kind, line = [f"GPU:{i}" for i in range(replicas)], "gpu", f"{replicas} of {len(gpus)} GPU(s)"
    strategy = tf.distribute.MirroredStrategy(names)
    return Device(kind, line, strategy, replicas, steps_per_execution=steps)


def _read_cluster() -> tuple[int, int] | None:
    """Returns (number of this worker, workers) from the environment variable TF_CONFIG; None without it.

    Raises:
        UserError: if it is not what TensorFlow expects.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    example = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        content = json.loads(text)
        addresses, task = content["cluster"]["worker"], content["task"]
        index = int(task["index"])
        if set(content["cluster"]) != {"worker"} or task["type"] != "worker" or not 0 <= index < len(addresses):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"TF_CONFIG: received {text}, expected the addresses of all workers and which of them this one is, such as "
            f"{example}"
        ) from None
    return index, len(addresses)


def _set_up_workers(cluster: tuple[int, int] | None, gpus: list, steps: int, threads: str) -> Device:
    if cluster is None:
        raise UserError(
            "device.strategy: received multi_worker, but the environment variable TF_CONFIG, which names the workers, "
            "is not set. To try it on this machine: python -m keras_senti launch --workers 2 -- python train.py ..."
        )
    worker, workers = cluster
    _use_gpus(gpus)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UserError(
            f"device.strategy: TensorFlow is already running in this process, too late for multi_worker ({error})."
        ) from None
    replicas, kind = strategy.num_replicas_in_sync, "gpu" if gpus else "cpu"
    line = f"worker {worker} of {workers}, {replicas} {kind.upper()} replicas in all, {threads}"
    return Device(kind, line, strategy, replicas, worker, workers, steps)
