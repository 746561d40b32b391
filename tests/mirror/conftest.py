"""A ledger with a mirror in a second database of the same server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from app import mirroring
from app.context import Services
from app.main import Parts, assemble
from app.mirror import service
from app.mirror.model import Comparison
from app.mirror.store import Copy
from app.positions.model import State
from app.settings import Settings
from app.storage.database import Address
from app.storage.provide import with_database, with_login
from tests import factories
from tests.conftest import LOGIN, PASSWORD, eventually
from tests.factories import Place

MakeDatabase = Callable[[], Awaitable[Address]]
Start = Callable[..., AbstractAsyncContextManager[Parts]]


# The master key of these ledgers: a mirror opens what its ledger sealed.
MASTER = "0f" * 32


@pytest.fixture
async def another(admin_url: str, template: str) -> AsyncIterator[MakeDatabase]:
    """Makes further databases, each with a ledger of its own, as the migrations leave it."""
    server = await asyncpg.connect(admin_url)
    names = []

    async def make() -> Address:
        names.append(f"test_{uuid4().hex[:16]}")
        await server.execute(f'CREATE DATABASE "{names[-1]}" TEMPLATE "{template}" STRATEGY file_copy')
        url = with_database(admin_url, names[-1])
        connection = await asyncpg.connect(url)
        await connection.execute("UPDATE ledger_head SET log_id = $1", uuid4().hex)
        await connection.close()
        return Address.of(with_login(url, LOGIN, PASSWORD), owner_url=url)

    yield make
    for name in names:
        await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


@pytest.fixture
async def there(another: MakeDatabase) -> Address:
    """The mirror's database."""
    return await another()


@pytest.fixture
async def mirror(there: Address) -> AsyncIterator[asyncpg.Connection]:
    """The mirror's superuser."""
    connection = await asyncpg.connect(there.owner_url)
    yield connection
    await connection.close()


@pytest.fixture
def settings(settings: Settings, there: Address) -> Settings:
    """With the mirror, and impatient."""
    changes = {
        "mirror_url": SecretStr(there.url),
        "personal_keys": SecretStr(MASTER),
        "lease_seconds": 1.2,
        "tick_seconds": 0.1,
        "checkpoint_seconds": 0.2,
        "webhook_allow_private": True,
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def start(settings: Settings, address: Address) -> Start:
    """Runs a server for the length of the block: on the ledger, or where it is told."""

    @asynccontextmanager
    async def run(where: Address | None = None, **changes: object) -> AsyncIterator[Parts]:
        made = assemble(settings.model_copy(update=changes), where or address)
        async with made.running():
            yield made

    return run


@pytest.fixture
async def place(services: Services) -> Place:
    """An institution with an asset, in dollars."""
    return await factories.place(services)


Compare = Callable[[], Awaitable[Comparison]]


@pytest.fixture
def compare(owner_url: str, there: Address) -> Compare:
    """Both sides as `escrowgrid mirror status` sees them."""

    async def found() -> Comparison:
        ledger, copy = await asyncpg.connect(owner_url), await Copy.open(there.owner_url)
        try:
            await copy.look()
            return await service.compare(ledger, copy)
        finally:
            await ledger.close()
            await copy.close()

    return found


@pytest.fixture
def level(compare: Compare) -> Callable[[], Awaitable[Comparison]]:
    """Waits until the mirror could take over."""

    async def wait() -> Comparison:
        async def is_level() -> bool:
            return (await compare()).is_level

        await eventually(is_level, seconds=20)
        return await compare()

    return wait


@pytest.fixture
async def lagging(start: Start, level: Callable[[], Awaitable[Comparison]]) -> tuple[Place, int, int]:
    """A mirror that is behind when every server has stopped: the place, the mirror's head, the ledger's."""
    async with start() as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.RELEASED)
        await level()
    async with start(mirror_url=None) as parts:
        await factories.position(parts.services, place.asset, state=State.RELEASED)
    return place, 3, 6


async def promote(settings: Settings, address: Address, there: Address) -> service.Promoted:
    """What `escrowgrid mirror promote` does."""
    return await mirroring._told(mirroring._promoted(settings, address, there.url))


async def failure(owner: asyncpg.Connection) -> str | None:
    """Why the follower stands still."""
    found: str | None = await owner.fetchval("SELECT failure FROM followers WHERE name = 'mirror'")
    return found


async def halted(owner: asyncpg.Connection) -> str:
    """Waits until the follower stands still; returns why."""

    async def stands() -> bool:
        return await failure(owner) is not None

    await eventually(stands)
    return await failure(owner) or ""


TABLES = (
    "institutions", "api_keys", "asset_templates", "assets", "policies", "positions", "ledger_events", "personal_data",
    "institution_heads", "webhook_endpoints", "webhook_secrets", "webhook_deliveries", "audit_events", "checkpoints",
    "audit_seals", "documents", "institution_keys", "holders", "anchors", "anchor_transactions", "anchor_records",
)  # fmt: skip


async def contents(connection: asyncpg.Connection) -> dict[str, tuple[int, str | None]]:
    """How many rows each copied table has, and what they hold, as one digest."""
    digest = "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {} t"
    return {table: tuple(await connection.fetchrow(digest.format(table))) for table in TABLES}


async def differing(one: asyncpg.Connection, other: asyncpg.Connection) -> set[str]:
    """The tables that do not hold the same rows on both sides."""
    here, there = await contents(one), await contents(other)
    return {table for table in TABLES if here[table] != there[table]}


async def same(one: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Waits until both sides hold the same rows."""
    found: set[str] = set()

    async def equal() -> bool:
        nonlocal found
        found = await differing(one, other)
        return not found

    try:
        await eventually(equal)
    except AssertionError:
        raise AssertionError(f"these tables differ: {found}") from None
