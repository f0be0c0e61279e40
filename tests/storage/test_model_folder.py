"""What a folder is, and folders from strangers: none of their code runs, and none of their sizes is believed."""

import dataclasses
import io
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import evaluate as evaluate_command
import keras_senti
from keras_senti.cli import export
from keras_senti.errors import UserError
from keras_senti.export.weights_folder import read_pretrained, read_run, write_weights_folder
from keras_senti.settings.command_line import parse_config
from keras_senti.storage import environment
from keras_senti.storage.model_folder import find_model
from keras_senti.tasks import evaluate, train

TEXTS = ["the film was great", "the hotel was really awful", "never seen words"]


# What a folder is


def test_a_folder_with_weights_is_these_weights_whatever_else_lies_in_it(trained_run, tmp_path):
    folder = tmp_path / "model"
    write_weights_folder(folder, read_run(trained_run))
    expected = keras_senti.load(folder).predict_proba(TEXTS)
    shutil.copytree(trained_run / "saved_model" / "assets", folder / "assets")
    (folder / "assets" / "config.yaml").write_text("no: [settings")
    (folder / "saved_model.pb").write_text("no graph")
    (folder / "encoder").mkdir()
    os.mkfifo(folder / "model.keras")
    found = find_model(folder)
    assert (found.path, found.settings, found.is_saved_model) == (folder, folder, False)
    np.testing.assert_array_equal(keras_senti.load(folder).predict_proba(TEXTS), expected)
    assert parse_config(["--data.source", "tweets", "--init_from", str(folder)]).model.units == 8
    with pytest.raises(UserError, match="a weights folder holds no scores"):
        evaluate.evaluate_stored(folder)


def test_a_run_holds_the_model_that_it_has_left(trained_run, language_model, tmp_path):
    for path in (trained_run, trained_run / "saved_model"):
        assert find_model(path).settings == trained_run / "saved_model" / "assets" and find_model(path).is_saved_model
    write_weights_folder(tmp_path / "encoder", language_model)
    assert find_model(tmp_path) == find_model(tmp_path / "encoder")
    assert find_model(trained_run / "tensorboard") is find_model(tmp_path / "nowhere") is None


# A SavedModel's operations are its author's


