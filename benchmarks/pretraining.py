"""Times pre-training against the same language model built from plain Keras layers, on the same windows of IMDB.

    python benchmarks/pretraining.py --imdb FOLDER --json benchmarks/results/pretraining.json

Both: embedding 256, one LSTM of 512 units, sampled softmax over 2,048 negatives that all positions share, tied vectors,
Adam; 128 streams, windows of 100 tokens, float32 but where said, no dropout (with which Keras has no comparable path).

ours: `build.build_language_model` and its training step.
ours_bfloat16: the same with device.precision mixed_bfloat16, and the kernel that is chosen for it.
keras_fit: keras.layers.Embedding, LSTM(stateful=True) and Dense, `tf.nn.sampled_softmax_loss` with log-uniform
    negatives (as TensorFlow's own sampler for a sorted vocabulary draws them), the step that `fit` calls.
keras_xla: the same with use_cudnn=False and the whole step compiled by XLA, often Keras' fastest mode on a CPU; without
    the removal of negatives that are the right token, for which XLA has no operation.

They take turns, one step each. Then all but keras_xla go on to --steps steps on equal windows, and the perplexity
of held-out texts is computed by the full softmax.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
from end_to_end import ROOT, describe_machine
from recurrent import list_versions
from workers import Workers, run_alone

sys.path.insert(0, str(ROOT))

from keras_senti.errors import run_command
from keras_senti.storage.files import write_json

STREAMS, WINDOW, EMBEDDING, UNITS, NEGATIVES, RATE = 128, 100, 256, 512, 2048, 0.002


def load_streams(imdb: str):
    """Returns the streams of the train and unlabelled texts and of held-out ones, the counts, and the vocabulary."""
    from keras_senti.data.token_cache import load_corpus
    from keras_senti.settings.command_line import parse_config
    from keras_senti.training.pretraining import Streams, count_tokens

    cache = ["--data.csv", imdb, "--data.cache_dir", str(ROOT / "logs" / "cache")]
    config = parse_config(["--config", str(ROOT / "configs" / "imdb_language_model.yaml"), *cache])
    corpus = load_corpus(config)
    read = [corpus.parts["train"].token_ids, corpus.parts["unlabeled"].token_ids]
    size = len(corpus.tokenizer.vocabulary)
    held_out = Streams([corpus.parts["validation"].token_ids], STREAMS, WINDOW, None)
    return Streams(read, STREAMS, WINDOW, 0), held_out, count_tokens(read, size), size


def build_ours(vocabulary_size: int, counts, precision: str):
    """Returns the model and its compiled step."""
    import keras
    import tensorflow as tf

    from keras_senti.models.build import build_language_model
    from keras_senti.settings.schema import Config, DeviceConfig, ModelConfig, PretrainConfig, TrainConfig

    kernel = "xla" if precision == "float32" else "loop"
    settings = ModelConfig(units=UNITS, embedding_dim=EMBEDDING, bidirectional=False, embedding_dropout=0.0)
    config = Config(
        model=settings,
        pretrain=PretrainConfig(negatives=NEGATIVES),
        train=TrainConfig(batch_size=STREAMS),
        device=DeviceConfig(precision=precision),
    )
    model = build_language_model(config, vocabulary_size, kernel)
    model.layers[-1].set_frequencies(counts)
    model.compile(keras.optimizers.Adam(RATE, global_clipnorm=1.0), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model, tf.function(lambda *batch: model.train_step(batch)["loss"])


def build_keras(vocabulary_size: int, compiled: bool):
    """Returns the same in plain Keras: (model, step, function from a batch to the sum of its full cross-entropies)."""
    import keras
    import tensorflow as tf

    class Plain(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            table = self.layers[0].embeddings
            vectors, targets = tf.reshape(y_pred, (-1, EMBEDDING)), tf.reshape(y, (-1, 1))
            drawn = tf.exp(tf.random.uniform([NEGATIVES]) * math.log(vocabulary_size + 1)) - 1
            negatives = tf.minimum(tf.cast(drawn, tf.int64), vocabulary_size - 1)

            def count(ids):
                ids = tf.cast(ids, tf.float32)
                return NEGATIVES * tf.math.log((ids + 2) / (ids + 1)) / math.log(vocabulary_size + 1)

            nats = tf.nn.sampled_softmax_loss(
                tf.convert_to_tensor(table),
                tf.convert_to_tensor(self.bias),
                tf.cast(targets, tf.int64),
                vectors,
                NEGATIVES,
                vocabulary_size,
                sampled_values=(negatives, count(targets), count(negatives)),
                remove_accidental_hits=not compiled,
            )
            return tf.reduce_mean(nats)

    arguments = {"use_cudnn": False} if compiled else {}
    model = Plain(
        [
            keras.Input(batch_shape=(STREAMS, WINDOW), dtype="int32"),
            keras.layers.Embedding(vocabulary_size, EMBEDDING),
            keras.layers.LSTM(UNITS, return_sequences=True, stateful=True, **arguments),
            keras.layers.Dense(EMBEDDING),
        ]
    )
    model.bias = keras.Variable(np.zeros(vocabulary_size, np.float32), name="bias")
    optimizer = keras.optimizers.Adam(RATE, global_clipnorm=1.0)
    model.compile(optimizer, jit_compile="auto")
    step = tf.function(lambda ids, targets, weights: model.train_step((ids, targets))["loss"], jit_compile=compiled)

    @tf.function
    def score(ids, targets, weights):
        vectors = tf.reshape(model(ids, training=False), (-1, EMBEDDING))
        pieces = [tf.split(tf.reshape(a, (STREAMS * WINDOW, *a.shape[2:])), 25) for a in (targets, weights)]
        total = 0.0
        for v, t, w in zip(tf.split(vectors, 25), *pieces):
            logits = tf.matmul(v, model.layers[0].embeddings, transpose_b=True) + model.bias
            total += tf.reduce_sum(w * tf.nn.sparse_softmax_cross_entropy_with_logits(t, logits))
        return total

    return model, step, score


def build(system: str, vocabulary_size: int, counts):
    """Returns (step, score, forget): one training step, the sum of the full cross-entropies, a function that resets."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    if system.startswith("ours"):
        tf.config.experimental.enable_op_determinism()  # as in our runs; XLA and `fit` choose for themselves
        model, step = build_ours(vocabulary_size, counts, "mixed_bfloat16" if system == "ours_bfloat16" else "float32")
        score = tf.function(lambda *batch: model.compute_nats(*batch, training=False))
        return step, score, model.reset_states
    model, step, score = build_keras(vocabulary_size, compiled=system == "keras_xla")
    return step, score, model.layers[1].reset_state


