"""Which part a row goes to, and the order of the classes."""

import hashlib

import numpy as np
import scipy.sparse

# Sentiment has an order of its own; other names are sorted, integers by value.
SENTIMENT_ORDER = ("negative", "neutral", "positive")


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


def hash_text(text: str, key: bytes) -> int:
    """Returns a 64-bit hash, keyed; upper case and white space do not count."""
    plain = " ".join(text.casefold().split()).encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8, key=key).digest(), "little")


def join_groups(hashes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns one key a row, equal for rows that are tied by an equal text or an equal group, also through others.

    Args:
        hashes, groups: (rows,) uint64. Returns: (rows,) uint64, the smallest group that a row is tied to.
    """
    _, text = np.unique(hashes, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    texts, nodes = text.max(initial=-1) + 1, text.max(initial=-1) + group.max(initial=-1) + 2
    ties = scipy.sparse.coo_array((np.ones(len(text), bool), (text, group + texts)), shape=(nodes, nodes))
    component = scipy.sparse.csgraph.connected_components(ties, directed=False)[1][text]
    keys = np.full(component.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(keys, component, groups)
    return keys[component]


def split_rows(hashes: np.ndarray, labels: np.ndarray, test_fraction: float, validation_fraction: float) -> np.ndarray:
    """Decides the part of each row: 0 train, 1 validation, 2 test.

    Equal texts (equal hashes) go to the same part, under the lowest of their labels. Within a class the hash, which
    depends on the seed, is the order: the first go to the test part, the next to validation. So the part of a text
    depends on the texts and the seed, not on the order of the rows. A class of three or more different texts is in
    every part; one of two in train and validation.

    Args:
        hashes: (rows,) uint64; or the keys of `join_groups`, if more than equal texts must stay together.
        labels: (rows,) int. test_fraction: of all rows. validation_fraction: of the others.
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
