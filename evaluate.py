"""Shows the score of a run, or applies its model to other texts: python evaluate.py --run logs/tweets/<run>"""

import sys

from keras_senti.cli.evaluate import main
from keras_senti.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
