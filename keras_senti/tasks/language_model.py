"""Trains a language model in an open run folder."""

import dataclasses
from pathlib import Path

from keras_senti.data.token_cache import Corpus
from keras_senti.export.weights_folder import Pretrained, write_compact
from keras_senti.models.build import build_language_model, name_of
from keras_senti.reports.terminal import format_run_scores
from keras_senti.settings.schema import Config
from keras_senti.storage import files, run_folder
from keras_senti.tasks.session import describe_data
from keras_senti.tasks.start import begin, fill
from keras_senti.training import devices
from keras_senti.training.pretraining import train_language_model


def pretrain(config: Config, corpus: Corpus, pretrained: Pretrained | None, device: devices.Device, run_dir: Path):
    vocabulary, unread = corpus.encoder.vocabulary, corpus.splits.check["dropped_rows"].get("no label")
    if unread and corpus.splits.unlabeled is None:
        print(f"{unread:,} rows without label are not read; to read them, name their file as data.unlabeled_csv too")
    kernel = begin(config, corpus, device, run_dir, few_shapes=True)
    sizes = len(vocabulary), config.train.batch_size
    model = build_language_model(config.model, config.pretrain, *sizes, kernel, config.device.precision)
    fill(model, config, corpus, pretrained, run_dir)
    read = [corpus.encoded[name] for name in ("train", "unlabeled") if name in corpus.encoded]
    trained, scores = train_language_model(model, read, corpus.encoded["validation"], vocabulary, config, run_dir)
    weights = {name_of(variable): variable.numpy() for variable in model.weights}
    write_compact(run_dir / "encoder", Pretrained(config, vocabulary, (), weights, data=describe_data(corpus)))
    files.write_json(run_dir / "metrics.json", scores)
    run_folder.update_manifest(
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
