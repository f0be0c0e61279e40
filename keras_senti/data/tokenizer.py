"""From a raw string to token ids: standardise, split, look up, cut and pad, all in the TensorFlow graph.

There is one implementation. Training calls it eagerly, the SavedModel holds the same operations, so both see the same
ids. Words: `token_ids` (batch, time) int32; id 0 is padding, id 1 is [UNK], an unknown token.
"""

import heapq
import re
import unicodedata
from collections import Counter
from pathlib import Path

import keras
import tensorflow as tf
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from keras_senti.data.unicode import FULL_WIDTH, compose, fold_full_width, make_simplifier, map_characters
from keras_senti.errors import UserError
from keras_senti.settings.portable import read_words
from keras_senti.settings.schema import TextConfig
from keras_senti.storage.files import write_text

PADDING, UNKNOWN = "[PAD]", "[UNK]"
MOST_TOKENS = 3_600_000  # `layers.BigramEmbedding` can hash no more
URL_TOKEN, MENTION_TOKEN = "[URL]", "[USER]"
# Removing these would turn "not good" into "good".
NEGATIONS = frozenset("against cannot cant couldnt hasnt neither never no nobody none nor not nothing nowhere without "
                      "but however few less least".split())  # fmt: skip
# The graph has no HTML parser and no callback for a match, so the common entities are a list.
HTML_ENTITIES = {
    "amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " ", "hellip": "…", "mdash": "—",
    "ndash": "–", "lsquo": "‘", "rsquo": "’", "ldquo": "“", "rdquo": "”", "euro": "€", "pound": "£", "copy": "©",
    "eacute": "é", "egrave": "è", "agrave": "à", "ccedil": "ç", "auml": "ä", "ouml": "ö", "uuml": "ü", "szlig": "ß",
    "ntilde": "ñ", "#34": '"', "#38": "&", "#39": "'", "#039": "'", "#x27": "'", "#60": "<", "#62": ">", "#160": " ",
    "#8211": "–", "#8212": "—", "#8216": "‘", "#8217": "’", "#8220": "“", "#8221": "”", "#8230": "…",
}  # fmt: skip
_SPACES = r"[\s\p{Z}\x{FFFD}]+"
_INVISIBLE = r"[\p{Cf}\x{FE00}-\x{FE0F}]"  # zero-width marks, joiners, variation selectors
_TAG = r"<!--.*?-->|</?[A-Za-z][^<>]*>"  # "<3" and "a < b" are no tags
_ANY_ENTITY = r"&(?:[A-Za-z][A-Za-z0-9]*|#[0-9]+|#[xX][0-9A-Fa-f]+);"
_URL = r"(?i)\b(?:https?://|www\.)[!-~]+"  # ASCII only: Chinese text may follow without a space
_MENTION = r"(^|[^\pL\pN_@.])@[\pL\pN_]+"  # not in name@example.org; a {1,30} here runs RE2 out of memory
_APOSTROPHE = r"([\pL\pN])['’]([\pL\pN])"
_LETTER_APOSTROPHE = "ʼ"  # U+02BC counts as a letter, so it survives the splitting of punctuation
_PLACEHOLDER = r"\[URL\]|\[USER\]"
# Scripts whose words have no spaces between them; a vowel sign or tone mark stays with the letter that bears it.
_UNSPACED = "Thai Lao Khmer Myanmar Tai_Le New_Tai_Lue Tai_Tham Tai_Viet Javanese Balinese".split()
_WITHOUT_SPACES = (
    r"([\p{Han}\p{Hiragana}\p{Katakana}]|(?:"
    + "|".join(rf"[^\P{{{script}}}\p{{M}}\p{{N}}]" for script in _UNSPACED)  # of the script, no mark, no digit
    + r")\p{M}*)"
)


def read_stop_words(setting: str | list[str]) -> list[str]:
    """Returns the words that `text.stop_words` names; see `read_words` for what can be wrong."""
    if setting == "english":
        return sorted(word for word in ENGLISH_STOP_WORDS if word not in NEGATIONS)
    return [unicodedata.normalize("NFC", word) for word in read_words(setting)]


