"""Words that decide the label more than they should."""

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from keras_senti.evaluation.baselines import is_chinese, score_texts
from keras_senti.evaluation.metrics import compute_interval

# Words: the least share of rows that must have one class, as the lower bound of a 95% interval; so 16 rows are enough.
LEAST_SHARE = 0.8
LEAST_ROWS = 10
MOST_WORDS = 200


def find_deciding_words(texts: list[str], labels: np.ndarray, num_classes: int, lexicons=()) -> pd.DataFrame:
    """Finds words whose presence nearly decides the class, such as the name of a film that all hated.

    What a model learns from them it cannot use elsewhere. A word counts once a text. It is listed if the lower bound of
    the share of its commonest class is at least LEAST_SHARE, and at least half-way from that class's share of all rows
    to 1. A word that stands mostly in the texts of one listed before is left out. Of Chinese, where no space parts
    words, the "words" are all runs of two or three characters.

    Args:
        texts, labels: of the train part. lexicons: of `baselines.PACKAGES`, whose words a reader expects to decide.
    Returns:
        word, label (the class), rows (with the word), share (of the class among them), lower (its bound), base (the
        class's share of all rows), example and other (index of a row of the class with the word; of one of another
        class if there is one, else a second), score: rows · (lower - base), the highest first.
    """
    analyzer = {"analyzer": "char", "ngram_range": (2, 3)} if is_chinese(texts) else {"analyzer": "word"}
    columns = ["word", "label", "rows", "share", "lower", "base", "example", "other", "score"]
    try:
        vectorizer = CountVectorizer(binary=True, min_df=LEAST_ROWS, dtype=np.int32, **analyzer)
        present = vectorizer.fit_transform(texts).tocsc()
    except ValueError:  # no word stands in so many rows
        return pd.DataFrame(columns=columns)
    words = vectorizer.get_feature_names_out()
    counts = np.stack([present.T @ (labels == k).astype(np.int32) for k in range(num_classes)], axis=1)
    rows, top, share = counts.sum(axis=1), counts.argmax(axis=1), counts.max(axis=1) / counts.sum(axis=1)
    base = np.bincount(labels, minlength=num_classes)[top] / len(labels)
    lower, _ = compute_interval(counts.max(axis=1), rows)
    score = rows * (lower - base)
    decides = np.flatnonzero(lower >= np.maximum(LEAST_SHARE, (1 + base) / 2))
    lengths = np.array([len(word) for word in words[decides]], int)  # of runs that stand together, the longest
    decides = decides[np.lexsort((-lengths, -score[decides]))][: 10 * MOST_WORDS]
    shared = (present[:, decides].T @ present[:, decides]).toarray()  # (words, words), texts that have both
    expected = np.zeros(len(decides), bool)
    for lexicon in lexicons:
        expected |= score_texts(lexicon, words[decides]) != 0
    listed, kept = [], []
    for position, index in enumerate(decides):
        told = any(shared[position, other] > 0.8 * rows[index] for other in kept)
        if told or expected[position] or not words[index].replace("_", "").isalnum():
            continue
        found = np.sort(present.indices[present.indptr[index] : present.indptr[index + 1]])
        of_class = labels[found] == top[index]
        example, *more = found[of_class]
        other = found[~of_class][0] if not of_class.all() else more[0]
        numbers = (top[index], rows[index], share[index], lower[index], base[index], example, other, score[index])
        listed.append((words[index], *numbers))
        kept.append(position)
        if len(listed) == MOST_WORDS:
            break
    return pd.DataFrame(listed, columns=columns)
