"""`python -m keras_senti.launch`: several processes that know of each other."""

import json
import subprocess
import sys

import pytest

from keras_senti import launch
from keras_senti.config import UserError

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
    "words,message",
    [
        (["--workers", "0", "--", "true"], "--workers: received 0, expected at least 1"),
        (["--workers", "2"], "launch: received no command"),
        (["--workers", "2", "--", "no-such-command"], "launch: cannot start no-such-command: No such file"),
    ],
)
def test_what_cannot_be_started_is_an_error(words, message):
    with pytest.raises(UserError, match=message):
        launch.main(words)


def test_a_worker_cannot_launch_workers(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UserError, match="TF_CONFIG is set already"):
        launch.main(["--workers", "2", "--", "true"])


def test_it_is_a_command():
    done = subprocess.run([sys.executable, "-m", "keras_senti.launch", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--workers" in done.stdout
