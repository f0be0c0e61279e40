"""Trains a language model in an open run folder."""

import dataclasses

from keras_senti.data.token_cache import Corpus
from keras_senti.export.weights_folder import Pretrained, write_weights_folder
from keras_senti.models.build import build_language_model
from keras_senti.models.weights import name_weights
from keras_senti.reports.terminal import format_perplexity
from keras_senti.storage import files
from keras_senti.tasks.session import describe_data
from keras_senti.tasks.start import begin, fill
from keras_senti.training.pretraining import train_language_model
from keras_senti.training.run import Run


def pretrain(run: Run, corpus: Corpus, pretrained: Pretrained | None):
    """Builds, fits and scores a language model; its encoder is left in the run's folder as weights."""
    config = run.config
    vocabulary, unread = corpus.tokenizer.vocabulary, corpus.check["dropped_rows"].get("no label")
    if unread and "unlabeled" not in corpus.parts:
        print(f"{unread:,} rows without label are not read; to read them, name their file as data.unlabeled_csv too")
    kernel = begin(run, corpus, few_shapes=True)
    model = build_language_model(config, len(vocabulary), kernel)
    fill(model, run, corpus, pretrained)
    trained, scores = train_language_model(model, corpus, run)
    weights = {name: variable.numpy() for name, variable in name_weights(model).items()}
    learned = Pretrained(config, vocabulary, (), weights, data=describe_data(corpus))
    write_weights_folder(run.folder / "encoder", learned)
    files.write_json(run.folder / "metrics.json", scores)
    run.log_scores(scores["validation"])
    run.note(
        parameters=model.count_params(),
        training=dataclasses.asdict(trained),
        validation_perplexity=scores["validation"]["perplexity"],
    )
    print(
        f"trained in {trained.seconds:.0f} s; best epoch {trained.best_epoch} of {trained.epochs_run}\n\n"
        f"{format_perplexity(scores)}",
        flush=True,
    )
