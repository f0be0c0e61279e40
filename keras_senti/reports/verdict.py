"""How good, against which simple model, and whether by more than chance: in words."""

import numpy as np

from keras_senti.evaluation.metrics import compare_predictions, compute_metrics
from keras_senti.reports.rows import (
    FEW_ROWS,
    BaselineResult,
    ReportInput,
    describe_chance,
    find_commonest_mistake,
    rank_classes,
)

BASELINE_NAMES = {
    "majority": "always the train part's commonest class",
    "words_characters": "a linear model of words and characters",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
    "nb_svm": "NB-SVM",
    "vader": "VADER (word list)",
    "textblob": "TextBlob (word list)",
    "snownlp": "SnowNLP",
}


def read_baseline(name: str, ours: dict, baseline: dict, note: str) -> BaselineResult:
    """Returns a baseline as metrics.json has it. ours: metrics on the same rows."""
    difference, p_value = ours["accuracy"] - baseline["accuracy"], baseline["against_this_model"]["p_value"]
    return BaselineResult(BASELINE_NAMES.get(name, name), baseline, difference, p_value, note)


def make_constant_baseline(source: ReportInput) -> BaselineResult:
    """Returns the one simple model that needs no train texts: the commonest class of these very rows."""
    labels, names = source.part.labels, source.class_names
    shares = np.bincount(labels, minlength=len(names)) / len(labels)
    constant = np.tile(shares, (len(labels), 1))
    found = compare_predictions(labels, constant, source.part.probabilities)
    metrics, name = compute_metrics(labels, constant, names), f"always saying “{names[shares.argmax()]}”"
    return BaselineResult(name, metrics, found["accuracy_difference"], found["p_value"])


def write_verdict(metrics: dict, baselines: list[BaselineResult], what: str) -> tuple[str, str]:
    """Returns how good a model is in one sentence, and what else should be known at once; plain text.

    Args:
        metrics: of `metrics.compute_metrics`. baselines: at least one; the first is compared with. what: the rows,
            after a number: "texts of ...".
    """
    rows, per_class, ranked = metrics["rows"], metrics["per_class"], rank_classes(metrics)
    right = round(metrics["accuracy"] * rows)
    if rows < FEW_ROWS:
        return f"{right} of {rows} {what} in the right class: too few to say how good the model is.", ""
    sentence = f"The model puts {metrics['accuracy']:.1%} of the {rows:,} {what} into the right class"
    low, high = metrics["accuracy_interval"]
    detail = (
        f"On more texts of this kind, {low:.1%} to {high:.1%} right answers are to be expected (95% interval, by "
        "chance alone)."
    )
    if len(ranked) == 1:
        return f"{sentence}; all are “{ranked[0]}”, so nothing is known of how often it calls other texts that.", detail
    baseline = baselines[0]
    points = round(abs(baseline.difference) * 100, 1)
    where = (
        "the same texts" if baseline.metrics["rows"] == rows else f"a sample of {baseline.metrics['rows']:,} of them"
    )
    if points:
        amount = f"{points:.1f} percentage points {'more' if baseline.difference > 0 else 'less'} than"
        sentence += f": {amount} {baseline.name} on {where}, {describe_chance(baseline.p_value)}"
    else:
        sentence += f", as many as {baseline.name} on {where}"
    rest = [f"{r.name} {r.metrics['accuracy']:.1%}" for r in baselines[1:]]
    detail += f" Other simple models: {', '.join(rest)}." if rest else ""
    if right == rows:
        return f"{sentence}; it makes no mistake here.", detail
    worst, strongest = (f"“{name}”" for name in (ranked[0], ranked[-1]))
    shares = [per_class[name]["recall"] for name in (ranked[-1], ranked[0])]
    high, low = (f"{share:.0%}" for share in shares)
    if high == low:
        sentence += f"; of each class it finds {high}."
    else:
        sentence += f"; it is best on {strongest}, of which it finds {high}, and worst on {worst} ({low})."
    true, taken, count = find_commonest_mistake(metrics)
    detail += (
        f" This model's commonest mistake: “{true}” taken for “{taken}”, {count:,} of {rows - right:,} mistakes. "
        f"When it says “{taken}”, it is right in {per_class[taken]['precision']:.0%}."
    )
    return sentence, detail
