"""The import contracts of pyproject.toml hold, and each kind of violation planted in a copy of the tree is named."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LINT = "from importlinter.cli import lint_imports_command as lint; lint()"
SECONDS_MAX = 60


def lint(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    ignored = shutil.ignore_patterns("__pycache__", "source", "static", "node_modules")
    shutil.copytree(REPOSITORY / "app", folder / "app", ignore=ignored)
    return folder


@pytest.fixture
def plant(copy: Path) -> Iterator[Path]:
    """The copy, which is as before after the test."""
    before = {path: path.read_text() for path in copy.rglob("*.py")}
    yield copy
    for path in set(copy.rglob("*.py")) - set(before):
        path.unlink()
    for path, text in before.items():
        if path.read_text() != text:
            path.write_text(text)


def test_the_tree_keeps_every_contract(copy: Path) -> None:
    code, said = lint(copy)
    assert code == 0, said


VIOLATIONS = [
    pytest.param("app/ledger/service.py", "import app.positions.model", "Imports go one way", id="upwards"),
    pytest.param(
        "app/assets/service.py", "import app.context", "Imports go one way", id="service on the context"
    ),
    pytest.param("app/http/wire.py", "import app.schema", "Imports go one way", id="http beside schema"),
    pytest.param("app/kit/ids.py", "import app.settings", "Imports go one way", id="kit knows no settings"),
    pytest.param("app/assets/model.py", "import app.assets.service", "Inside assets", id="inside a slice"),
    pytest.param(
        "app/institutions/store.py", "import app.institutions.service", "Inside institutions", id="store up"
    ),
    pytest.param(
        "app/positions/lifecycle.py", "import app.positions.commands", "Inside positions", id="rules up"
    ),
    pytest.param(
        "app/ledger/store.py", "import app.ledger.tail", "Inside the ledger", id="inside the ledger"
    ),
    pytest.param(
        "app/ledger/writer/contract.py",
        "import app.ledger.writer.batch",
        "Inside the writer",
        id="inside the writer",
    ),
    pytest.param(
        "app/positions/service.py",
        "import app.assets.store",
        "The tables of assets are theirs",
        id="foreign store",
    ),
    pytest.param(
        "app/audit/service.py",
        "import app.ledger.store",
        "The ledger's tables are its own",
        id="ledger's store",
    ),
    pytest.param("app/positions/model.py", "import sqlalchemy", "Rules are plain Python", id="SQL in rules"),
    pytest.param(
        "app/policies/service.py", "import strawberry", "Rules are plain Python", id="GraphQL in rules"
    ),
    pytest.param("app/kit/text.py", "import asyncpg", "Rules are plain Python", id="driver in kit"),
    pytest.param(
        "app/audit/model.py",
        "import app.storage.paging",
        "Models know nothing that does anything",
        id="model reads",
    ),
    pytest.param(
        "app/policies/graphql.py", "import sqlalchemy", "SQL stays in stores", id="SQL in resolvers"
    ),
    pytest.param("app/ledger/ring.py", "import asyncpg", "SQL stays in stores", id="driver elsewhere"),
    pytest.param(
        "app/positions/worker.py", "import strawberry", "GraphQL stays at the edge", id="GraphQL below"
    ),
    pytest.param(
        "app/context.py", "import starlette.requests", "Starlette stays in http", id="HTTP in the context"
    ),
    pytest.param(
        "app/main.py",
        "import app.storage.launch",
        "The embedded server is reached",
        id="around the front door",
    ),
]


@pytest.mark.parametrize(("file", "line", "contract"), VIOLATIONS)
def test_a_planted_import_is_named(plant: Path, file: str, line: str, contract: str) -> None:
    path = plant / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    code, said = lint(plant)
    assert code == 1, said
    broken = [
        row.removesuffix(" BROKEN") for row in said.splitlines() if row.split(" (")[0].endswith("BROKEN")
    ]
    broken += [row.split(" BROKEN")[0] for row in said.splitlines() if " BROKEN (" in row]
    assert any(name.startswith(contract) for name in broken), said


@pytest.mark.parametrize(
    "file", ["app/assets/helpers.py", "app/ledger/more.py", "app/kit/things.py", "app/extra.py"]
)
def test_a_file_without_a_place_is_named(plant: Path, file: str) -> None:
    (plant / file).write_text('"""Nobody expects it."""\n')
    code, said = lint(plant)
    assert code == 1, said
    assert f"- {file.removesuffix('.py').replace('/', '.')}" in said


def test_every_slice_has_its_contract() -> None:
    """A new folder under app/ gets an exhaustive list of its files, too."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    listed = {
        container
        for contract in settings["contracts"]
        if contract["type"] == "layers" and contract.get("exhaustive")
        for container in contract["containers"]
    }
    folders = {
        f"app.{path.parent.name}"
        for path in (REPOSITORY / "app").glob("*/__init__.py")
        if len(list(path.parent.glob("*.py"))) > 1
    }
    # The demo is a story told with the services: it has no layers.
    assert folders - {"app.demo"} <= listed
