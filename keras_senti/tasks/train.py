"""The whole way from settings to a model."""

from pathlib import Path

from keras_senti.settings.schema import Config
from keras_senti.tasks import classification, language_model
from keras_senti.tasks.checks import check_on_device, check_run
from keras_senti.tasks.session import open_run
from keras_senti.tasks.start import fill
from keras_senti.training import devices
from keras_senti.training.fit import train_model


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
            language_model.pretrain(run, corpus, pretrained)
            run.finish()
            return run.folder
        model = classification.build(run, corpus)  # from scratch,
        fill(model, run, corpus, pretrained)  # with weights that were learned before,
        model, trained = train_model(model, corpus, run)  # or, resumed, from the newest checkpoint on
        if device.is_chief:
            predicted = classification.predict(model, run, corpus)
            calibration = classification.calibrate(predicted, run, corpus)
            classification.export(model, trained, run, corpus)
            result = classification.score(predicted, calibration, run, corpus)
        device.wait_for_all()
        run.finish()
        if device.is_chief:
            classification.draw_report(model, result, run, corpus)
    return run.folder if device.is_chief else None
