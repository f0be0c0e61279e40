import sys
import unicodedata

import pytest
import tensorflow as tf

from keras_senti.data.tokenizer import Tokenizer, fit_vocabulary, read_stop_words, split_tokens, standardize
from keras_senti.data.unicode import compose, find_script_without_spaces, make_simplifier
from keras_senti.errors import UserError
from keras_senti.settings.schema import TextConfig

ABC = ["[PAD]", "[UNK]", "a", "b", "c", "d", "e", "f"]  # ids 0 to 7


def fit_encoder(settings, texts):
    return Tokenizer(settings, fit_vocabulary(settings, [texts]))


def tokenize(texts: list, **settings) -> list[list[str]]:
    config = TextConfig(**settings)
    tokens = split_tokens(standardize(tf.constant(texts), config), config)
    return [[token.decode() for token in row] for row in tokens.to_list()]


def encode(encoder: Tokenizer, *texts: str) -> list[list[int]]:
    return encoder(tf.constant(texts)).numpy().tolist()


# The specification: text → tokens, separated by single spaces, at the default settings.
# fmt: off
SPECIFICATION = [
    # English
    ("What a GREAT day!", "what a great day !"),
    ("wow!!! no...", "wow ! ! ! no . . ."),
    ("a-b_c (d) #tag", "a - b _ c ( d ) # tag"),
    ("ÀÉÎ ŽLUŤOUČKÝ ПРИВЕТ", "àéî žluťoučký привет"),
    # Apostrophes: inside a word they stay, and are all the same
    ("don't can’t 'quoted'", "don't can't ' quoted '"),
    ("rock'n'roll l'été", "rock'n'roll l'été"),
    ("it''s 'tis", "it ' ' s ' tis"),
    # Chinese, kana, other scripts
    ("我喜欢这部电影。", "我 喜 欢 这 部 电 影 。"),
    ("これは良いカメラです", "こ れ は 良 い カ メ ラ で す"),
    ("ラーメン 々", "ラ ー メ ン 々"),
    ("한국어 좋아", "한국어 좋아"),
    # Scripts without spaces: each letter with its signs; stray signs and digits stay where they are
    ("ร้านนี้ดี good", "ร้ า น นี้ ดี good"),
    ("ກິນ ခင်ဗျား ខ្ញុំ", "ກິ ນ ခ င် ဗျား ខ្ ញុំ"),
    ("•็ั๑ हिन्दी भाषा", "• ็ั๑ हिन्दी भाषा"),
    # Accents apart from their letters
    ("Cafe\u0301 re\u0301sume\u0301", "café résumé"),
    ("Vie\u0323\u0302t Vi\u00ea\u0323t", "việt việt"),
    ("\u1112\u1161\u11ab\u1100\u116e\u11a8 \u304b\u3099", "한국 が"),
    ("q\u0301 \u0301x", "q\u0301 \u0301x"),  # which have no character of their own
    # Mixed
    ("iPhone很好用2天", "iphone 很 好 用 2 天"),
    ("这个app不错, really!", "这 个 app 不 错 , really !"),
    # Full-width forms
    ("ＡＢＣ　１２３！", "abc 123 !"),
    ("好，＠bob ＆amp;", "好 , [USER] &"),
    # Emoji: each a token; variation selector and joiner go, the skin tone is a token of its own
    ("so 😀😀 good", "so 😀 😀 good"),
    ("👍🏽", "👍 🏽"),
    ("👩\u200d👩\u200d👧", "👩 👩 👧"),
    ("❤\ufe0f", "❤"),
    # HTML tags and comments; "<3" and "a < b" are no tags
    ("<b>bold</b>text<br/>x", "bold text x"),
    ('<a href="http://a.b">link</a>', "link"),
    ("<!-- hidden\n<b> -->x", "x"),
    ("I <3 u, a < b > c", "i < 3 u , a < b > c"),
    # Entities: known, numeric, unknown, escaped twice; what they decode to is no tag
    ("fish &amp; chips &eacute;", "fish & chips é"),
    ("&#39;x&#x27; it&#8217;s", "' x ' it's"),
    ("a&nbsp;b&#160;c", "a b c"),
    ("x&bogus;y&#9999;z&#xFFFF;", "x y z"),
    ("&amp;lt;3 &amp;#39;", "< 3 '"),
    ("&lt;b&gt;", "< b >"),
    ("AT&T &amp R&D;", "at & t & amp r"),
    # Web addresses; Chinese text may follow without a space
    ("see http://t.co/ab?c=1&d HTTPS://A.B", "see [URL] [URL]"),
    ("http://t.co/ab很好", "[URL] 很 好"),
    ("(www.a.b) awww.cute", "( [URL] awww . cute"),
    # Mentions, and addresses that only look like them
    ("@bob_1 hi (@ann)", "[USER] hi ( [USER] )"),
    ("@小明 你好", "[USER] 你 好"),
    ("me@example.org @ 5", "me @ example . org @ 5"),
    # Control characters, NUL, bytes that are not UTF-8, zero width
    ("a\x00b\x07c\x85d", "a b c d"),
    ("a\tb\r\nc", "a b c"),
    (b"caf\xe9 ok", "caf ok"),
    (b"a\xff\xfeb", "a b"),
    ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
    ("\ufeffstart \ufffd end", "start end"),
    # Digits
    ("2024 3.14 a1b", "2024 3 . 14 a1b"),
    ("$5 €3 50%", "$ 5 € 3 50 %"),
    # What looks like a token of ours: [UNK] and [PAD] cannot be written by a text
    ("[UNK] [PAD]", "[ unk ] [ pad ]"),
    # Nothing
    ("", ""),
    (" \t\u3000\u00a0", ""),
    ("<br>&bogus;\u200b", ""),

    ("fish &amp;amp; chips", "fish & chips"),
]
# fmt: on


