import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keras_senti
from keras_senti.parsing import parse_config, read_config, write_yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block.replace("\\\n", "") for block in re.findall(r"```(?:bash|sh)\n(.*?)```", README, re.DOTALL)]
COMMANDS = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


def test_the_two_commands_stand_on_the_first_screen():
    screen = "\n".join(README.splitlines()[:40])
    assert 'python -m pip install -e ".[demo]" && python train.py --config configs/tweets.yaml' in screen
    assert 'python -m pip install -e ".[test]" && python -m pytest' in screen


def test_ci_takes_both_commands_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    greps = [line for line in script.splitlines() if "grep -m1" in line]
    found = subprocess.run(
        ["bash", "-ec", "\n".join(greps) + '\necho "$demo"\necho "$test"'], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    assert found == [
        'python -m pip install -e ".[demo]" && python train.py --config configs/tweets.yaml',
        'python -m pip install -e ".[test]" && python -m pytest -n 2 --dist loadfile',
    ]
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train.py" in c])
def test_every_train_command_parses(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    (tmp_path / "config.yaml").write_text(write_yaml(read_config("configs/tweets.yaml")))  # what --resume reads
    assets = tmp_path / "saved_model" / "assets"  # what --init_from reads of a run, before its weights
    assets.mkdir(parents=True)
    (assets / "config.yaml").write_text(write_yaml(read_config("configs/tweets.yaml")))
    words = shlex.split(command.replace("logs/tweets/<run>", str(tmp_path)).split("&&")[-1], comments=True)
    try:
        parse_config(words[words.index("train.py") + 1 :])
    except SystemExit as end:  # --help, --print_config
        assert end.code == 0


def test_the_command_that_finds_faults_parses():
    (command,) = [command for command in COMMANDS if "keras_senti.faults" in command]
    words = shlex.split(command, comments=True)
    assert words[:3] == ["python", "-m", "keras_senti.faults"] and words[-2:] == ["--out", "faults.csv"]
    assert parse_config(words[3:-2]).data.source == "tweets"


def test_the_settings_shown_are_settings(tmp_path):
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "config.yaml").write_text(shown)
    config = parse_config(["--config", str(tmp_path / "config.yaml"), "--data.source", "tweets"])
    assert config.train.train_from_epoch == {"embedding": 3, "recurrent_0": 2}


@pytest.mark.parametrize("command", [c for c in COMMANDS if "evaluate.py" in c])
def test_every_evaluate_command_runs(command, trained_run, tiny_csv, tmp_path, monkeypatch, capsys):
    run_dir = shutil.copytree(trained_run, tmp_path / "run")
    words = shlex.split(
        re.sub("logs/tweets/<(run|other)>", str(run_dir), command).replace("more.csv", str(tiny_csv)), comments=True
    )
    monkeypatch.setattr(sys, "argv", words[1:])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(words[1], run_name="__main__")
    shown = capsys.readouterr()
    expected = "speaks for" if "--explain" in words else "probability_positive" if "--text" in words else "accuracy"
    assert not ended.value.code and expected in shown.out, shown.err


def test_every_file_that_is_linked_exists():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_python_example_runs(trained_run, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (code,) = [block for block in blocks if "keras_senti.load" in block]
    code = re.sub(r'"logs/tweets/<run>"', repr(str(trained_run)), code)
    scope = {}
    exec(code, scope)
    assert list(scope["table"])[:2] == ["text", "label"]
    assert keras_senti.__version__ in (ROOT / "CHANGELOG.md").read_text()
