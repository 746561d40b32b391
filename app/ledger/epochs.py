"""Epochs in the database: read them, and raise one when this is no longer the database it was."""

import asyncpg

from app.ledger.cursors import Epochs
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Driver

READ = """
SELECT h.log_id, e.epoch, e.scope, e.starts_after
FROM ledger_head h CROSS JOIN epochs e
"""
IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline
"""
LOCK_HEAD = "SELECT system_identifier, timeline, global_sequence FROM ledger_head FOR UPDATE"
RAISE = """
INSERT INTO epochs (epoch, scope, starts_after, reason, raised_at)
SELECT $1, scope, starts_after, $2, now() FROM unnest($3::text[], $4::bigint[]) AS n (scope, starts_after)
"""
REMEMBER = "UPDATE ledger_head SET system_identifier = $1, timeline = $2"


async def read(connection: "asyncpg.Pool | Driver") -> Epochs:
    """All epochs, as the feed role."""
    rows = await connection.fetch(READ)
    assert rows, "a ledger has a first epoch"
    return Epochs(
        log_id=rows[0]["log_id"],
        current=max(row["epoch"] for row in rows),
        starts_after={(row["scope"], row["epoch"]): row["starts_after"] for row in rows},
    )


async def ensure(url: str) -> int | None:
    """Raise an epoch when the database's system identifier or timeline changed; returns it, or None."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            here = await connection.fetchrow(IDENTITY)
            await connection.execute("SET LOCAL ROLE escrowgrid_writer")
            head = await connection.fetchrow(LOCK_HEAD)
            assert here is not None and head is not None, "a ledger has a head"
            if (head["system_identifier"], head["timeline"]) == (here["system_identifier"], here["timeline"]):
                return None
            epoch = await raise_epoch(connection, "the database is another one, or was restored")
            await connection.execute(REMEMBER, here["system_identifier"], here["timeline"])
            return epoch
    finally:
        await connection.close()


async def begin(connection: "asyncpg.Connection[asyncpg.Record]", reason: str) -> int:
    """Start a new epoch now, in a transaction of its own."""
    async with connection.transaction():
        here = await connection.fetchrow(IDENTITY)
        assert here is not None, "PostgreSQL knows who it is"
        await connection.execute("SET LOCAL ROLE escrowgrid_writer")
        await connection.fetchrow(LOCK_HEAD)
        epoch = await raise_epoch(connection, reason)
        await connection.execute(REMEMBER, here["system_identifier"], here["timeline"])
        return epoch


async def raise_epoch(connection: Driver, reason: str) -> int:
    """Start a new epoch at the present heads, within the caller's transaction, which holds the head row."""
    await connection.execute("SET LOCAL ROLE escrowgrid_feed")
    current = (await read(connection)).current
    scopes = [(ALL_INSTITUTIONS, await connection.fetchval("SELECT global_sequence FROM ledger_head"))]
    rows = await connection.fetch("SELECT institution_id, sequence FROM institution_heads")
    scopes += [(row["institution_id"], row["sequence"]) for row in rows]
    await connection.execute("SET LOCAL ROLE escrowgrid_writer")
    await connection.execute(RAISE, current + 1, reason, [s for s, _ in scopes], [n for _, n in scopes])
    return current + 1
