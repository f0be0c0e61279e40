"""Times training steps of Embedding-LSTM-Dense: ours, plain Keras, PyTorch, and what the machine allows.

    python benchmarks/recurrent.py --json benchmarks/results/recurrent.json

A step is forward, backward and update by Adam on random ids and labels, 10,000 tokens, 3 classes. A case is named by
time steps, rows, units and embedding size; `dropout` adds dropout and recurrent dropout of 0.2 and a mask (texts of T/2
to T tokens, padding on the right); `bfloat16` is ours only, against our float32. The competitors:

    ours_loop, ours_xla  layers.LSTM with that kernel; ours: the one that choose_kernel picks for a fixed shape
    keras_fit            keras.layers.LSTM through the compiled train function, which is what `fit` runs
    keras_xla            the same with use_cudnn=False and jit_compile=True; keras_best: the faster of the two
    pytorch              nn.LSTM; with a mask the state at the last token, as padding behind it changes nothing
                         (a packed sequence takes 4 times as long). It has no recurrent dropout: with `dropout` it drops
                         inputs only (one mask for all steps), so it does less work than the others
    matmul_limit         the same floating-point operations, 3 * 2 * T * B * 4H * (E + H), in products of 2048 x 2048
                         float32 matrices
    step_products        the same operations in the products in which a step of ours does them, and nothing else: those
                         in the loop one after the other, in as many parts side by side as ours, with the picked kernel.
                         What ours needs beyond it is element-wise work, Adam, and the rest of the network
    ours_no_dropout      in `dropout` cases: ours without dropout and mask
    ours_gate_masks      in `dropout` cases: ours with a dropout mask for each gate, as Keras draws them
                         (implementation=1); by default all gates share one, which is less work

Each competitor has a process of its own (see workers.py) and all threads of the machine. They take turns, in another
order in each round; one that is not installed is null. A ratio is the median over the rounds of (time of the competitor
/ time of ours in the same round). The machine must be quiet: PyTorch above all gets many times slower when something
else runs, which its quartiles tell; `fastest_ms` in the file is the fastest round of each.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import random
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from end_to_end import ROOT, describe_machine, format_markdown
from workers import Workers

sys.path.insert(0, str(ROOT))

VOCABULARY, CLASSES, PRODUCT = 10_000, 3, 2048
SHAPES = ("T100 B64 H100 E128", "T200 B64 H256 E256", "T200 B64 H512 E256")
CASES = [shape + end for shape in SHAPES for end in ("", " dropout")]
CASES += ["T100 B256 H100 E128", "T200 B128 H512 E256 bfloat16"]
# A turn is at least so many seconds of steps: one short step alone would mostly fill the caches that others emptied.
TURN_SECONDS = 0.12
COLUMNS = ("ours", "ours_loop", "ours_xla", "keras_fit", "keras_xla", "pytorch", "matmul_limit")
COLUMNS_MORE = ("step_products", "ours_no_dropout", "ours_gate_masks", "ours_float32_loop", "ours_float32_xla")


@dataclass(frozen=True)
class Case:
    steps: int
    rows: int
    units: int
    inputs: int
    dropout: bool = False
    bfloat16: bool = False

    @classmethod
    def parse(cls, name: str) -> "Case":
        found = re.fullmatch(r"T(\d+) B(\d+) H(\d+) E(\d+)( dropout)?( bfloat16)?", name)
        if not found:
            raise SystemExit(f"--cases: received '{name}', expected a name such as '{CASES[0]}' or '{CASES[1]}'.")
        return cls(*(int(size) for size in found.groups()[:4]), bool(found[5]), bool(found[6]))

    def make_rows(self, batches: int = 4):
        """Returns ids (rows, T) int32, lengths (rows,) and labels (rows,) int64 of a few batches."""
        rng, rows = np.random.default_rng(0), batches * self.rows
        ids = rng.integers(2, VOCABULARY, (rows, self.steps), dtype=np.int32)
        lengths = rng.integers((self.steps + 1) // 2, self.steps + 1, rows)
        if self.dropout:
            ids[np.arange(self.steps) >= lengths[:, None]] = 0
        return ids, lengths, rng.integers(0, CLASSES, rows)


def list_competitors(case: Case) -> dict[str, tuple]:
    """Returns by name what builds the competitor in its process, and its arguments."""
    ours = {f"ours_{kernel}": (build_keras, case, kernel) for kernel in ("loop", "xla")}
    limit = {"matmul_limit": (build_products, case)}
    if case.bfloat16:
        float32 = replace(case, bfloat16=False)
        return ours | {f"ours_float32_{k}": (build_keras, float32, k) for k in ("loop", "xla")} | limit
    others = {
        "keras_fit": (build_keras, case, "keras"),
        "keras_xla": (build_keras, case, "keras_xla"),
        "pytorch": (build_pytorch, case),
        "step_products": (build_step_products, case),
    }
    if not importlib.util.find_spec("torch"):
        del others["pytorch"]
    if case.dropout:
        others["ours_no_dropout"] = (build_keras, replace(case, dropout=False), "picked")
        others["ours_gate_masks"] = (build_keras, case, "picked", 1)
    return ours | others | limit


def pick_kernel(case: Case) -> str:
    """Returns loop | xla | keras: what a run with batches of this one shape would use."""
    from keras_senti.models import kernel_choice

    settings = {"cell": "lstm", "recurrent_dropout": 0.2 * case.dropout, "few_shapes": True}
    return kernel_choice.choose_kernel(kernel_choice.find_device_kind(), settings)[0]


def build_keras(case: Case, kernel: str, implementation: int = 2):
    """Returns a function that does one training step; kernel: that of ours, keras | keras_xla for Keras' own layer."""
    import keras
    import tensorflow as tf

    from keras_senti.models.recurrent import LSTM

    arguments = {"dropout": 0.2, "recurrent_dropout": 0.2} if case.dropout else {}
    arguments["dtype"] = dtype = "mixed_bfloat16" if case.bfloat16 else "float32"
    if kernel == "keras":
        recurrent = keras.layers.LSTM(case.units, **arguments)
    elif kernel == "keras_xla":
        recurrent = keras.layers.LSTM(case.units, use_cudnn=False, **arguments)
    else:
        kernel = pick_kernel(case) if kernel == "picked" else kernel
        recurrent = LSTM(case.units, kernel=kernel, implementation=implementation, **arguments)
    model = keras.Sequential(
        [
            keras.layers.Embedding(VOCABULARY, case.inputs, mask_zero=case.dropout, dtype=dtype),
            recurrent,
            keras.layers.Dense(CLASSES, activation="softmax", dtype="float32"),
        ]
    )
    jit_compile = True if kernel == "keras_xla" else "auto"
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], jit_compile=jit_compile)
    ids, _, labels = case.make_rows()
    data = tf.data.Dataset.from_tensor_slices((ids, np.eye(CLASSES, dtype=np.float32)[labels]))
    batches = iter(data.repeat().batch(case.rows).prefetch(2))
    model.make_train_function()

    def step() -> float:
        return float(model.train_function(batches)["loss"])

    step.note = pick_kernel(case)  # which needs TensorFlow
    return step


