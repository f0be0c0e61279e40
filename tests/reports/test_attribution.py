"""Explanations: worked out by hand where a model allows it, and complete, masked and shown as they are elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import keras
import numpy as np
import pytest

import evaluate as evaluate_command
from keras_senti.data.tokenizer import Tokenizer
from keras_senti.errors import UserError
from keras_senti.export.weights_folder import read_run, write_weights_folder
from keras_senti.models import layers
from keras_senti.models.build import build_model
from keras_senti.models.pooling import AttentionPooling
from keras_senti.reports import attribution, attribution_page
from keras_senti.reports.attribution import Explainer
from keras_senti.settings.schema import ModelConfig, TextConfig
from keras_senti.tasks import evaluate

ROOT = Path(__file__).parents[2]
VOCABULARY = ["[PAD]", "[UNK]", "a", "good", "bad"]
# One entry a vector. Padding has one too: what a word does is its difference from that.
VECTORS = np.array([[0.5], [0.0], [0.5], [2.5], [-1.5]])


def build_explainer(middle, vectors=VECTORS, embedding=None, head=((-0.5, 0.5),), text=None) -> Explainer:
    """Embedding → middle → softmax with classes `no` and `yes`; log odds of `yes` are the difference of the logits."""
    embedding = embedding or keras.layers.Embedding(len(VOCABULARY), 1, mask_zero=True)
    model = keras.Sequential(
        [keras.Input((None,), dtype="int32"), embedding, middle, keras.layers.Dense(2, activation="softmax")]
    )
    embedding.embeddings.assign(vectors)
    model.layers[-1].set_weights([np.array(head), np.zeros(2)])
    return Explainer(model, Tokenizer(text or TextConfig(), VOCABULARY), ["no", "yes"])


@pytest.fixture(scope="module")
def linear() -> Explainer:
    """Log odds of `yes` = mean of the vectors."""
    return build_explainer(keras.layers.GlobalAveragePooling1D())


def log_sigmoid(odds):
    return -np.log1p(np.exp(-np.asarray(odds)))


def test_a_linear_model_is_explained_as_worked_out_by_hand(linear):
    found = linear.explain("good a bad good")
    # The mean is (2.5 + 0.5 - 1.5 + 2.5) / 4 = 1, that of padding 0.5; the words add 0.5, 0, -0.5 and 0.5 to it.
    np.testing.assert_allclose(found.probabilities, [0.268941, 0.731059], atol=1e-6)  # σ(-1), σ(1)
    assert found.class_name == "yes" and found.tokens == ("good", "a", "bad", "good")
    # Along the way f depends on the mean alone, so each word's part of log σ(1) - log σ(0.5) is its part of the mean.
    np.testing.assert_allclose(found.gradients, 0.160815 * np.array([1, 0, -1, 1]), atol=1e-6)
    assert found.difference == pytest.approx(0.160815, abs=1e-6) and found.steps == attribution.STEPS
    # Without "good" the mean is 0.5, without "bad" 1.5.
    np.testing.assert_allclose(found.occlusion, log_sigmoid(1) - log_sigmoid([0.5, 1, 1.5, 0.5]), atol=1e-6)
    np.testing.assert_allclose(found.course[:, 1], np.exp(log_sigmoid([2.5, 1.5, 0.5, 1.0])), atol=1e-6)
    assert found.positions.tolist() == [1, 2, 3, 4] and found.attention is None and found.notes == ()


def test_the_words_of_a_text_are_weighed_for_the_class_that_is_asked_for(linear):
    first, second = linear.color_words(["Good a bad good", ""], [1, 0])
    assert [piece for piece, _ in first] == ["good", " a", " bad", " good"]
    np.testing.assert_allclose([w for _, w in first], 0.160815 * np.array([1, 0, -1, 1]), atol=1e-6)
    assert [piece for piece, _ in second] == ["[UNK]"]


def test_another_class_can_be_asked_for_and_an_unknown_one_is_named(linear):
    found = linear.explain("good", "no")
    assert found.class_name == "no" and found.gradients[0] == pytest.approx(log_sigmoid(-2.5) - log_sigmoid(-0.5))
    with pytest.raises(UserError, match=r"--explain_class: received 'yess', .* knows no, yes\. Did you mean 'yes'\?"):
        linear.explain("good", "yess")


def test_a_pair_counts_for_its_second_token_and_occlusion_takes_both_of_a_tokens_pairs_away():
    embedding = layers.BigramEmbedding(len(VOCABULARY), 1, buckets=1009, mask_zero=True)
    explainer = build_explainer(keras.layers.GlobalAveragePooling1D(), 0 * VECTORS, embedding)
    pairs = {(3, 4): 3.0, (4, 2): 6.0}  # "good bad", "bad a"
    table = np.zeros((1009, 1))
    for (before, now), value in pairs.items():
        table[(before * 65521 + now) % 1009] = value
    embedding.bigrams.assign(table)
    found = explainer.explain("good bad a")  # the mean is 3, of which 1 is the pair that ends with "bad", 2 with "a"
    np.testing.assert_allclose(found.gradients, (log_sigmoid(3) - log_sigmoid(0)) * np.array([0, 1, 2]) / 3, atol=1e-5)
    np.testing.assert_allclose(found.occlusion, log_sigmoid(3) - log_sigmoid([2, 0, 1]), atol=1e-5)
    assert "count a pair for its second token" in found.notes[0]


def test_attention_is_shown_as_the_model_has_it():
    pooling = AttentionPooling()
    explainer = build_explainer(pooling)
    pooling.set_weights([np.array([[1.0]]), np.zeros(1), np.array([[2.0]])])
    attention = np.exp(2 * np.tanh([2.5, -1.5, 0.5]))
    found = explainer.explain("good bad a")
    np.testing.assert_allclose(found.attention, attention / attention.sum(), rtol=1e-5)
    assert found.probabilities[1] == pytest.approx(1 / (1 + np.exp(-found.attention @ [2.5, -1.5, 0.5])), rel=1e-5)


ALL = {"bigram_buckets": 7, "conv_filters": 5, "residual": True, "layer_normalization": True, "num_layers": 2}


@pytest.mark.parametrize(
    "cell,pooling,options",
    [
        ("lstm", "last", {"bidirectional": False}),
        ("gru", "concat", {}),
        ("simple_rnn", "max", {"num_layers": 2, "bidirectional": False}),
        ("gru", "last", {"conv_filters": 5}),
        ("lstm", "attention", ALL),
    ],
)
def test_every_kind_of_model_is_explained_completely_and_reads_its_mask(cell, pooling, options):
    keras.utils.set_random_seed(1)
    settings = ModelConfig(cell=cell, pooling=pooling, units=4, embedding_dim=3, embedding_dropout=0, **options)
    model = build_model(settings, vocabulary_size=9, num_classes=3)
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape, scale=0.7))
    explainer = Explainer(model, Tokenizer(TextConfig(), ["[PAD]", "[UNK]", *"abcdefg"]), "xyz")
    found = explainer.explain("a b c d e f g")
    ids = np.arange(2, 9)
    np.testing.assert_allclose(found.probabilities, model(ids[np.newaxis])[0], atol=1e-5)
    assert abs(found.difference) > 0.02 and abs(found.gradients.sum() / found.difference - 1) < 0.01
    prefixes = [model(ids[np.newaxis, :length])[0] for length in range(1, 8)]
    np.testing.assert_allclose(found.course, prefixes, atol=1e-5)
    # Occlusion again, by the vectors themselves: padding's vector, and no pair, where the token was.
    embedding = model.layers[0].embeddings.numpy()
    vectors = model.layers[0](ids[np.newaxis]).numpy()
    vectors[0, 2] = embedding[0]
    if "bigram_buckets" in options:
        vectors[0, 3] = embedding[ids[3]]
    states, mask = vectors, np.ones((1, 7), bool)
    for layer in model.layers[1:]:
        masked = not isinstance(layer, keras.layers.Dense | keras.layers.LayerNormalization)
        states = layer(states, mask=mask) if masked else layer(states)
    loss = np.log(found.probabilities[found.class_index] / states[0, found.class_index])
    assert found.occlusion[2] == pytest.approx(loss, abs=1e-4)


def test_steps_are_doubled_until_the_sum_is_right_and_if_it_never_is_the_reader_is_told(monkeypatch):
    steep = build_explainer(keras.layers.GlobalAveragePooling1D(), head=((-10, 10),))
    monkeypatch.setattr(attribution, "STEPS", 1)
    found = steep.explain("bad bad a", "yes")
    assert found.steps > 1 and found.gradients.sum() == pytest.approx(found.difference, rel=0.01)
    monkeypatch.setattr(attribution, "MOST_STEPS", 2)
    found = steep.explain("bad bad a", "yes")
    assert found.steps == 2 and found.notes[0].startswith("WARNING: even with 2 steps")
    assert "<br>WARNING: even with 2 steps" in attribution_page.format_page([found], "m")


def test_a_long_text_is_read_in_pieces_that_fit_and_occluded_by_several_tokens_at_once(linear, monkeypatch):
    whole = linear.explain("good a bad good a a bad")
    monkeypatch.setattr(attribution, "GRADIENT_TOKENS", 20)  # two rows of seven
    monkeypatch.setattr(attribution, "READ_TOKENS", 20)
    pieces = linear.explain("good a bad good a a bad")
    for values in ("gradients", "occlusion", "course"):
        np.testing.assert_allclose(getattr(pieces, values), getattr(whole, values), atol=1e-6)
    monkeypatch.setattr(attribution, "MOST_VARIANTS", 3)
    monkeypatch.setattr(attribution, "FEWEST_VARIANTS", 3)
    found = linear.explain("good a bad good a a bad")
    # Three, three and one token, which add 0, 2 and -2 to a sum whose mean, then, is that of padding.
    everything, without = log_sigmoid(0.5), log_sigmoid(0.5 - np.array([0, 2, -2]) / 7)
    np.testing.assert_allclose(found.occlusion, np.repeat((everything - without) / [3, 3, 1], [3, 3, 1]), atol=1e-6)
    assert found.positions.tolist() == [3, 6, 7] and "3 neighbouring tokens at once" in found.notes[-1]
    np.testing.assert_allclose(found.course, whole.course[[2, 5, 6]], atol=1e-6)


@pytest.mark.parametrize("truncate,tokens", [("tail", "a good"), ("head", "bad a"), ("both", "good bad")])
def test_what_of_a_long_text_is_read_is_said(truncate, tokens):
    pooling = keras.layers.GlobalAveragePooling1D()
    explainer = build_explainer(pooling, text=TextConfig(sequence_length=2, truncate=truncate))
    found = explainer.explain("a good bad a")
    assert found.tokens == tuple(tokens.split()) and "has 4 tokens" in found.notes[0] and "2 (text.s" in found.notes[0]
    assert len(explainer.explain("good " * 100_000).tokens) == 2


def test_an_empty_text_is_one_unknown_token_and_unknown_words_stay_as_they_were_written(linear):
    for text in ("", " \n", "\ud83d"):  # the last is half an emoji
        found = linear.explain(text)
        assert found.tokens == ("[UNK]",) and "Nothing of the text is left" in found.notes[0] and len(found.notes) == 1
    found = linear.explain("A GOOD brunch!")
    assert found.tokens == ("a", "good", "brunch", "!") and found.is_unknown.tolist() == [False, False, True, True]
    assert found.notes == ("Not in the vocabulary, so read as [UNK]: brunch, !.",)


def test_characters_of_chinese_stand_together_and_words_apart(linear):
    found = linear.explain("这个 iPhone 很 good")
    shown = attribution_page.format_words(found, found.gradients * 0, color=False)
    assert found.tokens[:3] == ("这", "个", "iphone") and shown == "这个 iphone 很 good"


class Plain:
    def __init__(self, is_terminal):
        self.isatty = lambda: is_terminal


def test_colors_are_for_terminals_that_nobody_made_plain(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert attribution_page.wants_color(Plain(True)) and not attribution_page.wants_color(Plain(False))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not attribution_page.wants_color(Plain(True))


def test_words_are_green_and_red_in_a_terminal_and_have_numbers_elsewhere(linear):
    found = linear.explain("good a bad")
    colored = attribution_page.format_words(found, found.gradients, color=True)
    assert re.fullmatch(
        r"\x1b\[48;5;\d+m\x1b\[38;5;16mgood\x1b\[0m a \x1b\[48;5;\d+m\x1b\[38;5;16mbad\x1b\[0m", colored
    )
    plain = attribution_page.format_words(found, found.gradients, color=False)
    assert plain == f"good({found.gradients[0]:+.2f}) a bad({found.gradients[2]:+.2f})"


def test_a_terminal_gets_no_commands_from_a_text():
    explainer = build_explainer(
        keras.layers.GlobalAveragePooling1D(), text=TextConfig(strip_control_characters=False, split="character")
    )
    shown = attribution_page.format_explanation(explainer.explain("a\x1b[31m"), color=False)
    assert "\x1b" not in shown and "·" in shown


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.links = set(), []

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "onload")]


def test_the_page_shows_text_as_text_and_needs_no_network(linear):
    text = 'a <3 good && <br><script>alert("$name")</script> bad $x$ 好 🙂 &lt;i&gt;'
    found = linear.explain(text)
    page = attribution_page.format_page([found, linear.explain("good")], "a <b> & $sections")
    tags, harmless = Tags(), Tags()
    tags.feed(page)
    harmless.feed(attribution_page.format_page([linear.explain("good a bad good brunch")] * 2, "m"))
    assert tags.found == harmless.found and "script" not in tags.found and {"svg", "section", "details"} <= tags.found
    assert all(link.startswith("#") or link == "data:," for link in tags.links) and "@import" not in page
    assert "a &lt;b&gt; &amp; $sections" in page and "&lt;" in page and "好" in page and "🙂" in page
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))  # two pictures in one page
    assert set(re.findall(r"url\(#([^)]+)\)", page)) | {link[1:] for link in tags.links if link != "data:,"} <= set(
        names
    )
    assert "currentColor" in page and "prefers-color-scheme: dark" in page and "#222222" not in page


def test_the_picture_has_a_line_a_class_and_the_words_below(linear):
    (axes,) = attribution_page.draw_course(linear.explain("good a bad")).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["good", "a", "bad"]
    np.testing.assert_allclose(
        [line.get_ydata()[-1] for line in axes.lines], np.exp(log_sigmoid([-0.5, 0.5])), atol=1e-6
    )


@pytest.mark.slow
def test_from_the_command_line_to_a_page(trained_run, tmp_path):
    run_dir = shutil.copytree(trained_run, tmp_path / "run")
    arguments = [
        "--run",
        str(run_dir),
        "--explain",
        "the film was awful",
        "--explain",
        "a great hotel <3",
        "--explain_class",
    ]
    done = subprocess.run(
        [sys.executable, "evaluate.py", *arguments, "positive"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"the film was awful\(-\d+\.\d\d\)", done.stdout) and "\x1b" not in done.stdout
    assert "- against it" in done.stdout and re.search(r"against positive: awful -\d", done.stdout)
    (page,) = (run_dir / "evaluations").glob("explanation-*/explanation.html")
    assert f"written to {page}" in done.stdout and "&lt;" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_its_saved_model_and_a_weights_folder_give_the_same_and_keep_it_in_their_own_folders(
    trained_run, tmp_path
):
    run_dir = shutil.copytree(trained_run, tmp_path / "run")
    write_weights_folder(tmp_path / "weights", read_run(run_dir))
    shown = {}
    for path, home in ((run_dir, run_dir), (run_dir / "saved_model", run_dir), (tmp_path / "weights",) * 2):
        folder, shown[path] = evaluate.explain_texts(path, ["the song was really nice"])
        assert folder.parent == home / "evaluations" and [p.name for p in folder.iterdir()] == ["explanation.html"]
    assert len(set(shown.values())) == 1
    expected = evaluate.evaluate_texts(run_dir, ["the song was really nice"]).split()[-1]
    assert f"positive {expected}" in shown[run_dir]


def test_one_thing_is_asked_for_at_a_time(capsys):
    with pytest.raises(SystemExit):
        evaluate_command.main(["--run", "r", "--text", "a", "--explain", "b"])
    assert "argument --explain: not allowed with argument --text" in capsys.readouterr().err
    with pytest.raises(UserError, match="--explain_class: received a class but no text"):
        evaluate_command.main(["--run", "r", "--explain_class", "positive"])


def test_a_language_model_is_refused_before_anything_is_written(language_model, tmp_path):
    write_weights_folder(tmp_path / "encoder", language_model)
    with pytest.raises(UserError, match=r"encoder: a language model has no classes, .* --init_from"):
        evaluate.explain_texts(tmp_path / "encoder", ["the film"])
    assert not (tmp_path / "encoder" / "evaluations").exists()
