"""Cards of a report: how good the model is, beside others and by class."""

import numpy as np

from keras_senti.evaluation.calibration import apply_temperature, compute_coverage
from keras_senti.evaluation.metrics import METRICS, compute_calibration, compute_interval, find_confusions
from keras_senti.reports.charts import DIAGONAL, SQUARE, Axis, Curve, Mark, draw_chart, draw_histogram
from keras_senti.reports.page import (
    MOST_CELLS,
    Bar,
    class_color,
    draw_bars,
    draw_confusions,
    draw_matrix,
    escape,
    make_card,
    make_table,
)
from keras_senti.reports.rows import (
    FEW_ROWS,
    BaselineResult,
    ReportInput,
    describe_chance,
    find_commonest_mistake,
    format_p,
    rank_classes,
)


# How good is it?
def draw_baselines(ours: dict, baselines: list[BaselineResult]) -> str:
    """Returns accuracy and macro-F1 beside the simple models.

    Args:
        ours: metrics on the rows that they were scored on. baselines: that of the verdict first.
    """
    if not baselines:
        return ""
    baseline = baselines[0]
    systems = [("this model", ours, "--right"), *((baseline.name, baseline.metrics, "--c7") for baseline in baselines)]
    finding = (
        f"{ours['accuracy']:.1%} right, against {baseline.metrics['accuracy']:.1%} by {escape(baseline.name)}: "
        f"{describe_chance(baseline.p_value)}"
    )
    tests = "; ".join(f"{escape(baseline.name)} {format_p(baseline.p_value)}" for baseline in baselines)
    notes = "".join(f" {escape(baseline.name)}: {escape(baseline.note)}." for baseline in baselines if baseline.note)
    return make_card(
        finding,
        draw_systems(systems),
        f"All on the same {ours['rows']:,} texts. Thin lines are 95% intervals. A p-value is how often chance alone "
        f"would make a difference in accuracy as large: {tests}.{notes}",
    )


def draw_systems(systems) -> str:
    """Returns bars of the scores that have an interval and a hint. systems: (name, metrics, CSS colour)."""
    body = ""
    for key, metric in METRICS.items():
        if metric.from_probabilities or not metric.hint:
            continue
        bars = [
            Bar(name, m[key], "{:.1%} to {:.1%}".format(*m[f"{key}_interval"]), m[f"{key}_interval"], color)
            for name, m, color in systems
            if key in m
        ]
        body += f"<h4>{_capitalize(metric.title)}: {metric.hint}</h4>{draw_bars(bars)}" if bars else ""
    return body


def _capitalize(text: str) -> str:
    return text[0].upper() + text[1:]


def draw_classes(metrics: dict) -> str:
    """Returns recall and precision of every class."""
    (true, taken, counts), per_class, body = find_confusions(metrics), metrics["per_class"], ""
    ranked = rank_classes(metrics)
    shown = per_class if len(per_class) <= MOST_CELLS else ranked[:MOST_CELLS]
    for i, name in enumerate(per_class):
        if name not in shown:
            continue
        hits, color = counts[(true == i) & (taken == i)].sum(), class_color(i, len(per_class))
        found = (("of these it finds", counts[true == i].sum()), ("right when it says so", counts[taken == i].sum()))
        bars = [Bar(text, hits / n, f"of {n:,}", compute_interval(hits, n), color) for text, n in found if n]
        body += f"<h4>{escape(name)}</h4>" + (draw_bars(bars) or '<p class="soft">no text, and never predicted</p>')
    worst, best = ranked[0], ranked[-1]
    finding = f"It finds {per_class[worst]['recall']:.0%} of the “{escape(worst)}” texts"
    if best != worst:
        finding += f" and {per_class[best]['recall']:.0%} of the “{escape(best)}” ones"
    return make_card(
        finding,
        body,
        "Of each class: how many of its texts are found (recall), and how often the model is right when it names the "
        "class (precision). Thin lines are 95% intervals."
        + (f" Of {len(per_class)} classes, those of which it finds the least." if len(shown) < len(per_class) else ""),
    )


