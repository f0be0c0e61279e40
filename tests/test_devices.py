import pytest

from keras_senti.devices import choose_kernel

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
