"""How well flipped labels are found: 5% of the train labels of the tweets are replaced at random, by another class.

    python benchmarks/label_audit.py

Precision counts only the flips as errors, so it is a lower bound: the tweets have label errors of their own.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from keras_senti.evaluation.label_audit import assign_folds, find_label_errors, predict_held_out, read_rows  # noqa: E402
from keras_senti.settings.command_line import parse_config  # noqa: E402

FLIPPED_FRACTION = 0.05
SEEDS = 3


def measure(rows, num_classes: int, seed: int) -> dict[str, float]:
    """Returns recall and precision of all that is found, and precision of the first 100 and of as many as flips."""
    rng, labels = np.random.default_rng(seed), rows["label"].to_numpy().copy()
    flipped = rng.choice(len(rows), round(FLIPPED_FRACTION * len(rows)), replace=False)
    true = labels[flipped]
    labels[flipped] = (true + rng.integers(1, num_classes, len(flipped))) % num_classes
    probabilities = predict_held_out(list(rows["text"]), labels, assign_folds(rows["group"].to_numpy(), labels))
    found = find_label_errors(labels, probabilities)
    hit = np.isin(found["row"], flipped)
    suggested = dict(zip(found["row"], found["suggested"]))
    right = [suggested[row] == label for row, label in zip(flipped, true) if row in suggested]
    return {
        "flipped": len(flipped),
        "found": len(found),
        "recall": hit.sum() / len(flipped),
        "precision": hit.mean(),
        "precision of the first 100": hit[:100].mean(),
        "precision of as many as flips": hit[: len(flipped)].mean(),
        "true label suggested, of flips found": np.mean(right),
    }


def main():
    rows, class_names = read_rows(parse_config(["--config", str(ROOT / "configs" / "tweets.yaml")]))
    train = rows[rows["part"] == "train"]
    results = [measure(train, len(class_names), seed) for seed in range(SEEDS)]
    print(f"{len(train):,} train rows, {SEEDS} seeds")
    for name in results[0]:
        values = [result[name] for result in results]
        print(f"{name}: {np.mean(values):,.3f} ({', '.join(f'{value:,.3f}' for value in values)})")


if __name__ == "__main__":
    main()
