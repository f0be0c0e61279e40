"""Probabilities and labels to numbers: pure functions, no TensorFlow."""

import numpy as np
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

BOOTSTRAP_SAMPLES = 2000


def compute_metrics(labels: np.ndarray, probabilities: np.ndarray, class_names) -> dict:
    """Returns the scores of one part as plain numbers, ready for metrics.json.

    Args:
        labels: (rows,) int, index into class_names; at least one row.
        probabilities: (rows, classes) float, each row sums to 1.
    Returns:
        accuracy, macro_f1 (mean of the classes' F1, each class alike however rare), log_loss (natural logarithm),
        *_interval (95% bootstrap interval), per_class, confusion_matrix (row: true class, column: predicted), rows.
        A class that occurs neither among labels nor predictions has precision, recall and F1 0, and counts as such.
    """
    classes = range(len(class_names))
    probabilities = np.float64(probabilities)
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 sums to 1 only nearly
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted, labels=classes)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    accuracy, macro_f1 = _accuracy_and_macro_f1(matrix[None])
    # A bootstrap sample of rows changes these two scores only through its confusion matrix, and the matrix of a sample
    # drawn with replacement is a multinomial draw from the observed one: the same distribution, without the rows.
    rng = np.random.default_rng(0)
    samples = rng.multinomial(len(labels), matrix.ravel() / matrix.sum(), BOOTSTRAP_SAMPLES)
    intervals = [
        np.quantile(score, (0.025, 0.975)).tolist()
        for score in _accuracy_and_macro_f1(samples.reshape(-1, *matrix.shape))
    ]
    return {
        "rows": len(labels),
        "accuracy": float(accuracy[0]),
        "accuracy_interval": intervals[0],
        "macro_f1": float(macro_f1[0]),
        "macro_f1_interval": intervals[1],
        "log_loss": float(log_loss(labels, probabilities, labels=list(classes))),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int(support[i]),
            }
            for i, name in enumerate(class_names)
        },
        "confusion_matrix": matrix.tolist(),
    }


def _accuracy_and_macro_f1(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(samples, classes, classes) → accuracy (samples,), macro-F1 (samples,)."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    total = matrices.sum(axis=1) + matrices.sum(axis=2)  # predicted + true
    f1 = np.divide(2 * hits, total, out=np.zeros(hits.shape), where=total > 0)
    return hits.sum(axis=1) / matrices.sum(axis=(1, 2)), f1.mean(axis=1)


def format_metrics(metrics: dict, class_names, title: str) -> str:
    """Returns the scores of one part as lines for the terminal."""
    low, high = metrics["accuracy_interval"]
    f1_low, f1_high = metrics["macro_f1_interval"]
    width = max(10, *(len(name) for name in class_names))
    lines = [
        f"{title}: {metrics['rows']:,} rows",
        f"  accuracy {metrics['accuracy']:.3f} (95%: {low:.3f} to {high:.3f}), macro-F1 {metrics['macro_f1']:.3f} "
        f"({f1_low:.3f} to {f1_high:.3f}), log loss {metrics['log_loss']:.3f}",
        f"  {'true class':{width}}  precision  recall     F1    rows   predicted as "
        + " ".join(f"{name:>{width}}" for name in class_names),
    ]
    for name, counts in zip(class_names, metrics["confusion_matrix"]):
        row = metrics["per_class"][name]
        lines.append(
            f"  {name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}  {row['rows']:6,}"
            + " " * 16
            + " ".join(f"{count:>{width},}" for count in counts)
        )
    return "\n".join(lines)


def format_comparison(rows: dict[str, dict], title: str) -> str:
    """Returns one line a system, so that nobody has to look for the baseline."""
    width = max(len(name) for name in rows)
    lines = [f"{title:{width + 2}}  accuracy  macro-F1  log loss"]
    lines += [
        f"  {name:{width}}  {m['accuracy']:8.3f}  {m['macro_f1']:8.3f}  {m['log_loss']:8.3f}"
        for name, m in rows.items()
    ]
    return "\n".join(lines)
