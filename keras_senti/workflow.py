"""The whole way, in one screen each: `train_run` from settings to a model, `evaluate_*` from a run to scores."""

import contextlib
import csv
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import re
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
import yaml
from tqdm import tqdm

from keras_senti import (
    baselines,
    comparison,
    devices,
    evaluation,
    explain,
    explanations,
    export,
    report,
    runs,
    tensorboard,
    vectors,
)
from keras_senti.compact import Pretrained, is_compact, read_calibration, read_pretrained, write_compact
from keras_senti.config import Config, UserError, suggest
from keras_senti.corpus import SAMPLE_ROWS, Corpus, load_corpus
from keras_senti.data import (
    Dataset,
    clean_label,
    clean_label_map,
    describe_reading,
    format_check,
    format_reading,
    map_label,
    read_label,
)
from keras_senti.folders import find_model
from keras_senti.models import (
    build_language_model,
    build_model,
    check_activation,
    list_learning_layers,
    name_of,
)
from keras_senti.optimizers import check_train_from_epoch
from keras_senti.parsing import check_settings, read_config, settle, write_yaml
from keras_senti.pipeline import Bucket, find_bucket, predict_in_batches
from keras_senti.predictions import read_parts
from keras_senti.pretraining import check_language_model, train_language_model
from keras_senti.tables import Table, read_text
from keras_senti.text import TextEncoder, encode_utf8, make_simplifier
from keras_senti.training import TrainedRun, make_predict, train_model
from keras_senti.transfer import copy_weights, find_seen_rows

CHUNK_ROWS = 5000
NO_LABEL, LEFT_OUT = -1, -2  # instead of the index of a class


def train_run(config: Config) -> Path | None:
    """Trains, exports and scores as the settings say; prints what happens and returns the run folder.

    Of several workers only the chief has one; the others return None.

    With `config.resume` (see `parse_config`), it does what is left of the run in that folder.

    Raises:
        UserError: for settings or data that cannot work, mostly before a folder is made; after that the manifest says
            `failed`.
    """
    begin = time.perf_counter()
    config = check_settings(settle(config))
    check_activation(config.model)
    if config.task == "language_model":
        check_language_model(config)
    else:
        baselines.check_packages(config.baselines.models)
    if config.text.simplify_chinese:
        make_simplifier()
    device = devices.set_up_device(config.device, needs_one=config.task == "language_model")
    if config.run_dir is not None and device.is_chief:
        runs.check_new_run_dir(config.run_dir)
    check_replicas(config, device)
    if config.train.train_from_epoch:
        check_train_from_epoch(config.train, list_learning_layers(config.model))
    if config.resume is None:
        vectors.check_word_vectors(config)
        pretrained = read_pretrained(config.init_from) if config.init_from else None
        corpus = load_corpus(config, pretrained.vocabulary if pretrained else None)
        run_dir = runs.create_run_dir(config.name, config.run_dir) if device.is_chief else None
    else:
        run_dir = runs.check_unfinished_run_dir(config.resume)
    with contextlib.ExitStack() as stack:
        if not device.is_chief:
            run_dir = stack.enter_context(runs.make_worker_dir(run_dir))
        stack.enter_context(runs.lock_run_dir(run_dir))
        if config.resume is not None:
            pretrained, corpus = _load_again(config, run_dir)
        check = format_check(corpus.splits.check)
        print(f"run folder: {run_dir}\n\ndata ({config.data.source}):\n{check}\n", flush=True)
        if pretrained:
            print(find_seen_rows(pretrained.data, _describe_data(corpus)), end="")
        _open_folder(config, corpus, run_dir)
        try:
            with _explain_failed_writes(run_dir):
                work = _pretrain_in_folder if config.task == "language_model" else _train_in_folder
                work(config, corpus, pretrained, device, run_dir)
        except BaseException as error:
            with contextlib.suppress(UserError):  # the disk may be full: the first error is the one to be shown
                runs.update_manifest(run_dir, status="failed", error=f"{type(error).__name__}: {error}")
            if isinstance(error, KeyboardInterrupt) and device.is_chief:
                print(f"\nstopped; to go on from here: python train.py --resume {run_dir}", flush=True)
            raise
        seconds = round(time.perf_counter() - begin, 1)
        runs.update_manifest(run_dir, status="finished", seconds=seconds, memory_gb=runs.read_peak_memory())
        if config.task == "classification" and device.is_chief:
            with runs.only_shown("report.html", f"`python evaluate.py --run {run_dir}` draws it again."):
                report.write_run_report(run_dir, explain.load_explainer(run_dir).color_words)
    if not device.is_chief:
        return None
    runs.remove_checkpoints(run_dir)
    return run_dir


