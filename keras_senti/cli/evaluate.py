"""Shows the score of a run, or applies its model to other texts: python evaluate.py --run logs/tweets/<run>"""

import argparse

import yaml

from keras_senti.errors import UserError
from keras_senti.settings.yaml_text import parse_yaml


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--run",
        required=True,
        metavar="DIR",
        help="run or weights folder; a run alone: its own stored score and report.html",
    )
    add("--text", action="append", type=_decode, help="a text to classify; may be repeated")
    add("--compare", metavar="DIR", help="another run, to be compared with on the same rows")
    add(
        "--explain",
        action="append",
        type=_decode,
        metavar="TEXT",
        help="a text to say why of: words that decided; may be repeated",
    )
    add("--explain_class", metavar="CLASS", help="with --explain: whose probability; default: the predicted class's")
    add("--data.csv", dest="csv", metavar="FILE", help="file to predict and, with labels, to score")
    add("--data.text_column", dest="text_column", metavar="C", help="default: as in the run's settings")
    add(
        "--data.label_column",
        dest="label_column",
        metavar="C",
        help="default: as in the run's settings, if the file has it; empty: no labels",
    )
    add(
        "--data.label_map",
        dest="label_map",
        type=_mapping,
        help='e.g. \'{"0": negative, "9": null}\'; null: not scored',
    )
    options = parser.parse_args(_join_values(argv, [name for a in parser._actions for name in a.option_strings]))
    if options.csv is None and (options.text_column or options.label_column is not None or options.label_map):
        raise UserError("--data.*: received settings of a file but no file. Add --data.csv FILE.")
    given = {
        "--text": options.text,
        "--explain": options.explain,
        "--data.csv": options.csv,
        "--compare": options.compare,
    }
    if len(names := [name for name, value in given.items() if value is not None]) > 1:
        raise UserError(f"received {' and '.join(names)}, expected one of them.")
    if options.explain_class is not None and not options.explain:
        raise UserError("--explain_class: received a class but no text. Add --explain TEXT.")
    from keras_senti.tasks import evaluate  # starts TensorFlow, which --help does not need

    if options.text:
        print(evaluate.evaluate_texts(options.run, options.text))
    elif options.explain:
        folder, shown = evaluate.explain_texts(options.run, options.explain, options.explain_class)
        print(f"{shown}\n\nwritten to {folder / 'explanation.html'}")
    elif options.csv is not None:
        columns = options.text_column, options.label_column, options.label_map
        folder, summary = evaluate.evaluate_file(options.run, options.csv, *columns)
        print(f"{summary}\nwritten to {folder}")
    elif options.compare is not None:
        folder, summary = evaluate.compare_stored(options.run, options.compare)
        print(f"{summary}\nthe page: {folder / 'compare.html'}")
    else:
        print(evaluate.evaluate_stored(options.run))
        print(evaluate.write_report(options.run))


def _decode(word: str) -> str:
    """Returns what was typed in UTF-8, also where Python took the terminal for another and kept bytes as surrogates."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _join_values(argv: list[str], names: list[str]) -> list[str]:
    """Writes `--text -bad` as `--text=-bad`, which argparse would take for an option: only an option's name is one."""
    words, joined = iter(argv), []
    following = next(words, None)
    while following is not None:
        word, following = following, next(words, None)
        has_value = word in names and word not in ("-h", "--help") and following is not None
        if has_value and following.partition("=")[0] not in names:
            word, following = f"{word}={following}", next(words, None)
        joined.append(word)
    return joined


def _mapping(text: str) -> dict[str, str | None]:
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"not valid YAML: {error}") from None
    if not isinstance(value, dict) or any(isinstance(key, bool) for key in value):
        raise argparse.ArgumentTypeError(f'expected labels in quotes, such as {{"no": negative}}, received {text}')
    return {str(key): None if name is None else str(name) for key, name in value.items()}
