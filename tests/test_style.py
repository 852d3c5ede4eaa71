"""The rules that CONTRIBUTING.md gives for the tree: docstrings, imports between rooms, sizes."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from config import REPO_DIR

TABLE_ROW = re.compile(r"^\| (`[\w./]+`|the six scripts) \| (.+?) \| .+ \|$", re.MULTILINE)
SCRIPTS = "the six scripts"
RELATIVE_CLAUSE = re.compile(r"(what|whatever|whoever|of|as|that|where|which|whose)\b", re.IGNORECASE)
LONGEST_FUNCTION = 60  # lines
# Lines. The model, its samplers and its checkpoints were 3,462; the rest guards against foreign, broken or hostile
# files of weights. Later came wash.py, for the named qualities of voices, and images that are not square.
LDM_FILE, LDM_ROOM = 430, 3900 + 175


def modules_in(folder: Path) -> Iterator[Path]:
    """All modules but those below hidden folders, such as .venv with its thousands."""
    for path in folder.iterdir():
        if path.suffix == ".py":
            yield path
        elif path.is_dir() and not path.name.startswith("."):
            yield from modules_in(path)


FILES = sorted(modules_in(REPO_DIR))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))))


def name_of(path: Path) -> str:
    """The path within the tree, as messages give it."""
    return path.relative_to(REPO_DIR).as_posix()


def module_of(path: Path) -> str:
    """The dotted name under which a file is imported."""
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(path): path for path in FILES}


def room_of(path: Path) -> str:
    """The row of the table in CONTRIBUTING.md that a file belongs to; "" for files of no room, such as tests."""
    folder, _, rest = name_of(path).partition("/")
    if not rest and "cli.run(main)" in path.read_text(encoding="utf-8"):
        return SCRIPTS
    return room if (room := folder.removesuffix(".py")) in MAY_IMPORT else ""


def allowed_imports() -> dict[str, set[str]]:
    """Read from CONTRIBUTING.md the packages and modules that each room may import, besides itself."""
    rows = TABLE_ROW.findall((REPO_DIR / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    table = {dotted(room): {dotted(name) for name in re.findall(r"`[^`]+`", cell)} for room, cell in rows}
    table[SCRIPTS] = table.keys() - table[SCRIPTS] - {SCRIPTS}  # the table names the exceptions
    return table


def dotted(name: str) -> str:
    """Turn a path as the table writes it, such as `audio/recipe.py`, to the name under which Python imports it."""
    return name.strip("`").removesuffix("/").removesuffix(".py").replace("/", ".")


MAY_IMPORT = allowed_imports()


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """The local modules that a file imports anywhere but for type checking, and whether by a relative import."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    skipped: set[ast.AST] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                found = next((name for name in (f"{base}.{alias.name}", base) if name in MODULES), None)
                if found:
                    yield found, node.level > 0


def test_docstrings_begin_with_a_verb_or_a_noun():
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    wrong = [
        f"{name_of(path)}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, kinds) and (text := ast.get_docstring(node)) and RELATIVE_CLAUSE.match(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_of_rooms_is_whole():
    """Every script, every module beside the scripts and every folder that they import has a row."""
    scripts = [path for path in FILES if path.parent == REPO_DIR and path.stem not in MAY_IMPORT]
    assert len(scripts) == 6 and {room_of(path) for path in scripts} == {SCRIPTS}
    rooms = {module.split(".")[0] for path in FILES if room_of(path) for module, _ in imports(path)}
    assert rooms | {"training", SCRIPTS} == MAY_IMPORT.keys()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_what_they_may(room):
    """CONTRIBUTING.md has the table.

    audio imports itself relatively, so that another program can load it under another name.
    """
    wrong = []
    for path in (path for path in FILES if room_of(path) == room):
        program = {"cli", "config"} if path.name == "__main__.py" else set()  # it has a command line
        allowed = {room, *MAY_IMPORT[room], *program}
        for module, relative in imports(path):
            known = module in allowed or any(module.startswith(f"{name}.") for name in allowed)
            if not known or (room == "audio" and not relative and module not in program):
                wrong.append(f"{name_of(path)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_nothing_but_tests_and_benchmarks_imports_training():
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in FILES
        if name_of(path).split("/")[0] not in ("training", "benchmarks", "tests")
        for module, _ in imports(path)
        if module.split(".")[0] == "training"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    """Also not by imports within functions."""
    edges = {name: {module for module, _ in imports(path)} - {name} for name, path in MODULES.items()}
    while ends := edges.keys() - {name for imported in edges.values() for name in imported} | {
        name for name, imported in edges.items() if not imported
    }:  # modules that nothing imports, and modules that import nothing, are in no circle
        edges = {name: imported - ends for name, imported in edges.items() if name not in ends}
    assert not edges, sorted((name, *imported) for name, imported in edges.items())


def test_imports_are_where_they_belong():
    """No import after code, and no edit of the path of modules, but in the server that starts scripts."""
    starts_scripts = Path(__file__).with_name("forked.py")
    forbidden = re.compile(r"noqa: ?E402|\bsys\.path\b")
    wrong = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in FILES
        if path not in (Path(__file__), starts_scripts)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if forbidden.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_functions_fit_on_a_screen():
    wrong = [
        f"{name_of(path)}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not wrong, "\n".join(wrong)


def test_the_model_is_small():
    """ldm is the model, its samplers and its checkpoints, and nothing else."""
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in (REPO_DIR / "ldm").rglob("*.py")
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > LDM_FILE}
    assert not too_long and sum(lengths.values()) < LDM_ROOM, (too_long, sum(lengths.values()))
