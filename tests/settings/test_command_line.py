import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_senti import errors
from keras_senti.errors import UserError, run_command, suggest
from keras_senti.settings import yaml_text
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.portable import resolve_paths
from keras_senti.settings.schema import Config, DataConfig, ModelConfig, TrainConfig, list_settings
from keras_senti.settings.yaml_file import read_config, write_yaml

ROOT = Path(__file__).parents[2]
TWEETS = ("--data.source", "tweets")


@pytest.fixture
def write_config(tmp_path):
    def write(content: str | bytes, name="settings.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def print_config(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        parse_config([*argv, "--print_config"])
    assert end.value.code == 0
    return capsys.readouterr().out


# YAML and command line


def test_a_file_holds_only_what_differs_from_the_defaults(write_config):
    path = write_config("data: {csv: reviews.csv}\nmodel:\n  units: 7\n  cell: gru\n")
    config = read_config(path)
    assert config == Config(data=DataConfig(csv="reviews.csv"), model=ModelConfig(units=7, cell="gru"))


def test_the_command_line_alone_is_enough():
    config = parse_config(["--data.csv", "reviews.csv", "--train.clip_norm", "null", "--train.learning_rate=1e-2"])
    assert config == Config(data=DataConfig(csv="reviews.csv"), train=TrainConfig(clip_norm=None, learning_rate=0.01))


def test_a_text_is_taken_as_it_stands_and_a_list_only_where_one_can_be():
    config = parse_config(["--data.csv", "[a].csv", "--text.stop_words", "[the, a]"])
    assert (config.data.csv, config.text.stop_words) == ("[a].csv", ["the", "a"])


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "FILE", "--model.units", "7"],
        ["--model.units", "7", "--config", "FILE"],
        ["--model.units=7", "--config=FILE"],
    ],
)
def test_the_command_line_wins_over_the_file_wherever_it_stands(write_config, argv):
    path = write_config("data: {source: tweets}\nmodel: {units: 9, num_layers: 2}\n")
    config = parse_config([argument.replace("FILE", path) for argument in argv])
    assert (config.model.units, config.model.num_layers) == (7, 2)


def test_a_file_with_a_byte_order_mark_is_read(write_config):
    assert read_config(write_config(b"\xef\xbb\xbfname: x\ndata: {source: tweets}\n")).name == "x"


def test_a_label_map_can_be_given_in_the_file_and_on_the_line(write_config):
    path = write_config('data:\n  csv: r.csv\n  label_map: {"no": negative, 1: positive}\n')
    assert read_config(path).data.label_map == {"no": "negative", "1": "positive"}
    argv = ["--data.csv", "r.csv", "--data.label_map", '{"0": negative, "1": positive}']
    assert parse_config(argv).data.label_map == {"0": "negative", "1": "positive"}
    argv = ["--data.csv", "r.csv", "--data.label_map.no", "negative", "--data.label_map.1", "positive"]
    assert parse_config(argv).data.label_map == {"no": "negative", "1": "positive"}


def test_null_in_a_label_map_is_kept_as_none_and_written_again(write_config):
    expected = {"1": "negative", "3": None, "5": "null"}
    path = write_config('data:\n  csv: r.csv\n  label_map: {1: negative, 3: null, 5: "null"}\n')
    assert read_config(path).data.label_map == expected
    argv = ["--data.csv", "r.csv", "--data.label_map", '{"1": negative, "3": null, "5": "null"}']
    config = parse_config(argv)
    assert config.data.label_map == expected
    assert read_config(write_config(write_yaml(config))).data.label_map == expected


# What is refused


