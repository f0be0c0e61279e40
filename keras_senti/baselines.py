"""The models that ours is compared with, fitted on the same train rows and scored on the same rows."""

import re

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

# Up to here the default solver of scikit-learn, which stops a little before the optimum: on the Chinese reviews that is
# 0.1 points better on validation, and a baseline should be a good one. 2 million need 0.4 GB.
MAX_LBFGS_COEFFICIENTS = 2_000_000
_HAN_OR_KANA = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def predict_majority(train_labels: np.ndarray, rows: int, num_classes: int) -> np.ndarray:
    """Returns (rows, classes): every text gets the class shares of the train part, so the commonest class wins."""
    shares = np.bincount(train_labels, minlength=num_classes) / len(train_labels)
    return np.tile(shares, (rows, 1))


def fit_tfidf_logistic_regression(texts: list[str], labels: np.ndarray):
    """Fits TF-IDF + logistic regression: words and pairs of words, or 1 to 3 characters for Chinese and Japanese.

    Sublinear counts and C = 3 instead of the defaults (raw counts, C = 1): on the validation part of the tweets they
    were 0.7 points of accuracy and 1.0 of macro-F1 better, and a baseline should be a good one.

    Returns: a fitted scikit-learn pipeline; its classes are 0, 1, ... in order, if each has a train row.
    """
    sample = "".join(texts[:1000])
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    # A word analyser takes a whole Chinese sentence for one word.
    features = characters if len(_HAN_OR_KANA.findall(sample)) > 0.2 * len(sample) else words
    try:
        matrix = features.fit_transform(texts)
    except ValueError:  # no word of two letters anywhere, such as emoji only
        features = characters
        matrix = features.fit_transform(texts)
    classes = len(np.unique(labels))
    coefficients = matrix.shape[1] * (classes if classes > 2 else 1)
    solver = "lbfgs"
    if coefficients > MAX_LBFGS_COEFFICIENTS:
        # L-BFGS keeps 25 float64 a coefficient: 100,000 texts of a large vocabulary need 1.95 GB with it, 0.8 so.
        solver, matrix = "newton-cg", matrix.astype(np.float32)
    return make_pipeline(features, LogisticRegression(C=3.0, max_iter=1000, solver=solver).fit(matrix, labels))


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
