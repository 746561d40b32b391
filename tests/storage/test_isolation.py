"""Tenants are apart in the database itself: every tenant table, with the filter removed on purpose."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from app.ledger.store import ledger_events
from app.storage.database import Database, DatabaseRole, take_role

from .conftest import INSTITUTIONS, Crowd

A, B, C = INSTITUTIONS
OWNED = """
SELECT c.relname AS name, CASE WHEN c.relname = 'institutions' THEN 'id' ELSE 'institution_id' END AS column
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND (c.relname = 'institutions' OR EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'institution_id' AND NOT attisdropped))
ORDER BY 1
"""
FILLED = {
    "api_keys",
    "asset_templates",
    "assets",
    "audit_events",
    "institution_heads",
    "institutions",
    "ledger_events",
    "personal_data",
    "policies",
    "positions",
}


@pytest.fixture(scope="module")
async def owned(crowd: Crowd) -> dict[str, str]:
    """Every table whose rows belong to an institution, and the column that says to which."""
    connection = await asyncpg.connect(crowd.url)
    try:
        return {row["name"]: row["column"] for row in await connection.fetch(OWNED)}
    finally:
        await connection.close()


@pytest.fixture
def crowded(crowd: Crowd) -> Database:
    return crowd.parts.services.database


async def seen(database: Database, scope: str, owned: dict[str, str]) -> dict[str, set[str | None]]:
    """Whose rows the api role sees in each table when nobody filters them."""
    found: dict[str, set[str | None]] = {}
    async with database.reading(scope) as connection:
        for table, column in owned.items():
            # One look at each institution that matters is as good as a look at all rows, and much faster.
            rows = await connection.execute(text(f"SELECT DISTINCT {column} FROM {table}"))
            found[table] = set(rows.scalars())
    return found


async def test_a_tenant_sees_its_own_rows_alone_without_any_filter(
    crowded: Database, owned: dict[str, str]
) -> None:
    found = await seen(crowded, A, owned)
    assert {table for table, owners in found.items() if owners == {A}} >= FILLED
    assert not {table: owners for table, owners in found.items() if owners - {A}}


async def test_the_test_above_could_fail(crowd: Crowd, owned: dict[str, str]) -> None:
    """The rows of the others are there: only row-level security hides them."""
    connection = await asyncpg.connect(crowd.url)
    for table in sorted(FILLED):
        others = await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {table} WHERE {owned[table]} = $1)", B
        )
        assert others, table
    await connection.close()


@pytest.mark.parametrize("scope", ["", f"{A},{B}", f"{A} ", A.upper(), "%", f"{A}' OR '1'='1", "inst_nobody"])
async def test_a_scope_that_is_no_institution_sees_nothing(
    crowded: Database, owned: dict[str, str], scope: str
) -> None:
    found = await seen(crowded, scope, owned)
    assert not {table: owners for table, owners in found.items() if owners}
    async with crowded.reading(scope) as connection:
        for table in ("ledger_head", "epochs"):
            assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0


async def test_no_scope_at_all_sees_nothing(crowd: Crowd, owned: dict[str, str]) -> None:
    """A connection that never heard of the setting, and one on which it was set and has gone."""
    connection = await asyncpg.connect(crowd.parts.services.database.address.url)
    try:
        for _ in range(2):
            async with connection.transaction():
                await connection.execute("SET LOCAL ROLE escrowgrid_api")
                for table in [*owned, "ledger_head", "epochs"]:
                    assert not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})"), table
            async with connection.transaction():
                await connection.execute("SELECT set_config('escrowgrid.scope', $1, true)", A)
    finally:
        await connection.close()


async def test_root_sees_every_institution(crowded: Database, owned: dict[str, str]) -> None:
    found = await seen(crowded, "*", owned)
    for table in FILLED:
        assert set(INSTITUTIONS) <= found[table], table


async def test_heads_and_epochs_show_a_tenant_nothing_of_the_others(crowded: Database) -> None:
    async with crowded.reading(A) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM ledger_head"))).scalar_one() == 0
        assert set((await connection.execute(text("SELECT scope FROM epochs"))).scalars()) <= {A}


async def test_what_is_written_for_nobody_is_seen_by_root_alone(
    owner: asyncpg.Connection, database: Database
) -> None:
    """A request without a valid key belongs to no institution; NULL is equal to no scope."""
    await owner.execute(
        "INSERT INTO audit_events (id, occurred_at, actor_id, actor_role, operation, action, resource_type, outcome, "
        "request_id, payload) VALUES ('aud_1', now(), '', '', '', 'AUTH_FAILED', '', 'FAILURE', 'req', '{}')"
    )
    for scope, count in ((A, 0), ("", 0), ("*", 1)):
        async with database.reading(scope) as connection:
            assert (await connection.execute(text("SELECT count(*) FROM audit_events"))).scalar_one() == count


async def test_a_batch_of_several_institutions_touches_no_other(crowd: Crowd, owned: dict[str, str]) -> None:
    pool = crowd.parts.services.database.pool(DatabaseRole.WRITER)
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await take_role(connection, DatabaseRole.WRITER, [A, C])
        readable = FILLED - {"audit_events"}
        for table in sorted(readable):
            owners = {
                row[0] for row in await connection.fetch(f"SELECT DISTINCT {owned[table]} FROM {table}")
            }
            assert owners == {A, C}, table
        mine = await connection.execute(
            "UPDATE positions SET version = version + 1 WHERE institution_id = $1", C
        )
        others = await connection.execute(
            "UPDATE positions SET version = version + 1 WHERE institution_id = $1", B
        )
        assert mine == "UPDATE 5000"
        assert others == "UPDATE 0"
        assert (
            await connection.execute("UPDATE institution_heads SET sequence = 0 WHERE institution_id = $1", B)
            == "UPDATE 0"
        )
        for table, columns in {
            "institution_heads": "(institution_id, sequence, hash) VALUES ($1, 0, sha256(''))",
            "personal_data": "(institution_id, event_id, position_id) VALUES ($1, 'evt_1', 'pos_1')",
            "assets": "VALUES ($1, 'ast_x', 'tmpl_x', 'x', '{}', now(), now())",
        }.items():
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                async with connection.transaction():
                    await connection.execute(f"INSERT INTO {table} {columns}", B)
        await transaction.rollback()


async def test_a_row_cannot_be_moved_to_another_institution(crowd: Crowd) -> None:
    pool = crowd.parts.services.database.pool(DatabaseRole.WRITER)
    async with pool.acquire() as connection, connection.transaction():
        await take_role(connection, DatabaseRole.WRITER, [A])
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
            await connection.execute("UPDATE positions SET institution_id = $1", B)


@pytest.mark.parametrize("scope", [["*"], [], [""]])
async def test_the_writer_has_no_scope_that_means_everybody(crowd: Crowd, scope: list[str]) -> None:
    pool = crowd.parts.services.database.pool(DatabaseRole.WRITER)
    async with pool.acquire() as connection, connection.transaction():
        await take_role(connection, DatabaseRole.WRITER, scope)
        for table in ("positions", "assets", "api_keys", "institutions", "institution_heads"):
            assert not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})"), table


async def test_references_do_not_reach_into_another_institution(crowded: Database) -> None:
    """Foreign keys look past row-level security: it is the composite key that stops them."""
    theirs = {"owner": A, "template": f"tmpl_{1:026}"}  # B's
    insertion = text("INSERT INTO assets VALUES (:owner, 'ast_x', :template, 'x', '{}', now(), now())")
    with pytest.raises(IntegrityError, match="foreign key"):
        async with crowded.writing(A) as connection:
            await connection.execute(insertion, theirs)


async def test_a_query_cannot_write(crowded: Database) -> None:
    for statement in (
        "INSERT INTO leases VALUES ('x', 'x', 1, now())",
        "CREATE TABLE mine (n int)",
        "DELETE FROM positions",
    ):
        with pytest.raises(DBAPIError, match=r"read-only transaction|permission denied"):
            async with crowded.reading(A) as connection:
                await connection.execute(text(statement))
    async with crowded.reading(A) as connection:
        assert (
            await connection.execute(text("SHOW transaction_isolation"))
        ).scalar_one() == "repeatable read"
        assert (await connection.execute(text("SHOW transaction_read_only"))).scalar_one() == "on"


async def test_a_query_cannot_read_secrets_of_others(crowded: Database) -> None:
    async with crowded.reading(A) as connection:
        owners = await connection.execute(text("SELECT DISTINCT institution_id FROM api_keys"))
        assert set(owners.scalars()) == {A}
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with crowded.reading("*") as connection:
            await connection.execute(text("SELECT * FROM leases"))


async def test_the_feed_reads_the_ledger_of_all_and_no_keys(crowd: Crowd) -> None:
    pool = crowd.parts.services.database.pool(DatabaseRole.FEED)
    owners = await pool.fetch(
        "SELECT DISTINCT institution_id FROM ledger_events WHERE global_sequence <= 100"
    )
    assert {row[0] for row in owners} == set(INSTITUTIONS)
    for statement in ("SELECT * FROM api_keys", "SELECT * FROM audit_events", "DELETE FROM positions"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.fetch(statement)


@pytest.fixture
async def lone(crowd: Crowd) -> Database:
    """One connection only: whoever comes next gets the one that was used before."""
    return Database(
        crowd.parts.services.database.address,
        pool_size_max=1,
        pool_timeout=5,
        statement_timeout=5,
        writers=1,
        feeds=1,
    )


async def next_transaction(database: Database) -> tuple[str, str, str]:
    """What the connection's next transaction is before it takes a role."""
    async with database.engine.connect() as connection:
        row = await connection.execute(
            text(
                "SELECT current_user, coalesce(current_setting('escrowgrid.scope', true), ''), "
                "current_setting('transaction_read_only')"
            )
        )
        return tuple(row.one())  # type: ignore[return-value]


