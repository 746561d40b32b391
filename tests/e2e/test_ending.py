"""How soon live connections end at every server process when a key or a token is over: measured, and told."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.storage.database import Address
from tests.identity.provider import AUDIENCE, Provider, SigningKey, provided
from tests.serving import Bookkeeper, Server, free_port, process

from .conftest import ROOT_KEY, settings_of

pytestmark = pytest.mark.slow

ENDED_SECONDS_MAX = 2.0
EACH = 3
LIVE = "subscription { ledgerEvents(heartbeatSeconds: 1) { cursor heartbeat } }"
CREATE = """mutation ($input: CreateApiKeyInput!) {
  createApiKey(input: $input) { secret apiKey { id } userErrors { code message } } }"""
REVOKE = "mutation ($id: ID!) { revokeApiKey(input: {id: $id}) { userErrors { code } } }"
ROTATE = """mutation ($id: ID!, $seconds: Int!) {
  rotateApiKey(input: {id: $id, overlapSeconds: $seconds}) { secret userErrors { code } } }"""


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[Provider]:
    async with provided(SigningKey.new("k1")) as made:
        yield made


@pytest.fixture(scope="module")
async def servers(shared: Address, provider: Provider) -> AsyncIterator[tuple[Server, Server]]:
    """Two processes that believe the provider."""
    chosen = settings_of(shared) | {"OIDC_ISSUER": provider.issuer, "OIDC_AUDIENCE": AUDIENCE}

    def begin(stack: ExitStack) -> Server:
        server = Server(f"http://127.0.0.1:{free_port()}", ROOT_KEY)
        command = (sys.executable, "-m", "app.cli", "serve", "--port", str(server.port))
        stack.enter_context(process(command, server, settings=chosen))
        return server

    with ExitStack() as stack:
        first = await asyncio.to_thread(begin, stack)
        yield first, await asyncio.to_thread(begin, stack)


@pytest.fixture(scope="module")
async def book(servers: tuple[Server, Server]) -> Bookkeeper:
    return await asyncio.to_thread(Bookkeeper, servers[0])


@dataclass
class Open:
    """One live connection; `ended` is when it was closed, and how."""

    name: str
    ended: "asyncio.Task[tuple[float, str]]"


async def _socket_ends(socket: ClientConnection) -> tuple[float, str]:
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as gone:
        return time.time(), str(gone.rcvd.code if gone.rcvd else None)


async def _stream_ends(answer: httpx.Response) -> tuple[float, str]:
    text = "".join([chunk async for chunk in answer.aiter_text()])
    told = "UNAUTHENTICATED" if '"code":"UNAUTHENTICATED"' in text else "nothing"
    return time.time(), told if text.endswith("event: complete\ndata: \n\n") else "cut off"


class Crowd:
    """Live connections of one secret, at both servers, over both transports."""

    def __init__(self, stack: AsyncExitStack, servers: tuple[Server, Server]) -> None:
        self._stack = stack
        self._servers = servers

    async def open(self, secret: str) -> list[Open]:
        found = []
        for place, server in enumerate(self._servers):
            for _ in range(EACH):
                found.append(Open(f"WebSocket at {place}", await self._socket(server, secret)))
                found.append(Open(f"SSE at {place}", await self._stream(server, secret)))
        return found

    async def _socket(self, server: Server, secret: str) -> Any:
        url = server.graphql.replace("http", "ws", 1)
        protocol = Subprotocol("graphql-transport-ws")
        socket = await self._stack.enter_async_context(connect(url, subprotocols=[protocol], proxy=None))
        init = {"type": "connection_init", "payload": {"authorization": f"Bearer {secret}"}}
        await socket.send(json.dumps(init))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        await socket.send(json.dumps({"type": "subscribe", "id": "a", "payload": {"query": LIVE}}))
        assert json.loads(await socket.recv())["type"] == "next"
        return self._task(_socket_ends(socket))

    async def _stream(self, server: Server, secret: str) -> Any:
        client = await self._stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
        headers = {"Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
        answer = await self._stack.enter_async_context(
            client.stream("POST", server.graphql, json={"query": LIVE}, headers=headers)
        )
        assert answer.status_code == 200
        return self._task(_stream_ends(answer))

    def _task(self, work: Any) -> Any:
        task = asyncio.create_task(work)
        self._stack.callback(task.cancel)
        return task


@pytest.fixture
async def crowd(servers: tuple[Server, Server]) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        yield Crowd(stack, servers)


async def ended(what: str, opened: list[Open], since: float) -> None:
    """Every one of them ended in time and said why; prints how long it took."""
    async with asyncio.timeout(15):
        found = [(one.name, *(await one.ended)) for one in opened]
    times: dict[str, list[float]] = {}
    for name, at, how in found:
        assert how == ("4403" if name.startswith("WebSocket") else "UNAUTHENTICATED"), (name, how)
        times.setdefault(name, []).append(at - since)
    for name, each in sorted(times.items()):
        shown = " ".join(f"{one * 1000:.0f}" for one in sorted(each))
        print(f"{what}: {name}: {shown} ms")
    assert max(max(each) for each in times.values()) < ENDED_SECONDS_MAX
    assert min(min(each) for each in times.values()) >= 0, "not before it was over"


async def made(book: Bookkeeper, server: Server, **more: object) -> tuple[str, str]:
    """A key's secret and its id."""
    wanted = {"label": "k", "role": "ADMIN", "institutionId": book.institution_id, **more}
    told = (await asyncio.to_thread(server.ask, CREATE, {"input": wanted}))["createApiKey"]
    return told["secret"], told["apiKey"]["id"]


