"""TensorBoard: what is in the event files, what a real TensorBoard serves, and what a browser shows of it."""

import html
import json
import re
import select
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard import plugin_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import plugin_data_pb2

from keras_senti.data.dataset import EncodedDataset, EncodedTexts, sample_rows
from keras_senti.data.token_cache import Corpus
from keras_senti.evaluation import figures
from keras_senti.models import kernels
from keras_senti.models.build import build_model
from keras_senti.settings.schema import Config, ModelConfig, TrainConfig
from keras_senti.training.callbacks import Validate
from keras_senti.training.fit import KerasLoop, compile_model
from keras_senti.training.trackers import pictures, tensorboard
from keras_senti.training.trackers.tensorboard import ClassifierBoard, TensorBoard

CLASSES = ("bad", "so so", "good")
VOCABULARY = ["[PAD]", "[UNK]", "the", "a\tb", " ", "", "好", "x\n", "y", "z"]


def make_corpus(folder) -> Corpus:
    """Five texts of 1 to 5 tokens, which are both parts."""
    encoded = EncodedTexts(np.arange(15, dtype=np.int32) % 7 + 2, np.array([0, 1, 3, 6, 10, 15]))
    weights, lines = np.array([1, 2, 1, 1, 2], np.float32), np.arange(2, 7)
    texts = ["one", "two", "three", "four", "five"]
    part = EncodedDataset(texts, encoded, np.array([0, 1, 2, 0, 1]), weights, lines)
    return Corpus({"train": part, "validation": part}, None, CLASSES, {}, [], {}, folder)


def make_board(path, trainable=True, **settings):
    """A board over the corpus, and the model it watches."""
    keras.utils.set_random_seed(0)
    model = build_model(ModelConfig(units=4, embedding_dim=6, dropout=0.3), len(VOCABULARY), 3)
    model.get_layer("embedding").trainable = trainable
    config = Config(train=TrainConfig(**{"batch_size": 4, **settings}))
    compile_model(model, config.train, total_steps=10)
    corpus = make_corpus(path)
    validate = Validate(KerasLoop(model, None), corpus.validation)
    board = ClassifierBoard(TensorBoard(config, path), corpus, validate)
    for callback in (validate, board):
        callback.set_model(model)
    return board, model


def run_epoch(board, epoch=0):
    board.on_train_begin()
    if board.validate.probabilities is None:
        board.validate.on_epoch_end(epoch, {})
    board.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 2.0, "val_accuracy": 0.75, "val_macro_f1": 0.5})
    board.on_train_end()


def read_events(path) -> EventAccumulator:
    return EventAccumulator(str(path), size_guidance={"tensors": 0}).Reload()


def read_steps(events, tag) -> dict[int, float]:
    """By step: files that were begun in the same second are read in any order."""
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}


def read_scalar(events, tag) -> float:
    return float(tf.make_ndarray(events.Tensors(tag)[-1].tensor_proto))


def test_every_epoch_has_curves_gradients_weights_matrix_and_examples(tmp_path):
    board, _ = make_board(tmp_path)
    run_epoch(board)
    train = read_events(tmp_path / "train")
    tags = set(train.Tags()["tensors"])
    assert {"epoch_loss", "epoch_learning_rate", "keras", "gradient_norm/all"} <= tags and train.Tags()["graph"]
    cell = "recurrent_0/forward_recurrent_0/lstm_cell/recurrent_kernel"
    assert {f"{kind}/{name}" for kind in ("weights", "gradients") for name in ("embedding/embeddings", cell)} <= tags
    assert {f"gradient_norm/{layer}" for layer in ("embedding", "recurrent_0", "head")} <= tags
    curves = {f"pr_curve/{name}" for name in CLASSES}
    assert set(read_events(tmp_path / "validation").Tags()["tensors"]) == curves | {
        "epoch_loss", "epoch_accuracy", "epoch_macro_f1", "confusion_matrix", "calibration", "examples", "errors",
    }  # fmt: skip


