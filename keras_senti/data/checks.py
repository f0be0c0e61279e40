"""The data check: what is counted, and what a person is warned of."""

import hashlib
import json
import re

import numpy as np

from keras_senti.data.dataset import Dataset
from keras_senti.data.labels import SEVERAL_LABELS, clean_label
from keras_senti.data.records import MEANINGS, SHOWN_LINES
from keras_senti.data.tables import Table
from keras_senti.errors import UserError

LISTED_CLASSES = 20  # in a terminal
SWALLOWED = "swallowed lines"  # the one note that is a warning


def describe_reading(table: Table, label_column: str | None, labels, listed) -> list[dict]:
    """Returns how a file was read where it is not as it should be: {file, what, rows, lines: the first of them}.

    Args:
        table: after its rows were read. labels: all labels that are known; where there is no label_column, not used.
        listed: the lines whose text is a list of tokens.
    """
    notes = [("list of tokens", len(listed), list(listed[:SHOWN_LINES]))] if listed else []
    notes += [(what, *found) for what, found in table.records.notes.items()] if table.records else []
    swallowed = []
    for first, last, rows in table.records.swallowed if table.records else ():
        names = [clean_label(row.get(label_column, "").strip('"')) for row in rows] if label_column else []
        if not label_column or sum(name in labels for name in names) > 1:
            swallowed.append(f"{first} to {last}")
    if swallowed:
        notes.append((SWALLOWED, len(swallowed), swallowed[:5]))
    return [{"file": table.path.name, "what": what, "rows": rows, "lines": lines} for what, rows, lines in notes]


def format_reading(notes: list[dict]) -> list[str]:
    """Returns the notes of `describe_reading` as lines for the terminal."""
    lines = []
    for note in notes:
        where = f"line{'s' if note['rows'] > 1 else ''} {', '.join(map(str, note['lines']))}"
        where += ", ..." if note["rows"] > len(note["lines"]) else ""
        if note["what"] == SWALLOWED:
            lines.append(
                f"WARNING: {note['file']}: lines that look like rows of their own stand inside one record ({where}): "
                "a quote that is not meant as one may have joined them. Double it, or take it out"
            )
        else:
            rows = f"{note['rows']:,} row{'s' if note['rows'] > 1 else ''}"
            lines.append(f"{note['file']}: {MEANINGS[note['what']]} in {rows} ({where})")
    return lines


def find_case_twins(labels: np.ndarray, class_names) -> list[dict[str, int]]:
    """Returns the classes that differ only in upper and lower case, each group with its rows."""
    groups = {}
    for name, rows in zip(class_names, np.bincount(labels[labels >= 0], minlength=len(class_names)).tolist()):
        groups.setdefault(name.casefold(), {})[name] = rows
    return [group for group in groups.values() if len(group) > 1]


def check_classes(path, rows: Dataset, class_names, label_map):
    labels = rows.labels
    for name in class_names if label_map is None else ():
        parts = [clean_label(part) for part in re.split("[,;|/&+ ]+", name)]
        if len(parts) > 1 and set(parts) <= set(class_names):
            raise UserError(
                f"{path}: the label '{name}' holds several of the others, expected one label a text. {SEVERAL_LABELS} "
                "If it is a class of its own, say so with data.label_map."
            )
    counts = np.bincount(labels, minlength=len(class_names))
    if len(class_names) < 2:
        raise UserError(
            f"{path}: received {len(labels)} usable rows of {len(class_names)} class(es) "
            f"({', '.join(class_names) or 'none'}), expected at least two classes. Are data.text_column and "
            "data.label_column right?"
        )
    rare = np.flatnonzero(counts < 2).tolist()
    if rare:
        lines = dict(zip(labels.tolist(), rows.lines.tolist()))
        rare = [f"'{class_names[i]}' ({f'line {lines[i]}' if i in lines else 'none'})" for i in rare]
        shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
        raise UserError(
            f"{path}: fewer than two rows of the class {shown}. Expected at least two of each: bring more rows, join "
            "classes with data.label_map, or check data.label_column."
        )


def check_data(parts: dict[str, Dataset], class_names, dropped: dict[str, int]) -> dict:
    """Returns what a person should know before training: sizes, balance, lengths, duplicates, conflicts, overlap.

    Args:
        parts: "train", "validation", "test", and "unlabeled" if there is such a file. class_names: () without labels.
        dropped: rows left out, by reason.
    """
    hashes = {name: part.hashes for name, part in parts.items()}
    every, labels, characters, words = (
        np.concatenate([getattr(part, name) for part in parts.values()])
        for name in ("hashes", "labels", "characters", "words")
    )
    distinct = len(np.unique(every))
    labelled = labels >= 0
    pairs = np.unique(np.stack([every[labelled], labels[labelled].astype(np.uint64)]), axis=1)
    rows_per_class = {
        name: np.bincount(part.labels[part.labels >= 0], minlength=len(class_names))
        for name, part in parts.items()
        if name != "unlabeled"
    }
    percentiles = (5, 25, 50, 75, 95, 99, 100)
    overlap = {
        f"{a}_{b}": len(np.intersect1d(hashes[a], hashes[b]))
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test"))
    }
    return {
        "rows": {name: len(part) for name, part in parts.items()},
        "class_names": list(class_names),
        "rows_per_class": {name: dict(zip(class_names, counts.tolist())) for name, counts in rows_per_class.items()},
        "length_percentiles": {
            "percentile": list(percentiles),
            "characters": np.percentile(characters, percentiles).astype(int).tolist(),
            "words": np.percentile(words, percentiles).astype(int).tolist(),
        },
        "dropped_rows": dropped,
        "duplicate_rows": len(every) - distinct,
        "texts_with_conflicting_labels": int((np.unique(pairs[0], return_counts=True)[1] > 1).sum()),
        "texts_in_two_parts": overlap,
        "split_sha256": {name: hashlib.sha256(np.sort(h).tobytes()).hexdigest() for name, h in hashes.items()},
    }


