"""What throughput.py times of prediction and start-up."""

import time
from pathlib import Path

import numpy as np
from document_model import CLASS_NAMES, LENGTH, ROWS, build_keras, read_settings
from end_to_end import ROOT
from workers import Workers, run_alone

SINGLE = (1, 200)  # ids of one text
BULK_ROWS = 128  # of batches.predict_in_batches; Keras' predict gets as many


def export_ours(folder: Path, units: int):
    """Writes a run folder with our SavedModel, untrained: its speed is that of a trained one."""
    from keras_senti.data.tokenizer import Tokenizer
    from keras_senti.export import saved_model
    from keras_senti.models import build
    from keras_senti.settings.command_line import parse_config
    from keras_senti.settings.yaml_file import write_yaml
    from keras_senti.storage import files

    arguments = ["--config", str(ROOT / "configs" / "document.yaml"), "--text.sequence_length", str(LENGTH)]
    config = parse_config([*arguments, "--model.units", str(units)])
    tokenizer = Tokenizer(config.text, ["[PAD]", "[UNK]", *(f"w{i}" for i in range(config.text.max_tokens - 2))])
    folder.mkdir()
    files.write_text(folder / "config.yaml", write_yaml(config))
    files.write_json(folder / "class_names.json", list(CLASS_NAMES))
    files.write_json(folder / "calibration.json", {"temperature": 1.0, "abstain": []})
    tokenizer.save(folder / "vocabulary.txt")
    model = build.build_model(config.model, len(tokenizer.vocabulary), len(CLASS_NAMES))
    saved_model.export_model(model, tokenizer, CLASS_NAMES, config, folder)


def export_keras(folder: Path, units: int):
    """Writes a SavedModel of plain Keras with an endpoint for ids, and one for the shape that start_single asks for."""
    import tensorflow as tf

    model = build_keras(20_000, units, trains=False, use_cudnn=False)
    served = tf.Module()
    served.kept = [variable.value for variable in model.variables]
    served.tokens, served.one_text = (
        tf.function(lambda ids: {"probabilities": model(ids, training=False)}, [tf.TensorSpec(shape, tf.int32, "ids")])
        for shape in ((None, None), SINGLE)
    )
    tf.saved_model.save(served, str(folder), {"tokens": served.tokens, "one_text": served.one_text})


def start_bulk(ids_file: Path, folder: Path, system: str):
    """Returns a function that predicts all texts once."""
    import tensorflow as tf

    from keras_senti.data.batches import predict_in_batches
    from keras_senti.data.dataset import EncodedTexts
    from keras_senti.export import saved_model

    with np.load(ids_file) as file:
        encoded = EncodedTexts(file["flat"], file["offsets"])
    if system == "ours":
        loaded = saved_model.load(folder)
        return lambda: predict_in_batches(loaded.predict_token_ids, encoded)
    model = build_keras(20_000, trains=False)
    padded = encoded.pad(np.arange(len(encoded)), LENGTH)
    if system == "keras_predict":
        return lambda: model.predict(padded, batch_size=BULK_ROWS, verbose=0)
    batches = [tf.constant(padded[begin : begin + BULK_ROWS]) for begin in range(0, len(padded), BULK_ROWS)]
    return lambda: [np.asarray(model(ids)) for ids in batches]


def start_single(folder: Path, system: str):
    """Returns a function that predicts one text: ours | keras | litert | onnx_runtime (from Keras' model)."""
    import tensorflow as tf

    ids = np.random.default_rng(0).integers(2, 20_000, SINGLE, dtype=np.int32)
    if system == "litert":
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["one_text"])
        run = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner("one_text")
        return lambda: run(ids=ids)
    loaded = tf.saved_model.load(str(folder))
    if system == "onnx_runtime":
        import onnxruntime
        import tf2onnx

        model, _ = tf2onnx.convert.from_function(loaded.one_text, [tf.TensorSpec(SINGLE, tf.int32, "ids")])
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"ids": ids})
    ids = tf.constant(ids)
    return lambda: np.asarray(loaded.tokens(ids)["probabilities"])


