"""Times what a user waits for: an epoch over IMDB, training as data and model grow, prediction, and start-up.

    python benchmarks/throughput.py --imdb FOLDER_OR_TABLE --json benchmarks/results/throughput.json
    python benchmarks/throughput.py --imdb FOLDER_OR_TABLE --parts accuracy --json benchmarks/results/accuracy.json

epoch: the document's model (Embedding 128, LSTM 100 with dropout and recurrent dropout 0.2, Dense), 64 rows a step,
    `sequence_length` 400. The document's script is plain Keras, `fit`, every text padded to 400 tokens; ours puts texts
    of like length together. Steps of both take turns. By default not the whole epoch is timed but --steps of it: of
    ours every n-th batch by length. Tokens are real ones, without padding.
accuracy: two whole epochs of both with --seeds seeds, and the accuracies on films that are not in the train part.
growth: ours, with generated texts, as texts, tokens a text and units grow, each in a process of its own.
inference: IMDB texts in bulk, and one text of 200 tokens alone; ids in, probabilities out.
startup: seconds in a fresh process.

Competitors have processes of their own, see workers.py.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from document_model import CLASS_NAMES, LENGTH, ROWS, build_keras, read_settings
from end_to_end import describe_machine, format_markdown
from recurrent import list_versions
from throughput_inference import export_ours, time_inference, time_startup
from workers import Workers, run_alone

GROWTH = [
    *({"texts": n, "tokens": 100, "units": 64} for n in (1_000, 10_000, 100_000)),
    *({"texts": 1_000, "tokens": n, "units": 64} for n in (50, 200, 400, 800)),
    *({"texts": 1_000, "tokens": 100, "units": n} for n in (128, 256, 512, 1024)),
]


def build_ours(config, vocabulary_size: int):
    """Returns our model with the kernel that training picks, and the kernel's name."""
    from keras_senti.models import build, kernel_choice

    settings = {**vars(config.model), "few_shapes": not config.train.bucket_by_length}
    kernel = kernel_choice.choose_kernel(kernel_choice.find_device_kind(), settings)[0]
    return build.build_model(config.model, vocabulary_size, len(CLASS_NAMES), kernel), kernel


def make_batching(by_length: bool):
    from keras_senti.data.batches import Batching

    return Batching(ROWS, LENGTH, None if by_length else (LENGTH,))


def sample_batches(lengths, by_length: bool, steps: int | None) -> list:
    """Returns `steps` batches of the first epoch (None: all), of all lengths alike, in random order."""
    plan = make_batching(by_length).plan(lengths, epoch=0)
    if steps is None or steps >= len(plan):
        return plan
    by_length = sorted(plan, key=lambda rows: lengths[rows].max())
    chosen = [by_length[int((i + 0.5) * len(plan) / steps)] for i in range(steps)]
    return [chosen[i] for i in np.random.default_rng(0).permutation(steps)]


# --- epoch ---


def start_epoch(imdb: str, steps: int | None, system: str):
    """Returns a function that does the next training step of `ours` or of the document's `script`."""
    import tensorflow as tf

    from keras_senti.data.batches import TextBatches
    from keras_senti.data.token_cache import load_corpus
    from keras_senti.training import devices, fit

    config = read_settings(imdb)
    if system == "ours":
        devices.set_up_device(config.device)  # repeatable results, as train.py has them, cost time
    corpus = load_corpus(config)
    encoded = corpus.train.token_ids
    batches = sample_batches(encoded.lengths, system == "ours", steps)
    batches = [*batches[:2], *batches]  # two steps are taken, and not timed, when the process starts
    if system == "ours":
        model, _ = build_ours(config, len(corpus.tokenizer.vocabulary))
        fit.compile_model(model, config.train, total_steps=len(batches))
        data = TextBatches(corpus.train, make_batching(True), len(CLASS_NAMES)).make_dataset(lambda: batches)
    else:
        model = build_keras(len(corpus.tokenizer.vocabulary))
        rows, one_hot = np.concatenate(batches), np.eye(len(CLASS_NAMES), dtype=np.float32)[corpus.train.labels]
        data = tf.data.Dataset.from_tensor_slices((encoded.pad(rows, LENGTH), one_hot[rows])).batch(ROWS).prefetch(2)
    model.make_train_function()
    iterator = iter(data)
    return lambda: float(model.train_function(iterator)["loss"])


