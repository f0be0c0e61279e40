"""Which settings a search may change, and to what: a YAML file, from a key of the config to its values.

model.cell: {choices: [lstm, gru]}
model.units: {low: 16, high: 256, log: true}          # whole numbers, as both ends are
model.dropout: {low: 0.0, high: 0.5, step: 0.1}
model.weight_drop: {low: 0.0, high: 0.5, if: {model.cell: lstm}}   # only where an earlier key has this value
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from keras_senti.errors import UserError, suggest
from keras_senti.settings.command_line import parse_config, to_arguments
from keras_senti.settings.schema import list_settings
from keras_senti.settings.yaml_text import parse_yaml, read_text

# With another split, seed or task, trials would be scored on something else.
REFUSED = ("name", "task", "run_dir", "resume", "train.seed", "train.evaluate_test")
MOST_COMBINATIONS = 100_000  # of a grid
EXAMPLE = "{choices: [32, 64]}, or {low: 0.0, high: 0.5}"


@dataclass(frozen=True)
class Range:
    """The values of one key: some choices, or all numbers from low to high.

    condition: from an earlier key to the values it may have for this one to be set at all.
    """

    key: str
    choices: tuple = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    condition: dict[str, list] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def is_on(self, chosen: dict) -> bool:
        """Says whether this key is set beside what was chosen for the earlier ones."""
        return all(key in chosen and chosen[key] in values for key, values in self.condition.items())

    def list_values(self) -> list | None:
        """Returns all values, None if they are too many to be counted."""
        if self.choices:
            return list(self.choices)
        if not self.is_whole and self.step is None:
            return None
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > MOST_COMBINATIONS:
            return None
        values = (self.low + i * step for i in range(count))
        return list(values) if self.is_whole else [min(self.high, round(value, 12)) for value in values]

    def ask(self, trial):
        """Returns the value that an Optuna trial suggests."""
        if self.choices:
            # Optuna stores plain values only; others are chosen by their text.
            texts = [json.dumps(value) for value in self.choices]
            return json.loads(trial.suggest_categorical(self.key, texts))
        if self.is_whole:
            return trial.suggest_int(self.key, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)


def read_space(path, words: list[str]) -> list[Range]:
    """Reads the file and tries every choice and every end of a range on the config.

    Args:
        words: command-line words of the config that is searched from.
    Raises:
        UserError: for a missing or damaged file, a key that the config lacks or that must not change, an empty range,
            or a value that the config does not take.
    """
    path = Path(path)
    try:
        content = parse_yaml(read_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--space: cannot read {path}: {error}. Example: configs/search/tweets.yaml") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: received {content!r}, expected keys of the config, each with {EXAMPLE}.")
    space = []
    for key, entry in content.items():
        space.append(_read_range(path, str(key), entry, space))
        _try_values(path, space, words)
    return space


def _read_range(path: Path, key: str, entry, before: list[Range]) -> Range:
    keys = list_settings()
    if key not in keys:
        raise UserError(f"{path}: unknown key '{key}'.{suggest(key, keys)} `train.py --help` lists every key.")
    if key in REFUSED or key.startswith("data."):
        raise UserError(f"{path}: '{key}' cannot be searched: trials would not be scored on the same thing.")

    def fail(what: str):
        raise UserError(f"{path}: {key}: received {entry!r}, expected {what}.")

    if not isinstance(entry, dict) or not ({"choices"} <= set(entry) or {"low", "high"} <= set(entry)):
        fail(EXAMPLE)
    if extra := set(entry) - ({"choices", "if"} if "choices" in entry else {"low", "high", "log", "step", "if"}):
        fail(f"{EXAMPLE}, without {', '.join(sorted(map(str, extra)))}")
    if not isinstance(entry.get("if", {}), dict):
        fail("as `if` an earlier key with its values, such as {model.cell: lstm}")
    try:
        json.dumps(entry)
    except TypeError:
        fail("text, numbers, true, false, null, or lists of them (a date in quotes)")
    condition = {}
    for name, values in entry.get("if", {}).items():
        earlier = next((r for r in before if r.key == name), None)
        if earlier is None:
            fail(f"in `if` keys that stand before it in the file, of which '{name}' is none")
        condition[name] = values if isinstance(values, list) else [values]
        if earlier.choices and not set(map(json.dumps, condition[name])) <= set(map(json.dumps, earlier.choices)):
            fail(f"in `if` values of {name}, which are {', '.join(map(str, earlier.choices))}")
    if "choices" in entry:
        choices = entry["choices"]
        if not isinstance(choices, list) or not choices:
            fail("at least one choice in a list")
        if len({json.dumps(choice) for choice in choices}) < len(choices):
            fail("each choice once")
        return Range(key, tuple(choices), condition=condition)
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high)):
        fail("numbers as low and high")
    if low >= high:
        fail("low below high: the range is empty")
    if not isinstance(log, bool) or (log and low <= 0):
        fail("with log: true a low above 0")
    if step is not None and (log or isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step):
        fail("a step above 0, and none with log: true")
    whole = isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int))
    if not whole:
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Range(key, (), low, high, log, step, condition)


def _try_values(path: Path, space: list[Range], words: list[str]):
    """Tries the values of the last key, beside values of earlier ones with which it is on."""
    last, beside, wanted = space[-1], {}, dict(space[-1].condition)
    for earlier in reversed(space[:-1]):
        if earlier.key in wanted:
            beside[earlier.key] = wanted[earlier.key][0]
            wanted |= earlier.condition
    for value in last.choices or (last.low, last.high):
        try:
            parse_config([*words, *to_arguments({**beside, last.key: value})])
        except UserError as error:
            raise UserError(f"{path}: {last.key}: {value!r} is no value for it: {error}") from None


def list_combinations(space: list[Range], path) -> list[dict]:
    """Returns all combinations of values, those of a key that is off left out.

    Raises:
        UserError: if a range has no end of values.
    """
    combinations = [{}]
    for values in space:
        listed = values.list_values()
        if listed is None:
            raise UserError(
                f"{path}: {values.key}: a grid cannot take all numbers from {values.low} to {values.high}. Give it a "
                "step or choices, or use --sampler random or bayes."
            )
        if len(combinations) * len(listed) > MOST_COMBINATIONS:
            raise UserError(
                f"{path}: a grid of more than {MOST_COMBINATIONS:,} combinations. Leave out keys or values, or use "
                "--sampler random or bayes."
            )
        combinations = [
            {**chosen, values.key: value} if values.is_on(chosen) else chosen
            for chosen in combinations
            for value in (listed if values.is_on(chosen) else [None])
        ]
    return combinations
