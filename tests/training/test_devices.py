import json
import subprocess
import sys

import pytest
import tensorflow as tf

from keras_senti.errors import UserError
from keras_senti.models.kernel_choice import choose_kernel
from keras_senti.settings.schema import DeviceConfig
from keras_senti.training import strategies
from keras_senti.training.devices import TPU_STEPS_PER_EXECUTION, set_up_device

LSTM, GRU = {"cell": "lstm"}, {"cell": "gru"}


@pytest.mark.parametrize(
    "device_kind,settings,name,reason",
    [
        ("cpu", LSTM, "loop", "any shape"),
        ("cpu", {**GRU, "few_shapes": True}, "xla", "few shapes"),
        ("cpu", {**GRU, "few_shapes": True, "dtype": "bfloat16"}, "loop", "bfloat16"),
        ("cpu", {**LSTM, "recurrent_dropout": 0.2}, "loop", "any shape"),
        ("cpu", {**LSTM, "weight_drop": 0.2}, "loop", "any shape"),
        ("cpu", {**LSTM, "activation": "relu"}, "keras", "activation tanh only, not relu"),
        ("cpu", {**LSTM, "recurrent_activation": "hard_sigmoid"}, "keras", "sigmoid only, not hard_sigmoid"),
        ("cpu", {**LSTM, "unroll": True}, "keras", "unroll False only"),
        ("cpu", {**GRU, "reset_after": False}, "keras", "reset_after"),
        ("cpu", {"cell": "simple_rnn"}, "keras", "no fast loop for simple_rnn"),
        ("gpu", LSTM, "keras", "cuDNN"),
        ("gpu", {**LSTM, "weight_drop": 0.2, "few_shapes": True}, "keras", "cuDNN"),
        ("gpu", {**GRU, "recurrent_dropout": 0.2}, "xla", "cuDNN has no recurrent_dropout"),
        ("gpu", {**LSTM, "use_bias": False}, "xla", "cuDNN has no layer without bias"),
        ("gpu", {**LSTM, "activation": "relu"}, "keras", "activation tanh only"),
        ("tpu", LSTM, "xla", "TPU"),
        ("tpu", {**LSTM, "recurrent_dropout": 0.2}, "xla", "TPU"),
        ("tpu", {"cell": "simple_rnn"}, "keras", "no fast loop"),
    ],
)
def test_the_kernel_follows_from_device_and_settings(device_kind, settings, name, reason):
    chosen, why = choose_kernel(device_kind, settings)
    assert chosen == name and reason in why