class _Writer(tf.saved_model.experimental.TrackableResource):
    """Writes a file when the SavedModel that holds it is loaded."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def _create_resource(self):
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

    def _initialize(self):
        tf.io.write_file(self.path, "written")


@pytest.fixture(scope="module")
def hostile_run(trained_run, tmp_path_factory):
    """A run of ours whose SavedModel has other functions: (run folder, what loading writes, what calling writes)."""
    folder = tmp_path_factory.mktemp("hostile")
    on_load, on_call = folder / "on_load", folder / "on_call"
    root = tf.Module()
    root.weights = {name: tf.Variable(value) for name, value in read_run(trained_run).weights.items()}
    root.writer = _Writer(on_load)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    def serve(text):
        with tf.control_dependencies([tf.io.write_file(str(on_call), "written")]):
            return {"probabilities": tf.zeros((tf.shape(text)[0], 3)), "token_ids": tf.zeros((tf.shape(text)[0], 1))}

    root.serve = root.tokens = root.training = root.tokenize = serve
    run_dir = shutil.copytree(trained_run, folder / "run")
    shutil.rmtree(run_dir / "saved_model")
    names = ("serving_default", "tokens", "training", "tokenize")
    tf.saved_model.save(root, str(run_dir / "saved_model"), signatures=dict.fromkeys(names, serve))
    shutil.copytree(trained_run / "saved_model" / "assets", run_dir / "saved_model" / "assets", dirs_exist_ok=True)
    return run_dir, on_load, on_call


def test_nothing_of_a_saved_model_runs_by_any_door(hostile_run, trained_run, tiny_settings, tmp_path, capsys):
    run_dir, on_load, on_call = hostile_run
    expected = keras_senti.load(trained_run).predict_proba(TEXTS)
    for path in (run_dir, run_dir / "saved_model"):
        np.testing.assert_allclose(keras_senti.load(path).predict_proba(TEXTS), expected, atol=1e-6)
    (tmp_path / "texts.csv").write_text("text\nthe film was great\n")
    for arguments in (
        ["--text", "the film was great"],
        ["--explain", "the film was great"],
        ["--data.csv", str(tmp_path / "texts.csv")],
        ["--compare", str(trained_run)],
        [],
    ):
        evaluate_command.main(["--run", str(run_dir), *arguments])
    assert "positive" in capsys.readouterr().out
    evaluate.explain_texts(run_dir / "saved_model", TEXTS[:1])
    export.main([str(run_dir), str(tmp_path / "weights")])
    for path in (run_dir, run_dir / "saved_model"):
        config = parse_config([*tiny_settings, "--init_from", str(path)])
        assert read_pretrained(config.init_from).weights.keys() == read_run(trained_run).weights.keys()
    with pytest.raises(UserError, match="nothing to resume"):
        train.train_run(parse_config(["--resume", str(run_dir)]))
    assert not on_load.exists() and not on_call.exists()
    # And TensorFlow would have done it.
    loaded = tf.saved_model.load(str(run_dir / "saved_model"))
    assert on_load.exists() and not on_call.exists()
    loaded.signatures["serving_default"](text=tf.constant(["a"]))
    assert on_call.exists()


@pytest.mark.slow
def test_training_further_runs_nothing_of_a_saved_model(hostile_run, tiny_settings, tmp_path):
    run_dir, on_load, on_call = hostile_run
    for written in (on_load, on_call):
        written.unlink(missing_ok=True)
    arguments = [*tiny_settings, "--init_from", str(run_dir / "saved_model"), "--train.epochs", "1"]
    assert train.train_run(parse_config([*arguments, "--run_dir", str(tmp_path / "further")]))
    assert not on_load.exists() and not on_call.exists()


def test_what_was_trained_further_in_plain_tensorflow_predicts_as_tensorflow_does(trained_run, tmp_path):
    model = tf.saved_model.load(str(trained_run / "saved_model"))
    ids = model.tokenize(tf.constant(TEXTS))["token_ids"]
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(tf.math.log(model.training(ids)["probabilities"][:, 0]))
    for gradient, variable in zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables):
        variable.assign_sub(0.5 * tf.convert_to_tensor(gradient))
    tf.saved_model.save(model, str(tmp_path / "further"), signatures=model.signatures)
    again = tf.saved_model.load(str(tmp_path / "further"))
    expected = again.signatures["serving_default"](text=tf.constant(TEXTS))["probabilities"].numpy()
    received = keras_senti.load(tmp_path / "further").predict_proba(TEXTS)
    np.testing.assert_allclose(received, expected, atol=1e-6)
    assert np.abs(received - keras_senti.load(trained_run).predict_proba(TEXTS)).max() > 0.01


# Sizes and files that are not what they should be


def set_sizes(**sizes):
    def change(folder: Path):
        file = next(folder.rglob("config.yaml"))
        text = file.read_text()
        for name, (before, after) in sizes.items():
            assert f"  {name}: {before}\n" in text
            text = text.replace(f"  {name}: {before}\n", f"  {name}: {after}\n")
        file.write_text(text)

    return change


def write(name: str, content, size: int | None = None):
    def change(folder: Path):
        (file,) = folder.rglob(name)
        file.write_bytes(content)
        if size is not None:
            os.truncate(file, size)  # a hole, which takes no place on the disk

    return change


def grow(name: str, size: int):
    return lambda folder: os.truncate(next(folder.rglob(name)), size)


def put(name: str, make):
    def change(folder: Path):
        (file,) = folder.rglob(name)
        file.unlink()
        make(file)

    return change


def zip_up(*items, **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for item, content in items:
            archive.writestr(item, content)
    return file.getvalue()


def claim(shape, dtype: str = "<f4") -> bytes:
    """The header of an array, and nothing behind it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def long_directory() -> bytes:
    items = [zipfile.ZipInfo(f"{i}.npy") for i in range(20)]
    for item in items:
        item.comment = b" " * 60_000
    return zip_up(*((item, b"") for item in items))


