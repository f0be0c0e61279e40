"""YAML that costs no more memory than its text, and loses no key: it may be a stranger's."""

import os
import re
import stat

import yaml

MOST_YAML = 200_000  # bytes of a file; our longest config has 3,000
LONGEST_ALIASED = 100  # characters
MOST_MESSAGE = 1000  # characters: one of PyYAML may hold a whole file


class _Loader(yaml.SafeLoader):
    """Reads keys as the texts that are written, so that `0`, `no` and `1.0` are labels, each of them once.

    An alias stands for a short value only: one of a list of aliases, and so on, would be huge written out.
    """

    def compose_node(self, parent, index):
        is_alias, line = self.check_event(yaml.AliasEvent), self.peek_event().start_mark.line + 1
        node = super().compose_node(parent, index)
        if is_alias and not (isinstance(node, yaml.ScalarNode) and len(node.value) <= LONGEST_ALIASED):
            raise yaml.YAMLError(f"line {line}: an alias of more than a short value. Write it out")
        return node

    def construct_mapping(self, node, deep=False):
        lines = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                first = lines[key.value]
                raise yaml.YAMLError(
                    f"'{key.value}' stands twice, in line {first} and in line {line}. Make one of both"
                )
            lines[key.value] = line
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


# 1e-3, which YAML 1.1 takes for a text
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


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
    """Returns what a YAML text says; keys are texts.

    Raises:
        yaml.YAMLError: in one line, if it is none, a key stands twice in one mapping, or an alias would make it large.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # PyYAML has others of 2024-13-45, of a number of 5,000 digits, of 3,000 levels
        kind = "" if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: "
        raise yaml.YAMLError(kind + " ".join(str(error).split())[:MOST_MESSAGE]) from None
