"""What a server does while its database loses connections, crashes, or goes away and comes back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.errors import Unavailable
from app.main import Parts, assemble
from app.principal import root
from app.settings import Settings
from app.storage import embedded
from app.storage.database import Address, Database, DatabaseRole
from app.storage.provide import _prepare
from app.storage.snapshot import Snapshot
from tests import factories
from tests.conftest import Run, eventually
from tests.factories import Place

TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
POSITIONS = "{ positions { edges { node { id version } } } }"


class Door:
    """A port of our own in front of a server's, so that a server that comes back elsewhere is found here."""

    def __init__(self) -> None:
        self.behind: int | None = None
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.behind is None:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.behind)
            self._open |= {writer, back}
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    def shut(self) -> None:
        self.behind = None
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()


async def terminate(url: str) -> int:
    """Ends every backend of the database but the one that does it."""
    connection = await asyncpg.connect(url)
    ended: int = await connection.fetchval(TERMINATE)
    await connection.close()
    return ended


async def test_every_connection_is_replaced_without_an_error(
    services: Services, database: Database, owner_url: str, run: Run
) -> None:
    """Queries, ordinary mutations, commands and the feed: the next one of each works."""
    place = await factories.place(services)
    position = await factories.position(services, place.asset, "1000.00")
    for turn in range(3):
        # All pools have connections to lose.
        await asyncio.gather(*(run(POSITIONS) for _ in range(4)))
        assert await terminate(owner_url) >= 4
        answered = await run(POSITIONS)
        assert not answered.errors
        assert [edge["node"]["id"] for edge in answered.data["positions"]["edges"]] == [position.id]
        await terminate(owner_url)
        assert (await factories.asset(services, place.template)).institution_id == place.institution.id
        await terminate(owner_url)
        intent = factories.FUND if turn == 0 else factories.release("1.00")
        answer = await services.writer.submit(factories.move(services, position, intent))
        assert answer.event.position_version == turn + 2
        await terminate(owner_url)
        assert await services.tail.head("*") == turn + 2
        await eventually(_level(services, turn + 2), seconds=5)
        assert await database.answers()


def _level(services: Services, sequence: int) -> Callable[[], Awaitable[bool]]:
    async def level() -> bool:
        return services.tail.position == sequence

    return level


async def test_connections_lost_under_load_lose_nothing(services: Services, owner_url: str) -> None:
    """Commands under way while every connection is ended, again and again, are each written once."""
    place = await factories.place(services)
    positions = [
        await factories.position(services, place.asset, "1000.00", state=factories.State.FUNDED)
        for _ in range(5)
    ]
    released = 0

    async def work(number: int) -> None:
        nonlocal released
        for turn in range(8):
            command = factories.move(
                services, positions[number], factories.release("1.00"), idempotency_key=f"{number}.{turn}"
            )
            await services.writer.submit(command)
            released += 1

    async def harm() -> None:
        for _ in range(6):
            await asyncio.sleep(0.05)
            await terminate(owner_url)

    await asyncio.gather(harm(), *(work(number) for number in range(5)))
    connection = await asyncpg.connect(owner_url)
    try:
        assert released == 40
        assert await connection.fetchval("SELECT sum(released) FROM positions") == 40
        assert await connection.fetchval("SELECT count(*) FROM ledger_events WHERE effect = 'RELEASE'") == 40
        assert await connection.fetchval("SELECT max(global_sequence) = count(*) FROM ledger_events")
    finally:
        await connection.close()


