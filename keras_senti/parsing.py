"""Settings from a YAML file and the command line, and back.

A file holds only what differs from the defaults in `config`. Any key can be given on the command line with its dotted
name (`--model.units 64`), and the command line wins over the file wherever it stands.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import stat
import sys
import textwrap
import threading
from pathlib import Path

import docstring_parser
import jsonargparse
import yaml

from keras_senti.config import BOOLEAN_LABEL, Config, DataConfig, UserError, check_source, require, suggest
from keras_senti.folders import check_file, find_model

_NOT_INHERITED = ("extend_vocabulary", "word_vectors", "embedding_trainable")  # by init_from
# Nor are these from a language model, which reads whole documents and has no pooling.
_NOT_FROM_ENCODER = ("sequence_length", "truncate", "pooling")
MOST_YAML = 200_000  # bytes of a file, and as much written out, with aliases; our longest config has 3,000
MOST_YAML_LEVELS = 20
MOST_MESSAGE = 1000  # characters: jsonargparse's may hold a whole file
MOST_STOP_WORDS = (5_000, 50_000)  # words, and bytes of their file, which a config can hold however it writes them


class _Refused(yaml.YAMLError):
    """YAML that would take much memory, or loses something."""


class _Loader(yaml.SafeLoader):
    """Refuses what would take much memory or lose a key, before anything is built from it.

    A small file can be huge written out: an alias may stand for a list of aliases, and so on. The same in a text, which
    jsonargparse reads as YAML once more if it expects a number or a list.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self.level, self.written, self.sizes = 0, 0, {}

    def compose_node(self, parent, index):
        is_alias, before, self.level = self.check_event(yaml.AliasEvent), self.written, self.level + 1
        line = self.peek_event().start_mark.line + 1
        if self.level > MOST_YAML_LEVELS:
            raise _Refused(f"line {line}: more than {MOST_YAML_LEVELS} levels")
        node = super().compose_node(parent, index)
        self.level -= 1
        if is_alias and id(node) not in self.sizes:
            raise _Refused(f"line {line}: an alias of what it stands in")
        self.written += self.sizes[id(node)] if is_alias else 10  # some bytes for what is around each node
        self.written += len(node.value) if isinstance(node, yaml.ScalarNode) and not is_alias else 0
        if self.written > MOST_YAML:
            raise _Refused(f"line {line}: more than {MOST_YAML:,} bytes, with its aliases written out")
        self.sizes[id(node)] = self.written - before
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        elif isinstance(node, yaml.ScalarNode) and not is_alias:
            check_value(node.value)
        return node

    def _check_keys(self, node: yaml.MappingNode):
        seen = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            names = {key.value}
            if key.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
                names.add(self.construct_object(key))  # 1 and 1.0 are one key of a dictionary
            line = key.start_mark.line + 1
            for name in names:
                if name in seen:
                    raise _Refused(
                        f"'{key.value}' stands twice, in line {seen[name]} and in line {line}. Make one of both"
                    )
            seen |= dict.fromkeys(names, line)


def read_text(path) -> str:
    """Reads a small UTF-8 file, such as a config: a regular one, as a pipe would be waited for, or never end.

    Raises:
        OSError: if it is none, too large or cannot be read. UnicodeDecodeError: if it is not UTF-8.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")
    with open(path, "rb") as file:
        content = file.read(MOST_YAML + 1)
    if len(content) > MOST_YAML:
        raise OSError(f"larger than {MOST_YAML:,} bytes")
    return content.decode("utf-8-sig")


def parse_yaml(text: str):
    """Returns what a YAML text says.

    Raises:
        yaml.YAMLError: if it is none, is too large or deep written out, or a key stands twice in one mapping.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # PyYAML's own of 2024-13-45, of a number of 5,000 digits, of !!int ""
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None


def check_value(text: str):
    """Raises a yaml.YAMLError if a text is YAML that `parse_yaml` refuses; any other text is none of its business."""
    if not {"[", "{", "*"}.isdisjoint(text):
        try:
            parse_yaml(text)
        except _Refused:
            raise
        except yaml.YAMLError:
            pass


