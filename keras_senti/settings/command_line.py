"""Settings from the command line, which wins over a file."""

import argparse
import dataclasses
import itertools
import json
import os
import types
import typing
from pathlib import Path

import yaml

from keras_senti.errors import UserError, suggest
from keras_senti.settings.checks import check_settings
from keras_senti.settings.inherit import find_model_dir, read_model_settings
from keras_senti.settings.schema import SECTIONS, Config, list_keys, list_settings
from keras_senti.settings.yaml_file import make_config, read_config, read_meanings, read_yaml_file, write_commented
from keras_senti.settings.yaml_text import parse_yaml

_LABELS = "data.label_map."  # of one of its keys: --data.label_map.0 negative


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message[:1].lower()}{message[1:]}. `--help` lists every option.")


def parse_config(argv: list[str]) -> Config:
    """Turns command-line arguments (without the program's name) into a checked Config.

    `--help` and `--print_config` print and end the program, as usual.

    Raises:
        UserError: for an unknown key (with the nearest name), a wrong type, value or file, or settings that do not go
            together.
    """
    given = _read_options(argv)
    resume, file = given.pop("resume", None), given.pop("config", None)
    if resume is not None:
        content = _read_resumed(resume, [*given, *(["config"] if file else [])])
    else:
        content = read_yaml_file(file) if file else {}
    show = given.pop("print_config", False)
    for key, text in given.items():
        _set_value(content, key, text)
    config = make_config(content)
    if config.resume is not None:
        raise UserError(f"resume: received {config.resume!r}, expected it on the command line: --resume RUN_DIR.")
    if config.init_from and resume is None:
        config = make_config(_inherit(content, config))
    if show:
        print(write_commented(config), end="")
        raise SystemExit(0)
    return check_settings(dataclasses.replace(config, resume=resume))


def to_arguments(values: dict) -> list[str]:
    """Returns command-line arguments that set these keys."""
    pairs = ((f"--{key}", v if isinstance(v, str) else json.dumps(v)) for key, v in values.items())
    return list(itertools.chain.from_iterable(pairs))


def _read_options(argv: list[str]) -> dict[str, str]:
    """Returns the texts of the options that are given."""
    labels = {argument.partition("=")[0] for argument in argv if argument.startswith(f"--{_LABELS}")}
    options, others = _make_parser(labels).parse_known_args(argv)
    if others:
        name = others[0].partition("=")[0]
        near = suggest(name.removeprefix("--"), list_keys()) if name.startswith("--") else ""
        raise UserError(f"unknown option '{name}'.{near} `--help` lists every key.")
    given = vars(options)
    for name in ("config", "resume"):
        if len(given.get(name, [])) > 1:
            raise UserError(f"--{name}: received twice, expected once.")
        if name in given:
            given[name] = given[name][0]
    return given


def _make_parser(labels) -> argparse.ArgumentParser:
    """Returns a parser with an option for each setting, whose help is its meaning, and for keys of data.label_map."""
    parser = _Parser(
        prog="train.py", usage="%(prog)s [--config FILE] [--KEY VALUE ...]", allow_abbrev=False,
        description="Trains, scores and exports a sentiment classifier.", argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    parser.add_argument("--config", action="append", metavar="FILE", help="YAML file of what differs from the defaults")
    parser.add_argument("--print_config", action="store_true", help="show all settings with their meaning; end")
    groups = {name: parser.add_argument_group(f"{name}: {cls.__doc__}") for name, cls in SECTIONS.items()}
    meanings = {section: read_meanings(cls) for section, cls in {"": Config, **SECTIONS}.items()}
    for key, item in list_settings().items():
        section, _, name = key.rpartition(".")
        choices = typing.get_args(item.type) if typing.get_origin(item.type) is typing.Literal else ()
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        groups.get(section, parser).add_argument(
            f"--{key}", action="append" if key == "resume" else "store",
            metavar="{" + ",".join(choices) + "}" if choices else name.upper(),
            help=f"{meanings[section][name]} (default: {json.dumps(default)})".replace("%", "%%"),
        )  # fmt: skip
    for label in sorted(labels):
        parser.add_argument(label, dest=label.removeprefix("--"), help=argparse.SUPPRESS)
    return parser


def _read_resumed(run_dir: str, others: list[str]) -> dict:
    """Returns the settings of a run that is resumed; checks what else is given."""
    for name in others:
        if name != "train.epochs" and not name.startswith("device."):
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
    return dataclasses.asdict(read_config(file))


def _set_value(content: dict, key: str, text: str):
    """Puts what a text on the command line says into the settings: over those of the file."""
    if key.startswith(_LABELS):
        data = content.setdefault("data", {})
        label_map = data.get("label_map")
        label = key.removeprefix(_LABELS)
        data["label_map"] = {**(label_map if isinstance(label_map, dict) else {}), label: _read(key, text, str | None)}
        return
    section, _, name = key.rpartition(".")
    values = content.setdefault(section, {}) if section else content
    values[name] = _read(key, text, list_settings()[key].type)


def _read(key: str, text: str, hint):
    """Returns the text itself where the setting takes texts, otherwise what it says as YAML."""
    kinds = _list_kinds(hint)
    is_null, is_list = text == "null" and types.NoneType in kinds, text.startswith("[") and list in kinds
    if not {str, typing.Literal}.isdisjoint(kinds) and not is_null and not is_list:
        return text
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"--{key}: not valid YAML: {' '.join(str(error).split())[:1000]}.") from None


def _list_kinds(hint) -> set:
    """Returns the types that a hint allows, such as {str, list, NoneType}."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Annotated:
        return _list_kinds(inner[0])
    return set().union(*map(_list_kinds, inner)) if kind in (types.UnionType, typing.Union) else {kind or hint}


def _inherit(content: dict, config: Config) -> dict:
    """Returns the settings with those of the model in init_from, where nothing else is given."""
    model_dir = find_model_dir(config.init_from)
    for key, value in read_model_settings(model_dir, config.task).items():
        section, name = key.split(".")
        content.setdefault(section, {}).setdefault(name, value)
    return {**content, "init_from": model_dir}
