import dataclasses
import json

import numpy as np
import pytest

from keras_senti.data import batches, tables, token_cache
from keras_senti.data.checks import format_check
from keras_senti.data.token_cache import load_corpus
from keras_senti.errors import UserError
from keras_senti.settings.command_line import parse_config

ROWS = [(f"{'good' if i % 2 else 'bad'} film {'and ' * (i % 5)}number {i % 7}", "pn"[i % 2]) for i in range(60)]
ROWS = [(f"{text} {i}", label) for i, (text, label) in enumerate(ROWS)]
LANGUAGE_MODEL = ("--task", "language_model", "--model.bidirectional", "false")


@pytest.fixture
def load(tmp_path):
    """Writes rows into a file and returns what makes a corpus of it, with options."""

    def load_it(*options, rows=ROWS, vocabulary=None, extend=0):
        path = tmp_path / "a.csv"
        content = "text,sentiment\n" + "".join(f"{t},{label}\n" for t, label in rows)
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
        arguments = ["--data.csv", str(path), "--data.cache_dir", str(tmp_path / "cache"), *options]
        config = parse_config(arguments)
        text = dataclasses.replace(config.text, extend_vocabulary=extend)
        return load_corpus(dataclasses.replace(config, text=text), vocabulary)

    return load_it


@pytest.fixture
def load_language_model(load, tmp_path):
    """As `load`, for a language model that reads unlabelled texts too."""

    def load_it(*options, texts=("a new text", "a new text", "words", ""), **others):
        path = tmp_path / "unlabeled.csv"
        path.write_text("text\n" + "".join(f'"{text}"\n' for text in texts), encoding="utf-8")
        return load(*LANGUAGE_MODEL, "--data.unlabeled_csv", str(path), *options, **others)

    return load_it


def decode(found, name):
    encoded, tokens = found.parts[name].token_ids, np.array(found.tokenizer.vocabulary, dtype=object)
    rows = np.split(encoded.flat, encoded.offsets[1:-1])
    return [" ".join(tokens[row]) for row in rows]


def test_the_ids_on_disk_are_those_of_the_texts_part_by_part_and_row_by_row(load, monkeypatch):
    monkeypatch.setattr(token_cache, "ENCODE_ROWS", 7)  # so that a part spreads over several batches
    found = load("--text.max_tokens", "1000")
    known = set(found.tokenizer.vocabulary)
    for name, part in found.parts.items():
        expected = [" ".join(w if w in known else "[UNK]" for w in text.split()) for text in part.texts]
        assert len(expected) > 5 and decode(found, name) == expected
    assert isinstance(found.parts["train"].token_ids.flat, np.memmap)
    train_words = {word for text in found.train.texts for word in text.split()}
    assert known - {"[PAD]", "[UNK]"} == train_words


def test_a_second_run_takes_the_ids_from_disk(load, monkeypatch, capsys):
    first = load()
    monkeypatch.setattr(token_cache, "_write", lambda *_: pytest.fail("made again"))
    again = load()
    assert f"token ids from {first.folder}" in capsys.readouterr().out
    assert again.check == first.check and again.files == first.files
    for name in first.parts:
        assert again.parts[name].token_ids.flat.tolist() == first.parts[name].token_ids.flat.tolist()
        assert list(again.parts[name].texts) == list(first.parts[name].texts)


@pytest.mark.parametrize(
    "change",
    [
        {"options": ("--text.max_tokens", "9")},
        {"options": ("--data.seed", "1")},
        {"options": ("--data.test_fraction", "0.3")},
        {"rows": [*ROWS[:-1], ("another text", "n")]},
        {"vocabulary": ["[PAD]", "[UNK]", "film"]},
    ],
    ids=["text settings", "seed", "fraction", "content", "vocabulary"],
)
def test_other_data_or_settings_get_a_cache_of_their_own(load, change):
    first = load()
    other = load(*change.pop("options", ()), **change)
    assert other.folder != first.folder and other.folder.exists()
    assert load().folder == first.folder