def draw_confusion_matrix(metrics: dict) -> str:
    true, taken, count = find_commonest_mistake(metrics)
    finding, body = "No text is in the wrong class", draw_matrix(metrics)
    if count:
        share = count / metrics["per_class"][true]["rows"]
        finding = f"The commonest mistake: {share:.0%} of the “{escape(true)}” texts are taken for “{escape(taken)}”"
        if len(metrics["per_class"]) <= MOST_CELLS:
            body += f"<h4>Commonest mistakes</h4>{draw_confusions(metrics, 4)}"
    return make_card(
        finding,
        body,
        "How many texts of a true class were put into which class, and which share of the true class that is. Blue is "
        f"right, orange is wrong. {metrics['rows']:,} texts.",
    )


# Can it be trusted when it is sure?
def draw_calibration(source: ReportInput) -> str:
    """Returns the calibration diagram, before and after scaling by the temperature if there is one."""
    labels, calibrated, how = source.part.labels, source.metrics.get("calibrated"), ""
    shown = [("as it is", "--c7" if calibrated else "--right", source.part.probabilities)]
    if calibrated:
        temperature = calibrated["temperature"]
        scaled = apply_temperature(source.part.probabilities, temperature)
        shown.append((f"scaled (temperature {temperature:.2f})", "--right", scaled))
        how = (
            " Scaling divides the logarithms of the probabilities by a temperature, fitted on "
            f"{source.fitted_on}; it changes no class."
        )
    confidence, right = source.part.probabilities.max(axis=1), source.part.right
    gap, error = confidence.mean() - right.mean(), np.std(confidence - right) / np.sqrt(len(labels))
    # A gap that is small, or that so few rows make by chance, is none.
    word = "about as it should be" if abs(gap) <= max(2 * error, 0.02) else f"too {'sure' if gap > 0 else 'modest'}"
    return make_card(
        f"It is {confidence.mean():.0%} sure on average, and {right.mean():.0%} are right: {word}",
        draw_reliability(labels, shown),
        "Texts with similar confidence (the probability of the predicted class) make one point. On the dashed line the "
        "confidence is true; below it the model is too sure. Vertical lines are 95% intervals. "
        f"{len(labels):,} texts.{how}",
    )


def draw_reliability(labels: np.ndarray, shown) -> str:
    """Returns the share that is right against confidence. shown: (name, CSS colour, probabilities) triples."""
    curves = [DIAGONAL]
    for name, color, probabilities in shown:
        found = compute_calibration(labels, probabilities)
        rows, accuracy = np.array(found["rows"]), np.array(found["accuracy"])
        low, high = compute_interval(accuracy * rows, rows)
        name = f"{name}: error {found['error']:.1%}"
        curves.append(Curve(np.array(found["confidence"]), accuracy, color, name, dots=True, low=low, high=high))
    axes = Axis("confidence of the model"), Axis("share that is right")
    return draw_chart(curves, axes, "Calibration diagram", height=SQUARE)


def draw_confidence(probabilities: np.ndarray, right: np.ndarray | None) -> str:
    """Returns the histogram of the confidence. right: (rows,) bool; None without labels."""
    confidence = probabilities.max(axis=1)
    first = min(int(20 / probabilities.shape[1]), 19)  # no confidence is below 1 / classes
    edges = np.arange(first, 21) / 20
    bins = np.clip((confidence * 20).astype(int), first, 19) - first
    layers = [("--right", "all texts", None)]
    if right is not None:
        layers = [("--right", "right", right), ("--wrong", "wrong", ~right)]
    layers = [(color, name, np.bincount(bins, w, 20 - first) / len(bins)) for color, name, w in layers]
    highest = float(np.sum([shares for *_, shares in layers], axis=0).max())
    axes = Axis("confidence of the model", edges[0]), Axis("share of all texts", 0.0, highest * 1.08)
    sure = confidence >= 0.9
    finding = f"It is at least 90% sure of {f'{sure.mean():.0%} of the texts' if sure.any() else 'no text'}"
    if right is not None and sure.any():
        finding += f", and {1 - right[sure].mean():.1%} of those are wrong"
    where = "" if right is None else " Mistakes should lie on the left."
    return make_card(
        finding,
        draw_histogram(edges, layers, axes, "Histogram of the confidence"),
        f"How sure the model is: the probability of the class that it predicts.{where} {len(bins):,} texts.",
    )


