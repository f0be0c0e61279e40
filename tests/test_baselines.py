import numpy as np
import pytest

from keras_senti import baselines
from keras_senti.baselines import fit_tfidf_logistic_regression, predict_baselines, predict_majority


class Part:
    def __init__(self, texts, labels):
        self.texts, self.labels = texts, np.array(labels)

    def __len__(self):
        return len(self.texts)


def test_the_majority_baseline_predicts_the_commonest_class_of_the_train_part():
    probabilities = predict_majority(np.array([2, 2, 0, 2]), rows=2, num_classes=3)
    assert probabilities.tolist() == [[0.25, 0.0, 0.75]] * 2


def test_logistic_regression_learns_words():
    model = fit_tfidf_logistic_regression(["good film", "bad film", "good", "bad"] * 5, np.array([1, 0, 1, 0] * 5))
    assert model.predict(["good book", "bad book"]).tolist() == [1, 0]


def test_many_features_are_learned_by_the_solver_that_needs_less_memory(monkeypatch):
    texts, labels = ["good film", "bad film", "good", "bad"] * 5, np.array([1, 0, 1, 0] * 5)
    small = fit_tfidf_logistic_regression(texts, labels)
    monkeypatch.setattr(baselines, "MAX_LBFGS_COEFFICIENTS", 4)  # bad, bad film, film, good, good film
    large = fit_tfidf_logistic_regression(texts, labels)
    assert [m[-1].solver for m in (small, large)] == ["lbfgs", "newton-cg"]
    np.testing.assert_allclose(large.predict_proba(texts), small.predict_proba(texts), atol=1e-3)


def test_chinese_is_read_in_characters_because_it_has_no_spaces():
    texts, labels = ["酒店很好", "酒店很差", "房间好", "房间差"] * 5, np.array([1, 0, 1, 0] * 5)
    model = fit_tfidf_logistic_regression(texts, labels)
    assert model.predict(["这本书很好", "这本书很差"]).tolist() == [1, 0]


def test_baselines_never_see_the_labels_of_the_part_they_predict():
    train = Part(["good", "bad", "good day", "bad day"], [1, 0, 1, 0])
    right, wrong = (Part(["good", "bad"], labels) for labels in ([1, 0], [0, 1]))
    first, second = (predict_baselines(train, {"test": part}, 2)["test"] for part in (right, wrong))
    for name in ("majority", "tfidf_logistic_regression"):
        np.testing.assert_array_equal(first[name], second[name])


def test_texts_without_a_single_word_are_read_in_characters():
    model = fit_tfidf_logistic_regression(["😀", "😡", "😀 !", "😡 !"] * 5, np.array([1, 0, 1, 0] * 5))
    assert model.predict(["😀😀", "😡"]).tolist() == [1, 0]


@pytest.mark.parametrize("labels,columns", [([0, 2, 0, 2], [0, 2]), ([1, 1, 1, 1], [1])])
def test_a_class_that_the_train_sample_lacks_gets_no_probability(labels, columns):
    train = Part(["good", "bad", "good day", "bad day"], labels)
    found = predict_baselines(train, {"test": Part(["good", "bad"], [0, 1])}, 3)["test"]["tfidf_logistic_regression"]
    assert found.shape == (2, 3) and found.sum(axis=1) == pytest.approx([1, 1])
    assert np.flatnonzero(found.sum(axis=0)).tolist() == columns
