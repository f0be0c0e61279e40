"""The benchmarks: which commands they run, and the tables that they write."""

import json
import re
import sys

import pytest
from conftest import ROOT

from keras_senti.data.reading import load_splits
from keras_senti.data.sources import prepare_source
from keras_senti.errors import UserError
from keras_senti.settings.command_line import parse_config

sys.path.insert(0, str(ROOT / "benchmarks"))

import end_to_end
import few_labels
import hardware
import results
import what_matters

CONFIGS = {path.stem for path in (ROOT / "configs").glob("*.yaml")}


def test_every_config_has_its_row_of_costs_and_begins_with_one_before_it():
    assert set(hardware.BEGIN_WITH) == CONFIGS - {"few_labels"}  # the network of imdb_fine_tune, on a file of one's own
    names = list(hardware.BEGIN_WITH)
    for name, before in hardware.BEGIN_WITH.items():
        assert before is None or names.index(before) < names.index(name)


def test_the_page_of_costs_is_written_from_what_was_measured(tmp_path, monkeypatch):
    page = tmp_path / "hardware.md"
    page.write_text((ROOT / "docs" / "hardware.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(hardware, "PAGE", page)
    found = {"epoch_seconds": 1234.4, "epochs": 4, "tokens_per_second": 56789.0, "parameters": 2_500_000}
    rounds = [{"one process": 10.0, "two replicas": t, "two workers": 2 * t} for t in (11.0, 13.0, 12.0)]
    hardware.write_page({"configs": {"imdb": {**found, "memory_gb": 1.26}}, "replicas": {"small": rounds}})
    text = page.read_text(encoding="utf-8")
    assert "| `imdb` | 1,234 | 4 | 56,789 | 2.5 | 1.3 |" in text
    assert "| small | 10.0 | 1.20 (1.10 to 1.30) | 2.40 (2.20 to 2.60) |" in text
    assert "## Several replicas" in text and "`tweets`" not in text  # what stood there before is gone


def test_a_command_that_fails_is_shown_with_what_it_said():
    with pytest.raises(SystemExit, match="no such thing"):
        hardware.run([sys.executable, "-c", "import sys; sys.exit('no such thing')"])
    seconds, memory = hardware.run([sys.executable, "-c", "x = bytearray(200_000_000)"])
    assert seconds > 0 and memory > 0.2


def read_section(page, name: str) -> str:
    return re.search(f"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_tables_in_docs_are_those_of_the_stored_results(tmp_path, monkeypatch):
    systems = json.loads(end_to_end.RESULTS.read_text(encoding="utf-8"))
    assert read_section(end_to_end.PAGE, "results") == end_to_end.make_table(systems)
    assert read_section(end_to_end.PAGE, "datasets") == results.make_table(results.read_results())
    stored = few_labels.read_results(few_labels.RESULTS)
    assert read_section(few_labels.PAGE, "few_labels") == few_labels.make_table(stored)
    for kind, found in json.loads(what_matters.RESULTS.read_text(encoding="utf-8")).items():
        assert read_section(what_matters.PAGE, kind) == what_matters.make_table(found)
    page = tmp_path / "hardware.md"
    page.write_text(hardware.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(hardware, "PAGE", page)
    hardware.write_page(json.loads(hardware.RESULTS.read_text(encoding="utf-8")))
    for name in ("configs", "replicas"):
        assert read_section(page, name) == read_section(ROOT / "docs" / "hardware.md", name)


def test_the_table_of_the_readme_is_that_of_the_stored_results():
    rows = re.findall(r"^\| `(\w+)`: .*? \| (.+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 6
    stored = results.read_results()
    for data, row in rows:
        linear, *networks = row.split(" | ")
        shown = [stored[data][recipe]["scores"] for recipe in ("scratch", "pretrained")]
        assert networks == [f"{s['accuracy']['mean']:.3f} / {s['macro_f1']['mean']:.3f}" for s in shown]
        if found := stored[data]["scratch"]["baselines"].get("words_characters"):
            assert linear == f"{found['accuracy']:.3f} / {found['macro_f1']:.3f}"


def test_what_the_readme_says_of_few_labels_is_in_their_table():
    head, _, *rows = read_section(few_labels.PAGE, "few_labels").splitlines()
    cells = dict(
        zip(
            head.strip("| ").split(" | "),
            next(row for row in rows if row.startswith("| 100 |")).strip("| ").split(" | "),
        )
    )
    means = {name: cell.split(" ± ")[0] for name, cell in cells.items()}
    linear = max(means[few_labels.SYSTEMS[system]] for system in ("words_characters", "nb_svm"))
    said = f"pre-trained network has {means['pre-trained, then fine-tuned']}, the best linear model {linear}"
    assert said in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    for data in results.DATA:
        (tmp_path / data).mkdir()
        (tmp_path / data / "train.csv.gz").touch()
    return tmp_path


@pytest.mark.parametrize("data", results.DATA)
@pytest.mark.parametrize("recipe", ["document", "scratch", "pretrained"])
def test_every_cell_of_the_table_is_a_command_that_parses(data, recipe, folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = results.find_words(data, recipe, folder, None)
    if words is None:
        assert recipe == "pretrained" and results.DATA[data] == "reviews_zh"
        return
    config = parse_config(words)
    assert config.data.source == (data if data in ("tweets", "reviews_zh", "imdb") else "csv")
    assert (config.data.test_fraction == 0) == (config.data.source == "csv")
    assert bool(config.init_from) == (recipe == "pretrained")


def test_a_stored_command_names_no_machine_and_is_the_one_that_ran(folder):
    words = results.find_words("chnsenticorp", "pretrained", folder, str(ROOT / "logs" / "zh"))
    shown = results.forget_places(words, folder, str(ROOT / "logs" / "zh"))
    assert shown[:4] == ["--config", "configs/reviews_zh_fine_tune.yaml", "--init_from", "RUN"]
    assert "FOLDER/chnsenticorp/train.csv.gz" in shown and not [word for word in shown if word.startswith("/")]
    stored = results.read_results()
    assert stored and all("/" != word[0] for cells in stored.values() for c in cells.values() for word in c["command"])


def test_cells_that_other_processes_have_added_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    results.keep("sst2", "scratch", {"seeds": [0]})
    (tmp_path / "results.json").write_text('{"sst2": {"scratch": {"seeds": [0]}}, "imdb": {"scratch": {"seeds": [1]}}}')
    results.keep("sst2", "document", {"seeds": [2]})
    assert results.read_results() == {
        "sst2": {"scratch": {"seeds": [0]}, "document": {"seeds": [2]}},
        "imdb": {"scratch": {"seeds": [1]}},
    }


def test_a_baseline_is_added_to_all_cells_of_a_data_set_and_to_the_table(tmp_path, tiny_csv, monkeypatch):
    words = ["--data.csv", str(tiny_csv)]
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(results, "find_words", lambda *_: words)
    split = load_splits(prepare_source(parse_config(words).data)).check["split_sha256"]
    scores = {"accuracy": {"mean": 0.8, "sd": None}, "macro_f1": {"mean": 0.7, "sd": None}}
    for recipe in ("document", "scratch"):
        cell = {"seeds": [0], "failed": {}, "split_sha256": split, "scores": scores, "baselines": {}}
        results.keep("sst2", recipe, cell)
    results.add_baselines("sst2", tmp_path, ["words_characters"])
    first, second = results.read_results()["sst2"].values()
    added = first["baselines"]["words_characters"]
    assert second["baselines"] == first["baselines"]
    assert set(added) == {"accuracy", "macro_f1", "log_loss", "cpu_seconds", "machine"}
    shown = f"| sst2 |  | {added['accuracy']:.3f} / {added['macro_f1']:.3f} |  |  | 0.800 / 0.700 (1 seed) |"
    assert shown in results.make_table(results.read_results())
    with pytest.raises(UserError, match="imdb: has no cell to add baselines to. Train one first"):
        results.add_baselines("imdb", tmp_path, ["words_characters"])


def test_a_data_set_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match=r"sst2/train\.csv\.gz: not found.*or leave sst2 out"):
        results.find_words("sst2", "scratch", tmp_path, None)


def test_the_strong_linear_model_stands_beside_ours_in_every_table_on_the_same_rows():
    for data, cells in results.read_results().items():
        found = [cell["baselines"]["words_characters"] for cell in cells.values()]
        assert found and all(scores == found[0] for scores in found), data
    systems = json.loads(end_to_end.RESULTS.read_text(encoding="utf-8"))
    for data in {system["data"] for system in systems.values()}:
        first = next(system for system in systems.values() if system["data"] == data)  # whose baselines are shown
        assert "words_characters" in first["baselines"]["validation"], data
    cells = few_labels.read_results(few_labels.RESULTS)
    draws = {}
    for cell, result in cells.items():
        rows = tuple(result["settings"][name] for name in ("train_sha256", "validation_sha256"))
        draws.setdefault((cell.labels, cell.seed), {}).setdefault(rows, set()).add(cell.system)
    assert len(draws) == 15  # five numbers of labels, three seeds
    for (labels, seed), by_rows in draws.items():
        assert len(by_rows) == 1, (labels, seed)
        assert "words_characters" in next(iter(by_rows.values())) or (labels == "all" and seed)


def test_the_table_says_which_cells_were_not_run():
    scores = {"accuracy": {"mean": 0.8, "sd": 0.01}, "macro_f1": {"mean": 0.75, "sd": 0.02}}
    cell = {
        "seeds": [0, 2],
        "failed": {1: "why"},
        "split_sha256": "a",
        "scores": scores,
        "baselines": {"majority": {"accuracy": 0.5, "macro_f1": 0.3}},
    }
    table = results.make_table({"sst2": {"scratch": cell}})
    assert "| sst2 | 0.500 / 0.300 |  |  |  | not run | 0.800 / 0.750 ± 0.020 (2 of 3 seeds) | not run |" in table
    assert "| imdb |  |  |  |  | not run | not run | not run |" in table


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tweets", "imdb"])
def test_every_change_is_one_of_its_recipe(kind, monkeypatch):
    monkeypatch.chdir(ROOT)
    base = ["--config", f"configs/{kind}.yaml"]
    recipe = parse_config(base)
    found = {name: parse_config([*base, *words]) for name, words in what_matters.make_changes(kind, recipe).items()}
    assert found["half the units"].model.units == recipe.model.units / 2
    assert found["twice the epochs"].train.epochs == 2 * recipe.train.epochs
    assert found["half the rate"].train.learning_rate == recipe.train.learning_rate / 2
    assert bool(found["pairs of words" if kind == "tweets" else "no pairs of words"].model.bigram_buckets) == (
        kind == "tweets"
    )


def make_entry(*differences):
    def make_config(values):
        scores = {score: {"all": values} for score in ("accuracy", "macro_f1", "log_loss", "seconds")}
        return {"seeds": list(range(len(values))), "scores": scores, "split_sha256": "a"}

    made, after = {}, [0.5 + d for d in differences]
    what_matters.note(made, "x", ["--model.units", "32"], make_config([0.5] * len(after)), make_config(after))
    return made["x"]


def test_a_change_without_a_seed_in_common_is_left_out(capsys):
    made, config = {}, {"scores": {"seconds": {"all": [1.0]}}, "split_sha256": "a"}
    what_matters.note(made, "x", [], {**config, "seeds": [0]}, {**config, "seeds": [1]})
    assert made == {} and "x: has no seed in common" in capsys.readouterr().out


def test_changes_are_listed_from_worst_to_best_and_the_largest_go_to_imdb(tmp_path, monkeypatch):
    found = {
        "two layers": make_entry(0.01, 0.03),
        "pooling: last": make_entry(-0.05, -0.05),
        "RMSprop": make_entry(0.0),
    }
    table = what_matters.make_table(found)
    rows = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    assert rows == ["| pooling: last", "| RMSprop", "| two layers"]
    assert "| two layers | +2.0 (-10.7 to +14.7) |" in table  # t(0.975, 1) = 12.71 times 0.01
    assert "| pooling: last | -5.0 | -5.0 |" in table and "| RMSprop | +0.0 |" in table
    monkeypatch.setattr(what_matters, "LARGEST", 2)
    assert what_matters.find_largest(found) == ["pooling: last", "two layers"]
    what_matters.draw({"tweets": found, "imdb": {"two layers": make_entry(0.02, 0.01)}}).savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


@pytest.mark.slow
def test_changes_are_trained_beside_their_recipe_and_one_that_fails_does_not_hide_the_others(
    stub_trials, tmp_path, monkeypatch, capsys
):
    for name in ("RESULTS", "PICTURE", "PAGE", "RUNS"):
        monkeypatch.setattr(what_matters, name, tmp_path / name.lower())
    (tmp_path / "page").write_text("<!-- tweets -->\n<!-- /tweets -->\n")
    base = ["--config", "configs/tweets.yaml", "--train.epochs", "1"]
    made = what_matters.make_changes

    def make_changes(*arguments):
        return {**made(*arguments), "too fast": ["--train.learning_rate", "3"]}

    monkeypatch.setattr(what_matters, "make_changes", make_changes)
    results = {"tweets": {"two layers": make_entry(0.01)}}  # of an earlier start
    what_matters.measure("tweets", base, ["half the units", "too fast", "twice the units"], 2, results, 2)
    assert "too fast: study: all runs of too_fast failed" in capsys.readouterr().out
    found = json.loads((tmp_path / "results").read_text())["tweets"]
    assert set(found) == {"two layers", "half the units", "twice the units"} and found["half the units"]["seeds"] == 2
    # The stub scores 0.9 at 64 units and 0.01 less for each unit away from it.
    assert found["half the units"]["difference"]["accuracy"]["mean"] == pytest.approx(-0.32)
    assert found["twice the units"]["difference"]["accuracy"]["mean"] == pytest.approx(-0.64)
    assert "| half the units | -32.0 |" in (tmp_path / "page").read_text()