@pytest.mark.parametrize(
    "content, message",
    [
        ("model: {unit: 9}", r"settings\.yaml: unknown key 'model\.unit'\. Did you mean 'model\.units'\? `--help`"),
        ("trian: {epochs: 9}", r"settings\.yaml: unknown key 'trian'\. Did you mean 'train\."),
        ("nmae: x", r"settings\.yaml: unknown key 'nmae'\. Did you mean 'name'\?"),
        ("3: 4", r"settings\.yaml: unknown key '3'\."),
        ("model: {units: many}", r"settings\.yaml: model\.units: received 'many', expected a whole number\."),
        ("model: {units: 1.5}", r"model\.units: received 1\.5, expected a whole number\."),
        ("model: {units: true}", r"model\.units: received True, expected a whole number\."),
        ('model: {units: "7"}', r"model\.units: received '7', expected a whole number\."),
        ("name: 5", r"settings\.yaml: name: received 5, expected a text \(in quotes\)\."),
        ("name: 2024-01-01", r"name: received datetime\.date\(2024, 1, 1\), expected a text \(in quotes\)\."),
        ("data: {label_map: {1: no}}", r"label_map: received {'1': False}, expected a text \(in quotes\), or null\."),
        (
            "model: {cell: lsmt}",
            r"model\.cell: received 'lsmt', expected one of lstm, gru, simple_rnn\. Did you mean 'lstm'\?",
        ),
        ("model: 3", r"settings\.yaml: 'model:' is a section: expected indented `key: value` lines"),
        ("model:", r"settings\.yaml: 'model:' is a section"),
        ("", r"settings\.yaml: expected `key: value` lines, received an empty file\."),
        ("- a", r"settings\.yaml: expected `key: value` lines, received list\."),
        ("a: [", r"settings\.yaml: not valid YAML: while parsing"),
        (b"# caf\xe9\nname: x", r"settings\.yaml: not valid YAML: .*0xe9"),
    ],
)
def test_a_bad_file_is_refused_by_name(write_config, content, message):
    with pytest.raises(UserError, match=message):
        read_config(write_config(content))


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--model.unit", "3"],
            r"unknown option '--model\.unit'\. Did you mean 'model\.units'\? `--help` lists every key",
        ),
        (["--model.unit=3"], r"unknown option '--model\.unit'\. Did you mean 'model\.units'\?"),
        (["--epochs", "3"], r"unknown option '--epochs'\. Did you mean 'train\.epochs'\?"),
        (["--model.units"], r"--model\.units: expected one argument"),
        (["--model.units", "many"], r"settings: model\.units: received 'many', expected a whole number\."),
        (["--train.schedule", "step"], r"train\.schedule: received 'step', expected one of constant, cosine, linear, "),
        (["--train.evaluate_test", "perhaps"], r"train\.evaluate_test: received 'perhaps', expected true or false\."),
        (["--model", "3"], r"unknown option '--model'\. Did you mean 'model\."),
        (["--print_config=yes"], r"--print_config: ignored explicit argument 'yes'"),
        (["extra"], r"unknown option 'extra'\."),
    ],
)
def test_a_bad_command_line_is_refused_by_name(argv, message):
    with pytest.raises(UserError, match=message):
        parse_config([*TWEETS, *argv])


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("data.validation_fraction", "1", "a fraction of at least 0 and below 1"),
        ("data.test_fraction", "-0.1", "a fraction of at least 0 and below 1"),
        ("data.seed", "-1", "0 to 4294967295"),
        ("text.max_tokens", "2", "at least 3"),
        ("text.sequence_length", "0", "at least 1"),
        ("model.num_layers", "0", "at least 1"),
        ("model.units", "0", "at least 1"),
        ("model.embedding_dim", "0", "at least 1"),
        ("model.conv_filters", "-1", "at least 0"),
        ("model.conv_width", "0", "at least 1"),
        ("model.dropout", "1.7", "a fraction of at least 0 and below 1"),
        ("model.recurrent_dropout", "1", "a fraction of at least 0 and below 1"),
        ("model.embedding_dropout", "-1", "a fraction of at least 0 and below 1"),
        ("train.epochs", "0", "at least 1"),
        ("train.batch_size", "0", "at least 1"),
        ("train.learning_rate", "0", "a number above 0"),
        ("train.weight_decay", "-1", "at least 0"),
        ("train.warmup_fraction", "1", "a fraction of at least 0 and below 1"),
        ("train.label_smoothing", "1", "a fraction of at least 0 and below 1"),
        ("train.clip_norm", "0", "a number above 0, or null"),
        ("train.early_stopping_patience_epochs", "0", "at least 1"),
        ("train.layer_rate_decay", "0.5", "at least 1"),
        ("train.seed", "-1", "0 to 4294967295"),
        ("device.cpu_threads", "0", "at least 1"),
        ("name", "a/b", "letters, digits, '-', '_' and '.', because it names a folder"),
        ("name", "..", "letters, digits, '-', '_' and '.', because it names a folder"),
    ],
)
def test_a_value_out_of_range_is_refused_never_clamped(key, value, expected):
    message = rf"settings: {re.escape(key)}: received '?{re.escape(value)}.*expected {re.escape(expected)}"
    with pytest.raises(UserError, match=message):
        parse_config([*TWEETS, f"--{key}", value])


