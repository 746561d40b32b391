"""Epochs in the database: read them, and raise one when this is no longer the database it was."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from app.ledger import keeper
from app.ledger.cursors import Epochs
from app.ledger.keeper import Keeper
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Driver
from app.storage.recovery import recovered

RESTORED = "the database is another one, or was restored"
LOST = "the ledger ended before what had been read from it"

READ = """
SELECT h.log_id, e.epoch, e.scope, e.starts_after, e.nonce
FROM ledger_head h CROSS JOIN epochs e
"""
NEWEST = "SELECT epoch, nonce FROM epochs WHERE scope = '*' ORDER BY epoch DESC LIMIT 1"
NONCE_BYTES = 4
# The timeline that is written now: the control file tells it only after the next checkpoint.
TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"
IDENTITY = f"""
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_identifier, {TIMELINE} AS timeline
"""
LOCK_HEAD = "SELECT system_identifier, timeline FROM ledger_head FOR UPDATE"
RAISE = """
INSERT INTO epochs (epoch, scope, starts_after, reason, raised_at, nonce)
SELECT $1, scope, starts_after, $2, now(), $5 FROM unnest($3::text[], $4::bigint[]) AS n (scope, starts_after)
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
        nonces={row["epoch"]: row["nonce"] for row in rows},
    )


async def newest(connection: "asyncpg.Pool | Driver") -> tuple[int, str]:
    """The number and the nonce of the present epoch, as the feed role."""
    row = await connection.fetchrow(NEWEST)
    assert row is not None, "a ledger has a first epoch"
    return row["epoch"], row["nonce"]


async def ensure(url: str) -> tuple[Keeper, int | None]:
    """Raise an epoch when the database's system identifier or timeline changed; returns who keeps it, and the epoch.

    The epochs of a mirror are those of its ledger: it is left alone. Raises `Unavailable` where the ledger has moved.
    """
    async with _connected(url) as connection:
        kept_by = await keeper.keeper_of(connection)
        if kept_by is Keeper.MIRROR:
            return kept_by, None
        await keeper.require_servers(connection)
        await recovered(connection)
        async with connection.transaction():
            return kept_by, await mind(connection)


async def outgrow(url: str, epoch: int) -> None:
    """Raise an epoch unless the newest is above `epoch`: whoever calls has seen that the history is another one."""
    async with _connected(url) as connection, connection.transaction():
        row = await connection.fetchrow(LOCK_HEAD)
        if row is not None and await connection.fetchval(NEWEST) <= epoch:
            await raise_epoch(connection, LOST)


async def begin(url: str, reason: str) -> int:
    """Start a new epoch now. Raises `Unavailable` where the ledger's servers may not append."""
    async with _connected(url) as connection:
        await keeper.require_servers(connection)
        await recovered(connection)
        async with connection.transaction():
            await connection.fetchrow(LOCK_HEAD)
            return await raise_epoch(connection, reason)


async def mind(connection: Driver) -> int | None:
    """What `ensure` does, within the caller's transaction as the writer role, before anything is appended."""
    head = await connection.fetchrow(LOCK_HEAD)
    assert head is not None, "a ledger has a head"
    here = await _identity(connection)
    if (head["system_identifier"], head["timeline"]) == here:
        return None
    return await raise_epoch(connection, RESTORED)


async def raise_epoch(connection: Driver, reason: str) -> int:
    """Start a new epoch at the present heads, within the caller's transaction as the writer role, which holds the head.

    Which database this is, is remembered with it.
    """
    here = await _identity(connection)
    await connection.execute("SET LOCAL ROLE escrowgrid_feed")
    current = (await read(connection)).current
    scopes = [(ALL_INSTITUTIONS, await connection.fetchval("SELECT global_sequence FROM ledger_head"))]
    rows = await connection.fetch("SELECT institution_id, sequence FROM institution_heads")
    scopes += [(row["institution_id"], row["sequence"]) for row in rows]
    await connection.execute("SET LOCAL ROLE escrowgrid_writer")
    starts = [s for s, _ in scopes], [n for _, n in scopes]
    await connection.execute(RAISE, current + 1, reason, *starts, secrets.token_hex(NONCE_BYTES))
    await connection.execute(REMEMBER, *here)
    return current + 1


async def _identity(connection: Driver) -> tuple[int, int]:
    here = await connection.fetchrow(IDENTITY)
    assert here is not None, "PostgreSQL knows who it is"
    return here["system_identifier"], here["timeline"]


@asynccontextmanager
async def _connected(url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """A connection of its own that is the writer throughout."""
    connection = await asyncpg.connect(url, server_settings={"role": "escrowgrid_writer"})
    try:
        yield connection
    finally:
        await connection.close()
