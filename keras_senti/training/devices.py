"""Which device a run computes on, with how many threads and replicas, and why."""

import contextlib
from dataclasses import dataclass

import tensorflow as tf

from keras_senti.errors import UserError
from keras_senti.settings.schema import DeviceConfig
from keras_senti.training import strategies

TPU_STEPS_PER_EXECUTION = 32  # a TPU step takes about a millisecond, a return to Python as long


@dataclass(frozen=True)
class Device:
    """What a run computes on, from `set_up_device`.

    kind: cpu | gpu | tpu. line: what was found, for people. strategy: a tf.distribute.Strategy, None where Keras needs
    none. worker, workers: number of this process, and of all. steps_per_execution: of several replicas.
    """

    kind: str
    line: str
    strategy: tf.distribute.Strategy | None = None
    worker: int = 0
    workers: int = 1
    steps_per_execution: int = 1

    @property
    def replicas(self) -> int:
        """Copies of the model, each of which takes its share of every batch."""
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    @property
    def is_distributed(self) -> bool:
        """Whether `distributed.ReplicaLoop` makes the steps: also with a single TPU core, for its fixed shapes."""
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
    strategy, cluster, left_alone = settings.strategy, strategies.read_cluster(), ""
    if strategy == "auto" and cluster and cluster[1] > 1:
        strategy = "multi_worker"
    if strategy == "auto" and needs_one:
        if strategies.list_tpu_addresses():
            left_alone = "; the TPU is left alone: one device is all that this task can use"
            _show_only([], "TPU")
    elif strategy in ("auto", "tpu"):
        tpu = strategies.connect_tpu(required=strategy == "tpu")
        if tpu:
            steps = settings.steps_per_execution or TPU_STEPS_PER_EXECUTION
            return Device("tpu", f"TPU, {tpu.num_replicas_in_sync} cores", tpu, steps_per_execution=steps)
    gpus = tf.config.list_physical_devices("GPU")
    if strategy == "auto":
        strategy = "mirrored" if len(gpus) > 1 and not needs_one else "gpu" if gpus else "cpu"
    if strategy == "mirrored":
        return _mirror(gpus, settings)
    if strategy == "multi_worker":
        return _join_workers(cluster, gpus, settings)
    if (settings.steps_per_execution or 1) > 1:
        raise UserError(
            f"device.steps_per_execution: received {settings.steps_per_execution}, but with one {strategy.upper()} "
            "Keras' own loop makes the steps, one by one. Leave it out."
        )
    if strategy == "cpu":
        _show_only([], "GPU")
        return Device("cpu", f"CPU, {_count_threads(settings)}{left_alone}")
    if not gpus:
        raise UserError(
            f"device.strategy: received gpu, but TensorFlow {tf.__version__} sees no GPU, only {_list_devices()}. Use "
            f"--device.strategy cpu; or, with an NVIDIA driver: pip install 'tensorflow[and-cuda]=={tf.__version__}'"
        )
    _use_gpus(gpus[:1])
    if settings.strategy == "auto" and len(gpus) > 1:
        left_alone = "; the others are left alone: one device is all that this task can use"
    return Device("gpu", f"{gpus[0].name}, one of {len(gpus)} GPU(s){left_alone}")


def _mirror(gpus: list, settings: DeviceConfig) -> Device:
    replicas, steps = settings.replicas or len(gpus), settings.steps_per_execution or 1
    if not gpus and replicas:
        line = f"CPU in {replicas} parts, {_count_threads(settings)}"
        return Device("cpu", line, strategies.mirror_cpu(replicas), steps_per_execution=steps)
    if len(gpus) < (settings.replicas or 2):
        asked = f" with {replicas} replicas" if settings.replicas else ""
        raise UserError(
            f"device.strategy: received mirrored{asked}, but TensorFlow sees {len(gpus)} GPU(s). Use --device.strategy "
            "auto, or, without GPU, --device.replicas 2: parts of the CPU."
        )
    _use_gpus(gpus[:replicas])
    mirrored = tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(replicas)])
    return Device("gpu", f"{replicas} of {len(gpus)} GPU(s)", mirrored, steps_per_execution=steps)


def _join_workers(cluster: tuple[int, int] | None, gpus: list, settings: DeviceConfig) -> Device:
    if cluster is None:
        raise UserError(
            "device.strategy: received multi_worker, but the environment variable TF_CONFIG, which names the workers, "
            "is not set. On this machine: python -m keras_senti launch --workers 2 -- python train.py ..."
        )
    _use_gpus(gpus)
    workers, kind = strategies.connect_workers(), "gpu" if gpus else "cpu"
    replicas = f"{workers.num_replicas_in_sync} {kind.upper()} replicas in all"
    line = f"worker {cluster[0]} of {cluster[1]}, {replicas}, {_count_threads(settings)}"
    return Device(kind, line, workers, *cluster, settings.steps_per_execution or 1)


def _count_threads(settings: DeviceConfig) -> str:
    return f"{settings.cpu_threads or 'all'} threads"


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
