"""Texts that are nearly equal, by MinHash."""

import re
from functools import lru_cache

import numpy as np
import pandas as pd
from tqdm import tqdm

# Near-duplicates: texts that share this much of their shingles, runs of so many characters. 20 bands of 5 hashes find
# a pair that shares 0.7 with probability 0.97, one that shares 0.8 with 0.9996, and one that shares 0.3 with 0.05.
LEAST_SIMILARITY = 0.7
SHINGLE_CHARACTERS = 4
BANDS, BAND_HASHES = 20, 5
MOST_NEIGHBOURS = 20  # texts of one bucket that a text is compared with: a form letter can have thousands of copies
# Not counted as differences between texts: tags, addresses and @names; punctuation. Emoji count.
_NO_WORDS = re.compile(r"<[^<>]*>|https?://\S+|www\.\S+|@\w+")
_PUNCTUATION = re.compile(r"[^\w\u2190-\u2bff\U0001f000-\U0001faff]+|_+")


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
    links = np.concatenate([np.stack([same, same], axis=1), pairs, pairs[:, ::-1]])
    links = pd.DataFrame(links, columns=["text", "other_text"])
    links["similarity"] = np.concatenate([np.ones(len(same)), similarity, similarity])
    rows = pd.DataFrame({"row": np.arange(len(texts)), "text": text_id, "label": labels, "part": parts})
    first = rows.drop_duplicates(["text", "label", "part"]).add_prefix("other_")  # stands for its copies
    found = rows.merge(links, on="text").merge(first, on="other_text").rename(columns={"other_row": "other"})
    found = found[found["row"] != found["other"]]
    found["label_differs"] = found["label"] != found["other_label"]
    found["part_differs"] = found["part"] != found["other_part"]
    found["characters"] = np.array([len(text) for text in unique])[found["text"]]  # short texts are equal by chance
    order = ["label_differs", "part_differs", "similarity", "characters", "row", "other"]
    found = found.sort_values(order, ascending=[False] * 4 + [True] * 2).drop_duplicates("row")
    found[["row", "other"]] = np.sort(found[["row", "other"]], axis=1)
    found = found.drop_duplicates(["row", "other"])
    return found[["row", "other", "similarity", "label_differs", "part_differs"]].reset_index(drop=True)