def test_of_a_large_table_the_histogram_has_a_sample_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "MOST_HISTOGRAM_VALUES", 8)  # the embedding has more
    board, model = make_board(tmp_path)
    run_epoch(board)
    table = model.get_layer("embedding").embeddings
    (event,) = read_events(tmp_path / "train").Tensors("weights/embedding/embeddings")
    counted = tf.make_ndarray(event.tensor_proto)[:, 2].sum()
    assert counted == 8 // table.shape[1] * table.shape[1] < table.numpy().size


def test_the_page_of_errors_begins_with_the_most_confident_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "MOST_EXAMPLE_ROWS", 3)
    board, model = make_board(tmp_path)
    model.get_layer("head").bias.assign([0, 0, 9])  # all three are called good
    run_epoch(board)
    (event,) = read_events(tmp_path / "validation").Tensors("errors")
    errors = tf.make_ndarray(event.tensor_proto).item().decode()
    probabilities = board.validate.probabilities[board.rows]
    wrong = np.flatnonzero(board.labels != 2)
    worst = max(wrong, key=lambda row: probabilities[row, 2])
    lines = [line for line in errors.splitlines() if "**good**" in line]
    assert f"{len(wrong)} of 3 rows are wrong" in errors and len(lines) == len(wrong)
    name = CLASSES[board.labels[worst]]
    assert lines[0] == f"| {board.texts[worst]} | {name} | **good** | {probabilities[worst, 2]:.3f} |"


@pytest.mark.parametrize("settings,rows", [({"batch_size": 4}, 4), ({"batch_tokens": 12}, 2)])
def test_the_probe_is_no_larger_than_a_step(tmp_path, settings, rows):
    board, _ = make_board(tmp_path, **settings)  # of 5 tokens at most, so that two rows are 10 positions, three 15
    assert board.probe[0].shape[0] == rows


def test_a_profile_is_written_of_the_steps_that_are_asked_for(tmp_path):
    board, _ = make_board(tmp_path, profile_steps=[2, 3])
    folder = tmp_path / "train" / "plugins" / "profile"
    board.on_train_begin()
    for step in range(4):
        board.on_train_batch_begin(step)
        board.on_train_batch_end(step, {"loss": 1.0})
        assert bool(list(folder.rglob("*.xplane.pb"))) == (step >= 2)
    board.on_train_end()
    assert len(list(folder.rglob("*.xplane.pb"))) == 1


def test_the_gradient_norm_is_that_of_the_weighted_training_loss_without_dropout(tmp_path):
    board, model = make_board(tmp_path, label_smoothing=0.1)
    run_epoch(board)
    ids, labels, weights = (np.asarray(part) for part in board.probe)
    with tf.GradientTape() as tape:
        p = model(ids, training=False)
        target = np.eye(3)[labels] * 0.9 + 0.1 / 3
        loss = tf.reduce_mean(weights * -tf.reduce_sum(target * tf.math.log(p), axis=1))
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]
    events = read_events(tmp_path / "train")
    norm = np.sqrt(sum(np.sum(g.numpy() ** 2) for g in gradients))
    assert read_scalar(events, "gradient_norm/all") == pytest.approx(norm, rel=1e-4)
    embedding = np.linalg.norm(gradients[0])
    assert read_scalar(events, "gradient_norm/embedding") == pytest.approx(embedding, rel=1e-4) != norm


def test_the_probe_goes_back_by_the_gradient_that_training_has(tmp_path, monkeypatch):
    forward, backward = kernels.LOOPS["lstm"]
    called = []
    monkeypatch.setitem(kernels.LOOPS, "lstm", (forward, lambda *a: called.append(len(a)) or backward(*a)))
    board, _ = make_board(tmp_path)
    board.compute_gradients()
    assert len(called) == 2  # once for each direction


def test_watching_changes_neither_weights_nor_seed_generators_nor_the_optimizer(tmp_path):
    board, model = make_board(tmp_path)
    model.optimizer.build(model.trainable_variables)
    board.validate.on_epoch_end(0, {})
    watched = [*model.variables, *model.optimizer.variables]
    assert any("seed_generator" in variable.path for variable in watched)
    before = [variable.numpy() for variable in watched]
    run_epoch(board)
    for variable, old in zip(watched, before):
        np.testing.assert_array_equal(variable.numpy(), old, variable.path)


