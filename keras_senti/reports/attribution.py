"""Why a prediction: what each token did to it, and what the model would have said had the text ended there.

1. Integrated gradients of f = log p(class) on the token vectors x_t (the embedding's output), summed over entries i:

       a_t = Σ_i (x_ti - x'_ti) ∫_0^1 ∂f(x' + α (x - x')) / ∂x_ti dα        so that Σ_t a_t = f(x) - f(x')

   The reference x' has the vector of padding at every position while the mask stays the text's: a text just as long
   that says nothing. That the sum is right ("completeness") is checked, to 1%, and more steps are taken if it is not.
   With model.bigram_buckets x_t holds the vector of the pair (t - 1, t) too, so a pair counts for its second token.
2. Occlusion: f(text) - f(text with the vector of padding in place of this token, the mask kept). Both pairs that the
   token is in go with it. What several tokens say together shows in neither of them alone.
3. Attention, where the model pools by it: where it looks, not what it makes of it.
4. The course: the probabilities of every class after each token, which are those of the text that ends there.

References: Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, equation 1 and proposition 1 (there the integral
    is a sum over equal steps, here Gauss-Legendre quadrature, which needs fewer); Li et al. 2016,
    https://arxiv.org/abs/1612.08220 (occlusion; there relative to f); Jain & Wallace 2019,
    https://aclanthology.org/N19-1357 (why attention alone is no explanation).
"""

import dataclasses
import inspect
import unicodedata
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_senti.data.tokenizer import UNKNOWN, Tokenizer, encode_utf8
from keras_senti.data.unicode import make_simplifier
from keras_senti.errors import UserError, suggest
from keras_senti.export.weights_folder import Pretrained, read_pretrained
from keras_senti.models.build import build_model
from keras_senti.models.layers import BigramEmbedding
from keras_senti.models.pooling import AttentionPooling
from keras_senti.models.weights import assign_weights

# Of the integral. Of 300 tweets and a model each, 32 steps sufficed for 300 (two-directional GRU), 298 (the same with
# convolution, pairs and attention) and 258 (one-directional LSTM), of 20 film reviews for 12; 128 for all of them.
STEPS, MOST_STEPS = 32, 256
TOLERANCE, LEAST_TOLERANCE = 0.01, 1e-3  # relative to f(x) - f(x'); absolute where that is small: 0.1% of p
# Tokens in memory at once, as rows of one batch: the backward pass keeps all states, 30 kB a token with 512 units.
GRADIENT_TOKENS, READ_TOKENS = 10_000, 32_768
# Variants of one text, for occlusion and for the course: one for each token up to 400, fewer for a long text.
MOST_VARIANTS, FEWEST_VARIANTS, VARIANT_TOKENS = 400, 10, 500_000
_IDS, _MASK = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None), tf.bool)
_NUMBERS, _INDEX = tf.TensorSpec((None,), tf.float32), tf.TensorSpec((), tf.int32)


@dataclass(frozen=True)
class Explanation:
    """What is known of one prediction. T tokens are read, C classes.

    tokens: as the model reads them, but unknown ones as they were written. is_unknown: (T,) bool, read as [UNK].
    spaces: what is shown before each token, " " or "".
    probabilities: (C,). class_index: of the class that is explained.
    gradients: (T,), integrated gradients of log p of that class. log_probability, reference: f(x), f(x').
    steps: of the integral.
    occlusion: (T,), the same for occluded tokens. attention: (T,), adds up to 1; None without AttentionPooling.
    positions, course: (P,) tokens read so far, (P, C) the probabilities then; the last row is the whole text.
    notes: what a reader must know, sentences.
    """

    tokens: tuple[str, ...]
    is_unknown: np.ndarray
    spaces: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    class_index: int
    gradients: np.ndarray
    log_probability: float
    reference: float
    steps: int
    occlusion: np.ndarray
    attention: np.ndarray | None
    positions: np.ndarray
    course: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def pieces(self) -> list[str]:
        """Each token with the space before it."""
        return [space + token for space, token in zip(self.spaces, self.tokens)]

    @property
    def class_name(self) -> str:
        return self.class_names[self.class_index]

    @property
    def difference(self) -> float:
        """f(x) - f(x'), which the integrated gradients should sum to."""
        return self.log_probability - self.reference