def check_replicas(config: Config, device: devices.Device):
    """Raises a UserError unless this device can do the task."""
    if device.is_distributed and config.task == "language_model":
        raise UserError(
            f"device.strategy: {device.line}: a language model carries the state of each stream from step to step, "
            "which one device can do. Use --device.strategy cpu, or gpu; the classifier that begins with its encoder "
            "can be trained on any."
        )
    if device.is_distributed and config.train.profile_steps:
        raise UserError(
            f"train.profile_steps: received {config.train.profile_steps}, but a profile is taken with one CPU or GPU "
            f"only ({device.line}). Leave it out, or use --device.strategy cpu, or gpu."
        )
    if device.replicas > config.train.batch_size:
        raise UserError(
            f"train.batch_size: received {config.train.batch_size}, expected at least {device.replicas}: each replica "
            f"takes its share of a batch ({device.line})."
        )


def _load_again(config: Config, run_dir: Path) -> tuple[Pretrained | None, Corpus]:
    """Returns what a resumed run trains on. Once there is a checkpoint, the model of init_from may be gone."""
    if config.init_from and _has_checkpoint(run_dir):
        vocabulary = TextEncoder.load(config.text, run_dir / "vocabulary.txt").vocabulary
        settings = dataclasses.replace(config, text=dataclasses.replace(config.text, extend_vocabulary=0))
        return None, load_corpus(settings, vocabulary)
    pretrained = read_pretrained(config.init_from) if config.init_from else None
    return pretrained, load_corpus(config, pretrained.vocabulary if pretrained else None)


def _has_checkpoint(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("step-*.npz"))


def _open_folder(config: Config, corpus: Corpus, run_dir: Path):
    """Writes manifest and settings of a new run; checks that a resumed one is the same run as before."""
    data = _describe_data(corpus)
    settings = write_yaml(dataclasses.replace(config, run_dir=None, resume=None))
    if config.resume is None:
        entries = {"data": data, "settings_sha256": _fingerprint(settings), **runs.describe_environment()}
    else:
        runs.check_unfinished_run_dir(run_dir)  # another process may have finished it before this one had the lock
        manifest = runs.read_manifest(run_dir)
        before = manifest.get("data", {})
        if not before or before != {name: data.get(name) for name in before}:  # an earlier version noted less
            raise UserError(
                f"--resume: the data ({', '.join(corpus.files)}) is not what it was when the run in {run_dir} began. "
                "Bring the old content back, or start a new run."
            )
        if _fingerprint((run_dir / "config.yaml").read_text(encoding="utf-8")) != manifest.get("settings_sha256"):
            raise UserError(
                f"--resume: {run_dir / 'config.yaml'} was changed after the run began. Undo the change, or start a new "
                f"run with it: --config {run_dir / 'config.yaml'}"
            )
        vocabulary = run_dir / "vocabulary.txt"
        if vocabulary.exists() and TextEncoder.load(config.text, vocabulary).vocabulary != corpus.encoder.vocabulary:
            raise UserError(
                f"--resume: the data gives another vocabulary than {vocabulary}: stop words, packages or this code "
                "have changed since the run began. Bring back what changed, or start a new run."
            )
        runs.remove_leftovers(run_dir)
        if not _has_checkpoint(run_dir):
            print("the run was stopped before its first checkpoint: it begins at the start", flush=True)
        entries = {"error": None, "resumes": manifest.get("resumes", 0) + 1}
    runs.update_manifest(run_dir, status="running", cache=str(corpus.cache), **entries)
    runs.write_text(run_dir / "config.yaml", settings)
    runs.write_json(run_dir / "data_check.json", corpus.splits.check)
    dropped = pd.DataFrame(corpus.splits.dropped, columns=["file", "line", "reason", "text", "label"])
    with runs.replace_file(run_dir / "dropped_rows.csv") as file:
        file.write(_to_csv(dropped))
    corpus.encoder.save(run_dir / "vocabulary.txt")
    if config.task == "classification":
        runs.write_json(run_dir / "class_names.json", list(corpus.splits.class_names))