def without_names(folder: Path):
    """A SavedModel with our assets and the right variables, but without their names."""
    weights = read_pretrained(folder).weights.values()
    assets = shutil.copytree(folder / "assets", folder.parent / "assets")
    shutil.rmtree(folder)
    module = tf.Module()
    module.others = [tf.Variable(weight) for weight in weights]
    tf.saved_model.save(module, str(folder))
    shutil.copytree(assets, folder / "assets", dirs_exist_ok=True)


BOTH, WEIGHTS, SAVED = ("weights", "saved_model"), ("weights",), ("saved_model",)
FOLDERS = [
    ("a billion units", BOTH, set_sizes(units=(8, 10**9)), r"has the shape \(6, 32\), expected \(6, 4000000000\)"),
    ("huge vectors", BOTH, set_sizes(embedding_dim=(6, 2 * 10**9)), r"expected \(\d\d, 2000000000\)"),
    ("a billion layers", BOTH, set_sizes(num_layers=(1, 10**9)), "has the shape|is missing, expected"),
    (
        "no int32",
        BOTH,
        set_sizes(sequence_length=(12, 10**30)),
        "sequence_length: received 10+, expected at least 1 and below 2",
    ),
    (
        "pairs of words",
        BOTH,
        set_sizes(bigram_buckets=(0, 2 * 10**9)),
        r"bigrams is missing, expected \(2000000000, 6\)",
    ),
    (
        "a bomb",
        WEIGHTS,
        write("weights.npz", zip_up(("a.npy", b"\0" * 2**22), compression=8)),
        "entries are larger than",
    ),
    ("a false header", WEIGHTS, write("weights.npz", zip_up(("a.npy", claim((10**6, 10**6))))), "has another size in"),
    ("no numbers", WEIGHTS, write("weights.npz", zip_up(("a.npy", claim((0,), "<U9")))), "embeddings is missing"),
    (
        "one name twice",
        WEIGHTS,
        write("weights.npz", zip_up(("a.npy", claim((0,))), ("a", claim((0,))))),
        "not as numpy.savez",
    ),
    ("a long directory", WEIGHTS, write("weights.npz", long_directory()), "its directory is too long"),
    ("a hole as weights", WEIGHTS, grow("weights.npz", 10**12), "weights.npz is damaged: .*not a zip file"),
    ("a hole as vocabulary", BOTH, grow("vocabulary.txt", 10**12), "has 1,000,000.0 MB, expected at most 64"),
    (
        "many words",
        BOTH,
        write("vocabulary.txt", b"\n" * 4_000_000),
        "received 4,000,000 lines, expected at most 3,600",
    ),
    ("bytes as words", BOTH, write("vocabulary.txt", b"\xff\xfe"), "the vocabulary cannot be read: 'utf-8' codec"),
    (
        "deep classes",
        BOTH,
        write("class_names.json", b"[" * 10**6),
        "class_names.json cannot be read: maximum recursion",
    ),
    ("a hole as classes", BOTH, grow("class_names.json", 10**10), "has 10,000.0 MB, expected at most 4"),
    ("a hole as settings", BOTH, grow("config.yaml", 10**10), "has 10,000.0 MB, expected at most 1"),
    ("a hole as calibration", BOTH, grow("calibration.json", 10**10), "has 10,000.0 MB, expected at most 1"),
    ("pipe as settings", BOTH, put("config.yaml", os.mkfifo), "config.yaml: is no plain file"),
    ("pipe as vocabulary", BOTH, put("vocabulary.txt", os.mkfifo), "vocabulary.txt: is no plain file"),
    ("pipe as calibration", BOTH, put("calibration.json", os.mkfifo), "calibration.json: is no plain file"),
    ("pipe as weights", WEIGHTS, put("weights.npz", os.mkfifo), "weights.npz: is no plain file"),
    ("pipe as variables", SAVED, put("variables.data-00000-of-00001", os.mkfifo), "is no plain file"),
    ("pipe as index", SAVED, put("variables.index", os.mkfifo), "is no plain file"),
    ("folder as weights", WEIGHTS, put("weights.npz", os.mkdir), "weights.npz: is no plain file"),
    ("link to a secret", BOTH, put("vocabulary.txt", lambda f: f.symlink_to("/etc/passwd")), "leads out of .* cp -rL"),
    ("link to a device", BOTH, put("class_names.json", lambda f: f.symlink_to("/dev/zero")), "leads out of the model"),
    ("link to nothing", BOTH, put("class_names.json", lambda f: f.symlink_to("nowhere")), "a link that leads nowhere"),
    ("no variables", SAVED, lambda folder: shutil.rmtree(folder / "variables"), "expected the weights of a SavedModel"),
    (
        "no index",
        SAVED,
        write("variables.index", b"no table" * 100),
        "expected the weights of a SavedModel that keras_",
    ),
    ("a long index", SAVED, grow("variables.index", 10**9), "has 1,000.0 MB, expected at most 16"),
    (
        "a hole as variables",
        SAVED,
        grow("variables.data-00000-of-00001", 10**12),
        "received 1,000,000 MB, where the set",
    ),
    (
        "no assets",
        SAVED,
        lambda folder: shutil.rmtree(folder / "assets"),
        r"has no assets/config\.yaml\. Expected a Saved",
    ),
    (
        "no names",
        SAVED,
        without_names,
        "received no weights by name, only others.*, which runs its author's operations",
    ),
]


