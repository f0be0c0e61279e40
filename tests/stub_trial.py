"""Stands for a training run in tests of studies and searches: leaves what they read of one, in a second.

The score is highest at 64 units, lower with weight decay, and a little different for each seed; a learning rate above 1
fails. Each epoch takes STUB_PAUSE seconds.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from keras_senti.experiments.trial import end_with_parent
from keras_senti.settings.command_line import parse_config
from keras_senti.settings.portable import resolve_paths
from keras_senti.settings.yaml_file import read_config, write_yaml

end_with_parent()
arguments = sys.argv[1:]
if "--resume" in arguments:
    run_dir = Path(arguments[arguments.index("--resume") + 1])
    config = read_config(run_dir / "config.yaml")
else:
    run_dir = Path(arguments[arguments.index("--run_dir") + 1])
    config = resolve_paths(parse_config([a for a in arguments if a not in ("--run_dir", str(run_dir))]))
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(write_yaml(config))
    (run_dir / "manifest.json").write_text(json.dumps({"status": "running"}))
with open(run_dir / "starts", "a") as file:
    file.write("begun\n")
if config.train.learning_rate > 1:
    sys.exit("error: training: the loss became nan")
distance = abs(config.model.units - 64) / 100
score = 0.9 - distance - config.train.weight_decay + 0.001 * (config.train.seed % 7)
rows = ["epoch,val_accuracy,val_macro_f1"]
for epoch in range(config.train.epochs):
    time.sleep(float(os.environ.get("STUB_PAUSE", "0")))
    rows.append(f"{epoch},{score},{score - 0.1}")
    (run_dir / "writing").write_text("\n".join(rows) + "\n")
    (run_dir / "writing").replace(run_dir / "history.csv")  # whole, as a real run writes it
scores = {"rows": 9, "accuracy": score, "macro_f1": score - 0.1, "log_loss": 0.5, "per_class": {"good": {"f1": score}}}
scores["accuracy_interval"] = [0.1, 0.9]
beside = {"majority": {**scores, "macro_f1": 0.2}, "nb_svm": {**scores, "macro_f1": 0.7}}
(run_dir / "metrics.json").write_text(json.dumps({"validation": scores, "validation_baselines": beside}))
(run_dir / "manifest.json").write_text(
    json.dumps(
        {
            "status": "finished",
            "seconds": 1.5,
            "memory_gb": 0.7,
            "training": {"best_epoch": 2},
            "parameters": 10 * config.model.units,
            "data": {"split_sha256": {"validation": f"split {config.data.seed}"}},
        }
    )
)
if os.environ.get("STUB_FAILS_AT_THE_END"):
    sys.exit("error: the report could not be drawn")
