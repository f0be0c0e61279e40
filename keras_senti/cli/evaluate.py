"""Shows the score of a run, or applies its model to other texts: python evaluate.py --run logs/tweets/<run>"""

import argparse

import yaml

from keras_senti.errors import UserError
from keras_senti.settings.schema import DataConfig
from keras_senti.settings.yaml_text import parse_yaml


def main(argv):
    parser = _make_parser()
    options = parser.parse_args(_join_values(argv, parser))
    if options.csv is None and (options.text_column or options.label_column is not None or options.label_map):
        raise UserError("--data.*: received settings of a file but no file. Add --data.csv FILE.")
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


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, add_one_of = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    stored, usual = "run or weights folder; a run alone: its own stored score and report.html", "default: as in the run"
    why = "a text to say why of: words that decided; may be repeated"
    add("--run", required=True, metavar="DIR", help=stored)
    add_one_of("--text", action="append", type=_decode, help="a text to classify; may be repeated")
    add_one_of("--compare", metavar="DIR", help="another run, to be compared with on the same rows")
    add_one_of("--explain", action="append", type=_decode, metavar="TEXT", help=why)
    add("--explain_class", metavar="CLASS", help="with --explain: whose probability; default: the predicted class's")
    add_one_of("--data.csv", dest="csv", metavar="FILE", help="file to predict and, with labels, to score")
    add("--data.text_column", dest="text_column", metavar="C", help=usual)
    add("--data.label_column", dest="label_column", metavar="C", help=f"{usual}, if the file has it; empty: no labels")
    labels = 'e.g. \'{"0": negative, "9": null}\'; null: not scored'
    add("--data.label_map", dest="label_map", type=_read_label_map, help=labels)
    return parser


def _decode(text: str) -> str:
    """Returns what was typed in UTF-8, also where Python took the terminal for another and kept bytes as surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _join_values(argv: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Writes `--text -bad` as `--text=-bad`, which argparse would take for an option: only an option's name is one."""
    joined, names = [], {*parser._option_string_actions}
    for argument in argv:
        if joined and joined[-1] in names - {"-h", "--help"} and argument.partition("=")[0] not in names:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _read_label_map(text: str) -> dict[str, str | None]:
    try:
        return DataConfig(label_map=parse_yaml(text)).label_map
    except (yaml.YAMLError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