@pytest.mark.parametrize("epoch", [0, 7])
def test_an_epoch_in_which_a_layer_cannot_begin_to_learn_is_refused(epoch):
    message = (
        rf"train_from_epoch\.embedding: received {epoch}, expected an epoch from 1 to train\.epochs \(6\), or null"
    )
    with pytest.raises(UserError, match=message):
        parse_config([*TWEETS, "--train.train_from_epoch", f"{{head: 1, embedding: {epoch}}}"])
    arguments = ["--train.train_from_epoch", "{head: 6, embedding: null}"]
    assert parse_config([*TWEETS, *arguments]).train.train_from_epoch == {"head": 6, "embedding": None}


def test_early_stopping_needs_something_to_go_by():
    with pytest.raises(UserError, match=r"patience_epochs: received 2, expected null with train\.monitor none"):
        parse_config([*TWEETS, "--train.monitor", "none", "--train.early_stopping_patience_epochs", "2"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_from_python_too(value):
    with pytest.raises(ValueError, match=r"model\.dropout: received (nan|inf), expected a fraction"):
        ModelConfig(dropout=value)
    with pytest.raises(ValueError, match=r"train\.learning_rate: received (nan|inf), expected a number above 0"):
        TrainConfig(learning_rate=value)
    with pytest.raises(ValueError, match=r"train\.weight_decay: received (nan|inf), expected at least 0"):
        TrainConfig(weight_decay=value)


@pytest.mark.parametrize("key", ["csv", "validation_csv", "test_csv"])
def test_a_file_beside_the_tweets_is_refused(key):
    with pytest.raises(UserError, match=rf"data\.{key}: received 'r\.csv', expected null with data\.source tweets\."):
        parse_config([*TWEETS, f"--data.{key}", "r.csv"])


def test_labels_are_read_as_they_are_written(write_config):
    labels = {"no": "negative", "0": "negative", "1": "neutral", "1.0": "positive", "true": "positive", "~": None}
    written = "{no: negative, 0: negative, 1: neutral, 1.0: positive, true: positive, ~: null}"
    assert read_config(write_config(f"data: {{csv: r.csv, label_map: {written}}}")).data.label_map == labels
    assert parse_config(["--data.csv", "r.csv", "--data.label_map", written]).data.label_map == labels


def test_labels_in_code_may_be_numbers_but_not_true_or_false():
    assert DataConfig(label_map={0: "negative", 1: None}).label_map == {"0": "negative", "1": None}
    with pytest.raises(ValueError, match=r"data\.label_map: received {False: 'a'}, expected a text \(in quotes\)"):
        DataConfig(label_map={False: "a"})
    for wrong in ({}, {"0": " "}):
        with pytest.raises(
            ValueError, match=r"data\.label_map: received .*, expected a class name \(or null\) for each"
        ):
            DataConfig(label_map=wrong)


def test_a_number_may_have_an_exponent_alone(write_config):
    assert read_config(write_config("train: {learning_rate: 1e-3}")).train.learning_rate == 0.001
    assert parse_config([*TWEETS, "--train.learning_rate", "5E-4"]).train.learning_rate == 0.0005


def test_a_config_that_is_missing_names_the_nearest_file(write_config):
    path = write_config("name: x", name="tweets.yaml")
    with pytest.raises(UserError, match=r"--config: no such file: .*tweet\.yaml\. Did you mean '.*tweets\.yaml'\?"):
        parse_config(["--config", path.replace("tweets.yaml", "tweet.yaml")])


def test_config_without_a_name_or_twice_is_refused(write_config):
    path = write_config("data: {source: tweets}")
    with pytest.raises(UserError, match="--config: expected one argument"):
        parse_config(["--config"])
    with pytest.raises(UserError, match="--config: received twice, expected one file"):
        parse_config(["--config", path, f"--config={path}"])


# Files that would cost much, or lose something


def nest_aliases(levels: int) -> str:
    """Ten aliases of ten aliases, and so on: 10 ** levels words written out."""
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels + 1))]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (nest_aliases(9), r"not valid YAML: line 2: an alias of more than a short value\. Write it out"),
        (f"name: &a {'x' * 9000}\ntext: [{'*a, ' * 30}]", r"line 2: an alias of more than a short value"),
        ("data: &a {csv: *a}", r"not valid YAML: line 1: an alias of more than a short value"),
        ("model: " + "[" * 3000, r"not valid YAML: RecursionError"),
        ("name: " + "x" * 200_000, r"settings\.yaml: cannot be read: larger than 200,000 bytes"),
        ("train: {seed: " + "9" * 5000 + "}", r"not valid YAML: ValueError: Exceeds the limit"),
        ("name: 2024-13-45", r"not valid YAML: ValueError: month must be in 1\.\.12"),
        ('name: !!int ""', r"not valid YAML: IndexError"),
    ],
    ids=["aliases", "long aliases", "itself", "levels", "bytes", "digits", "date", "tag"],
)
def test_a_file_that_is_small_but_costs_much_is_refused_in_one_line(write_config, content, message):
    with pytest.raises(UserError, match=message) as refused:
        read_config(write_config(content))
    assert len(str(refused.value)) < 1500 and "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["text.stop_words", "model.units", "train.bucket_lengths"])
