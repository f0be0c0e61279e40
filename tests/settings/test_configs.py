import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_senti.data.reading import load_splits
from keras_senti.data.sources import prepare_source
from keras_senti.data.tokenizer import PADDING, UNKNOWN
from keras_senti.export.weights_folder import Pretrained, write_weights_folder
from keras_senti.models.build import build_language_model, build_model, find_learning_layers
from keras_senti.models.weights import EMBEDDINGS
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.schema import TrainConfig
from keras_senti.training.fit import compile_model
from keras_senti.training.optimizers import make_optimizer

PADDED = [PADDING, UNKNOWN]
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))  # search/ has spaces, not configs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_builds_and_trains_one_step(path):
    config = parse_config(["--config", str(path), "--init_from", "null"])  # which a fine-tuning config needs
    assert config.name == path.stem
    if config.task == "language_model":
        model = build_language_model(dataclasses.replace(config, train=TrainConfig(batch_size=4)), vocabulary_size=50)
        optimizer = make_optimizer(config.train, total_steps=10, layers=find_learning_layers(model))
        model.compile(optimizer, jit_compile=False)
        ids = np.arange(24, dtype=np.int32).reshape(4, 6) + 2
        before = model.get_weights()
        assert np.isfinite(
            model.train_step([tf.constant(a) for a in (ids, ids + 1, np.ones((4, 6), np.float32))])["loss"]
        )
        assert all((new != old).any() for new, old in zip(model.get_weights(), before))
        return
    model = build_model(config.model, vocabulary_size=50, num_classes=3)
    compile_model(model, config.train, total_steps=10)
    ids = np.arange(24, dtype=np.int32).reshape(4, 6) + 2
    before = [w.copy() for w in model.get_weights()]
    loss = model.train_on_batch(ids, np.eye(3, dtype=np.float32)[[0, 1, 2, 0]])[0]
    assert np.isfinite(loss)
    assert any((new != old).any() for new, old in zip(model.get_weights(), before))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_opens_with_its_command(path):
    opening = path.read_text(encoding="utf-8").split("\nname:")[0]
    assert opening.startswith("# ") and f"python train.py --config configs/{path.name}" in opening


@pytest.mark.parametrize("name", ["tweets", "reviews_zh"])
def test_from_scratch_differs_from_fine_tuning_by_init_from_and_schedule_only(name, tmp_path):
    # What the fine-tuned model takes from its encoder is in the language model's config.
    pretrained = parse_config(["--config", f"configs/{name}_language_model.yaml"])
    size = len(PADDED) + 1, pretrained.model.embedding_dim
    write_weights_folder(tmp_path / "encoder", Pretrained(pretrained, PADDED + ["a"], (), {EMBEDDINGS: np.zeros(size)}))
    tuned = parse_config(["--config", f"configs/{name}_fine_tune.yaml", "--init_from", str(tmp_path / "encoder")])
    scratch = parse_config(["--config", f"configs/{name}_from_scratch.yaml"])
    assert (tuned.data, tuned.text, tuned.model) == (scratch.data, scratch.text, scratch.model)
    assert tuned.data == pretrained.data  # the language model reads this train part
    schedule = ("schedule", "layer_rate_decay", "train_from_epoch", "learning_rate", "warmup_fraction")
    same = {key: getattr(scratch.train, key) for key in schedule}
    assert dataclasses.replace(tuned.train, **same) == scratch.train


def test_the_language_model_of_the_tweets_reads_exactly_the_train_part_of_their_classifier():
    found = {}
    for name in ("tweets_language_model", "tweets_fine_tune", "tweets_from_scratch"):
        config = parse_config(["--config", f"configs/{name}.yaml", "--init_from", "null"])
        splits = load_splits(prepare_source(config.data, config.task))
        assert len(splits.train) == 24_422 and splits.unlabeled is None
        found[name] = splits.check["split_sha256"]
    assert found["tweets_language_model"] == found["tweets_fine_tune"] == found["tweets_from_scratch"]


@pytest.mark.parametrize("name,optimizer", [("document", "adam"), ("document_review", "adamw")])
def test_the_documents_settings_are_the_documents(name, optimizer):
    config = parse_config(["--config", f"configs/{name}.yaml"])
    train = config.train
    assert (train.optimizer, train.learning_rate, train.schedule) == (optimizer, 0.001, "constant")
    assert (train.batch_size, train.epochs, config.text.sequence_length) == (64, 10, 100)
    assert (config.data.validation_fraction, train.label_smoothing, train.clip_norm) == (0.2, 0.0, None)
    assert train.warmup_fraction == 0 and train.class_weights == TrainConfig().class_weights == "none"