def standardize(texts: tf.Tensor, settings: TextConfig) -> tf.Tensor:
    """Cleans raw strings; tokens and punctuation are separated by single spaces afterwards.

    Args:
        texts: (batch,) string, any bytes.
    Returns: (batch,) string, valid UTF-8, possibly empty.
    """
    replace = tf.strings.regex_replace
    # RE2 leaves a string alone that is not UTF-8, and tf.strings.lower ends a string at a NUL: so this comes first.
    texts = tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", replacement_char=32, replace_control_characters=settings.strip_control_characters
    )
    texts = replace(texts, r"\x00", " ")
    if settings.strip_control_characters:
        texts = replace(replace(texts, r"\p{Cc}", " "), _INVISIBLE, "")
    texts = compose(texts)
    if settings.fold_full_width:
        texts = _change_where(texts, FULL_WIDTH, fold_full_width)
    if settings.simplify_chinese:
        texts = map_characters(texts, make_simplifier())
    if settings.lowercase:  # before the tokens [URL] and [USER], which nobody can type then
        texts = tf.strings.lower(texts, encoding="utf-8")
    if settings.strip_html_tags:
        texts = replace(texts, _TAG, " ")
    if settings.decode_html_entities:
        texts = _change_where(texts, "&", _decode_html_entities)
    if settings.urls != "keep":
        texts = replace(texts, _URL, f" {URL_TOKEN} " if settings.urls == "token" else " ")
    if settings.mentions != "keep":
        texts = replace(texts, _MENTION, rf"\1 {MENTION_TOKEN} " if settings.mentions == "token" else r"\1 ")
    if settings.digits == "drop":
        texts = replace(texts, r"\p{Nd}", " ")
    for _ in range(2):  # twice: matches do not overlap, and rock'n'roll has two around one letter
        texts = replace(texts, _APOSTROPHE, rf"\1{_LETTER_APOSTROPHE}\2")
    if settings.punctuation == "drop":
        texts = replace(texts, rf"({_PLACEHOLDER})|[\p{{P}}\p{{Sm}}\p{{Sc}}\p{{Sk}}]", r" \1 ")
    texts = replace(texts, rf"({_PLACEHOLDER})|([\p{{P}}\p{{S}}])", r" \1\2 ")
    texts = replace(texts, _LETTER_APOSTROPHE, "'")
    return tf.strings.strip(replace(texts, _SPACES, " "))


def _change_where(texts: tf.Tensor, pattern: str, change) -> tf.Tensor:
    """Applies a change to those texts that hold the pattern: of a slow change, most need none."""
    rows = tf.where(tf.strings.regex_full_match(texts, f"(?s).*{pattern}.*"))
    return tf.tensor_scatter_nd_update(texts, rows, change(tf.gather_nd(texts, rows)))


def _decode_html_entities(texts: tf.Tensor) -> tf.Tensor:
    # &amp; first, and twice, because what was escaped twice, as many tweets are, is to be decoded twice.
    for name, character in [("amp", "&"), *HTML_ENTITIES.items()]:
        texts = tf.strings.regex_replace(texts, f"&{name};", character)
    return tf.strings.regex_replace(texts, _ANY_ENTITY, " ")


def split_tokens(texts: tf.Tensor, settings: TextConfig) -> tf.RaggedTensor:
    """Splits standardised strings (batch,) into tokens (batch, None) string, stop words removed."""
    if settings.split == "character":
        tokens = tf.strings.unicode_split(texts, "UTF-8")
    else:
        if settings.split == "mixed":
            texts = tf.strings.regex_replace(texts, _WITHOUT_SPACES, r" \1 ")
        tokens = tf.strings.split(texts)
    if settings.stop_words is not None:
        # No look-up table, which the graph would have to carry: one regular expression that a stop word fills.
        words = "|".join(re.escape(word) for word in read_stop_words(settings.stop_words))
        tokens = tf.ragged.boolean_mask(
            tokens, tokens.with_flat_values(~tf.strings.regex_full_match(tokens.flat_values, words))
        )
    return tokens


