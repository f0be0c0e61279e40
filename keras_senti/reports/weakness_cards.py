"""Cards of a report: where it is weak."""

import numpy as np
from scipy.stats import chi2_contingency
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from keras_senti.evaluation.metrics import compute_interval
from keras_senti.reports.charts import DIAGONAL, SQUARE, Axis, Curve, draw_chart
from keras_senti.reports.page import Bar, class_color, draw_bars, draw_text, escape, make_card
from keras_senti.reports.rows import FEW_ROWS, SIGNIFICANT, ReportInput, format_p

SHOWN_CLASSES = 6  # curves in one chart
LENGTH_RANGES = 6


def draw_class_curves(source: ReportInput) -> list[str]:
    """Returns the cards of precision-recall and ROC curves, of the classes that have rows inside and outside."""
    names, labels = source.class_names, source.part.labels
    inside = np.bincount(labels, minlength=len(names))
    drawn = [i for i in range(len(names)) if 0 < inside[i] < len(labels)]
    if not drawn:
        return []
    probabilities, left_out = source.part.probabilities, ""
    precision = {i: float(average_precision_score(labels == i, probabilities[:, i])) for i in drawn}
    colors = {i: class_color(i, len(names)) for i in drawn}
    if len(drawn) > SHOWN_CLASSES:
        left_out = f" Of {len(drawn)} classes, the {SHOWN_CLASSES} that are hardest to find."
        drawn = sorted(sorted(drawn, key=precision.get)[:SHOWN_CLASSES])
        colors = {i: class_color(place, SHOWN_CLASSES) for place, i in enumerate(drawn)}
    precision = {i: precision[i] for i in drawn}
    return [_draw_precision(source, precision, colors, left_out), _draw_roc(source, colors, left_out)]


_FOUND = Axis("share of the class that is found")


def _draw_precision(source: ReportInput, averages: dict[int, float], colors: dict[int, str], left_out: str) -> str:
    """averages, colors: precision and CSS colour of each class that is drawn."""
    names, labels, curves, counts = source.class_names, source.part.labels, [], []
    for i, average in averages.items():
        precision, recall, _ = precision_recall_curve(labels == i, source.part.probabilities[:, i])
        rows = (labels == i).sum()
        # Of a handful of alarms the share that is right jumps up and down, and the last point is made up by convention.
        alarms = np.divide(recall * rows, precision, out=np.zeros(len(recall)), where=precision > 0)
        enough = alarms >= min(FEW_ROWS, rows)
        curves.append(Curve(recall[enough], precision[enough], colors[i], f"{names[i]}: {average:.3f}"))
        counts.append(f"{escape(names[i])} {rows:,}")
    hard, easy = (names[choose(averages, key=averages.get)] for choose in (min, max))
    finding = f"“{escape(hard)}” is the hardest class to find without false alarms"
    if hard != easy:
        finding += f", “{escape(easy)}” the easiest"
    axes = _FOUND, Axis("share of its calls that are right")
    return make_card(
        finding,
        draw_chart(curves, axes, "Precision-recall curves", height=SQUARE),
        "Precision against recall: whoever wants to find more of a class (to the right) gets more false alarms "
        "(downwards). The numbers are the average precision; by chance it would be the share of the class. Texts: "
        f"{', '.join(counts)}.{left_out}",
    )


def _draw_roc(source: ReportInput, colors: dict[int, str], left_out: str) -> str:
    """colors: CSS colour of each class that is drawn."""
    names, labels, areas, curves = source.class_names, source.part.labels, {}, [DIAGONAL]
    for i, color in colors.items():
        scores = source.part.probabilities[:, i]
        false, true, _ = roc_curve(labels == i, scores)
        areas[i] = float(roc_auc_score(labels == i, scores))
        curves.append(Curve(false, true, color, f"{names[i]}: {areas[i]:.3f}"))
    lowest = min(areas, key=areas.get)
    axes = Axis("share of the other texts that it takes for it"), _FOUND
    return make_card(
        f"Given a “{escape(names[lowest])}” text and another one, it ranks the two rightly in {areas[lowest]:.0%}",
        draw_chart(curves, axes, "ROC curves", height=SQUARE),
        "ROC curves: the nearer to the top left the better; the dashed line is guessing. The numbers are the areas "
        "below: how often a text of the class has a higher probability for it than a text of another class. "
        f"{len(labels):,} texts.{left_out}",
    )