@pytest.mark.parametrize("text, tokens", SPECIFICATION, ids=[repr(text) for text, _ in SPECIFICATION])
def test_the_specification(text, tokens):
    assert " ".join(tokenize([text])[0]) == tokens


def test_a_batch_and_a_graph_give_what_single_texts_give():
    config = TextConfig()
    texts = tf.constant([text for text, _ in SPECIFICATION])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def in_graph(batch):
        return split_tokens(standardize(batch, config), config)

    alone = [split_tokens(standardize(texts[i : i + 1], config), config).to_list()[0] for i in range(len(texts))]
    assert split_tokens(standardize(texts, config), config).to_list() == alone
    assert in_graph(texts).to_list() == alone


def test_standardized_text_has_single_spaces_and_is_utf8():
    out = standardize(tf.constant([text for text, _ in SPECIFICATION]), TextConfig()).numpy()
    for row in out:
        text = row.decode()
        assert text == " ".join(text.split())


# One setting away from its default

# fmt: off
SETTINGS = [
    ({"strip_control_characters": False}, "a\u200bb c\x07d", "a\u200bb c\x07d"),
    ({"strip_control_characters": False}, b"caf\xe9 ok", "caf ok"),  # what is not UTF-8 always goes

    ({"strip_control_characters": False}, "good\x00bad", "good bad"),  # a NUL would end the text
    ({"fold_full_width": False}, "ＡＢ！", "ａｂ ！"),
    ({"strip_html_tags": False}, "<b>x", "< b > x"),
    ({"decode_html_entities": False}, "&amp;x&#39;", "& amp ; x & # 39 ;"),
    ({"urls": "drop"}, "see http://t.co/a @bob", "see [USER]"),
    ({"urls": "keep"}, "see http://t.co @bob", "see http : / / t . co [USER]"),
    ({"mentions": "drop"}, "hi @bob www.a.b", "hi [URL]"),
    ({"mentions": "keep"}, "hi @bob www.a.b", "hi @ bob [URL]"),
    ({"lowercase": False}, "GoOD ÀB @Bob HTTP://X.Y", "GoOD ÀB [USER] [URL]"),
    ({"digits": "drop"}, "12 a3b ٣ www.a.b/1", "a b [URL]"),
    ({"punctuation": "drop"}, "don't stop, 😀 $5! #x a+b ^^ @bob www.a.b", "don't stop 😀 5 x a b [USER] [URL]"),
    ({"punctuation": "drop"}, "好。很好！👍🏽", "好 很 好 👍"),  # the skin tone is a modifier symbol, as ^ is
    ({"stop_words": "english"}, "This is not at all THE worst", "not worst"),
    ({"split": "word"}, "very 好看，ok", "very 好看 , ok"),
    ({"simplify_chinese": False}, "這個電影ＯＫ，無聊", "這 個 電 影 ok , 無 聊"),
    ({"simplify_chinese": True}, "這個電影ＯＫ，無聊！😀 ABC", "这 个 电 影 ok , 无 聊 ! 😀 abc"),
    ({"simplify_chinese": True}, "这个电影无聊 かな", "这 个 电 影 无 聊 か な"),
]
# fmt: on


