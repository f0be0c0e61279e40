import importlib.util
import json
import multiprocessing
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import recurrent
import throughput

TIMES = {
    "ours_loop": [30.0, 40.0, 50.0],
    "ours_xla": [10.0, 20.0, 40.0],
    "keras_fit": [20.0, 60.0, 120.0],  # 2, 3 and 3 times ours_xla
    "keras_xla": [90.0, 90.0, 90.0],
    "matmul_limit": [5.0, 10.0, 20.0],
}


def test_a_case_is_read_from_its_name_and_padded_on_the_right_with_dropout_only():
    case = recurrent.Case.parse("T6 B3 H4 E2 dropout")
    assert case == recurrent.Case(steps=6, rows=3, units=4, inputs=2, dropout=True, bfloat16=False)
    ids, lengths, labels = case.make_rows(batches=5)
    assert ids.shape == (15, 6) and set(lengths) <= {3, 4, 5, 6} and set(labels) <= {0, 1, 2}
    assert ((ids != 0).sum(axis=1) == lengths).all() and (ids[:, :3] > 1).all()
    assert (recurrent.Case.parse("T6 B3 H4 E2").make_rows()[0] > 1).all()
    with pytest.raises(SystemExit, match="received 'H4', expected a name such as 'T100 B64 H100 E128'"):
        recurrent.Case.parse("H4")


def test_ratios_are_medians_of_paired_ratios_and_what_is_not_installed_is_null():
    result = recurrent.summarize("T6 B3 H4 E2", TIMES, "xla")
    assert (result["ours_ms"], result["ours_loop_ms"], result["ours_xla_ms"]) == (20.0, 40.0, 20.0)
    assert (result["keras_fit_ms"], result["keras_best_ms"], result["keras_best_mode"]) == (60.0, 60.0, "keras_fit")
    assert result["pytorch_ms"] is None and "pytorch" not in result["ratios"]
    assert result["ratios"]["keras_fit"] == 3.0 and result["ratios"]["matmul_limit"] == 0.5
    assert result["ratios"]["ours_loop"] == 2.0  # of 3, 2 and 1.25; of the medians it would be 2 too
    assert result["quartiles_ms"]["ours"] == [15.0, 30.0] and result["ratio_quartiles"]["keras_fit"] == [2.5, 3.0]
    assert result["fastest_ms"]["keras_best"] == 20.0
    assert json.loads(json.dumps(result)) == result


def test_the_table_shows_medians_with_quartiles_and_leaves_out_what_was_not_measured():
    table = recurrent.format_table([recurrent.summarize("T6 B3 H4 E2", TIMES, "loop")]).splitlines()
    assert table[0].startswith("| ms a step | ours | ours_loop | ours_xla | keras_fit |")
    assert table[2].startswith("| T6 B3 H4 E2 | 40.0 (35.0-45.0) | 40.0 (35.0-45.0) | 20.0 (15.0-30.0) | 60.0")
    assert table[4] == "| times ours | keras_fit | keras_best | pytorch | matmul_limit |"
    assert table[6] == "| T6 B3 H4 E2 | 1.50 (1.08-1.95) | 1.50 (1.08-1.95) |  | 0.25 (0.21-0.33) |"


class OneAtATime:
    """A thread's end of a pipe: between a request and its reply no other thread works, as Keras would not like it."""

    lock = threading.Lock()

    def __init__(self, connection):
        self.connection = connection

    def recv(self):
        request = self.connection.recv()
        self.lock.acquire()
        return request

    def send(self, reply):
        self.connection.send(reply)
        self.lock.release()


@pytest.mark.slow
def test_recurrent_measures_every_competitor_but_one_that_is_not_installed(tmp_path, monkeypatch, capsys):
    find_spec = importlib.util.find_spec  # TensorFlow and PyTorch in one process crash
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    serve = recurrent.serve  # in threads: processes would import TensorFlow once each, half a minute together
    monkeypatch.setattr(recurrent, "serve", lambda connection: serve(OneAtATime(connection)))
    threads = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=threading.Thread)
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: threads)
    file = tmp_path / "result.json"
    words = ["--cases", "T4 B4 H3 E2 dropout", "--repeats", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/recurrent.py", *words])
    recurrent.main()
    content = json.loads(file.read_text())
    assert content["command"].startswith("python benchmarks/recurrent.py --cases") and content["machine"]["cores"]
    (result,) = content["cases"]
    assert result["pytorch_ms"] is None and content["machine"]["versions"]["torch"] is None
    names = ("ours", "ours_loop", "ours_xla", "keras_fit", "keras_xla", "keras_best", "matmul_limit", "step_products")
    for name in (*names, "ours_no_dropout", "ours_gate_masks"):
        low, high = result["quartiles_ms"][name]
        assert 0 < low <= result[f"{name}_ms"] <= high, name
    assert "| T4 B4 H3 E2 dropout |" in capsys.readouterr().out


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.slow
def test_pytorch_trains():
    code = (
        "import recurrent as r\n"
        "for name in ('T4 B4 H3 E2', 'T4 B4 H3 E2 dropout'):\n"
        "    step = r.build_pytorch(r.Case.parse(name))\n"
        "    print([step() for _ in range(40)])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        losses = json.loads(line)
        assert losses[-1] < losses[0]


def test_an_epoch_is_extrapolated_from_the_timed_steps_and_counts_real_tokens():
    lengths = np.full(10 * throughput.ROWS, 5)
    rows = np.arange(throughput.ROWS)
    batches = {"ours": [rows] * 6, "script": [rows] * 6}
    ours, script = throughput.summarize_epoch(lengths, batches, {"ours": [0.5] * 6, "script": [2.0] * 6})
    assert (ours["timed_steps"], ours["steps"], ours["epoch_seconds"], script["epoch_seconds"]) == (6, 10, 5.0, 20.0)
    assert ours["tokens_per_second"] == 10 * throughput.ROWS * 5 / 5.0 and ours["times_script"] == 4.0


def test_the_timed_batches_are_of_all_lengths():
    lengths = np.random.default_rng(0).integers(1, 100, 50 * throughput.ROWS)
    plan = throughput.sample_batches(lengths, True, None)
    longest = [lengths[rows].max() for rows in throughput.sample_batches(lengths, True, 10)]
    assert len(plan) == 50 and len(longest) == 10
    assert abs(np.mean(longest) - np.mean([lengths[rows].max() for rows in plan])) < 1


def test_growth_is_measured_in_steps_of_our_model():
    entry = throughput.grow(130, 4, 3)
    assert entry["timed_steps"] == 2 and entry["step_ms"] > 0  # the third batch of the epoch has two rows only
    table = throughput.format_table("growth", [entry, {"name": "b", "reason": "none", "all": [1.0, 2.5]}])
    assert table.splitlines()[0].startswith("| growth | timed_steps | step_ms | token_us | plan_ms | epoch_seconds |")
    assert table.splitlines()[3].endswith("| none | 1 - 2.5 |")
