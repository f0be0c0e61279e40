"""Text to token ids on disk, once: the second run of the same data and text settings reads them from there.

A cache folder ids-<key> holds, for each part, flat.bin (token ids, see `EncodedTexts`) and arrays with one entry a row,
besides the texts of each file (texts/, see `StoredTexts`), vocabulary.txt and facts.json. The key is a hash of
everything that decides its content: the files, the settings and this package's own code, so a cache of other data or
settings is never taken for this one.

A language model reads whole texts: those of the train part and the unlabelled ones, and the validation part to be
scored. Its test part is found, so that the split is that of a classifier with the same data settings, and not encoded.
"""

import dataclasses
import hashlib
import itertools
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_senti.data.batches import ENCODE_ROWS
from keras_senti.data.cache_folder import add_to_cache, share_cache
from keras_senti.data.dataset import EncodedDataset, EncodedTexts
from keras_senti.data.reading import load_splits
from keras_senti.data.sources import Source, prepare_source
from keras_senti.data.texts import StoredTexts, map_file
from keras_senti.data.tokenizer import Tokenizer, encode_utf8, fit_vocabulary, read_stop_words
from keras_senti.data.unicode import find_script_without_spaces
from keras_senti.errors import UserError
from keras_senti.settings.schema import Config, TextConfig
from keras_senti.storage import environment
from keras_senti.storage.files import compute_sha256, read_json, write_json

ROOM = Path(__file__).parent  # whose code decides what a cache holds
WHOLE = 2**31 - 1  # tokens: longer than any text
SAMPLE_ROWS = 1000  # train texts whose script is looked at
ENCODE_CHARACTERS = 8_000_000  # of the texts that are turned into ids at once, as they may be whole books


@dataclass(frozen=True)
class Corpus:
    """All that a run learns from its data.

    parts: train, validation; test for a classifier, unlabeled for a language model where there is such a file.
    tokenizer: made the token ids. class_names: () where labels are not read. check: the content of data_check.json.
    dropped: one dict a dropped row, the first of them. files: SHA-256 by path, the main file first. folder: in the
    cache. unknown: the share of [UNK] among the tokens of a part, for each that has any.
    """

    parts: dict[str, EncodedDataset]
    tokenizer: Tokenizer
    class_names: tuple[str, ...]
    check: dict
    dropped: list[dict]
    files: dict[str, str]
    folder: Path
    unknown: dict[str, float] = field(default_factory=dict)

    @property
    def train(self) -> EncodedDataset:
        return self.parts["train"]

    @property
    def validation(self) -> EncodedDataset:
        return self.parts["validation"]


def load_corpus(config: Config, vocabulary: list[str] | None = None) -> Corpus:
    """Reads, splits and encodes the data, or maps the ids that an earlier run left in data.cache_dir.

    Args:
        vocabulary: of the model that is trained further; None: the most frequent tokens of the train part and of the
            unlabelled texts.
    Raises:
        UserError: for whatever is wrong with the data.
    """
    if config.task == "language_model":
        whole = dataclasses.replace(config.text, sequence_length=WHOLE, truncate="tail")
        config = dataclasses.replace(config, text=whole)
    with share_cache(Path(config.data.cache_dir)):
        source = prepare_source(config.data, config.task)
        files = {str(path): compute_sha256(path) for path in source.stamps if path.is_file()}
        folder = Path(config.data.cache_dir) / f"ids-{_compute_key(config, source, files, vocabulary)}"
        if folder.is_dir():
            try:
                _check_sums(folder)
                corpus = _read(folder, config, source, files)
                print(f"token ids from {folder}", flush=True)
                return corpus
            except (OSError, ValueError, KeyError, UserError) as error:
                print(f"the cache {folder} is damaged ({error}): making it again", flush=True)
                shutil.rmtree(folder)
        with add_to_cache(folder) as temporary:  # a folder ids-<key> is always whole
            _write(temporary, config, source, vocabulary)
        return _read(folder, config, source, files)


def _compute_key(config: Config, source: Source, files: dict[str, str], vocabulary) -> str:
    settings = dataclasses.asdict(source.settings)
    for name in ("csv", "validation_csv", "test_csv", "unlabeled_csv", "cache_dir", "source"):
        settings.pop(name)  # content counts, not the place
    code = [path.read_text(encoding="utf-8") for path in sorted(ROOM.glob("*.py"))]
    versions = environment.describe_environment()["versions"]
    words = read_stop_words(config.text.stop_words) if config.text.stop_words else None
    paths = (source.main, source.validation, source.test, source.unlabeled)
    reader = [source.damaged, source.labelled, [path and (path.suffixes, files.get(str(path))) for path in paths]]
    how = {**dataclasses.asdict(config.text), "word_vectors": None}  # which change no id
    content = [config.task, settings, how, vocabulary]
    return hashlib.sha256(json.dumps([content, code, versions, words, reader]).encode()).hexdigest()[:16]


