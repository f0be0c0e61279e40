"""Trains, scores and exports a sentiment classifier: python train.py --config configs/tweets.yaml"""

import sys

from keras_senti.cli.train import main
from keras_senti.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