def test_other_stop_words_in_the_same_file_get_a_cache_of_their_own(load, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("film\n")
    first = load("--text.stop_words", str(path))
    path.write_text("number\n")
    other = load("--text.stop_words", str(path))
    assert other.folder != first.folder and "film" in other.tokenizer.vocabulary


def test_other_code_gets_a_cache_of_its_own(load, monkeypatch, tmp_path):
    first = load()
    (tmp_path / "tokenizer.py").write_text("other code")
    monkeypatch.setattr(token_cache, "ROOM", tmp_path)
    assert load().folder != first.folder


def test_a_file_is_parsed_once_and_not_at_all_by_a_second_run(load, monkeypatch):
    read_lines, lines = tables.read_lines, []

    def count(path):
        for number, raw in read_lines(path):
            lines.append(number)
            yield number, raw

    monkeypatch.setattr(tables, "read_lines", count)
    parts = load().parts.values()
    assert sorted(text for part in parts for text in part.texts) == sorted(text for text, _ in ROWS)
    assert lines == [1, *range(1, 62)]  # the header, then all of it
    assert [list(part.texts) for part in load().parts.values()] == [list(part.texts) for part in parts]
    assert len(lines) == 62


def test_json_lines_are_not_read_twice_to_learn_their_columns(tmp_path, monkeypatch):
    path, loads, parsed = tmp_path / "a.jsonl", json.loads, []
    rows = [{"of": {"text": text}, "sentiment": label} for text, label in ROWS]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [{"id": 7}, *rows]))
    monkeypatch.setattr(tables.json, "loads", lambda line: parsed.append(line) or loads(line))
    arguments = ["--data.csv", str(path), "--data.cache_dir", str(tmp_path / "cache"), "--data.text_column", "of.text"]
    assert load_corpus(parse_config(arguments)).check["dropped_rows"] == {"no text": 1}
    assert len([line for line in parsed if "film" in line]) == 60


def test_training_settings_do_not_matter_to_the_cache(load):
    assert load().folder == load("--train.epochs", "2", "--model.units", "3").folder


@pytest.mark.parametrize(
    "file", ["train/flat.bin", "facts.json", "texts/main.bin", "validation/labels.npy", "vocabulary.txt"]
)
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_cache_is_said_and_made_again(load, capsys, file, harm):
    first = load()
    expected, path = first.parts["train"].token_ids.flat.tolist(), first.folder / file
    content = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(content[:-3] if harm == "cut" else content[:-9] + b"\x07" + content[-8:])
    again = load()
    assert "is damaged (" in capsys.readouterr().out
    assert again.parts["train"].token_ids.flat.tolist() == expected and json.loads(
        (again.folder / "facts.json").read_text()
    )


def test_nothing_half_written_is_left_where_encoding_fails(load, monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "_write_ids", fail)
    with pytest.raises(
        UserError, match=r"data\.cache_dir: cannot write .*No space left.* Make room .*, or name another"
    ):
        load()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]
    monkeypatch.undo()
    assert len(load().parts["train"].token_ids) > 0


def test_a_file_that_is_changed_while_it_is_read_leaves_no_cache(load, monkeypatch, tmp_path):
    read = token_cache.load_splits

    def read_and_change(source, folder):
        splits = read(source, folder)
        source.main.write_text("text,sentiment\nanother,p\n")
        return splits

    monkeypatch.setattr(token_cache, "load_splits", read_and_change)
    with pytest.raises(UserError, match=r"a\.csv: was changed or removed while it was in use"):
        load()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_a_vocabulary_that_is_given_is_used_and_extended_by_the_commonest_new_tokens(load):
    old = ["[PAD]", "[UNK]", "good", "unseen"]
    assert load(vocabulary=old).tokenizer.vocabulary == old
    extended = load(vocabulary=old, extend=2).tokenizer.vocabulary
    assert extended == [*old, "and", "number"]  # twice a text, and once; "film" is as frequent as "number"
    assert len(load(vocabulary=old, extend=9999).tokenizer.vocabulary) > 20


def test_the_length_of_a_batch_costs_nothing_in_the_number_of_rows():
    encoded = batches.EncodedTexts(np.ones(3, np.int32), np.array([0, 1, 3]))
    assert encoded.lengths is encoded.lengths and encoded.lengths.tolist() == [1, 2]


# Language models


def test_a_language_model_reads_the_train_part_and_the_unlabelled_texts_and_no_test_part(load_language_model, load):
    found, classifier = load_language_model(), load()
    assert list(found.parts) == ["train", "validation", "unlabeled"]
    assert decode(found, "unlabeled") == ["a new text", "a new text", "words"]
    for name in ("train", "validation"):
        assert list(found.parts[name].texts) == list(classifier.parts[name].texts)
    assert decode(found, "train") == list(found.train.texts)
    assert len(found.parts["validation"].token_ids) == len(found.validation)
    words = {word for name in ("train", "unlabeled") for text in found.parts[name].texts for word in text.split()}
    assert set(found.tokenizer.vocabulary) == {"[PAD]", "[UNK]", *words}
    shown, expected = found.check, classifier.check
    assert shown["rows"] == {**expected["rows"], "unlabeled": 3} and shown["dropped_rows"] == {"no text": 1}
    assert {**shown["split_sha256"], "unlabeled": None} == {**expected["split_sha256"], "unlabeled": None}
    assert [path.rsplit("/", 1)[1] for path in found.files] == ["a.csv", "unlabeled.csv"]