def list_keys(cls=Config, prefix: str = "") -> list[str]:
    """Returns every dotted key, e.g. "model.units", in the order of this file."""
    keys = []
    for item in dataclasses.fields(cls):
        section = dataclasses.is_dataclass(item.type)
        keys += list_keys(item.type, f"{prefix}{item.name}.") if section else [prefix + item.name]
    return keys


class _Parser(jsonargparse.ArgumentParser):
    def parse_path(self, path, **options):
        """Reads a file. jsonargparse would go to its folder meanwhile, and take all other threads there too."""
        return self.parse_string(read_text(path), path=os.path.basename(path), **options)


def parse_config(argv: list[str], is_stored: bool = False) -> Config:
    """Turns command-line words (without the program's name) into a checked Config.

    `--help` and `--print_config` print and end the program, as usual.

    Args:
        is_stored: the words name the config.yaml of a run, which says everything and may outlive `init_from` and its
            data.

    Raises:
        UserError: for an unknown key (with the nearest name), a wrong type, value or file.
    """
    _check_option_names(argv)
    resume, argv = _take_option(argv, "--resume", "folder", "logs/tweets/2026-01-31T12-00-00Z")
    if resume is not None:
        argv = [*_words_of_run(resume, argv), *argv]
    file, argv = _take_option(argv, "--config", "file", "configs/tweets.yaml")
    if file is not None:
        _check_file(file)
        argv = ["--config", file, *argv]  # in front, so that everything on the command line overrides it
    show = "--print_config" in argv
    argv = [word for word in argv if word != "--print_config"]
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(
        prog="train.py",
        description="Trains, scores and exports a sentiment classifier.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with what differs from the defaults.")
    parser.add_class_arguments(Config, as_group=True)
    model_dir = None if is_stored or resume else _find_value("init_from", argv)
    if model_dir:
        model_dir = _find_model(model_dir)
        model_settings = _read_model_settings(model_dir, _find_value("task", argv))
        parser.set_defaults(model_settings)
    try:
        values = parser.parse_args(argv)
        values.pop("config")
        config = Config(**vars(parser.instantiate(values)))
        if is_stored or resume is not None:
            _check_stored(config, file)
        if model_dir:
            _check_inherited(settle(config), model_settings)
        require(config.resume is None, "resume", config.resume, "it on the command line: --resume RUN_DIR")
        config = dataclasses.replace(config, resume=resume, init_from=model_dir if model_dir else config.init_from)
        if not show and not is_stored:
            check_source(config)
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(f"settings: {_plain(str(error))}") from None
    if show:
        print(_write_commented(config), end="")
        raise SystemExit(0)
    return config


def make_words(values: dict) -> list[str]:
    """Returns command-line words that set these keys."""
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


def _read_model_settings(model_dir: str, task: str | None) -> dict:
    """Returns the settings that a model hands down to what is trained further from it, by dotted key.

    Args:
        model_dir: as `init_from` says. task: of the new run; None: the default.
    """
    model = read_config(_find_model_config(model_dir))
    is_encoder = model.task == "language_model"
    if task == "language_model" and not is_encoder:
        raise UserError(
            f"init_from: {model_dir} is a classifier, which has no weights that predict the next token, but task is "
            "language_model. Name a language model to train it further, or leave init_from out."
        )
    without = (*_NOT_INHERITED, *(_NOT_FROM_ENCODER if is_encoder else ()))
    keys = [key for key in list_keys() if key.startswith(("text.", "model.")) and key.split(".")[1] not in without]
    if task == "language_model":
        keys.append("pretrain.tie_embeddings")
    elif is_encoder:
        keys = [key for key in keys if "drop" not in key]  # its dropouts suit another task
    return {key: _get(model, key) for key in keys}


def _get(config: Config, key: str):
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _find_model_config(folder) -> Path | None:
    """Returns the config.yaml of the model that a folder is or holds, None if there is none."""
    model = find_model(folder)  # every run has a config.yaml, also one with no model
    if model is None or not os.path.lexists(file := model.settings / "config.yaml"):
        return None
    check_file(file, folder, most_mb=1)
    return file


