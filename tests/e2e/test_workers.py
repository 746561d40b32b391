"""`escrowgrid serve --workers 2`: two processes on one port are one server; a killed one is replaced."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.storage.database import Address
from tests.conftest import eventually
from tests.serving import Bookkeeper, Server, free_port

from .conftest import EVENTS, ROOT_KEY, Follower, Running, following, settings_of, started, until_ready

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="which process has a connection is read in /proc"
)
WORKERS = 2
EACH = 2
SOCKETS_MAX = 80
PROBES = 24
CAPACITY = 1_000
START_SECONDS_MAX = 100
HEAD = "{ ledgerHead { cursor sequence } }"
SEQUENCE = "{ ledgerHead { sequence } }"
DEAR = f"{{ {' '.join(f'a{number}: ledgerHead {{ sequence }}' for number in range(40))} }}"


@dataclass(frozen=True)
class Crowd:
    """The one server, and the processes it consists of."""

    server: Server
    process: Running

    def workers(self) -> set[int]:
        """The processes that serve; not the parent, nor what multiprocessing runs beside them."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()}

    def holder(self, port: int) -> int:
        """The worker that has the connection which comes from that port."""
        ends = (f":{self.server.port:04X}", f":{port:04X}")
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        inode = next(f[9] for f in lines if f[1].endswith(ends[0]) and f[2].endswith(ends[1]))
        for worker in self.workers():
            for descriptor in Path(f"/proc/{worker}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if str(descriptor.readlink()) == f"socket:[{inode}]":
                        return worker
        raise AssertionError("nobody has it")


@contextmanager
def crowded(shared: Address) -> Iterator[Crowd]:
    server = Server(f"http://127.0.0.1:{free_port()}", ROOT_KEY)
    limits = {"COST_MAX": str(CAPACITY), "RATE_CAPACITY": str(CAPACITY), "RATE_REFILL_PER_SECOND": "0.01"}
    command = ("serve", "--workers", str(WORKERS), "--port", str(server.port))
    with started(command, settings_of(shared) | {"ROOT_API_KEY": ROOT_KEY} | limits) as running:
        crowd = Crowd(server, running)
        try:
            until_ready(server, running, seconds=START_SECONDS_MAX)
            yield crowd
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGTERM)
                running.wait(40)


@pytest.fixture(scope="module")
def crowd(shared: Address) -> Iterator[Crowd]:
    with crowded(shared) as made:
        yield made


def port_of(connection: ClientConnection) -> int:
    return int(connection.local_address[1])


@asynccontextmanager
async def followers(crowd: Crowd, after: str) -> AsyncIterator[dict[int, list[Follower]]]:
    """Subscribers at each worker: connections are made until every one of them has some."""
    await eventually(lambda: all_answer(crowd), seconds=60)
    found: dict[int, list[Follower]] = {worker: [] for worker in crowd.workers()}
    async with AsyncExitStack() as stack:
        for _ in range(SOCKETS_MAX):
            one = await stack.enter_async_context(following(crowd.server, EVENTS, {"after": after}))
            found.setdefault(crowd.holder(port_of(one.socket)), []).append(one)
            if len(found) >= WORKERS and all(len(each) >= EACH for each in found.values()):
                break
        assert all(len(each) >= EACH for each in found.values()), "every worker serves"
        yield found


def number(data: Any) -> int:
    return int(data["ledgerEvents"]["node"]["globalSequence"])


async def test_they_are_one_server_and_a_killed_one_is_replaced(crowd: Crowd, shared: Address) -> None:
    """What was answered before a kill -9 is there, and who followed the killed one misses nothing elsewhere."""
    book = await asyncio.to_thread(Bookkeeper, crowd.server)
    start = await asyncio.to_thread(crowd.server.ask, HEAD)
    head = start["ledgerHead"]
    made = []
    async with followers(crowd, head["cursor"]) as found:
        everybody = [one for each in found.values() for one in each]
        for _ in range(3):
            made.append(await asyncio.to_thread(book.open))
        expected = [head["sequence"] + turn for turn in (1, 2, 3)]
        cursor = ""
        for one in everybody:
            told = [await one.next() for _ in expected]
            assert [number(data) for data in told] == expected, "each of them is told, whoever wrote"
            cursor = told[-1]["ledgerEvents"]["cursor"]
        killed, spared = list(found)[:2]
        os.kill(killed, signal.SIGKILL)
        for one in found[killed]:
            with pytest.raises(ConnectionClosed):
                await one.next()
        made += [await again(book) for _ in range(3)]
        expected = [head["sequence"] + turn for turn in (4, 5, 6)]
        for one in found[spared]:
            assert [number(await one.next()) for _ in expected] == expected
        async with following(crowd.server, EVENTS, {"after": cursor}) as resumed:
            assert [number(await resumed.next()) for _ in expected] == expected

    async def whole_again() -> bool:
        workers = crowd.workers()
        return len(workers) == WORKERS and killed not in workers

    await eventually(whole_again, seconds=20)
    await eventually(lambda: all_answer(crowd), seconds=60)
    owner = await asyncpg.connect(shared.owner_url)
    assert await owner.fetchval("SELECT count(*) FROM positions WHERE id = ANY($1::text[])", made) == len(
        made
    )
    assert await owner.fetchval("SELECT max(global_sequence) = count(*) FROM ledger_events")
    await owner.close()