def test_its_vocabulary_counts_the_unlabelled_texts(load_language_model):
    assert load_language_model("--text.max_tokens", "4", texts=["rare"] * 999).tokenizer.vocabulary[2] == "rare"


@pytest.mark.parametrize("truncate", ["head", "tail", "both"])
def test_its_texts_are_whole_whatever_the_cut_of_a_classifier(load_language_model, truncate):
    text = " ".join(f"w{i}" for i in range(500))
    found = load_language_model("--text.sequence_length", "3", "--text.truncate", truncate, texts=[text])
    assert decode(found, "unlabeled") == [text] and min(found.parts["train"].token_ids.lengths) > 3


def test_long_texts_are_encoded_fewer_at_once(load_language_model, monkeypatch):
    sizes, encode = [], token_cache.Tokenizer.encode
    monkeypatch.setattr(
        token_cache.Tokenizer, "encode", lambda self, texts: sizes.append(len(texts)) or encode(self, texts)
    )
    monkeypatch.setattr(token_cache, "ENCODE_CHARACTERS", 30)
    found = load_language_model(texts=["x" * 29, "y", "z" * 31, "end"])
    assert sizes[-3:] == [2, 1, 1] and len(found.parts["unlabeled"].token_ids) == 4


def test_a_second_run_of_a_language_model_takes_the_ids_from_disk(load_language_model, monkeypatch):
    first = load_language_model()
    monkeypatch.setattr(token_cache, "_write", lambda *_: pytest.fail("made again"))
    again = load_language_model("--text.sequence_length", "7")
    assert again.folder == first.folder and again.check == first.check
    for name in first.parts:
        assert decode(again, name) == decode(first, name)
    assert list(again.parts["unlabeled"].texts) == ["a new text", "a new text", "words"]


def test_task_and_unlabelled_texts_have_caches_of_their_own(load_language_model, load):
    names = [found.folder for found in (load(), load(*LANGUAGE_MODEL), load_language_model())]
    names.append(load_language_model(texts=["others"]).folder)
    assert len(set(names)) == 4 and names == [
        load().folder,
        load(*LANGUAGE_MODEL).folder,
        load_language_model().folder,
        names[3],
    ]


def test_texts_without_labels_alone_are_split_into_train_and_validation(load_language_model):
    texts = [f"text number {i}" for i in range(20)]
    found = load_language_model("--data.csv", "null", texts=texts)
    assert {name: len(encoded) for name, encoded in found.parts.items()} == {"train": 16, "validation": 4}
    assert sorted([*found.train.texts, *found.validation.texts]) == sorted(texts)
    assert (found.class_names, sorted(found.parts)) == ((), ["train", "validation"])
    assert decode(found, "train") == list(found.train.texts)
    assert [path.rsplit("/", 1)[1] for path in found.files] == ["unlabeled.csv"]


def test_files_that_change_places_have_caches_of_their_own(load, tmp_path):
    other = tmp_path / "b.csv"
    other.write_text("text,sentiment\none text,p\nanother text,n\n", encoding="utf-8")
    both = [("--data.validation_csv", str(other), "--data.test_csv", str(path)) for path in (other, tmp_path / "a.csv")]
    assert load(*both[0]).folder != load(*both[1]).folder


THAI = [(f"{'ดีมาก' if i % 2 else 'แย่มาก'}ร้านนี้อาหาร{'ก' * (i % 9)}{'ข' * (i // 9)}", "pn"[i % 2]) for i in range(60)]


def test_a_script_that_the_split_does_not_suit_is_warned_of(load):
    check = load("--text.split", "word", rows=THAI).check
    assert check["reads"]["unknown_tokens"] > 0.9
    shown = format_check(check)
    assert "WARNING: most letters of the texts are Thai, which has no spaces between words, but text.split is" in shown
    assert "of the tokens of the validation part are unknown to the vocabulary, so the model cannot read" in shown
    check = load(rows=THAI).check
    assert check["reads"]["unknown_tokens"] < 0.1 and "WARNING: most" not in format_check(check)


def test_a_vocabulary_that_does_not_know_the_texts_is_warned_of(load):
    check = load(vocabulary=["[PAD]", "[UNK]", "film"]).check
    encoded = [text.split() for text in load().validation.texts]
    known = sum(text.count("film") for text in encoded) / sum(map(len, encoded))
    assert check["reads"]["unknown_tokens"] == pytest.approx(1 - known) and known < 0.5
    assert f"WARNING: {1 - known:.0%} of the tokens of the validation part are unknown" in format_check(check)
    assert "are unknown" not in format_check(load().check)
