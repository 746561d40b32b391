"""The database itself refuses to change what was recorded, whoever asks."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from app.context import Services
from app.positions.model import State
from app.storage.database import DatabaseRole, take_role
from tests import factories
from tests.factories import Place

SUPERUSER = [
    "UPDATE ledger_events SET actor_id = actor_id",
    "UPDATE ledger_events SET actor_id = 'x' WHERE false",
    "DELETE FROM ledger_events",
    "DELETE FROM ledger_events WHERE sequence = 1",
    "TRUNCATE ledger_events",
    "TRUNCATE ledger_events CASCADE",
    "MERGE INTO ledger_events e USING (SELECT 1) s ON e.sequence = 1 WHEN MATCHED THEN DELETE",
    "INSERT INTO ledger_events SELECT * FROM ledger_events ON CONFLICT (global_sequence) DO UPDATE SET actor_id = 'x'",
    "UPDATE epochs SET starts_after = 0",
    "DELETE FROM epochs",
    "TRUNCATE epochs",
    "DELETE FROM ledger_head",
    "TRUNCATE ledger_head",
    "DELETE FROM institution_heads",
    "TRUNCATE institution_heads",
    "TRUNCATE institutions CASCADE",
    "DELETE FROM positions",
    "TRUNCATE positions",
    "DELETE FROM policies",
    "UPDATE asset_templates SET name = 'x'",
]


@dataclass(frozen=True)
class Recorded:
    """A server with something to protect: nothing in this module changes it."""

    services: Services
    owner: asyncpg.Connection
    place: Place


@pytest.fixture(scope="module")
async def recorded(admin_url: str, template: str) -> AsyncIterator[Recorded]:
    async with factories.served(admin_url, template) as (parts, owner):
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.RELEASED)
        await factories.policy(parts.services, place.institution.id)
        yield Recorded(parts.services, owner, place)


@pytest.mark.parametrize("statement", SUPERUSER)
@pytest.mark.parametrize("replica", [False, True], ids=["", "as a replica"])
async def test_even_the_superuser_is_refused(recorded: Recorded, statement: str, replica: bool) -> None:
    """ENABLE ALWAYS: also under session_replication_role, which restores use."""
    owner = recorded.owner
    before = await factories.footprint(owner)
    await owner.execute(f"SET session_replication_role = {'replica' if replica else 'origin'}")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
        await owner.execute(statement)
    assert await factories.footprint(owner) == before


def test_the_tables_whose_triggers_are_tested_are_all_that_have_them() -> None:
    """A new append-only table belongs into the list above."""
    tested = {word for statement in SUPERUSER for word in statement.split() if word.islower()}
    assert {"ledger_events", "epochs", "ledger_head", "institution_heads", "positions"} <= tested


DENIED = [
    ("ledger_events", "UPDATE {0} SET actor_id = 'x'"),
    ("ledger_events", "DELETE FROM {0}"),
    ("ledger_events", "TRUNCATE {0}"),
    ("epochs", "UPDATE {0} SET starts_after = 0"),
    ("epochs", "DELETE FROM {0}"),
    ("ledger_head", "DELETE FROM {0}"),
    ("ledger_head", "INSERT INTO {0} SELECT * FROM {0}"),
    ("institution_heads", "UPDATE {0} SET institution_id = 'x'"),
    ("institution_heads", "DELETE FROM {0}"),
    ("personal_data", "UPDATE {0} SET reason = 'x'"),
    ("personal_data", "DELETE FROM {0}"),
    ("holders", "DELETE FROM {0}"),
    ("holders", "UPDATE {0} SET id = 'x'"),
    ("institution_keys", "DELETE FROM {0}"),
    ("institution_keys", "UPDATE {0} SET institution_id = 'x'"),
    ("positions", "UPDATE {0} SET amount = 1"),
    ("positions", "UPDATE {0} SET currency = 'EUR'"),
    ("positions", "UPDATE {0} SET asset_id = 'x'"),
    ("positions", "DELETE FROM {0}"),
    ("policies", "UPDATE {0} SET max_amount = NULL"),
    ("asset_templates", "UPDATE {0} SET config = '{{}}'"),
    ("ledger_events", "ALTER TABLE {0} DISABLE TRIGGER ALL"),
    ("ledger_events", "DROP TABLE {0}"),
]


@pytest.mark.parametrize(("table", "statement"), DENIED, ids=[f"{s.format(t)}" for t, s in DENIED])
async def test_the_writer_has_no_grant_for_it(recorded: Recorded, table: str, statement: str) -> None:
    async with recorded.services.database.pool(DatabaseRole.WRITER).acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await take_role(connection, DatabaseRole.WRITER, [recorded.place.institution.id])
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement.format(table))
        finally:
            await transaction.rollback()


@pytest.mark.parametrize("role", [DatabaseRole.API, DatabaseRole.FEED])
@pytest.mark.parametrize(
    "table", ["ledger_events", "ledger_head", "institution_heads", "epochs", "personal_data", "positions"]
)
@pytest.mark.parametrize("verb", ["INSERT", "UPDATE", "DELETE", "TRUNCATE"])
async def test_readers_may_only_read(recorded: Recorded, role: DatabaseRole, table: str, verb: str) -> None:
    assert not await recorded.owner.fetchval(
        "SELECT has_table_privilege($1, $2, $3)", role.value, table, verb
    )


async def test_the_writer_cannot_append_for_an_institution_outside_its_batch(
    services: Services, place: Place, elsewhere: Place, owner: asyncpg.Connection
) -> None:
    await factories.position(services, elsewhere.asset)
    before = await factories.footprint(owner)
    foreign = "INSERT INTO personal_data (institution_id, event_id, position_id) VALUES ($1, 'evt', 'pos')"
    async with services.database.pool(DatabaseRole.WRITER).acquire() as connection:
        async with connection.transaction():
            await take_role(connection, DatabaseRole.WRITER, [place.institution.id])
            savepoint = connection.transaction()
            await savepoint.start()
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await connection.execute(foreign, elsewhere.institution.id)
            await savepoint.rollback()
        async with connection.transaction():
            await take_role(connection, DatabaseRole.WRITER, [place.institution.id])
            moved = await connection.execute("UPDATE institution_heads SET sequence = 7")
            assert moved == "UPDATE 1", "only its own"
            assert await connection.fetchval("SELECT count(*) FROM positions") == 0
            await connection.execute("UPDATE institution_heads SET sequence = 0")
    assert await factories.footprint(owner) == before
