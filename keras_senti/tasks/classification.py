"""The steps of a classifier's training before and after the fit: see `train.train_run`."""

import dataclasses

import keras
import numpy as np

from keras_senti.data.batches import predict_in_batches
from keras_senti.data.dataset import EncodedDataset, sample_rows
from keras_senti.data.token_cache import Corpus
from keras_senti.evaluation import baselines
from keras_senti.evaluation.calibration import compute_scores, cross_fit_temperature, fit_calibration
from keras_senti.evaluation.metrics import compare_predictions, compute_metrics
from keras_senti.evaluation.predictions import ScoredPart
from keras_senti.evaluation.result import Result
from keras_senti.export import saved_model
from keras_senti.export.weights_folder import Pretrained
from keras_senti.models.build import build_model
from keras_senti.models.weights import name_weights
from keras_senti.reports import attribution
from keras_senti.reports.terminal import format_run_scores
from keras_senti.storage import files, run_folder
from keras_senti.tasks.evaluate import write_run_report
from keras_senti.tasks.start import begin
from keras_senti.training.callbacks import TrainedRun
from keras_senti.training.fit import find_batching
from keras_senti.training.inference import make_predict
from keras_senti.training.run import Run


def build(run: Run, corpus: Corpus) -> keras.Model:
    """Returns the network with first weights by the seed."""
    kernel = begin(run, corpus, few_shapes=find_batching(run).fixed_lengths is not None)
    sizes = len(corpus.tokenizer.vocabulary), len(corpus.class_names)
    with run.device.scope():
        return build_model(run.config.model, *sizes, kernel, run.config.device.precision)


def predict(model: keras.Model, run: Run, corpus: Corpus) -> dict[str, np.ndarray]:
    """Returns the probabilities (rows, classes) of the parts that are to be scored: validation, and perhaps test."""
    parts = {"validation": corpus.validation}
    if run.config.train.evaluate_test and len(corpus.parts["test"]):
        parts["test"] = corpus.parts["test"]
    return {name: predict_in_batches(make_predict(model), part.token_ids) for name, part in parts.items()}


def calibrate(predicted: dict[str, np.ndarray], run: Run, corpus: Corpus) -> dict:
    """Returns the content of calibration.json, fitted on the validation part."""
    labels = corpus.validation.labels
    calibration = fit_calibration(labels, predicted["validation"], run.config.evaluation.abstain_precisions)
    files.write_json(run.folder / "calibration.json", calibration)
    run.note(temperature=calibration["temperature"])
    return calibration


def export(model: keras.Model, trained: TrainedRun, run: Run, corpus: Corpus):
    """Writes model.keras and saved_model/, and says how training went."""
    saved_model.export_model(model, corpus.tokenizer, corpus.class_names, run.config, run.folder)
    run.note(parameters=model.count_params(), training=dataclasses.asdict(trained))
    print(
        f"trained in {trained.seconds:.0f} s; kept epoch {trained.best_epoch} of {trained.epochs_run}; "
        f"{trained.padding_fraction:.1%} of the positions in a batch are padding\n",
        flush=True,
    )


def score(predicted: dict[str, np.ndarray], calibration: dict, run: Run, corpus: Corpus) -> Result:
    """Scores the predicted parts, validation and perhaps test; writes and shows what was found."""
    class_names = corpus.class_names
    parts = {name: corpus.parts[name] for name in predicted}
    scores = {n: compute_scores(parts[n].labels, predicted[n], class_names, calibration) for n in parts}
    # The temperature was fitted on these very rows: on others it is as good as this says.
    crossed = cross_fit_temperature(corpus.validation.labels, predicted["validation"])
    scores["validation"]["calibrated"]["cross_fitted"] = crossed
    run.log_scores(scores["validation"])
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
    ours = {name: predicted[name][rows[name]] for name in parts}
    compared = {name: _take(parts[name], rows[name], ours[name]) for name in parts}
    print(f"baselines: {', '.join(config.baselines.models)}", flush=True)
    train = _take(corpus.train, rows["train"], None)
    found, notes = baselines.predict_baselines(train, compared, len(class_names), config.baselines.models)
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


def _take(part: EncodedDataset, rows: np.ndarray, probabilities: np.ndarray | None) -> ScoredPart:
    return ScoredPart(part.texts.take(rows), part.lines[rows], part.labels[rows], probabilities)


def draw_report(model: keras.Model, result: Result, run: Run, corpus: Corpus):
    """Draws report.html of a finished run, its surest mistakes coloured; a fault in it is a warning."""
    with run_folder.only_shown("report.html", f"`python evaluate.py --run {run.folder}` draws it again."):
        weights = {name: variable.numpy() for name, variable in name_weights(model).items()}
        trained = Pretrained(run.config, corpus.tokenizer.vocabulary, corpus.class_names, weights)
        write_run_report(run.folder, result, attribution.make_explainer(trained).color_words)
