import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_senti
from keras_senti.config import Config, DataConfig, ModelConfig, UserError
from keras_senti.parsing import list_keys, parse_config

PACKAGE = Path(keras_senti.__file__).parent


# The package


def list_imported_modules(tree: ast.AST, known: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("keras_senti.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "keras_senti":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_senti."):
            found.add(node.module.removeprefix("keras_senti."))
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"line {node.lineno}: import by full name, so that this test sees it")
    return found & known


def test_each_module_imports_only_from_modules_above_it():
    listed = re.split(r",\s", re.search(r"those above it:\n([^.]*)\.\n", keras_senti.__doc__).group(1))
    assert sorted(listed) == sorted(p.stem for p in PACKAGE.glob("*.py") if p.stem != "__init__")
    for position, module in enumerate(listed):
        imported = list_imported_modules(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8")), set(listed))
        assert imported <= set(listed[:position]), f"{module} imports {imported - set(listed[:position])} from below"


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import keras_senti, sys; print([m for m in ('tensorflow', 'keras', 'pandas', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent, timeout=60
    )
    assert run.stdout.strip() == "[]"


# Defaults and keys


def test_defaults_build_and_only_the_data_are_missing():
    assert Config(data=DataConfig(csv="reviews.csv")).train.learning_rate == 0.001
    with pytest.raises(UserError, match=r"data\.csv: received nothing.*Add --data\.csv FILE, or --data\.source tweets"):
        parse_config([])


def test_only_a_language_model_reads_texts_without_labels_and_they_are_enough_for_it():
    assert parse_config(["--task", "language_model", "--data.unlabeled_csv", "u.csv"]).data.csv is None
    with pytest.raises(
        UserError, match=r"data\.csv: received nothing.*--data\.unlabeled_csv FILE for text without lab"
    ):
        parse_config(["--task", "language_model"])
    for words in ([], ["--data.csv", "a.csv"], ["--data.source", "imdb"]):
        message = (
            r"data\.unlabeled_csv: received 'u\.csv', expected null unless task is language_model\. Leave it out, or"
        )
        with pytest.raises(UserError, match=message):
            parse_config([*words, "--data.unlabeled_csv", "u.csv"])


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().units = 3


def test_list_keys_gives_dotted_names():
    keys = list_keys()
    assert keys[:5] == ["name", "task", "run_dir", "init_from", "resume"]
    assert {"text.split", "model.units", "train.seed", "device.cpu_threads"} <= set(keys)
    assert len(keys) == len(set(keys))


def test_every_key_is_read_outside_of_config():
    owners = {"config", "settings", *(f.name for f in dataclasses.fields(Config))}
    read = set()
    for path in PACKAGE.glob("*.py"):
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            # settings.units, self.settings.units, config.train.seed; not any other object's .name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                if owner in owners:
                    read.add(node.attr)
    assert [key for key in list_keys() if key.rpartition(".")[2] not in read] == []
