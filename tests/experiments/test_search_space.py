"""Which settings a search may change: read, checked and tried before anything is trained."""

from pathlib import Path

import pytest

from keras_senti.errors import UserError
from keras_senti.experiments.search_space import list_combinations, read_space
from keras_senti.settings.command_line import to_arguments

ARGUMENTS = ["--data.source", "tweets"]


def read(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(path, ARGUMENTS)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs" / "search").glob("*.yaml")), ids=str)
def test_every_space_in_configs_suits_its_config(path):
    space = read_space(path, ["--config", f"configs/{path.stem}.yaml"])
    opening = path.read_text().split("\nmodel")[0]
    assert len(space) >= 5 and f"--space configs/search/{path.name}" in opening


def test_choices_ranges_steps_and_conditions_are_read(tmp_path):
    cell, units, dropout, rate = read(
        tmp_path,
        "model.cell: {choices: [lstm, gru]}\nmodel.units: {low: 8, high: 24, step: 8, if: {model.cell: lstm}}\n"
        "model.dropout: {low: 0, high: 0.4, step: 0.2}\ntrain.learning_rate: {low: 0.001, high: 0.1, log: true}\n",
    )
    assert cell.list_values() == ["lstm", "gru"] and units.list_values() == [8, 16, 24]
    assert dropout.list_values() == pytest.approx([0, 0.2, 0.4]) and rate.list_values() is None
    assert units.is_whole and not dropout.is_whole
    assert units.is_on({"model.cell": "lstm"}) and not units.is_on({"model.cell": "gru"}) and not units.is_on({})
    assert list_combinations([cell, units], "space.yaml") == [
        {"model.cell": "lstm", "model.units": 8},
        {"model.cell": "lstm", "model.units": 16},
        {"model.cell": "lstm", "model.units": 24},
        {"model.cell": "gru"},
    ]


def test_values_become_arguments_of_the_command_line():
    arguments = to_arguments(
        {"model.cell": "gru", "model.units": 3, "train.clip_norm": None, "train.bucket_lengths": [4, 8]}
    )
    assert arguments == [
        "--model.cell", "gru", "--model.units", "3", "--train.clip_norm", "null", "--train.bucket_lengths", "[4, 8]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text,message",
    [
        ("", r"received None, expected keys of the config, each with \{choices"),
        ("[1", "cannot read .*space.yaml"),
        ("model.unit: {choices: [1]}", r"unknown key 'model\.unit'\. Did you mean 'model\.units'\?"),
        ("data.seed: {choices: [1, 2]}", "'data.seed' cannot be searched: trials would not be scored on the same"),
        ("train.seed: {low: 0, high: 9}", "'train.seed' cannot be searched"),
        ("model.units: 5", r"model\.units: received 5, expected \{choices"),
        ("model.units: {low: 5}", r"expected \{choices"),
        ("model.units: {choices: []}", "expected at least one choice"),
        ("model.units: {choices: [3, 3]}", "expected each choice once"),
        ("model.units: {choices: [3], log: true}", "without log"),
        ("model.units: {low: 9, high: 9}", "expected low below high: the range is empty"),
        ("model.units: {low: 9, high: 3}", "the range is empty"),
        ("train.learning_rate: {low: '1e-3', high: 1e-2}", "expected numbers as low and high"),
        ("model.dropout: {low: 0.0, high: 0.5, log: true}", "with log: true a low above 0"),
        ("model.dropout: {low: 0.0, high: 0.5, step: 0}", "a step above 0"),
        ("model.dropout: {low: 0.0, high: 1.5}", r"model\.dropout: 1\.5 is no value for it: .*received 1\.5"),
        ("model.units: {choices: [1], if: model.cell}", "as `if` an earlier key with its values"),
        ("name: {choices: [2026-01-31]}", "'name' cannot be searched"),
        ("model.activation: {choices: [2026-01-31]}", "a date in quotes"),
        ("model.cell: {choices: [lstm, lst]}", "'lst' is no value for it"),
        ("model.units: {low: 1, high: 3, if: {model.cell: lstm}}", "keys that stand before it.*'model.cell' is none"),
        (
            "model.cell: {choices: [lstm, gru]}\nmodel.units: {low: 1, high: 3, if: {model.cell: rnn}}",
            r"in `if` values of model\.cell, which are lstm, gru",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_key_is_tried_beside_what_its_condition_names(tmp_path):
    path = tmp_path / "space.yaml"  # simple_rnn has no weight_drop
    path.write_text(
        "model.cell: {choices: [simple_rnn, lstm]}\nmodel.weight_drop: {low: 0.1, high: 0.5, if: {model.cell: lstm}}"
    )
    cell, drop = read_space(path, [*ARGUMENTS, "--model.cell", "simple_rnn"])
    assert drop.is_on({"model.cell": "lstm"})


def test_a_grid_of_steps_stays_in_its_range_and_a_huge_one_is_refused(tmp_path):
    (drop,) = read(tmp_path, "model.dropout: {low: 0.0, high: 0.3, step: 0.1}")
    assert drop.list_values() == [0.0, 0.1, 0.2, 0.3]  # 3 * 0.1 is a little more
    for text in (
        "model.units: {low: 1, high: 1000000000}",
        "model.units: {low: 1, high: 60000}\nmodel.num_layers: {low: 1, high: 2}",
    ):
        with pytest.raises(UserError, match="a grid"):
            list_combinations(read(tmp_path, text), "space.yaml")


def test_a_missing_file_and_a_grid_over_a_continuous_range_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.yaml.*Example: configs/search/tweets.yaml"):
        read_space(tmp_path / "none.yaml", ARGUMENTS)
    space = read(tmp_path, "model.dropout: {low: 0.0, high: 0.5}")
    with pytest.raises(UserError, match=r"model\.dropout: a grid cannot take all numbers from 0\.0 to 0\.5.*a step"):
        list_combinations(space, "space.yaml")
