"""What a user can mend, and how a command says it."""

import contextlib
import difflib
import signal
import sys
import threading


class UserError(Exception):
    """Something that the user can mend. Shown as one message without a traceback; the program ends with exit code 2.

    The message says what was received, what was expected and what to do.
    """


def suggest(name: str, known) -> str:
    """Returns " Did you mean 'x'?" for the nearest of the `known` names, or an empty string."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: what Ctrl-C ends, it ends too, but nothing long is begun any more."""


def _raise_terminated(signum, frame):
    raise Terminated


def run_command(main) -> int:
    """Runs `main(argv)` as a command and returns its exit code: 0, or 2 with one message for a UserError.

    After Ctrl-C it is 130, after SIGTERM 143. What the terminal cannot show is replaced.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with _handle_sigterm():
            main(sys.argv[1:])
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("\nstopped.", file=sys.stderr)
        return 143 if isinstance(error, Terminated) else 130


@contextlib.contextmanager
def _handle_sigterm():
    """Raises Terminated on SIGTERM, unless it is handled or ignored already. Only in a main thread can it be."""
    is_free = threading.current_thread() is threading.main_thread()
    is_free = is_free and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if is_free:
        signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        if is_free:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
