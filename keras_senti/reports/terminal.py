"""Scores as the terminal shows them."""

from keras_senti.evaluation.metrics import METRICS
from keras_senti.evaluation.result import Result

LISTED_CLASSES = 20  # in a terminal


def format_metrics(metrics: dict, class_names, title: str) -> str:
    """Returns the scores of one part as lines for the terminal."""
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
        *_format_scores(metrics),
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


def _format_scores(metrics: dict) -> list[str]:
    """Returns a line of the main scores and one of the others; a metric may be newer than the run."""
    main, others = [], []
    for metric in METRICS.values():
        if metric.name not in metrics:
            continue
        text = f"{metric.title} {metrics[metric.name]:.3f}"
        if edges := metrics.get(f"{metric.name}_interval"):
            text += " ({}{:.3f} to {:.3f})".format("" if main else "95%: ", *edges)
        if metric.name == "calibration_error":
            others.insert(0, text + _format_scaled(metrics.get("calibrated")))
        else:
            (main if metric.main else others).append(text)
    return [f"  {', '.join(scores)}" for scores in (main, others) if scores]


def _format_scaled(calibrated: dict | None) -> str:
    if not calibrated:
        return ""
    crossed = calibrated.get("cross_fitted")  # on the rows that the temperature was fitted on, the honest number
    how = f"temperature {calibrated['temperature']:.2f}{', cross-fitted' if crossed else ''}"
    return f", {(crossed or calibrated)['calibration_error']:.3f} after scaling ({how})"


def format_comparison(rows: dict[str, dict], title: str) -> str:
    """Returns one line a system, so that nobody has to look for the baseline."""
    width = max(len(name) for name in rows)
    main = [m for m in METRICS.values() if m.main and all(m.name in scores for scores in rows.values())]
    lines = [f"{title:{width + 2}}" + "".join(f"  {m.title:>8}" for m in main)]
    for name, scores in rows.items():
        lines.append(f"  {name:{width}}" + "".join(f"  {scores[m.name]:{max(8, len(m.title))}.3f}" for m in main))
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