def _find_model(model_dir: str) -> str:
    """Returns the folder that `init_from` means: itself, or the newest finished run in logs/<name>.

    Raises:
        UserError: if it is none of what can be trained further.
    """
    path = Path(model_dir)
    if _find_model_config(path):
        return model_dir
    finished = [folder for folder in path.glob("*/") if _find_model_config(folder)] if os.path.isdir(path) else []
    if finished:
        return str(max(finished, key=lambda folder: _find_model_config(folder).stat().st_mtime))
    what = "neither a finished run nor a SavedModel of ours, nor a compact folder with config.yaml and weights.npz"
    if not os.path.isdir(path):
        what = "no such folder"
    recipe = Path("configs") / f"{path.name}.yaml"
    if os.path.isfile(path / "manifest.json"):
        what = (
            "this run has neither saved_model/ nor encoder/, one of which it leaves at its end. If it was stopped, "
            f"`python train.py --resume {path}` continues it"
        )
    elif os.path.isfile(recipe):
        what += f", but {recipe} makes one: run `python train.py --config {recipe}` first"
    raise UserError(
        f"init_from: {path}: {what}. Expected a run folder such as logs/tweets/2026-01-31T12-00-00Z, its saved_model, "
        "a folder of runs (the newest finished one is taken), or a compact folder such as pretrained/imdb_encoder."
    )


def _check_inherited(config: Config, model_settings: dict):
    """Raises a ValueError that names all settings that contradict the model in init_from, weight or no weight."""
    wrong, reasons = [], {}
    for key, value in model_settings.items():
        received = _get(config, key)
        if received != value and "drop" not in key:  # dropouts act in training only
            does, why = ("was made with", "its weights mean something with its own settings only")
            if key.startswith("text."):
                does, why = ("reads text with", "text must be read as the model learned it")
            wrong.append(f"{key}: received {received!r}, but the model in init_from {does} {value!r}")
            reasons[why] = None
    if wrong:
        what = "this setting" if len(wrong) == 1 else "these settings"
        raise ValueError(f"{'; '.join(wrong)}. Leave {what} out: {', and '.join(reasons)}.")


def read_words(setting: str | list[str]) -> list[str]:
    """Returns the words of `text.stop_words`: of a file, or those in the list.

    Raises:
        UserError: if the file is missing or not UTF-8, or there is no word.
    """
    try:
        content = "\n".join(setting) if isinstance(setting, list) else read_text(setting)
    except (OSError, ValueError) as error:
        raise UserError(
            f"text.stop_words: received '{setting}', expected `english` or a UTF-8 file with one word a line ({error})."
        ) from None
    words = content.lower().replace("’", "'").split()
    if not words:
        raise UserError(f"text.stop_words: {setting} holds no word. Leave the setting out to keep all words.")
    if len(words) > MOST_STOP_WORDS[0] or len(content.encode()) > MOST_STOP_WORDS[1]:
        raise UserError(
            f"text.stop_words: received {len(words):,} words, expected at most {MOST_STOP_WORDS[0]:,}, in "
            f"{MOST_STOP_WORDS[1]:,} bytes: the settings of the run hold them. Leave rare words out."
        )
    return words


def check_settings(config: Config) -> Config:
    """Checks settings that were built in code as `parse_config` does; returns them with the folder of `init_from`.

    Raises:
        UserError: if they do not go together, or contradict the model in `init_from`.
    """
    check_source(config)
    if config.init_from is None or config.resume is not None:
        return config
    config = dataclasses.replace(config, init_from=_find_model(config.init_from))
    try:
        _check_inherited(config, _read_model_settings(config.init_from, config.task))
    except ValueError as error:
        raise UserError(f"settings: {error}") from None
    return config


