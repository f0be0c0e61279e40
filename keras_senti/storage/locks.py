"""Locks that end with the process that holds them, also by kill -9."""

import contextlib
from pathlib import Path

from keras_senti.errors import UserError
from keras_senti.storage.files import WriteError

try:
    import fcntl
except ImportError:  # Windows: nothing there keeps two processes out of one folder
    fcntl = None


class InUse(UserError):
    """Another process has the lock."""


@contextlib.contextmanager
def lock_file(path: Path, shared: bool = False, wait: bool = False):
    """Holds the lock of a file, which is made, as is its folder: alone, or with others that hold it `shared`.

    Yields False where there are no locks (Windows, some network drives), else True.

    Raises:
        InUse: if another process has it, and not `wait`.
        WriteError: if the file cannot be made.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        file = open(path, "a")
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}.") from None
    with file:
        has_lock = fcntl is not None
        try:
            if has_lock:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InUse(f"{path}: another process is running in this folder. Wait until it has ended.") from None
        except OSError:
            has_lock = False
        yield has_lock
