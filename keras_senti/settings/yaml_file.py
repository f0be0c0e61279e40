"""Settings from a YAML file, and back."""

import contextlib
import dataclasses
import os
import sys
import textwrap
from pathlib import Path

import docstring_parser
import jsonargparse
import yaml

from keras_senti.errors import UserError, suggest
from keras_senti.settings.schema import Config
from keras_senti.settings.values import BOOLEAN_LABEL
from keras_senti.settings.yaml_text import parse_yaml, read_text

MOST_MESSAGE = 1000  # characters: jsonargparse's may hold a whole file


def list_keys(cls=Config, prefix: str = "") -> list[str]:
    """Returns every dotted key, e.g. "model.units", in the order of this file."""
    keys = []
    for item in dataclasses.fields(cls):
        section = dataclasses.is_dataclass(item.type)
        keys += list_keys(item.type, f"{prefix}{item.name}.") if section else [prefix + item.name]
    return keys


class Parser(jsonargparse.ArgumentParser):
    def parse_path(self, path, **options):
        """Reads a file. jsonargparse would go to its folder meanwhile, and take all other threads there too."""
        return self.parse_string(read_text(path), path=os.path.basename(path), **options)


def write_commented(config, indent: str = "") -> str:
    """Returns the settings as YAML with the meaning of each key above it."""
    meanings = {p.arg_name: p.description for p in docstring_parser.parse_from_object(type(config)).params}
    lines = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            lines += [f"\n# {type(value).__doc__.splitlines()[0]}\n{item.name}:\n" + write_commented(value, "  ")]
        else:
            comment = textwrap.fill(
                " ".join(meanings[item.name].split()), 100, initial_indent="# ", subsequent_indent="# "
            )
            can_show = (
                (getattr(sys.stdout, "encoding", None) or "utf").lower().startswith("utf")
            )  # else "?" would stand in its place
            pair = yaml.safe_dump({item.name: value}, allow_unicode=can_show, default_flow_style=False)
            lines.append(textwrap.indent(f"{comment}\n{pair}", indent))
    return "".join(lines)


def make_parser() -> jsonargparse.ArgumentParser:
    """Returns what turns strings and YAML into values of every setting, with its meaning as help."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = Parser(
        prog="train.py",
        description="Trains, scores and exports a sentiment classifier.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with what differs from the defaults.")
    parser.add_class_arguments(Config, as_group=True)
    return parser


@contextlib.contextmanager
def explain_errors():
    """Makes a UserError of what is raised where a value is none of its setting."""
    try:
        yield
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(f"settings: {make_plain(str(error))}") from None


def make_config(parser: jsonargparse.ArgumentParser, values) -> Config:
    """Returns the Config of parsed values."""
    values.pop("config", None)
    return Config(**vars(parser.instantiate(values)))


def read_config(path) -> Config:
    """Reads the settings that stand beside a run or a model, which may be a stranger's: they open no file.

    Raises:
        UserError: for an unknown key (with the nearest name), a wrong type, value or file, or stop words in a file.
    """
    content, parser = read_yaml_file(str(path)), make_parser()
    with explain_errors():
        config = make_config(parser, parser.parse_object(content))
        check_stop_words(config, path)
    return config


def check_stop_words(config: Config, file):
    """Raises a ValueError if stored settings name a file of stop words, which `resolve_paths` has put in themselves."""
    if config.text.stop_words not in (None, "english") and not isinstance(config.text.stop_words, list):
        raise ValueError(
            f"{file}: text.stop_words: received {config.text.stop_words!r}, expected `english` or the words "
            "themselves: the settings of a run or a model open no other file. Write the words there, as a list."
        )


def write_yaml(config: Config) -> str:
    """Returns all settings as YAML, which `--config` reads back to an equal Config."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def make_plain(message: str) -> str:
    """Puts a parser's message into one line, with type names as people write them."""
    for ugly, plain in (
        ("<class '", ""),
        ("'>", ""),
        ("typing.Literal", "one of "),
        ("Parser key ", ""),
        ("Expected a ", "expected "),
    ):
        message = message.replace(ugly, plain)
    message = " ".join(message.split())
    return message if len(message) <= MOST_MESSAGE else f"{message[:MOST_MESSAGE]} ..."


def read_yaml_file(name: str) -> dict:
    """Returns the content of a YAML file of settings, all of whose keys are known.

    Raises:
        UserError: for a file that is none, or an unknown key.
    """
    path = Path(name)
    if not os.path.exists(path):
        siblings = [str(p) for p in path.parent.glob("*.yaml")] if os.path.isdir(path.parent) else []
        raise UserError(f"--config: no such file: {name}.{suggest(name, siblings)}")
    try:
        text = read_text(path)
        content = parse_yaml(text)
    except OSError as error:
        raise UserError(f"--config: {name}: cannot be read: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not valid YAML: {make_plain(str(error))}") from None
    if not isinstance(content, dict):
        received = "an empty file" if content is None else type(content).__name__
        raise UserError(f"{name}: expected `key: value` lines, received {received}.")
    for section in (f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)):
        if not isinstance(content.get(section, {}), dict):
            raise UserError(f"{name}: '{section}:' is a section: expected indented `key: value` lines below it.")
    for key in _flatten(content):
        if not is_known(key):
            raise UserError(f"{name}: unknown key '{key}'.{suggest(key, list_keys())} `--help` lists every key.")
    if content.get("data", {}).get("label_map"):
        # After loading it is too late: 0 and an unquoted no (False) are one key of a dictionary.
        sections = {key.value: value for key, value in yaml.compose(text).value}
        label_map = {key.value: value for key, value in sections["data"].value}["label_map"]
        for key, _ in label_map.value:
            if key.tag == "tag:yaml.org,2002:bool":
                raise UserError(f"{name}: data.label_map: {BOOLEAN_LABEL.format(key.value)}")
    return content


def _flatten(content: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, dict) and name in {f.name for f in dataclasses.fields(Config)}
        keys += _flatten(value, f"{name}.") if inner else [name]
    return keys


def is_known(name: str) -> bool:
    known = list_keys()
    return name in known or name.startswith("data.label_map.") or any(k.startswith(name + ".") for k in known)
