"""Labelled text to token ids on disk, once: the second run of the same data and text settings reads them from there.

A cache folder ids-<key> holds, for each part, flat.bin (token ids, see `EncodedTexts`) and arrays with one entry a row,
besides vocabulary.txt and facts.json. The key is a hash of everything that decides its content: the files, the settings
and this package's own code, so a cache of other data or settings is never taken for this one.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_senti import data, pipeline, runs, tables, text
from keras_senti.config import Config, TextConfig, UserError
from keras_senti.data import Dataset, Splits, StoredTexts, load_splits
from keras_senti.pipeline import ENCODE_ROWS, EncodedTexts, encode_texts
from keras_senti.runs import compute_sha256, read_json, write_json
from keras_senti.sources import Source, add_to_cache, prepare_source
from keras_senti.text import TextEncoder, fit_vocabulary

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Corpus:
    """All that a run learns from its data: the parts, their token ids, and the encoder that made them.

    encoded: EncodedTexts by part. files: SHA-256 by path. cache: the folder that holds the ids.
    """

    splits: Splits
    encoder: TextEncoder
    encoded: dict[str, EncodedTexts]
    files: dict[str, str]
    cache: Path


def load_corpus(config: Config, vocabulary: list[str] | None = None) -> Corpus:
    """Reads, splits and encodes the data, or maps the ids that an earlier run left in data.cache_dir.

    Args:
        vocabulary: of the model that is trained further; None: the most frequent tokens of the train part.
    Raises:
        UserError: for whatever is wrong with the data.
    """
    with runs.share_cache(Path(config.data.cache_dir)):
        source = prepare_source(config.data)
        files = {str(path): compute_sha256(path) for path in source.stamps if path.is_file()}
        folder = Path(config.data.cache_dir) / f"ids-{_compute_key(config, source, list(files.values()), vocabulary)}"
        if folder.is_dir():
            try:
                corpus = _read(folder, config, source, files)
                print(f"token ids from {folder}", flush=True)
                return corpus
            except (OSError, ValueError, KeyError, UserError) as error:
                print(f"the cache {folder} is damaged ({error}): making it again", flush=True)
                shutil.rmtree(folder)
        _write(folder, config, source, vocabulary)
        return _read(folder, config, source, files)


def _compute_key(config: Config, source: Source, digests: list[str], vocabulary) -> str:
    settings = dataclasses.asdict(source.settings)
    for name in ("csv", "validation_csv", "test_csv", "cache_dir", "source"):
        settings.pop(name)  # content counts, not the place
    code = [inspect.getsource(module) for module in (tables, data, text, pipeline, sys.modules[__name__])]
    versions = runs.describe_environment()["versions"]
    words = text.read_stop_words(config.text.stop_words) if config.text.stop_words else None
    reader = [source.damaged, [path and path.suffixes for path in (source.main, source.validation, source.test)]]
    parts = [bool(source.validation), bool(source.test)]
    reading = {**dataclasses.asdict(config.text), "word_vectors": None}  # which change no id
    content = [settings, reading, digests, parts, vocabulary]
    return hashlib.sha256(json.dumps([content, code, versions, words, reader]).encode()).hexdigest()[:16]


def _write(folder: Path, config: Config, source: Source, vocabulary: list[str] | None):
    """Makes the cache under a temporary name and renames it, so that a folder ids-<key> is always whole."""
    splits = load_splits(source)
    if vocabulary is None or config.text.extend_vocabulary:
        batches = _batch(splits.train.texts, "counting words", len(splits.train))
        vocabulary = _extend(vocabulary, batches, config.text)
    encoder = TextEncoder(config.text, vocabulary)
    with add_to_cache(folder) as temporary:
        for name, part in splits.parts().items():
            (temporary / name).mkdir(parents=True)
            for column, array in part.arrays().items():
                np.save(temporary / name / f"{column}.npy", array)
        _write_ids(temporary, splits, encoder)
        encoder.save(temporary / "vocabulary.txt")
        facts = {"class_names": splits.class_names, "check": splits.check, "dropped": splits.dropped}
        sums = {str(p.relative_to(temporary)): compute_sha256(p) for p in sorted(temporary.glob("**/*")) if p.is_file()}
        write_json(temporary / "facts.json", {**facts, "sha256": sums})
        source.check_unchanged()  # the cache's name says of which content it is


def _batch(texts: StoredTexts, title: str, rows: int):
    """Yields lists of ENCODE_ROWS texts, with a progress bar."""
    batch = []
    for text_of_row in tqdm(texts, desc=title, unit=" texts", total=rows, delay=2):
        batch.append(text_of_row)
        if len(batch) == ENCODE_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _extend(old: list[str] | None, batches, settings: TextConfig) -> list[str]:
    """Returns the vocabulary of the batches of texts; or the old one and the commonest tokens that it lacks."""
    if old is None:
        return fit_vocabulary(settings, batches)
    known, limit = set(old), settings.extend_vocabulary
    fitted = fit_vocabulary(dataclasses.replace(settings, max_tokens=len(old) + limit), batches)
    return old + [token for token in fitted if token not in known][:limit]


def _write_ids(folder: Path, splits: Splits, encoder: TextEncoder):
    """Reads each file once, whichever parts its rows belong to."""
    lengths = {name: [np.zeros(1, np.int64)] for name in PARTS}
    by_file = {}
    for index, name in enumerate(PARTS):
        part = splits.parts()[name]
        by_file.setdefault(str(part.texts.path), []).append((part, np.full(len(part), index)))
    with contextlib.ExitStack() as stack:
        flat = [stack.enter_context(open(folder / name / "flat.bin", "wb")) for name in PARTS]
        for parts in by_file.values():
            lines = np.concatenate([part.lines for part, _ in parts])
            order = np.argsort(lines)
            owner = np.concatenate([index for _, index in parts])[order]
            first = parts[0][0].texts
            texts, begin = dataclasses.replace(first, lines=lines[order]), 0
            for batch in _batch(texts, "encoding", len(texts)):
                encoded = encode_texts(encoder, batch)
                owners = owner[begin : begin + len(batch)]
                for index, name in enumerate(PARTS):
                    flat[index].write(encoded.flat[np.repeat(owners == index, encoded.lengths)].tobytes())
                    lengths[name].append(encoded.lengths[owners == index])
                begin += len(batch)
    for name in PARTS:
        np.save(folder / name / "offsets.npy", np.cumsum(np.concatenate(lengths[name])))


def _read(folder: Path, config: Config, source: Source, files: dict[str, str]) -> Corpus:
    facts = read_json(folder / "facts.json")
    for name, expected in facts["sha256"].items():
        if compute_sha256(folder / name) != expected:
            raise ValueError(f"{name} has changed")
    main, settings, parts, encoded = source.main, source.settings, {}, {}
    paths = {"train": main, "validation": source.validation or main, "test": source.test or main}
    for name in PARTS:
        arrays = {
            item.name: np.load(folder / name / f"{item.name}.npy")
            for item in dataclasses.fields(Dataset)
            if item.name != "texts"
        }
        damaged = source.damaged if paths[name] == main else "strict"
        stamp = source.stamps[paths[name]]
        parts[name] = Dataset(StoredTexts(paths[name], settings.text_column, arrays["lines"], damaged, stamp), **arrays)
        offsets, flat = np.load(folder / name / "offsets.npy"), folder / name / "flat.bin"
        empty = not flat.stat().st_size  # which cannot be mapped
        encoded[name] = EncodedTexts(np.zeros(0, np.int32) if empty else np.memmap(flat, np.int32, "r"), offsets)
    splits = Splits(**parts, class_names=tuple(facts["class_names"]), check=facts["check"], dropped=facts["dropped"])
    encoder = TextEncoder.load(config.text, folder / "vocabulary.txt")
    return Corpus(splits, encoder, encoded, files, folder)