def draw_coverage(source: ReportInput) -> str:
    """Returns how good the answers are if the model may leave out what it is not sure of."""
    labels, probabilities, right = source.part.labels, source.part.probabilities, source.part.right
    _, coverage, accuracy = compute_coverage(labels, probabilities)
    answered = np.round(coverage * len(labels))
    enough = answered >= max(FEW_ROWS, len(labels) // 100)  # the share of right answers among three says nothing
    coverage, accuracy, answered = coverage[enough], accuracy[enough], answered[enough]
    low, high = compute_interval(accuracy * answered, answered)
    table, mark, how = [], None, ""
    finding = f"Answering every text it is right in {right.mean():.1%}; leaving out the unsure ones helps little"
    if "abstain" in source.metrics:
        how = f" Thresholds were chosen on {source.fitted_on}."
    for entry in source.metrics.get("abstain", ()):
        keys = ("wished_precision", "threshold", "coverage", "precision")
        wished, threshold, share, precision = (entry[key] for key in keys)
        if wished <= right.mean():
            continue
        if share * len(labels) < FEW_ROWS:
            table.append((f"{wished:.0%}", "–", "none", "–"))
            continue
        table.append((f"{wished:.0%}", f"{threshold:.1%}", f"{share:.0%}", f"{precision:.1%}"))
        if not mark and wished >= 0.95:
            mark = Mark(share, precision, f"{share:.0%} answered")
            finding = (
                f"Answering only where it is at least {threshold:.1%} sure, it answers {share:.0%} of the texts and is "
                f"right in {precision:.1%}"
            )
    floor = max(0.0, np.floor(20 * min(low.min(), right.mean())) / 20)
    axes = Axis("share of the texts that it answers"), Axis("share of the answers that is right", floor)
    rows = make_table(("target", "sure from", "answered", "right"), table) if table else ""
    return make_card(
        finding,
        draw_chart([Curve(coverage, accuracy, low=low, high=high)], axes, "Accuracy against coverage", mark) + rows,
        "The model may leave the texts that it is not sure of to a person: the further left, the more go to a "
        f"person. The band is the 95% interval.{how} {len(labels):,} texts.",
    )


# All numbers
def draw_numbers(what: str, systems, class_name_metrics) -> str:
    """Returns all scores as tables.

    Args:
        what: the rows, after a number. systems: (name, metrics) pairs. class_name_metrics: (title, metrics) pairs of
            those whose classes are listed.
    """
    rows = [(name, f"{m['rows']:,}", *(f"{m[key]:.3f}" if key in m else "–" for key in METRICS)) for name, m in systems]
    body = make_table(("model", "texts", *(metric.title for metric in METRICS.values())), rows)
    for title, metrics in class_name_metrics:
        classes = [
            (name, f"{c['rows']:,}", f"{c['precision']:.3f}", f"{c['recall']:.3f}", f"{c['f1']:.3f}")
            for name, c in metrics["per_class"].items()
        ]
        body += f"<h4>By class, {escape(title)}</h4>"
        body += make_table(("class", "texts", "precision", "recall", "F1"), classes)
    titles = [[m.title for m in METRICS.values() if m.higher_is_better is better] for better in (True, False)]
    more, less = (_capitalize(f"{', '.join(names)} and {last}") for *names, last in titles)
    return make_card(
        f"On {systems[0][1]['rows']:,} {escape(what)}",
        body,
        f"{more}: more is better, 1 is perfect. {less} judge the probabilities: less is better, 0 is perfect. F1 is "
        "the harmonic mean of precision and recall; macro-F1 is its mean over the classes.",
        wide=True,
    )