def _describe_data(corpus: Corpus) -> dict:
    """Returns what the manifest says of the data: all that tells whether another run reads the same."""
    check, unlabeled = corpus.splits.check, corpus.splits.unlabeled
    data = {"sha256": corpus.files, "rows": check["rows"], "split_sha256": check["split_sha256"]}
    return data if unlabeled is None else {**data, "unlabeled_sha256": corpus.files.get(str(unlabeled.texts.path))}


def _fingerprint(settings: str) -> str:
    """Returns the SHA-256 of those settings (YAML) that a resumed run keeps; "" if one of the others is missing."""
    content = yaml.safe_load(settings)
    try:
        del content["device"], content["train"]["epochs"]
    except (KeyError, TypeError):
        return ""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _explain_failed_writes(run_dir: Path):
    """Makes one message of what Python, Keras and TensorFlow raise when a file of the run cannot be written."""
    try:
        yield
    except (OSError, tf.errors.OpError, runs.WriteError) as error:
        # Keras' own files fail without a file name; a closed pipe or a data file that is gone must pass.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        if not full and str(run_dir) not in str(error):
            raise
        where = "" if isinstance(error, runs.WriteError) else f"cannot write into {run_dir}: "
        reason = re.sub(r"^\{\{.*?\}\} ", "", str(error).splitlines()[0])
        raise UserError(
            f"{where}{reason} Mend this (a full disk, a missing folder?); then `python train.py --resume {run_dir}` "
            "continues from the last good state."
        ) from error


def _train_in_folder(
    config: Config, corpus: Corpus, pretrained: Pretrained | None, device: devices.Device, run_dir: Path
):
    splits, encoder, encoded = corpus.splits, corpus.encoder, corpus.encoded
    bucket = _find_bucket(config, device, run_dir)
    kernel = _begin(config, corpus, device, run_dir, few_shapes=bucket is not True)
    sizes = len(encoder.vocabulary), len(splits.class_names)
    with device.scope():
        model = build_model(config.model, *sizes, kernel, config.device.precision)
        _fill(model, config, corpus, pretrained, run_dir)
    copy = build_model(config.model, *sizes, "loop") if device.is_distributed else None
    shown = tensorboard.sample_rows(len(splits.validation))
    if device.is_chief:
        tensorboard.write_hparams(run_dir / "tensorboard", config, f"{config.name}/{run_dir.name}")
    trained = train_model(
        model,
        (encoded["train"], splits.train.labels, splits.train.weights),
        (encoded["validation"], splits.validation.labels),
        config.train,
        config.text.sequence_length,
        run_dir,
        tensorboard.Examples(shown, list(splits.validation.take(shown).texts), splits.class_names),
        bucket,
        device,
        copy,
    )
    if copy is not None:
        copy.set_weights(model.get_weights())
        model = copy
    if device.is_chief:
        _export_and_score(model, trained, config, corpus, run_dir)
    device.wait_for_all()


def _find_bucket(config: Config, device: devices.Device, run_dir: Path) -> Bucket:
    """Returns and notes which lengths batches are padded to: the batches follow from it, so a resumed run keeps it."""
    bucket = runs.read_manifest(run_dir).get("bucket")
    if bucket is None:
        bucket = find_bucket(config.train, config.text.sequence_length, fixed=device.kind == "tpu")
        runs.update_manifest(run_dir, bucket=bucket)
    return tuple(bucket) if isinstance(bucket, list) else bucket


def _export_and_score(model: keras.Model, trained: TrainedRun, config: Config, corpus: Corpus, run_dir: Path):
    splits, encoder, encoded = corpus.splits, corpus.encoder, corpus.encoded
    board = run_dir / "tensorboard"
    predict = make_predict(model)
    with runs.only_shown("words in TensorBoard's projector", "The run goes on."):
        tensorboard.write_projector(board, model, predict, encoder.vocabulary, splits.class_names)
    predicted = {"validation": predict_in_batches(predict, encoded["validation"])}
    precisions = config.evaluation.abstain_precisions
    calibration = evaluation.fit_calibration(splits.validation.labels, predicted["validation"], precisions)
    runs.write_json(run_dir / "calibration.json", calibration)
    runs.update_manifest(run_dir, temperature=calibration["temperature"])
    export.export_model(model, encoder, splits.class_names, config, run_dir)
    runs.update_manifest(run_dir, parameters=model.count_params(), training=dataclasses.asdict(trained))
    print(
        f"trained in {trained.seconds:.0f} s; kept epoch {trained.best_epoch} of {trained.epochs_run}; "
        f"{trained.padding_fraction:.1%} of the positions in a batch are padding\n",
        flush=True,
    )
    if config.train.evaluate_test and len(splits.test):
        predicted["test"] = predict_in_batches(predict, encoded["test"])
    _score(predicted, calibration, corpus, config, run_dir)


