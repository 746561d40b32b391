"""With a Redis bell, processes hear of each other's events through Redis, and PostgreSQL is not asked to ring."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from app.storage.database import Address
from tests.serving import Bookkeeper, Server, free_port, process

from .conftest import EVENTS, ROOT_KEY, following, settings_of
from .redis import redis

# Without a bell an event would be seen this late.
TICK_SECONDS = 60
HEARD_SECONDS_MAX = 10


@dataclass
class Rung:
    """Two servers that one Redis rings for, which can be ended and begun again."""

    here: Server
    there: Server
    port: int
    stack: ExitStack

    def end(self) -> None:
        self.stack.close()

    def begin(self) -> None:
        self.stack.enter_context(redis(self.port))


@pytest.fixture(scope="module")
def rung(shared: Address) -> Iterator[Rung]:
    port = free_port()
    with ExitStack() as bell, ExitStack() as stack:
        bell.enter_context(redis(port))
        settings = settings_of(shared) | {
            "BELL_URL": f"redis://127.0.0.1:{port}",
            "TICK_SECONDS": str(TICK_SECONDS),
        }
        servers = [Server(f"http://127.0.0.1:{free_port()}", ROOT_KEY) for _ in range(2)]
        for server in servers:
            command = (sys.executable, "-m", "app.cli", "serve", "--port", str(server.port))
            stack.enter_context(process(command, server, settings=settings))
        yield Rung(*servers, port, bell)


def head(server: Server) -> str:
    cursor: str = server.ask("{ ledgerHead { cursor } }")["ledgerHead"]["cursor"]
    return cursor


async def test_what_is_written_at_one_is_heard_of_at_the_other(rung: Rung) -> None:
    book = await asyncio.to_thread(Bookkeeper, rung.here)
    async with following(rung.there, EVENTS, {"after": head(rung.here)}) as follower:
        for _ in range(3):
            await asyncio.to_thread(book.open)
            assert (await follower.next(HEARD_SECONDS_MAX))["ledgerEvents"]["node"]


async def test_what_was_written_while_redis_was_away_is_heard_of_when_it_is_back(rung: Rung) -> None:
    book = await asyncio.to_thread(Bookkeeper, rung.here)
    async with following(rung.there, EVENTS, {"after": head(rung.here)}) as follower:
        await asyncio.to_thread(rung.end)
        # A write does not wait for its ring.
        await asyncio.to_thread(book.open)
        await asyncio.sleep(1)
        await asyncio.to_thread(rung.begin)
        assert (await follower.next(HEARD_SECONDS_MAX))["ledgerEvents"]["node"]
        await asyncio.to_thread(book.open)
        assert (await follower.next(HEARD_SECONDS_MAX))["ledgerEvents"]["node"]
