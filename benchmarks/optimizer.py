"""Times a training step with our optimiser and with Keras' own: how long Adam takes where tables of vectors are large.

    python benchmarks/optimizer.py [--cases reviews_zh ...] [--rounds 9]

A step is forward, backward and update on random ids and labels, of the network of a config in configs/, with as many
rows and tokens a row as its batches have on average. Both optimisers have a model of their own in the same process and
take turns. The ratio is the median over the rounds of (time with Keras' / time with ours in the same round). All layers
learn, at the same constant rate with both. A case and precision that is measured again replaces its result in the file.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
from end_to_end import ROOT, describe_machine

sys.path.insert(0, str(ROOT))

from keras_senti.storage.files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "optimizer.json"
STEPS = 3  # of each optimiser in a round
# A config, whether it begins with pretrained/imdb_encoder, and vocabulary, rows and tokens a row.
CASES = {
    "tweets": (False, 10_000, 128, 20),
    "reviews_zh": (False, 5_400, 16, 60),
    "few_labels": (True, 30_000, 16, 230),
    "imdb_fine_tune": (True, 30_000, 50, 320),
}


def make_step(case: str, is_ours: bool, precision: str):
    """Returns a function that makes a training step of the case."""
    import keras

    from keras_senti.models.build import build_model
    from keras_senti.settings.command_line import parse_config
    from keras_senti.training.fit import compile_model

    begins_with, vocabulary, rows, tokens = CASES[case]
    words = ["--config", f"configs/{case}.yaml"]
    words += ["--init_from", str(ROOT / "pretrained" / "imdb_encoder")] if begins_with else []
    config = parse_config(words)
    classes = 3 if case == "tweets" else 2
    model = build_model(config.model, vocabulary, classes, precision=precision)
    plain = {"train_from_epoch": None, "layer_rate_decay": 1.0, "schedule": "constant", "warmup_fraction": 0.0}
    compile_model(model, dataclasses.replace(config.train, **plain), 1000)
    if not is_ours:
        kind = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[config.train.optimizer]
        model.optimizer = kind(
            config.train.learning_rate,
            weight_decay=config.train.weight_decay,
            global_clipnorm=config.train.clip_norm,
        )
        model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    ids = rng.integers(2, vocabulary, (rows, tokens), dtype=np.int32)
    labels = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, rows)]
    return lambda: model.train_on_batch(ids, labels)


def measure(case: str, rounds: int, precision: str) -> dict:
    """Returns the milliseconds of a step with each optimiser (medians), and the ratio with its quartiles."""
    steps = {name: make_step(case, name == "ours", precision) for name in ("ours", "keras")}
    times = {name: [] for name in steps}
    for number in range(rounds + 1):  # the first is for tracing
        for name in sorted(steps, reverse=bool(number % 2)):
            begin = time.perf_counter()
            for _ in range(STEPS):
                loss = float(np.ravel(steps[name]())[0])
                if not np.isfinite(loss):
                    raise SystemExit(f"{case}: with the optimiser of {name} the loss is {loss}; nothing is written.")
            times[name].append((time.perf_counter() - begin) / STEPS * 1000)
    ours, keras_own = (np.array(times[name][1:]) for name in ("ours", "keras"))
    low, ratio, high = np.percentile(keras_own / ours, [25, 50, 75])
    found = {"ours_ms": np.median(ours), "keras_ms": np.median(keras_own)}
    found |= {"ratio": ratio, "ratio_quartiles": [low, high]}
    return {name: np.round(value, 3).tolist() for name, value in found.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", default="float32", choices=["float32", "mixed_bfloat16"])
    parser.add_argument("--cpu_threads", type=int, help="default: all cores")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    if options.cpu_threads:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(options.cpu_threads)
    how = {"precision": options.precision, "cpu_threads": options.cpu_threads, "machine": describe_machine()}
    for case in options.cases:
        found = measure(case, options.rounds, options.precision)
        print(f"{case}: {found}", flush=True)
        stored = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
        stored.setdefault(options.precision, {})[case] = {**found, **how}
        write_json(options.out, stored)


if __name__ == "__main__":
    main()
