"""The audit table: append-only for everybody, partitioned ahead, each tenant's own."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.audit import service, store
from app.audit.model import AuditEvent, Outcome
from app.context import Services
from app.ledger.trail import Between
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database, DatabaseRole, take_role

from .conftest import START, Counted, Noted, Opened, entry

MONTH = datetime.now(UTC).strftime("%Y%m")
PARTS = ["audit_events", f"audit_events_{MONTH}", "audit_events_default"]


@pytest.fixture
async def filled(services: Services, owner: asyncpg.Connection) -> asyncpg.Connection:
    """A superuser's connection to an audit with a row in this month's partition and one in the default."""
    async with services.database.writing(ALL_INSTITUTIONS) as connection:
        await store.add(
            connection,
            [
                AuditEvent.of(entry(), services.ids.new("aud"), moment)
                for moment in (datetime.now(UTC), datetime(1999, 1, 1, tzinfo=UTC))
            ],
        )
    return owner


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize("table", PARTS)
@pytest.mark.parametrize("act", ["UPDATE {} SET code = 'X'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_not_even_a_superuser_changes_what_was_written(
    filled: asyncpg.Connection, rows: Counted, act: str, table: str, replica: bool
) -> None:
    if replica:
        await filled.execute("SET session_replication_role = replica")
    assert await filled.fetchval(f"SELECT count(*) FROM {table}") > 0
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
        await filled.execute(act.format(table))
    assert await rows("audit_events WHERE code = 'NOT_FOUND'") == 2


@pytest.mark.parametrize("role", [DatabaseRole.WRITER, DatabaseRole.API, DatabaseRole.FEED])
@pytest.mark.parametrize("table", PARTS)
@pytest.mark.parametrize("act", ["UPDATE {} SET code = 'X'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_no_role_has_the_right_to_try(
    filled: asyncpg.Connection, act: str, table: str, role: DatabaseRole
) -> None:
    async with filled.transaction():
        await take_role(filled, role, [ALL_INSTITUTIONS])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await filled.execute(act.format(table))


@pytest.mark.parametrize(
    ("role", "table"),
    [
        (DatabaseRole.WRITER, "audit_events"),
        (DatabaseRole.FEED, "audit_events"),
        (DatabaseRole.API, PARTS[1]),
        (DatabaseRole.API, PARTS[2]),
    ],
)
async def test_only_the_api_reads_and_only_the_whole(
    filled: asyncpg.Connection, role: DatabaseRole, table: str
) -> None:
    async with filled.transaction():
        await take_role(filled, role, [ALL_INSTITUTIONS])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await filled.fetch(f"SELECT * FROM {table}")


@pytest.mark.parametrize("role", [DatabaseRole.API, DatabaseRole.FEED])
async def test_only_the_writer_writes(owner: asyncpg.Connection, role: DatabaseRole) -> None:
    async with owner.transaction():
        await take_role(owner, role, [ALL_INSTITUTIONS])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(
                "INSERT INTO audit_events SELECT 'aud_1', now(), null, '', '', '', '', '', null, 'SUCCESS', "
                "null, '', null, '{}'"
            )


async def test_a_writer_notes_nothing_under_another_institutions_name(
    database: Database, services: Services, opened: Opened
) -> None:
    bank, other = await opened(), await opened()
    event = AuditEvent.of(entry(institution_id=other), services.ids.new("aud"), START)

    async def write() -> None:
        async with database.writing(bank) as connection:
            await store.add(connection, [event])

    with pytest.raises(DBAPIError, match="row-level security"):
        await write()


async def test_without_any_filter_a_tenant_sees_only_its_own_rows(
    database: Database, opened: Opened, noted: Noted
) -> None:
    bank, other = await opened(), await opened()
    for institution_id in (bank, other, None):
        await noted(institution_id, [1, 2])
    for scope, seen in (
        (bank, {bank}),
        (other, {other}),
        (ALL_INSTITUTIONS, {bank, other, None}),
        ("", set()),
    ):
        async with database.reading(scope) as connection:
            found = await connection.execute(text("SELECT institution_id FROM audit_events"))
            assert set(found.scalars()) == seen


async def test_the_store_filters_by_itself_too(database: Database, opened: Opened, noted: Noted) -> None:
    bank, other = await opened(), await opened()
    await noted(other, [1, 2])
    async with database.reading(ALL_INSTITUTIONS) as connection:
        at_hand = await store.page(
            connection, bank, (), Between((START, ""), None), newest_first=True, limit=9
        )
        assert at_hand == ()
        assert await store.count(connection, bank, (), Between((START, ""), None)) == 0


async def test_a_row_comes_back_as_it_was_written_and_only_once(
    database: Database, services: Services, noted: Noted
) -> None:
    (event,) = await noted(
        None,
        [0.000001],
        payload={"a": [1, "ü", None]},
        code=None,
        outcome=Outcome.SUCCESS,
        resource_id="ast_1",
    )
    async with services.database.writing(ALL_INSTITUTIONS) as connection:
        await store.add(connection, [event])
    async with database.reading(ALL_INSTITUTIONS) as connection:
        found = await store.page(connection, ALL_INSTITUTIONS, (), Between(), newest_first=True, limit=9)
    assert found == (event,)


async def test_months_are_made_ahead_and_the_default_stays_empty(
    database: Database, services: Services, rows: Counted
) -> None:
    far = datetime(2031, 11, 15, tzinfo=UTC)
    async with database.writing(ALL_INSTITUTIONS) as connection:
        assert await store.make_partitions(connection, far, months=2) == 3
        assert await store.make_partitions(connection, far, months=3) == 1
    events = [
        AuditEvent.of(entry(), services.ids.new("aud"), moment)
        for moment in (
            datetime(2031, 11, 1, tzinfo=UTC),
            datetime(2031, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(2032, 1, 1, tzinfo=UTC),
            datetime.now(UTC) + timedelta(days=80),
        )
    ]
    async with database.writing(ALL_INSTITUTIONS) as connection:
        await store.add(connection, events)
    assert await rows("audit_events_203111") == await rows("audit_events_203112") == 1
    assert await rows("audit_events_203201") == 1
    assert await rows("audit_events_default") == 0


@pytest.mark.parametrize("act", ["UPDATE {} SET code = 'X'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_a_partition_made_later_is_append_only_too(
    database: Database, services: Services, owner: asyncpg.Connection, act: str
) -> None:
    moment = datetime(2031, 11, 15, tzinfo=UTC)
    async with database.writing(ALL_INSTITUTIONS) as connection:
        await store.make_partitions(connection, moment, months=0)
        await store.add(connection, [AuditEvent.of(entry(), services.ids.new("aud"), moment)])
    await owner.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
        await owner.execute(act.format("audit_events_203111"))
    secured = (
        "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE relname = 'audit_events_203111'"
    )
    assert await owner.fetchval(secured)


async def test_services_make_partitions_for_the_operator(database: Database, rows: Counted) -> None:
    pool = database.pool(DatabaseRole.WRITER)
    async with pool.acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, [ALL_INSTITUTIONS])
        assert await service.make_partitions(driver, 5) > 0
    assert await rows("pg_inherits WHERE inhparent = 'audit_events'::regclass") >= 7
