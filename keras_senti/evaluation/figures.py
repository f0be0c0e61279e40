"""Pictures of scores that TensorBoard and the pages share."""

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST_COUNTED_CLASSES = 20  # above this, numbers in the cells of a confusion matrix cannot be read
MOST_DRAWN_CLASSES = 60  # above this, the names beside it cannot be read


def draw_confusion_matrix(matrix: np.ndarray, class_names, title: str) -> tuple[np.ndarray, bool]:
    """Draws counts and shares of the true class; the share is the colour.

    Args:
        matrix: (classes, classes) int; row: true class, column: predicted class.
    Returns: ((height, width, 4) uint8, whether the classes are named; numbered if no installed font has their names).
    """
    classes = len(class_names)
    font = find_font("".join(class_names))
    names = [str(i) for i in range(classes)] if font is None else [name[:30] for name in class_names]
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    figure = Figure(figsize=(1.8 + 0.7 * min(classes, 25),) * 2, dpi=120, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), names)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_fontproperties(font)
        label.set_parse_math(False)  # a $ is a $
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title)
    if classes <= MOST_COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(matrix):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}\n{share[row, column]:.0%}", ha="center", va="center", color=color)
    canvas.draw()
    return np.array(canvas.buffer_rgba()), font is not None


def draw_calibration(calibration: dict) -> np.ndarray:
    """Draws how often the model is right against how sure it is, above how many rows are so sure.

    Args:
        calibration: of `metrics.compute_calibration`.
    Returns: (height, width, 4) uint8.
    """
    figure = Figure(figsize=(3.2, 4), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    upper.plot(calibration["confidence"], calibration["accuracy"], marker="o", clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    upper.set_title(f"calibration error {calibration['error']:.3f}\n{sum(calibration['rows']):,} rows")
    lower.bar(calibration["confidence"], calibration["rows"], width=0.04)
    lower.set(xlabel="probability of the predicted class", ylabel="rows")
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def find_font(text: str) -> font_manager.FontProperties | None:
    """Returns the usual font if it has every character, else the first installed one that has, else None.

    Left out: slanted fonts, bitmaps, and matplotlib's Last Resort, which has a box for every character.
    """
    usual = font_manager.findfont(font_manager.FontProperties())
    fonts = font_manager.fontManager.ttflist
    installed = sorted({f.fname for f in fonts if f.style == "normal" and not f.name.startswith("Last Resort")})
    for path in [usual, *installed]:
        try:
            font = font_manager.get_font(path)
            if font.scalable and all(font.get_char_index(ord(character)) for character in text):
                return font_manager.FontProperties(fname=path)
        except (OSError, RuntimeError):  # gone since matplotlib listed it, or damaged
            continue
    return None
