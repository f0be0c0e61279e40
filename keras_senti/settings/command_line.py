"""Settings from the command line, which wins over a file."""

import dataclasses
import itertools
import json
import os
from pathlib import Path

import yaml

from keras_senti.errors import UserError, require, suggest
from keras_senti.settings.inherit import check_inherited, find_model_dir, read_model_settings
from keras_senti.settings.portable import resolve_paths
from keras_senti.settings.schema import Config, check_source
from keras_senti.settings.yaml_file import (
    check_stop_words,
    explain_errors,
    is_known,
    list_keys,
    make_config,
    make_parser,
    read_yaml_file,
    write_commented,
)
from keras_senti.settings.yaml_text import check_value, parse_yaml, read_text


def parse_config(argv: list[str]) -> Config:
    """Turns command-line arguments (without the program's name) into a checked Config.

    `--help` and `--print_config` print and end the program, as usual.

    Raises:
        UserError: for an unknown key (with the nearest name), a wrong type, value or file.
    """
    _check_option_names(argv)
    resume, argv = _take_option(argv, "--resume", "folder", "logs/tweets/2026-01-31T12-00-00Z")
    if resume is not None:
        argv = [*_arguments_of_run(resume, argv), *argv]
    file, argv = _take_option(argv, "--config", "file", "configs/tweets.yaml")
    if file is not None:
        read_yaml_file(file)
        argv = ["--config", file, *argv]  # in front, so that everything on the command line overrides it
    show = "--print_config" in argv
    argv = [word for word in argv if word != "--print_config"]
    parser = make_parser()
    model_dir = None if resume else _find_value("init_from", argv)
    if model_dir:
        model_dir = find_model_dir(model_dir)
        model_settings = read_model_settings(model_dir, _find_value("task", argv))
        parser.set_defaults(model_settings)
    with explain_errors():
        config = make_config(parser, parser.parse_args(argv))
        if resume is not None:
            check_stop_words(config, file)
        if model_dir:
            check_inherited(resolve_paths(config), model_settings)
        require(config.resume is None, "resume", config.resume, "it on the command line: --resume RUN_DIR")
        config = dataclasses.replace(config, resume=resume, init_from=model_dir if model_dir else config.init_from)
        if not show:
            check_source(config)
    if show:
        print(write_commented(config), end="")
        raise SystemExit(0)
    return config


def to_arguments(values: dict) -> list[str]:
    """Returns command-line arguments that set these keys."""
    words = ((f"--{key}", v if isinstance(v, str) else json.dumps(v)) for key, v in values.items())
    return list(itertools.chain.from_iterable(words))


def _find_value(name: str, argv: list[str]) -> str | None:
    """Returns the value of init_from or task, which decide the defaults of other settings, before they are parsed."""
    found = None
    for word, following in zip(argv, [*argv[1:], None]):
        if word == "--config" or word.startswith("--config="):
            file = following if word == "--config" else word.removeprefix("--config=")
            found = parse_yaml(read_text(file)).get(name)
    for word, following in zip(argv, [*argv[1:], None]):  # the command line wins
        if word == f"--{name}" or word.startswith(f"--{name}="):
            found = following if word == f"--{name}" else word.removeprefix(f"--{name}=")
    return None if found in (None, "null") else str(found)


def _take_option(argv: list[str], name: str, what: str, example: str) -> tuple[str | None, list[str]]:
    """Returns the value of an option, None where it is not given, and the other words."""
    values, rest, words = [], [], iter(argv)
    for word in words:
        if word == name:
            values.append(next(words, ""))
        elif word.startswith(f"{name}="):
            values.append(word.partition("=")[2])
        else:
            rest.append(word)
    if "" in values:
        raise UserError(f"{name}: received no {what} name. Give one: {name} {example}")
    if len(values) > 1:
        raise UserError(f"{name}: received twice, expected one {what}.")
    return (values[0] if values else None), rest


def _arguments_of_run(run_dir: str, argv: list[str]) -> list[str]:
    """Returns the arguments that read the settings of a run which is resumed; checks what else was given."""
    for name in (word[2:].partition("=")[0] for word in argv if word.startswith("--")):
        if name not in ("train.epochs", "help") and not name.startswith("device."):
            raise UserError(
                f"--{name}: a resumed run keeps its settings. Beside --resume only --train.epochs and --device.* "
                "can be given; leave this one out, or start a new run."
            )
    file = Path(run_dir) / "config.yaml"
    if not os.path.isfile(file):
        raise UserError(
            f"--resume: {run_dir} is not a run folder (no config.yaml). Expected one such as "
            "logs/tweets/2026-01-31T12-00-00Z."
        )
    return ["--config", str(file)]


def _check_option_names(argv: list[str]):
    for word in argv:
        name, _, value = word[2:].partition("=")
        try:
            check_value(value if word.startswith("--") else word)
        except yaml.YAMLError as error:
            raise UserError(f"{word if len(word) < 100 else word[:100] + ' ...'}: not valid YAML: {error}.") from None
        if word.startswith("--print_config="):
            raise UserError(f"--print_config takes no value, received '{word}'.")
        sections = [f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)]
        if word.startswith("--") and name in sections:
            keys = [f"--{key}" for key in list_keys() if key.startswith(f"{name}.")]
            raise UserError(f"--{name} is a section, expected one of its keys: {', '.join(keys)}.")
        if word.startswith("--") and not is_known(name) and name not in ("config", "help", "print_config"):
            raise UserError(f"unknown option '--{name}'.{suggest(name, list_keys())} `--help` lists every key.")
