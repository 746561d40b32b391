"""Server processes on one database, over real sockets, and clients that follow them."""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias
from uuid import uuid4

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.storage.database import Address
from app.storage.provide import with_database, with_login
from tests.serving import Server, free_port, plain_environment, process

REPOSITORY = Path(__file__).resolve().parents[2]
LOGIN, PASSWORD, ROOT_KEY = "escrowgrid_test", "only-for-tests", "egroot_of-the-end-to-end-tests"
SECONDS_MAX = 15
Running: TypeAlias = "subprocess.Popen[bytes]"
EVENTS = "subscription ($after: String) { ledgerEvents(after: $after) { cursor node { sequence globalSequence } } }"


@pytest.fixture(scope="session")
async def shared(admin_url: str, template: str) -> AsyncIterator[Address]:
    """The database that the servers share."""
    name = f"e2e_{uuid4().hex[:16]}"
    server = await asyncpg.connect(admin_url)
    await server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    url = with_database(admin_url, name)
    yield Address.of(with_login(url, LOGIN, PASSWORD), owner_url=url)
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


@contextmanager
def serving(address: Address) -> Iterator[Server]:
    """`escrowgrid serve` on that database, until the block ends."""
    server = Server(f"http://127.0.0.1:{free_port()}", ROOT_KEY)
    command = (sys.executable, "-m", "app.cli", "serve", "--port", str(server.port))
    with process(command, server, settings=settings_of(address)):
        yield server


def settings_of(address: Address) -> dict[str, str]:
    return {"STORE_BACKEND": "postgres", "DATABASE_URL": address.url, "LOG_LEVEL": "WARNING"}


@pytest.fixture(scope="session")
def pair(shared: Address) -> Iterator[tuple[Server, Server]]:
    """Two server processes."""
    with ExitStack() as stack:
        yield stack.enter_context(serving(shared)), stack.enter_context(serving(shared))


@dataclass
class Doomed:
    """A server process that a test may kill."""

    server: Server
    process: Running

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(SECONDS_MAX)


@pytest.fixture
def doomed(shared: Address) -> Iterator[Doomed]:
    """A third server, to be killed outright."""
    server = Server(f"http://127.0.0.1:{free_port()}", ROOT_KEY)
    with started(
        ("serve", "--port", str(server.port)), settings_of(shared) | {"ROOT_API_KEY": ROOT_KEY}
    ) as running:
        until_ready(server, running)
        yield Doomed(server, running)


@contextmanager
def started(
    arguments: Sequence[str], settings: Mapping[str, str], folder: Path = REPOSITORY
) -> Iterator["Running"]:
    """A command of ours in a process of its own; what is left of it at the end of the block is killed."""
    environment = (
        plain_environment() | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"} | dict(settings)
    )
    command = (sys.executable, "-m", "app.cli", *arguments)
    with tempfile.TemporaryFile() as said:
        running = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            yield running
        except BaseException as error:
            error.add_note(words(said))
            raise
        finally:
            running.kill()
            running.wait()


def words(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")


def until_ready(server: Server, running: "Running", seconds: float = 40) -> None:
    """Until /ready says so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert running.poll() is None, f"the server ended with {running.returncode}"
        with suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server was not ready in time")


@dataclass
class Follower:
    """A subscription over a WebSocket."""

    socket: ClientConnection

    async def next(self, seconds: float = SECONDS_MAX) -> Any:
        """The data of the next message."""
        async with asyncio.timeout(seconds):
            while True:
                frame = json.loads(await self.socket.recv())
                if frame["type"] == "ping":
                    await self.socket.send(json.dumps({"type": "pong"}))
                    continue
                assert frame["type"] == "next", frame
                assert "errors" not in frame["payload"], frame
                return frame["payload"]["data"]


@asynccontextmanager
async def following(
    server: Server, document: str, variables: dict[str, Any] | None = None
) -> AsyncIterator[Follower]:
    """Subscribes over graphql-transport-ws."""
    address = server.graphql.replace("http", "ws", 1)
    async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")], proxy=None) as socket:
        await socket.send(
            json.dumps({"type": "connection_init", "payload": {"authorization": f"Bearer {ROOT_KEY}"}})
        )
        assert json.loads(await socket.recv()) == {"type": "connection_ack"}
        payload = {"query": document, "variables": variables or {}}
        await socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": payload}))
        yield Follower(socket)


@dataclass
class Stream:
    """A subscription over Server-Sent Events."""

    lines: AsyncIterator[str]

    async def next(self, seconds: float = SECONDS_MAX) -> tuple[str | None, Any]:
        """The id and the data of the next event."""
        event: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            async for line in self.lines:
                name, _, value = line.partition(":")
                if line == "" and event.get("event") == "next":
                    payload = json.loads(event["data"])
                    assert "errors" not in payload, payload
                    return event.get("id"), payload["data"]
                if line == "":
                    event = {}
                elif name:
                    event[name] = value.strip()
        raise AssertionError("the stream ended")


@asynccontextmanager
async def streaming(server: Server, document: str, last_event_id: str | None = None) -> AsyncIterator[Stream]:
    """Subscribes over SSE."""
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {ROOT_KEY}"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", server.graphql, json={"query": document}, headers=headers) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        yield Stream(answer.aiter_lines())
