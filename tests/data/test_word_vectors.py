import gzip
import json
import lzma

import keras
import numpy as np
import pytest

from keras_senti.data import word_vectors
from keras_senti.errors import UserError
from keras_senti.models.build import build_model
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import ModelConfig
from keras_senti.tasks import train

VOCABULARY = ["[PAD]", "[UNK]", "film", "great", "[URL]", "好", "."]
GLOVE = "the 9 9\nfilm 1 2\n. . . 7 7\ngreat 3 -4\n好 0.5 1e-1\nGreat 8 8\n. 5 6\n"


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="vectors.txt"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write_file


def test_each_word_gets_its_vector_and_padding_zeros(write):
    matrix, found = word_vectors.read_word_vectors(write(GLOVE), VOCABULARY, 2, seed=0)
    assert matrix.dtype == np.float32
    assert found.tolist() == [False, False, True, True, False, True, True]
    np.testing.assert_array_equal(matrix[0], [0, 0])
    np.testing.assert_allclose(matrix[found], [[1, 2], [3, -4], [0.5, 0.1], [5, 6]])


def test_words_without_a_vector_are_random_and_as_large_as_the_others_and_the_same_for_the_same_seed(write):
    vocabulary = [*VOCABULARY, *(f"unseen{i}" for i in range(3000))]
    path = write(GLOVE)
    matrix, found = word_vectors.read_word_vectors(path, vocabulary, 2, seed=0)
    missing = matrix[1:][~found[1:]]
    assert len(np.unique(missing)) == missing.size == 2 * 3002
    assert missing.std() == pytest.approx(matrix[found].std(), rel=0.05) and abs(missing.mean()) < 0.2
    again, other = (word_vectors.read_word_vectors(path, vocabulary, 2, seed)[0] for seed in (0, 1))
    np.testing.assert_array_equal(again, matrix)
    assert (other != matrix)[1].all()


@pytest.mark.parametrize(
    "content",
    [
        "7 2\n" + GLOVE,
        "7 2 \n" + GLOVE.replace("\n", " \n"),  # word2vec and fastText end a line with a space
        GLOVE.replace("\n", "\r\n"),
        GLOVE + "\n",
        GLOVE.rstrip("\n"),
        GLOVE + "film 9 9\n",  # the first one counts
        GLOVE + "film at 3 9 9\n\u0085 1 2\n\u3000 1 2\n",
    ],
)  # fmt: skip
def test_header_line_ends_and_odd_words_change_nothing(write, content):
    expected, _ = word_vectors.read_word_vectors(write(GLOVE), VOCABULARY, 2, 0)
    matrix, found = word_vectors.read_word_vectors(write(content, "other.txt"), VOCABULARY, 2, 0)
    np.testing.assert_array_equal(matrix, expected)
    assert found.sum() == 4


def test_a_space_can_be_a_token_of_its_own(write):
    matrix, found = word_vectors.read_word_vectors(write("a 1 2\n  3 4\n"), ["[PAD]", "[UNK]", " "], 2, 0)
    assert found[2] and matrix[2].tolist() == [3, 4]


@pytest.mark.parametrize("name,compress", [("v.txt.gz", gzip.compress), ("v.txt.xz", lzma.compress)])
def test_compressed_files_are_read(write, name, compress):
    _, found = word_vectors.read_word_vectors(write(compress(GLOVE.encode()), name), VOCABULARY, 2, 0)
    assert found.sum() == 4


@pytest.mark.parametrize(
    "content,message",
    [
        ("film 1 2 3\n", r"has vectors of 3 numbers, but model.embedding_dim is 2. Add --model.embedding_dim 3"),
        ("9 300\nfilm 1 2\n", "has vectors of 300 numbers, but model.embedding_dim is 2"),
        (
            GLOVE + "table 1",
            r"vectors.txt, line 8: received 1 numbers behind the word, expected 2. Is the file cut off",
        ),
        (GLOVE.encode() + b"caf\xe9 1 2\n", r"vectors.txt, line 8: byte 0xe9 is not UTF-8"),
        ("the 9 9\nfilm 1 x\n", r"vectors.txt, line 2: the vector of 'film' is not made of numbers \(.*'x'"),
        ("the 9 9\nfilm 1 nan\n", r"vectors.txt, line 2: the vector of 'film' is not finite"),
        ("the 9 9\nfilm 1 1e39\n", r"vectors.txt, line 2: the vector of 'film' is not finite"),
        ("Film 1 2\nFILM 3 4\n", "has none of the 5 words of the vocabulary.*another language.*capitals"),
        ("text,sentiment\ngood,positive\n", r"line 1: expected `word v1 v2 ...` with spaces between, received 'text,s"),
        ("", "is empty"),
    ],
)
def test_a_file_that_cannot_work_is_refused_with_its_line(write, content, message):
    with pytest.raises(UserError, match=message):
        word_vectors.read_word_vectors(write(content), VOCABULARY, 2, 0)


