"""`escrowgrid dev`, as a newcomer runs it: it starts, ends, recovers, and says what is in its way."""

import asyncio
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.storage import cluster, embedded
from tests.serving import Bookkeeper, Server, free_port, plain_environment

from .conftest import REPOSITORY, Running, started, until_ready

SECONDS_MAX = 40
COUNT = "{ positions { totalCount } }"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a newcomer has put the project: a path with a space in it."""
    place = tmp_path / "my projects"
    place.mkdir()
    return place


@pytest.fixture
def server() -> Server:
    return Server(f"http://127.0.0.1:{free_port()}", f"egroot_{secrets.token_urlsafe(16)}")


@contextmanager
def dev(server: Server, folder: Path, *options: str, key: bool = True) -> Iterator[Running]:
    """`escrowgrid dev` in that folder, ready."""
    settings = {"ROOT_API_KEY": server.root_key} if key else {}
    with started(("dev", "--no-demo", "--port", str(server.port), *options), settings, folder) as running:
        until_ready(server, running)
        yield running


def end(running: Running, how: signal.Signals = signal.SIGINT) -> int:
    """As Ctrl-C does it: the terminal tells the whole group."""
    os.killpg(running.pid, how)
    return running.wait(SECONDS_MAX)


def data_of(folder: Path) -> Path:
    return folder.resolve() / ".escrowgrid"


def servers_of(folder: Path) -> list[str]:
    """The processes that have that folder in their command line."""
    shown = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,stat=,command="], capture_output=True, text=True, check=True
    )
    return [
        row
        for row in shown.stdout.splitlines()
        if str(folder) in row and " Z" not in row[:14] and "ps -ww" not in row
    ]


def gone(folder: Path) -> bool:
    """Whether nothing runs there any more."""
    deadline = time.monotonic() + 10
    while servers_of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def refused(server: Server, folder: Path, settings: Mapping[str, str] | None = None) -> tuple[int, str]:
    """What a start says that cannot succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "dev", "--no-demo", "--port", str(server.port)],
        cwd=folder,
        env=plain_environment() | {"PYTHONPATH": str(REPOSITORY)} | dict(settings or {}),
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_it_runs_twice_in_a_row_and_leaves_nothing_running(server: Server, folder: Path) -> None:
    with dev(server, folder) as running:
        Bookkeeper(server).open()
        assert server.ask(COUNT)["positions"]["totalCount"] == 1
        assert servers_of(folder), "its database is a process"
        assert end(running) in (0, 130)
    assert gone(folder)
    assert cluster.postmaster(data_of(folder)) is None
    with dev(server, folder) as running:
        assert server.ask(COUNT)["positions"]["totalCount"] == 1
        assert end(running, signal.SIGTERM) in (0, 130, -signal.SIGTERM)
    assert gone(folder)


def test_after_kill_9_the_next_start_recovers(server: Server, folder: Path) -> None:
    with dev(server, folder) as running:
        book = Bookkeeper(server)
        position = book.open()
        running.kill()
        running.wait()
    with dev(server, folder) as running:
        assert server.ask(COUNT)["positions"]["totalCount"] == 1
        book.fund(position)
        # And once more with the database killed as well, as a power cut does it.
        postmaster = cluster.postmaster(data_of(folder))
        assert postmaster is not None
        os.kill(running.pid, signal.SIGKILL)
        os.kill(postmaster.pid, signal.SIGKILL)
        running.wait()
    with dev(server, folder) as running:
        found = server.ask("query ($id: ID!) { position(id: $id) { state version } }", {"id": position})
        assert found == {"position": {"state": "FUNDED", "version": 2}}
        assert end(running) in (0, 130)
    assert gone(folder)


