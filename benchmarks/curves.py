"""Draws the learning curves of what `benchmarks/end_to_end.py` measured on one data set.

python benchmarks/curves.py tweets benchmarks/results/tweets.png
"""

import json
import sys
from pathlib import Path

from end_to_end import BASELINES, ROOT
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

sys.path.insert(0, str(ROOT))

from keras_senti.evaluation.baselines import choose_baseline

RESULTS = Path(__file__).parent / "results" / "end_to_end.json"


def main(data: str, target: str):
    systems = {c: s for c, s in json.loads(RESULTS.read_text(encoding="utf-8")).items() if s["data"] == data}
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for color, (config, system) in zip(("tab:blue", "tab:orange", "tab:gray"), systems.items()):
        for seed, history in enumerate(system["history"]):
            epochs = [epoch + 1 for epoch in history["epoch"]]
            label = Path(config).stem if seed == 0 else None
            loss.plot(epochs, history["loss"], color=color, linestyle=":", linewidth=1)
            loss.plot(epochs, history["val_loss"], color=color, label=label)
            score.plot(epochs, history["val_macro_f1"], color=color, label=label)
    beside = next(iter(systems.values()))["baselines"]["validation"]
    rival = choose_baseline(beside)
    baseline = beside[rival]["macro_f1"]
    score.axhline(baseline, color="black", linestyle="--", linewidth=1, label=BASELINES[rival])
    loss.set(title="loss: validation (line), train (dotted)", xlabel="epoch")
    score.set(title="macro-F1 on the validation part", xlabel="epoch", ylim=(baseline - 0.09, baseline + 0.03))
    for axes in (loss, score):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8, loc="lower right" if axes is score else "best")
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