def time_epoch(imdb: str, steps: int | None) -> list[dict]:
    from keras_senti.data.token_cache import load_corpus

    config = read_settings(imdb)
    encoded = load_corpus(config).parts["train"].token_ids
    workers, systems = Workers(), {"ours": True, "script": False}
    workers.build({system: (start_epoch, imdb, steps, system) for system in systems})
    batches = {system: sample_batches(encoded.lengths, bucketed, steps) for system, bucketed in systems.items()}
    seconds = {system: [] for system in systems}
    for _ in batches["ours"]:
        for system in systems:
            seconds[system].append(workers.time(system, 1))
    return summarize_epoch(encoded.lengths, batches, seconds)


def summarize_epoch(lengths, batches: dict, seconds: dict) -> list[dict]:
    """Returns an entry for each system; an epoch's seconds are the mean of the timed steps times the steps."""
    steps = -(-len(lengths) // ROWS)
    entries = []
    for system, times in seconds.items():
        timed = batches[system]
        whole = np.mean(times) * steps
        tokens = [lengths[rows].sum() for rows in timed]
        blocks = [sum(t) / sum(s) for t, s in zip(np.array_split(tokens, 6), np.array_split(times, 6)) if len(s)]
        entry = {"name": system, "timed_steps": len(times), "steps": steps, "epoch_seconds": whole}
        entry["tokens_per_second"] = lengths.sum() / whole
        entry["quartiles_of_6_blocks"] = np.percentile(blocks, (25, 75)).tolist()
        entries.append(entry)
    for entry in entries:
        entry["times_script"] = entry["tokens_per_second"] / entries[-1]["tokens_per_second"]
    return entries


def train_seed(imdb: str, system: str, seed: int) -> dict:
    """Trains two epochs and returns the validation accuracies after each."""
    import keras
    import pandas as pd

    from keras_senti.data.token_cache import load_corpus
    from keras_senti.training import devices, fit, run

    config = read_settings(imdb, "--train.epochs", "2", "--train.seed", str(seed))
    device = devices.set_up_device(config.device)
    corpus = load_corpus(config)
    train, validation = corpus.train, corpus.validation
    encoded = {name: part.token_ids for name, part in corpus.parts.items()}
    keras.utils.set_random_seed(seed)
    begin = time.perf_counter()
    if system == "ours":
        model, _ = build_ours(config, len(corpus.tokenizer.vocabulary))
        with tempfile.TemporaryDirectory() as folder:
            begun = run.Run(config, device, Path(folder), begin)
            begun.note(status="running")
            fit.train_model(model, corpus, begun)
            accuracy = pd.read_csv(Path(folder) / "history.csv")["val_accuracy"].tolist()
    else:
        one_hot = np.eye(len(CLASS_NAMES), dtype=np.float32)
        padded = [
            (encoded[name].pad(np.arange(len(encoded[name])), LENGTH), one_hot[part.labels])
            for name, part in (("train", train), ("validation", validation))
        ]
        model = build_keras(len(corpus.tokenizer.vocabulary))
        history = model.fit(*padded[0], batch_size=ROWS, epochs=2, validation_data=padded[1], verbose=2)
        accuracy = history.history["val_accuracy"]
    seconds = time.perf_counter() - begin
    return {"name": system, "seed": seed, "seconds": seconds, "accuracy_1": accuracy[0], "accuracy_2": accuracy[1]}


# --- growth ---


def grow(texts: int, tokens: int, units: int, most_seconds: float = 3.0) -> dict:
    """Times the plan of an epoch and steps spread over it, for generated texts of tokens / 2 to `tokens` tokens."""
    from keras_senti.data.batches import Batching, TextBatches
    from keras_senti.data.dataset import EncodedDataset, EncodedTexts
    from keras_senti.settings.schema import ModelConfig, TrainConfig
    from keras_senti.training import fit

    rng = np.random.default_rng(0)
    lengths = rng.integers((tokens + 1) // 2, tokens + 1, texts)
    flat = rng.integers(2, 10_000, lengths.sum(), dtype=np.int32)
    encoded = EncodedTexts(flat, np.concatenate([[0], np.cumsum(lengths)]))
    labels, weights = rng.integers(0, 2, texts), np.ones(texts, np.float32)
    settings = {"bidirectional": False, "pooling": "last", "embedding_dropout": 0.0}
    config = ModelConfig(units=units, dropout=0.2, recurrent_dropout=0.2, **settings)
    begin = time.perf_counter()
    plan = Batching(ROWS, tokens).plan(encoded.lengths, epoch=0)
    plan_seconds = time.perf_counter() - begin
    batches = sample_batches(encoded.lengths[: ROWS * len(plan)], True, min(len(plan), 40))
    batches = [rows for rows in batches if len(rows) == ROWS]  # the last of an epoch is smaller
    from keras_senti.models import build

    model = build.build_model(config, 10_000, len(CLASS_NAMES))
    fit.compile_model(model, TrainConfig(), total_steps=len(plan))
    part = EncodedDataset(None, encoded, labels, weights, np.arange(texts))
    data = TextBatches(part, Batching(ROWS, tokens), len(CLASS_NAMES)).make_dataset(lambda: [batches[0], *batches])
    model.make_train_function()
    iterator, times, done = iter(data), [], []
    float(model.train_function(iterator)["loss"])  # traces
    for rows in batches:
        begin = time.perf_counter()
        float(model.train_function(iterator)["loss"])
        times.append(time.perf_counter() - begin)
        done.append(int(encoded.lengths[rows].sum()))
        if sum(times) > most_seconds and len(times) >= 5:
            break
    return {
        "name": f"{texts} texts, {tokens} tokens, {units} units",
        "timed_steps": len(times),
        "step_ms": 1000 * float(np.mean(times)),
        "token_us": 1e6 * sum(times) / sum(done),
        "plan_ms": 1000 * plan_seconds,
        "epoch_seconds": plan_seconds + float(np.mean(times)) * len(plan),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


# --- output ---


def format_table(title: str, entries: list[dict]) -> str:
    """Returns a Markdown table with a column for each key."""

    def show(value):
        if isinstance(value, list):
            return " - ".join(show(v) for v in value)
        return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)

    columns = list(dict.fromkeys(key for entry in entries for key in entry if key != "name"))
    rows = [(entry["name"], *(show(entry.get(column)) for column in columns)) for entry in entries]
    return format_markdown((title, *columns), rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb", required=True, metavar="PATH", help="folder, archive or table of IMDB, see data.csv")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parts = ("epoch", "growth", "inference", "startup")
    parser.add_argument(
        "--parts", nargs="+", choices=(*parts, "accuracy"), default=parts, help="default: all but accuracy"
    )
    parser.add_argument("--steps", type=int, default=60, help="steps of the epoch that are timed; 0: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds for the accuracy")
    parser.add_argument("--texts", type=int, default=2048, help="texts that are predicted in bulk")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of inference")
    options = parser.parse_args()
    options.imdb = str(Path(options.imdb).resolve())
    results = {}

    def report(part: str, entries: list[dict]):
        results[part] = entries
        print(format_table(part, entries), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        if "epoch" in options.parts:
            report("epoch", time_epoch(options.imdb, options.steps or None))
        if "accuracy" in options.parts:
            systems = [(system, seed) for seed in range(options.seeds) for system in ("ours", "script")]
            report("accuracy", [run_alone(train_seed, options.imdb, *system) for system in systems])
        if "growth" in options.parts:
            report("growth", [run_alone(grow, *sizes.values()) for sizes in GROWTH])
        if "inference" in options.parts:
            report("inference", time_inference(options.imdb, Path(folder), options))
        if "startup" in options.parts:
            if not (ours := Path(folder) / "ours-100").exists():
                run_alone(export_ours, ours, 100)
            report("startup", time_startup(ours, 3))
    if options.json:
        machine = {**describe_machine(), "versions": list_versions()}
        content = {"command": " ".join(["python", *sys.argv]), "machine": machine, **results}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