def _pretrain_in_folder(
    config: Config, corpus: Corpus, pretrained: Pretrained | None, device: devices.Device, run_dir: Path
):
    vocabulary, unread = corpus.encoder.vocabulary, corpus.splits.check["dropped_rows"].get("no label")
    if unread and corpus.splits.unlabeled is None:
        print(f"{unread:,} rows without label are not read; to read them, name their file as data.unlabeled_csv too")
    kernel = _begin(config, corpus, device, run_dir, few_shapes=True)
    sizes = len(vocabulary), config.train.batch_size
    model = build_language_model(config.model, config.pretrain, *sizes, kernel, config.device.precision)
    _fill(model, config, corpus, pretrained, run_dir)
    read = [corpus.encoded[name] for name in ("train", "unlabeled") if name in corpus.encoded]
    trained, scores = train_language_model(model, read, corpus.encoded["validation"], vocabulary, config, run_dir)
    weights = {name_of(variable): variable.numpy() for variable in model.weights}
    write_compact(run_dir / "encoder", Pretrained(config, vocabulary, (), weights, data=_describe_data(corpus)))
    runs.write_json(run_dir / "metrics.json", scores)
    runs.update_manifest(
        run_dir,
        parameters=model.count_params(),
        training=dataclasses.asdict(trained),
        validation_perplexity=scores["validation"]["perplexity"],
    )
    print(
        f"trained in {trained.seconds:.0f} s; best epoch {trained.best_epoch} of {trained.epochs_run}\n\n"
        f"{format_run_scores(run_dir)}",
        flush=True,
    )


def _begin(config: Config, corpus: Corpus, device: devices.Device, run_dir: Path, few_shapes: bool) -> str:
    """Fixes the seeds and returns the recurrent kernel; both go into the manifest."""
    encoded = corpus.encoded
    runs.update_manifest(
        run_dir,
        device=device.line,
        seeds={"data": config.data.seed, "train": config.train.seed},
        vocabulary_size=len(corpus.encoder.vocabulary),
        unknown_fraction={name: _compute_unknown_fraction(e.flat) for name, e in encoded.items() if len(e.flat)},
    )
    keras.utils.set_random_seed(config.train.seed)
    dtype = keras.DTypePolicy(config.device.precision).compute_dtype
    settings = {**vars(config.model), "dtype": dtype, "few_shapes": few_shapes}
    kernel, reason = devices.choose_kernel(device.kind, settings)
    if config.device.kernel != "auto" and not devices.find_obstacle(settings):
        kernel, reason = config.device.kernel, "as device.kernel says"
    print(f"recurrent kernel: {kernel} ({reason})", flush=True)
    runs.update_manifest(run_dir, kernel=kernel, precision=config.device.precision)
    tokens = ", ".join(f"{len(e.flat):,} in the {name} part" for name, e in encoded.items() if len(e.flat))
    print(f"{len(corpus.encoder.vocabulary):,} tokens in the vocabulary; {tokens}; {device.line}")
    return kernel


def _fill(model: keras.Model, config: Config, corpus: Corpus, pretrained: Pretrained | None, run_dir: Path):
    """Gives a new model the weights that the settings name, and prints what it consists of."""
    if pretrained:
        class_names = corpus.splits.class_names if config.task == "classification" else ()
        print(f"init_from: {copy_weights(pretrained, model, class_names)}")
    if config.text.word_vectors is not None and not _has_checkpoint(run_dir):
        flat = corpus.encoded["train"].flat
        path, vocabulary = config.text.word_vectors, corpus.encoder.vocabulary
        coverage = vectors.load_word_vectors(model, path, vocabulary, flat, config.train.seed)
        runs.update_manifest(run_dir, word_vectors=coverage)
    model.summary(line_length=80)