async def again(book: Bookkeeper) -> str:
    """Opens a position; a connection that the killed worker had accepted is tried again."""
    for _ in range(10):
        try:
            return await asyncio.to_thread(book.open)
        except httpx.TransportError:
            await asyncio.sleep(0.2)
    raise AssertionError("nobody answers")


async def all_answer(crowd: Crowd) -> bool:
    """Whether each of the workers that are there now is seen to answer."""
    open_: list[asyncio.StreamWriter] = []
    seen = set()
    try:
        for _ in range(PROBES):
            reader, writer = await asyncio.open_connection("127.0.0.1", crowd.server.port)
            open_.append(writer)
            writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if (await reader.readline()).split()[1] == b"200":
                seen.add(crowd.holder(int(writer.get_extra_info("sockname")[1])))
    finally:
        for writer in open_:
            writer.close()
    return len(seen) == WORKERS and seen == crowd.workers()


@asynccontextmanager
async def asked(server: Server, key: str, document: str = SEQUENCE) -> AsyncIterator[tuple[Any, int]]:
    """The answer to a question by a connection of its own, which stays open, and the port it comes from."""
    async with httpx.AsyncClient(timeout=20, trust_env=False, verify=False) as client:
        headers = {"Authorization": f"Bearer {key}"}
        answer = await client.post(server.graphql, json={"query": document}, headers=headers)
        stream = answer.extensions["network_stream"]
        yield answer.json(), int(stream.get_extra_info("client_addr")[1])


async def test_a_limit_is_one_for_all_of_them(crowd: Crowd) -> None:
    """A key has one bucket, wherever it is asked from: both workers take from it, and together not more than it holds."""
    book = await asyncio.to_thread(Bookkeeper, crowd.server)
    made = await asyncio.to_thread(
        crowd.server.ask,
        'mutation ($id: ID!) { createApiKey(input: {label: "k", role: ADMIN, institutionId: $id}) { secret } }',
        {"id": book.institution_id},
    )
    key = made["createApiKey"]["secret"]
    await eventually(lambda: all_answer(crowd), seconds=60)
    spent: dict[int, int] = dict.fromkeys(crowd.workers(), 0)
    refused: set[int] = set()
    end = time.monotonic() + 40
    async with AsyncExitStack() as stack:
        while refused != set(spent) and time.monotonic() < end:
            answer, port = await stack.enter_async_context(asked(crowd.server, key, DEAR))
            worker = crowd.holder(port)
            if "errors" in answer:
                assert answer["errors"][0]["extensions"]["code"] == "RATE_LIMITED", answer
                refused.add(worker)
            else:
                spent[worker] += answer["extensions"]["cost"]["actual"]
    assert refused == set(spent), "in the end neither has anything left for it"
    assert all(spent.values()), "both served it"
    assert CAPACITY * 0.5 < sum(spent.values()) <= CAPACITY + 1


async def test_a_signal_to_the_parent_drains_all(shared: Address) -> None:
    """Every socket of every worker is closed with a cursor to go on from, and nothing is left running."""
    with crowded(shared) as crowd:
        book = await asyncio.to_thread(Bookkeeper, crowd.server)
        head = (await asyncio.to_thread(crowd.server.ask, HEAD))["ledgerHead"]
        async with followers(crowd, head["cursor"]) as found:
            await asyncio.to_thread(book.open)
            everybody = [one for each in found.values() for one in each]
            cursors = {(await one.next())["ledgerEvents"]["cursor"] for one in everybody}
            assert len(cursors) == 1
            workers = crowd.workers()
            crowd.process.send_signal(signal.SIGTERM)
            for one in everybody:
                with pytest.raises(ConnectionClosed) as closed:
                    await one.next()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
                assert closed.value.rcvd.reason == f"the server restarts; cursor={cursors.copy().pop()}"
        assert await asyncio.to_thread(crowd.process.wait, 40) == 0
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", crowd.server.port)) != 0