class Tokenizer:
    """Strings to token ids, around `keras.layers.TextVectorization`, with a fixed vocabulary.

    Calling it: (batch,) string → (batch, time) int32, padded with 0 on the right to the longest text of the batch.
    A text that cleans to nothing becomes one [UNK], because an all-padding row stops cuDNN and has no mean.

    Args:
        settings: how text is cleaned, split and cut.
        vocabulary: tokens by id, [PAD] and [UNK] first.
    """

    def __init__(self, settings: TextConfig, vocabulary: list[str]):
        check_vocabulary(vocabulary)
        self.settings, self.vocabulary = settings, list(vocabulary)
        self.vectorizer = keras.layers.TextVectorization(
            standardize=lambda texts: standardize(texts, settings),
            split=lambda texts: split_tokens(texts, settings),
            ragged=True,
            vocabulary=_compose_tokens(self.vocabulary[2:]),
            name="text",
        )

    def __call__(self, texts) -> tf.Tensor:
        return self.encode(texts).to_tensor(0)

    def encode(self, texts) -> tf.RaggedTensor:
        """Returns the ids without padding, (batch, None) int32."""
        ids = self.cut(self.vectorizer(texts))
        empty = tf.cast(ids.row_lengths() == 0, tf.int64)
        one_unknown = tf.RaggedTensor.from_row_lengths(tf.ones([tf.reduce_sum(empty)], ids.dtype), empty)
        return tf.cast(tf.concat([ids, one_unknown], axis=1), tf.int32)

    def split(self, texts) -> tf.RaggedTensor:
        """Returns the tokens, (batch, None) string, before `cut`: what `encode` looks up, unknown ones as written."""
        return split_tokens(standardize(tf.convert_to_tensor(texts), self.settings), self.settings)

    def cut(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        """Returns the part of each row, of ids or strings, that is read: text.sequence_length tokens at most."""
        limit = self.settings.sequence_length
        if self.settings.truncate == "tail":
            return tokens[:, :limit]
        if self.settings.truncate == "head":
            return tokens[:, -limit:]
        surplus = tf.maximum(tokens.row_lengths() - limit, 0)
        begin = surplus // 2
        position = tf.ragged.range(tokens.row_lengths())
        keep = (position >= begin[:, None]) & (position < (begin + limit)[:, None])
        return tf.ragged.boolean_mask(tokens, keep)

    def save(self, path: Path):
        """Writes the vocabulary, one token a line; the line number, counted from 0, is the id."""
        write_text(path, "\n".join(self.vocabulary) + "\n")

    @classmethod
    def load(cls, settings: TextConfig, path: Path) -> "Tokenizer":
        return cls(settings, read_vocabulary(path))


def read_vocabulary(path: Path) -> list[str]:
    """Reads what `Tokenizer.save` writes.

    Raises:
        UserError: if it cannot be read, or has more than MOST_TOKENS.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the vocabulary cannot be read: {error}.") from None
    if content.count("\n") > MOST_TOKENS:
        raise UserError(f"{path}: received {content.count(chr(10)):,} lines, expected at most {MOST_TOKENS:,} tokens.")
    return content.removesuffix("\n").split("\n")


def check_vocabulary(vocabulary: list[str], where="vocabulary"):
    """Raises a UserError unless it begins with [PAD] and [UNK], has another token, and none twice; where: its file."""
    if list(vocabulary[:2]) != [PADDING, UNKNOWN]:
        raise UserError(f"{where}: received {list(vocabulary[:2])} first, expected {[PADDING, UNKNOWN]}.")
    if len(vocabulary) < 3:
        raise UserError(
            f"{where}: the train texts clean to nothing, so there is no token to learn. Check data.text_column "
            "and what the text settings drop."
        )
    if len(set(vocabulary)) < len(vocabulary):
        twice = next(token for token, count in Counter(vocabulary).items() if count > 1)
        raise UserError(f"{where}: received the token {twice!r} twice, expected each once.")


def _compose_tokens(tokens: list[str]) -> list[str]:
    """Returns the tokens as `standardize` leaves them now: an older vocabulary may hold letters apart from accents."""
    known = set(tokens)
    for i, token in enumerate(tokens):
        if not token.isascii() and not unicodedata.is_normalized("NFC", token):
            composed = compose(tf.constant([token])).numpy()[0].decode()
            if composed not in known:
                known.add(composed)
                tokens = [*tokens[:i], composed, *tokens[i + 1 :]]
    return tokens


def fit_vocabulary(settings: TextConfig, batches) -> list[str]:
    """Returns the most frequent tokens, [PAD] and [UNK] first; of equally frequent ones the last by the alphabet.

    Args:
        batches: an iterable of lists of texts, of the train part only; read once and never kept.
    """
    counts = Counter()
    for texts in batches:
        texts = tf.constant(encode_utf8(texts), tf.string)
        counts.update(split_tokens(standardize(texts, settings), settings).flat_values.numpy().tolist())
    kept = heapq.nlargest(settings.max_tokens - 2, counts, key=lambda token: (counts[token], token))
    return [PADDING, UNKNOWN, *(token.decode() for token in kept)]


def encode_utf8(texts) -> list[bytes]:
    """A lone surrogate (half an emoji in JSON) is not UTF-8; standardising replaces it like any damaged byte."""
    return [text.encode("utf-8", "surrogatepass") for text in texts]