def _compute_unknown_fraction(flat: np.ndarray) -> float:
    chunks = range(0, len(flat), 1_000_000)  # the comparison needs a byte a token
    return sum(int((flat[begin : begin + 1_000_000] == 1).sum()) for begin in chunks) / len(flat)


def _score(predicted: dict[str, np.ndarray], calibration: dict, corpus: Corpus, config: Config, run_dir: Path):
    """Scores the predicted parts, validation and perhaps test; writes predictions.csv and metrics.json."""
    splits, class_names = corpus.splits, corpus.splits.class_names
    parts = {name: splits.parts()[name] for name in predicted}
    scores = {n: _compute_scores(parts[n].labels, predicted[n], class_names, calibration) for n in parts}
    # The temperature was fitted on these very rows: on others it is as good as this says.
    crossed = evaluation.cross_fit_temperature(splits.validation.labels, predicted["validation"])
    scores["validation"]["calibrated"]["cross_fitted"] = crossed
    _write_run_predictions(run_dir / "predictions.csv", parts, predicted, class_names)
    with runs.only_shown("scores in TensorBoard", "The run goes on; metrics.json has them."):
        tensorboard.write_hparams_scores(run_dir / "tensorboard", scores["validation"], step=config.train.epochs)
    # The baselines keep their texts in memory, so a sample must do for a large part.
    rows = {n: part.sample(config.baselines.max_rows, config.data.seed) for n, part in splits.parts().items()}
    compared = {name: parts[name].take(rows[name]) for name in parts}
    print(f"baselines: {', '.join(config.baselines.models)}", flush=True)
    train = splits.train.take(rows["train"])
    beside, notes = baselines.predict_baselines(train, compared, len(class_names), config.baselines.models)
    beside = {
        name: {
            baseline: {
                **evaluation.compute_metrics(compared[name].labels, p, class_names),
                "against_this_model": evaluation.compare_predictions(
                    compared[name].labels, p, predicted[name][rows[name]]
                ),
            }
            for baseline, p in beside[name].items()
        }
        for name in parts
    }
    sampled = {
        name: {
            "rows": len(rows[name]),
            "this_model": evaluation.compute_metrics(compared[name].labels, predicted[name][rows[name]], class_names),
        }
        for name in parts
        if len(rows[name]) < len(parts[name])
    }
    last = list(parts)[-1]
    runs.write_json(
        run_dir / "metrics.json",
        {
            **scores,
            "baselines": beside[last],
            "baselines_part": last,
            "validation_baselines": beside["validation"],
            "baselines_train_rows": len(rows["train"]),
            "baselines_notes": notes,
            "sampled": sampled,
        },
    )
    print(format_run_scores(run_dir))


def _compute_scores(labels: np.ndarray, probabilities: np.ndarray, class_names, calibration: dict | None) -> dict:
    """Returns the scores of a part, with those after calibration if the model has one."""
    scores = evaluation.compute_metrics(labels, probabilities, class_names)
    if calibration:
        scores |= evaluation.compute_calibrated_metrics(labels, probabilities, calibration)
    return scores


def _write_run_predictions(path: Path, parts: dict[str, Dataset], predicted: dict[str, np.ndarray], class_names):
    """Writes a row a text, in chunks; the texts are read from the source again."""
    names = np.array(class_names, dtype=object)
    with runs.replace_file(path) as file:
        for name, part in parts.items():
            texts = iter(tqdm(part.texts, desc=f"writing the {name} predictions", unit=" rows", delay=2))
            for begin in range(0, len(part), CHUNK_ROWS):
                rows = slice(begin, begin + CHUNK_ROWS)
                chunk = list(itertools.islice(texts, CHUNK_ROWS))
                table = export.make_table(chunk, predicted[name][rows], class_names)
                table = table.rename(columns={"label": "predicted"})
                table.insert(0, "part", name)
                table.insert(1, "line", part.lines[rows])
                table.insert(3, "label", names[part.labels[rows]])
                file.write(_to_csv(table, header=not file.tell()))


