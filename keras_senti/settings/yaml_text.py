"""YAML that is bounded before memory is spent on it, and loses no key."""

import os
import stat

import yaml

MOST_YAML = 200_000  # bytes of a file, and as much written out, with aliases; our longest config has 3,000
MOST_YAML_LEVELS = 20


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
