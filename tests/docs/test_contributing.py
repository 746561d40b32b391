"""CONTRIBUTING.md names every command, every folder of tests, and what to read in which order.

`python -m tests.docs.test_contributing` writes the reading order anew, from the first lines of the modules.
"""

import ast
import re
import subprocess
from pathlib import Path

from tests.serving import ROOT

PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- modules -->\n", "\n<!-- /modules -->"
TARGETS = re.compile(r"^\.PHONY: (.*)$", re.MULTILINE)
# In this order they are best read; what is not named here comes behind, by name.
ORDERS: dict[str, tuple[str, ...]] = {
    "app": (
        *(
            "main",
            "context",
            "principal",
            "errors",
            "schema",
            "kit",
            "storage",
            "ledger",
            "positions",
            "policies",
        ),
        *("assets", "institutions", "audit", "engine", "http", "identity", "limits", "documents", "webhooks"),
        *("mirror", "verify", "demo", "settings", "cli", "dev", "asgi"),
    ),
    "app/engine": (
        *("limits", "documents", "measures", "prices", "reckoning", "compiled", "plans", "breadth", "levels"),
        *("calls", "completion", "columns", "direct", "hooks", "masking", "failures"),
        *("connection", "filters", "words", "scalars", "enums", "roles", "names"),
    ),
    "app/http": (
        *("routes", "access_log", "exchange", "limits", "gate", "auth", "crowd", "tolls", "door"),
        *(
            "view",
            "negotiation",
            "operation",
            "library",
            "running",
            "wire",
            "socket",
            "frames",
            "sse",
            "live",
        ),
        *("groups", "likeness", "export", "health", "metrics", "vitals", "server", "graphiql"),
    ),
}


def first_sentence(module: Path) -> str:
    """What a module says it is for."""
    said = ast.get_docstring(ast.parse(module.read_text())) or ""
    line = " ".join(said.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", line)[0].replace("|", "\\|")


def modules(folder: str) -> dict[str, Path]:
    """Modules and packages right in a folder, in the order they are best read."""
    place = ROOT / folder
    found = {path.stem: path for path in place.glob("*.py") if path.stem != "__init__"}
    found |= {path.parent.name: path for path in place.glob("*/__init__.py")}
    order = ORDERS[folder]
    return {name: found[name] for name in sorted(found, key=lambda name: (_place(order, name), name))}


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def tables() -> str:
    """The reading order as it ought to be."""
    parts = []
    for folder in ORDERS:
        rows = [
            f"| `{name}{'/' if path.name == '__init__.py' else ''}` | {first_sentence(path)} |"
            for name, path in modules(folder).items()
        ]
        parts.append("\n".join([f"| `{folder}/` | what it is for |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def written() -> tuple[str, str, str]:
    """The page before, in and after its tables."""
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    inside, end, after = rest.partition(END)
    return before + begin, inside.strip(), end + after


def targets() -> set[str]:
    return set(TARGETS.findall((ROOT / "Makefile").read_text())[0].split())


def test_the_reading_order_is_made_of_the_modules_first_lines() -> None:
    assert written()[1] == tables(), "it has drifted: run `python -m tests.docs.test_contributing`"


def test_the_reading_order_names_only_what_is_there() -> None:
    for folder, order in ORDERS.items():
        assert set(order) <= set(modules(folder)), folder
        assert len(order) == len(set(order)), folder


def test_every_command_of_make_is_told_by_the_page_and_by_make_help() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    helped = set(re.findall(r"^make (\S+) +\S", said, re.MULTILINE))
    assert helped == targets()
    assert targets() - {"help"} <= set(re.findall(r"^\| `make (\w+)", PAGE.read_text(), re.MULTILINE))


def test_every_folder_of_tests_is_told() -> None:
    page = PAGE.read_text()
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    own = {path.name for path in (ROOT / "app").iterdir() if path.is_dir()}
    assert {name for name in folders - own if f"{name}/" not in page} == set()


if __name__ == "__main__":
    before, _, after = written()
    PAGE.write_text(f"{before}\n{tables()}\n{after}")