def format_run_scores(run_dir: Path) -> str:
    """Returns the scores in metrics.json as lines for the terminal, with the baselines on the same rows."""
    metrics = runs.read_json(run_dir / "metrics.json")
    if "perplexity" in metrics["validation"]:
        found, unigram = metrics["validation"], metrics["baselines"]["unigram"]["perplexity"]
        return (
            f"perplexity {found['perplexity']:.1f} on {found['tokens']:,} held-out tokens, by the full softmax; "
            f"{unigram:,.1f} for who knows how frequent each token is"
        )
    class_names = runs.read_json(run_dir / "class_names.json")
    lines = []
    for part in ("validation", "test"):
        if part in metrics:
            beside = metrics["validation_baselines"] if part == "validation" else metrics["baselines"]
            lines.append(evaluation.format_metrics(metrics[part], class_names, part))
            title, ours = f"on the {part} part", metrics[part]
            if sample := metrics.get("sampled", {}).get(part):
                title, ours = f"on {sample['rows']:,} sampled rows of the {part} part", sample["this_model"]
            lines.append(evaluation.format_comparison({"this model": ours, **beside}, title))
    lines += [f"NOTE: the baseline {name}: {note}" for name, note in metrics.get("baselines_notes", {}).items()]
    return "\n\n".join(lines) + "\n"


def evaluate_stored(run_dir) -> str:
    """Returns a run's own score, computed again from its stored predictions; changes nothing.

    Raises:
        UserError: if the folder is no finished run, or predictions.csv and metrics.json do not agree.
    """
    if is_compact(run_dir):
        use = "Add --text TEXT or --data.csv FILE to use it."
        if read_config(Path(run_dir) / "config.yaml").task == "language_model":
            use = f"It is a language model: fine-tune it with `python train.py --init_from {run_dir} --data.csv FILE`."
        raise UserError(f"{run_dir}: a compact folder holds no scores. {use}")
    run_dir = runs.check_run_dir(run_dir)
    if read_config(run_dir / "config.yaml").task == "language_model":
        return format_run_scores(run_dir)  # there is no prediction to compute it from
    class_names = runs.read_json(run_dir / "class_names.json")
    stored = runs.read_json(run_dir / "metrics.json")
    calibration = read_calibration(run_dir / "calibration.json")
    for name, part in read_parts(run_dir / "predictions.csv", class_names).items():
        again = _compute_scores(part.labels, part.probabilities, class_names, calibration)
        before = stored.get(name, {})
        pairs = [(again[k], before.get(k, -1)) for k in ("accuracy", "macro_f1", "log_loss")]
        if calibration:
            pairs.append((again["calibrated"]["log_loss"], before.get("calibrated", {}).get("log_loss", -1)))
        # Another machine may sum in another order; a changed prediction shows in the first digits.
        close = all(math.isclose(*pair, rel_tol=1e-5, abs_tol=1e-9) for pair in pairs)
        if not close or any(again[k] != before.get(k) for k in again if k.startswith("confusion_")):
            raise UserError(
                f"{run_dir}: the {name} score in metrics.json does not follow from predictions.csv and "
                "calibration.json. One of the files was changed after the run; restore it, or train again."
            )
    return format_run_scores(run_dir)


def write_report(run_dir) -> str:
    """Writes report.html into the folder of a finished run, from its stored predictions; returns where it is.

    Raises:
        UserError: see `report.write_run_report`.
    """
    if read_config(Path(run_dir) / "config.yaml").task == "language_model":
        return "no report.html: a language model predicts words, not classes; TensorBoard has its curves"
    return f"the report: {report.write_run_report(run_dir)}"


def compare_stored(first_dir, second_dir) -> tuple[Path, str]:
    """Compares two finished runs on the same rows, from their stored predictions; see `comparison.compare_runs`.

    Raises:
        UserError: also if one of them is no classifier's run.
    """
    for run_dir in (first_dir, second_dir):
        if is_compact(run_dir):
            raise UserError(f"--compare: {run_dir} is a compact folder, which holds no predictions. Name a run folder.")
        if read_config(runs.check_run_dir(run_dir) / "config.yaml").task == "language_model":
            raise UserError(
                f"--compare: {run_dir} is a language model's, which predicts no classes. Name a classifier's."
            )
    return comparison.compare_runs(first_dir, second_dir)


