"""Trains, scores and exports a sentiment classifier: python train.py --config configs/tweets.yaml"""

import shlex

from keras_senti.settings.command_line import parse_config


def main(argv):
    config = parse_config(argv)
    from keras_senti.tasks import train  # starts TensorFlow, which --help does not need

    run_dir = train.train_run(config)
    if run_dir is None:
        print("done. What this worker and the others have trained is in the first one's run folder.")
        return
    quoted = shlex.quote(str(run_dir))
    print(f"""done. Everything is in {run_dir}
  the curves:    tensorboard --logdir {shlex.quote(str(run_dir.parent))}
  its score:     python evaluate.py --run {quoted}""")
    if config.task == "language_model":
        print(f"  to fine-tune:  python train.py --config CONFIG --init_from {quoted}")
    else:
        print(f"""  the report:    {run_dir / "report.html"}
  another text:  python evaluate.py --run {quoted} --text "What a wonderful morning!"
  another file:  python evaluate.py --run {quoted} --data.csv FILE
  to serve:      {run_dir / "saved_model"} (strings in, probabilities out)""")
