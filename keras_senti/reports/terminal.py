"""Scores as the terminal shows them."""

from keras_senti.evaluation.result import Result

LISTED_CLASSES = 20  # in a terminal


def format_metrics(metrics: dict, class_names, title: str) -> str:
    """Returns the scores of one part as lines for the terminal."""
    low, high = metrics["accuracy_interval"]
    f1_low, f1_high = metrics["macro_f1_interval"]
    ranked = sorted(metrics["per_class"].items(), key=lambda item: (not item[1]["rows"], item[1]["recall"]))
    few = len(class_names) <= LISTED_CLASSES
    shown = class_names if few else [name for name, _ in ranked[:LISTED_CLASSES]]
    width = max(10, *(len(name) for name in shown))
    head = (
        "  predicted as " + " ".join(f"{name:>{width}}" for name in class_names)
        if few
        else f"  (of {len(class_names):,} classes, the {LISTED_CLASSES} of which it finds the least)"
    )
    lines = [
        f"{title}: {metrics['rows']:,} rows",
        f"  accuracy {metrics['accuracy']:.3f} (95%: {low:.3f} to {high:.3f}), macro-F1 {metrics['macro_f1']:.3f} "
        f"({f1_low:.3f} to {f1_high:.3f}), log loss {metrics['log_loss']:.3f}",
        *_format_calibration(metrics),
        f"  {'true class':{width}}  precision  recall     F1    rows {head}",
    ]
    for index, name in enumerate(shown):
        row = metrics["per_class"][name]
        cells = metrics["confusion_matrix"][index] if few else []
        lines.append(
            f"  {name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}  {row['rows']:6,}"
            + " " * 16 * few
            + " ".join(f"{count:>{width},}" for count in cells)
        )
    return "\n".join(lines)


def _format_calibration(metrics: dict) -> list[str]:
    """Returns one line; none for the scores of a run that is older than these numbers."""
    if "brier_score" not in metrics:
        return []
    scaled = ""
    if calibrated := metrics.get("calibrated"):
        crossed = calibrated.get("cross_fitted")  # on the rows that the temperature was fitted on, the honest number
        error = (crossed or calibrated)["calibration_error"]
        how = f"temperature {calibrated['temperature']:.2f}{', cross-fitted' if crossed else ''}"
        scaled = f", {error:.3f} after scaling ({how})"
    return [f"  calibration error {metrics['calibration_error']:.3f}{scaled}, Brier score {metrics['brier_score']:.3f}"]


def format_comparison(rows: dict[str, dict], title: str) -> str:
    """Returns one line a system, so that nobody has to look for the baseline."""
    width = max(len(name) for name in rows)
    lines = [f"{title:{width + 2}}  accuracy  macro-F1  log loss"]
    lines += [
        f"  {name:{width}}  {m['accuracy']:8.3f}  {m['macro_f1']:8.3f}  {m['log_loss']:8.3f}"
        for name, m in rows.items()
    ]
    return "\n".join(lines)


def format_run_scores(result: Result) -> str:
    """Returns the scores of each part as lines for the terminal, with the baselines on the same rows."""
    scores, lines = result.scores, []
    for part in result.parts:
        beside = scores["validation_baselines"] if part == "validation" else scores["baselines"]
        lines.append(format_metrics(scores[part], result.class_names, part))
        title, ours = f"on the {part} part", scores[part]
        if sample := scores["sampled"].get(part):
            title, ours = f"on {sample['rows']:,} sampled rows of the {part} part", sample["this_model"]
        lines.append(format_comparison({"this model": ours, **beside}, title))
    lines += [f"NOTE: the baseline {name}: {note}" for name, note in scores["baselines_notes"].items()]
    return "\n\n".join(lines) + "\n"


def format_perplexity(scores: dict) -> str:
    """Returns a line about a language model. scores: the content of its metrics.json."""
    found, unigram = scores["validation"], scores["baselines"]["unigram"]["perplexity"]
    return (
        f"perplexity {found['perplexity']:.1f} on {found['tokens']:,} held-out tokens, by the full softmax; "
        f"{unigram:,.1f} for who knows how frequent each token is"
    )