def test_a_frozen_embedding_has_weights_and_no_gradient(tmp_path):
    board, _ = make_board(tmp_path, trainable=False)
    run_epoch(board)
    tags = read_events(tmp_path / "train").Tags()["tensors"]
    assert "weights/embedding/embeddings" in tags and not [t for t in tags if "grad" in t and "embedding" in t]


def test_a_layer_that_begins_to_learn_has_a_gradient_from_then_on(tmp_path):
    board, model = make_board(tmp_path)
    for epoch, learns in enumerate((False, True)):
        model.get_layer("recurrent_0").trainable = learns
        board.set_model(model)  # as every `fit` does
        run_epoch(board, epoch)
    events = read_events(tmp_path / "train")
    norms = {n: events.Tensors(f"gradient_norm/{n}") for n in ("all", "embedding", "recurrent_0", "head")}
    steps = {n: [event.step for event in found] for n, found in norms.items()}
    assert steps == {"all": [0, 1], "embedding": [0, 1], "recurrent_0": [1], "head": [0, 1]}
    first = {n: float(tf.make_ndarray(found[0].tensor_proto)) for n, found in norms.items()}
    assert first["all"] == pytest.approx(np.hypot(first["embedding"], first["head"]), rel=1e-5)


def test_a_gradient_that_is_not_finite_does_not_stop_the_run(tmp_path):
    board, model = make_board(tmp_path)
    model.get_layer("head").bias.assign([np.inf, 0, 0])
    run_epoch(board)
    assert not np.isfinite(read_scalar(read_events(tmp_path / "train"), "gradient_norm/all"))


def test_a_second_start_adds_to_the_folder(tmp_path):
    for epoch in range(2):
        run_epoch(make_board(tmp_path)[0], epoch)
    assert [event.step for event in read_events(tmp_path / "validation").Tensors("examples")] == [0, 1]


def test_sampled_rows_are_fixed_ordered_and_at_most_so_many():
    rows = sample_rows(1000, 7)
    assert len(set(rows)) == 7 and (np.diff(rows) > 0).all() and rows.max() < 1000
    assert rows.tolist() == sample_rows(1000, 7).tolist()
    assert sample_rows(3, 7).tolist() == [0, 1, 2]


def test_an_embeddings_gradient_is_summed_over_the_tokens_that_occur():
    values = tf.constant([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    gradient = tensorboard._drop_untouched_rows(tf.IndexedSlices(values, tf.constant([5, 3, 5]), tf.constant([9, 2])))
    assert gradient.numpy().tolist() == [[101.0, 202.0], [10.0, 20.0]]


# The confusion matrix


def test_the_matrix_has_true_classes_as_rows_and_says_what_numbers_mean(monkeypatch, tmp_path):
    drawn = []

    def draw(matrix, names, title):
        drawn.append((matrix.tolist(), title))
        return np.zeros((2, 2, 4), np.uint8), False

    monkeypatch.setattr(figures, "draw_confusion_matrix", draw)
    probabilities = np.eye(3, dtype=np.float32)[[0, 2, 2, 1]]
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=0):
        pictures.write_confusion_matrix(np.array([0, 0, 2, 0]), probabilities, ("差", "中", "好"))
    assert drawn == [([[1, 1, 1], [0, 0, 0], [0, 0, 1]], "accuracy 0.500\n4 rows")]
    description = read_events(tmp_path).SummaryMetadata("confusion_matrix").summary_description
    assert description == "4 fixed validation rows: 0 = 差, 1 = 中, 2 = 好"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("names", [("bad", "good"), ("差评", "好评"), ("$x$ \\frac", "$"), ("\U000f0000", "good")])
def test_a_matrix_is_drawn_without_a_warning_whatever_the_classes_are_called(names):
    image, is_named = figures.draw_confusion_matrix(np.array([[3, 1], [0, 0]]), names, "title")
    assert image.dtype == np.uint8 and image.shape[2] == 4 and len(np.unique(image)) > 10
    if names[1] == "good":
        assert is_named == names[0].isascii()  # no font has a character for private use


def test_a_matrix_of_many_classes_is_drawn():
    image, _ = figures.draw_confusion_matrix(
        np.eye(60, dtype=int), [f"a long class name, number {i}" for i in range(60)], "title"
    )
    assert max(image.shape) < 3000


def test_of_more_classes_than_can_be_read_the_picture_and_the_curves_show_some(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "MOST_DRAWN_CLASSES", 2)
    monkeypatch.setattr(figures, "MOST_COUNTED_CLASSES", 2)
    monkeypatch.setattr(
        figures,
        "draw_confusion_matrix",
        lambda *given: drawn.append((given[0].tolist(), *given[1:])) or (np.zeros((2, 2, 4), np.uint8), True),
    )
    labels, probabilities = np.array([0, 0, 2, 3, 3, 3]), np.eye(4, dtype=np.float32)[[0, 0, 3, 3, 3, 1]]
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=0):
        pictures.write_confusion_matrix(labels, probabilities, "abcd")
        pictures.write_pr_curves(labels, probabilities, "abcd")
    assert drawn == [([[0, 0], [1, 2]], ["b", "d"], "accuracy 0.667\n6 rows")]  # d is in two mistakes, b and c in one
    events = read_events(tmp_path)
    assert (
        "of 4 classes, the 2 that have a part in most" in events.SummaryMetadata("confusion_matrix").summary_description
    )
    assert set(events.Tags()["tensors"]) == {"confusion_matrix", "pr_curve/a", "pr_curve/d"}