def start(imdb: str, system: str):
    """Returns a function that does the next training step."""
    import tensorflow as tf

    streams, _, counts, vocabulary_size = load_streams(imdb)
    step, _, _ = build(system, vocabulary_size, counts)
    batches = streams.batches(0)
    return lambda: float(step(*map(tf.constant, next(batches))))


def learn(imdb: str, system: str, steps: int) -> dict:
    """Trains so many steps and returns the perplexity of held-out texts, and the tokens and seconds of training."""
    import tensorflow as tf

    streams, held_out, counts, vocabulary_size = load_streams(imdb)
    step, score, forget = build(system, vocabulary_size, counts)
    begin, batches = time.perf_counter(), streams.batches(0)
    for number in range(1, steps + 1):
        loss = float(step(*map(tf.constant, next(batches))))
        if number % 50 == 0:
            left = (time.perf_counter() - begin) / number * (steps - number)
            print(f"{system}: step {number} of {steps}, loss {loss:.3f}, {left:.0f} s left", flush=True)
    seconds, nats, positions = time.perf_counter() - begin, 0.0, 0.0
    forget()
    for batch in held_out.batches(0):
        nats += float(score(*map(tf.constant, batch)))
        positions += float(batch[2].sum())
    tokens = steps * STREAMS * WINDOW
    return {"perplexity": math.exp(nats / positions), "tokens": tokens, "seconds_not_paired": seconds}


def main(argv: list[str]):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--imdb", required=True, metavar="FOLDER", help="as data.csv of configs/imdb_language_model.yaml"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="steps of each that are timed")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="steps of training; 0: no perplexity")
    options = parser.parse_args(argv)
    systems = ("ours", "ours_bfloat16", "keras_fit", "keras_xla")
    workers = Workers()
    workers.build({system: (start, options.imdb, system) for system in systems})
    seconds = {system: [] for system in systems}
    for _ in range(options.repeats):
        for system in systems:
            seconds[system].append(workers.time(system, 1))
    result = {"machine": describe_machine(), "versions": list_versions(), "repeats": options.repeats, "systems": {}}
    for system, times in seconds.items():
        ratios = np.divide(times, seconds["ours"])
        result["systems"][system] = {
            "step_ms": 1000 * float(np.median(times)),
            "step_ms_quartiles": (1000 * np.percentile(times, (25, 75))).tolist(),
            "tokens_per_second": STREAMS * WINDOW / float(np.median(times)),
            "ours_is_times_as_fast": float(np.median(ratios)),
            "quartiles": np.percentile(ratios, (25, 75)).tolist(),
        }
    del workers  # whose processes would share the machine with what follows
    for system in ("ours", "ours_bfloat16", "keras_fit") if options.steps else ():
        result["systems"][system] |= run_alone(learn, options.imdb, system, options.steps)
    for system, entry in result["systems"].items():
        perplexity = f", perplexity {entry['perplexity']:.1f}" if "perplexity" in entry else ""
        print(
            f"{system:13} {entry['step_ms']:7.0f} ms a step, {entry['tokens_per_second']:7,.0f} tokens a second, "
            f"ours is {entry['ours_is_times_as_fast']:.2f} times as fast{perplexity}"
        )
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
