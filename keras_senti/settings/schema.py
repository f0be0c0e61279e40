"""All settings of a run, and the names of their keys."""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Annotated, Literal

from keras_senti.settings.sections import (
    BaselinesConfig,
    DataConfig,
    DeviceConfig,
    EvaluationConfig,
    ModelConfig,
    PretrainConfig,
    TextConfig,
    TrainConfig,
)
from keras_senti.settings.values import Limit, Settings

FOLDER_NAME = Limit(
    "letters, digits, '-', '_' and '.', because it names a folder",
    lambda name: name.strip(".") and all(c.isalnum() or c in "-_." for c in name),
)


@dataclass(frozen=True)
class Config(Settings):
    """All settings of a run."""

    name: Annotated[str, FOLDER_NAME] = "run"
    """Name of the recipe; runs go to logs/<name>/<UTC time>."""
    task: Literal["classification", "language_model"] = "classification"
    """classification: learn labels; language_model: learn to predict the next token, labels unread, and leave an
    encoder for init_from."""
    run_dir: str | None = None
    """Folder of this run, instead of logs/<name>/<UTC time>. One that is not empty is refused."""
    init_from: str | None = None
    """Run folder, SavedModel or weights folder to train further; of a folder of runs, the newest finished one. Its
    vocabulary, text and model settings are used unless you give others; only dropouts and embedding_trainable may
    differ (from a language model also what it does not have: pooling, text.sequence_length, text.truncate). Other
    classes get a new last layer."""
    resume: str | None = None
    """On the command line only: folder of an unfinished run, which goes on with its own settings. Beside it, only
    train.epochs and device.* can be given."""
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)


SECTIONS = {item.name: item.type for item in dataclasses.fields(Config) if dataclasses.is_dataclass(item.type)}


def list_settings() -> dict[str, dataclasses.Field]:
    """Returns every setting by its dotted key, e.g. "model.units", in the order of the classes."""
    found = {item.name: item for item in dataclasses.fields(Config) if item.name not in SECTIONS}
    return found | {f"{name}.{item.name}": item for name, cls in SECTIONS.items() for item in dataclasses.fields(cls)}


def read_setting(config: Config, key: str):
    """Returns the value of a dotted key."""
    return functools.reduce(getattr, key.split("."), config)