@pytest.mark.parametrize("ending", ["end", "error", "database error", "cancelled", "commit"])
async def test_a_scope_does_not_outlive_its_transaction(lone: Database, ending: str) -> None:
    async def use() -> None:
        async with lone.writing(A) if ending == "commit" else lone.reading(A) as connection:
            assert (await connection.execute(text("SELECT count(*) FROM institutions"))).scalar_one() == 1
            match ending:
                case "error":
                    raise LookupError
                case "database error":
                    await connection.execute(text("SELECT 1 / 0"))
                case "cancelled":
                    await connection.execute(text("SELECT pg_sleep(60)"))

    try:
        work = asyncio.create_task(use())
        if ending == "cancelled":
            await asyncio.sleep(0.2)
            work.cancel()
        (outcome,) = await asyncio.gather(work, return_exceptions=True)
        wanted = {"error": LookupError, "database error": DBAPIError, "cancelled": asyncio.CancelledError}
        assert isinstance(outcome, wanted.get(ending, type(None)))
        assert await next_transaction(lone) == ("escrowgrid_test", "", "off")
        async with lone.reading(B) as connection:
            assert list((await connection.execute(text("SELECT id FROM institutions"))).scalars()) == [B]
    finally:
        await lone.close()


async def test_the_writers_scope_does_not_outlive_its_transaction(lone: Database) -> None:
    await lone.open()
    try:
        pool = lone.pool(DatabaseRole.WRITER)
        for broken in (False, True):
            try:
                async with pool.acquire() as connection, connection.transaction():
                    await take_role(connection, DatabaseRole.WRITER, [A])
                    await connection.execute("SELECT 1 / 0" if broken else "SELECT 1")
            except asyncpg.DivisionByZeroError:
                pass
            async with pool.acquire() as connection:
                question = "SELECT current_user, coalesce(current_setting('escrowgrid.scope', true), '')"
                assert tuple(await connection.fetchrow(question)) == ("escrowgrid_test", "")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.fetch("SELECT FROM positions")
    finally:
        await lone.close()


def test_the_ledger_has_a_tenant_column() -> None:
    """The walk above finds tenant tables by this name."""
    assert "institution_id" in ledger_events.c
