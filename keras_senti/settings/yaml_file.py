"""Settings from a YAML file, and back."""

import dataclasses
import functools
import os
import sys
import textwrap
from pathlib import Path

import docstring_parser
import yaml

from keras_senti.errors import UserError, suggest
from keras_senti.settings.schema import SECTIONS, Config, list_settings
from keras_senti.settings.values import format_value
from keras_senti.settings.yaml_text import parse_yaml, read_text


def read_config(path) -> Config:
    """Reads the settings that stand beside a run or a model, which may be a stranger's: they open no file.

    Raises:
        UserError: for an unknown key (with the nearest name), a wrong type, value or file, or stop words in a file.
    """
    config = make_config(read_yaml_file(str(path)), path)
    words = config.text.stop_words
    if words not in (None, "english") and not isinstance(words, list):
        raise UserError(
            f"{path}: text.stop_words: received {format_value(words)}, expected `english` or a list of words: the "
            "settings of a run or a model open no other file. Write the words there."
        )
    return config


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
        content = parse_yaml(read_text(path))
    except OSError as error:
        raise UserError(f"--config: {name}: cannot be read: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        received = "an empty file" if content is None else type(content).__name__
        raise UserError(f"{name}: expected `key: value` lines, received {received}.")
    known = list_settings()
    for key, value in content.items():
        if key in SECTIONS and not isinstance(value, dict):
            raise UserError(f"{name}: '{key}:' is a section: expected indented `key: value` lines below it.")
        for full in [f"{key}.{inner}" for inner in value] if key in SECTIONS else [key]:
            if full not in known:
                full = full[:100]
                raise UserError(f"{name}: unknown key '{full}'.{suggest(full, known)} `--help` lists every key.")
    return content


def make_config(content: dict, where="settings") -> Config:
    """Returns the Config of values by section and key, all of which are known.

    Raises:
        UserError: for a value that its setting does not take.
    """
    try:
        return Config(**{key: SECTIONS[key](**value) if key in SECTIONS else value for key, value in content.items()})
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def write_yaml(config: Config) -> str:
    """Returns all settings as YAML, which `--config` reads back to an equal Config."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


@functools.cache
def read_meanings(cls) -> dict[str, str]:
    """Returns what each setting of a section means, by its name: the text under it, as one line."""
    params = docstring_parser.parse_from_object(cls).params
    return {param.arg_name: " ".join(param.description.split()) for param in params if param.description}


def write_commented(config, indent: str = "") -> str:
    """Returns the settings as YAML with the meaning of each key above it."""
    # A terminal that has no UTF-8 would show "?" in the place of a letter.
    can_show = (getattr(sys.stdout, "encoding", None) or "utf").lower().startswith("utf")
    meanings, lines = read_meanings(type(config)), []
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            lines += [f"\n# {type(value).__doc__.splitlines()[0]}\n{name}:\n" + write_commented(value, "  ")]
        else:
            comment = textwrap.fill(meanings[name], 100, initial_indent="# ", subsequent_indent="# ")
            pair = yaml.safe_dump({name: value}, allow_unicode=can_show, default_flow_style=False)
            lines.append(textwrap.indent(f"{comment}\n{pair}", indent))
    return "".join(lines)