async def test_a_connection_lost_in_the_middle_is_told_as_what_it_left_behind(
    database: Database, owner_url: str
) -> None:
    async def broken(
        begun: Callable[[str], AbstractAsyncContextManager[AsyncConnection]], *, late: bool
    ) -> None:
        async with begun("*") as connection:
            await connection.execute(text("SELECT 1"))
            await terminate(owner_url)
            if not late:
                await connection.execute(text("SELECT 1"))

    for begun in (database.reading, database.writing):
        with pytest.raises(Unavailable, match="nothing was done"):
            await broken(begun, late=False)
    with pytest.raises(Unavailable, match="look whether it was done"):
        await broken(database.writing, late=True)
    snapshot = Snapshot(lambda: database.reading("*"))
    async with snapshot.connection() as connection:
        await terminate(owner_url)
    with pytest.raises(Unavailable, match="nothing was done"):
        async with snapshot.connection() as connection:
            await connection.execute(text("SELECT 1"))
    await snapshot.end()
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_query_is_not_repeated_behind_the_readers_back(database: Database, owner_url: str) -> None:
    """What was read before is of another snapshot."""
    async with database.reading("*") as connection:
        await connection.execute(text("SELECT 1"))
        await terminate(owner_url)
        with pytest.raises(DBAPIError, match=r"connection|terminat|another operation"):
            await connection.execute(text("SELECT 1"))
    async with database.reading("*") as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[tuple[embedded.RunningCluster, Door, Address]]:
    """A durable server of this test's own, behind a door."""
    running = embedded.start(tmp_path / "grid", durable=True)
    door = Door()
    listening = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    door.port, door.behind = listening.sockets[0].getsockname()[1], running.port
    address = await _prepare(running.admin_url)
    through = Address(
        *(_through(url, door.port) for url in (address.url, address.direct_url)), address.owner_url
    )
    yield running, door, through
    door.shut()
    listening.close()
    running.stop()
    await asyncio.sleep(0)


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))


async def ask(parts: Parts, schema: Schema) -> list[str]:
    """The codes of a query's errors."""
    context = Context(parts.services, root(), Request("req_test"))
    try:
        result = await schema.execute(POSITIONS, context_value=context)
    finally:
        await context.close()
    return [(error.extensions or {})["code"] for error in result.errors or ()]


async def test_a_server_that_was_restarted_is_used_again(
    own: tuple[embedded.RunningCluster, Door, Address], built_schema: Schema, tmp_path: Path
) -> None:
    running, door, address = own
    settings = Settings(tick_seconds=0.2, pool_size_max=3, command_deadline_seconds=15)
    parts = assemble(settings, address)
    async with parts.running():
        place: Place = await factories.place(parts.services)
        position = await factories.position(parts.services, place.asset)
        assert await ask(parts, built_schema) == []
        assert all((await parts.ready()).values())

        door.shut()
        running.stop()
        assert not (await parts.ready())["database"]
        assert await ask(parts, built_schema) == ["UNAVAILABLE"]
        with pytest.raises(Unavailable):
            await factories.asset(parts.services, place.template)
        # A command waits inside its deadline, and is written when the database is back.
        waiting = asyncio.create_task(
            parts.services.writer.submit(factories.move(parts.services, position, factories.FUND))
        )
        await asyncio.sleep(0.5)
        assert not waiting.done()

        again = embedded.start(tmp_path / "grid", durable=True)
        try:
            door.behind = again.port
            answer = await asyncio.wait_for(waiting, timeout=10)
            assert answer.event.global_sequence == 2
            assert await ask(parts, built_schema) == []
            assert all((await parts.ready()).values())
            await eventually(_level(parts.services, 2))
        finally:
            door.shut()
            again.stop()


async def test_a_crashed_backend_takes_the_server_through_recovery(
    own: tuple[embedded.RunningCluster, Door, Address], built_schema: Schema
) -> None:
    """One backend killed outright: PostgreSQL ends all of them, recovers, and is used again."""
    running, _door, address = own
    parts = assemble(Settings(tick_seconds=0.2, pool_size_max=3), address)
    async with parts.running():
        place = await factories.place(parts.services)
        for number in range(3):
            pid = await parts.services.database.pool(DatabaseRole.FEED).fetchval("SELECT pg_backend_pid()")
            os.kill(pid, signal.SIGKILL)
            await eventually(_answers(parts, built_schema), seconds=30)
            position = await factories.position(parts.services, place.asset)
            assert position.version == 1
            await eventually(_level(parts.services, number + 1))
    assert "database system was interrupted" in running.cluster.log.read_text()


def _answers(parts: Parts, schema: Schema) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        return await ask(parts, schema) == []

    return answers