def format_check(check: dict) -> str:
    """Returns the data check as lines for the terminal."""
    length = check["length_percentiles"]
    lines = _format_sizes(check)
    for unit in ("words", "characters"):
        pairs = zip(length["percentile"], length[unit])
        lines.append(f"{unit} a text: " + ", ".join(f"{v:,} ({'most' if p == 100 else f'{p}%'})" for p, v in pairs))
    dropped = ", ".join(f"{n:,} with {reason}" for reason, n in check["dropped_rows"].items()) or "none"
    lines.append(f"dropped rows: {dropped}; repeated texts: {check['duplicate_rows']:,}")
    if check["class_names"]:
        lines[-1] += f"; texts with conflicting labels: {check['texts_with_conflicting_labels']:,}"
    lines += _format_labels(check) + format_reading(check.get("notes", [])) + _format_tokens(check.get("reads", {}))
    if check.get("group_column"):
        lines.append(f"split by {check['group_column']}: rows that share it are in the same part")
    return "\n".join(lines + _format_split(check))


def _format_sizes(check: dict) -> list[str]:
    shown = check["class_names"] if len(check["class_names"]) <= LISTED_CLASSES else []
    width = max([10, *(len(name) for name in shown)])
    lines = [" " * 12 + f"{'rows':>9}" + "".join(f"  {name:>{width}}" for name in shown)]
    for part, rows in check["rows"].items():
        counts = check["rows_per_class"].get(part, {}).values()
        shares = "".join(f"  {f'{c:,} ({c / max(rows, 1):.0%})':>{width}}" for c in counts)
        if counts and not shown:
            shares = f"  {min(counts):,} to {max(counts):,} in each of {len(counts):,} classes"
        lines.append(f"{part:12}{rows:9,}{shares}")
    return lines


def _format_tokens(reads: dict) -> list[str]:
    lines = []
    if (script := reads.get("script_without_spaces")) and reads["split"] == "word":
        lines.append(
            f"WARNING: most letters of the texts are {script}, which has no spaces between words, but text.split is "
            "word: a token is a whole sentence. Use --text.split mixed"
        )
    if reads.get("unknown_tokens", 0) > 0.5:
        lines.append(
            f"WARNING: {reads['unknown_tokens']:.0%} of the tokens of the validation part are unknown to the "
            f"vocabulary, so the model cannot read them. Does text.split ({reads['split']}) suit the script, "
            "text.max_tokens the data, and the model of init_from, if any, the language?"
        )
    return lines


def _format_split(check: dict) -> list[str]:
    """Returns what is to be said of parts that are not as they should be."""
    lines, split = [], sum(check["rows"][part] for part in ("train", "validation", "test"))
    for part, asked in check.get("asked", {}).items():
        rows = check["rows"][part]
        # Rounding may cost a row a class.
        if asked is not None and abs(rows - asked) > max(len(check["class_names"]), 0.02 * split):
            lines.append(
                f"WARNING: the {part} part has {rows:,} rows, not the {asked:,} that its fraction asks for: rows of "
                "one group, and equal texts, stay together"
            )
    shared = {pair: n for pair, n in check["texts_in_two_parts"].items() if n}
    if shared:
        found = ", ".join(f"{n:,} in {pair.replace('_', ' and ')}" for pair, n in shared.items())
        lines.append(f"WARNING: the same text stands in two parts, so scores flatter: {found}")
    if not check["rows"]["test"]:
        lines.append("no test part: the run is scored on the validation part only")
    for part in ("validation", "test"):
        missing = [name for name, n in check["rows_per_class"][part].items() if not n]
        if missing and check["rows"][part]:
            more = f" and {len(missing) - LISTED_CLASSES:,} more" if len(missing) > LISTED_CLASSES else ""
            lines.append(f"WARNING: the {part} part has no row of {', '.join(missing[:LISTED_CLASSES])}{more}")
    return lines


def _format_labels(check: dict) -> list[str]:
    """Returns what is to be said of labels that were normalised, or may be wrong."""
    lines, found = [], check.get("normalized_labels", [])
    if found:
        shown = ", ".join(f"{ascii(f['stands'])[:40]} is '{f['read']}' ({f['rows']:,})" for f in found[:3])
        more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
        lines.append(f"normalised labels: {sum(f['rows'] for f in found):,} rows: {shown}{more}")
    for kind, counts in check.get("missing_words", {}).items():
        if counts:
            shown = ", ".join(f"'{word}' ({rows:,})" for word, rows in counts.items())
            remedy = "leave these cells empty if a value is missing"
            if kind == "label" and not check["has_label_map"]:
                remedy += ', or leave the label out with data.label_map: {"' + next(iter(counts)) + '": null, ...}'
            lines.append(f"WARNING: {kind}s that may stand for a missing value were kept: {shown}; {remedy}")
    if twins := check.get("case_twins"):
        shown = "; ".join(" and ".join(f"'{n}' ({rows:,})" for n, rows in group.items()) for group in twins[:5])
        joined = {name: max(group, key=group.get) for group in twins for name in group}
        names = check["class_names"] if len(check["class_names"]) <= 12 else list(joined)[:12]
        line = json.dumps({name: joined.get(name, name) for name in names}, ensure_ascii=False)
        line = line if len(names) == len(check["class_names"]) else f"{line[:-1]}, ...}}"
        join = f"join them: --data.label_map '{line}'"
        join = "give them one name in data.label_map" if check["has_label_map"] else join
        lines.append(f"WARNING: classes differ only in case: {shown}; if they mean the same, {join}")
    return lines
