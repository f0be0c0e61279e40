"""What is fetched, unpacked or tokenized once and kept."""

import contextlib
import re
import shutil
from pathlib import Path

from keras_senti.errors import UserError
from keras_senti.storage.files import WriteError, replace

try:
    import fcntl
    import resource
except ImportError:  # Windows: nothing there keeps two runs out of one folder
    fcntl = resource = None


@contextlib.contextmanager
def add_to_cache(path: Path):
    """Yields a path for a file or folder that comes into the cache as `path`, whole or not at all.

    Its name follows from its content, so where another process was quicker, that one's stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace(path) as temporary:
            yield temporary
    except (OSError, WriteError) as error:
        if not path.is_dir():
            reason = error if isinstance(error, WriteError) else f"cannot write {path}: {error.strerror}."
            raise UserError(
                f"data.cache_dir: {reason} Make room (for the texts, and about 5 bytes a word for token ids), or name "
                "another folder."
            ) from None


_CACHED = re.compile(r"(ids|imdb|reviews_zh)-[0-9a-f]{16}|aclImdb_v1\.tar\.gz")  # names in a cache


@contextlib.contextmanager
def share_cache(folder: Path):
    """Tells other processes that this one may be writing into a cache; removes what killed ones left half-written.

    Whoever writes holds the lock with others, and who gets it alone knows that nobody does. Without locks (Windows,
    some network drives) nothing is removed. Where nothing can be written, the first write says so.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / "lock", "a"))
            if fcntl is not None:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for path in folder.glob("writing-*"):  # a user may have folders of such a name there
                        if all(_CACHED.fullmatch(inner.name) for inner in path.glob("*")):
                            shutil.rmtree(path, ignore_errors=True)
                fcntl.flock(file, fcntl.LOCK_SH)
        yield
