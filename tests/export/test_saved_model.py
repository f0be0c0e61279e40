import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import keras_senti
from keras_senti import layers
from keras_senti.data.batches import encode_texts, predict_in_batches
from keras_senti.data.tokenizer import Tokenizer
from keras_senti.data.unicode import make_simplifier
from keras_senti.errors import UserError
from keras_senti.evaluation.calibration import apply_temperature
from keras_senti.export.saved_model import TOKEN_IDS, export_model
from keras_senti.export.weights_folder import read_run, write_weights_folder
from keras_senti.models import kernel_choice, kernels
from keras_senti.models.build import build_model
from keras_senti.settings.schema import Config, DataConfig, ModelConfig, TextConfig
from keras_senti.settings.yaml_file import read_config
from keras_senti.training.inference import make_predict

TEXTS = ["the film was great", "", "awful " * 30, "<b>nice</b> &amp; GOOD", "我爱你 ok 😀", "never seen words here"]
PAGE = Path(__file__).parents[2] / "docs" / "saved-model.md"


@pytest.fixture(scope="module")
def saved(trained_run):
    return tf.saved_model.load(str(trained_run / "saved_model"))


def test_strings_ids_keras_and_the_reloaded_file_give_the_same_probabilities(trained_run, saved):
    encoder = Tokenizer.load(read_config(trained_run / "config.yaml").text, trained_run / "vocabulary.txt")
    ids = encoder(tf.constant(TEXTS))
    from_strings = saved.signatures["serving_default"](text=tf.constant(TEXTS))["probabilities"].numpy()
    from_ids = saved.signatures["tokens"](token_ids=ids)["probabilities"].numpy()
    reloaded = keras.models.load_model(trained_run / "model.keras")
    in_batches = predict_in_batches(make_predict(reloaded), encode_texts(encoder, TEXTS), batch_size=2)
    loaded = keras_senti.load(trained_run).predict_proba(TEXTS)
    for other in (from_ids, reloaded(ids).numpy(), in_batches, loaded):
        np.testing.assert_allclose(other, from_strings, atol=1e-6)


def test_calibrated_probabilities_are_those_of_the_runs_temperature(trained_run, saved):
    temperature = json.loads((trained_run / "manifest.json").read_text())["temperature"]
    ids = saved.signatures["tokenize"](text=tf.constant(TEXTS))["token_ids"]
    for result in (saved.signatures["serving_default"](text=tf.constant(TEXTS)), saved.tokens(ids)):
        expected = apply_temperature(result["probabilities"].numpy(), temperature)
        np.testing.assert_allclose(result["calibrated_probabilities"], expected, atol=1e-5)
    assert set(saved.signatures["training"].structured_outputs) == {"probabilities"}
    classifier = keras_senti.load(trained_run)
    plain, calibrated = classifier.predict(TEXTS), classifier.predict(TEXTS, calibrated=True)
    assert list(calibrated) == list(plain) and calibrated["label"].tolist() == plain["label"].tolist()
    np.testing.assert_allclose(calibrated.iloc[:, 2:], expected, atol=1e-5)
    assert np.abs(calibrated.iloc[:, 2:] - plain.iloc[:, 2:]).to_numpy().max() > 0.01


def test_a_saved_model_from_before_there_was_a_temperature_predicts_but_not_calibrated(trained_run, tmp_path):
    copy = shutil.copytree(trained_run / "saved_model", tmp_path / "old")
    (copy / "assets" / "calibration.json").unlink()
    classifier = keras_senti.load(copy)
    assert len(classifier.predict("the film was great")) == 1
    with pytest.raises(
        UserError, match=r"received calibrated=True, but .*old is from before .* Leave it out, or train"
    ):
        classifier.predict("the film was great", calibrated=True)


def test_the_stored_predictions_of_the_run_are_those_of_the_saved_model(trained_run):
    table = pd.read_csv(trained_run / "predictions.csv", keep_default_na=False)
    again = keras_senti.load(trained_run).predict(table["text"])
    assert again["label"].tolist() == table["predicted"].tolist()
    columns = [c for c in table if c.startswith("probability_")]
    np.testing.assert_allclose(table[columns], again[columns], atol=1e-6)


def test_the_label_is_the_name_of_the_most_probable_class(trained_run, saved):
    class_names = json.loads((trained_run / "class_names.json").read_text())
    result = saved.signatures["serving_default"](text=tf.constant(TEXTS))
    expected = [class_names[i].encode() for i in result["probabilities"].numpy().argmax(axis=1)]
    assert result["label"].numpy().tolist() == expected