class Explainer:
    """Explains the predictions of one model.

    Args:
        model: a keras.Sequential of an embedding, any layers, and a Dense softmax. It must have no dropout, as
            `make_explainer` sees to: it is called with training=True, where the gradients of `kernels` are used.
        tokenizer: turns texts into its ids. class_names: by index.
    """

    def __init__(self, model: keras.Sequential, tokenizer: Tokenizer, class_names):
        self.tokenizer, self.class_names = tokenizer, tuple(class_names)
        embedding, *others, head = model.layers
        self.has_pairs = isinstance(embedding, BigramEmbedding)
        takes_mask = [("mask" in inspect.signature(layer.call).parameters) for layer in others]

        def run(vectors, mask, training):
            """(batch, time, features), (batch, time) → log p (batch, classes), attention (batch, time) or None."""
            states, attention = vectors, None
            for layer, with_mask in zip(others, takes_mask):
                if isinstance(layer, AttentionPooling):
                    attention = layer.compute_attention(states, mask)[:, :, 0]
                states = layer(states, training=training, **({"mask": mask} if with_mask else {}))
            # Not log(softmax): a probability may be 0 in float32.
            logits = tf.matmul(tf.cast(states, tf.float32), head.kernel) + head.bias
            return tf.nn.log_softmax(logits), attention

        @tf.function(input_signature=[_IDS, _MASK])
        def read(ids, mask):
            return run(embedding(ids), mask, training=False)

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32), _NUMBERS, _NUMBERS, _INDEX])
        def integrate(ids, points, weights, class_index):
            reference = embedding(tf.zeros_like(ids)[tf.newaxis])
            way = embedding(ids[tf.newaxis]) - reference  # (1, time, features)
            vectors = reference + points[:, tf.newaxis, tf.newaxis] * way
            with tf.GradientTape() as tape:
                tape.watch(vectors)
                found, _ = run(vectors, tf.ones(tf.shape(vectors)[:2], tf.bool), training=True)
                found = tf.reduce_sum(found[:, class_index])  # rows do not depend on each other
            gradients = tape.gradient(found, vectors)
            return tf.reduce_sum(tf.tensordot(weights, gradients, 1) * way[0], axis=-1)

        self._read, self._integrate = read, integrate
        # Traced and compiled here, so that the first text is as fast as the others.
        self._read([[1, 1]], [[True, True]])
        self._integrate([1, 1], [0.5], [1.0], 0)

    def explain(self, text: str, class_name: str | None = None) -> Explanation:
        """Explains one text.

        Args:
            class_name: whose log probability is explained; None: the predicted one's.
        Raises:
            UserError: for a class that the model does not have.
        """
        if class_name is not None and class_name not in self.class_names:
            raise UserError(
                f"--explain_class: received '{class_name}', but this model knows {', '.join(self.class_names)}."
                f"{suggest(class_name, self.class_names)}"
            )
        ids, tokens, spaces, total = self._split(text)
        log_probabilities, attention = self._read(ids[np.newaxis], np.ones((1, len(ids)), bool))
        probabilities = np.exp(log_probabilities[0])
        index = self.class_names.index(class_name) if class_name is not None else int(probabilities.argmax())
        gradients, actual, reference, steps = self.integrate_gradients(ids, index)
        occlusion, width = self.occlude(ids, index)
        positions, course = self.follow_course(ids)
        explanation = Explanation(
            tokens=tokens,
            is_unknown=ids == 1,
            spaces=spaces,
            class_names=self.class_names,
            probabilities=probabilities,
            class_index=index,
            gradients=gradients,
            log_probability=actual,
            reference=reference,
            steps=steps,
            occlusion=occlusion,
            attention=None if attention is None else attention[0].numpy(),
            positions=positions,
            course=course,
        )
        return dataclasses.replace(explanation, notes=tuple(self._collect_notes(explanation, total, width)))

    def color_words(self, texts: list[str], class_indices) -> list[list[tuple[str, float]]]:
        """Returns each text as [(piece, weight), ...]: a token with the space before it, and its integrated gradient.

        Args:
            class_indices: of each text the class that is explained.
        """
        found = []
        for text, index in zip(texts, tqdm(class_indices, "colouring words", unit=" texts", delay=2)):
            ids, tokens, spaces, _ = self._split(text)
            weights = self.integrate_gradients(ids, int(index))[0].tolist()
            found.append([(space + token, weight) for space, token, weight in zip(spaces, tokens, weights)])
        return found

    def _split(self, text: str) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...], int]:
        """Returns the ids that the model reads (T,), their tokens as they were written, the spaces before them, and how
        many tokens the whole text has."""
        texts = encode_utf8([text])
        ids = np.asarray(self.tokenizer.encode(texts)[0])
        tokens = self.tokenizer.split(texts)
        total, tokens = int(tokens.row_lengths()[0]), self.tokenizer.cut(tokens)[0].numpy()
        tokens = tuple(token.decode("utf-8") for token in tokens) or (UNKNOWN,)
        return ids, tokens, _find_spaces(tokens, self.tokenizer.settings.split == "character"), total

    def _collect_notes(self, explanation: Explanation, total: int, width: int) -> list[str]:
        settings, notes, read = self.tokenizer.settings, [], len(explanation.tokens)
        if total == 0:
            notes.append(f"Nothing of the text is left after cleaning, so the model reads one {UNKNOWN}.")
        elif total > read:
            part = {"tail": "first", "head": "last", "both": "middle"}[settings.truncate]
            notes.append(
                f"The text has {total:,} tokens; the model reads, and this explains, the {part} {read:,} "
                f"(text.sequence_length, text.truncate: {settings.truncate})."
            )
        if total and explanation.is_unknown.any():
            words = list(dict.fromkeys(t for t, u in zip(explanation.tokens, explanation.is_unknown) if u))
            more = f" and {len(words) - 10:,} more" if len(words) > 10 else ""
            notes.append(f"Not in the vocabulary, so read as {UNKNOWN}: {', '.join(words[:10])}{more}.")
        if self.has_pairs:
            notes.append(
                "This model has vectors for pairs of neighbouring tokens. Integrated gradients count a pair for its "
                "second token; occluding a token takes both of its pairs away."
            )
        found, expected = explanation.gradients.sum(), explanation.difference
        if not _is_complete(found, expected):
            notes.append(
                f"WARNING: even with {explanation.steps} steps the integrated gradients sum to {found:+.3f} instead of "
                f"{expected:+.3f}. Take them as rough, and look at the occlusion."
            )
        if width > 1:
            notes.append(
                f"The text is long: {width} neighbouring tokens at once are occluded and share the value; the course "
                f"has a point for every {width} tokens."
            )
        return notes

    def integrate_gradients(self, ids: np.ndarray, class_index: int) -> tuple[np.ndarray, float, float, int]:
        """Returns a_t (T,), f(x), f(x') and the steps taken, which are doubled until the sum is right, to MOST_STEPS.

        Args:
            ids: (T,) int32, without padding.
        """
        both = np.stack([ids, np.zeros_like(ids)])
        actual, reference = (float(row[class_index]) for row in self._read_all(both, np.ones(both.shape, bool)))
        rows, steps = max(1, GRADIENT_TOKENS // len(ids)), STEPS
        most = max(STEPS, min(MOST_STEPS, VARIANT_TOKENS // len(ids)))
        while True:
            points, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
            points, weights = ((points + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)
            values = np.zeros(len(ids))
            for begin in _show(range(0, steps, rows), "integrating gradients"):
                part = slice(begin, begin + rows)
                values += self._integrate(ids, points[part], weights[part], class_index).numpy()
            if _is_complete(values.sum(), actual - reference) or 2 * steps > most:
                return values, actual, reference, steps
            steps *= 2

    def occlude(self, ids: np.ndarray, class_index: int) -> tuple[np.ndarray, int]:
        """Returns (what f loses without each token (T,), tokens occluded at once: 1 but for long texts)."""
        width = _choose_width(len(ids))
        begins = np.arange(0, len(ids), width)
        position = np.arange(len(ids))
        hidden = (position >= begins[:, None]) & (position < begins[:, None] + width)
        variants = np.concatenate([ids[np.newaxis], np.where(hidden, 0, ids)])
        found = self._read_all(variants, np.ones(variants.shape, bool))[:, class_index]
        return ((found[0] - found[1:]) / hidden.sum(axis=1))[position // width], width

    def follow_course(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (tokens read so far (P,), probabilities of the text that ends there (P, C))."""
        width = _choose_width(len(ids))
        positions = np.unique(np.append(np.arange(width, len(ids) + 1, width), len(ids)))
        mask = np.arange(len(ids)) < positions[:, None]
        return positions, np.exp(self._read_all(np.where(mask, ids, 0), mask))

    def _read_all(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Returns log p (rows, C) for ids and mask (rows, T), True = real token; as many rows at once as fit."""
        rows, found = max(1, READ_TOKENS // ids.shape[1]), []
        for begin in _show(range(0, len(ids), rows), "reading"):
            part, longest = slice(begin, begin + rows), mask[begin : begin + rows].sum(axis=1).max()
            found.append(self._read(ids[part, :longest], mask[part, :longest])[0].numpy())
        return np.concatenate(found)


def _show(batches, what: str):
    return tqdm(batches, what, unit=" batches", delay=2, leave=False, disable=None)


def _choose_width(tokens: int) -> int:
    """Returns how many tokens a variant of the text differs by, so that reading all variants takes bounded time."""
    return -(-tokens // max(FEWEST_VARIANTS, min(MOST_VARIANTS, VARIANT_TOKENS // tokens)))


def _is_complete(found: float, expected: float) -> bool:
    return bool(abs(found - expected) <= max(TOLERANCE * abs(expected), LEAST_TOLERANCE))


def load_explainer(path) -> Explainer:
    """Rebuilds a classifier from a run folder, a SavedModel or a weights folder.

    Raises:
        UserError: if it is none of them, is damaged, or is a language model.
    """
    pretrained = read_pretrained(path)
    if pretrained.is_language_model:
        raise UserError(
            f"{path}: a language model has no classes, so there is no prediction to explain. Fine-tune it with "
            f"`python train.py --init_from {path} --data.csv FILE`, and explain that run."
        )
    return make_explainer(pretrained)


def make_explainer(classifier: Pretrained) -> Explainer:
    """Builds a classifier without its dropout, to explain it."""
    config = classifier.config
    if config.text.simplify_chinese:
        make_simplifier()  # without opencc it says so
    drops = [field.name for field in dataclasses.fields(config.model) if "drop" in field.name]
    settings = dataclasses.replace(config.model, **dict.fromkeys(drops, 0.0))
    model = build_model(settings, len(classifier.vocabulary), len(classifier.class_names))
    assign_weights(model, classifier.weights)
    return Explainer(model, Tokenizer(config.text, classifier.vocabulary), classifier.class_names)


def _find_spaces(tokens, is_character_split: bool) -> tuple[str, ...]:
    """Returns "" before the first token and between two characters of Chinese or Japanese, else " "."""
    is_wide = [len(token) == 1 and unicodedata.east_asian_width(token) in "WF" for token in tokens]
    return ("", *("" if is_character_split or both == (True, True) else " " for both in zip(is_wide, is_wide[1:])))
