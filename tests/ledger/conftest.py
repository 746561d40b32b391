"""A place to open positions, a second server process, and what the ledger holds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest

from app.context import Services
from app.ledger.model import Event
from app.ledger.pages import READ_ALL, READ_ONE
from app.ledger.store import event_of
from app.ledger.writer import Answer, Command, Writer
from app.main import Parts, assemble
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.database import Address, DatabaseRole
from tests import factories
from tests.factories import Place

ALL = 1_000_000
Ledger = Callable[..., Awaitable[list[Event]]]


@pytest.fixture
async def place(services: Services) -> Place:
    """An institution with an asset, in dollars."""
    return await factories.place(services)


@pytest.fixture
async def elsewhere(services: Services) -> Place:
    """Another institution with an asset, in dollars."""
    return await factories.place(services, name="Beta Trust")


@pytest.fixture
async def second(settings: Settings, address: Address, parts: Parts) -> AsyncIterator[Services]:
    """What resolvers reach in a second server process on the same database."""
    made = assemble(settings, address)
    async with made.running():
        yield made.services


@pytest.fixture
def ledger(services: Services) -> Ledger:
    """Every event of a scope as the database holds it, in order: `await ledger()` or `await ledger(institution_id)`."""

    async def read(scope: str = ALL_INSTITUTIONS) -> list[Event]:
        pool = services.database.pool(DatabaseRole.FEED)
        if scope == ALL_INSTITUTIONS:
            rows = await pool.fetch(READ_ALL, 0, ALL)
        else:
            rows = await pool.fetch(READ_ONE, scope, 0, ALL)
        return [event_of(row) for row in rows]

    return read


HeadHeld = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
def head_held(owner_url: str) -> HeadHeld:
    """While the block lasts somebody else holds the ledger's head: no batch can end, commands gather behind it."""

    @asynccontextmanager
    async def hold() -> AsyncIterator[None]:
        connection = await asyncpg.connect(owner_url)
        try:
            async with connection.transaction():
                await connection.execute("SELECT FROM ledger_head FOR UPDATE")
                yield
        finally:
            await connection.close()

    return hold


async def taken(writer: Writer) -> None:
    """Until every submitted command is in a batch."""
    await asyncio.sleep(0)
    while len(writer):
        await asyncio.sleep(0.005)


Gathering = Callable[[Sequence[Command]], AbstractAsyncContextManager[list["asyncio.Task[Answer]"]]]


@pytest.fixture
def gathered(services: Services, place: Place, head_held: HeadHeld) -> Gathering:
    """Submits commands so that they wait together: they are taken as one batch when the block ends."""

    @asynccontextmanager
    async def gather(commands: Sequence[Command]) -> AsyncIterator[list[asyncio.Task[Answer]]]:
        plug = await factories.opening(services, place.asset)
        async with head_held():
            first = asyncio.create_task(services.writer.submit(plug))
            await taken(services.writer)
            tasks = [asyncio.create_task(services.writer.submit(command)) for command in commands]
            await asyncio.sleep(0)
            yield tasks
        await first

    return gather