# Calibration and precision-recall curves


def test_a_precision_recall_curve_counts_the_rows_of_its_class_at_each_threshold(tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]], np.float32)
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=3):
        pictures.write_pr_curves(np.array([0, 0, 1, 1]), probabilities, ("bad", "good"))
    events = read_events(tmp_path)
    assert set(events.Tags()["tensors"]) == {"pr_curve/bad", "pr_curve/good"}
    assert events.SummaryMetadata("pr_curve/bad").plugin_data.plugin_name == "pr_curves"
    (event,) = events.Tensors("pr_curve/bad")
    assert event.step == 3
    curve = tf.make_ndarray(event.tensor_proto)  # 201 thresholds, 1/200 apart
    tp, fp, tn, fn, precision, recall = curve[:, [0, 100, 150, 199]]
    assert (tp.tolist(), fp.tolist()) == ([2, 2, 1, 0], [2, 1, 0, 0])
    assert (tn.tolist(), fn.tolist()) == ([0, 1, 2, 2], [0, 0, 1, 2])
    np.testing.assert_allclose(precision[:3], [1 / 2, 2 / 3, 1])
    np.testing.assert_allclose(recall, [1, 1, 1 / 2, 0])


@pytest.mark.filterwarnings("error")
def test_the_calibration_is_drawn_also_of_a_single_row(tmp_path):
    labels, probabilities = np.array([0]), np.array([[0.7, 0.3]], np.float32)
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=0):
        pictures.write_calibration(labels, probabilities)
    width, height, image = tf.make_ndarray(read_events(tmp_path).Tensors("calibration")[0].tensor_proto)
    assert (int(width), int(height)) == (384, 480) and image.startswith(b"\x89PNG")
    assert "1 fixed validation rows" in read_events(tmp_path).SummaryMetadata("calibration").summary_description


# The page of examples


def test_a_text_is_shown_as_it_is_whatever_it_holds():
    text = "a|b <b>no</b> *x* _y_ `z` [l](javascript:x) ![i](http://e) &amp; # 1\n\n---\n\\ \x00\x02\ud800 好 😀"
    page = f"| text |\n| --- |\n| {pictures.escape_markdown(text)} |"
    (cell,) = re.findall(r"<td>(.*?)</td>", plugin_util.markdown_to_safe_html(page), re.DOTALL)
    assert "<" not in cell
    assert html.unescape(cell) == "a|b <b>no</b> *x* _y_ `z` [l](javascript:x) ![i](http://e) &amp; # 1 --- \\ 好 😀"


