"""`python -m keras_senti launch`: several processes that know of each other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_senti.cli import launch
from keras_senti.errors import UserError

SHOW = "import json, os, sys; c = json.loads(os.environ['TF_CONFIG']); print(json.dumps(c), file=sys.stderr)"


def test_each_worker_knows_all_addresses_and_its_own_number(capfd):
    launch.main(["--workers", "3", "--", sys.executable, "-c", SHOW])
    lines = sorted(line for line in capfd.readouterr().err.splitlines() if line.startswith("[worker "))
    configs = [json.loads(line.partition("] ")[2]) for line in lines]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": i} for i in range(3)]
    assert len({json.dumps(config["cluster"]) for config in configs}) == 1
    assert len(set(configs[0]["cluster"]["worker"])) == 3


def test_only_the_chief_is_shown(capfd):
    show = "import json, os; print('number', json.loads(os.environ['TF_CONFIG'])['task']['index'])"
    launch.main(["--workers", "2", "--", sys.executable, "-c", show])
    assert capfd.readouterr().out == "number 0\n"


def test_if_one_fails_the_others_are_ended_and_its_exit_code_is_ours(capfd):
    index = "json.loads(os.environ['TF_CONFIG'])['task']['index']"
    code = f"import json, os, sys, time; {index} or time.sleep(60); sys.exit(3)"
    with pytest.raises(SystemExit) as ended:
        launch.main(["--workers", "2", "--", sys.executable, "-c", code])
    assert ended.value.code == 3
    assert "launch: worker 1 ended with exit code 3; ending the others" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--workers", "0", "--", "true"], "--workers: received 0, expected at least 1"),
        (["--workers", "2"], "launch: received no command"),
        (["--workers", "2", "--", "no-such-command"], "launch: cannot start no-such-command: No such file"),
    ],
)
def test_what_cannot_be_started_is_an_error(arguments, message):
    with pytest.raises(UserError, match=message):
        launch.main(arguments)


def test_a_worker_cannot_launch_workers(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UserError, match="TF_CONFIG is set already"):
        launch.main(["--workers", "2", "--", "true"])


def test_it_is_a_command():
    done = subprocess.run([sys.executable, "-m", "keras_senti", "launch", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--workers" in done.stdout


def test_it_says_that_the_ports_are_open(capfd):
    launch.main(["--workers", "1", "--", sys.executable, "-c", ""])
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("launch: ")]
    assert len(said) == 1 and "opens a port of each worker to the whole network, without a password" in said[0]


# A worker that notes its process, and what it was asked to do.
STUBBORN = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
for name in ("SIGINT", "SIGTERM"):
    signal.signal(getattr(signal, name), lambda *_, name=name: (folder / f"{name}-{os.getpid()}").touch())
(folder / f"{os.getpid()}.pid").touch()
while True:
    time.sleep(0.05)
"""
QUICKLY = """
import sys
from keras_senti.cli import launch
from keras_senti.errors import run_command
from keras_senti.experiments import local_workers
local_workers.SECONDS_TO_END = float(sys.argv.pop(1))
sys.exit(run_command(launch.main))
"""


def start(folder: Path, seconds: float, worker: str = STUBBORN) -> tuple[subprocess.Popen, list[int]]:
    """Launches two workers and waits until they run; returns the process and theirs."""
    command = [sys.executable, "-c", QUICKLY, str(seconds), "--workers", "2", "--", sys.executable, "-c", worker]
    process = subprocess.Popen(
        [*command, str(folder)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(lambda: len(list(folder.glob("*.pid"))) == 2)
    return process, [int(path.stem) for path in folder.glob("*.pid")]


def wait_for(happened, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_sigterm_asks_the_workers_to_end_and_then_ends_them(tmp_path):
    process, workers = start(tmp_path, 0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert len(list(tmp_path.glob("SIGTERM-*"))) == 2 and not any(map(is_there, workers))


def test_each_further_ctrl_c_is_heard(tmp_path):
    process, workers = start(tmp_path, 60)
    process.send_signal(signal.SIGINT)  # passed on
    wait_for(lambda: len(list(tmp_path.glob("SIGINT-*"))) == 2)
    process.send_signal(signal.SIGINT)  # they are to end now
    wait_for(lambda: len(list(tmp_path.glob("SIGTERM-*"))) == 2)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)  # and at once
    assert process.wait(30) == 130 and time.monotonic() - begin < 20
    assert not any(map(is_there, workers))


def test_what_a_worker_says_in_another_encoding_is_shown(capfd):
    launch.main(["--workers", "1", "--", sys.executable, "-c", "import os; os.write(2, b'caf\\xe9\\n')"])
    assert "[worker 0] caf" in capfd.readouterr().err


WINDOWS = """
import os, signal, sys
del signal.SIGKILL, os.killpg, os.sched_setaffinity, os.sched_getaffinity
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.path.insert(0, os.getcwd())
from keras_senti.cli import search, study, launch
from keras_senti.experiments import local_workers, trial
from keras_senti.storage import run_folder
local_workers.SECONDS_TO_END = 1
launch.main(["--workers", "2", "--", sys.executable, "-c", sys.argv[1]])
"""


def test_what_windows_does_not_have_is_not_needed():
    index = "json.loads(os.environ['TF_CONFIG'])['task']['index']"
    code = f"import json, os, sys, time; {index} or time.sleep(60); sys.exit(3)"
    command = [sys.executable, "-c", WINDOWS, code]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert "worker 1 ended with exit code 3; ending the others" in done.stderr
