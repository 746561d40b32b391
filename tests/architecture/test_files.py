"""What every file of the project has in common: a size, an opening sentence, a name that says something."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LINES_MAX = 300
FUNCTION_LINES_MAX = 70
BANNED = re.compile(r"(^|_)(utils?|helpers?|managers?|base|common|misc|stuff)($|_)")
BANNED_CLASSES = re.compile(r"(Utils?|Helpers?|Managers?|Base)$")
# Spelled in pieces, so that this file is none of those that name one.
LEAKS = re.compile(
    "|".join(
        (
            r"(?<![\w.])/(?:wor" + "k|far" + "m|roo" + "t|hom" + r"e)/[A-Za-z]",
            r"pypi\.o" + "rg",
            "python" + "hosted",
            r"registry\.npm" + "js",
            r"deb\.deb" + "ian",
        )
    )
)


def files(*patterns: str) -> Iterator[Path]:
    """The project's files that match, apart from what .gitignore leaves out."""
    ignored = [".git", *(REPOSITORY / ".gitignore").read_text().replace("/\n", "\n").split()]
    for path in sorted(REPOSITORY.rglob("*")):
        parts = path.relative_to(REPOSITORY).parts
        if any(fnmatch(part, pattern) for part in parts for pattern in ignored):
            continue
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns):
            yield path


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


MODULES = [path for path in files("*.py") if "tests" not in path.parts]
TREES = {path: ast.parse(path.read_text()) for path in MODULES}


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 100


def test_no_module_passes_300_lines() -> None:
    lines = {name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not {path: count for path, count in lines.items() if count > LINES_MAX}, "two with better names"


def test_no_function_passes_70_lines() -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert not long


def test_every_module_opens_with_a_sentence() -> None:
    silent = []
    for path in files("*.py"):
        said = ast.get_docstring(ast.parse(path.read_text())) or ""
        opening = said.split("\n\n")[0]
        if not re.match(r"[A-Z`\"/]", opening) or not re.search(r"[.:]$", opening):
            silent.append(f"{name(path)}: {opening!r}")
    assert not silent


def test_names_say_something() -> None:
    vague = [name(path) for path in files("*.py") if BANNED.search(path.stem)]
    vague += [name(path.parent) for path in MODULES if BANNED.search(path.parent.name)]
    vague += [
        f"{name(path)}: {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and BANNED_CLASSES.search(node.name)
    ]
    assert not vague


def test_no_file_names_a_machine_or_a_registry() -> None:
    told = []
    for path in files("*"):
        if path.suffix == ".svg" or "static" in path.parts:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        told += [f"{name(path)}: {found.group()}" for found in LEAKS.finditer(text)]
    assert not told


MODELS = [path for path in MODULES if path.name in ("model.py", "lifecycle.py", "escrow.py")]
IMPURE = {
    "asyncio",
    "time",
    "random",
    "secrets",
    "socket",
    "os",
    "pathlib",
    "subprocess",
    "threading",
    "logging",
}


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_models_do_nothing(path: Path) -> None:
    """No I/O, nothing asynchronous, no clock, no chance: a model decides from what it is given."""
    for node in ast.walk(TREES[path]):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), node.lineno
        if isinstance(node, ast.Import):
            assert not IMPURE & {alias.name.partition(".")[0] for alias in node.names}, node.lineno
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in IMPURE, node.lineno
            assert not {"system_clock", "Clock"} & {alias.name for alias in node.names}, node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in ("now", "utcnow", "today"), node.lineno
        if isinstance(node, ast.Name):
            assert node.id not in ("open", "print", "input"), node.lineno


STORES = [
    path
    for path in MODULES
    if path.name in ("store.py", "queries.py", "trail.py") and path.parent.parent.name == "app"
]
# Functions that are given whole rows, or pairs with the institution in them, and no scope beside them.
UNSCOPED = {
    # Buckets and trusted documents belong to no tenant.
    "app/documents/store.py": {"add", "every", "present", "read", "remove"},
    "app/limits/store.py": {"forget_full", "lease"},
    "app/audit/store.py": {
        "add",
        "default_rows",
        "make_partitions",
        "make_partitions_ahead",
        "missing",
        "missing_ahead",
        "now",
    },
    "app/institutions/store.py": {"insert_institution", "insert_key", "touch_keys"},
    "app/policies/store.py": {"current"},
    # Each row that is asked for is named with its institution.
    "app/personal/store.py": {"fetch", "fetch_institution_keys", "find"},
}


@pytest.mark.parametrize("path", STORES, ids=name)
def test_the_scope_comes_first_in_every_store(path: Path) -> None:
    for node in TREES[path].body:
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
            arguments = [argument.arg for argument in node.args.args]
            assert arguments[0] in ("connection", "driver"), node.name
            if node.name not in UNSCOPED.get(name(path), set()):
                assert arguments[1] in ("scope", "institution_id"), node.name


def test_services_and_stores_do_not_commit() -> None:
    """A transaction ends where it was opened: in storage, and at the edge in the context and the writer."""
    commits = [
        f"{name(path)}:{node.lineno}"
        for path, tree in TREES.items()
        if path.name in ("service.py", "store.py", "model.py", "graphql.py", "reads.py", "queries.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("commit", "rollback")
    ]
    assert not commits
