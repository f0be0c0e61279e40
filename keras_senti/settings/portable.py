"""Settings that mean the same in another folder or on another machine."""

import dataclasses
import os

from keras_senti.errors import UserError
from keras_senti.settings.schema import Config, DataConfig
from keras_senti.settings.yaml_text import read_text

MOST_STOP_WORDS = (5_000, 50_000)  # words, and bytes of their file, which a config can hold however it writes them


def read_words(setting: str | list[str]) -> list[str]:
    """Returns the words of `text.stop_words`: of a file, or those in the list.

    Raises:
        UserError: if the file is missing or not UTF-8, or there is no word.
    """
    try:
        content = "\n".join(setting) if isinstance(setting, list) else read_text(setting)
    except (OSError, ValueError) as error:
        raise UserError(
            f"text.stop_words: received '{setting}', expected `english` or a UTF-8 file with one word a line ({error})."
        ) from None
    words = content.lower().replace("’", "'").split()
    if not words:
        raise UserError(f"text.stop_words: {setting} holds no word. Leave the setting out to keep all words.")
    if len(words) > MOST_STOP_WORDS[0] or len(content.encode()) > MOST_STOP_WORDS[1]:
        raise UserError(
            f"text.stop_words: received {len(words):,} words, expected at most {MOST_STOP_WORDS[0]:,}, in "
            f"{MOST_STOP_WORDS[1]:,} bytes: the settings of the run hold them. Leave rare words out."
        )
    return words


def resolve_paths(config: Config) -> Config:
    """Returns the settings as a run folder keeps them: no path is relative, and stop words are there themselves.

    So a run means the same in every working directory, and needs no file but its data.
    """
    names = ("csv", "validation_csv", "test_csv", "unlabeled_csv", "cache_dir")
    data = {name: os.path.abspath(path) for name in names if (path := getattr(config.data, name))}
    words, vectors = config.text.stop_words, config.text.word_vectors
    return dataclasses.replace(
        config,
        init_from=config.init_from and os.path.abspath(config.init_from),
        data=dataclasses.replace(config.data, **data),
        text=dataclasses.replace(
            config.text,
            word_vectors=vectors and os.path.abspath(vectors),
            stop_words=words if words in (None, "english") else read_words(words),
        ),
    )


def without_paths(config: Config) -> Config:
    """Returns the settings without what names a file or folder of this machine.

    They say how a model reads and was made, and can be read by `read_config`, but train nothing by themselves.
    """
    nowhere = dict.fromkeys(("csv", "validation_csv", "test_csv", "unlabeled_csv"))
    return dataclasses.replace(
        config,
        run_dir=None,
        init_from=None,
        resume=None,
        data=dataclasses.replace(config.data, **nowhere, cache_dir=DataConfig.cache_dir),
        text=dataclasses.replace(config.text, word_vectors=None, extend_vocabulary=0),  # which goes with init_from
    )