def _check_model_dir(path) -> Path:
    """Returns the path of a finished run or of a compact folder, which both can predict; see `runs.check_run_dir`."""
    return Path(path) if is_compact(path) else runs.check_run_dir(path)


def evaluate_texts(run_dir, texts: list[str]) -> str:
    """Returns the table of a few texts for the terminal. The model may be in a compact folder too."""
    table = export.load(_check_model_dir(run_dir)).predict(texts)
    table["text"] = [text if len(text) <= 60 else text[:59] + "…" for text in texts]
    if len(table.columns) > 2 + evaluation.LISTED_CLASSES:
        table = table[["text", "label"]].assign(probability=table.iloc[:, 2:].max(axis=1))
    return table.to_string(index=False, float_format="{:.3f}".format)


def explain_texts(path, texts: list[str], class_name: str | None = None) -> tuple[Path, str]:
    """Explains what a model says of a few texts, into evaluations/explanation-<time>/explanation.html of its folder.

    Args:
        path: folder of a run or of the SavedModel in it, or a compact folder.
        class_name: whose probability is explained; None: of each text the predicted one's.
    Returns: (folder, what to print).
    Raises:
        UserError: for a language model, an unfinished run or an unknown class, before anything is written.
    """
    home, model = Path(path), find_model(path)
    if model is None or model.path != home:
        runs.check_run_dir(home)
    elif model.is_saved_model and (home.parent / "manifest.json").is_file():
        home = home.parent
    explainer = explain.load_explainer(path)
    found = [explainer.explain(text, class_name) for text in tqdm(texts, "explaining", delay=2, disable=None)]
    page = explanations.format_page(found, f"{home.parent.name}/{home.name}")
    try:
        folder = runs.create_stamped_dir(home / "evaluations", "explanation-")
    except OSError as error:
        raise runs.WriteError(f"cannot write into {home}: {error.strerror}.") from None
    runs.write_text(folder / "explanation.html", page)
    color = explanations.wants_color()
    return folder, "\n\n".join(explanations.format_explanation(explanation, color) for explanation in found)


def evaluate_file(run_dir, csv_file, text_column=None, label_column=None, label_map=None) -> tuple[Path, str]:
    """Predicts every row of a file and, if it has labels, scores it; into the run's evaluations/<file>-<time>/.

    The folder has predictions.csv, metrics.json and report.html.

    All input columns are kept; `predicted` and `probability_<class>` are added. No row is dropped but those that repeat
    the header: one without text is predicted as [UNK], one without label is predicted and not scored. Texts are read in
    chunks; of a row only its label and probabilities stay in memory.

    Args:
        run_dir: run folder or compact folder.
        text_column, label_column, label_map: None: as in the run's settings. A label column that the run's settings
            name, but the file lacks, means that there are no labels; so does label_column "". A label that label_map
            gives as None is not scored.
    Returns: (folder, what to print).
    Raises:
        UserError: for a damaged file, a missing column or an unknown label, before anything is written.
    """
    model = export.load(_check_model_dir(run_dir))
    run_dir, class_names = Path(run_dir), model.class_names
    settings = read_config(run_dir / "config.yaml").data
    table = Table(csv_file)
    text_column, label_map = text_column or settings.text_column, clean_label_map(label_map or settings.label_map)
    table.require_column(text_column, "--data.text_column")
    if label_column:
        table.require_column(label_column, "--data.label_column")
    if label_column == "":
        label_column = None
    elif label_column is None:
        with contextlib.suppress(UserError):
            table.require_column(settings.label_column, "--data.label_column")
            label_column = settings.label_column
    # The first pass finds whatever is wrong with the file before the slow second one begins.
    # An older model's names may not be as labels are read now.
    index = {clean_label(name): i for i, name in enumerate(class_names)} | {n: i for i, n in enumerate(class_names)}
    labels, listed, sample = [], [], []
    for line, row in table:
        where = f"{table.path}, line {line}"
        text = read_text(row, text_column, where)
        if text and text is not row[text_column]:
            listed.append(line)
        if len(sample) < SAMPLE_ROWS:
            sample.append(text)
        labels.append(_read_class(row, where, label_column, label_map, class_names, index))
    labels = np.array(labels, int)
    notes = describe_reading(table, label_column, label_map or class_names, listed)
    if not len(labels):
        raise UserError(f"{csv_file}: has no rows. Is it the right file?")
    folder = runs.create_stamped_dir(run_dir / "evaluations", f"{table.path.name}-")
    probabilities = _write_predictions(model, table, text_column, len(labels), folder)
    labelled = labels >= 0
    result = {
        "file": str(csv_file),
        "sha256": runs.compute_sha256(csv_file),
        "rows": len(labels),
        "rows_without_label": int((labels == NO_LABEL).sum()),
        "rows_left_out": int((labels == LEFT_OUT).sum()),
        "reading": notes,
    }
    lines = [f"{len(labels):,} rows predicted"]
    if labelled.any():
        scores = _compute_scores(labels[labelled], probabilities[labelled], class_names, model.calibration)
        result["scores"] = scores
        lines = [evaluation.format_metrics(scores, class_names, str(csv_file))]
        if unlabelled := result["rows_without_label"]:
            lines.append(f"{unlabelled:,} rows have no label: predicted, not scored")
    else:
        lines.append("no labels: predictions only")
    if left_out := result["rows_left_out"]:
        lines.append(f"{left_out:,} rows have a label that label_map leaves out: predicted, not scored")
    lines += format_reading(notes)
    unknown = (model.encoder.encode(tf.constant(encode_utf8(sample), tf.string)).flat_values.numpy() == 1).mean()
    if unknown > 0.5:
        lines.append(
            f"WARNING: {unknown:.0%} of the tokens of the first texts are unknown to the model, which cannot read "
            "them. Is the file in the language and the script that it learned?"
        )
    runs.write_json(folder / "metrics.json", result)
    columns = text_column, [name for name in table.columns if name not in (text_column, label_column)]
    found = labels, probabilities, model.calibration
    with runs.only_shown("report.html", "predictions.csv and metrics.json are whole."):
        report.write_file_report(folder, run_dir, table.path.name, columns, class_names, *found)
    return folder, "\n".join(lines)


