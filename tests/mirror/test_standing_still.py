"""Where the two sides do not fit together the mirror stands still and says why; nothing wrong is ever copied."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from app.ledger import epochs
from app.ledger.followers import LeadLost
from app.main import Parts
from app.mirror.model import Comparison
from app.mirror.store import Copy
from app.positions.model import State
from app.storage.database import Address
from app.storage.provide import with_database, with_login
from tests import factories
from tests.conftest import LOGIN, PASSWORD, eventually
from tests.mirror.conftest import MakeDatabase, Start, failure, halted, same

Level = Callable[[], Awaitable[Comparison]]
Compare = Callable[[], Awaitable[Comparison]]


@asynccontextmanager
async def tampering(owner: asyncpg.Connection, *tables: str) -> AsyncIterator[None]:
    """What a superuser can do who wants to."""
    async with owner.transaction():
        for table in tables:
            await owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        yield
        for table in tables:
            await owner.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")


TAMPERED = {
    "another amount": "UPDATE ledger_events SET amount_moved = amount_moved + 1 WHERE global_sequence = 5",
    "another actor": "UPDATE ledger_events SET actor_id = 'somebody' WHERE global_sequence = 5",
    "another time": "UPDATE ledger_events SET occurred_at = occurred_at - interval '1 us' WHERE global_sequence = 5",
    "another hash": "UPDATE ledger_events SET hash = sha256('x') WHERE global_sequence = 5",
    "another link": "UPDATE ledger_events SET previous_hash = sha256('x') WHERE global_sequence = 5",
    "an event less": "DELETE FROM ledger_events WHERE global_sequence = 5",
    "no event at all": "UPDATE ledger_events SET effect = 'NONE', kind = 'NOTHING' WHERE global_sequence = 5",
    "another holder": "UPDATE personal_data SET holder = holder || 'x' "
    "WHERE event_id = (SELECT id FROM ledger_events WHERE global_sequence = 4)",
}


@pytest.mark.parametrize("how", TAMPERED)
async def test_a_tampered_event_is_not_copied_and_nothing_behind_it(
    how: str,
    start: Start,
    compare: Compare,
    level: Level,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:
    async with start() as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.RELEASED)
        await level()
    # Written while nobody copies, changed before somebody does.
    async with start(mirror_url=None) as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.RELEASED)
    table = "personal_data" if "personal_data" in TAMPERED[how].split()[1] else "ledger_events"
    before = await owner.fetch(f"SELECT * FROM {table}")
    async with tampering(owner, "ledger_events"):
        await owner.execute(TAMPERED[how])
    async with start() as parts:
        said = await halted(owner)
        assert re.search(r"event [456]\b|'NOTHING'", said), said
        assert await mirror.fetchval("SELECT max(global_sequence) FROM ledger_events") < 5
        assert await mirror.fetchval("SELECT global_sequence FROM ledger_head") < 5
        assert await owner.fetchval("SELECT count(*) FROM parked_events") == 0, "an event is not skipped"
        # The ledger itself goes on.
        await factories.institution(parts.services)
    # Mended, it goes on from where it stood.
    async with tampering(owner, "ledger_events"):
        await owner.execute(f"DELETE FROM {table}")
        await owner.executemany(
            f"INSERT INTO {table} VALUES ({', '.join(f'${n}' for n in range(1, len(before[0]) + 1))})",
            [tuple(row) for row in before],
        )
    async with start():
        await level()
        assert (await compare()).mirror.global_sequence == 6
        await same(owner, mirror)

        async def forgiven() -> bool:
            return await failure(owner) is None

        await eventually(forgiven)


async def test_the_ledger_itself_is_no_mirror(
    start: Start, address: Address, owner: asyncpg.Connection
) -> None:
    async with start(mirror_url=SecretStr(address.url)):
        assert "names the ledger itself" in await halted(owner)


async def test_another_ledger_is_no_mirror(
    start: Start, another: MakeDatabase, owner: asyncpg.Connection
) -> None:
    other = await another()
    async with start(other, mirror_url=None) as parts:
        await factories.institution(parts.services)
    async with start(mirror_url=SecretStr(other.url)):
        assert "another ledger in it" in await halted(owner)
    connection = await asyncpg.connect(other.owner_url)
    assert await connection.fetchval("SELECT written_by FROM ledger_head") == "SERVERS"
    await connection.close()


async def test_a_database_of_another_schema_is_no_mirror(
    start: Start,
    admin_url: str,
    there: Address,
    level: Level,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:
    name = f"test_{uuid4().hex[:16]}"
    server = await asyncpg.connect(admin_url)
    await server.execute(f'CREATE DATABASE "{name}"')
    url = with_login(with_database(admin_url, name), LOGIN, PASSWORD)
    try:
        async with start(mirror_url=SecretStr(url)):
            assert "run `escrowgrid migrate` on it first" in await halted(owner)
    finally:
        await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await server.close()
    await owner.execute("UPDATE followers SET failure = NULL")
    revision = await mirror.fetchval("SELECT version_num FROM alembic_version")
    await mirror.execute("UPDATE alembic_version SET version_num = '9999'")
    async with start():
        assert f"is at 9999, the ledger's at {revision}: run `escrowgrid migrate`" in await halted(owner)
        # It goes on by itself once the two fit.
        await mirror.execute("UPDATE alembic_version SET version_num = $1", revision)
        await level()


async def test_a_mirror_out_of_reach_delays_nobody(
    start: Start, there: Address, level: Level, owner: asyncpg.Connection
) -> None:
    async with start(mirror_url=SecretStr("postgresql://nobody@127.0.0.1:1/nothing")) as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.RELEASED)
        said = await halted(owner)
        assert "cannot be reached" in said
        assert "nobody" not in said, "no address, no password"
    async with start():
        await level()


async def test_a_ledger_restored_to_before_its_mirror_is_not_copied_any_further(
    start: Start, level: Level, owner: asyncpg.Connection, mirror: asyncpg.Connection
) -> None:
    async with start() as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.RELEASED)
        await level()
    async with tampering(owner, "ledger_events", "checkpoints"):
        await owner.execute("DELETE FROM ledger_events WHERE global_sequence > 1")
        await owner.execute("DELETE FROM checkpoints")
        await owner.execute(
            "UPDATE institution_heads h SET sequence = e.sequence, hash = e.hash FROM ledger_events e "
            "WHERE e.institution_id = h.institution_id"
        )
        await owner.execute("UPDATE ledger_head SET global_sequence = 1")
        await owner.execute("UPDATE followers SET cursor = 1")
        await owner.execute(
            "UPDATE positions SET funded = 0, released = 0, refunded = 0, held = 0, state = 'CREATED', stage = 'CREATED', "
            "version = 1, closed_at = NULL"
        )
    async with start() as parts:
        assert "give MIRROR_URL a new, empty" in await halted(owner)
        # Not even when the new history has become the longer one.
        for _ in range(4):
            await factories.position(parts.services, place.asset)
        await owner.execute("UPDATE followers SET failure = NULL WHERE name = 'mirror'")
    async with start():
        assert "give MIRROR_URL a new, empty" in await halted(owner)
    assert await mirror.fetchval("SELECT global_sequence FROM ledger_head") == 3


async def test_a_mirror_of_an_epoch_that_the_ledger_lost_is_not_copied_any_further(
    start: Start, address: Address, level: Level, owner: asyncpg.Connection, mirror: asyncpg.Connection
) -> None:
    """Restored twice from one backup, the ledger calls both epochs the second; no event tells them apart yet."""
    async with start() as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.FUNDED)
    await epochs.begin(address.direct_url, "the first restore")
    async with start() as parts:
        await level()

        async def copied() -> bool:
            return await mirror.fetchval(epochs.NEWEST) == 2

        await eventually(copied)
        nonces = "SELECT DISTINCT nonce FROM epochs WHERE epoch = 2"
        assert await mirror.fetch(nonces) == await owner.fetch(nonces), "cursors are the same on both sides"
    await owner.execute("ALTER TABLE epochs DISABLE TRIGGER USER")
    await owner.execute("DELETE FROM epochs WHERE epoch = 2")
    await epochs.begin(address.direct_url, "the second restore")
    async with start() as parts:
        await factories.position(parts.services, place.asset)
        assert "its epoch 2 is another one" in await halted(owner)
    assert await mirror.fetchval("SELECT max(global_sequence) FROM ledger_events") == 2


async def test_a_leader_that_was_overtaken_writes_nothing_more(
    parts: Parts, level: Level, there: Address, owner: asyncpg.Connection
) -> None:
    await level()
    token = await owner.fetchval("SELECT token FROM leases WHERE name = 'follower:mirror'")
    copy = await Copy.open(there.url)
    try:
        with pytest.raises(LeadLost):
            async with copy.page(token - 1):
                pytest.fail("it got in")
    finally:
        await copy.close()