@pytest.mark.parametrize(
    "settings, text, tokens", SETTINGS, ids=[f"{key}={value} {t!r}" for s, t, _ in SETTINGS for key, value in s.items()]
)
def test_each_setting_does_what_it_says(settings, text, tokens):
    assert " ".join(tokenize([text], **settings)[0]) == tokens


def test_split_by_character_keeps_the_spaces():
    assert tokenize(["Ab  好,"], split="character") == [["a", "b", " ", "好", " ", ","]]


def test_all_that_nfc_composes_is_composed_and_in_a_graph_too():
    characters = [chr(code) for code in range(0xC0, 0xD7A4)]
    composed = [c for c in characters if unicodedata.normalize("NFC", c) == c != unicodedata.normalize("NFD", c)]
    apart = tf.constant([unicodedata.normalize("NFD", c) for c in composed])
    in_graph = tf.function(compose, input_signature=[tf.TensorSpec([None], tf.string)])
    assert len(composed) > 12_000
    assert [c.decode() for c in compose(apart).numpy()] == composed == [c.decode() for c in in_graph(apart).numpy()]
    assert in_graph(tf.constant([], tf.string)).shape == (0,)
    plain = ["naïve café", "plain", "", "好", "हिन्दी"]
    assert [text.decode() for text in compose(tf.constant(plain)).numpy()] == plain