async def test_a_revoked_key(servers: tuple[Server, Server], book: Bookkeeper, crowd: Crowd) -> None:
    """Counted from before the revocation is even asked for, at one of the two servers."""
    secret, key_id = await made(book, servers[0])
    spared = await crowd.open((await made(book, servers[0]))[0])
    opened = await crowd.open(secret)
    since = time.time()
    await asyncio.to_thread(servers[0].ask, REVOKE, {"id": key_id})
    await ended("revoked", opened, since)
    assert not any(one.ended.done() for one in spared), "others are left alone"


async def test_a_rotated_key(servers: tuple[Server, Server], book: Bookkeeper, crowd: Crowd) -> None:
    """With an overlap the old secret's connections stay until it ends; without one they end at once."""
    secret, key_id = await made(book, servers[0])
    opened = await crowd.open(secret)
    await asyncio.to_thread(servers[0].ask, ROTATE, {"id": key_id, "seconds": 3})
    until = time.time() + 3
    await asyncio.sleep(2)
    assert not any(one.ended.done() for one in opened), "the overlap lasts"
    # The overlap began while the server worked, a little before it answered.
    await ended("overlap over", opened, until - 0.5)
    secret, key_id = await made(book, servers[1])
    opened, since = await crowd.open(secret), time.time()
    await asyncio.to_thread(servers[1].ask, ROTATE, {"id": key_id, "seconds": 0})
    await ended("rotated without overlap", opened, since)


async def test_a_key_that_expires(servers: tuple[Server, Server], book: Bookkeeper, crowd: Crowd) -> None:
    until = time.time() + 4
    expires = datetime.fromtimestamp(until, UTC).isoformat().replace("+00:00", "Z")
    secret, _ = await made(book, servers[0], expiresAt=expires)
    await ended("key expired", await crowd.open(secret), until)


async def test_a_key_that_is_changed_behind_the_servers(
    servers: tuple[Server, Server], book: Bookkeeper, crowd: Crowd, shared: Address
) -> None:
    """No process tells the others: the lease alone finds out."""
    secret, key_id = await made(book, servers[0])
    opened = await crowd.open(secret)
    owner = await asyncpg.connect(shared.owner_url)
    since = time.time()
    await owner.execute(
        "UPDATE api_keys SET role = 'READ_ONLY', scopes = ARRAY['read'] WHERE id = $1", key_id
    )
    await owner.close()
    await ended("role changed by hand", opened, since)


async def test_a_token_that_expires(
    servers: tuple[Server, Server], book: Bookkeeper, crowd: Crowd, provider: Provider
) -> None:
    until = time.time() + 4
    token = provider.token(institution_id=book.institution_id, exp=until)
    await ended("token expired", await crowd.open(token), until)
