from pathlib import Path

import numpy as np
import pytest

from keras_senti.config import TrainConfig
from keras_senti.models import build_model
from keras_senti.parsing import parse_config
from keras_senti.training import compile_model

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("**/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_builds_and_trains_one_step(path):
    config = parse_config(["--config", str(path)])
    assert config.name == path.stem
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


@pytest.mark.parametrize("name,optimizer", [("document", "adam"), ("document_review", "adamw")])
def test_the_documents_settings_are_the_documents(name, optimizer):
    config = parse_config(["--config", f"configs/{name}.yaml"])
    train = config.train
    assert (train.optimizer, train.learning_rate, train.schedule) == (optimizer, 0.001, "constant")
    assert (train.batch_size, train.epochs, config.text.sequence_length) == (64, 10, 100)
    assert (config.data.validation_fraction, train.label_smoothing, train.clip_norm) == (0.2, 0.0, None)
    assert train.warmup_fraction == 0 and train.class_weights == TrainConfig().class_weights == "none"
