"""A place to open positions, a second server process, and what the ledger holds."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.context import Services
from app.ledger.model import Event
from app.ledger.store import event_of
from app.ledger.tail import READ_ALL, READ_ONE
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