@pytest.mark.parametrize(
    "kind, change, message",
    [
        pytest.param(kind, change, message, id=f"{name}-{kind}")
        for name, kinds, change, message in FOLDERS
        for kind in kinds
    ],
)
def test_a_folder_that_lies_about_its_sizes_or_files_is_one_message(trained_run, tmp_path, kind, change, message):
    folder = tmp_path / "model"
    if kind == "weights":
        write_weights_folder(folder, read_run(trained_run))
    else:
        shutil.copytree(trained_run / "saved_model", folder)
    change(folder)
    begin, memory = time.perf_counter(), environment.read_peak_memory()
    for use in (keras_senti.load, read_pretrained):
        with pytest.raises(UserError, match=message) as error:
            use(folder)
        assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 700
    assert time.perf_counter() - begin < 10 and environment.read_peak_memory() - memory < 0.5


def test_weights_that_overflow_are_no_answer(trained_run, tmp_path):
    model = read_run(trained_run)
    huge = {name: np.full_like(weight, 3e38) for name, weight in model.weights.items()}
    write_weights_folder(tmp_path / "model", dataclasses.replace(model, weights=huge))
    with pytest.raises(UserError, match="model gives probabilities that are no numbers, as its weights are too large"):
        keras_senti.load(tmp_path / "model").predict(TEXTS)


def test_a_name_that_is_too_long_for_a_folder_is_one_message_by_every_door(tiny_settings):
    name = "a" * 300
    for use in (
        lambda: keras_senti.load(name),
        lambda: evaluate_command.main(["--run", name, "--text", "a"]),
        lambda: parse_config([*tiny_settings, "--init_from", name]),
        lambda: parse_config(["--resume", name]),
        lambda: parse_config(["--config", name]),
    ):
        with pytest.raises(UserError, match="a{300}"):
            use()


@pytest.mark.parametrize("name", ["manifest.json", "metrics.json", "predictions.csv", "class_names.json"])
def test_a_run_with_a_pipe_for_a_file_is_refused_and_not_waited_for(trained_run, tmp_path, name):
    run_dir = shutil.copytree(trained_run, tmp_path / "run")
    (run_dir / name).unlink()
    os.mkfifo(run_dir / name)
    for use in (evaluate.evaluate_stored, lambda path: evaluate.compare_stored(path, trained_run)):
        with pytest.raises(UserError, match=f"{name}: is no plain file"):
            use(run_dir)
