import csv
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import BAD, GOOD, ROOT, make_rows

from keras_senti.cli import audit
from keras_senti.errors import UserError
from keras_senti.evaluation import label_audit
from keras_senti.evaluation.deciding_words import find_deciding_words
from keras_senti.evaluation.label_audit import (
    assign_folds,
    audit_labels,
    find_label_errors,
    predict_held_out,
    read_rows,
)
from keras_senti.evaluation.near_duplicates import (
    find_near_duplicates,
    hash_shingles,
    keep_words,
    list_candidates,
    sign_texts,
)
from keras_senti.settings.command_line import parse_config


def write(path, rows, header=("text", "sentiment")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


# Label errors


def test_a_label_error_is_a_row_above_the_threshold_of_another_class():
    labels = np.array([0, 0, 0, 1, 1, 1])
    # The means of p_0 over the first three rows, and of p_1 over the others, are 0.6 and 0.7.
    p_1 = np.array([0.1, 0.2, 0.9, 0.95, 0.9, 0.25])
    found = find_label_errors(labels, np.stack([1 - p_1, p_1], axis=1))
    assert found["row"].tolist() == [2, 5] and found["suggested"].tolist() == [1, 0]
    np.testing.assert_allclose(found["score"], [0.9, 0.75])


def test_a_class_of_which_the_model_is_seldom_sure_needs_less_certainty():
    labels = np.array([0, 0, 0, 1, 1, 2])
    probabilities = np.array(
        [
            [0.9, 0.05, 0.05],
            [0.9, 0.05, 0.05],
            [0.3, 0.26, 0.44],  # p_2 is above the mean of class 2, 0.4
            [0.05, 0.9, 0.05],
            [0.50, 0.05, 0.45],  # p_0 is highest, but below the mean of class 0, 0.7
            [0.3, 0.3, 0.4],
        ]
    )
    found = find_label_errors(labels, probabilities)
    assert dict(zip(found["row"], found["suggested"])) == {4: 2, 2: 2}
    # Suggested, but less likely than the label: left out, where the paper would list it.
    probabilities[2] = [0.5, 0.06, 0.44]
    assert find_label_errors(labels, probabilities)["row"].tolist() == [4]


def test_flipped_labels_are_found_and_named_with_their_true_class(tmp_path):
    rows = make_rows()
    flipped = {10: "positive", 70: "negative"}  # a negative and a positive text
    rows = [(text, flipped.get(i, label)) for i, (text, label) in enumerate(rows)]
    table, names = read_rows(parse_config(["--data.csv", str(write(tmp_path / "r.csv", rows))]))
    found = audit_labels(table, names)
    errors = found[found["kind"] == "label_error"]
    assert errors["text"].tolist()[:2] in ([rows[10][0], rows[70][0]], [rows[70][0], rows[10][0]]), errors
    first = errors.set_index("text").loc[rows[10][0]]
    assert (first["label"], first["suggested_label"], first["line"]) == ("positive", "negative", 12)
    assert re.fullmatch(
        r"a model that has not seen this row gives 'negative' 0\.\d\d and 'positive' 0\.\d\d", first["why"]
    )
    assert len(errors) < 10


def test_a_row_is_judged_by_models_that_saw_neither_it_nor_its_group():
    groups = np.random.default_rng(0).integers(2**63, size=40, dtype=np.uint64).repeat(3)
    labels = np.arange(120) // 3 % 4 // 3  # one group in four is of class 1
    folds = assign_folds(groups, labels)
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    assert np.bincount(folds, labels).tolist() == [6.0] * 5 and np.bincount(folds).tolist() == [24] * 5
    # Equal texts with one label are no evidence for each other: these two stand in one fold, against all others.
    texts = ["good film", "fine good song"] * 10 + ["bad film", "sad bad song"] * 10 + ["good"] * 2
    labels = np.array([1] * 20 + [0] * 22)
    groups = np.arange(41).clip(max=40).astype(np.uint64)
    folds = assign_folds(np.append(groups, groups[-1]), labels)
    assert predict_held_out(texts, labels, folds)[-2:, 1].min() > 0.8


def test_a_class_whose_rows_are_tied_together_is_not_judged_and_said_to_be(capsys):
    texts = [*(f"good {i}" for i in range(10)), *(f"bad {i}" for i in range(10)), "odd", "odd"]
    labels = np.array([1] * 10 + [0] * 10 + [2, 2])
    groups = np.array([*range(20), 20, 20], np.uint64)
    table = pd.DataFrame({"part": "train", "line": range(2, 24), "text": texts, "label": labels, "group": groups})
    found = audit_labels(table, ("negative", "positive", "strange"))
    assert "the class 'strange' is not judged, as its rows are tied together" in capsys.readouterr().out
    assert not ((found["kind"] == "label_error") & (found["text"] == "odd")).any()
    # Two classes of which one cannot be judged: no label errors, and the rest goes on.
    found = audit_labels(table[10:].reset_index(drop=True).replace({"label": {2: 1}}), ("negative", "positive"))
    assert set(found["kind"]) == {"near_duplicate"}


# Near-duplicates

LONG = "the staff was friendly and the rooms were clean but breakfast was cold"


def test_a_near_duplicate_has_other_punctuation_case_tags_addresses_or_names_and_an_unrelated_text_is_none():
    texts = [
        "What a lovely film, I'd see it again!",
        "@anna what a LOVELY film... I'd see it again <br /> https://example.org/x",
        "An unrelated text about the weather",
        LONG,
        f"{LONG} today",
    ]
    found = find_near_duplicates(texts, np.zeros(5, int), np.array(["train"] * 5))
    assert found[["row", "other"]].to_numpy().tolist() == [[0, 1], [3, 4]]
    shingles = [{text[i : i + 4] for i in range(len(text) - 3)} for text in texts[3:]]
    expected = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    np.testing.assert_allclose(found["similarity"], [1, expected])


def test_what_has_no_words_is_compared_as_it_is_and_emoji_count():
    texts = ["...", "@anna", "Ünï_çode, 很好！", "It's <b>fine</b> \U0001f600", "See www.example.org or @anna!"]
    assert [keep_words(t) for t in texts] == ["...", "@anna", "ünï çode 很好", "it s fine \U0001f600", "see or"]
    texts = ["\U0001f600", "\U0001f621", "!?", "...", "@anna", "@otto"]
    assert len(find_near_duplicates(texts, np.zeros(6, int), np.array(["train"] * 6))) == 0


def test_a_row_is_named_with_the_twin_that_matters_most():
    texts = ["same words here", "Same words here.", "same words, here", "same: words here"]
    labels, parts = np.array([0, 0, 1, 0]), np.array(["train", "train", "train", "test"])
    found = find_near_duplicates(texts, labels, parts)
    # Row 2 has another label than all; of its twins the one in the other part comes first. Rows 0 and 1 point to it.
    assert found[["row", "other"]].to_numpy().tolist() == [[2, 3], [0, 2], [1, 2]]
    assert found["label_differs"].all() and found["part_differs"].tolist() == [True, False, False]
    found = find_near_duplicates(texts, np.zeros(4, int), parts)
    assert found[["row", "other", "part_differs"]].to_numpy().tolist() == [[0, 3, True], [1, 3, True], [2, 3, True]]


def test_signatures_agree_as_much_as_shingles_overlap_and_banding_misses_few():
    rng = np.random.default_rng(0)
    words = np.array([f"word{i:03}" for i in range(500)])
    texts, overlap = [], []
    for _ in range(100):
        first = rng.choice(words, 40)
        second = np.where(rng.random(40) < 0.06, rng.choice(words, 40), first)
        texts += [" ".join(first), " ".join(second)]
        a, b = (set(hash_shingles(text).tolist()) for text in texts[-2:])
        overlap.append(len(a & b) / len(a | b))
    signatures = sign_texts(texts)
    agree = (signatures[::2] == signatures[1::2]).mean(axis=1)
    assert abs(np.mean(agree - overlap)) < 0.02 and np.abs(agree - overlap).max() < 0.2
    pairs = {tuple(pair) for pair in list_candidates(signatures).tolist()}
    alike = [(2 * i, 2 * i + 1) for i, share in enumerate(overlap) if share > 0.8]
    assert len(alike) > 30 and all(pair in pairs for pair in alike)


def test_long_texts_are_signed_piece_by_piece_with_the_same_result():
    text = " ".join(str(number) for number in range(9000))
    assert len(hash_shingles(text)) > 10_000
    halves = [text[: len(text) // 2], text[len(text) // 2 - 3 :]]  # whose shingles together are those of the text
    signatures = sign_texts([text, *halves])
    np.testing.assert_array_equal(signatures[0], signatures[1:].min(axis=0))


def test_thousands_of_copies_and_one_text_alone_are_no_trouble():
    texts = ["the very same text"] * 3000 + [f"form letter number {i:04} to a customer" for i in range(300)]
    found = find_near_duplicates(texts, np.arange(3300) % 2, np.array(["train"] * 3300))
    assert 3000 < len(found) < 3300 and found["label_differs"].all()
    assert len(find_near_duplicates(["alone"], np.array([0]), np.array(["train"]))) == 0


# Words that decide


def test_a_planted_word_is_found_and_words_of_sentiment_are_left_out():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=400)
    texts = [f"{'lovely' if label else 'awful'} {rng.choice(['book', 'song', 'hotel'])}" for label in labels]
    for i in np.flatnonzero(labels == 0)[:30]:
        texts[i] += " by Zorblax"
    texts[np.flatnonzero(labels == 1)[0]] += " by Zorblax"
    found = find_deciding_words(texts, labels, 2, ["vader"])
    assert found["word"].tolist() == ["by"] or found["word"].tolist() == ["zorblax"]  # one stands for both
    word = found.iloc[0]
    assert (word["label"], word["rows"]) == (0, 31) and word["share"] == pytest.approx(30 / 31)
    assert labels[word["example"]] == 0 and labels[word["other"]] == 1 and "Zorblax" in texts[word["other"]]
    # Wilson's interval, from its definition: the p for which (p̂ - p)² = z² p (1 - p) / n.
    lower, z, n = word["lower"], 1.959964, 31
    assert (30 / 31 - lower) ** 2 == pytest.approx(z**2 * lower * (1 - lower) / n, rel=1e-5)
    assert word["score"] == pytest.approx(31 * (lower - (labels == 0).mean()))
    assert set(find_deciding_words(texts, labels, 2)["word"]) >= {"lovely", "awful"}


def test_a_word_needs_enough_rows_and_more_than_the_commonest_class_has_anyway():
    labels = np.array([0] * 15 + [1] * 15)
    texts = [f"{'plum' if i < 15 else 'pear'} number {i}" for i in range(30)]
    assert find_deciding_words(texts, labels, 2).empty  # 15 rows of 15: at least 0.796
    labels, texts = np.append(labels, [0, 1]), [*texts, "plum", "pear"]
    assert set(find_deciding_words(texts, labels, 2)["word"]) == {"plum", "pear"}
    labels = np.array([0] * 180 + [1] * 20)  # "plum" has 0.9 of class 0, as all rows have
    assert find_deciding_words(["plum"] * 200, labels, 2).empty
    assert find_deciding_words(["a", "b"], np.array([0, 1]), 2).empty


def test_chinese_words_are_runs_of_characters():
    labels = np.array([0, 1] * 30)
    texts = [f"{'联想' if label else '戴尔'}，电脑{'甲乙丙丁戊'[i % 5]}" for i, label in enumerate(labels)]
    found = find_deciding_words(texts, labels, 2)
    assert dict(zip(found["word"], found["label"])) == {"联想": 1, "戴尔": 0}


# The command


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    rows = [(f"{text}!", label) for text, label in make_rows()]
    rows += [(f"A {word} text, whatever the name may be: {word} {i}", "negative") for i, word in enumerate(BAD * 8)]
    rows[100] = (rows[100][0], "positive")
    rows += [(f"Quite {word}, the Zorblax phone number {i}", "positive") for i, word in enumerate(GOOD * 8)]
    rows += [(LONG, "neutral"), (f"{LONG}, and so on", "positive")]
    return write(tmp_path_factory.mktemp("audit") / "reviews.csv", rows)


def test_the_command_writes_a_row_a_finding_and_prints_the_first(reviews, tmp_path):
    arguments = ["--data.csv", str(reviews), "--out", str(tmp_path / "audit.csv")]
    done = subprocess.run(
        [sys.executable, "-m", "keras_senti", "audit", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "audit.csv", keep_default_na=False)
    assert list(table.columns) == list(label_audit._COLUMNS)
    assert set(table["kind"]) == {"label_error", "near_duplicate", "deciding_word"}
    lines = reviews.read_text(encoding="utf-8").splitlines()
    for row in table.itertuples():
        assert next(csv.reader([lines[row.line - 1]])) == [row.text, row.label]
    (error,) = table[(table["kind"] == "label_error") & (table["label"] == "positive")].itertuples()
    assert (error.line, error.suggested_label) == (102, "negative")
    twins = table[table["text"] == LONG].iloc[0]
    assert (twins["label"], twins["other_label"], twins["other_text"]) == ("neutral", "positive", f"{LONG}, and so on")
    assert twins["why"].startswith("89% of the character sequences are the same; the labels differ")
    assert lines[int(twins["other_line"]) - 1].startswith(f'"{LONG}')
    assert "phone" in table["word"].tolist() or "zorblax" in table["word"].tolist()
    assert f"likely label errors: {(table['kind'] == 'label_error').sum()}\n" in done.stdout
    twins = table[table["kind"] == "near_duplicate"]
    labels, parts = ((twins[name] != twins[f"other_{name}"]).sum() for name in ("label", "part"))
    assert (
        f"near-duplicates: {len(twins)}, {labels} of them with different labels, {parts} in two parts\n" in done.stdout
    )
    assert done.stdout.endswith(f"audit.csv: {len(table)} findings to review\n")


def test_the_test_part_is_left_alone_where_the_settings_say_so(reviews):
    arguments = ["--data.csv", str(reviews)]
    assert set(read_rows(parse_config(arguments))[0]["part"]) == {"train", "validation", "test"}
    assert set(read_rows(parse_config([*arguments, "--train.evaluate_test", "false"]))[0]["part"]) == {
        "train",
        "validation",
    }


def test_a_large_part_is_sampled_and_said_to_be(reviews, capsys):
    rows, _ = read_rows(parse_config(["--data.csv", str(reviews), "--baselines.max_rows", "20"]))
    assert rows["part"].value_counts().to_dict() == {"train": 20, "validation": 20, "test": 20}
    assert re.search(r"train: 20 of \d+ rows, drawn at random \(baselines\.max_rows\)", capsys.readouterr().out)


def test_equal_texts_in_two_files_are_one_group(tmp_path):
    first = write(tmp_path / "a.csv", make_rows())
    second = write(tmp_path / "b.csv", make_rows()[::7])
    rows, _ = read_rows(parse_config(["--data.csv", str(first), "--data.test_csv", str(second)]))
    assert (rows["part"] == "test").sum() == 13 and rows["group"].nunique() == 90


def test_nothing_is_written_over(reviews, tmp_path):
    (tmp_path / "mine.csv").write_text("mine")
    arguments = ["--data.csv", str(reviews), "--out"]
    with pytest.raises(UserError, match=r"--out: .*mine\.csv is there already\. Name a new file"):
        audit.main([*arguments, str(tmp_path / "mine.csv")])
    assert (tmp_path / "mine.csv").read_text() == "mine"
    with pytest.raises(UserError, match=r"--out: there is no folder .*nowhere\. Make it"):
        audit.main([*arguments, str(tmp_path / "nowhere" / "f.csv")])


@pytest.mark.parametrize(
    "rows,arguments,message",
    [
        ([("good", "a"), ("bad", "a")], [], r"2 usable rows of 1 class\(es\) \(a\), expected at least two classes"),
        ([("good", "a"), ("fine", "a"), ("bad", "b")], [], r"fewer than two rows of the class 'b' \(line 4\)"),
        ([("good", ""), ("bad", "")], [], r"0 usable rows of 0 class\(es\)"),
        ([], [], "has a header line and no rows"),
        ([("good", "a")], ["--data.label_column", "stars"], r"no column 'stars' \(data\.label_column\)"),
        (
            [("good", "a")],
            ["--task", "language_model", "--model.bidirectional", "false"],
            "received language_model, expected classification",
        ),
        ([("good", "a")], ["--data.cvs", "x"], r"Did you mean 'data\.csv'"),
    ],
    ids=["one class", "one row of a class", "no labels", "no rows", "no label column", "language model", "misspelt"],
)
def test_what_cannot_be_examined_is_said_before_anything_is_written(tmp_path, rows, arguments, message):
    path = write(tmp_path / "r.csv", rows)
    with pytest.raises(UserError, match=message):
        audit.main(["--data.csv", str(path), *arguments, "--out", str(tmp_path / "f.csv")])
    assert not (tmp_path / "f.csv").exists()


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "r.csv").write_text("")
    with pytest.raises(UserError, match="is empty, expected a header line and rows"):
        audit.main(["--data.csv", str(tmp_path / "r.csv"), "--out", str(tmp_path / "f.csv")])


def test_four_rows_are_enough(tmp_path, capsys):
    path = write(tmp_path / "r.csv", [("good day", "a"), ("fine day", "a"), ("bad day", "b"), ("sad day", "b")])
    audit.main(["--data.csv", str(path), "--out", str(tmp_path / "f.csv")])
    assert "4 rows" in capsys.readouterr().out and (tmp_path / "f.csv").read_text().startswith('"kind","part","line"')


def test_missing_lexicons_are_said(monkeypatch, capsys):
    assert label_audit._choose_lexicons(["a good day"]) == ["vader", "textblob"]
    monkeypatch.setattr(label_audit.importlib.util, "find_spec", lambda package: None)
    assert label_audit._choose_lexicons(["a good day"]) == []
    assert "English words of sentiment are among them" in capsys.readouterr().out
