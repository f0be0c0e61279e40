"""Trains a language model in an open run folder."""

import dataclasses

from keras_senti.export.weights_folder import Pretrained, write_weights_folder
from keras_senti.models.build import build_language_model
from keras_senti.models.weights import name_weights
from keras_senti.reports.terminal import format_run_scores
from keras_senti.storage import files
from keras_senti.tasks.session import Run, describe_data
from keras_senti.tasks.start import begin, fill
from keras_senti.training.pretraining import train_language_model


def pretrain(run: Run):
    """Builds, fits and scores a language model; its encoder is left in the run's folder as weights."""
    config, corpus = run.config, run.corpus
    vocabulary, unread = corpus.encoder.vocabulary, corpus.splits.check["dropped_rows"].get("no label")
    if unread and corpus.splits.unlabeled is None:
        print(f"{unread:,} rows without label are not read; to read them, name their file as data.unlabeled_csv too")
    kernel = begin(run, few_shapes=True)
    model = build_language_model(config, len(vocabulary), kernel)
    fill(model, run)
    read = [corpus.encoded[name] for name in ("train", "unlabeled") if name in corpus.encoded]
    trained, scores = train_language_model(model, read, corpus.encoded["validation"], vocabulary, config, run.folder)
    weights = {name: variable.numpy() for name, variable in name_weights(model).items()}
    learned = Pretrained(config, vocabulary, (), weights, data=describe_data(corpus))
    write_weights_folder(run.folder / "encoder", learned)
    files.write_json(run.folder / "metrics.json", scores)
    run.note(
        parameters=model.count_params(),
        training=dataclasses.asdict(trained),
        validation_perplexity=scores["validation"]["perplexity"],
    )
    print(
        f"trained in {trained.seconds:.0f} s; best epoch {trained.best_epoch} of {trained.epochs_run}\n\n"
        f"{format_run_scores(run.folder)}",
        flush=True,
    )