def _write(folder: Path, config: Config, source: Source, vocabulary: list[str] | None):
    (folder / "texts").mkdir(parents=True)
    splits, unknown = load_splits(source, folder / "texts"), {}
    if vocabulary is None or config.text.extend_vocabulary:
        read = [part.texts for name, part in splits.parts().items() if name in ("train", "unlabeled")]
        batches = (_batch(part, "counting words") for part in read)
        vocabulary = _extend(vocabulary, itertools.chain.from_iterable(batches), config.text)
    tokenizer = Tokenizer(config.text, vocabulary)
    parts = {n: part for n, part in splits.parts().items() if n != "test" or config.task == "classification"}
    for name, part in parts.items():
        (folder / name).mkdir()
        arrays = {"labels": part.labels, "weights": part.weights, "lines": part.lines, "spans": part.texts.spans}
        for column, array in arrays.items():
            np.save(folder / name / f"{column}.npy", array)
        unknown[name] = _write_ids(folder / name, part.texts, tokenizer)
    sample = list(itertools.islice(splits.train.texts, SAMPLE_ROWS))
    reads = {"split": config.text.split, "script_without_spaces": find_script_without_spaces(sample)}
    splits.check["reads"] = {**reads, "unknown_tokens": unknown["validation"]}
    tokenizer.save(folder / "vocabulary.txt")
    facts = {
        "parts": list(parts),
        "unknown": unknown,
        "class_names": splits.class_names,
        "check": splits.check,
        "dropped": splits.dropped,
    }
    sums = {str(p.relative_to(folder)): compute_sha256(p) for p in sorted(folder.glob("**/*")) if p.is_file()}
    write_json(folder / "facts.json", {**facts, "sha256": sums})
    source.check_unchanged()  # the cache's name says of which content it is


def _batch(texts: StoredTexts, title: str):
    """Yields lists of at most ENCODE_ROWS texts, fewer of long ones, with a progress bar."""
    batch, characters = [], 0
    for text in tqdm(texts, desc=title, unit=" texts", delay=2):
        batch.append(text)
        characters += len(text)
        if len(batch) == ENCODE_ROWS or characters >= ENCODE_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _extend(old: list[str] | None, batches, settings: TextConfig) -> list[str]:
    """Returns the vocabulary of the batches of texts; or the old one and the commonest tokens that it lacks."""
    if old is None:
        return fit_vocabulary(settings, batches)
    known, limit = set(old), settings.extend_vocabulary
    fitted = fit_vocabulary(dataclasses.replace(settings, max_tokens=len(old) + limit), batches)
    return old + [token for token in fitted if token not in known][:limit]


def _write_ids(folder: Path, texts: StoredTexts, tokenizer: Tokenizer) -> float:
    """Returns the share of [UNK] among the token ids that it writes."""
    lengths, unknown = [np.zeros(1, np.int64)], 0
    with open(folder / "flat.bin", "wb") as flat:
        for batch in _batch(texts, "encoding"):
            ids = tokenizer.encode(tf.constant(encode_utf8(batch), tf.string))
            flat.write(ids.flat_values.numpy().tobytes())
            lengths.append(ids.row_lengths().numpy())
            unknown += int((ids.flat_values.numpy() == 1).sum())
    offsets = np.cumsum(np.concatenate(lengths))
    np.save(folder / "offsets.npy", offsets)
    return unknown / max(int(offsets[-1]), 1)


def _check_sums(folder: Path):
    for name, expected in read_json(folder / "facts.json")["sha256"].items():
        if compute_sha256(folder / name) != expected:
            raise ValueError(f"{name} has changed")


def _read(folder: Path, config: Config, source: Source, files: dict[str, str]) -> Corpus:
    facts = read_json(folder / "facts.json")
    return Corpus(
        {name: _read_part(folder, name, source) for name in facts["parts"]},
        Tokenizer.load(config.text, folder / "vocabulary.txt"),
        tuple(facts["class_names"]),
        facts["check"],
        facts["dropped"],
        files,
        folder,
        facts["unknown"],
    )


def _read_part(folder: Path, name: str, source: Source) -> EncodedDataset:
    # A part has a file of its own, or is split from the main one.
    table = name if getattr(source, name, None) else "main"
    arrays = {path.stem: np.load(path) for path in (folder / name).glob("*.npy")}
    with open(folder / "texts" / f"{table}.bin", "rb") as file:
        texts = StoredTexts(getattr(source, table), map_file(file), arrays.pop("spans"))
    flat, offsets = folder / name / "flat.bin", arrays.pop("offsets")
    empty = not flat.stat().st_size  # which cannot be mapped
    token_ids = EncodedTexts(np.zeros(0, np.int32) if empty else np.memmap(flat, np.int32, "r"), offsets)
    return EncodedDataset(texts, token_ids, **arrays)