def test_yaml_within_a_text_is_a_text_and_on_the_command_line_not_written_out(write_config, key):
    bomb = "[" + nest_aliases(9).replace("\n", ", ") + "]"
    section, name = key.split(".")
    for value in (f"'{bomb}'", f"""["['{bomb}']"]"""):
        if (section, value[0]) != ("text", "["):  # which is a list of one odd word
            with pytest.raises(UserError, match=rf"settings\.yaml: {key}: received .*, expected") as refused:
                read_config(write_config(f"{section}: {{{name}: {value}}}\n"))
            assert len(str(refused.value)) < 600
    for arguments in ([f"--{key}", bomb], [f"--{key}={bomb}"]):
        with pytest.raises(UserError, match=rf"--{key}: not valid YAML: line 1: an alias of more than a short value"):
            parse_config([*TWEETS, *arguments])


def test_values_that_are_deep_are_refused_in_one_line(write_config):
    for value in ("[" * 90 + "]" * 90, "{a: " * 90 + "b" + "}" * 90):
        with pytest.raises(UserError, match=r"model\.units: received .*\.\.\..*, expected a whole number") as refused:
            read_config(write_config(f"model: {{units: {value}}}"))
        assert len(str(refused.value)) < 600


def test_a_label_that_stands_twice_on_the_command_line_is_refused():
    with pytest.raises(UserError, match=r"'0' stands twice, in line 1 and in line 1"):
        parse_config(["--data.csv", "r.csv", "--data.label_map", '{"0": negative, "0": positive}'])


def test_aliases_that_cost_little_are_read(write_config):
    path = write_config("data: {source: tweets}\nmodel: {units: &size 7, embedding_dim: *size}\n")
    assert read_config(path).model == ModelConfig(units=7, embedding_dim=7)


