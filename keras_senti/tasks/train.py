"""The whole way from settings to a model."""

from pathlib import Path

from keras_senti.settings.schema import Config
from keras_senti.tasks.checks import check_on_device, check_run
from keras_senti.tasks.classification import draw_report, train_classifier
from keras_senti.tasks.language_model import pretrain
from keras_senti.tasks.session import open_run
from keras_senti.training import devices


def train_run(config: Config) -> Path | None:
    """Trains, exports and scores as the settings say; prints what happens and returns the run folder.

    Of several workers only the chief has one; the others return None.

    With `config.resume` (see `parse_config`), it does what is left of the run in that folder.

    Raises:
        UserError: for settings or data that cannot work, mostly before a folder is made; after that the manifest says
            `failed`.
    """
    config = check_run(config)
    device = devices.set_up_device(config.device, needs_one=config.task == "language_model")
    check_on_device(config, device)
    with open_run(config, device) as (run, corpus, pretrained):
        if config.task == "language_model":
            pretrain(run, corpus, pretrained)
        else:
            trained = train_classifier(run, corpus, pretrained)
        run.finish()
        if config.task == "classification" and device.is_chief:
            draw_report(run, corpus, *trained)
    return run.folder if device.is_chief else None