def time_bulk(encoded, folder: Path, texts: int, repeats: int) -> list[dict]:
    rows = np.random.default_rng(0).permutation(len(encoded))[:texts]
    flat = np.concatenate([encoded.flat[encoded.offsets[i] : encoded.offsets[i + 1]] for i in rows])
    flat = np.where(flat < 20_000, flat, 1)
    ids_file = folder.parent / "ids.npz"
    np.savez(ids_file, flat=flat, offsets=np.concatenate([[0], np.cumsum(encoded.lengths[rows])]))
    workers, systems = Workers(), ("ours", "keras_predict", "keras_call")
    workers.build({system: (start_bulk, ids_file, folder, system) for system in systems})
    seconds = {system: [] for system in systems}
    for _ in range(repeats):
        for system in systems:
            seconds[system].append(workers.time(system, 1))
    entries = []
    for system, times in seconds.items():
        ratios = np.divide(times, seconds["ours"])
        entry = {"name": f"bulk, {system}", "texts": len(rows), "texts_per_second": len(rows) / np.median(times)}
        entry["quartiles"] = (len(rows) / np.percentile(times, (75, 25))).tolist()
        entries.append({**entry, "ours_is_times_as_fast": float(np.median(ratios))})
    return entries


def time_single(folders: dict[str, Path], units: int, rounds: int) -> list[dict]:
    """Times calls in blocks of ten, of which the first, after the other systems' calls, does not count."""
    workers, milliseconds, reasons = Workers(), {}, {}
    for system, folder in folders.items():
        try:
            workers.build({system: (start_single, folder, system)})
            milliseconds[system] = []
        except SystemExit as error:  # not installed, or the converter does not take the model
            if system in ("ours", "keras"):
                raise
            reasons[system] = str(error).strip().splitlines()[-1][:200]
    for _ in range(rounds):
        for system, times in milliseconds.items():
            times += [1000 * workers.time(system, 1) for _ in range(10)][1:]
    entries = []
    for system, times in milliseconds.items():
        p50, p99 = np.percentile(times, (50, 99))
        entries.append({"name": f"one text, {units} units, {system}", "p50_ms": p50, "p99_ms": p99, "reason": None})
    for system, reason in reasons.items():
        entry = {"name": f"one text, {units} units, {system}", "p50_ms": None, "p99_ms": None}
        entries.append({**entry, "reason": reason})
    return entries


def start_up(what: str, folder: Path | None) -> float:
    """Returns seconds; runs in a fresh process."""
    begin = time.perf_counter()
    from keras_senti.export import saved_model

    imported = time.perf_counter()
    if what == "import":
        return imported - begin
    ids, labels = np.full((ROWS, 100), 2, np.int32), np.eye(2, dtype=np.float32)[np.zeros(ROWS, int)]
    if what == "load":
        saved_model.load(folder).predict(["w1 w2 w3"])
    elif what == "keras":
        build_keras(10_000).train_on_batch(ids, labels)
    else:
        from keras_senti.models import build
        from keras_senti.settings.schema import ModelConfig, TrainConfig
        from keras_senti.training import fit

        settings = {"bidirectional": False, "pooling": "last", "embedding_dropout": 0.0}
        config = ModelConfig(dropout=0.2, recurrent_dropout=0.2, **settings)
        model = build.build_model(config, 10_000, len(CLASS_NAMES), what)
        fit.compile_model(model, TrainConfig(), total_steps=1)
        model.train_on_batch(ids, labels)
    return time.perf_counter() - imported


def time_startup(folder: Path, repeats: int) -> list[dict]:
    titles = {
        "import": "import of workflow, TensorFlow and Keras",
        "loop": "build and first step, ours, loop",
        "xla": "build and first step, ours, xla (compiles)",
        "keras": "build and first step, plain Keras",
        "load": "load of our SavedModel and first prediction",
    }
    seconds = {what: [] for what in titles}
    for _ in range(repeats):
        for what, times in seconds.items():
            times.append(run_alone(start_up, what, folder))
    return [
        {"name": titles[what], "seconds": float(np.median(times)), "all": sorted(times)}
        for what, times in seconds.items()
    ]


def time_inference(imdb: str, folder: Path, options) -> list[dict]:
    from keras_senti.data.token_cache import load_corpus

    encoded = load_corpus(read_settings(imdb)).parts["train"].token_ids
    entries = []
    for units in (100, 512):
        folders = {"ours": folder / f"ours-{units}" / "saved_model", "keras": folder / f"keras-{units}"}
        run_alone(export_ours, folder / f"ours-{units}", units)
        run_alone(export_keras, folders["keras"], units)
        folders["litert"] = folders["onnx_runtime"] = folders["keras"]
        if units == 100:
            entries += time_bulk(encoded, folder / "ours-100", options.texts, options.repeats)
        entries += time_single(folders, units, 6 * options.repeats)
    return entries