@pytest.mark.parametrize(
    "content, key, first, second",
    [
        ("name: a\ntrain:\n  epochs: 1\nmodel: {units: 4}\ntrain:\n  batch_size: 16\n", "train", 2, 5),
        ("train:\n  epochs: 1\n\n  epochs: 2\n", "epochs", 2, 4),
        ('data:\n  label_map:\n    1: a\n    "1": b\n', "1", 3, 4),
        ("data: {label_map: {a: b,\n a: c}}\n", "a", 1, 2),
    ],
    ids=["section", "setting", "quoted", "on one line"],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(write_config, content, key, first, second):
    message = rf"settings\.yaml: not valid YAML: '{key}' stands twice, in line {first} and in line {second}\."
    with pytest.raises(UserError, match=message):
        read_config(write_config(content))


def test_only_a_regular_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(UserError, match=rf"--config: {path}: cannot be read: not a regular file"):
            parse_config(["--config", str(path)])
        with pytest.raises(UserError, match=rf"text\.stop_words: received '{path}', .*not a regular file"):
            resolve_paths(parse_config([*TWEETS, "--text.stop_words", str(path)]))


def test_no_more_stop_words_are_taken_than_a_config_can_hold(tmp_path):
    arguments = ["--text.stop_words", str(tmp_path / "words.txt")]
    for content in ("a\n" * 5001, f"{'😀' * 10}\n" * 1300):
        (tmp_path / "words.txt").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"received (5,001|1,300) words, expected at most 5,000, in 50,000 bytes"):
            resolve_paths(parse_config([*TWEETS, *arguments]))
    (tmp_path / "words.txt").write_text("😀😀\n" * 4900, encoding="utf-8")
    written = write_yaml(resolve_paths(parse_config([*TWEETS, *arguments])))
    assert (
        len(written.encode()) < yaml_text.MOST_YAML and len(yaml_text.parse_yaml(written)["text"]["stop_words"]) == 4900
    )


def test_the_settings_of_a_model_open_no_other_file(tmp_path):
    (tmp_path / "weights.npz").touch()
    (tmp_path / "words.txt").write_text("the\n")
    (tmp_path / "config.yaml").write_text(f"text: {{stop_words: {tmp_path}/words.txt}}\n")
    message = r"config\.yaml: text\.stop_words: received '.*words\.txt', expected `english` or a list of words: the "
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "config.yaml")
    with pytest.raises(UserError, match=message):
        parse_config([*TWEETS, "--init_from", str(tmp_path)])
    with pytest.raises(UserError, match=message):
        parse_config(["--resume", str(tmp_path)])
    (tmp_path / "config.yaml").write_text(f"text: {{stop_words: [the], word_vectors: {tmp_path}/nowhere.txt}}\n")
    assert parse_config([*TWEETS, "--init_from", str(tmp_path)]).text.word_vectors is None


# What is shown


def test_print_config_shows_every_key_with_its_meaning(capsys):
    lines = print_config(capsys, *TWEETS).splitlines()
    meanings = {
        "units": "# Size of a recurrent layer's state, for each direction.",
        "cell": "# Recurrent layer.",
        "source": "# once, or named by data.csv.",
    }
    for key in list_settings():
        leaf = key.rpartition(".")[2]
        at = [i for i, line in enumerate(lines) if line.strip().partition(":")[0] == leaf]
        assert at, f"{key} is not printed"
        comments = [lines[i - 1].strip() for i in at]
        assert all(c and not c.endswith(":") for c in comments), f"{key} is printed without its meaning"
        assert any(c.startswith(meanings.get(leaf, "")) for c in comments)


@pytest.mark.parametrize(
    "argv",
    [
        TWEETS,
        ("--data.csv", "my reviews: ü.csv", "--train.clip_norm", "null", "--train.learning_rate", "1e-05"),
        ("--data.csv", "r.csv", "--data.label_map", '{"1": positive, "a b": "c: d"}'),
        ("--data.csv", "r.csv", "--data.label_map", '{"no": negative, "yes": positive}'),
    ],
    ids=["tweets", "odd values", "odd words", "label no"],
)
def test_print_config_reads_back_to_an_equal_config(capsys, write_config, argv):
    printed = print_config(capsys, *argv)
    assert read_config(write_config(printed)) == parse_config(list(argv))


