"""A page that loads nothing and runs nothing: its style, cards, bars, tables, confusion matrices and coloured texts.

What comes from data is escaped here; titles, captions and bodies are HTML already. Bars are HTML, so that each can
stand under its own line of text, however long. Knows nothing of models.
"""

import html
from dataclasses import dataclass

import numpy as np

from keras_senti.evaluation.metrics import find_confusions

MOST_CELLS = 8  # classes in a confusion matrix: more do not fit on a third of a laptop's width
MOST_CHARACTERS = 700  # of a shown text
_STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --text: #1a1d21; --soft: #565d66; --line: #d9dde2;
  --right: #0072b2; --wrong: #c2500a; --right-rgb: 0,114,178; --wrong-rgb: 213,94,0; --c0: #0072b2; --c1: #c2500a;
  --c2: #00805f; --c3: #a0468a; --c4: #7a6a00; --c5: #5b5bd6; --c6: #8a5a44; --c7: #69737d; }
@media (prefers-color-scheme: dark) { :root { --page: #111418; --card: #1a1e24; --text: #e7e9ec; --soft: #a9b1ba;
  --line: #363d46; --right: #5ab4f0; --wrong: #ff9a57; --right-rgb: 60,150,215; --wrong-rgb: 225,120,45; --c0: #5ab4f0;
  --c1: #ff9a57; --c2: #3fcf9f; --c3: #e58ac8; --c4: #d9c94a; --c5: #a5a5ff; --c6: #d3a48a; --c7: #a9b1ba; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); overflow-wrap: break-word;
  -webkit-text-size-adjust: 100%;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 20px 20px 48px; }
h1 { font-size: 15px; font-weight: 600; color: var(--soft); margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 36px 0 12px; }
h3 { font-size: 16px; line-height: 1.35; margin: 0 0 8px; overflow-wrap: anywhere; }
h4 { font-size: 14px; margin: 14px 0 4px; overflow-wrap: anywhere; }
p { margin: 0 0 8px; }
.verdict { font-size: 22px; line-height: 1.4; font-weight: 600; margin: 0 0 10px; max-width: 60em; }
.soft, figcaption { color: var(--soft); font-size: 13.5px; }
figcaption { padding-top: 10px; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px; margin: 0;
  min-width: 0; }
.wide { grid-column: 1 / -1; }
.tiles { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin-top: 16px; }
.tile b { display: block; font-size: 26px; line-height: 1.25; }
.tile span { font-size: 13.5px; color: var(--soft); overflow-wrap: anywhere; }
svg { display: block; width: 100%; max-width: 400px; height: auto; margin: 0 auto; }
svg text { font-size: 13px; fill: var(--text); }
svg .soft { fill: var(--soft); }
svg .halo { paint-order: stroke; stroke: var(--card); stroke-width: 5px; stroke-linejoin: round; }
svg .frame { stroke: var(--line); fill: none; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13.5px; margin-bottom: 6px; }
.legend span { overflow-wrap: anywhere; }
.legend i { display: inline-block; width: 14px; height: 4px; border-radius: 2px; vertical-align: 3px;
  margin-right: 5px; }
.legend i.ring { width: 11px; height: 11px; border-radius: 50%; border: 2.5px solid; vertical-align: -1px; }
.bar { margin: 5px 0 9px; }
.bar > div:first-child { display: flex; flex-wrap: wrap; gap: 0 10px; font-size: 14px; line-height: 1.4; }
.bar span { min-width: 0; overflow-wrap: anywhere; }
.bar span + span { margin-left: auto; }
.bar b { font-weight: 600; }
.bar small { color: var(--soft); font-size: 13px; }
.track { position: relative; height: 12px; margin-top: 2px; background: var(--page); border-radius: 2px; }
.track i { position: absolute; top: 0; height: 100%; border-radius: 2px; }
.track .whisker { top: 5px; height: 2px; background: var(--text); border-radius: 0; }
.track .whisker::before, .track .whisker::after { content: ""; position: absolute; top: -3px; height: 8px;
  width: 1.5px; background: var(--text); }
.track .whisker::before { left: 0; }
.track .whisker::after { right: 0; }
.track .reference { top: -3px; height: 18px; width: 0; border-left: 2px dotted var(--soft); border-radius: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
th, td { padding: 5px 8px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.matrix { border-spacing: 3px; border-collapse: separate; table-layout: fixed; font-size: 13.5px; }
.matrix th, .matrix td { border: 0; text-align: center; vertical-align: middle; border-radius: 4px; padding: 8px 2px;
  overflow-wrap: anywhere; line-height: 1.3; }
.matrix th { padding: 2px; }
.matrix tr > th:first-child { text-align: right; }
.matrix td b { display: block; font-size: 15px; }
.matrix caption { font-size: 13px; color: var(--soft); padding-bottom: 2px; }
.texts { columns: 2 440px; column-gap: 28px; }
.text { border-top: 1px solid var(--line); padding: 10px 0 8px; break-inside: avoid; }
.text p { margin: 2px 0 0; overflow-wrap: anywhere; }
.text b { font-weight: 600; color: var(--text); }
.text span { border-radius: 3px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px; margin: 0; font-size: 14px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 500px) { main { padding: 12px 12px 32px; } .card { padding: 12px; } .verdict { font-size: 19px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; } h2 { margin-top: 28px; } th, td { padding: 5px 6px; } }
@media print { .card { break-inside: avoid; } }
"""


def escape(text) -> str:
    """Returns text for HTML, where it shows as it is; what cannot be seen becomes a space."""
    return html.escape("".join(c if c.isprintable() else " " for c in str(text)))


def make_page(title: str, *parts: str) -> str:
    """Returns a whole HTML document. Its policy forbids scripts and loading, should something get past the escaping."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def make_head(title: str, verdict: str, detail: str = "", tiles=()) -> str:
    """Returns the top of a page. All but tiles is plain text; tiles: (large number, what it is) pairs of plain text."""
    shown = "".join(f'<div class="card tile"><b>{escape(n)}</b><span>{escape(t)}</span></div>' for n, t in tiles)
    return (
        f'<header><h1>{escape(title)}</h1><p class="verdict">{escape(verdict)}</p>'
        + (f'<p class="soft">{escape(detail)}</p>' if detail else "")
        + (f'<div class="tiles">{shown}</div>' if tiles else "")
        + "</header>"
    )


def make_section(title: str, *cards: str) -> str:
    """Returns cards beside each other under a title; nothing without cards."""
    shown = "\n".join(card for card in cards if card)
    return f'<section><h2>{title}</h2><div class="grid">\n{shown}\n</div></section>' if shown else ""


def make_card(finding: str, body: str, how: str = "", wide: bool = False) -> str:
    """Returns one figure: in words what is to be seen, the drawing, and how to read it (all HTML)."""
    how = f"<figcaption>{how}</figcaption>" if how else ""
    return f'<figure class="card{" wide" if wide else ""}"><h3>{finding}</h3>{body}{how}</figure>'


def make_table(header, rows) -> str:
    """Returns a table of escaped cells that scrolls sideways where it does not fit."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def make_legend(entries, ring: str = "") -> str:
    """Returns what colours mean. entries: (name of a CSS colour, text) pairs. ring: what a circle on a curve is."""
    items = "".join(f'<span><i style="background:var({color})"></i>{escape(text)}</span>' for color, text in entries)
    items += f'<span><i class="ring"></i>{escape(ring)}</span>' if ring else ""
    return f'<div class="legend">{items}</div>'


def class_color(index: int, classes: int) -> str:
    """Returns the name of a CSS colour for a class.

    Of 2 or 3 classes the first is orange and the last blue, as in negative, neutral, positive: colours that also
    colour-blind readers tell apart.
    """
    if classes <= 3:
        return {0: "--c1", classes - 1: "--c0"}.get(index, "--c7")
    return f"--c{index % 8}"


@dataclass(frozen=True)
class Bar:
    """A fraction with its 95% interval, if there is one. color: name of a CSS colour."""

    label: str
    value: float
    note: str = ""
    interval: tuple[float, float] | None = None
    color: str = "--right"


def draw_bars(bars, reference: float | None = None) -> str:
    """Returns bars from 0 to 1. reference: where a dotted line crosses all of them."""
    dotted = "" if reference is None else f'<i class="reference" style="left:{_percent(reference)}"></i>'
    return "".join(_draw_bar(bar, f"{bar.value:.1%}", (0.0, bar.value), bar.interval, dotted) for bar in bars)


def draw_differences(bars, scale: float) -> str:
    """Returns bars to the left (below 0) and to the right of a middle line; scale: the value at the end of a track."""
    drawn = []
    for bar in bars:
        span = min(0.5, 0.5 + bar.value / scale / 2), max(0.5, 0.5 + bar.value / scale / 2)
        interval = bar.interval and tuple((edge / scale + 1) / 2 for edge in bar.interval)
        middle = '<i class="reference" style="left:50%"></i>'
        drawn.append(_draw_bar(bar, f"{bar.value * 100:+.1f}", span, interval, middle))
    return "".join(drawn)


def _draw_bar(bar: Bar, shown: str, span: tuple[float, float], interval, above: str) -> str:
    """span, interval: fractions of the track. above: what lies over it."""
    begin, end = span
    note = f" <small>{escape(bar.note)}</small>" if bar.note else ""
    whisker = ""
    if interval is not None:
        low, high = (min(max(edge, 0.0), 1.0) for edge in interval)
        whisker = f'<i class="whisker" style="left:{_percent(low)};width:{_percent(high - low)}"></i>'
    return (
        f'<div class="bar"><div><span>{escape(bar.label)}</span><span><b>{shown}</b>{note}</span></div>'
        f'<div class="track"><i style="left:{_percent(begin)};width:{_percent(end - begin)};'
        f'background:var({bar.color})"></i>{whisker}{above}</div></div>'
    )


def _percent(fraction: float) -> str:
    return f"{min(max(fraction, 0.0), 1.0):.2%}"


def draw_matrix(metrics: dict) -> str:
    """Returns counts and shares of the true class; blue is right, orange wrong, and a stronger colour a larger share.

    Of more than MOST_CELLS classes only the commonest mistakes are shown: a matrix could not be read.
    """
    class_names = list(metrics["per_class"])
    if len(class_names) > MOST_CELLS:
        return draw_confusions(metrics, 15)
    matrix = metrics["confusion_matrix"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in class_names)
    body = []
    for row, (name, counts) in enumerate(zip(class_names, matrix)):
        total, cells = sum(counts), []
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            color = f"rgba(var(--{'right' if row == column else 'wrong'}-rgb),{0.06 + 0.6 * share:.2f})"
            cells.append(f'<td style="background:{color}"><b>{count:,}</b>{f"{share:.0%}" if total else "–"}</td>')
        body.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll"><table class="matrix" style="min-width:{70 * (len(class_names) + 1)}px">'
        "<caption>rows: true class · columns: predicted class</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def draw_confusions(metrics: dict, most: int) -> str:
    """Returns the commonest mistakes as bars: which share of the true class is taken for another one."""
    (true, taken, counts), class_names = find_confusions(metrics), list(metrics["per_class"])
    wrong = np.flatnonzero(true != taken)
    return draw_bars(
        Bar(
            f"truly {class_names[true[i]]}, called {class_names[taken[i]]}",
            counts[i] / counts[true == true[i]].sum(),
            f"{counts[i]:,}",
            None,
            "--wrong",
        )
        for i in wrong[np.argsort(-counts[wrong], kind="stable")[:most]]
    )


def draw_text(text: str, head: str, pieces=None) -> str:
    """Returns a text under a line about it.

    Args:
        head: HTML. pieces: the text in pieces (a word with the space before it), as (piece, weight), if the weights are
            known: a positive weight speaks for the predicted class (blue), a negative one against it (orange).
    """
    if pieces:
        most = max(abs(weight) for _, weight in pieces) or 1.0
        length, shown = 0, ""
        for piece, weight in pieces:
            shown += color_piece(piece, weight / most)
            length += len(piece)
            if length > MOST_CHARACTERS:
                shown += "…"
                break
    else:
        shown = escape(text[:MOST_CHARACTERS]) + ("…" if len(text) > MOST_CHARACTERS else "")
    shown = shown if shown.strip() else "<i>(no text)</i>"
    return f'<div class="text"><div class="soft">{head}</div><p dir="auto">{shown}</p></div>'


def color_piece(piece: str, strength: float) -> str:
    """Returns a word with the space before it; strength: -1 (orange) to 1 (blue)."""
    name = "right" if strength > 0 else "wrong"
    word = piece.lstrip()
    color = f"rgba(var(--{name}-rgb),{0.65 * abs(strength):.2f})"
    return f'{" " * (len(piece) > len(word))}<span style="background:{color}">{escape(word)}</span>'