def _read_class(row: dict, where: str, label_column, label_map, class_names, index: dict[str, int]) -> int:
    """Returns the class index of a row, NO_LABEL, or LEFT_OUT."""
    _, raw = read_label(row, label_column, label_map, where) if label_column else ("", "")
    if not raw:
        return NO_LABEL
    # As in training the map comes first; a label that it does not name may be a class name already.
    known = label_map and raw not in label_map and raw in index
    name = raw if known else map_label(raw, label_map, where)
    if name is None:
        return LEFT_OUT
    if name not in index:
        raise UserError(
            f"{where}: unknown label '{name}', but this model knows {', '.join(class_names)}."
            f"{suggest(name, class_names)} Translate every label with --data.label_map '{{\"{raw}\": CLASS, ...}}', or "
            "predict without scoring: --data.label_column ''."
        )
    return index[name]


def _write_predictions(model, table: Table, text_column: str, rows: int, folder: Path) -> np.ndarray:
    """Streams the file through the model into predictions.csv; returns the probabilities (rows, classes)."""
    added = [_new_name(n, table.columns) for n in ("predicted", *(f"probability_{c}" for c in model.class_names))]
    pieces, chunk = [], []
    with runs.replace_file(folder / "predictions.csv") as file, tqdm(total=rows, unit=" rows") as bar:
        file.write(_to_csv(pd.DataFrame(columns=[*table.columns, *added])))
        for number, (_, row) in enumerate(table, 1):
            chunk.append(row)
            if len(chunk) == CHUNK_ROWS or number == rows:
                texts = [read_text(row, text_column, str(table.path)) for row in chunk]
                predicted = model.predict(texts).drop(columns="text")
                frame = pd.DataFrame(chunk, columns=table.columns)
                both = pd.concat([frame, predicted.set_axis(added, axis=1)], axis=1)
                file.write(_to_csv(both, header=False))
                pieces.append(predicted.iloc[:, 1:].to_numpy(np.float32))
                bar.update(len(chunk))
                chunk = []
    return np.concatenate(pieces)


def _new_name(name: str, taken) -> str:
    while name in taken:
        name = f"model_{name}"
    return name


def _to_csv(table: pd.DataFrame, header: bool = True) -> bytes:
    # All texts quoted: by default a lone carriage return stands unquoted and reads as the end of a line.
    return table.to_csv(index=False, header=header, quoting=csv.QUOTE_NONNUMERIC).encode("utf-8")
