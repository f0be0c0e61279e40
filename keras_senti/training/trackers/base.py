"""What every tracker is told of a run."""

import keras

from keras_senti.data.token_cache import Corpus
from keras_senti.settings.schema import Config


class Tracker:
    """Follows a run; each of its methods is called for every tracker of `Run.trackers`, by the chief alone.

    What is only shown must not cost a run what it has learned: a tracker warns of what fails (`run_folder.only_shown`).
    """

    def log_settings(self, config: Config, name: str):
        """Called before training begins, again when a run is resumed. name: of the run, among others."""

    def make_callback(self, corpus: Corpus, validate=None) -> keras.callbacks.Callback:
        """Returns what is called while the model is trained on this corpus; one that looks at the model may be more.

        validate: of a classifier, a `callbacks.Validate`, which has the probabilities of the validation part.
        """
        return keras.callbacks.LambdaCallback(on_epoch_end=self.log_epoch)

    def log_epoch(self, epoch: int, logs: dict):
        """Called after each epoch, counted from 0, with all that history.csv says of it."""

    def log_model(self, model: keras.Model, corpus: Corpus):
        """Called when training is over and the model has its best weights."""

    def log_scores(self, scores: dict):
        """Called at the end, with the validation scores that metrics.json has."""

    def close(self):
        """Called when the run has ended, however it did."""