def build_pytorch(case: Case):
    """Returns a function that does one training step."""
    import torch

    torch.set_num_threads(os.cpu_count())
    embedding = torch.nn.Embedding(VOCABULARY, case.inputs)
    lstm, head = torch.nn.LSTM(case.inputs, case.units, batch_first=True), torch.nn.Linear(case.units, CLASSES)
    optimizer = torch.optim.Adam([p for module in (embedding, lstm, head) for p in module.parameters()])
    ids, lengths, labels = (torch.from_numpy(array[: case.rows]) for array in case.make_rows())
    keep, rows = torch.full((case.rows, 1, case.inputs), 0.8), torch.arange(case.rows)

    def step():
        optimizer.zero_grad()
        x = embedding(ids)
        if case.dropout:
            last = lstm(x * (torch.bernoulli(keep) / 0.8))[0][rows, lengths - 1]
        else:
            last = lstm(x)[1][0][-1]
        loss = torch.nn.functional.cross_entropy(head(last), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def build_products(case: Case):
    """Returns a function that multiplies two matrices; see `measure` for the case's share of it."""
    import tensorflow as tf

    a, b = (tf.random.normal((PRODUCT, PRODUCT)) for _ in range(2))
    multiply = tf.function(lambda: tf.reduce_sum(tf.matmul(a, b)[0]))
    return lambda: float(multiply())


def build_step_products(case: Case):
    """Returns a function that does the products of one training step, forward and backward."""
    import tensorflow as tf

    from keras_senti.models import kernels

    parts = max(1, min(kernels.kernel_choice.count_threads(), kernels.MOST_PARTS, case.rows // kernels.PART_ROWS))
    rng, gates = np.random.default_rng(0), 4 * case.units
    # With orthonormal rows the state keeps its size through the product with it and that with its transpose.
    recurrent = tf.constant(np.linalg.qr(rng.normal(size=(gates, case.units)))[0].T, tf.float32)
    transposed, kernel = tf.transpose(recurrent), tf.random.normal((case.inputs, gates))
    sizes = [case.steps * case.rows * (i + 1) // parts - case.steps * case.rows * i // parts for i in range(parts)]
    arrays = [
        [tf.random.normal((size, width)) for width in (case.inputs, gates, case.units)] for size in sizes
    ]  # inputs, gradients of the gates and states of all steps

    def multiply(x, d_gates, h):
        before = tf.matmul(x, kernel)
        _, last = tf.while_loop(
            lambda t, h: t < case.steps,
            lambda t, h: (t + 1, tf.matmul(tf.matmul(h, recurrent), transposed)),
            (0, h[: h.shape[0] // case.steps]),
        )
        after = tf.matmul(d_gates, kernel, transpose_b=True), tf.matmul(x, d_gates, transpose_a=True)
        return [array[0, 0] for array in (before, last, *after, tf.matmul(h, d_gates, transpose_a=True))]

    if pick_kernel(case) == "xla":
        multiply = tf.function(multiply, jit_compile=True)
    step = tf.function(lambda: tf.add_n([value for part in arrays for value in multiply(*part)]))
    return lambda: float(step())


def measure(case: Case, workers: Workers, repeats: int) -> tuple[dict[str, list[float]], str]:
    """Returns (by competitor the milliseconds of a step in each round, the kernel that ours would use)."""
    competitors = list_competitors(case)
    kernel = workers.build(competitors)["ours_loop"]
    steps = {name: math.ceil(TURN_SECONDS / workers.time(name, 1)) for name in competitors}
    # Steps of the limit's process are products of PRODUCT³ multiplications and additions.
    operations = 3 * 2 * case.steps * case.rows * 4 * case.units * (case.inputs + case.units)
    scale = {"matmul_limit": operations / (2 * PRODUCT**3)}
    times = {name: [] for name in competitors}
    order = random.Random(0)
    for _ in range(repeats):
        for name in order.sample(list(competitors), len(competitors)):
            times[name].append(1000 * workers.time(name, steps[name]) * scale.get(name, 1))
    return times, kernel


def summarize(name: str, times: dict[str, list[float]], kernel: str) -> dict:
    """Returns the case's entry in the results: medians, quartiles, and medians and quartiles of paired ratios."""
    times = dict(times)
    times["ours"] = times["keras_fit" if kernel == "keras" else f"ours_{kernel}"]
    keras_modes = [mode for mode in ("keras_fit", "keras_xla") if mode in times]
    if keras_modes:
        best = min(keras_modes, key=lambda mode: np.median(times[mode]))
        times["keras_best"] = times[best]
    result = {"name": name, "ours_kernel": kernel, "keras_best_mode": best if keras_modes else None}
    shown = [*COLUMNS, "keras_best", *(column for column in COLUMNS_MORE if column in times)]
    for column in shown:
        result[f"{column}_ms"] = float(np.median(times[column])) if column in times else None
    result["quartiles_ms"] = {c: np.percentile(times[c], (25, 75)).tolist() for c in shown if c in times}
    result["fastest_ms"] = {c: min(times[c]) for c in shown if c in times}
    ratios = {c: np.divide(times[c], times["ours"]) for c in shown if c in times and c != "ours"}
    result["ratios"] = {c: float(np.median(r)) for c, r in ratios.items()}
    result["ratio_quartiles"] = {c: np.percentile(r, (25, 75)).tolist() for c, r in ratios.items()}
    return result


def format_table(results: list[dict]) -> str:
    """Returns two Markdown tables: milliseconds with quartiles, and how many times as long as ours."""
    names = [*COLUMNS, *(c for c in COLUMNS_MORE if any(f"{c}_ms" in r for r in results))]
    ratios = ["keras_fit", "keras_best", "pytorch", "matmul_limit", *names[len(COLUMNS) :]]

    def show(result, column):
        if result.get(f"{column}_ms") is None:
            return ""
        low, high = result["quartiles_ms"][column]
        return f"{result[f'{column}_ms']:.1f} ({low:.1f}-{high:.1f})"

    def show_ratio(result, column):
        if column not in result["ratios"]:
            return ""
        return "{:.2f} ({:.2f}-{:.2f})".format(result["ratios"][column], *result["ratio_quartiles"][column])

    tables = []
    for title, columns, cell in (("ms a step", names, show), ("times ours", ratios, show_ratio)):
        rows = [(result["name"], *(cell(result, column) for column in columns)) for result in results]
        tables.append(format_markdown((title, *columns), rows))
    return "\n\n".join(tables)


def list_versions() -> dict[str, str | None]:
    packages = ("tensorflow", "keras", "torch", "numpy")
    return {p: importlib.metadata.version(p) if importlib.util.find_spec(p) else None for p in packages}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="CASE", help=f"default: {CASES}")
    parser.add_argument("--repeats", type=int, default=12, metavar="N", help="rounds of each case")
    options = parser.parse_args()
    cases = [Case.parse(name) for name in options.cases]
    workers, results = Workers(), []
    for name, case in zip(options.cases, cases):
        begin = time.perf_counter()
        results.append(summarize(name, *measure(case, workers, options.repeats)))
        print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    print(format_table(results))
    if options.json:
        machine = {**describe_machine(), "versions": list_versions()}
        content = {"command": " ".join(["python", *sys.argv]), "machine": machine, "cases": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