def test_accents_apart_from_their_letters_are_read_in_a_saved_graph_too(tmp_path):
    module, encoder = tf.Module(), fit_encoder(TextConfig(), ["café résumé"])
    module.vectorizer = encoder.vectorizer
    module.encode = tf.function(encoder, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    [together], [apart] = (
        loaded.encode(tf.constant([t])).numpy() for t in ("café résumé", "cafe\u0301 re\u0301sume\u0301")
    )
    assert sorted(together.tolist()) == [2, 3] and apart.tolist() == together.tolist()


def test_an_older_vocabulary_with_accents_apart_still_knows_its_words(tmp_path):
    (tmp_path / "vocabulary.txt").write_text("[PAD]\n[UNK]\ncafe\u0301\nthe\nbe\u0301\nbé\n", encoding="utf-8")
    encoder = Tokenizer.load(TextConfig(), tmp_path / "vocabulary.txt")
    assert encode(encoder, "cafe\u0301 café the be\u0301 bé") == [[2, 2, 3, 5, 5]]
    encoder.save(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "vocabulary.txt").read_bytes()


@pytest.mark.parametrize("text, script", [
    ("ร้านนี้ดีมาก", "Thai"), ("这个电影, ok", "Chinese or Japanese"), ("a long English text, 好", None), ("", None),
    ("한국어 좋아", None),
])  # fmt: skip
def test_the_script_without_spaces_is_found(text, script):
    assert find_script_without_spaces([text, "1 2 3"]) == script


# Stop words


def test_the_english_stop_words_leave_the_negations():
    words = read_stop_words("english")
    assert {"the", "and", "is", "very"} <= set(words)
    assert not {"not", "no", "never", "nor", "cannot", "nothing", "without", "but"} & set(words)


def test_stop_words_come_from_a_file_and_only_whole_tokens_are_removed(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffmovie\r\n.\n电\n".encode())  # "." is a word here, not any character
    assert read_stop_words(str(path)) == ["movie", ".", "电"]
    assert tokenize(["The movie. movies x 电影"], stop_words=str(path)) == [["the", "movies", "x", "影"]]


def test_a_stop_word_may_hold_a_backslash(tmp_path):

    path = tmp_path / "words.txt"
    path.write_text("a\\Eb\nthe\n")
    assert tokenize(["the film"], stop_words=str(path)) == [["film"]]


@pytest.mark.parametrize("content", [None, b"", b" \n", b"caf\xe9\n"], ids=["missing", "empty", "blank", "latin-1"])
def test_a_stop_word_file_without_words_is_a_user_error(tmp_path, content):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"text\.stop_words: .*words\.txt.*(expected `english` or a UTF-8 file|no word)"
    ):
        tokenize(["a"], stop_words=str(path))


# Vocabulary


def test_the_vocabulary_is_ordered_by_frequency_behind_padding_and_unknown():
    assert fit_encoder(TextConfig(), ["b b b c", "C c c d a a"]).vocabulary == ["[PAD]", "[UNK]", "c", "b", "a", "d"]


def test_the_vocabulary_knows_only_the_given_texts():
    encoder = fit_encoder(TextConfig(), ["good film", "bad film"])
    assert set(encoder.vocabulary) == {"[PAD]", "[UNK]", "film", "good", "bad"}
    [[film, book]] = encode(encoder, "film book")
    assert (encoder.vocabulary[film], book) == ("film", 1)


def test_max_tokens_counts_padding_and_unknown():
    texts = ["a a a a b b b c c d"]
    assert fit_encoder(TextConfig(max_tokens=4), texts).vocabulary == ["[PAD]", "[UNK]", "a", "b"]
    assert fit_encoder(TextConfig(max_tokens=3), texts).vocabulary == ["[PAD]", "[UNK]", "a"]


def test_fitting_again_gives_the_same_vocabulary_where_counts_are_equal():
    texts = ["the cat", "a dog", "one bird"]
    assert fit_encoder(TextConfig(), texts).vocabulary == fit_encoder(TextConfig(), texts[::-1]).vocabulary


def test_the_vocabulary_is_saved_one_token_a_line(tmp_path):
    Tokenizer(TextConfig(), ABC[:4]).save(tmp_path / "vocabulary.txt")
    assert (tmp_path / "vocabulary.txt").read_bytes() == b"[PAD]\n[UNK]\na\nb\n"


@pytest.mark.parametrize("split", ["word", "character", "mixed"])
def test_reloading_gives_the_same_ids(tmp_path, split):
    config = TextConfig(split=split)
    texts = [text if isinstance(text, str) else text.decode("latin-1") for text, _ in SPECIFICATION]
    encoder = fit_encoder(config, texts)
    encoder.save(tmp_path / "vocabulary.txt")
    reloaded = Tokenizer.load(config, tmp_path / "vocabulary.txt")
    assert reloaded.vocabulary == encoder.vocabulary
    ids = encode(encoder, *texts, "something new 新")
    assert encode(reloaded, *texts, "something new 新") == ids
    assert max(map(max, ids)) == len(encoder.vocabulary) - 1


def test_a_space_at_the_end_of_the_vocabulary_survives_reloading(tmp_path):
    config = TextConfig(split="character")
    Tokenizer(config, ["[PAD]", "[UNK]", "a", " "]).save(tmp_path / "vocabulary.txt")
    assert encode(Tokenizer.load(config, tmp_path / "vocabulary.txt"), "a a") == [[2, 3, 2]]


def test_a_vocabulary_that_is_missing_or_foreign_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"vocabulary\.txt: the vocabulary cannot be read"):
        Tokenizer.load(TextConfig(), tmp_path / "vocabulary.txt")
    (tmp_path / "vocabulary.txt").write_bytes(b"the\na\n")
    with pytest.raises(
        UserError, match=r"vocabulary: received \['the', 'a'\] first, expected \['\[PAD\]', '\[UNK\]'\]"
    ):
        Tokenizer.load(TextConfig(), tmp_path / "vocabulary.txt")


