"""The order of the rooms, from the imports themselves: a room imports only from rooms above it, nothing in a circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "keras_senti"
ROOMS = [  # those of one line do not know each other
    {"errors"},
    {"storage"},
    {"settings"},
    {"data", "models"},
    {"evaluation"},
    {"training", "export"},
    {"reports"},
    {"tasks"},
    {"experiments"},
    {"cli"},
]
DOORS = {"__init__", "__main__", "layers"}  # what a user imports or starts, above the rooms
MODULES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}


def find_imports(name: str) -> set[str]:
    """Returns the modules of this package that one imports, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "keras_senti":
            base = node.module.removeprefix("keras_senti").strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                found.add(inner if inner in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("keras_senti.") for a in node.names if a.name.startswith("keras_senti.")}
    return found - {""}


def find_floor(name: str) -> int:
    return next((floor for floor, rooms in enumerate(ROOMS) if name.split(".")[0] in rooms), -1)


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name or name == "errors"])
def test_a_module_imports_from_its_own_room_and_from_rooms_above_it(name):
    room, floor = name.split(".")[0], find_floor(name)
    wrong = [other for other in find_imports(name) if other.split(".")[0] != room and find_floor(other) >= floor]
    assert not wrong, f"{name} imports {wrong}"


def test_no_module_imports_itself_through_others():
    graph, done = {name: find_imports(name) for name in MODULES}, set()

    def visit(name, path):
        assert name not in path, " > ".join([*path, name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("room", sorted({name.split(".")[0] for name in MODULES if "." in name}))
def test_a_room_says_in_one_sentence_what_it_is_for(room):
    purpose = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    assert purpose and purpose.endswith(".") and "TODO" not in purpose


MOST_FILE_LINES, MOST_FUNCTION_LINES, MOST_ARGUMENTS = 350, 50, 5
FUNCTIONS = [
    (name, node)
    for name, path in MODULES.items()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef)
]


def test_no_file_is_so_long_that_it_has_two_subjects():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > MOST_FILE_LINES} == {}


def test_every_function_fits_on_one_screen():
    lengths = {f"{name}.{node.name}": node.end_lineno - node.lineno + 1 for name, node in FUNCTIONS}
    assert {name: length for name, length in lengths.items() if length > MOST_FUNCTION_LINES} == {}


def test_functions_of_tasks_and_training_take_few_arguments():
    """What travels together is an object there: Run, Corpus, EncodedDataset, Result."""
    found = {}
    for name, node in FUNCTIONS:
        taken = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
        if name.split(".")[0] in ("tasks", "training") and len(taken) > MOST_ARGUMENTS:
            found[f"{name}.{node.name}"] = taken
    assert found == {}