def draw_lengths(characters: np.ndarray, right: np.ndarray) -> str:
    """Returns the accuracy in ranges of length that hold about equally many rows."""
    edges = np.unique(np.quantile(characters, np.linspace(0, 1, LENGTH_RANGES + 1), method="lower"))
    inner, names = edges[1:-1], []
    for i in range(max(1, len(edges) - 1)):
        low, high = int(edges[i]) + (i > 0), int(edges[min(i + 1, len(edges) - 1)])
        names.append(f"{low:,} to {high:,} characters" if low < high else f"{high:,} characters")
    return _draw_groups("length", names, np.searchsorted(inner, characters, side="left"), right)


def draw_categories(column: str, values: list[str], codes: np.ndarray, right: np.ndarray) -> str:
    """Returns the accuracy by the values of a column, the worst first."""
    share = np.bincount(codes, right) / np.bincount(codes)
    order = np.argsort(share, kind="stable")
    return _draw_groups(f"column “{column}”", [values[i] or "(empty)" for i in order], np.argsort(order)[codes], right)


def _draw_groups(by: str, names: list[str], codes: np.ndarray, right: np.ndarray) -> str:
    """codes: (rows,) int, index into names; every name occurs."""
    rows, hits = np.bincount(codes, minlength=len(names)), np.bincount(codes, right, len(names))
    shares, table = hits / rows, np.stack([hits, rows - hits])
    p_value = chi2_contingency(table).pvalue if len(names) > 1 and table.sum(axis=1).all() else 1.0
    worst, best = int(shares.argmin()), int(shares.argmax())
    finding = f"By {escape(by)}: differences that chance may explain"
    if p_value < SIGNIFICANT:
        finding = (
            f"By {escape(by)}: worst at “{escape(names[worst])}” ({shares[worst]:.0%} right), best at "
            f"“{escape(names[best])}” ({shares[best]:.0%})"
        )
    counts = zip(names, shares, hits, rows)
    bars = [Bar(name, share, f"of {n:,}", compute_interval(hit, n)) for name, share, hit, n in counts]
    return make_card(
        finding,
        draw_bars(bars, reference=right.mean()),
        f"Accuracy of each group; the dotted line is that of all {len(right):,} texts, thin lines are 95% intervals. "
        f"How often chance alone would make the groups differ so: {format_p(p_value)}.",
    )


def draw_errors(source: ReportInput) -> str:
    """Returns the mistakes that the model was surest of."""
    wrong = int((~source.part.right).sum())
    if not wrong:
        return ""
    colors = " Blue words speak for the predicted class, orange ones against it." if source.color_words else ""
    return make_card(
        f"The {len(source.shown)} mistakes that it was surest of, out of {wrong:,}" if wrong > 1 else "The one mistake",
        draw_texts(source),
        f"Worth reading: such texts are often labelled wrongly, ironic, or about two things at once.{colors}",
        wide=True,
    )


def draw_texts(source: ReportInput) -> str:
    """Returns the shown texts with what the model says of them."""
    part, names, (_, shown) = source.part, source.class_names, source.texts
    texts = [shown[i] for i in source.shown.tolist()]
    predicted = part.probabilities[source.shown].argmax(axis=1)
    pieces = source.color_words(texts, predicted) if source.color_words else [None] * len(texts)
    drawn = []
    for i, text, label, found in zip(source.shown, texts, predicted, pieces):
        head = f"says <b>{escape(names[label])}</b> ({part.probabilities[i, label]:.1%} sure)"
        if part.labels[i] >= 0:
            head += f", labelled <b>{escape(names[part.labels[i]])}</b>"
        drawn.append(draw_text(text, f"{head} · {source.line_word} {part.lines[i]:,}", found))
    return f'<div class="texts">{"".join(drawn)}</div>'