def test_the_training_endpoint_has_dropout_and_a_gradient_for_every_variable(saved):
    ids = saved.signatures["tokenize"](text=tf.constant(TEXTS))["token_ids"]
    first, second = (saved.signatures["training"](token_ids=ids)["probabilities"].numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-4
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(tf.math.log(saved.training(ids)["probabilities"][:, 0]))
    for gradient, variable in zip(tape.gradient(loss, saved.trainable_variables), saved.trainable_variables):
        assert tf.reduce_max(tf.abs(tf.convert_to_tensor(gradient))) > 0, variable.name


def test_no_endpoint_holds_a_cudnn_operation_or_asks_for_xla(trained_run):
    file = (trained_run / "saved_model" / "saved_model.pb").read_bytes()
    (meta_graph,) = saved_model_pb2.SavedModel.FromString(file).meta_graphs
    nodes = [n for f in meta_graph.graph_def.library.function for n in f.node_def] + list(meta_graph.graph_def.node)
    assert len(nodes) > 100
    assert not [n.op for n in nodes if "cudnn" in n.op.lower() or "xla" in n.op.lower()]
    attributes = [a for f in meta_graph.graph_def.library.function for a in f.attr] + [a for n in nodes for a in n.attr]
    asked = {a for a in attributes if "xla" in a.lower() or "jit_compile" in a.lower()}
    for function in meta_graph.graph_def.library.function:
        assert not any(function.attr[a].b for a in asked if a in function.attr)
    for node in nodes:
        assert not any(node.attr[a].b for a in asked if a in node.attr)


@pytest.mark.slow
def test_a_network_with_all_options_is_exported_whole(tmp_path):
    settings = ModelConfig(units=4, embedding_dim=3, num_layers=2, bigram_buckets=7, conv_filters=5, residual=True,
                           layer_normalization=True, pooling="last")  # fmt: skip
    config = Config(data=DataConfig(csv="reviews.csv"), model=settings)
    encoder = Tokenizer(config.text, ["[PAD]", "[UNK]", "film", "great", "awful"])
    for name in ("vocabulary.txt", "config.yaml"):
        (tmp_path / name).write_text("")
    (tmp_path / "class_names.json").write_text('["bad", "good"]')
    (tmp_path / "calibration.json").write_text('{"temperature": 2.0, "abstain": []}')
    model = build_model(settings, len(encoder.vocabulary), 2)
    export_model(model, encoder, ["bad", "good"], config, tmp_path)
    saved = tf.saved_model.load(str(tmp_path / "saved_model"))
    texts = tf.constant(["great film", "awful", "a film that is great, not awful"])
    served = saved.signatures["serving_default"](text=texts)
    np.testing.assert_allclose(served["probabilities"], model(encoder(texts)), atol=1e-6)
    roots = np.sqrt(model(encoder(texts)))
    expected = roots / roots.sum(axis=1, keepdims=True)  # p^(1/2)
    np.testing.assert_allclose(served["calibrated_probabilities"], expected, atol=1e-6)
    assert len(saved.trainable_variables) == len(model.trainable_variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.math.log(saved.training(encoder(texts))["probabilities"][:, 0]))
    assert None not in tape.gradient(loss, saved.trainable_variables)


def test_vocabulary_class_names_settings_and_calibration_are_assets(trained_run):
    for name in ("vocabulary.txt", "class_names.json", "config.yaml", "calibration.json"):
        assert (trained_run / "saved_model" / "assets" / name).read_text() == (trained_run / name).read_text()


def run_without_the_package(code: str, folder) -> str:
    blocked = "import sys; sys.modules['keras_senti'] = None; sys.modules['keras'] = None\n"
    command = [sys.executable, "-c", blocked + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_plain_tensorflow_serves_strings_without_this_package(trained_run, tmp_path):
    code = (
        "import tensorflow as tf\n"
        f"model = tf.saved_model.load({str(trained_run / 'saved_model')!r})\n"
        "result = model.signatures['serving_default'](text=tf.constant(['the film was great', 'an awful hotel']))\n"
        "print([label.decode() for label in result['label'].numpy()])"
    )
    assert "['positive', 'negative']" in run_without_the_package(code, tmp_path)


@pytest.mark.slow
def test_the_fine_tuning_example_of_the_docs_runs_and_learns(trained_run, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "GradientTape" in block]
    assert len(code.strip().splitlines()) <= 15
    code = re.sub(r'"logs/[^"]*saved_model"', repr(str(trained_run / "saved_model")), code)
    output = run_without_the_package(code, tmp_path)
    losses = [float(value) for value in re.findall(r"\d+\.\d+", output)]
    assert losses[-1] < losses[0] * 0.5
    assert (tmp_path / "fine_tuned" / "saved_model.pb").exists()


def test_predict_gives_a_table_in_the_order_of_the_texts_and_drops_none(trained_run):
    texts = ["the film was great", None, "an awful hotel", float("nan"), "half an emoji \ud83d"]
    table = keras_senti.load(trained_run / "saved_model").predict(pd.Series(texts, dtype=object))
    assert list(table) == ["text", "label", "probability_negative", "probability_neutral", "probability_positive"]
    assert table["label"].tolist()[0] == "positive" and table["label"].tolist()[2] == "negative"
    assert table["probability_negative"][1] == table["probability_negative"][3]
    assert len(table) == 5
    np.testing.assert_allclose(table.filter(like="probability_").sum(axis=1), 1, atol=1e-6)


@pytest.fixture(scope="module")
def classifier(trained_run):
    return keras_senti.load(trained_run)


def test_predict_takes_whatever_is_one_text_or_several_in_order(classifier):
    assert len(classifier.predict("the film was great")) == 1
    assert len(classifier.predict([])) == 0 and classifier.predict_proba([]).shape == (0, 3)
    expected = classifier.predict_proba(TEXTS)
    assert expected.dtype == np.float32 and expected.shape == (6, 3)
    for texts in (tuple(TEXTS), np.array(TEXTS), pd.Index(TEXTS), (text for text in TEXTS), {"a": TEXTS}["a"]):
        table = classifier.predict(texts)
        assert table["text"].tolist() == TEXTS
        np.testing.assert_allclose(table.iloc[:, 2:], expected, atol=1e-6)
    for rows in (1, 2, 100):  # each has a function of its own, of which one is for more rows
        np.testing.assert_allclose(classifier.predict_proba(TEXTS[:1] * rows), expected[:1].repeat(rows, 0), atol=1e-6)


def test_a_column_keeps_its_index(classifier):
    column = pd.Series(TEXTS[:3], index=[7, 3, 5], name="review")
    table = classifier.predict(column)
    assert table.index.tolist() == [7, 3, 5] and table["text"].tolist() == TEXTS[:3]
    assert table.loc[7, "label"] == "positive" and classifier.predict(column[:0]).empty


@pytest.mark.parametrize(
    "texts, message",
    [
        (["a", 3], r"entry 1 is int \(3\), expected a string"),
        (["a", b"b"], r"entry 1 is bytes \(b'b'\), expected a string"),
        (np.array([["a"]]), r"received array.* \(ndarray\), expected a string or a sequence"),
        (3, r"received 3 \(int\), expected a string or a sequence of them"),
        (None, r"received None \(NoneType\), expected a string"),
        ({"a", "b"}, r"\(set\), expected a string or a sequence of them"),
        (b"good", r'received bytes, expected a string: text\.decode\("utf-8"\)'),
        ({"text": ["a"]}, r"received a dict, expected texts: predict\(list\(texts\.values\(\)\)\)"),
        (pd.DataFrame({"id": [1], "review": ["a"]}), r'with the columns id, review, .* predict\(frame\["review"\]\)'),
    ],
)
def test_what_is_no_text_is_refused_with_the_call_that_works(classifier, texts, message):
    for ask in (classifier.predict, classifier.predict_proba):
        with pytest.raises(UserError, match=f"predict: .*{message}"):
            ask(texts)


def test_a_classifier_says_what_it_is(classifier, trained_run):
    assert re.fullmatch(
        rf"Classifier\('{trained_run}', class_names=\['negative', 'neutral', 'positive'\], "
        r"1 × bidirectional lstm of 8 units, \d\d tokens\)",
        repr(classifier),
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_told_at_once_instead_of_waiting_for_ever(classifier, trained_run):
    received, sent = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        for use in (lambda: classifier.predict("the film"), lambda: keras_senti.load(trained_run)):
            try:
                use()
            except UserError as error:
                os.write(sent, f"{error}\n".encode())
        os._exit(0)
    os.close(sent)
    assert os.waitpid(child, 0)[1] == 0
    with open(received) as file:
        messages = file.read().splitlines()
    assert len(messages) == 2 and set(messages) == {messages[0]}
    assert re.search(r'forked from .* Load it in the child only, or .*get_context\("spawn"\)', messages[0])
    assert len(classifier.predict("the film")) == 1  # here it goes on


def test_a_batch_without_texts_or_tokens_gives_empty_arrays(saved):
    served = saved.signatures["serving_default"](text=tf.constant([], tf.string))
    assert {name: tuple(array.shape) for name, array in served.items()} == {
        "probabilities": (0, 3), "calibrated_probabilities": (0, 3), "label": (0,)
    }  # fmt: skip
    assert saved.tokenize(tf.constant([], tf.string))["token_ids"].shape == (0, 0)
    for shape in ((0, 0), (0, 5)):
        for endpoint in (saved.tokens, saved.training):
            assert endpoint(tf.zeros(shape, tf.int32))["probabilities"].shape == (0, 3)
    nothing = saved.tokens(tf.zeros((2, 0), tf.int32))["probabilities"]  # as two texts without a token
    np.testing.assert_allclose(nothing, saved.serve(tf.constant(["", " "]))["probabilities"], atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_an_export_does_not_depend_on_the_threads_or_the_gpu_of_its_machine(monkeypatch, cell):
    settings = ModelConfig(cell=cell, units=2, embedding_dim=2, pooling="mean", bidirectional=False)
    graphs = []
    monkeypatch.setattr(kernels, "MOST_PARTS", 4)  # as in the program
    for kind, threads in (("cpu", 1), ("cpu", 16), ("gpu", 4)):
        monkeypatch.setattr(kernel_choice, "count_threads", lambda threads=threads: threads)
        monkeypatch.setattr(kernel_choice, "find_device_kind", lambda kind=kind: kind)
        model = build_model(settings, 5, 2, "serving")
        operations = []
        for training in (False, True):
            traced = tf.function(functools.partial(model, training=training), input_signature=[TOKEN_IDS])
            graph = traced.get_concrete_function().graph.as_graph_def()
            operations += [node.op for function in graph.library.function for node in function.node_def]
            operations += [node.op for node in graph.node]
        graphs.append(sorted(operations))
    assert len(graphs[0]) > 100 and graphs[0] == graphs[1] == graphs[2]


def test_the_keras_file_loads_in_a_process_that_has_imported_our_layers(trained_run):
    code = (
        "import sys, keras\n"
        f"path = {str(trained_run / 'model.keras')!r}\n"
        "try:\n    keras.models.load_model(path)\nexcept TypeError as error:\n    print(error)\n"
        "import keras_senti.layers\n"
        "print('shape', keras.models.load_model(path)(keras.ops.ones((2, 3), 'int32')).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PAGE.parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    # Keras' own words, of which the module to import is ours.
    assert "make sure they are all imported" in done.stdout and "'module': 'keras_senti.layers'" in done.stdout
    assert "shape (2, 3)" in done.stdout
    for layer in (getattr(layers, name) for name in layers.__all__):
        assert keras.saving.get_registered_name(layer) == f"keras_senti>{layer.__name__}"


def test_chunks_change_nothing(trained_run):
    classifier = keras_senti.load(trained_run)
    whole, parts = classifier.predict(TEXTS), classifier.predict(TEXTS, chunk_rows=2)
    np.testing.assert_allclose(whole.iloc[:, 2:], parts.iloc[:, 2:], atol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float16", 1e-3)])
def test_a_weights_folder_predicts_what_its_run_predicts(trained_run, tmp_path, dtype, tolerance):
    write_weights_folder(tmp_path / "weights", read_run(trained_run), dtype)
    expected, received = (keras_senti.load(path).predict(TEXTS) for path in (trained_run, tmp_path / "weights"))
    assert list(received) == list(expected) and received["label"].tolist() == expected["label"].tolist()
    np.testing.assert_allclose(received.iloc[:, 2:], expected.iloc[:, 2:], atol=tolerance)


def test_a_language_model_has_no_classes_to_predict(language_model, tmp_path):
    (tmp_path / "run").mkdir()
    write_weights_folder(tmp_path / "run" / "encoder", language_model)
    for path in (tmp_path / "run", tmp_path / "run" / "encoder"):
        with pytest.raises(UserError, match=r": a language model: it has no classes\. Fine-tune it .*--init_from"):
            keras_senti.load(path)


def test_a_weights_folder_whose_settings_are_of_another_model_is_refused(trained_run, tmp_path):
    write_weights_folder(tmp_path / "weights", read_run(trained_run))
    config = tmp_path / "weights" / "config.yaml"
    config.write_text(config.read_text().replace("units: 8", "units: 9"))
    message = (
        r"weights\.npz does not belong to the config\.yaml, .* has the shape \(6, 32\), expected \(6, 36\)\. Bring"
    )
    with pytest.raises(UserError, match=message):
        keras_senti.load(tmp_path / "weights")


def test_a_weights_folder_that_needs_opencc_says_so(trained_run, tmp_path, monkeypatch):
    model = read_run(trained_run)
    config = dataclasses.replace(model.config, text=TextConfig(simplify_chinese=True))
    write_weights_folder(tmp_path / "weights", dataclasses.replace(model, config=config))
    monkeypatch.setitem(sys.modules, "opencc", None)  # importing it fails
    make_simplifier.cache_clear()
    with pytest.raises(UserError, match=r"simplify_chinese: needs the package opencc"):
        keras_senti.load(tmp_path / "weights")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        keras_senti.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no weights\.npz and no saved_model\. Expected a run folder"):
        keras_senti.load(tmp_path)
    module = tf.Module()
    module.f = tf.function(lambda x: x, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "foreign"))
    with pytest.raises(
        UserError,
        match=r"foreign: has no assets/config\.yaml\. Expected a SavedModel that keras_senti wrote\. .* its author's",
    ):
        keras_senti.load(tmp_path / "foreign")