def test_there_are_fixed_texts_of_every_class_and_errors_the_most_certain_first():
    texts = [f"text{i}" for i in range(20)]
    labels = np.array([0] * 18 + [1, 2])
    probabilities = np.tile(np.array([[0.9, 0.06, 0.04]], np.float32), (20, 1))
    probabilities[17] = [0.1, 0.7, 0.2]
    pages = pictures.format_examples(texts, labels, probabilities, CLASSES)
    fixed, errors = pages["examples"], pages["errors"]
    assert re.findall(r"text\d+", fixed) == ["text0", "text1", "text2", "text3", "text18", "text19"]
    assert "3 of 20 rows are wrong" in errors
    assert re.findall(r"text\d+", errors) == ["text18", "text19", "text17"]
    assert "| text17 | bad | **so so** | 0.700 |" in errors and "| text0 | bad | bad | 0.900 |" in fixed


def test_a_long_text_is_cut_and_broken_into_lines():
    page = pictures.format_examples(["word " * 200], np.array([0]), np.eye(3)[[0]], CLASSES)["examples"]
    line = page.splitlines()[4]
    assert line.count("word") == 60 and "…" in line and line.count("<br>") == 5


# The projector


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("projector")
    _, model = make_board(path)
    pictures.write_projector(path, model, VOCABULARY, CLASSES)
    return path / "train", model


def test_the_projector_has_the_vectors_of_all_words_but_padding(words):
    folder, model = words
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), projector.ProjectorConfig())
    (embedding,) = config.embeddings
    assert embedding.metadata_path == "metadata.tsv"
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(folder))
    tensor = reader.get_tensor(embedding.tensor_name)
    np.testing.assert_array_equal(tensor, model.get_layer("embedding").get_weights()[0][1:])
    assert tensor.shape == (len(VOCABULARY) - 1, 6)


