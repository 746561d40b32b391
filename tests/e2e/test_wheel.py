"""The wheel has everything inside: from it alone, away from the repository and without Node, the server runs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.serving import ROOT, Server, free_port, plain_environment, process

ROOT_KEY = "egroot_of-the-wheel-tests"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes, of a copy, so that nothing is left in the repository."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    left_out = shutil.ignore_patterns("__pycache__", "node_modules")
    for name in ("app", "migrations"):
        shutil.copytree(ROOT / name, copy / name, ignore=left_out)
    (copy / ".venv").symlink_to(sys.prefix)
    argv = ["make", "dist", "-o", ".venv/installed"]
    subprocess.run(argv, cwd=copy, env=plain_environment(), check=True, capture_output=True, timeout=120)
    (made,) = (copy / "dist").glob("*.whl")
    return made


def test_nothing_is_missing_in_it_and_nothing_too_much(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("app/py.typed", "app/migrations/roles.sql", "app/http/graphiql/operations.json",
                   "app/http/dashboard/static/index.html", "app/http/dashboard/static/licenses.md"):  # fmt: skip
        assert needed in names
    migrations = {path.name for path in (ROOT / "migrations" / "versions").glob("0*.py")}
    assert {name.rpartition("/")[2] for name in names if "/versions/" in name} == migrations
    assert not [name for name in names if "source/" in name or name.startswith(("tests", "docs"))]


def test_it_runs_from_it_alone(wheel: Path, tmp_path: Path) -> None:
    installed, folder = tmp_path / "installed", tmp_path / "elsewhere"
    folder.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)
    server = Server(f"http://127.0.0.1:{free_port()}", ROOT_KEY)
    command = (sys.executable, "-m", "app.cli", "dev", "--memory", "--no-demo", "--port", str(server.port))
    alone = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    with process(command, server, settings=alone, folder=folder):
        assert server.ask("{ positions { totalCount } }")["positions"]["totalCount"] == 0
        for page in ("/", "/graphql"):
            answered = httpx.get(server.url + page, headers={"Accept": "text/html"})
            assert answered.status_code == 200
            assert "<script" in answered.text
