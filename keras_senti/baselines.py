"""The models that ours is compared with, fitted on the same train rows and scored on the same rows."""

import re
from functools import partial

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

# Up to here the default solver of scikit-learn, which stops a little before the optimum: on the Chinese reviews that is
# 0.1 points better on validation, and a baseline should be a good one. 2 million need 0.4 GB.
MAX_LBFGS_COEFFICIENTS = 2_000_000
_HAN_OR_KANA = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def predict_majority(train_labels: np.ndarray, rows: int, num_classes: int) -> np.ndarray:
    """Returns (rows, classes): every text gets the class shares of the train part, so the commonest class wins."""
    shares = np.bincount(train_labels, minlength=num_classes) / len(train_labels)
    return np.tile(shares, (rows, 1))


def fit_ngrams(make_vectorizer, texts: list[str]):
    """Fits features of words and pairs of words, or of 1 to 3 characters for Chinese and Japanese.

    Args:
        make_vectorizer: from `analyzer` and `ngram_range` to a scikit-learn vectorizer.
    Returns: (the fitted vectorizer, the features of the texts: (texts, features) sparse).
    """
    sample = "".join(texts[:1000])
    words = make_vectorizer(analyzer="word", ngram_range=(1, 2))
    characters = make_vectorizer(analyzer="char", ngram_range=(1, 3))
    # A word analyser takes a whole Chinese sentence for one word.
    features = characters if len(_HAN_OR_KANA.findall(sample)) > 0.2 * len(sample) else words
    try:
        return features, features.fit_transform(texts)
    except ValueError:  # no word of two letters anywhere, such as emoji only
        return characters, characters.fit_transform(texts)


def fit_tfidf_logistic_regression(texts: list[str], labels: np.ndarray):
    """Fits TF-IDF + logistic regression on the features of `fit_ngrams`.

    Sublinear counts and C = 3 instead of the defaults (raw counts, C = 1): on the validation part of the tweets they
    were 0.7 points of accuracy and 1.0 of macro-F1 better, and a baseline should be a good one.

    Returns: a fitted scikit-learn pipeline; its classes are 0, 1, ... in order, if each has a train row.
    """
    features, matrix = fit_ngrams(partial(TfidfVectorizer, sublinear_tf=True), texts)
    classes = len(np.unique(labels))
    coefficients = matrix.shape[1] * (classes if classes > 2 else 1)
    solver = "lbfgs"
    if coefficients > MAX_LBFGS_COEFFICIENTS:
        # L-BFGS keeps 25 float64 a coefficient: 100,000 texts of a large vocabulary need 1.95 GB with it, 0.8 so.
        solver, matrix = "newton-cg", matrix.astype(np.float32)
    return make_pipeline(features, LogisticRegression(C=3.0, max_iter=1000, solver=solver).fit(matrix, labels))


class LogCountRatio(TransformerMixin, BaseEstimator):
    """Scales each binary feature by how much it speaks for the one class and against the other.

        p = 1 + Σ_{i: y_i = 1} f_i,   q = 1 + Σ_{i: y_i = 0} f_i,   r = log((p / |p|₁) / (q / |q|₁)),   output = r ∘ f

    f_i is the row of text i, 1 where it has the feature. `fit` and `transform` take (texts, features) sparse; y is
    (texts,) int, 1 or 0; the output is (texts, features) sparse float64.

    Reference: Wang & Manning 2012, https://aclanthology.org/P12-2018, equation 2 with α = 1.
    """

    def fit(self, features, y):
        counts = np.stack([1.0 + np.asarray(features[y == side].sum(axis=0)).ravel() for side in (1, 0)])
        positive, negative = np.log(counts / counts.sum(axis=1, keepdims=True))
        self.ratio_ = positive - negative
        return self

    def transform(self, features):
        return features @ scipy.sparse.diags_array(self.ratio_)


def fit_nb_svm(texts: list[str], labels: np.ndarray):
    """Fits NB-SVM: a linear classifier on the features of `fit_ngrams`, as 0 or 1, times their log-count ratios.

    The loss is logistic, which gives probabilities, instead of the paper's squared hinge, and the weights are not
    interpolated with their mean. More than two classes: one against the rest, each with ratios of its own, and the
    probabilities divided by their sum.

    Returns: a fitted scikit-learn pipeline; its classes are 0, 1, ... in order, if each has a train row.
    Reference: Wang & Manning 2012, https://aclanthology.org/P12-2018; with the logistic loss: Mesnil et al. 2014,
    https://arxiv.org/abs/1412.5335.
    """
    features, matrix = fit_ngrams(partial(CountVectorizer, binary=True), texts)
    one_class = make_pipeline(LogCountRatio(), LogisticRegression(C=1.0, solver="liblinear"))
    return make_pipeline(features, OneVsRestClassifier(one_class).fit(matrix, labels))


def predict_baselines(train, parts: dict, num_classes: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns the probabilities of each baseline for each part: {part: {baseline: (rows, classes)}}.

    Args:
        train: a `data.Dataset`, of which all texts come into memory; parts: data sets by name.
    """
    present = np.unique(train.labels)  # a sample of a large train part may lack a rare class
    linear = fit_tfidf_logistic_regression(list(train.texts), train.labels) if len(present) > 1 else None
    return {
        name: {
            "majority": predict_majority(train.labels, len(part), num_classes),
            "tfidf_logistic_regression": _predict_linear(linear, part.texts, present, num_classes),
        }
        for name, part in parts.items()
    }


def _predict_linear(linear, texts, present: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns (rows, classes); a class without a train row gets 0, and a single class 1."""
    texts = list(texts)
    probabilities = np.zeros((len(texts), num_classes))
    probabilities[:, present] = linear.predict_proba(texts) if linear else 1.0
    return probabilities
