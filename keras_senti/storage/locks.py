"""Locks that end with the process that holds them."""

import contextlib
from pathlib import Path

from keras_senti.storage.files import WriteError

try:
    import fcntl
    import resource
except ImportError:  # Windows: nothing there keeps two runs out of one folder
    fcntl = resource = None


@contextlib.contextmanager
def lock_file(path: Path, wait: bool = False):
    """Holds the lock of a file, which is made. It ends with the process, also by kill -9.

    Yields False where there are no locks (Windows, some network drives), else True.

    Raises:
        BlockingIOError: if another process has it, and not `wait`.
        WriteError: if the file cannot be made.
    """
    try:
        file = open(path, "a")
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}.") from None
    with file:
        has_lock = fcntl is not None
        try:
            if has_lock:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            has_lock = False
        yield has_lock
