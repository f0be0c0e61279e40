"""Explanations as a person looks at them: lines for the terminal, the picture of the course, and a page.

Knows nothing of models: all of it is drawn from `attribution.Explanation`.
"""

import io
import os
import sys
import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from keras_senti.evaluation.figures import find_font
from keras_senti.reports.attribution import Explanation
from keras_senti.reports.page import (
    Bar,
    class_color,
    color_piece,
    draw_bars,
    escape,
    make_card,
    make_head,
    make_page,
    make_section,
    make_table,
)

PALE = 0.1  # a value (natural logarithm of probability) below which no word gets the full colour
MOST_ROWS = 1000  # of the table of numbers


# For the terminal
def wants_color(stream=None) -> bool:
    """Whether a stream (standard output) is a terminal that shows colours and nobody forbade them.

    See https://no-color.org.
    """
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def format_explanation(explanation: Explanation, color: bool) -> str:
    """Returns lines for the terminal: the prediction, the words by their integrated gradients, the strongest, notes."""
    name = _plain(explanation.class_name)
    lines = [
        ", ".join(f"{_plain(explanation.class_names[i])} {p:.3f}" for i, p in _rank(explanation.probabilities)[:10]),
        f"{'green' if color else '+'} speaks for {name}, {'red' if color else '-'} against it:",
        format_words(explanation, explanation.gradients, color),
        *_list_strongest(explanation),
        describe_sum(explanation),
        *map(_plain, explanation.notes),
    ]
    return "\n".join(lines)


# Of the 256 colours (https://en.wikipedia.org/wiki/ANSI_escape_code#8-bit), pale to strong; the letters are black.
_GREENS, _REDS = (194, 157, 120, 83, 40), (224, 217, 210, 209, 202)


def format_words(explanation: Explanation, values: np.ndarray, color: bool) -> str:
    """Returns the tokens on green (for the class) or red (against it), or with the values that matter behind them."""
    shares, pieces = _scale(values), []
    for token, space, value, share in zip(explanation.tokens, explanation.spaces, values, shares):
        token = _plain(token)
        if abs(share) >= 0.1:
            shade = (_GREENS if share > 0 else _REDS)[min(4, int(abs(share) * 5))]
            token = f"\x1b[48;5;{shade}m\x1b[38;5;16m{token}\x1b[0m" if color else f"{token}({value:+.2f})"
        pieces.append(space + token)
    return "".join(pieces)


def describe_sum(explanation: Explanation) -> str:
    """Returns a sentence that says what the integrated gradients add up to, and what they should."""
    return (
        f"The values sum to {explanation.gradients.sum():+.3f}; log p({_plain(explanation.class_name)}) is "
        f"{explanation.log_probability:.3f} for this text and {explanation.reference:.3f} for one as long that says "
        f"nothing, a difference of {explanation.difference:+.3f} (integrated gradients, {explanation.steps} steps)."
    )


def _rank(probabilities: np.ndarray) -> list[tuple[int, float]]:
    return [(int(i), float(probabilities[i])) for i in np.argsort(-probabilities, kind="stable")]


def _scale(values: np.ndarray) -> np.ndarray:
    """Returns how strong a colour is, -1 to 1: shares of the largest value, or of PALE where none is so large."""
    return values / max(np.abs(values).max(), PALE)


def _list_strongest(explanation: Explanation, most: int = 5) -> list[str]:
    """Returns up to two lines: the tokens that speak most for the class and most against it, with their values."""
    values, lines = explanation.gradients, []
    for sign, side in ((1, "for"), (-1, "against")):
        order = [i for i in np.argsort(-sign * values, kind="stable")[:most] if sign * values[i] >= 0.005]
        words = ", ".join(f"{_plain(explanation.tokens[i])} {values[i]:+.2f}" for i in order)
        lines += [f"{side} {_plain(explanation.class_name)}: {words}"] if words else []
    return lines


def _plain(text: str) -> str:
    """What a terminal would obey, and what cannot be seen, becomes a dot."""
    return "".join(c if c.isprintable() else "·" for c in text)


# The picture
COLORS = ("#000001", "#000002", "#000003", "#000004", "#000005")  # stand for those of the page, see _to_svg
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), "-")
INK = "#222222"


