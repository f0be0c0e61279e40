"""Files that are whole or absent."""

import contextlib
import hashlib
import io
import json
import math
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from keras_senti.errors import UserError


class WriteError(UserError):
    """A file cannot be written: the disk is full, the folder is gone or not ours."""


@contextlib.contextmanager
def replace(path: Path):
    """Yields a path for a file or a folder that takes the place of `path` when it is whole and on the disk.

    A crash leaves the old one. A folder takes no other's place: there must be none. Raises a WriteError if it fails.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="writing-", dir=path.parent, ignore_cleanup_errors=True) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            for written in [temporary, *temporary.rglob("*")]:
                if written.is_file():
                    with open(written, "ab") as file:  # else a power cut could leave the new name without its content
                        os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}.") from None


@contextlib.contextmanager
def replace_file(path: Path):
    """Opens a binary file that takes the place of `path`; see `replace`."""
    with replace(path) as temporary, open(temporary, "wb") as file:
        yield file


def write_text(path: Path, text: str):
    """Writes UTF-8 text so that a crash leaves the old file or the new one."""
    with replace_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content):
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path):
    """Reads a JSON file of a run folder; raises a UserError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {path.parent} is not the folder of a finished run.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


class _BoundedFile(io.FileIO):
    """Refuses to read much at once: zipfile does that only where an archive says that its directory is so long."""

    def read(self, size=-1):
        if (size if size >= 0 else os.fstat(self.fileno()).st_size - self.tell()) > 2**20:
            raise ValueError("its directory is too long")
        return super().read(size)


def read_arrays(path: Path, check=None) -> dict[str, np.ndarray]:
    """Reads an .npz file as `numpy.savez` writes it, every checksum of it, without pickles.

    No array is given memory before the whole file is known to hold what its headers say.

    Args:
        check: called with (dtype, shape) by name before an array is read; raises what it has against them.
    Raises:
        OSError, MemoryError: if it cannot be read now. ValueError, zipfile.BadZipFile and others: if it is damaged.
    """
    headers, arrays = {}, {}
    if not path.is_file():
        raise ValueError("it is missing, or no plain file")
    with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
        items = archive.infolist()
        if sum(item.file_size for item in items) > path.stat().st_size:  # compressed, or several in one place
            raise ValueError("its entries are larger than the file, expected them as numpy.savez writes them")
        for item in items:
            name = item.filename.removesuffix(".npy")
            with archive.open(item) as stream:
                version = np.lib.format.read_magic(stream)
                if version != (1, 0) or name in headers:
                    raise ValueError(f"{name} is not as numpy.savez writes it")
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject or size != item.file_size - stream.tell():
                    raise ValueError(
                        f"{name} of {dtype} {shape} has another size in the file, {item.file_size:,} bytes"
                    )
            headers[name] = dtype, shape
        if check is not None:
            check(headers)
        for name, item in zip(headers, items):
            with archive.open(item) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def compute_sha256(path) -> str:
    """Returns the SHA-256 of a file; raises a UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
