"""README.md and the pages in docs/: their commands and code run or parse, and their links lead somewhere."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keras_senti
from keras_senti.cli import search, study
from keras_senti.experiments.search_space import read_space
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.yaml_file import read_config, write_yaml

ROOT = Path(__file__).parents[1]
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
README = PAGES[ROOT / "README.md"]
FENCED = r"```(?:%s)\n(.*?)```"  # a block in this language


def find_blocks(language: str) -> list[str]:
    return [block for text in PAGES.values() for block in re.findall(FENCED % language, text, re.DOTALL)]


def find_commands() -> list[str]:
    """Returns each command of all pages once, without the remark behind it."""
    lines = [line for block in find_blocks("bash|sh") for line in block.replace("\\\n", "").splitlines()]
    return list(dict.fromkeys(command for line in lines if (command := re.sub(r"(^|\s+)#.*", "", line).strip())))


COMMANDS = find_commands()
TRAIN, EVALUATE, AUDIT, STUDY, SEARCH = (
    [command for command in COMMANDS if word in command]
    for word in ("train.py", "evaluate.py", "keras_senti audit", "keras_senti study", "keras_senti search")
)


def test_every_command_is_one_that_a_test_here_takes():
    others = set(COMMANDS) - {*TRAIN, *EVALUATE, *AUDIT, *STUDY, *SEARCH}
    assert others == {
        'python -m pip install -e ".[test]" && python -m pytest -n 2 --dist loadfile',  # .ci/run runs it
        "tensorboard --logdir logs",
    }


def test_the_readme_is_short_and_no_table_in_it_is_wide():
    assert len(README.splitlines()) <= 200
    assert all(line.count("|") <= 7 for line in README.splitlines() if line.startswith("|"))


def test_the_two_commands_stand_on_the_first_screen():
    screen = "\n".join(README.splitlines()[:40])
    assert 'python -m pip install -e ".[demo]" && python train.py --config configs/tweets.yaml' in screen
    assert 'python -m pip install -e ".[test]" && python -m pytest' in screen


def test_ci_takes_both_commands_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    greps = [line for line in script.splitlines() if "grep -m1" in line]
    found = subprocess.run(
        ["bash", "-ec", "\n".join(greps) + '\necho "$demo"\necho "$test"'], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    assert found == [
        'python -m pip install -e ".[demo]" && python train.py --config configs/tweets.yaml',
        'python -m pip install -e ".[test]" && python -m pytest -n 2 --dist loadfile',
    ]
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


@pytest.mark.parametrize("command", TRAIN)
def test_every_train_command_parses(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    (tmp_path / "config.yaml").write_text(write_yaml(read_config("configs/tweets.yaml")))  # what --resume reads
    assets = tmp_path / "saved_model" / "assets"  # what --init_from reads of a run, before its weights
    assets.mkdir(parents=True)
    (assets / "config.yaml").write_text(write_yaml(read_config("configs/tweets.yaml")))
    arguments = shlex.split(command.replace("logs/tweets/<run>", str(tmp_path)).split("&&")[-1])
    try:
        parse_config(arguments[arguments.index("train.py") + 1 :])
    except SystemExit as end:  # --help, --print_config
        assert end.code == 0


def test_the_command_that_audits_labels_parses():
    (command,) = AUDIT
    arguments = shlex.split(command)
    assert arguments[:4] == ["python", "-m", "keras_senti", "audit"] and arguments[-2:] == ["--out", "audit.csv"]
    assert parse_config(arguments[4:-2]).data.source == "tweets"


def test_the_commands_of_a_study_and_a_search_parse(monkeypatch):
    monkeypatch.chdir(ROOT)
    (command,) = STUDY
    found = []
    monkeypatch.setattr(study, "run_study", lambda *arguments: found.append(arguments))
    monkeypatch.setattr(study, "format_summary", lambda result: "")
    study.main(shlex.split(command)[4:])
    ((configs, seeds, _, arguments, _),) = found
    assert list(configs) == ["tweets", "document"] and seeds == [0, 1, 2, 3, 4]
    assert arguments == ["--train.evaluate_test", "false"]
    (command,) = SEARCH
    options, arguments = search._read_options(shlex.split(command)[4:])
    assert read_space(options.space, ["--config", options.config]) and not arguments


def test_the_settings_shown_are_settings(tmp_path):
    (shown,) = find_blocks("yaml")
    (tmp_path / "config.yaml").write_text(shown)
    config = parse_config(["--config", str(tmp_path / "config.yaml"), "--data.source", "tweets"])
    assert config.train.train_from_epoch == {"embedding": 3, "recurrent_0": 2}


@pytest.mark.parametrize("command", EVALUATE)
def test_every_evaluate_command_runs(command, trained_run, tiny_csv, tmp_path, monkeypatch, capsys):
    run_dir = shutil.copytree(trained_run, tmp_path / "run")
    arguments = shlex.split(
        re.sub("logs/tweets/<(run|other)>", str(run_dir), command).replace("more.csv", str(tiny_csv))
    )
    monkeypatch.setattr(sys, "argv", arguments[1:])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(arguments[1], run_name="__main__")
    shown = capsys.readouterr()
    expected = (
        "speaks for" if "--explain" in arguments else "probability_positive" if "--text" in arguments else "accuracy"
    )
    assert not ended.value.code and expected in shown.out, shown.err


def find_anchors(text: str) -> set[str]:
    """Returns the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_anchors_are_those_of_github():
    text = "# If it was *interrupted*\n```bash\n# a remark\n```\n## Better, or luck? For `my_data`\n"
    assert find_anchors(text) == {"if-it-was-interrupted", "better-or-luck-for-my_data"}


CARDS = [*ROOT.glob("pretrained/*/README.md"), *ROOT.glob("benchmarks/results/*/README.md")]


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading_in_it(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.is_relative_to(ROOT) and file.exists(), link
        assert not anchor or anchor in find_anchors(file.read_text(encoding="utf-8")), link


def test_the_index_has_one_line_for_each_page():
    index = PAGES[ROOT / "docs" / "README.md"]
    listed = re.findall(r"^- \[[^]]+\]\(([\w-]+\.md)\): .+\.$", index, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in ROOT.glob("docs/*.md") if path.name != "README.md")


def test_pages_that_code_and_configs_name_exist():
    files = [*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("keras_senti/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    named = {name for file in files for name in re.findall(r"docs/[\w-]+\.md", file.read_text(encoding="utf-8"))}
    assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_the_python_example_of_the_readme_prints_the_answer_below_it(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code, answer = re.search(FENCED % "python" + r"\s+" + FENCED % "text", README, re.DOTALL).groups()
    exec(code, {})
    assert capsys.readouterr().out == answer


def test_the_example_of_a_run_in_python_gives_a_table(trained_run):
    (code,) = [block for block in find_blocks("python") if 'load("logs/tweets/<run>")' in block]
    scope = {}
    exec(code.replace('"logs/tweets/<run>"', repr(str(trained_run))), scope)
    assert list(scope["table"])[:2] == ["text", "label"]


def test_the_serving_example_of_the_readme_runs(trained_run, capsys):
    (code,) = [block for block in re.findall(FENCED % "python", README, re.DOTALL) if "saved_model" in block]
    exec(code.replace("logs/tweets/<run>", str(trained_run)), {})
    label, probabilities = capsys.readouterr().out.split("\n", 1)
    assert re.fullmatch(r"\[b'\w+' b'\w+'\]", label) and len(re.findall(r"\d\.\d*", probabilities)) == 6


def test_the_changelog_names_the_version():
    assert keras_senti.__version__ in (ROOT / "CHANGELOG.md").read_text()