def test_texts_without_any_token_are_a_user_error():

    with pytest.raises(UserError, match="token"):
        fit_encoder(TextConfig(), ["<br>", "&bogus;"])


# Ids


def test_ids_are_int32_and_padded_on_the_right_to_the_longest_text():
    out = Tokenizer(TextConfig(), ABC)(tf.constant(["a b c", "f", "d zzz"]))
    assert out.dtype == tf.int32
    assert out.numpy().tolist() == [[2, 3, 4], [7, 0, 0], [5, 1, 0]]


def test_an_empty_text_is_one_unknown_token():
    encoder = Tokenizer(TextConfig(), ABC)
    assert encode(encoder, "", "a b", " <br> ") == [[1, 0], [2, 3], [1, 0]]
    assert encode(encoder, "") == [[1]]


def test_an_empty_batch_has_no_rows():
    assert Tokenizer(TextConfig(), ABC)(tf.constant([], tf.string)).shape == (0, 0)


@pytest.mark.parametrize(
    "truncate, six, five",
    [
        ("tail", [2, 3, 4], [2, 3, 4]),
        ("head", [5, 6, 7], [4, 5, 6]),
        ("both", [3, 4, 5], [3, 4, 5]),  # of three surplus tokens one goes in front, two behind
    ],
)
def test_a_long_text_is_cut_where_the_setting_says(truncate, six, five):
    encoder = Tokenizer(TextConfig(sequence_length=3, truncate=truncate), ABC)
    assert encode(encoder, "a b c d e f", "a b c d e", "a b", "") == [six, five, [2, 3, 0], [1, 0, 0]]
    assert encode(encoder, "a b c") == [[2, 3, 4]]


@pytest.mark.parametrize("truncate", ["tail", "head", "both"])
def test_ids_in_a_graph_are_the_ids_called_eagerly(truncate):
    encoder = fit_encoder(TextConfig(sequence_length=4, truncate=truncate), ["what a great day !", "我 很 好"])
    texts = tf.constant([text for text, _ in SPECIFICATION])
    in_graph = tf.function(encoder, input_signature=[tf.TensorSpec([None], tf.string)])
    assert in_graph(texts).numpy().tolist() == encoder(texts).numpy().tolist()


def test_the_rest_of_the_batch_does_not_change_a_text():
    encoder = Tokenizer(TextConfig(sequence_length=5, truncate="both"), ABC)
    [[*together], _] = encode(encoder, "a b", "a b c d e f")
    assert [i for i in together if i] == encode(encoder, "a b")[0] == [2, 3]


def test_without_opencc_the_message_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)  # importing it fails
    make_simplifier.cache_clear()
    with pytest.raises(UserError, match=r'simplify_chinese: needs the package opencc.* pip install -e "\.\[chinese\]"'):
        make_simplifier()


def test_traditional_and_simplified_text_get_the_same_ids():
    config = TextConfig(simplify_chinese=True)
    encoder = fit_encoder(config, ["这个电影无聊", "房间很干净"])
    simplified, traditional = encoder(["房间无聊"]).numpy(), encoder(["房間無聊"]).numpy()
    assert simplified.tolist() == traditional.tolist() and (simplified > 1).all()
