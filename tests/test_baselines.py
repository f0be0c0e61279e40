import numpy as np
import pytest
import scipy.sparse

from keras_senti import baselines
from keras_senti.baselines import (
    LogCountRatio,
    fit_nb_svm,
    fit_tfidf_logistic_regression,
    predict_baselines,
    predict_majority,
)

LINEAR = pytest.mark.parametrize("fit", [fit_tfidf_logistic_regression, fit_nb_svm])


class Part:
    def __init__(self, texts, labels):
        self.texts, self.labels = texts, np.array(labels)

    def __len__(self):
        return len(self.texts)


def test_the_majority_baseline_predicts_the_commonest_class_of_the_train_part():
    probabilities = predict_majority(np.array([2, 2, 0, 2]), rows=2, num_classes=3)
    assert probabilities.tolist() == [[0.25, 0.0, 0.75]] * 2


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
    first, second = (predict_baselines(train, {"test": part}, 2)["test"] for part in (right, wrong))
    for name in ("majority", "tfidf_logistic_regression"):
        np.testing.assert_array_equal(first[name], second[name])


@LINEAR
def test_texts_without_a_single_word_are_read_in_characters(fit):
    model = fit(["😀", "😡", "😀 !", "😡 !"] * 5, np.array([1, 0, 1, 0] * 5))
    assert model.predict(["😀😀", "😡"]).tolist() == [1, 0]


@pytest.mark.parametrize("labels,columns", [([0, 2, 0, 2], [0, 2]), ([1, 1, 1, 1], [1])])
def test_a_class_that_the_train_sample_lacks_gets_no_probability(labels, columns):
    train = Part(["good", "bad", "good day", "bad day"], labels)
    found = predict_baselines(train, {"test": Part(["good", "bad"], [0, 1])}, 3)["test"]["tfidf_logistic_regression"]
    assert found.shape == (2, 3) and found.sum(axis=1) == pytest.approx([1, 1])
    assert np.flatnonzero(found.sum(axis=0)).tolist() == columns
