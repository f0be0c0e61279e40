"""Rows that a person should look at: likely label errors, near-duplicates, words that decide too much."""

import importlib.util
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from keras_senti.data import cache_folder
from keras_senti.data.dataset import sample_rows
from keras_senti.data.reading import load_splits
from keras_senti.data.sources import prepare_source
from keras_senti.data.splits import join_groups
from keras_senti.errors import UserError
from keras_senti.evaluation.baselines import PACKAGES, fit_ngrams, is_chinese
from keras_senti.evaluation.deciding_words import find_deciding_words
from keras_senti.evaluation.near_duplicates import find_near_duplicates, keep_words
from keras_senti.settings.schema import Config

FOLDS = 5
_ROW = ["part", "line", "text", "label"]
_COLUMNS = ["kind", *_ROW, "suggested_label", "score", "word", "why", *(f"other_{name}" for name in _ROW)]
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
    """
    with cache_folder.share_cache(Path(config.data.cache_dir)):
        source = prepare_source(config.data)
        try:
            splits = load_splits(source)
        except OSError as error:
            where = f"{tempfile.gettempdir()}: cannot keep the texts there: {error.strerror}."
            raise UserError(f"{where} Make room, or set TMPDIR.") from None
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if not config.train.evaluate_test:
        del parts["test"]
    tables = []
    for name, part in parts.items():
        taken = part.take(sample_rows(len(part), config.baselines.max_rows, config.data.seed))
        if len(taken) < len(part):
            print(f"{name}: {len(taken):,} of {len(part):,} rows, drawn at random (baselines.max_rows)", flush=True)
        columns = {"line": taken.lines, "text": list(taken.texts), "label": taken.labels}
        tables.append(pd.DataFrame({"part": name, **columns, "hash": taken.hashes, "group": taken.groups}))
    rows = pd.concat(tables, ignore_index=True)
    rows["group"] = join_groups(rows.pop("hash").to_numpy(), rows["group"].to_numpy())  # also across files
    return rows, splits.class_names


def assign_folds(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the fold of each row, 0 to FOLDS - 1: rows of a group in the same, each class spread over the folds.

    Args:
        groups: (rows,) uint64, in random order, as hashes are. labels: (rows,) int.
    """
    ordered = pd.Series(labels).groupby(groups).min().sort_values(kind="stable").index
    return pd.Series(np.arange(len(ordered)) % FOLDS, index=ordered).loc[groups].to_numpy()


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
    Reference: Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, equations 1 and 2; there the suggested class
        need not be likelier. The authors' package cleanlab, which asks that too, finds the same rows but for a few.
    """
    rows = np.arange(len(labels))
    thresholds = np.array([probabilities[labels == j, j].mean() for j in range(probabilities.shape[1])])
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    suggested = confident.argmax(axis=1)
    of_label = probabilities[rows, labels]
    found = np.flatnonzero(confident[rows, suggested] > of_label)
    found = found[np.argsort(of_label[found], kind="stable")]
    return pd.DataFrame({"row": found, "suggested": suggested[found], "score": 1 - of_label[found]})


def audit_labels(rows: pd.DataFrame, class_names) -> pd.DataFrame:
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
    shown = rows.assign(label=names[rows["label"]])[_ROW].astype(object)
    found = found.join(shown, on="row").join(shown.add_prefix("other_"), on="other")
    found = found.reindex(columns=_COLUMNS).astype(object)
    return found.where(found.notna(), "")


def _list_label_errors(rows: pd.DataFrame, names: np.ndarray) -> pd.DataFrame:
    labels = rows["label"].to_numpy()
    folds = assign_folds(rows["group"].to_numpy(), labels)
    judged = np.array([k for k in range(len(names)) if len(np.unique(folds[labels == k])) > 1], int)
    for name in np.delete(names, judged):
        tied = "as its rows are tied together by equal texts or data.group_column"
        print(f"label errors: the class '{name}' is not judged, {tied}", flush=True)
    if len(judged) < 2:
        return pd.DataFrame({"row": [], "score": []})
    kept = np.flatnonzero(np.isin(labels, judged))
    given = np.searchsorted(judged, labels[kept])
    probabilities = predict_held_out(rows["text"].iloc[kept].tolist(), given, folds[kept])
    errors = find_label_errors(given, probabilities)
    names, why = names[judged], []
    for row, other in zip(errors["row"], errors["suggested"]):
        first, second = (f"'{names[label]}' {probabilities[row, label]:.2f}" for label in (other, given[row]))
        why.append(f"a model that has not seen this row gives {first} and {second}")
    return errors.assign(row=kept[errors["row"]], suggested_label=names[errors["suggested"]], why=why)


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
    texts, labels = rows["text"].iloc[train].tolist(), rows["label"].to_numpy()[train]
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
        remedy = 'VADER and TextBlob tell them: python -m pip install -e ".[baselines]"'
        print(f"words that decide: English words of sentiment are among them. {remedy}", flush=True)
    return installed


def format_audit(found: pd.DataFrame, top: int = 3) -> str:
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
                place = f"({row.other_part}, {row.other_line})"
                lines.append(f"    {row.other_label}: {_cut(row.other_text, row.word)} {place}")
    return "\n".join(lines)


def _cut(text: str, word: str, characters: int = 90) -> str:
    """Returns one line of a text, the part around a word."""
    text = " ".join(text.split())
    begin = max(0, text.lower().find(word) - characters // 2) if len(text) > characters else 0
    end = begin + characters
    return f"{'…' * (begin > 0)}{text[begin:end]}{'…' * (end < len(text))}"