def settle(config: Config) -> Config:
    """Returns the settings as a run folder keeps them: no path is relative, and stop words are there themselves.

    So a run means the same in every working directory, and needs no file but its data.
    """
    names = ("csv", "validation_csv", "test_csv", "unlabeled_csv", "cache_dir")
    data = {name: os.path.abspath(path) for name in names if (path := getattr(config.data, name))}
    words, vectors = config.text.stop_words, config.text.word_vectors
    return dataclasses.replace(
        config,
        init_from=config.init_from and os.path.abspath(config.init_from),
        data=dataclasses.replace(config.data, **data),
        text=dataclasses.replace(
            config.text,
            word_vectors=vectors and os.path.abspath(vectors),
            stop_words=words if words in (None, "english") else read_words(words),
        ),
    )


def forget_places(config: Config) -> Config:
    """Returns the settings without what names a file or folder of this machine.

    They say how a model reads and was made, and can be read by `read_config`, but train nothing by themselves.
    """
    nowhere = dict.fromkeys(("csv", "validation_csv", "test_csv", "unlabeled_csv"))
    return dataclasses.replace(
        config,
        run_dir=None,
        init_from=None,
        resume=None,
        data=dataclasses.replace(config.data, **nowhere, cache_dir=DataConfig.cache_dir),
        text=dataclasses.replace(config.text, word_vectors=None, extend_vocabulary=0),  # which goes with init_from
    )


def _write_commented(config, indent: str = "") -> str:
    """Returns the settings as YAML with the meaning of each key above it."""
    meanings = {p.arg_name: p.description for p in docstring_parser.parse_from_object(type(config)).params}
    lines = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            lines += [f"\n# {type(value).__doc__.splitlines()[0]}\n{item.name}:\n" + _write_commented(value, "  ")]
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


def read_config(path) -> Config:
    """Reads the settings that stand beside a run or a model, which may be a stranger's: they open no file.

    Raises:
        UserError: as `parse_config`.
    """
    return parse_config(["--config", str(path)], is_stored=True)


def _check_stored(config: Config, file: str):
    """Raises a ValueError if stored settings name a file of stop words, which `settle` has put in themselves."""
    if config.text.stop_words not in (None, "english") and not isinstance(config.text.stop_words, list):
        raise ValueError(
            f"{file}: text.stop_words: received {config.text.stop_words!r}, expected `english` or the words "
            "themselves: the settings of a run or a model open no other file. Write the words there, as a list."
        )


def write_yaml(config: Config) -> str:
    """Returns all settings as YAML, which `--config` reads back to an equal Config."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def _plain(message: str) -> str:
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


def _words_of_run(run_dir: str, argv: list[str]) -> list[str]:
    """Returns the words that read the settings of a run which is resumed; checks what else was given."""
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


def _check_file(name: str):
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
        raise UserError(f"{name}: not valid YAML: {_plain(str(error))}") from None
    if not isinstance(content, dict):
        received = "an empty file" if content is None else type(content).__name__
        raise UserError(f"{name}: expected `key: value` lines, received {received}.")
    for section in (f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)):
        if not isinstance(content.get(section, {}), dict):
            raise UserError(f"{name}: '{section}:' is a section: expected indented `key: value` lines below it.")
    for key in _flatten(content):
        if not _is_known(key):
            raise UserError(f"{name}: unknown key '{key}'.{suggest(key, list_keys())} `--help` lists every key.")
    if content.get("data", {}).get("label_map"):
        # After loading it is too late: 0 and an unquoted no (False) are one key of a dictionary.
        sections = {key.value: value for key, value in yaml.compose(text).value}
        label_map = {key.value: value for key, value in sections["data"].value}["label_map"]
        for key, _ in label_map.value:
            if key.tag == "tag:yaml.org,2002:bool":
                raise UserError(f"{name}: data.label_map: {BOOLEAN_LABEL.format(key.value)}")


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
        if word.startswith("--") and not _is_known(name) and name not in ("config", "help", "print_config"):
            raise UserError(f"unknown option '--{name}'.{suggest(name, list_keys())} `--help` lists every key.")


def _flatten(content: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, dict) and name in {f.name for f in dataclasses.fields(Config)}
        keys += _flatten(value, f"{name}.") if inner else [name]
    return keys


def _is_known(name: str) -> bool:
    known = list_keys()
    return name in known or name.startswith("data.label_map.") or any(k.startswith(name + ".") for k in known)


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
