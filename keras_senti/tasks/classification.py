"""Trains, exports and scores a classifier in an open run folder."""

import dataclasses

import keras
import numpy as np

from keras_senti.data.batches import Bucket, find_bucket, predict_in_batches
from keras_senti.data.dataset import sample_rows
from keras_senti.data.token_cache import Corpus
from keras_senti.evaluation import baselines
from keras_senti.evaluation.calibration import compute_scores, cross_fit_temperature, fit_calibration
from keras_senti.evaluation.metrics import compare_predictions, compute_metrics
from keras_senti.evaluation.predictions import ScoredPart
from keras_senti.evaluation.result import Result
from keras_senti.export import saved_model
from keras_senti.export.weights_folder import Pretrained
from keras_senti.models.build import build_model, name_of
from keras_senti.reports import attribution
from keras_senti.reports.terminal import format_run_scores
from keras_senti.storage import files, run_folder
from keras_senti.tasks.evaluate import write_run_report
from keras_senti.tasks.start import begin, fill
from keras_senti.training import tensorboard
from keras_senti.training.callbacks import TrainedRun
from keras_senti.training.fit import make_predict, train_model
from keras_senti.training.run import Run


def train_classifier(run: Run, corpus: Corpus, pretrained: Pretrained | None) -> tuple[Result, keras.Model] | None:
    """Builds, fits, calibrates, exports and scores a classifier; returns None if another worker is the chief."""
    padding = _find_bucket(run)
    kernel = begin(run, corpus, few_shapes=padding is not True)
    sizes = len(corpus.tokenizer.vocabulary), len(corpus.class_names)
    with run.device.scope():
        model = build_model(run.config.model, *sizes, kernel, run.config.device.precision)
        fill(model, run, corpus, pretrained)
    copy = build_model(run.config.model, *sizes, "loop") if run.device.is_distributed else None
    trained = _fit(model, copy, padding, run, corpus)
    if copy is not None:
        copy.set_weights(model.get_weights())
        model = copy
    if run.device.is_chief:
        predict = make_predict(model)
        _show_words(model, predict, run, corpus)
        predicted = {"validation": predict_in_batches(predict, corpus.validation.token_ids)}
        calibration = _calibrate(predicted["validation"], run, corpus)
        _export(model, trained, run, corpus)
        if run.config.train.evaluate_test and len(corpus.parts["test"]):
            predicted["test"] = predict_in_batches(predict, corpus.parts["test"].token_ids)
        result = _score(predicted, calibration, run, corpus)
    run.device.wait_for_all()
    return (result, model) if run.device.is_chief else None


def draw_report(run: Run, corpus: Corpus, result: Result, model: keras.Model):
    """Draws report.html of a finished run, its surest mistakes coloured; a fault in it is a warning."""
    with run_folder.only_shown("report.html", f"`python evaluate.py --run {run.folder}` draws it again."):
        weights = {name_of(variable): variable.numpy() for variable in model.weights}
        trained = Pretrained(run.config, corpus.tokenizer.vocabulary, corpus.class_names, weights)
        write_run_report(run.folder, result, attribution.make_explainer(trained).color_words)


def _fit(model: keras.Model, copy: keras.Model | None, padding: Bucket, run: Run, corpus: Corpus) -> TrainedRun:
    config, train, validation = run.config, corpus.train, corpus.validation
    shown = sample_rows(len(validation), tensorboard.MOST_EXAMPLE_ROWS)
    if run.device.is_chief:
        tensorboard.write_hparams(run.folder / "tensorboard", config, f"{config.name}/{run.folder.name}")
    return train_model(
        model,
        (train.token_ids, train.labels, train.weights),
        (validation.token_ids, validation.labels),
        config.train,
        config.text.sequence_length,
        run.folder,
        tensorboard.Examples(shown, list(validation.take(shown).texts), corpus.class_names),
        padding,
        run.device,
        copy,
    )


