"""Trains, exports and scores a classifier in an open run folder."""

import dataclasses
from pathlib import Path

import keras
import numpy as np

from keras_senti.data.batches import Bucket, find_bucket, predict_in_batches
from keras_senti.data.token_cache import Corpus
from keras_senti.evaluation import baselines
from keras_senti.evaluation.calibration import compute_scores, cross_fit_temperature, fit_calibration
from keras_senti.evaluation.metrics import compare_predictions, compute_metrics
from keras_senti.evaluation.predictions import write_run_predictions
from keras_senti.export import saved_model
from keras_senti.export.weights_folder import Pretrained
from keras_senti.models.build import build_model
from keras_senti.reports.terminal import format_run_scores
from keras_senti.settings.schema import Config
from keras_senti.storage import files, run_folder
from keras_senti.tasks.start import begin, fill
from keras_senti.training import devices, tensorboard
from keras_senti.training.callbacks import TrainedRun
from keras_senti.training.fit import make_predict, train_model


def train_classifier(
    config: Config, corpus: Corpus, pretrained: Pretrained | None, device: devices.Device, run_dir: Path
):
    splits, encoder, encoded = corpus.splits, corpus.encoder, corpus.encoded
    bucket = _find_bucket(config, device, run_dir)
    kernel = begin(config, corpus, device, run_dir, few_shapes=bucket is not True)
    sizes = len(encoder.vocabulary), len(splits.class_names)
    with device.scope():
        model = build_model(config.model, *sizes, kernel, config.device.precision)
        fill(model, config, corpus, pretrained, run_dir)
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
    bucket = run_folder.read_manifest(run_dir).get("bucket")
    if bucket is None:
        bucket = find_bucket(config.train, config.text.sequence_length, fixed=device.kind == "tpu")
        run_folder.update_manifest(run_dir, bucket=bucket)
    return tuple(bucket) if isinstance(bucket, list) else bucket


def _export_and_score(model: keras.Model, trained: TrainedRun, config: Config, corpus: Corpus, run_dir: Path):
    splits, encoder, encoded = corpus.splits, corpus.encoder, corpus.encoded
    board = run_dir / "tensorboard"
    predict = make_predict(model)
    with run_folder.only_shown("words in TensorBoard's projector", "The run goes on."):
        tensorboard.write_projector(board, model, predict, encoder.vocabulary, splits.class_names)
    predicted = {"validation": predict_in_batches(predict, encoded["validation"])}
    precisions = config.evaluation.abstain_precisions
    calibration = fit_calibration(splits.validation.labels, predicted["validation"], precisions)
    files.write_json(run_dir / "calibration.json", calibration)
    run_folder.update_manifest(run_dir, temperature=calibration["temperature"])
    saved_model.export_model(model, encoder, splits.class_names, config, run_dir)
    run_folder.update_manifest(run_dir, parameters=model.count_params(), training=dataclasses.asdict(trained))
    print(
        f"trained in {trained.seconds:.0f} s; kept epoch {trained.best_epoch} of {trained.epochs_run}; "
        f"{trained.padding_fraction:.1%} of the positions in a batch are padding\n",
        flush=True,
    )
    if config.train.evaluate_test and len(splits.test):
        predicted["test"] = predict_in_batches(predict, encoded["test"])
    _score(predicted, calibration, corpus, config, run_dir)


def _score(predicted: dict[str, np.ndarray], calibration: dict, corpus: Corpus, config: Config, run_dir: Path):
    """Scores the predicted parts, validation and perhaps test; writes predictions.csv and metrics.json."""
    splits, class_names = corpus.splits, corpus.splits.class_names
    parts = {name: splits.parts()[name] for name in predicted}
    scores = {n: compute_scores(parts[n].labels, predicted[n], class_names, calibration) for n in parts}
    # The temperature was fitted on these very rows: on others it is as good as this says.
    crossed = cross_fit_temperature(splits.validation.labels, predicted["validation"])
    scores["validation"]["calibrated"]["cross_fitted"] = crossed
    write_run_predictions(run_dir / "predictions.csv", parts, predicted, class_names)
    with run_folder.only_shown("scores in TensorBoard", "The run goes on; metrics.json has them."):
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
                **compute_metrics(compared[name].labels, p, class_names),
                "against_this_model": compare_predictions(compared[name].labels, p, predicted[name][rows[name]]),
            }
            for baseline, p in beside[name].items()
        }
        for name in parts
    }
    sampled = {
        name: {
            "rows": len(rows[name]),
            "this_model": compute_metrics(compared[name].labels, predicted[name][rows[name]], class_names),
        }
        for name in parts
        if len(rows[name]) < len(parts[name])
    }
    last = list(parts)[-1]
    files.write_json(
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