def make_config(index, workers=2):
    addresses = [f"10.0.0.{i}:2222" for i in range(workers)]
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs TensorFlow seems to have; returns what is asked of them: [visible ones], [with growth]."""
    visible, growing = [], []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: visible.append((devices, kind)))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda device, on: growing.append((device, on)))

    def set_number(number):
        found = [tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(number)]
        original = tf.config.list_physical_devices
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind=None: found if kind == "GPU" else original()
        )
        return found, visible, growing

    return set_number


def test_without_anything_else_it_is_the_cpu():
    device = set_up_device(DeviceConfig())
    assert (device.kind, device.replicas, device.is_distributed, device.is_chief) == ("cpu", 1, False, True)
    assert device.line == "CPU, all threads"


def test_one_gpu_takes_memory_as_it_needs_it_and_can_be_left_alone(gpus):
    found, visible, growing = gpus(1)
    device = set_up_device(DeviceConfig())
    assert (device.kind, device.is_distributed) == ("gpu", False) and "GPU:0" in device.line
    assert visible == [(found, "GPU")] and growing == [(found[0], True)]
    assert set_up_device(DeviceConfig(strategy="cpu")).kind == "cpu" and visible[1:] == [([], "GPU")]


@pytest.mark.parametrize("settings,needs_one", [(DeviceConfig(strategy="gpu"), False), (DeviceConfig(), True)])
def test_of_several_gpus_tensorflow_sees_the_one_that_is_used(gpus, settings, needs_one):
    found, visible, growing = gpus(3)
    device = set_up_device(settings, needs_one)
    assert (device.kind, device.replicas, device.strategy) == ("gpu", 1, None)
    assert visible == [(found[:1], "GPU")] and growing == [(found[0], True)]
    assert "GPU:0, one of 3 GPU(s)" in device.line
    assert ("the others are left alone: one device is all that this task can use" in device.line) == needs_one


def test_gpus_that_tensorflow_uses_already_in_another_way_are_an_error(gpus, monkeypatch):
    found, *_ = gpus(2)

    def refuse(devices, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: found[:1])
    assert set_up_device(DeviceConfig(strategy="gpu")).kind == "gpu"
    for strategy in ("cpu", "mirrored"):
        with pytest.raises(UserError, match="TensorFlow already uses other GPUs in this process. Set it before"):
            set_up_device(DeviceConfig(strategy=strategy))


def test_what_one_device_must_do_leaves_a_tpu_alone_and_says_so(gpus, monkeypatch):
    _, visible, _ = gpus(0)
    monkeypatch.setenv("TPU_NAME", "10.1.2.3:8470")
    monkeypatch.setattr(strategies, "connect_tpu", lambda required: pytest.fail("connected to the TPU"))
    device = set_up_device(DeviceConfig(), needs_one=True)
    assert (device.kind, device.strategy) == ("cpu", None) and ([], "TPU") in visible
    assert device.line == "CPU, all threads; the TPU is left alone: one device is all that this task can use"


@pytest.mark.parametrize(
    "deterministic,number,expected",
    [(None, 0, True), (True, 0, True), (False, 0, False), (None, 1, False), (True, 1, True), (False, 1, False)],
)
def test_results_are_repeatable_on_a_cpu_and_elsewhere_if_asked_for(gpus, monkeypatch, deterministic, number, expected):
    gpus(number)
    asked = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    assert set_up_device(DeviceConfig(deterministic=deterministic)).kind == ("gpu" if number else "cpu")
    assert bool(asked) == expected


def test_several_gpus_are_used_together(gpus, monkeypatch):
    class Strategy:
        def __init__(self, names):
            asked.append(names)
            self.num_replicas_in_sync = len(names)

    found, visible, growing = gpus(3)
    asked = []
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", Strategy)
    assert set_up_device(DeviceConfig()).replicas == 3
    assert set_up_device(DeviceConfig(strategy="mirrored", replicas=2)).line == "2 of 3 GPU(s)"
    assert asked == [["GPU:0", "GPU:1", "GPU:2"], ["GPU:0", "GPU:1"]]
    assert visible == [(found, "GPU"), (found[:2], "GPU")] and growing == [(gpu, True) for gpu in found + found[:2]]


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"strategy": "gpu"}, r"received gpu, but TensorFlow .* sees no GPU, only .*CPU:0.*and-cuda"),
        ({"strategy": "mirrored"}, r"received mirrored, but TensorFlow sees 0 GPU\(s\).*--device.replicas 2"),
        ({"strategy": "multi_worker"}, r"TF_CONFIG, which names the workers, is not set.*keras_senti launch"),
        ({"strategy": "tpu"}, r"received tpu, but TensorFlow .* found none .*tensorflow-tpu==2\.20\.0"),
        ({"steps_per_execution": 4}, r"steps_per_execution: received 4, but with one CPU Keras' own loop"),
    ],
    ids=lambda value: value.get("strategy", "auto") if isinstance(value, dict) else "",
)
def test_what_is_not_there_is_an_error_that_says_what_is(settings, message):
    with pytest.raises(UserError, match=message):
        set_up_device(DeviceConfig(**settings))


@pytest.mark.parametrize("text", ["[]", "x", '{"cluster": {"worker": []}}', make_config(2), make_config(0)[:-3]])
def test_a_wrong_tf_config_is_shown_beside_a_right_one(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=r"TF_CONFIG: received .*, expected the addresses of all workers.*10\.0\.0\.1"):
        set_up_device(DeviceConfig())


def test_workers_are_taken_from_the_environment(monkeypatch):
    class Strategy:
        num_replicas_in_sync = 2

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", Strategy)
    monkeypatch.setenv("TF_CONFIG", make_config(1))
    device = set_up_device(DeviceConfig())
    assert (device.worker, device.workers, device.replicas, device.is_chief) == (1, 2, 2, False)
    monkeypatch.setenv("TF_CONFIG", make_config(0, workers=1))  # which some clusters set for one machine too
    assert set_up_device(DeviceConfig()).strategy is None


def test_a_tpu_comes_first_where_its_library_is(monkeypatch):
    class Strategy:
        num_replicas_in_sync = 8

        def __init__(self, resolver):
            self.resolver = resolver

    asked = []
    monkeypatch.setattr(
        tf.distribute.cluster_resolver, "TPUClusterResolver", lambda tpu: asked.append(tpu) or "resolver"
    )
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", asked.append)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", asked.append)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", Strategy)
    monkeypatch.setattr(strategies, "_has_tpu_library", lambda: True)
    device = set_up_device(DeviceConfig())
    assert (device.kind, device.replicas, device.steps_per_execution) == ("tpu", 8, TPU_STEPS_PER_EXECUTION)
    assert asked == ["local", "resolver"]
    asked.clear()
    monkeypatch.setenv("TPU_NAME", "10.1.2.3:8470")
    assert set_up_device(DeviceConfig(strategy="tpu", steps_per_execution=4)).steps_per_execution == 4
    assert asked == ["grpc://10.1.2.3:8470", "resolver", "resolver"]


@pytest.mark.slow
def test_the_cpu_in_parts_is_for_trying_replicas_out():
    code = (
        "from keras_senti.settings.schema import DeviceConfig; from keras_senti.training.devices import set_up_device; "
        "device = set_up_device(DeviceConfig(strategy='mirrored', replicas=2)); "
        "print(device.kind, device.replicas, device.strategy.num_replicas_in_sync, device.line)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400)
    assert done.stdout.strip() == "cpu 2 2 CPU in 2 parts, all threads", done.stderr
