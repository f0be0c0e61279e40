"""What may be wrong with labelled data, for a person to review: label errors, near-duplicates, words that decide.

    python -m keras_senti.faults --config configs/tweets.yaml --out faults.csv

Nothing is changed. A finding is a hint: a label that surprises a linear model is often right, and the text hard.
The rows are those that a run with the same settings reads, in its parts; linear models alone look at them.
"""

import argparse
import csv
import importlib.util
import re
import sys
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from keras_senti.baselines import PACKAGES, fit_ngrams, is_chinese, score_texts
from keras_senti.data import cache_folder
from keras_senti.data.reading import load_splits
from keras_senti.data.sources import prepare_source
from keras_senti.data.splits import join_groups
from keras_senti.errors import UserError, run_command
from keras_senti.evaluation import compute_interval
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import Config
from keras_senti.storage import files

FOLDS = 5
# Near-duplicates: texts that share this much of their shingles, runs of so many characters. 20 bands of 5 hashes find
# a pair that shares 0.7 with probability 0.97, one that shares 0.8 with 0.9996, and one that shares 0.3 with 0.05.
LEAST_SIMILARITY = 0.7
SHINGLE_CHARACTERS = 4
BANDS, BAND_HASHES = 20, 5
MOST_NEIGHBOURS = 20  # texts of one bucket that a text is compared with: a form letter can have thousands of copies
# Words: the least share of rows that must have one class, as the lower bound of a 95% interval; so 16 rows are enough.
LEAST_SHARE = 0.8
LEAST_ROWS = 10
MOST_WORDS = 200
# Not counted as differences between texts: tags, addresses and @names; punctuation. Emoji count.
_NO_WORDS = re.compile(r"<[^<>]*>|https?://\S+|www\.\S+|@\w+")
_PUNCTUATION = re.compile(r"[^\w\u2190-\u2bff\U0001f000-\U0001faff]+|_+")
_COLUMNS = (
    "kind", "part", "line", "text", "label", "suggested_label", "score", "word", "why", "other_part", "other_line",
    "other_text", "other_label",
)  # fmt: skip
_TITLES = {
    "label_error": "likely label errors",
    "near_duplicate": "near-duplicates",
    "deciding_word": "words that decide too much",
}


def read_rows(config: Config) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Reads the parts of a run; the test part only where the settings let it be looked at (train.evaluate_test).

    Returns:
        a table with part, line (of its file), text, label (index into the class names) and group (equal for rows that
        belong together), train rows first; and the class names. Of a part above baselines.max_rows, a sample.
    Raises:
        UserError: for whatever is wrong with the data.
    """
    with cache_folder.share_cache(Path(config.data.cache_dir)):
        splits = load_splits(prepare_source(config.data))
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if not config.train.evaluate_test:
        del parts["test"]
    tables = []
    for name, part in parts.items():
        taken = part.take(part.sample(config.baselines.max_rows, config.data.seed))
        if len(taken) < len(part):
            print(f"{name}: {len(taken):,} of {len(part):,} rows, drawn at random (baselines.max_rows)", flush=True)
        columns = {"line": taken.lines, "text": list(taken.texts), "label": taken.labels}
        tables.append(pd.DataFrame({"part": name, **columns, "hash": taken.hashes, "group": taken.groups}))
    rows = pd.concat(tables, ignore_index=True)
    rows["group"] = join_groups(rows.pop("hash").to_numpy(), rows["group"].to_numpy())  # also across files
    return rows, splits.class_names


# Label errors


def assign_folds(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the fold of each row, 0 to FOLDS - 1: rows of a group in the same, each class spread over the folds.

    Args:
        groups: (rows,) uint64, in random order, as hashes are. labels: (rows,) int.
    """
    unique, group_of_row = np.unique(groups, return_inverse=True)
    label_of_group = np.full(len(unique), labels.max(initial=0))
    np.minimum.at(label_of_group, group_of_row, labels)
    fold_of_group = np.empty(len(unique), int)
    fold_of_group[np.lexsort((unique, label_of_group))] = np.arange(len(unique)) % FOLDS
    return fold_of_group[group_of_row]


