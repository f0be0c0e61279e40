"""Draws the learning curves of what `benchmarks/seeds.py` measured (needs the extra `plot`).

python benchmarks/curves.py benchmarks/results/tweets.json benchmarks/results/tweets.png
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(source: str, target: str):
    result = json.loads(Path(source).read_text())
    figure, (loss, score) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for color, (config, system) in zip(("tab:blue", "tab:orange", "tab:gray"), result["systems"].items(), strict=False):
        for seed, history in enumerate(system["history"]):
            epochs = [epoch + 1 for epoch in history["epoch"]]
            label = Path(config).stem if seed == 0 else None
            loss.plot(epochs, history["loss"], color=color, linestyle=":", linewidth=1)
            loss.plot(epochs, history["val_loss"], color=color, label=label)
            score.plot(epochs, history["val_macro_f1"], color=color, label=label)
    baseline = result["baselines"]["validation"]["tfidf_logistic_regression"]["macro_f1"]
    score.axhline(baseline, color="black", linestyle="--", linewidth=1, label="TF-IDF + logistic regression")
    loss.set(title="loss: validation (line), train (dotted)", xlabel="epoch")
    score.set(title="macro-F1 on the validation part", xlabel="epoch", ylim=(0.64, 0.76))
    for axes in (loss, score):
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.legend(fontsize=8, loc="lower right" if axes is score else "best")
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