def _find_bucket(run: Run) -> Bucket:
    """Returns and notes which lengths batches are padded to: the batches follow from it, so a resumed run keeps it."""
    bucket = run_folder.read_manifest(run.folder).get("bucket")
    if bucket is None:
        config = run.config
        bucket = find_bucket(config.train, config.text.sequence_length, fixed=run.device.kind == "tpu")
        run.note(bucket=bucket)
    return tuple(bucket) if isinstance(bucket, list) else bucket


def _show_words(model: keras.Model, predict, run: Run, corpus: Corpus):
    names = corpus.tokenizer.vocabulary, corpus.class_names
    with run_folder.only_shown("words in TensorBoard's projector", "The run goes on."):
        tensorboard.write_projector(run.folder / "tensorboard", model, predict, *names)


def _calibrate(probabilities: np.ndarray, run: Run, corpus: Corpus) -> dict:
    labels = corpus.validation.labels
    calibration = fit_calibration(labels, probabilities, run.config.evaluation.abstain_precisions)
    files.write_json(run.folder / "calibration.json", calibration)
    run.note(temperature=calibration["temperature"])
    return calibration


def _export(model: keras.Model, trained: TrainedRun, run: Run, corpus: Corpus):
    saved_model.export_model(model, corpus.tokenizer, corpus.class_names, run.config, run.folder)
    run.note(parameters=model.count_params(), training=dataclasses.asdict(trained))
    print(
        f"trained in {trained.seconds:.0f} s; kept epoch {trained.best_epoch} of {trained.epochs_run}; "
        f"{trained.padding_fraction:.1%} of the positions in a batch are padding\n",
        flush=True,
    )


def _score(predicted: dict[str, np.ndarray], calibration: dict, run: Run, corpus: Corpus) -> Result:
    """Scores the predicted parts, validation and perhaps test; writes and shows what was found."""
    config, class_names = run.config, corpus.class_names
    parts = {name: corpus.parts[name] for name in predicted}
    scores = {n: compute_scores(parts[n].labels, predicted[n], class_names, calibration) for n in parts}
    # The temperature was fitted on these very rows: on others it is as good as this says.
    crossed = cross_fit_temperature(corpus.validation.labels, predicted["validation"])
    scores["validation"]["calibrated"]["cross_fitted"] = crossed
    with run_folder.only_shown("scores in TensorBoard", "The run goes on; metrics.json has them."):
        tensorboard.write_hparams_scores(run.folder / "tensorboard", scores["validation"], step=config.train.epochs)
    scores |= _score_baselines(parts, predicted, run, corpus)
    scored = {n: ScoredPart(part.texts, part.lines, part.labels, predicted[n]) for n, part in parts.items()}
    result = Result(class_names, scored, scores, calibration)
    result.write(run.folder)
    print(format_run_scores(result))
    return result


def _score_baselines(parts: dict, predicted: dict[str, np.ndarray], run: Run, corpus: Corpus) -> dict:
    """Returns what metrics.json says of the baselines, fitted and scored on the same rows."""
    config, class_names = run.config, corpus.class_names
    # The baselines keep their texts in memory, so a sample must do for a large part.
    rows = {n: sample_rows(len(part), config.baselines.max_rows, config.data.seed) for n, part in corpus.parts.items()}
    compared = {name: parts[name].take(rows[name]) for name in parts}
    print(f"baselines: {', '.join(config.baselines.models)}", flush=True)
    train = corpus.train.take(rows["train"])
    found, notes = baselines.predict_baselines(train, compared, len(class_names), config.baselines.models)
    ours = {name: predicted[name][rows[name]] for name in parts}
    beside = {
        name: {
            baseline: {
                **compute_metrics(compared[name].labels, p, class_names),
                "against_this_model": compare_predictions(compared[name].labels, p, ours[name]),
            }
            for baseline, p in found[name].items()
        }
        for name in parts
    }
    sampled = {
        name: {"rows": len(rows[name]), "this_model": compute_metrics(compared[name].labels, ours[name], class_names)}
        for name in parts
        if len(rows[name]) < len(parts[name])
    }
    last = list(parts)[-1]
    return {
        "baselines": beside[last],
        "baselines_part": last,
        "validation_baselines": beside["validation"],
        "baselines_train_rows": len(rows["train"]),
        "baselines_notes": notes,
        "sampled": sampled,
    }
