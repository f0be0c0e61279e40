"""Charts with two axes, as SVG in a page.

Drawn by hand and not by matplotlib: text stays text, in the reader's font and at a size that a phone can show; colours
are the page's, so they follow light and dark; and a chart has 2 to 20 kB.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from keras_senti.reports.page import escape, make_legend

MOST_POINTS = 300  # of a curve; more cannot be seen
SQUARE = 300  # height of a chart whose axes have the same unit
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 340, 46, 22, 28, 42  # pixels on a phone that is 390 pixels wide


@dataclass(frozen=True)
class Axis:
    """One direction of a chart; whole: ticks at whole numbers only."""

    label: str
    low: float = 0.0
    high: float = 1.0
    format: str = ".0%"
    whole: bool = False

    def find_ticks(self) -> list[float]:
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=self.whole).tick_values(self.low, self.high)
        slack = 1e-6 * (self.high - self.low)
        return [tick for tick in ticks.tolist() if self.low - slack <= tick <= self.high + slack]


@dataclass(frozen=True)
class Curve:
    """Points (points,) in order, joined by a line. color: name of a CSS colour. name: in the legend, if it has one.

    low, high: (points,) each, a 95% interval around y: a band, or with `dots` a line at each point.
    """

    x: np.ndarray
    y: np.ndarray
    color: str = "--right"
    name: str = ""
    dots: bool = False
    dashed: bool = False
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Mark:
    """A circle on a falling curve. text: beside it, where the curve is not. name: in the legend."""

    x: float
    y: float
    text: str = ""
    name: str = ""


DIAGONAL = Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "--soft", dashed=True)


def draw_chart(curves, axes: tuple[Axis, Axis], description: str, mark: Mark | None = None, height: int = 270) -> str:
    """Returns curves over two axes, x and y, under their legend; points that are not finite are left out.

    Args:
        description: for those who do not see.
    """
    place_x, place_y = _make_scales(axes, height)
    parts = []
    for curve in curves:
        x, y, low, high = _thin(curve)
        x, y = place_x(x), place_y(y)
        low, high = (None, None) if low is None else (place_y(low), place_y(high))
        if low is not None and not curve.dots:
            band = _join(np.append(x, x[::-1]), np.append(high, low[::-1]))
            parts.append(f'<polygon points="{band}" fill="var({curve.color})" opacity=".18"/>')
        if len(x) > 1:
            dash = ' stroke-dasharray="5 4"' if curve.dashed else ""
            parts.append(f'<polyline class="curve" points="{_join(x, y)}" stroke="var({curve.color})"{dash}/>')
        if curve.dots or len(x) == 1:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.2" fill="var({curve.color})"/>' for a, b in zip(x, y)]
        if curve.dots and low is not None:
            lines = "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(x, low, high))
            parts.append(f'<path d="{lines}" stroke="var({curve.color})" stroke-width="1.5" opacity=".6"/>')
    if mark:
        x, y = place_x(mark.x), place_y(mark.y)
        ring = 'fill="var(--card)" stroke="var(--text)" stroke-width="2.5"'
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {ring}/>')
        if mark.text:
            is_right = x > (LEFT + WIDTH) / 2
            place = f'x="{x + 8:.1f}" y="{y - 9:.1f}"'
            if is_right:
                place = f'x="{x - 8:.1f}" y="{y + 20:.1f}" text-anchor="end"'
            parts.append(f'<text class="halo" {place}>{escape(mark.text)}</text>')
    legend = [(curve.color, curve.name) for curve in curves if curve.name]
    legend = make_legend(legend, mark.name if mark else "") if legend else ""
    return legend + _frame(axes, description, "".join(parts), height)


def draw_histogram(edges, layers, axes: tuple[Axis, Axis], description: str) -> str:
    """Returns columns that stand on each other, under their legend.

    Args:
        edges: (bins + 1,) ascending. layers: (color, name, heights (bins,)) triples, the lowest first.
    """
    place_x, place_y = _make_scales(axes, SQUARE)
    parts, base = [], np.zeros(len(edges) - 1)
    for color, _, shares in layers:
        columns = zip(place_x(edges[:-1]) + 0.75, place_x(edges[1:]) - 0.75, place_y(base + shares), place_y(base))
        parts += [
            f'<rect x="{left:.1f}" y="{top:.2f}" width="{right - left:.1f}" height="{bottom - top:.2f}" '
            f'fill="var({color})"/>'
            for left, right, top, bottom in columns
            if bottom > top
        ]
        base = base + shares
    legend = make_legend((color, name) for color, name, _ in layers)
    return legend + _frame(axes, description, "".join(parts), SQUARE)


def _make_scales(axes: tuple[Axis, Axis], height: int):
    """Returns two functions, from values to pixels."""
    x_axis, y_axis = axes

    def place_x(value):
        return LEFT + (value - x_axis.low) / (x_axis.high - x_axis.low) * (WIDTH - LEFT - RIGHT)

    def place_y(value):
        return height - BOTTOM - (value - y_axis.low) / (y_axis.high - y_axis.low) * (height - BOTTOM - TOP)

    return place_x, place_y


def _join(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))


def _frame(axes: tuple[Axis, Axis], description: str, inside: str, height: int) -> str:
    """Puts axes around what is drawn. The vertical axis is named above it, so that no text need be turned."""
    (x_axis, y_axis), (place_x, place_y) = axes, _make_scales(axes, height)
    right, bottom, lines, texts = WIDTH - RIGHT, height - BOTTOM, "", ""
    for tick in x_axis.find_ticks():
        x, text = place_x(tick), format(tick, x_axis.format)
        lines += f"M{x:.1f} {bottom}v4"
        texts += f'<text class="soft" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>'
    for tick in y_axis.find_ticks():
        y, text = place_y(tick), format(tick, y_axis.format)
        lines += f"M{LEFT} {y:.1f}H{right}"
        texts += f'<text class="soft" x="{LEFT - 6}" y="{y + 4.5:.1f}" text-anchor="end">{text}</text>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(description)}">'
        f'<path class="frame" d="{lines}M{LEFT} {bottom}H{right}"/>{inside}{texts}'
        f'<text x="2" y="14">{escape(y_axis.label)}</text>'
        f'<text x="{(LEFT + right) / 2:.0f}" y="{height - 6}" text-anchor="middle">{escape(x_axis.label)}</text></svg>'
    )


def _thin(curve: Curve):
    """Returns x, y, low, high of at most MOST_POINTS finite points, evenly spaced along the curve."""
    columns = [np.asarray(values, float) for values in (curve.x, curve.y, curve.low, curve.high) if values is not None]
    finite = np.isfinite(columns).all(axis=0)
    columns = [column[finite] for column in columns]
    if finite.sum() > MOST_POINTS:
        way = np.append(0.0, np.cumsum(np.hypot(np.diff(columns[0]), np.diff(columns[1]))))
        keep = np.searchsorted(way, np.linspace(0.0, way[-1], MOST_POINTS)).clip(max=len(way) - 1)
        columns = [column[np.unique(keep)] for column in columns]
    return (*columns, None, None)[:4]
