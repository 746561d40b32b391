"""What docs/operations.md tells to type works on a PostgreSQL that knows nothing of us yet."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.storage import embedded
from app.storage.provide import prepare
from tests.docs.blocks import Block, blocks
from tests.serving import ROOT, Server, free_port, plain_environment, process

BLOCKS = blocks(ROOT / "docs" / "operations.md")
BESIDE = "beside a server"
SHELL = [block for block in BLOCKS if block.language == "sh" and block.mark != BESIDE]
SQL = [block for block in BLOCKS if block.language == "sql"]
UNTIL_STOPPED = "until stopped"
PLACE = "db.example:5432"


class Operator:
    """Somebody with a superuser's login and a terminal."""

    def __init__(self, running: embedded.RunningCluster, folder: Path) -> None:
        self._running = running
        self._place = running.admin_url.rpartition("@")[2].partition("/")[0]
        self.server = Server(f"http://127.0.0.1:{free_port()}", "a-secret-long-enough")
        program = folder / "escrowgrid"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m app.cli "$@"\n')
        program.chmod(0o755)
        self.environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "DATA_DIR": str(folder / "data"),
            "PORT": str(self.server.port),
        }

    def psql(self, block: Block) -> str:
        command = (self._running.bin_dir / "psql", self._running.admin_url, "--set", "ON_ERROR_STOP=1")
        typed = self._filled(block.text)
        return subprocess.run(command, input=typed, check=True, capture_output=True, text=True).stdout

    def typed(self, *typed: Block) -> str:
        """The blocks as one script; whatever is left open in them is filled in."""
        return "set -eu\n" + "\n".join(self._filled(block.text) for block in typed)

    def _filled(self, text: str) -> str:
        return text.replace("…", self.server.root_key).replace(PLACE, self._place)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with embedded.memory() as running:
        yield Operator(running, tmp_path_factory.mktemp("operator"))


def test_the_page_has_the_blocks_that_are_tried_here() -> None:
    assert {block.language for block in BLOCKS} == {"sql", "sh", "json"}
    assert [block.mark for block in SHELL] == ["", UNTIL_STOPPED]
    assert len(SQL) == 2
    assert [block.mark for block in BLOCKS].count(BESIDE) == 1


def test_the_embedded_database_is_looked_into_as_the_page_says(tmp_path: Path) -> None:
    (typed,) = [block.text for block in BLOCKS if block.mark == BESIDE]
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = plain_environment() | {"PYTHONPATH": str(ROOT)}
    with embedded.start(tmp_path / ".escrowgrid", durable=False) as running:
        prepare(running.admin_url)
        said = subprocess.run(
            ["sh", "-c", f"set -eu\n{typed}"],
            cwd=tmp_path,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
    assert said.returncode == 0, said.stderr
    assert "currency | state" in said.stdout
    assert "append-only" in said.stderr
    assert "not even a superuser" in said.stdout


def test_the_logins_it_makes_are_enough_for_migrations_and_for_the_server(operator: Operator) -> None:
    logins, look = SQL
    migrating, serving = SHELL
    operator.psql(logins)
    environment = plain_environment() | operator.environment
    migrated = subprocess.run(
        ["sh", "-c", operator.typed(migrating)],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "newest schema" in migrated.stdout, migrated.stderr

    # Addresses are exported in the first block; the second goes on in the same shell.
    kept = "".join(line + "\n" for line in migrating.text.splitlines() if line.startswith("export "))
    begun = Block("sh", kept, "", 0)
    command = ("sh", "-c", operator.typed(begun, serving))
    with process(command, operator.server, settings=operator.environment):
        assert operator.server.ask("{ viewer { role } }") == {"viewer": {"role": "ROOT"}}
        assert "pid" in operator.psql(look)
