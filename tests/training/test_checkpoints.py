import json
import zipfile

import numpy as np
import pytest

from keras_senti.errors import UserError
from keras_senti.models.build import build_model
from keras_senti.settings.schema import ModelConfig, TrainConfig
from keras_senti.storage.files import WriteError
from keras_senti.training import checkpoints
from keras_senti.training.checkpoints import Progress, list_variables, read_checkpoint, restore_newest, write_checkpoint
from keras_senti.training.fit import compile_model

SETTINGS = {"units": 2, "embedding_dim": 3, "dropout": 0.1, "recurrent_dropout": 0.1, "head_dropout": 0.1}


def make_model(**settings):
    model = build_model(ModelConfig(**{**SETTINGS, **settings}), 5, 2)
    compile_model(model, TrainConfig(), 10)
    return model


def make_progress(model, **entries) -> Progress:
    best = [np.full(w.shape, 0.25, np.float32) for w in model.weights]
    row = {"epoch": 0, "val_loss": 0.1 + 0.2}
    return Progress(epoch=1, best_epoch=1, best_value=0.1 + 0.2, best_weights=best, history=[row], **entries)


@pytest.fixture
def model():
    return make_model()


def fill(model, iterations):
    """Gives every variable values of its own, and the optimizer a number of steps."""
    for index, variable in enumerate(list_variables(model).values()):
        variable.assign(np.arange(np.prod(variable.shape, dtype=int)).reshape(variable.shape) + 100 * index)
    model.optimizer.iterations.assign(iterations)


def read_values(model):
    return {name: variable.numpy().tolist() for name, variable in list_variables(model).items()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_names_are_the_same_for_a_model_built_later_and_cover_every_dropout(model):
    variables = list_variables(model)
    assert list(variables) == list(list_variables(make_model()))
    assert {"model/0/embedding/embeddings", "optimizer/0/iteration"} <= set(variables)
    # Embedding dropout, the cells of both directions, head dropout.
    assert sum("seed_generator_state" in name for name in variables) == 4
    # Loss: total, count; accuracy: the same; F1: three counts and weights a class.
    assert sum(name.startswith("metrics/") for name in variables) == 8


def test_everything_is_read_back_into_another_model(model, tmp_path, capsys):
    fill(model, 1234)
    progress = make_progress(model, seconds=1.5)
    write_checkpoint(tmp_path, model, progress)
    assert names(tmp_path) == ["step-00001234.npz"]
    other = make_model()
    again = restore_newest(tmp_path, other)
    assert read_values(other) == read_values(model)
    assert {k: v for k, v in vars(again).items() if k != "best_weights"} == {
        k: v for k, v in vars(progress).items() if k != "best_weights"
    }
    for ours, theirs in zip(again.best_weights, progress.best_weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "step-00001234.npz" in capsys.readouterr().out


def test_without_a_checkpoint_training_is_at_its_beginning(model, tmp_path):
    (tmp_path / "writing-step-00000007.npz").write_bytes(b"half")
    before = read_values(model)
    assert restore_newest(tmp_path, model) == Progress() and read_values(model) == before


def test_the_newest_two_are_kept(model, tmp_path):
    for iterations in (9, 10, 11):
        fill(model, iterations)
        write_checkpoint(tmp_path, model, make_progress(model))
    assert names(tmp_path) == ["step-00000010.npz", "step-00000011.npz"]


def test_a_failed_write_leaves_the_earlier_ones_and_names_the_file(model, tmp_path, monkeypatch):
    fill(model, 1)
    write_checkpoint(tmp_path, model, make_progress(model))
    fill(model, 2)

    def fail(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.np, "savez", fail)
    with pytest.raises(WriteError, match=r"cannot write .*step-00000002\.npz: No space left on device"):
        write_checkpoint(tmp_path, model, make_progress(model))
    assert names(tmp_path) == ["step-00000001.npz"]


@pytest.mark.parametrize("content", [b"", b"PK", "half", "bit"], ids=["empty", "no zip", "cut off", "one bit"])
def test_a_damaged_newest_one_is_named_and_removed_and_the_one_before_it_used(model, tmp_path, capsys, content):
    for iterations in (1, 2):
        fill(model, iterations)
        write_checkpoint(tmp_path, model, make_progress(model, step=iterations))
    newest = tmp_path / "step-00000002.npz"
    whole = bytearray(newest.read_bytes())
    if content == "half":
        content = whole[: len(whole) // 2]
    if content == "bit":
        place = whole.index(np.full(2, 0.25, np.float32).tobytes())
        whole[place] ^= 1
        content = whole
    newest.write_bytes(content)
    other = make_model()
    assert restore_newest(tmp_path, other).step == 1 and other.optimizer.iterations.numpy() == 1
    assert "step-00000002.npz is damaged" in capsys.readouterr().out
    assert names(tmp_path) == ["step-00000001.npz"]


def test_a_newest_one_that_cannot_be_read_for_now_stops_and_is_kept(model, tmp_path, monkeypatch):
    for iterations in (1, 2):
        fill(model, iterations)
        write_checkpoint(tmp_path, model, make_progress(model, step=iterations))

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.files, "read_arrays", fail)
        with pytest.raises(UserError, match=r"step-00000002\.npz: .* cannot be read \(.*Permission denied\)"):
            restore_newest(tmp_path, model)
    assert restore_newest(tmp_path, model).step == 2


def test_a_changed_byte_anywhere_is_noticed_or_harmless(model, tmp_path):
    fill(model, 1)
    write_checkpoint(tmp_path, model, make_progress(model, step=1))
    path = tmp_path / "step-00000001.npz"
    whole, (progress, values) = path.read_bytes(), read_checkpoint(path, model)
    noticed, rng = 0, np.random.default_rng(0)
    for place in rng.choice(len(whole), 300, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            again, read = read_checkpoint(path, model)
        except Exception:
            noticed += 1
            continue
        assert {k: v.tolist() for k, v in read.items()} == {k: v.tolist() for k, v in values.items()}
        assert again.history == progress.history and again.step == 1
    assert noticed > 100


def test_if_none_is_good_nothing_is_removed_and_the_reasons_are_named(model, tmp_path):
    (tmp_path / "step-00000001.npz").write_bytes(b"")
    (tmp_path / "step-00000002.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint can be used \(step-00000002.npz: .*; step-00000001.npz: "):
        restore_newest(tmp_path, model)
    assert names(tmp_path) == ["step-00000001.npz", "step-00000002.npz"]


@pytest.mark.parametrize(
    "other,message",
    [
        ({"units": 4}, r"received shape \(3, 8\), this model has \(3, 16\)"),
        ({"num_layers": 2}, "recurrent_1/.*: received shape None, this model has"),
        ({"head_dropout": 0.0}, r"model/10/head/kernel: received shape None, this model has \(12, 2\)"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(model, tmp_path, other, message):
    write_checkpoint(tmp_path, model, make_progress(model))
    with pytest.raises(UserError, match=f"no checkpoint can be used .*{message}"):
        restore_newest(tmp_path, make_model(**other))


def test_a_checkpoint_needs_no_pickle_and_its_progress_is_json(model, tmp_path):
    write_checkpoint(tmp_path, model, make_progress(model))
    with np.load(tmp_path / "step-00000000.npz", allow_pickle=False) as file:
        assert json.loads(file["progress"].tobytes())["history"] == [{"epoch": 0, "val_loss": 0.30000000000000004}]
    assert zipfile.is_zipfile(tmp_path / "step-00000000.npz")
