"""Every table that belongs to institutions, with rows of two of them: without any filter each sees its own alone."""

import asyncpg
from sqlalchemy import text

from app.storage.database import DatabaseRole, take_role

from .conftest import Pair
from .worlds import OWNED

# Nothing but the ids of tenants: what is there of others is nobody's.
EMPTY: set[str] = set()


async def test_every_table_has_rows_of_both_and_shows_ones_own(pair: Pair, owner: asyncpg.Connection) -> None:
    """A new table fails here until the two worlds fill it."""
    tables = {row["name"]: row["column"] for row in await owner.fetch(OWNED)}
    both = {pair.mine.institution_id, pair.theirs.institution_id}
    for table, column in tables.items():
        there = {row[0] for row in await owner.fetch(f"SELECT DISTINCT {column} FROM {table}")}
        assert there >= both or table in EMPTY, table
        readable = await owner.fetchval(
            "SELECT has_any_column_privilege('escrowgrid_api', $1::text, 'SELECT')", table
        )
        if readable:
            async with pair.services.database.reading(pair.mine.institution_id) as connection:
                seen = set(
                    (await connection.execute(text(f"SELECT DISTINCT {column} FROM {table}"))).scalars()
                )
            assert seen == {pair.mine.institution_id}, table


async def test_the_writer_of_one_sees_and_changes_nothing_of_the_other(
    pair: Pair, owner: asyncpg.Connection
) -> None:
    tables = {row["name"]: row["column"] for row in await owner.fetch(OWNED)}
    pool = pair.services.database.pool(DatabaseRole.WRITER)
    for table, column in tables.items():
        can_read, can_update, can_delete = [
            await owner.fetchval(f"SELECT {test}('escrowgrid_writer', $1::text, $2)", table, verb)
            for test, verb in (
                ("has_any_column_privilege", "SELECT"),
                ("has_any_column_privilege", "UPDATE"),
                ("has_table_privilege", "DELETE"),
            )
        ]
        async with pool.acquire() as driver:
            transaction = driver.transaction()
            await transaction.start()
            await take_role(driver, DatabaseRole.WRITER, [pair.mine.institution_id])
            if can_read:
                seen = {row[0] for row in await driver.fetch(f"SELECT DISTINCT {column} FROM {table}")}
                assert seen <= {pair.mine.institution_id}, table
            if can_update:
                changing = await owner.fetchval(
                    "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 "
                    "AND has_column_privilege('escrowgrid_writer', attrelid, attnum, 'UPDATE') "
                    "AND attgenerated = '' LIMIT 1",
                    table,
                )
                done = await driver.execute(
                    f"UPDATE {table} SET {changing} = {changing} WHERE {column} = $1",
                    pair.theirs.institution_id,
                )
                assert done == "UPDATE 0", table
            if can_delete:
                done = await driver.execute(
                    f"DELETE FROM {table} WHERE {column} = $1", pair.theirs.institution_id
                )
                assert done == "DELETE 0", table
            await transaction.rollback()
