"""The document's model for IMDB: its settings, and in plain Keras."""

from end_to_end import ROOT

LENGTH, ROWS, CLASS_NAMES = 400, 64, ("negative", "positive")


def read_settings(imdb: str, *arguments: str):
    """Returns the Config of the document's model for IMDB."""
    from keras_senti.settings.command_line import parse_config

    fixed = f"--data.source imdb --data.validation_fraction 0.1 --text.sequence_length {LENGTH}".split()
    cache = ["--data.cache_dir", str(ROOT / "logs" / "cache")]
    config = str(ROOT / "configs" / "document.yaml")
    return parse_config(["--config", config, *fixed, *cache, "--data.csv", imdb, *arguments])


def build_keras(vocabulary_size: int, units: int = 100, trains: bool = True, **arguments):
    """Returns the document's model in plain Keras, without dropout if it never trains.

    Its mask makes padding on the right harmless.
    """
    import keras

    dropout = 0.2 if trains else 0.0
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(vocabulary_size, 128, mask_zero=True),
            keras.layers.LSTM(units, dropout=dropout, recurrent_dropout=dropout, **arguments),
            keras.layers.Dense(len(CLASS_NAMES), activation="softmax"),
        ]
    )
    if trains:
        model.compile(keras.optimizers.Adam(0.001), "categorical_crossentropy", metrics=["accuracy"])
    return model
