"""What lies in pretrained/: it loads, predicts and can be trained further as the README says."""

import json

import numpy as np
import pytest
from conftest import ROOT

import keras_senti
from keras_senti.export.transfer import copy_weights
from keras_senti.export.weights_folder import read_pretrained
from keras_senti.models.build import build_model
from keras_senti.settings.command_line import parse_config

CLASSIFIER, ENCODER = ROOT / "pretrained" / "imdb_classifier", ROOT / "pretrained" / "imdb_encoder"


def test_the_shipped_classifier_knows_good_films_from_bad_ones():
    texts = ["A wonderful film, one of the best I have ever seen.", "A waste of time: dull, stupid and badly acted."]
    table = keras_senti.load(CLASSIFIER).predict(texts)
    assert table["label"].tolist() == ["positive", "negative"]
    assert min(table["probability_positive"][0], table["probability_negative"][1]) > 0.9


def test_a_classifier_begins_with_the_shipped_encoder(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = parse_config(["--config", "configs/imdb_fine_tune.yaml", "--init_from", str(ENCODER)])
    encoder = read_pretrained(config.init_from)
    model = build_model(config.model, len(encoder.vocabulary), num_classes=2)
    copy_weights(encoder, model, ("negative", "positive"))
    (table,) = [weight for weight in model.weights if weight.shape == (30_000, 256)]
    np.testing.assert_array_equal(table.numpy(), encoder.weights["embedding/embeddings"])


@pytest.mark.parametrize("folder", [CLASSIFIER, ENCODER])
def test_what_is_shipped_knows_what_it_has_learned_from_and_says_it_on_its_card(folder):
    assert read_pretrained(folder).data == json.loads((folder / "data.json").read_text())
    card = (folder / "README.md").read_text()
    for word in ("made by", "recipe", "data", "time", "What it is bad at", "Licence", "Maas et al. 2011"):
        assert word in card


def test_what_is_shipped_is_float16_and_small():
    files = [path for folder in (CLASSIFIER, ENCODER) for path in folder.rglob("*")]
    assert sum(path.stat().st_size for path in files) < 60e6
    for folder in (CLASSIFIER, ENCODER):
        with np.load(folder / "weights.npz") as weights:
            assert {weights[name].dtype for name in weights} == {np.dtype("float16")}