def test_every_word_has_one_line_with_its_class_and_probabilities(words):
    folder, model = words
    lines = [line.split("\t") for line in (folder / "metadata.tsv").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == ["word", "predicted", "probability_bad", "probability_so so", "probability_good", "rank"]
    assert [line[0] for line in lines[1:]] == ["[UNK]", "the", "a\\u0009b", "' '", "''", "好", "x\\u000a", "y", "z"]
    assert [line[-1] for line in lines[1:]] == [str(rank) for rank in range(9)]
    alone = np.asarray(model(np.array([[6]]), training=False))[0]
    assert lines[6][1] == CLASSES[alone.argmax()] and [float(p) for p in lines[6][2:5]] == pytest.approx(
        alone, abs=1e-3
    )


def test_a_run_folder_that_moved_keeps_its_projector(words, tmp_path):
    moved = shutil.copytree(words[0], tmp_path / "elsewhere")
    assert tf.train.latest_checkpoint(moved) == str(moved / "words-1")


def test_only_the_most_frequent_words_are_written(words, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_WORDS", 4)
    pictures.write_projector(tmp_path, words[1], VOCABULARY, CLASSES)
    assert len((tmp_path / "train" / "metadata.tsv").read_text().splitlines()) == 1 + 4


def test_of_many_classes_a_word_has_no_column_for_each(words, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MOST_COUNTED_CLASSES", 2)
    pictures.write_projector(tmp_path, words[1], VOCABULARY, CLASSES)
    lines = [line.split("\t") for line in (tmp_path / "train" / "metadata.tsv").read_text().splitlines()]
    assert lines[0] == ["word", "predicted", "rank"] and {len(line) for line in lines} == {3}


# Settings and scores


def test_hparams_are_the_settings_of_text_model_and_training_with_validation_scores(tmp_path):
    board, model = make_board(tmp_path, epochs=3, clip_norm=None)
    tracker = board.tracker
    tracker.log_settings(tracker.config, "tiny/a")
    run_epoch(board)
    board.set_model(model)  # as a resumed run does
    run_epoch(board, 1)
    events = read_events(tmp_path / "hparams")  # as a run that was ended early leaves it
    assert read_steps(events, "validation/accuracy") == {0: 0.75, 1: 0.75}
    assert read_steps(events, "validation/macro_f1") == {0: 0.5, 1: 0.5}
    tracker.log_scores({"accuracy": 0.5, "macro_f1": 0.25, "log_loss": 1.5, "brier_score": 1.0, "rows": 4})
    tracker.close()
    events = read_events(tmp_path / "hparams")
    scores = {tag for tag in events.Tags()["tensors"] if tag.startswith("validation/")}
    assert scores == {f"validation/{name}" for name in ("accuracy", "macro_f1", "log_loss")}
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.group_name == "tiny/a"
    assert start.hparams["train.epochs"].number_value == 3 and start.hparams["model.cell"].string_value == "lstm"
    assert start.hparams["model.bidirectional"].bool_value is True
    assert "train.clip_norm" not in start.hparams and not [key for key in start.hparams if key.startswith("data.")]
    assert read_steps(events, "validation/accuracy") == {0: 0.75, 1: 0.75, 3: 0.5}
    assert read_steps(events, "validation/log_loss") == {3: 1.5}


def test_a_language_model_has_no_row_in_the_table_of_scores(tmp_path):
    model = ModelConfig(bidirectional=False)
    tracker = TensorBoard(Config(task="language_model", model=model), tmp_path)
    tracker.log_settings(tracker.config, "tiny/a")
    tracker.log_scores({"perplexity": 12.0, "cross_entropy": 2.5, "tokens": 9})
    tracker.close()
    assert not list(tmp_path.iterdir())


# A real TensorBoard over a real run


def get(url, **query):
    url = f"{url}?{urllib.parse.urlencode(query)}" if query else url
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read()


def get_json(url, **query):
    return json.loads(get(url, **query))


@pytest.fixture(scope="module", params=["the run folder", "logs"])
def served(request, trained_run):
    """(address of a TensorBoard, what stands before train/ in the names of its runs), for both ways to start it."""
    logdir = trained_run if request.param == "the run folder" else trained_run.parent
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address, deadline, lines = None, time.monotonic() + 120, []
        while address is None and time.monotonic() < deadline and process.poll() is None:
            if select.select([process.stdout], [], [], 1)[0]:
                lines.append(process.stdout.readline())
                address = re.search(r"http://127\.0\.0\.1:\d+", lines[-1])
        assert address, "".join(lines)
        address = address.group(0)
        while not get_json(f"{address}/data/plugin/scalars/tags") or not get_json(
            f"{address}/data/plugin/projector/runs"
        ):
            assert time.monotonic() < deadline, "TensorBoard found no run"
            time.sleep(0.5)
        yield address, "tensorboard" if logdir == trained_run else f"{trained_run.name}/tensorboard"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_tensorboard_serves_every_tab(served):
    address, root = served
    data = f"{address}/data/plugin"
    scalars = get_json(f"{data}/scalars/tags")
    assert set(scalars) == {f"{root}/{part}" for part in ("train", "validation", "hparams")}
    assert {"epoch_loss", "epoch_learning_rate", "epoch_tokens_per_second", "gradient_norm/all"} <= set(
        scalars[f"{root}/train"]
    )
    assert {"epoch_loss", "epoch_accuracy", "epoch_macro_f1"} == set(scalars[f"{root}/validation"])
    histograms = get_json(f"{data}/histograms/tags")[f"{root}/train"]
    assert {"weights/head/kernel", "gradients/head/kernel", "gradients/embedding/embeddings"} <= set(histograms)
    assert {"confusion_matrix", "calibration"} == set(get_json(f"{data}/images/tags")[f"{root}/validation"])
    images = get_json(f"{data}/images/images", run=f"{root}/validation", tag="confusion_matrix", sample=0)
    assert get(f"{data}/images/individualImage?{images[-1]['query']}").startswith(b"\x89PNG")
    curves = [f"pr_curve/{name}" for name in ("negative", "neutral", "positive")]
    assert curves == sorted(get_json(f"{data}/pr_curves/tags")[f"{root}/validation"])
    found = get_json(f"{data}/pr_curves/pr_curves", run=f"{root}/validation", tag=curves[0])[f"{root}/validation"]
    assert found[-1]["recall"][0] == 1 and found[-1]["true_positives"][0] == 5  # of 15 validation rows
    examples, errors = (
        get_json(f"{data}/text/text", run=f"{root}/validation", tag=tag, markdown="true")
        for tag in ("examples", "errors")
    )
    assert "<td>negative</td>" in examples[-1]["text"] and "<table>" in errors[0]["text"]
    assert "0 of 15 rows are wrong" in errors[-1]["text"] and "<table>" not in errors[-1]["text"]  # it has learned them
    assert get_json(f"{data}/graphs/info")[f"{root}/train"]["tags"]["keras"]["conceptual_graph"]
    graph = get(f"{data}/graphs/graph", run=f"{root}/train", tag="keras", conceptual="true")
    assert b"classifier/embedding" in graph and b"classifier/pooling" in graph
    assert b"token_ids" in get(f"{data}/graphs/graph", run=f"{root}/train", conceptual="false")


@pytest.mark.slow
def test_tensorboard_serves_the_settings_with_three_scores(served):
    address, root = served
    request = {"experimentName": "", "includeMetrics": True}
    experiment = post_json(f"{address}/data/plugin/hparams/experiment", request)
    assert [m["name"]["tag"] for m in experiment["metricInfos"]] == [
        "validation/accuracy", "validation/log_loss", "validation/macro_f1",
    ]  # fmt: skip
    assert {"model.units", "train.learning_rate", "text.split"} <= {h["name"] for h in experiment["hparamInfos"]}
    columns = [{"metric": m["name"]} for m in experiment["metricInfos"]]
    columns += [{"hparam": "model.units"}]
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    request |= {"allowedStatuses": statuses, "colParams": columns, "startIndex": 0, "sliceSize": 100}
    (group,) = post_json(f"{address}/data/plugin/hparams/session_groups", request)["sessionGroups"]
    assert group["name"] == "tiny/tiny" and group["hparams"]["model.units"] == 8
    values = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
    assert values["validation/accuracy"] > 0.8


def post_json(url, content):
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


@pytest.mark.slow
def test_the_projector_gets_its_tensor_and_its_words(served, trained_run):
    address, root = served
    data = f"{address}/data/plugin/projector"
    assert get_json(f"{data}/runs") == [f"{root}/train"]  # once, not for every folder of the run
    run = f"{root}/train"
    (embedding,) = get_json(f"{data}/info", run=run)["embeddings"]
    trained = keras.models.load_model(trained_run / "model.keras").get_layer("embedding").get_weights()[0][1:]
    assert embedding["tensorShape"] == list(trained.shape)
    assert get(f"{data}/tensor", run=run, name=embedding["tensorName"]) == trained.astype(np.float32).tobytes()
    lines = get(f"{data}/metadata", run=run, name=embedding["tensorName"]).decode().splitlines()
    assert len(lines) == 1 + len(trained)
    words = {line.split("\t")[0]: line.split("\t")[1] for line in lines}
    assert (words["awful"], words["superb"]) == ("negative", "positive")


# Most of TensorBoard lies in shadow roots, the projector in a frame.
SHOWN_TEXT = """
function text(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.data;
  if (['STYLE', 'SCRIPT', 'TEMPLATE', 'NOSCRIPT'].includes(node.tagName)) return '';
  const inside = node.tagName === 'IFRAME' && node.contentDocument ? [node.contentDocument.body] : [];
  const children = [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes, ...inside];
  return children.map(child => child ? text(child) : '').join(' ');
}
return text(document.body).replace(/\\s+/g, ' ');
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "tab,expected",
    [
        ("timeseries", r"epoch_accuracy.*gradient_norm"),
        ("scalars", r"epoch_accuracy.*gradient_norm"),
        ("images", r"calibration.*step \d+.*confusion_matrix.*step \d+"),
        ("pr_curves", r"pr_curve/negative.*pr_curve/neutral.*pr_curve/positive"),
        ("text", r"The most certain errors.*The same texts after each epoch"),
        ("graphs", r"Main Graph"),
        ("distributions", r"gradients/embedding/embeddings"),
        ("histograms", r"gradients/embedding/embeddings"),
        ("hparams", r"Trial ID.*tiny/tiny"),
        ("projector", r"Points: 27 .*Dimension: 6 "),
    ],
)
def test_the_browser_shows(browser, served, tab, expected):
    address, _ = served
    browser.get(f"{address}/#{tab}")
    deadline, shown = time.monotonic() + 200, ""
    while not re.search(expected, shown):
        assert time.monotonic() < deadline, f"#{tab} shows:\n{shown[:5000]}"
        time.sleep(1)
        shown = browser.execute_script(SHOWN_TEXT)
    assert "failed" not in shown.lower() or tab != "graphs", shown