def predict_held_out(texts: list[str], labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns probabilities (rows, classes) of each row by a model that saw no row of its fold: TF-IDF + logistic
    regression, as the baseline of words (but for its solver, which is 18 times as fast in float32 on the tweets).

    Only labels are held out: the words and their document frequencies are those of all texts.

    Args:
        labels: (rows,) int, 0, 1, ...; each class in two folds at least.
    """
    _, features = fit_ngrams(partial(TfidfVectorizer, sublinear_tf=True), texts)
    features = features.astype(np.float32)
    probabilities = np.zeros((len(texts), labels.max() + 1))
    for fold in tqdm(np.unique(folds), desc="label errors: fitting", unit=" models", delay=2):
        held_out = folds == fold
        model = LogisticRegression(C=3.0, max_iter=1000, solver="newton-cg")
        model.fit(features[~held_out], labels[~held_out])
        probabilities[held_out] = model.predict_proba(features[held_out])
    return probabilities


def find_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Finds the rows that a model confidently puts into another class than their label.

        t_j = mean of p_j over the rows labelled j;   suggested = argmax of p_j over the j with p_j ≥ t_j

    A row is found if the suggested class is not its label, the off-diagonal of the confident joint, and is likelier.
    So a class that the model is seldom sure of needs less certainty than others.

    Args:
        labels: (rows,) int, each class at least once. probabilities: (rows, classes), held out.
    Returns: row, suggested (class), score: 1 - the probability of the label; the highest first.
    Reference: Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, equations 1 and 2. There the suggested class
        need not be likelier than the label; we ask that, as the authors' package cleanlab does, and rank by the
        label's probability.
    """
    rows = np.arange(len(labels))
    thresholds = np.array([probabilities[labels == j, j].mean() for j in range(probabilities.shape[1])])
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    suggested = confident.argmax(axis=1)
    of_label = probabilities[rows, labels]
    found = np.flatnonzero(confident[rows, suggested] > of_label)
    found = found[np.argsort(of_label[found], kind="stable")]
    return pd.DataFrame({"row": found, "suggested": suggested[found], "score": 1 - of_label[found]})


# Near-duplicates


def keep_words(text: str) -> str:
    """Returns what counts when texts are compared: lower case, words and emoji; all of it, if it has none of them."""
    plain = text.casefold()
    return " ".join(_PUNCTUATION.sub(" ", _NO_WORDS.sub(" ", plain)).split()) or " ".join(plain.split())


def hash_shingles(text: str) -> np.ndarray:
    """Returns the different hashes of all runs of 4 characters, uint64 ascending; of a shorter text one."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    codes = np.pad(codes, (0, max(0, SHINGLE_CHARACTERS - len(codes))))
    windows = np.lib.stride_tricks.sliding_window_view(codes, SHINGLE_CHARACTERS)
    hashes = np.zeros(len(windows), np.uint64)
    for column in windows.T:
        hashes = (hashes ^ column) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes)


def sign_texts(texts: list[str]) -> np.ndarray:
    """Returns MinHash signatures, (texts, 100) uint32: two texts agree in as large a share of them, about, as their
    shingles overlap (intersection over union).

    Reference: Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900
    """
    rng = np.random.default_rng(0)
    factors = rng.integers(2**63, size=(BANDS * BAND_HASHES, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    signatures = np.empty((len(texts), len(factors)), np.uint32)
    for row, text in enumerate(tqdm(texts, desc="near-duplicates: hashing", unit=" texts", delay=2)):
        hashes = hash_shingles(text)
        pieces = np.split(hashes, range(10_000, len(hashes), 10_000))  # 8 MB each, also of a whole book
        signatures[row] = np.min([((piece * factors) >> np.uint64(32)).min(axis=1) for piece in pieces], axis=0)
    return signatures


def list_candidates(signatures: np.ndarray) -> np.ndarray:
    """Returns (pairs, 2), ascending, of texts that agree in a whole band of their signatures, and in 0.55 of all."""
    found = [np.empty((0, 2), int)]
    for band in tqdm(range(BANDS), desc="near-duplicates: comparing", unit=" bands", delay=2):
        keys = signatures[:, band * BAND_HASHES : (band + 1) * BAND_HASHES]
        order = np.lexsort(keys.T)
        keys = keys[order]
        for step in range(1, MOST_NEIGHBOURS + 1):
            same = (keys[step:] == keys[:-step]).all(axis=1)
            if not same.any():
                break
            pairs = np.stack([order[:-step][same], order[step:][same]], axis=1)
            agree = (signatures[pairs[:, 0]] == signatures[pairs[:, 1]]).mean(axis=1)
            found.append(np.sort(pairs[agree > LEAST_SIMILARITY - 0.15], axis=1))  # 3 standard errors
    return np.unique(np.concatenate(found), axis=0)


def find_near_duplicates(texts: list[str], labels: np.ndarray, parts: np.ndarray) -> pd.DataFrame:
    """Finds texts that are the same, or nearly, but for case, punctuation, tags, addresses and @names.

    Each row is named with one other at most, that which matters most: another label before another part before the
    higher similarity.

    Args:
        labels: (rows,) int. parts: (rows,) names; any order.
    Returns: row, other (the later one), similarity (0.7 to 1: shared share of all their runs of 4 characters),
        label_differs, part_differs; what matters most first.
    """
    text_id, unique = pd.factorize(np.array([keep_words(text) for text in texts], dtype=object))
    pairs = list_candidates(sign_texts(unique))
    cached = lru_cache(10_000)(lambda index: hash_shingles(unique[index]))
    similarity = np.empty(len(pairs))
    for index, (a, b) in enumerate(tqdm(pairs, desc="near-duplicates: measuring", unit=" pairs", delay=2)):
        shared = len(np.intersect1d(cached(a), cached(b), assume_unique=True))
        similarity[index] = shared / (len(cached(a)) + len(cached(b)) - shared)
    pairs, similarity = pairs[similarity >= LEAST_SIMILARITY], similarity[similarity >= LEAST_SIMILARITY]
    same = np.flatnonzero(np.bincount(text_id, minlength=len(unique)) > 1)
    links = pd.DataFrame(
        {
            "text": np.concatenate([same, pairs[:, 0], pairs[:, 1]]),
            "other_text": np.concatenate([same, pairs[:, 1], pairs[:, 0]]),
            "similarity": np.concatenate([np.ones(len(same)), similarity, similarity]),
        }
    )
    rows = pd.DataFrame({"row": np.arange(len(texts)), "text": text_id, "label": labels, "part": parts})
    first = rows.drop_duplicates(["text", "label", "part"]).add_prefix("other_")  # stands for its copies
    found = rows.merge(links, on="text").merge(first, on="other_text").rename(columns={"other_row": "other"})
    found = found[found["row"] != found["other"]]
    found["label_differs"] = found["label"] != found["other_label"]
    found["part_differs"] = found["part"] != found["other_part"]
    found["characters"] = np.array([len(text) for text in unique])[found["text"]]  # short texts are equal by chance
    order = ["label_differs", "part_differs", "similarity", "characters", "row", "other"]
    found = found.sort_values(order, ascending=[False] * 4 + [True] * 2).drop_duplicates("row")
    low, high = np.minimum(found["row"], found["other"]), np.maximum(found["row"], found["other"])
    found = found.assign(row=low, other=high).drop_duplicates(["row", "other"])
    return found[["row", "other", "similarity", "label_differs", "part_differs"]].reset_index(drop=True)


# Words that decide


def find_deciding_words(texts: list[str], labels: np.ndarray, num_classes: int, lexicons=()) -> pd.DataFrame:
    """Finds words whose presence nearly decides the class, such as the name of a film that all hated.

    What a model learns from them it cannot use elsewhere. A word counts once a text. It is listed if the lower bound of
    the share of its commonest class is at least LEAST_SHARE, and at least half-way from that class's share of all rows
    to 1. A word that stands mostly in the texts of one listed before is left out. Of Chinese, where no space parts
    words, the "words" are all runs of two or three characters.

    Args:
        texts, labels: of the train part. lexicons: of `baselines.PACKAGES`; the words that they score are left out,
            because a reader expects them to decide.
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
    rows, top = counts.sum(axis=1), counts.argmax(axis=1)
    share = counts.max(axis=1) / rows
    base = np.bincount(labels, minlength=num_classes)[top] / len(labels)
    lower, _ = compute_interval(counts.max(axis=1), rows)
    score = rows * (lower - base)
    decides = np.flatnonzero(lower >= np.maximum(LEAST_SHARE, (1 + base) / 2))
    lengths = np.array([len(word) for word in words[decides]], int)  # of runs that stand together, the longest
    decides = decides[np.lexsort((-lengths, -score[decides]))][: 10 * MOST_WORDS]
    shared = (present[:, decides].T @ present[:, decides]).toarray()  # (words, words), texts that have both
    expected = _name_sentiment(words[decides], lexicons)
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


def _name_sentiment(words, lexicons) -> np.ndarray:
    """Returns (words,) bool: whether a lexicon gives the word a score."""
    return np.any([np.zeros(len(words), bool), *(score_texts(name, words) != 0 for name in lexicons)], axis=0)


# The command


def find_faults(rows: pd.DataFrame, class_names) -> pd.DataFrame:
    """Returns all findings as one table, one a row; of each kind those first that matter most.

    Args:
        rows: of `read_rows`.
    Returns:
        kind (label_error, near_duplicate, deciding_word); part, line, text and label of the row; suggested_label; score
        (the probability that the label is wrong; the similarity; how many rows the word decides beyond chance); word;
        why; and the other row, if there is one: other_part, other_line, other_text, other_label. Empty: "".
    """
    names = np.array(class_names, dtype=object)
    kinds = {
        "label_error": _list_label_errors(rows, names),
        "near_duplicate": _list_near_duplicates(rows),
        "deciding_word": _list_deciding_words(rows, names),
    }
    found = pd.concat([table.assign(kind=kind) for kind, table in kinds.items()], ignore_index=True)
    shown = rows.assign(label=names[rows["label"]])[["part", "line", "text", "label"]].astype(object)
    found = found.join(shown, on="row").join(shown.add_prefix("other_"), on="other")
    found = found.reindex(columns=_COLUMNS).astype(object)
    return found.where(found.notna(), "")


def _list_label_errors(rows: pd.DataFrame, names: np.ndarray) -> pd.DataFrame:
    labels = rows["label"].to_numpy()
    folds = assign_folds(rows["group"].to_numpy(), labels)
    judged = np.array([k for k in range(len(names)) if len(np.unique(folds[labels == k])) > 1], int)
    for name in np.delete(names, judged):
        print(
            f"label errors: the class '{name}' is not judged, as its rows are tied together by equal texts or "
            "data.group_column, so that a model sees all of them or none",
            flush=True,
        )
    if len(judged) < 2:
        return pd.DataFrame({"row": [], "score": []})
    kept = np.flatnonzero(np.isin(labels, judged))
    given = np.searchsorted(judged, labels[kept])
    probabilities = predict_held_out(rows["text"].iloc[kept].tolist(), given, folds[kept])
    errors = find_label_errors(given, probabilities)
    places, suggested = errors["row"].to_numpy(), errors["suggested"].to_numpy()
    given, names = given[places], names[judged]
    pairs = zip(suggested, probabilities[places, suggested], given, probabilities[places, given])
    why = [
        f"a model that has not seen this row gives '{names[other]}' {p:.2f} and '{names[label]}' {q:.2f}"
        for other, p, label, q in pairs
    ]
    return errors.assign(row=kept[places], suggested_label=names[suggested], why=why)


def _list_near_duplicates(rows: pd.DataFrame) -> pd.DataFrame:
    texts = rows["text"].tolist()
    found = find_near_duplicates(texts, rows["label"].to_numpy(), rows["part"].to_numpy())
    why = []
    for twin in found.itertuples():
        same = keep_words(texts[twin.row]) == keep_words(texts[twin.other])
        reasons = ["the same words" if same else f"{twin.similarity:.0%} of the character sequences are the same"]
        reasons += ["the labels differ"] if twin.label_differs else []
        reasons += ["they stand in two parts"] if twin.part_differs else []
        why.append("; ".join(reasons))
    return found.rename(columns={"similarity": "score"}).assign(why=why)


def _list_deciding_words(rows: pd.DataFrame, names: np.ndarray) -> pd.DataFrame:
    train = np.flatnonzero(rows["part"] == "train")
    texts = rows["text"].iloc[train].tolist()
    labels = rows["label"].to_numpy()[train]
    found = find_deciding_words(texts, labels, len(names), _choose_lexicons(texts))
    why = [
        f"'{word.word}' stands in {word.rows:,} train rows, and {word.share:.0%} of them are '{names[word.label]}' (at "
        f"least {word.lower:.0%}; of all train rows {word.base:.0%})"
        for word in found.itertuples()
    ]
    places = {"row": train[found["example"].astype(int)], "other": train[found["other"].astype(int)]}
    return found[["word", "score"]].assign(**places, why=why)


def _choose_lexicons(texts: list[str]) -> list[str]:
    """Returns the lexicons that can tell words of sentiment, those of English that are installed; says if some lack."""
    if is_chinese(texts):
        print("words that decide: words of sentiment are among them, as no lexicon tells Chinese ones", flush=True)
        return []
    installed = [name for name in ("vader", "textblob") if importlib.util.find_spec(PACKAGES[name])]
    if len(installed) < 2:
        print(
            "words that decide: English words of sentiment are among them, as VADER and TextBlob, which tell them, are "
            'not both installed (python -m pip install -e ".[baselines]")',
            flush=True,
        )
    return installed


def format_faults(found: pd.DataFrame, top: int = 3) -> str:
    """Returns the counts and the first of each kind as lines for the terminal."""
    lines = []
    for kind, title in _TITLES.items():
        of_kind = found[found["kind"] == kind]
        counts = f"{len(of_kind):,}"
        if kind == "near_duplicate" and len(of_kind):
            labels, parts = ((of_kind[name] != of_kind[f"other_{name}"]).sum() for name in ("label", "part"))
            counts += f", {labels:,} of them with different labels, {parts:,} in two parts"
        lines.append(f"{title}: {counts}")
        for row in of_kind.head(top).itertuples():
            lines.append(f"  {row.part}, line {row.line}: {row.why}")
            lines.append(f"    {row.label}: {_cut(row.text, row.word)}")
            if row.other_part:
                lines.append(
                    f"    {row.other_label}: {_cut(row.other_text, row.word)} ({row.other_part}, {row.other_line})"
                )
    return "\n".join(lines)


def _cut(text: str, word: str, characters: int = 90) -> str:
    """Returns one line of a text, the part around a word."""
    text = " ".join(text.split())
    begin = max(0, text.lower().find(word) - characters // 2) if len(text) > characters else 0
    end = begin + characters
    return f"{'…' * (begin > 0)}{text[begin:end]}{'…' * (end < len(text))}"


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m keras_senti.faults",
        description="Lists what may be wrong with labelled data: label errors, near-duplicates, words that decide.",
        epilog="All other options are settings, as of train.py: --config, --data.csv, ...; its --help lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="new CSV file of the findings")
    options, words = parser.parse_known_args(argv)
    config = parse_config(words)
    if config.resume is not None:
        raise UserError("--resume: there is no run to continue here. Leave it out; --config reads a run's config.yaml.")
    if config.task == "language_model":
        raise UserError("task: received language_model, expected classification: faults are found in labelled rows.")
    _check_out(options.out)
    rows, class_names = read_rows(config)
    found = find_faults(rows, class_names)
    _check_out(options.out)  # again: this took minutes
    with files.replace_file(options.out) as file:
        file.write(found.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC).encode("utf-8"))
    counts = ", ".join(f"{name} {count:,}" for name, count in rows["part"].value_counts(sort=False).items())
    print(f"{len(rows):,} rows ({counts})\n{format_faults(found)}\n{options.out}: {len(found):,} findings to review")


def _check_out(out: Path):
    if out.exists():
        raise UserError(f"--out: {out} is there already. Name a new file, or move it away.")
    if not out.parent.is_dir():
        raise UserError(f"--out: there is no folder {out.parent}. Make it, or name a file elsewhere.")


if __name__ == "__main__":
    sys.exit(run_command(main))
