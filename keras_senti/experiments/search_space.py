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


def read_space(path, arguments: list[str]) -> list[Range]:
    """Reads the file and tries every choice and every end of a range on the config.

    Args:
        arguments: of `train.py`, for the config that is searched from.
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
        try:
            space.append(_read_range(str(key), entry, space))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        _try_values(path, space, arguments)
    return space


def _read_range(key: str, entry, before: list[Range]) -> Range:
    """Raises a ValueError for what cannot be searched."""

    def expect(condition, expected: str):
        if not condition:
            raise ValueError(f"{key}: received {entry!r}, expected {expected}.")

    keys = list_settings()
    if key not in keys:
        raise ValueError(f"unknown key '{key}'.{suggest(key, keys)} `train.py --help` lists every key.")
    if key in REFUSED or key.startswith("data."):
        raise ValueError(f"'{key}' cannot be searched: trials would not be scored on the same thing.")
    expect(isinstance(entry, dict) and ("choices" in entry or {"low", "high"} <= set(entry)), EXAMPLE)
    extra = set(entry) - ({"choices", "if"} if "choices" in entry else {"low", "high", "log", "step", "if"})
    expect(not extra, f"{EXAMPLE}, without {', '.join(sorted(map(str, extra)))}")
    try:
        json.dumps(entry)
    except TypeError:
        expect(False, "text, numbers, true, false, null, or lists of them (a date in quotes)")
    condition = _read_condition(entry.get("if", {}), before, expect)
    if "choices" not in entry:
        return Range(key, **_read_numbers(entry, expect), condition=condition)
    choices = entry["choices"]
    expect(isinstance(choices, list) and choices, "at least one choice in a list")
    expect(len(set(map(json.dumps, choices))) == len(choices), "each choice once")
    return Range(key, tuple(choices), condition=condition)


def _read_condition(found, before: list[Range], expect) -> dict[str, list]:
    expect(isinstance(found, dict), "as `if` an earlier key with its values, such as {model.cell: lstm}")
    condition = {name: values if isinstance(values, list) else [values] for name, values in found.items()}
    known = {values.key: values.choices for values in before}
    for name, values in condition.items():
        expect(name in known, f"in `if` keys that stand before it in the file, of which '{name}' is none")
        is_known = not known[name] or set(map(json.dumps, values)) <= set(map(json.dumps, known[name]))
        expect(is_known, f"in `if` values of {name}, which are {', '.join(map(str, known[name]))}")
    return condition


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_numbers(entry: dict, expect) -> dict:
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    expect(_is_number(low) and _is_number(high), "numbers as low and high")
    expect(low < high, "low below high: the range is empty")
    expect(isinstance(log, bool) and (not log or low > 0), "with log: true a low above 0")
    expect(step is None or (_is_number(step) and step > 0 and not log), "a step above 0, and none with log: true")
    if not all(isinstance(value, int) for value in (low, high, step or 1)):
        low, high, step = float(low), float(high), step and float(step)
    return {"low": low, "high": high, "log": log, "step": step}


def _try_values(path: Path, space: list[Range], arguments: list[str]):
    """Tries the values of the last key, beside values of earlier ones with which it is on."""
    last, beside, wanted = space[-1], {}, dict(space[-1].condition)
    for earlier in reversed(space[:-1]):
        if earlier.key in wanted:
            beside[earlier.key] = wanted[earlier.key][0]
            wanted |= earlier.condition
    for value in last.choices or (last.low, last.high):
        try:
            parse_config([*arguments, *to_arguments({**beside, last.key: value})])
        except UserError as error:
            raise UserError(f"{path}: {last.key}: {value!r} is no value for it: {error}") from None


def list_combinations(space: list[Range], path) -> list[dict]:
    """Returns all combinations of values, those of a key that is off left out; raises a UserError for too many."""
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