def draw_course(explanation: Explanation) -> Figure:
    """Draws the probability of each class after each token; of more than five classes, those that ever get highest."""
    positions, course = explanation.positions, explanation.course
    shown = _choose_classes(course)
    width = float(np.clip(1 + 0.17 * len(explanation.tokens), 3.4, 9.0))  # inches; 3.4 fit on a phone
    with matplotlib.rc_context({"text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}):
        figure = Figure(figsize=(width, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for color, dash, index in zip(COLORS, DASHES, shown):
            marker = "." if len(positions) <= 60 else None
            axes.plot(positions, course[:, index], color=color, linestyle=dash, marker=marker, linewidth=1.8)
        names = [explanation.class_names[index][:30] for index in shown]
        legend = figure.legend(axes.lines, names, loc="outside upper left", ncols=3, frameon=False)
        step = -(-len(explanation.tokens) // int((width - 1) / 0.16))  # a label needs 0.16 inches
        ticks = np.arange(1, len(explanation.tokens) + 1, step)
        labels = [_plain(explanation.tokens[position - 1])[:14] for position in ticks]
        axes.set_xticks(ticks, labels, rotation=0 if max(map(len, labels)) == 1 else 90)
        font = find_font("".join([*labels, *names]))
        for label in [*axes.get_xticklabels(), *legend.get_texts()]:
            label.set_parse_math(False)  # a $ is a $
            if font is not None:
                label.set_fontproperties(font)
            label.set_fontsize(8)
        axes.set(ylim=(-0.02, 1.02), xlim=(0.5, len(explanation.tokens) + 0.5), yticks=[0, 0.5, 1])
        axes.set_ylabel("probability so far", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color=INK, alpha=0.15)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def _choose_classes(course: np.ndarray) -> list[int]:
    """Returns the classes that are drawn, at most as many as there are colours: those that ever get highest."""
    return sorted(i for i, _ in _rank(course.max(axis=0))[: len(COLORS)])


def _to_svg(explanation: Explanation, number: int) -> str:
    """Returns the course as an <svg> that takes its colours from the page, and has its letters as letters."""
    figure, classes = draw_course(explanation), len(explanation.class_names)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "keras_senti"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that no font here has: the reader's browser may have one
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", '<svg style="width: auto; max-width: none"', 1)
    for color, index in zip(COLORS, _choose_classes(explanation.course)):
        svg = svg.replace(color, f"var({class_color(index, classes)})")
    svg = svg.replace(INK, "currentColor")
    for mark in ('id="', 'href="#', "url(#"):  # several pictures in one page must not share names
        svg = svg.replace(mark, f"{mark}text{number}-")
    return svg


# The page
_HOW = (
    "The numbers are natural logarithms of probability: +0.69 makes the class twice as probable, −0.69 half as "
    "probable. Integrated gradients (Sundararajan et al. 2017) go from a text of padding, just as long, to this one, "
    "and give each word its share of the change; the shares add up to all of it. Occlusion puts padding in place of "
    "one word and says what the class loses; of two words that say the same, either loses little. Attention says where "
    "the model looks, not what it makes of it. All of them explain this model, not the language: a word counts because "
    "of the texts it was trained on."
)


def format_page(explanations: list[Explanation], name: str) -> str:
    """Returns one self-contained page of HTML about some texts; name: of the model."""
    sections = (_draw_section(explanation, number) for number, explanation in enumerate(explanations, 1))
    return make_page(f"Why {name} says so", make_head(name, "Why the model says so", _HOW), *sections)


def _draw_section(explanation: Explanation, number: int) -> str:
    target, ranked = escape(explanation.class_name), _rank(explanation.probabilities)
    title = f"{number}. “{escape(explanation.class_names[ranked[0][0]])}”, probability {ranked[0][1]:.2f}"
    if explanation.class_index != ranked[0][0]:
        title += f"; why “{target}” has {explanation.probabilities[explanation.class_index]:.2f}"
    notes = sorted(explanation.notes, key=lambda note: not note.startswith("WARNING"))
    strongest = "<br>".join(map(escape, _list_strongest(explanation)))
    colors = f"Blue words speak for “{target}”, orange ones against it"
    attention = ""
    if explanation.attention is not None:
        shares = explanation.attention / explanation.attention.max()  # small in long texts
        attention = make_card("Where the model looks: attention", _draw_words(explanation, shares), wide=True)
    bars = [Bar(explanation.class_names[index], probability) for index, probability in ranked[:10]]
    return make_section(
        title,
        make_card(
            "What each word did",
            _draw_words(explanation, _scale(explanation.gradients)) + f"<p>{strongest}</p>",
            "<br>".join([f"{colors}, by integrated gradients.", *map(escape, notes)]),
            wide=True,
        ),
        make_card(
            "While it reads: what it would say had the text ended there",
            f'<div class="scroll">{_to_svg(explanation, number)}</div>',
            wide=True,
        ),
        make_card("How probable it finds each class", draw_bars(bars)),
        make_card(
            "Without each word: occlusion",
            _draw_words(explanation, _scale(explanation.occlusion)),
            f"{colors}: without them it loses probability, or gains some.",
            wide=True,
        ),
        attention,
        make_card("The numbers", _draw_numbers(explanation), escape(describe_sum(explanation)), wide=True),
    )


def _draw_words(explanation: Explanation, shares: np.ndarray) -> str:
    words = "".join(map(color_piece, explanation.pieces, shares.tolist()))
    return f'<div class="text"><p dir="auto">{words}</p></div>'


def _draw_numbers(explanation: Explanation) -> str:
    """Returns the numbers of each token, of at most MOST_ROWS, folded away."""
    columns = {"gradients": [f"{value:+.3f}" for value in explanation.gradients]}
    columns["occlusion"] = [f"{value:+.3f}" for value in explanation.occlusion]
    if explanation.attention is not None:
        columns["attention"] = [f"{value:.3f}" for value in explanation.attention]
    total = len(explanation.tokens)
    what = f"of the first {MOST_ROWS:,} of {total:,} tokens" if total > MOST_ROWS else "of every token"
    table = make_table(("token", *columns), list(zip(explanation.tokens, *columns.values()))[:MOST_ROWS])
    return f"<details><summary>The numbers {what}</summary>{table}</details>"
