"""Characters in the TensorFlow graph: composed accents, full-width forms, traditional Chinese; and scripts."""

import functools
import re
import unicodedata

import numpy as np
import tensorflow as tf

from keras_senti.errors import UserError

_RANGES = {
    "Chinese or Japanese": "\u3040-\u30ff\u3400-\u9fff",
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Burmese": "\u1000-\u109f",
    "Khmer": "\u1780-\u17ff",
}
FULL_WIDTH = r"[\x{FF01}-\x{FF5E}\x{3000}]"
CODES = 2**21  # more than there are code points


def fold_full_width(texts: tf.Tensor) -> tf.Tensor:
    """U+FF01 to U+FF5E are ASCII 0x21 to 0x7E, moved by 0xFEE0; U+3000 is the ideographic space."""
    folded = np.arange(0x10000, dtype=np.int32)
    folded[0xFF01:0xFF5F] -= 0xFEE0
    folded[0x3000] = 0x20
    return map_characters(texts, folded)


def map_characters(texts: tf.Tensor, table: np.ndarray) -> tf.Tensor:
    """Replaces each character below U+10000 by table[its code point]; table: (65536,) int32."""
    characters = tf.strings.unicode_decode(texts, "UTF-8")
    code = characters.flat_values
    code = tf.where(code < len(table), tf.gather(table, tf.minimum(code, len(table) - 1)), code)
    return tf.strings.unicode_encode(characters.with_flat_values(code), "UTF-8")


def compose(texts: tf.Tensor) -> tf.Tensor:
    """Joins letters and the accents that follow them into one character each, as Unicode's NFC does.

    An accent that does not follow at once, as behind another one that joins nothing, stays. So do characters that NFC
    replaces by others or takes apart. Texts (batch,) without such accents cost one search for them.
    """
    has_marks = tf.reduce_any(tf.strings.regex_full_match(texts, rf"(?s).*[{_make_compositions()[2]}].*"))
    return tf.cond(has_marks, lambda: _compose(texts), lambda: texts)


def _compose(texts: tf.Tensor) -> tf.Tensor:
    keys, values, _ = _make_compositions()
    characters = tf.strings.unicode_decode(texts, "UTF-8")
    for _ in range(3):  # accents on one letter
        code, row = characters.flat_values, characters.value_rowids()
        following = tf.concat([tf.where(row[1:] == row[:-1], code[1:], 0), tf.zeros_like(code[:1])], 0)
        pair = tf.cast(code, tf.int64) * CODES + tf.cast(following, tf.int64)
        index = tf.minimum(tf.searchsorted(keys, pair), len(keys) - 1)
        joined = tf.where(tf.gather(keys, index) == pair, tf.gather(values, index), 0)
        # Hangul has a formula: 19 initials, 21 vowels, and 27 finals or none (The Unicode Standard, 3.12).
        initial, vowel, final, syllable = code - 0x1100, following - 0x1161, following - 0x11A7, code - 0xAC00
        has_vowel = (initial >= 0) & (initial < 19) & (vowel >= 0) & (vowel < 21)
        joined = tf.where(has_vowel, 0xAC00 + (initial * 21 + vowel) * 28, joined)
        has_final = (syllable >= 0) & (syllable < 11172) & (syllable % 28 == 0) & (final > 0) & (final < 28)
        joined = tf.where(has_final, code + final, joined)
        stays = tf.concat([tf.ones_like(joined[:1], tf.bool), joined[:-1] == 0], 0)
        code = tf.where(joined > 0, joined, code)
        characters = tf.ragged.boolean_mask(characters.with_flat_values(code), characters.with_flat_values(stays))
    return tf.strings.unicode_encode(characters, "UTF-8")


@functools.cache
def _make_compositions() -> tuple[np.ndarray, np.ndarray, str]:
    """Returns what two characters compose to, but for Hangul, and the second ones as a class of characters for RE2.

    Returns: ((pairs,) int64 ascending, first · _CODES + second; (pairs,) int32, the character they make; the class).
    """
    made = {}
    for code in range(0xC0, 0x3100):  # beyond are Hangul, what NFC does not compose, and a few rare scripts
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and parts[0][0] != "<" and unicodedata.normalize("NFC", chr(code)) == chr(code):
            first, second = (int(part, 16) for part in parts)
            made[first, second] = code
    seconds = sorted({second for _, second in made})
    for first in set(made.values()):  # accents in another order: â and a dot below, which is ạ and a circumflex
        for second in seconds:
            if len(both := unicodedata.normalize("NFC", chr(first) + chr(second))) == 1:
                made[first, second] = ord(both)
    pairs = sorted((first * CODES + second, code) for (first, second), code in made.items())
    keys, values = (np.array(column) for column in zip(*pairs))
    marks = "".join(rf"\x{{{code:X}}}" for code in seconds) + r"\x{1161}-\x{1175}\x{11A8}-\x{11C2}"
    return keys.astype(np.int64), values.astype(np.int32), marks


@functools.cache
def make_simplifier() -> np.ndarray:
    """Returns (65536,) int32, the code point of the simplified form of each traditional Chinese character.

    One character at a time, as OpenCC's table `t2s` has it; its tables of phrases are not used.

    Raises:
        UserError: if the package opencc is not installed.
    """
    try:
        import opencc
    except ImportError:
        raise UserError(
            "text.simplify_chinese: needs the package opencc, which is not installed. "
            'Install it: python -m pip install -e ".[chinese]"'
        ) from None
    convert = opencc.OpenCC("t2s").convert
    table = np.arange(0x10000, dtype=np.int32)
    for code in range(0x3400, 0xA000):
        if len(simplified := convert(chr(code))) == 1 and ord(simplified) < len(table):
            table[code] = ord(simplified)
    return table


def find_script_without_spaces(texts: list[str]) -> str | None:
    """Returns the script, written without spaces between words, that most letters of the texts are of, or None."""
    letters = "".join(c for t in texts for c in t if c.isalpha())
    for name, ranges in _RANGES.items():
        if len(re.findall(f"[{ranges}]", letters)) > len(letters) / 2:
            return name
    return None