@pytest.mark.parametrize(
    "content,name,message",
    [
        (
            gzip.compress(GLOVE.encode() * 99, mtime=0)[:40],
            "v.gz",
            "v.gz: the compressed file is damaged or cut off after line",
        ),
        (GLOVE, "v.gz", "v.gz: is not compressed although its name ends in"),
        (b"PK\x03\x04", "v.zip", "v.zip: is a zip archive, .*Unpack it"),
    ],
)
def test_a_damaged_or_packed_file_is_refused(write, content, name, message):
    with pytest.raises(UserError, match=message):
        word_vectors.read_word_vectors(write(content, name), VOCABULARY, 2, 0)


def test_the_check_before_a_run_reads_the_first_lines_only(write, tmp_path):
    word_vectors.check_word_vectors(write(GLOVE + "cut 1"), 2)
    with pytest.raises(UserError, match="embedding_dim is 3. Add --model.embedding_dim 2"):
        word_vectors.check_word_vectors(write(GLOVE), 3)
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(UserError, match=f"{path}: cannot be read"):
            word_vectors.check_word_vectors(path, 2)


def test_coverage_counts_words_and_tokens(write, capsys):
    model = build_model(ModelConfig(embedding_dim=2, units=3), len(VOCABULARY), 2)
    token_ids = np.array([2, 2, 1, 4, 3], np.int32)  # film film [UNK] [URL] great
    entry = word_vectors.load_word_vectors(model, write(GLOVE), VOCABULARY, token_ids, 0)
    assert entry["vocabulary_coverage"] == 4 / 5 and entry["token_coverage"] == 3 / 5
    assert entry["file"].endswith("vectors.txt") and len(entry["sha256"]) == 64
    assert "80.0% of the vocabulary and 60.0% of the tokens" in capsys.readouterr().out
    assert model.get_layer("embedding").get_weights()[0][2].tolist() == [1, 2]


@pytest.mark.parametrize("trainable", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_run_starts_from_the_vectors_and_keeps_frozen_ones(tiny_settings, tmp_path, write, trainable):
    path = write("film 1 2 3 4 5 6\ngreat .5 .5 .5 .5 .5 .5\n")
    arguments = [*tiny_settings, "--run_dir", f"{tmp_path}/run", "--train.epochs", "1", "--train.learning_rate", "1e-6"]
    arguments += ["--text.word_vectors", str(path), "--model.embedding_trainable", str(trainable).lower()]
    run_dir = train.train_run(parse_config(arguments))
    entry = json.loads((run_dir / "manifest.json").read_text())["word_vectors"]
    assert set(entry) == {"file", "sha256", "vocabulary_coverage", "token_coverage"}
    assert 0 < entry["vocabulary_coverage"] < 1 and 0 < entry["token_coverage"] < 1
    model = keras.models.load_model(run_dir / "model.keras")
    film = (run_dir / "vocabulary.txt").read_text().split("\n").index("film")
    row = model.get_layer("embedding").get_weights()[0][film]
    np.testing.assert_allclose(row, [1, 2, 3, 4, 5, 6], atol=1e-3)
    assert (row == [1, 2, 3, 4, 5, 6]).all() == (not trainable)
    assert model.get_layer("embedding").trainable == trainable


def test_bad_vectors_are_refused_before_a_folder_is_made(tiny_settings, tmp_path):
    arguments = [*tiny_settings, "--run_dir", f"{tmp_path}/run", "--text.word_vectors", f"{tmp_path}/nowhere.txt"]
    with pytest.raises(UserError, match="nowhere.txt: cannot be read"):
        train.train_run(parse_config(arguments))
    assert not (tmp_path / "run").exists()