def test_help_lists_every_key_with_its_meaning(capsys):
    with pytest.raises(SystemExit) as end:
        parse_config(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert [key for key in list_settings() if f"--{key} " not in shown] == []
    assert "Size of a recurrent layer's state, for each direction." in shown


@pytest.mark.parametrize(
    "config",
    [
        Config(data=DataConfig(source="tweets")),
        Config(
            name="2024-01-01",
            run_dir="runs/no",
            data=DataConfig(csv="情感.csv", text_column="yes", label_column="0", label_map={"no": "off", "1": "~"}),
            train=TrainConfig(clip_norm=None, learning_rate=1e-05, early_stopping_patience_epochs=3),
        ),
    ],
    ids=["defaults", "words that YAML reads otherwise"],
)
def test_write_yaml_reads_back_to_an_equal_config(write_config, config):
    assert read_config(write_config(write_yaml(config))) == config


def test_write_yaml_leaves_other_scripts_readable():
    assert "csv: 情感.csv\n" in write_yaml(Config(data=DataConfig(csv="情感.csv")))


def test_suggest_names_the_nearest_or_nothing():
    assert suggest("pozitive", ["negative", "positive"]) == " Did you mean 'positive'?"
    assert suggest("xyz", ["negative", "positive"]) == ""


# The command


def test_a_user_error_becomes_one_message_and_exit_code_2(capsys, monkeypatch):
    def fail(argv):
        raise UserError(f"received {argv}")

    monkeypatch.setattr(errors.sys, "argv", ["train.py", "--x"])
    assert run_command(fail) == 2
    assert capsys.readouterr().err == "error: received ['--x']\n"


def test_other_ends_of_a_command_have_their_own_exit_codes(capsys, monkeypatch):
    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(errors.sys, "argv", ["train.py"])
    assert run_command(lambda argv: None) == 0
    assert run_command(stop) == 130
    assert capsys.readouterr().err == "\nstopped.\n"


SHOW = """
import sys
sys.path.insert(0, {root!r})
from tqdm import tqdm
from keras_senti.errors import UserError
from keras_senti.errors import run_command

def main(argv):
    print("很好")
    for _ in tqdm([1], desc="很好"):
        pass
    raise UserError("很好 " + argv[0])

sys.exit(run_command(main))
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_terminal_cannot_show_is_replaced(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    arguments = [sys.executable, "-c", SHOW.format(root=str(ROOT)), "不".encode()]
    done = subprocess.run(arguments, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 2 and done.stdout == b"??\n"
    assert b"Traceback" not in done.stderr and b"error: ?? " in done.stderr and b"??: 100%" in done.stderr


def test_what_is_printed_to_be_read_again_is_written_otherwise_where_it_cannot_be_shown(capsys, monkeypatch, tmp_path):
    with open(tmp_path / "my.yaml", "w", encoding="cp1252") as file, pytest.raises(SystemExit):
        monkeypatch.setattr(sys, "stdout", file)
        parse_config(["--data.csv", "情感.csv", "--print_config"])
    assert read_config(tmp_path / "my.yaml").data.csv == "情感.csv"


def test_sigterm_ends_a_command_as_ctrl_c_does_with_its_own_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(errors.sys, "argv", ["train.py"])
    cleaned = []

    def wait(argv):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            cleaned.append("as after Ctrl-C")
            raise

    assert run_command(wait) == 143 and cleaned
    assert capsys.readouterr().err == "\nstopped.\n" and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with monkeypatch.context() as patch:  # what someone else has set stays
        patch.setattr(errors.signal, "signal", lambda *_: pytest.fail("handled"))
        patch.setattr(errors.signal, "getsignal", lambda _: signal.SIG_IGN)
        assert run_command(lambda argv: None) == 0


# --resume


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "run").mkdir()
    settings = Config(data=DataConfig(source="tweets"), train=TrainConfig(epochs=3, learning_rate=0.5))
    (tmp_path / "run" / "config.yaml").write_text(write_yaml(settings))
    return str(tmp_path / "run")


@pytest.mark.parametrize("arguments", [("--resume", "{}"), ("--resume={}",)])
def test_resume_takes_the_settings_of_the_run(run_folder, arguments):
    config = parse_config([argument.format(run_folder) for argument in arguments])
    assert config.resume == run_folder and (config.train.epochs, config.train.learning_rate) == (3, 0.5)


def test_epochs_and_device_can_be_given_beside_resume(run_folder):
    config = parse_config(["--train.epochs", "7", "--resume", run_folder, "--device.cpu_threads=2"])
    assert (config.train.epochs, config.train.learning_rate, config.device.cpu_threads) == (7, 0.5, 2)


@pytest.mark.parametrize(
    "argument", ["--config=x.yaml", "--train.seed=1", "--run_dir=x", "--data.csv=x", "--print_config"]
)
def test_nothing_else_can_be_given_beside_resume(run_folder, argument):
    name = argument.split("=")[0]
    with pytest.raises(UserError, match=f"{name}: a resumed run keeps its settings. Beside --resume only"):
        parse_config(["--resume", run_folder, argument])


def test_resume_of_no_run_folder_or_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--resume: .*nowhere is not a run folder \(no config\.yaml\)"):
        parse_config(["--resume", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="--resume: expected one argument"):
        parse_config(["--resume"])


def test_resume_in_a_file_is_refused(write_config):
    with pytest.raises(UserError, match="resume: received 'logs/x', expected it on the command line"):
        parse_config(["--config", write_config("resume: logs/x\n"), *TWEETS])


@pytest.mark.parametrize("minutes", ["0", "-1", ".inf", ".nan"])
def test_checkpoint_minutes_are_above_zero(minutes):
    with pytest.raises(UserError, match="train.checkpoint_minutes: received .*, expected a number above 0"):
        parse_config([*TWEETS, "--train.checkpoint_minutes", minutes])


# --init_from


@pytest.fixture
def encoder(tmp_path):
    """A language model's weights folder, as far as settings are read from it."""
    model = "cell: gru, units: 7, bidirectional: false, pooling: max, head_dropout: 0.3, dropout: 0.2"
    folder = tmp_path / "first" / "encoder"
    folder.mkdir(parents=True)
    (folder / "weights.npz").write_text("")
    (folder / "config.yaml").write_text(
        f"task: language_model\nmodel: {{{model}}}\npretrain: {{tie_embeddings: false}}\n"
        "text: {lowercase: false, sequence_length: 70, truncate: head}\n"
    )
    return folder


def test_a_classifier_takes_over_what_makes_the_encoder_and_nothing_else(encoder):
    for path in (encoder, encoder.parent):
        config = parse_config([*TWEETS, "--init_from", str(path)])
        assert (config.task, config.text.lowercase, config.pretrain.tie_embeddings) == ("classification", False, True)
        assert (config.text.sequence_length, config.text.truncate) == (400, "tail")
        assert config.model == ModelConfig(cell="gru", units=7, bidirectional=False)


def test_what_an_encoder_does_not_have_may_be_given(encoder, write_config):
    path = write_config(
        f"init_from: {encoder}\ntext: {{sequence_length: 9, truncate: both}}\nmodel: {{pooling: mean}}\n"
    )
    config = parse_config(["--config", path, *TWEETS, "--model.weight_drop", "0.5", "--model.units", "7"])
    assert (config.text.sequence_length, config.text.truncate, config.model.pooling) == (9, "both", "mean")
    assert config.model.weight_drop == 0.5


@pytest.mark.parametrize(
    "key, value, was, does",
    [
        ("model.bidirectional", "true", "False", "was made with"),
        ("model.cell", "lstm", "'gru'", "was made with"),
        ("model.conv_filters", "3", "0", "was made with"),
        ("model.activation", "relu", "'tanh'", "was made with"),
        ("text.lowercase", "true", "False", "reads text with"),
    ],
)
def test_a_setting_that_contradicts_the_encoder_is_refused(encoder, key, value, was, does):
    message = rf"{key}: received '?{value}'?, but the model in init_from {does} {was}\. Leave this setting out: "
    with pytest.raises(UserError, match=re.compile(message, re.IGNORECASE)):
        parse_config([*TWEETS, "--init_from", str(encoder), f"--{key}", value])


def test_all_settings_that_contradict_the_model_are_listed_at_once(encoder):
    arguments = "--model.units 9 --text.lowercase true --model.cell lstm --model.weight_drop 0.1".split()
    message = (
        r"settings: text\.lowercase: received True, but the model in init_from reads text with False; "
        r"model\.cell: received 'lstm', but the model in init_from was made with 'gru'; model\.units: received 9, .* 7"
        r"\. Leave these settings out: text must be read as the model learned it, and its weights mean something with"
    )
    with pytest.raises(UserError, match=message):
        parse_config([*TWEETS, "--init_from", str(encoder), *arguments])


def test_a_language_model_that_is_trained_further_takes_over_all_that_it_has(encoder):
    arguments = [*TWEETS, "--task", "language_model", "--init_from", str(encoder)]
    config = parse_config([*arguments, "--model.dropout", "0.5"])
    assert (config.model.head_dropout, config.model.dropout, config.pretrain.tie_embeddings) == (0.3, 0.5, False)
    with pytest.raises(UserError, match=r"pretrain\.tie_embeddings: received True, but .* was made with False"):
        parse_config([*arguments, "--pretrain.tie_embeddings", "true"])
    # It reads whole texts and has no pooling: what its config says of them by chance binds nobody.
    assert (config.text.sequence_length, config.text.truncate, config.model.pooling) == (400, "tail", "concat")
    assert parse_config([*arguments, "--text.sequence_length", "80"]).text.sequence_length == 80


@pytest.mark.parametrize("folder, file", [("saved_model/assets", None), (".", "weights.npz")])
def test_a_language_model_does_not_begin_with_a_classifier(tmp_path, write_config, folder, file):
    (tmp_path / "model" / folder).mkdir(parents=True)
    (tmp_path / "model" / folder / "config.yaml").write_text("model: {units: 7}")  # a csv without its file
    if file:
        (tmp_path / "model" / file).write_text("")
    assert parse_config([*TWEETS, "--init_from", str(tmp_path / "model")]).model.units == 7
    path = write_config("task: language_model\ndata: {source: tweets}\n")
    message = "init_from: received .*model, a classifier, but task is language_model. Expected a language model; or"
    with pytest.raises(UserError, match=message):
        parse_config(["--config", path, "--init_from", str(tmp_path / "model")])


def test_a_run_that_has_left_no_model_is_to_be_resumed(run_folder):
    message = "init_from: .*run: no finished run, SavedModel of ours or weights folder. Expected a run folder"
    with pytest.raises(UserError, match=message):
        parse_config([*TWEETS, "--init_from", run_folder])
    (Path(run_folder) / "manifest.json").write_text('{"status": "running"}')
    message = r"this run has left no model\. If it was stopped, `python train\.py --resume .*run` continues it"
    with pytest.raises(UserError, match=message):
        parse_config([*TWEETS, "--init_from", run_folder])


def test_a_model_that_a_recipe_makes_is_to_be_made_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tweets_language_model.yaml").write_text("name: tweets_language_model")
    name = "tweets_language_model"
    first = rf"`python train\.py --config configs/{name}\.yaml` makes one\. Expected a run folder"
    with pytest.raises(UserError, match=rf"init_from: logs/{name}: no such folder\. {first}"):
        parse_config([*TWEETS, "--init_from", f"logs/{name}"])
    (tmp_path / "logs" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"init_from: logs/{name}: no finished run, .*folder\. {first}"):
        parse_config([*TWEETS, "--init_from", f"logs/{name}"])
    with pytest.raises(UserError, match=r"init_from: logs/other: no such folder\. Expected a run folder"):
        parse_config([*TWEETS, "--init_from", "logs/other"])


# What a run folder keeps


def test_reading_a_file_does_not_change_the_working_folder_which_is_that_of_all_threads(monkeypatch):
    monkeypatch.setattr(os, "chdir", lambda path: pytest.fail(f"os.chdir({path})"))
    assert parse_config(["--config", str(ROOT / "configs" / "document.yaml")]).name == "document"


def test_settled_settings_have_no_relative_path_and_the_stop_words_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("The\na\n")
    arguments = "--data.csv a.csv --text.stop_words words.txt --text.word_vectors v.txt --data.cache_dir /cache".split()
    arguments += "--task language_model --data.unlabeled_csv u.csv --model.bidirectional false".split()
    config = resolve_paths(parse_config(arguments))
    assert config.data.unlabeled_csv == f"{tmp_path}/u.csv"
    assert (config.data.csv, config.text.word_vectors) == (f"{tmp_path}/a.csv", f"{tmp_path}/v.txt")
    assert (config.data.cache_dir, config.data.test_csv, config.init_from) == ("/cache", None, None)
    assert config.text.stop_words == ["the", "a"]
    (tmp_path / "words.txt").unlink()
    (tmp_path / "config.yaml").write_text(write_yaml(config))
    assert resolve_paths(read_config(tmp_path / "config.yaml")) == config
    assert resolve_paths(parse_config([*arguments, "--text.stop_words", "english"])).text.stop_words == "english"