def test_a_taken_port_is_told_with_what_to_do(server: Server, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", server.port)):
        code, said = refused(server, folder)
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{server.port}" in said
    assert "stop what uses the port" in said
    assert f"PORT={server.port + 1}" in said
    assert not data_of(folder).exists(), "nothing was begun"
    assert gone(folder)


def test_a_second_start_in_the_same_place_says_who_is_there(server: Server, folder: Path) -> None:
    with dev(server, folder) as running:
        other = Server(f"http://127.0.0.1:{free_port()}", server.root_key)
        code, said = refused(other, folder, {"ROOT_API_KEY": server.root_key})
        assert code == 1
        assert f"is held by process {running.pid}" in said
        assert server.ask(COUNT), "the first is not disturbed"
        assert end(running) in (0, 130)
    assert gone(folder)


def test_ctrl_c_while_it_starts_leaves_nothing(server: Server, folder: Path) -> None:
    for seconds in (0.3, 1.0, 2.0):
        with started(("dev", "--no-demo", "--port", str(server.port)), {}, folder) as running:
            time.sleep(seconds)
            end(running)
        assert gone(folder), seconds
    with dev(server, folder) as running:
        assert end(running) in (0, 130)
    assert gone(folder)


def test_a_key_is_made_once_kept_and_opens(server: Server, folder: Path) -> None:
    with dev(server, folder, key=False) as running:
        kept = (data_of(folder) / "root.key").read_text().strip()
        assert re.fullmatch(r"egroot_[\w-]{43}", kept)
        assert Server(server.url, kept).ask("{ viewer { role } }") == {"viewer": {"role": "ROOT"}}
        assert (data_of(folder) / "root.key").stat().st_mode & 0o077 == 0
        nobody = httpx.post(server.graphql, json={"query": "{ viewer { role } }"}, timeout=10)
        assert nobody.status_code == 401
        end(running)
    with dev(server, folder, key=False) as running:
        assert (data_of(folder) / "root.key").read_text().strip() == kept
        end(running)


def test_in_memory_nothing_stays(server: Server, folder: Path) -> None:
    places = (embedded.SHARED_MEMORY, Path("/var/tmp"), folder)
    before = {found for place in places for found in place.glob(f"{embedded.MEMORY_PREFIX}*")}
    with dev(server, folder, "--memory") as running:
        Bookkeeper(server).open()
        assert end(running) in (0, 130)
    after = {found for place in places for found in place.glob(f"{embedded.MEMORY_PREFIX}*")}
    # Other tests may start and stop servers of theirs meanwhile, which have another process's lock.
    assert not [found for found in after - before if not _held(found)]
    assert not list(data_of(folder).glob("*")), "no key outlives the ledger it was made for"


def _held(found: Path) -> bool:
    return cluster.postmaster(found) is not None


def test_where_the_database_ends_by_itself_the_server_ends_and_says_so(server: Server, folder: Path) -> None:
    said = folder / "said"
    with said.open("wb") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "dev", "--no-demo", "--port", str(server.port)],
            cwd=folder,
            env=plain_environment() | {"PYTHONPATH": str(REPOSITORY), "ROOT_API_KEY": server.root_key},
            stderr=file,
        )
    try:
        until_ready(server, running)
        found = embedded.locate(data_of(folder))
        assert found is not None
        os.kill(found.pid, signal.SIGKILL)
        assert running.wait(timeout=SECONDS_MAX) == 1
    finally:
        running.kill()
        running.wait()
    assert "the database ended by itself" in said.read_text()
    with dev(server, folder) as running:
        assert server.ask(COUNT)["positions"]["totalCount"] == 0
        assert end(running) in (0, 130)


def test_a_database_that_cannot_be_reached_is_told_in_a_line(server: Server, folder: Path) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    code, said = refused(server, folder, {"STORE_BACKEND": "postgres", "DATABASE_URL": nowhere})
    assert code == 1
    assert "the database cannot be reached" in said
    assert "Traceback" not in said
    assert "GraphiQL on" not in said, "nothing listens yet"


async def test_the_databases_superuser_cannot_rewrite_the_ledger(server: Server, folder: Path) -> None:
    """What `psql` on the embedded database is told."""
    with dev(server, folder) as running:
        await asyncio.to_thread(lambda: Bookkeeper(server).open())
        found = embedded.locate(data_of(folder))
        assert found is not None
        connection = await asyncpg.connect(found.admin_url.rpartition("/")[0] + "/escrowgrid")
        assert await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert await connection.fetchval("SELECT count(*) FROM ledger_events") == 1
        for statement in (
            "UPDATE ledger_events SET amount_moved = 0",
            "UPDATE ledger_events SET actor_id = 'nobody' WHERE false",
            "DELETE FROM ledger_events",
            "TRUNCATE ledger_events",
            "TRUNCATE ledger_events CASCADE",
            "SET session_replication_role = replica; DELETE FROM ledger_events",
        ):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
                await connection.execute(statement)
            await connection.execute("RESET ALL")
        assert await connection.fetchval("SELECT count(*) FROM ledger_events") == 1
        await connection.close()
        assert await asyncio.to_thread(end, running) in (0, 130)
