"""What both tasks begin with: seeds, the kernel, and the first weights."""

import keras

from keras_senti.data import word_vectors
from keras_senti.data.token_cache import Corpus
from keras_senti.export.transfer import copy_weights
from keras_senti.export.weights_folder import Pretrained
from keras_senti.models import kernel_choice
from keras_senti.training.run import Run


def begin(run: Run, corpus: Corpus, few_shapes: bool) -> str:
    """Fixes the seeds and returns the recurrent kernel; both go into the manifest."""
    config, device = run.config, run.device
    encoded = {name: part.token_ids for name, part in corpus.parts.items()}
    run.note(
        device=device.line,
        seeds={"data": config.data.seed, "train": config.train.seed},
        vocabulary_size=len(corpus.tokenizer.vocabulary),
        unknown_fraction=corpus.unknown,
    )
    keras.utils.set_random_seed(config.train.seed)
    dtype = keras.DTypePolicy(config.device.precision).compute_dtype
    settings = {**vars(config.model), "dtype": dtype, "few_shapes": few_shapes}
    kernel, reason = kernel_choice.choose_kernel(device.kind, settings)
    if config.device.kernel != "auto" and not kernel_choice.find_obstacle(settings):
        kernel, reason = config.device.kernel, "as device.kernel says"
    print(f"recurrent kernel: {kernel} ({reason})", flush=True)
    run.note(kernel=kernel, precision=config.device.precision)
    tokens = ", ".join(f"{len(e.flat):,} in the {name} part" for name, e in encoded.items() if len(e.flat))
    print(f"{len(corpus.tokenizer.vocabulary):,} tokens in the vocabulary; {tokens}; {device.line}")
    return kernel


def fill(model: keras.Model, run: Run, corpus: Corpus, pretrained: Pretrained | None):
    """Gives a new model the weights that the settings name, and prints what it consists of."""
    config = run.config
    if pretrained:
        class_names = corpus.class_names if config.task == "classification" else ()
        with run.device.scope():
            print(f"init_from: {copy_weights(pretrained, model, class_names)}")
    if config.text.word_vectors is not None and not run.has_checkpoint:
        flat = corpus.train.token_ids.flat
        path, vocabulary = config.text.word_vectors, corpus.tokenizer.vocabulary
        with run.device.scope():
            coverage = word_vectors.load_word_vectors(model, path, vocabulary, flat, config.train.seed)
        run.note(word_vectors=coverage)
    model.summary(line_length=80)
