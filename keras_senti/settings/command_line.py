"""Settings from the command line, which wins over a file."""

import argparse
import contextlib
import dataclasses
import json
import os
import typing
from pathlib import Path

import yaml

from keras_senti.errors import UserError, suggest
from keras_senti.settings.checks import check_settings
from keras_senti.settings.inherit import find_model_dir, read_model_settings
from keras_senti.settings.schema import SECTIONS, Config, list_settings
from keras_senti.settings.values import convert
from keras_senti.settings.yaml_file import make_config, read_config, read_meanings, read_yaml_file, write_commented
from keras_senti.settings.yaml_text import parse_yaml


def parse_config(argv: list[str]) -> Config:
    """Turns command-line arguments (without the program's name) into a checked Config.

    `--help` and `--print_config` print and end the program, as usual.

    Raises:
        UserError: for an unknown key (with the nearest name), a wrong type, value or file, or settings that do not go
            together.
    """
    given = _read_options(argv)
    resume = given.pop("resume", None)
    if resume is not None:
        content = _read_resumed(resume, given)
    else:
        content = read_yaml_file(given.pop("config")) if "config" in given else {}
    show = given.pop("print_config", False)
    for key, text in given.items():
        _set_value(content, key, text)
    config = make_config(content)
    if config.resume is not None:
        raise UserError(f"resume: received {config.resume!r}, expected it on the command line: --resume RUN_DIR.")
    if config.init_from and resume is None:
        model_dir = find_model_dir(config.init_from)
        for key, value in read_model_settings(model_dir, config.task).items():
            section, name = key.split(".")
            content.setdefault(section, {}).setdefault(name, value)
        config = make_config({**content, "init_from": model_dir})
    if show:
        print(write_commented(config), end="")
        raise SystemExit(0)
    return check_settings(dataclasses.replace(config, resume=resume))


def to_arguments(values: dict) -> list[str]:
    """Returns command-line arguments that set these keys."""
    pairs = ((f"--{key}", v if isinstance(v, str) else json.dumps(v)) for key, v in values.items())
    return [argument for pair in pairs for argument in pair]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}. `--help` lists every option.")


def _read_options(argv: list[str]) -> dict[str, str]:
    """Returns the texts of the options that are given, by key."""
    parser = _make_parser()
    for name in {argument.partition("=")[0] for argument in argv if argument.startswith("--data.label_map.")}:
        parser.add_argument(name, dest=name.removeprefix("--"))
    options, others = parser.parse_known_args(argv)
    if others:
        name = others[0].partition("=")[0]
        near = suggest(name.strip("-"), list_settings())
        raise UserError(f"unknown option '{name}'.{near} `--help` lists every key.")
    given = vars(options)
    if "config" in given:
        if len(given["config"]) > 1:
            raise UserError("--config: received twice, expected one file.")
        (given["config"],) = given["config"]
    return given


def _make_parser() -> argparse.ArgumentParser:
    """Returns a parser with an option for each setting, whose help is its meaning."""
    parser = _Parser(
        prog="train.py", usage="%(prog)s [--config FILE] [--KEY VALUE ...]", allow_abbrev=False,
        description="Trains, scores and exports a sentiment classifier.", argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    parser.add_argument("--config", action="append", metavar="FILE", help="YAML file of what differs from the defaults")
    parser.add_argument("--print_config", action="store_true", help="show all settings with their meaning; end")
    groups = {name: parser.add_argument_group(f"{name}: {cls.__doc__}") for name, cls in SECTIONS.items()}
    for key, item in list_settings().items():
        section, _, name = key.rpartition(".")
        choices = typing.get_args(item.type) if typing.get_origin(item.type) is typing.Literal else ()
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        meaning = f"{read_meanings(SECTIONS.get(section, Config))[name]} (default: {json.dumps(default)})"
        metavar = "{" + ",".join(choices) + "}" if choices else name.upper()
        groups.get(section, parser).add_argument(f"--{key}", metavar=metavar, help=meaning.replace("%", "%%"))
    return parser


def _read_resumed(run_dir: str, given) -> dict:
    """Returns the settings of a run that is resumed; checks what else is given."""
    for name in given:
        if name != "train.epochs" and not name.startswith("device."):
            raise UserError(
                f"--{name}: a resumed run keeps its settings. Beside --resume only --train.epochs and --device.* "
                "can be given; leave this one out, or start a new run."
            )
    file = Path(run_dir) / "config.yaml"
    if not os.path.isfile(file):
        raise UserError(f"--resume: {run_dir} is not a run folder (no config.yaml). Expected one in logs/.")
    return dataclasses.asdict(read_config(file))


def _set_value(content: dict, key: str, text: str):
    """Puts what a text on the command line says into the settings, over those of the file."""
    setting = list_settings().get(key)  # None: a label of data.label_map
    *path, name = key.split(".", 2)
    for part in path:
        inner = content.get(part)
        content[part] = content = inner if isinstance(inner, dict) else {}
    content[name] = _read_value(key, text, setting.type if setting else str | None)


def _read_value(key: str, text: str, hint):
    """Returns the text itself where the setting takes it, otherwise what it says as YAML: null, lists, numbers."""
    if text != "null" and not (text.startswith("[") and "list" in str(hint)):
        with contextlib.suppress(TypeError):
            return convert(text, hint)
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"--{key}: not valid YAML: {error}.") from None
