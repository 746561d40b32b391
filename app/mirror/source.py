"""What the mirror reads where the ledger is: rows beside the ledger, what changed of them, epochs, checkpoints."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from app.mirror.model import TABLES, Heads, Row, Table
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database, DatabaseRole, Driver, Named, take_role

# One row by the places of its query's columns.
Values: TypeAlias = tuple[Any, ...]

CHANGED_MAX = 500
PARKED_MAX = 10_000
GROWN_MAX = 500

LOG_ID = "SELECT log_id FROM ledger_head"
REGISTRATION = "SELECT registration FROM followers WHERE name = 'mirror'"
REVISION = "SELECT version_num FROM alembic_version"
EPOCHS = """
SELECT epoch, scope, starts_after, reason, raised_at, nonce FROM epochs WHERE epoch > $1 ORDER BY epoch, scope
"""
NONCE = "SELECT nonce FROM epochs WHERE epoch = $1 AND scope = '*'"
FOLLOWERS = "SELECT name, cursor, paused FROM followers WHERE name <> 'mirror' ORDER BY name"
PARKED = """
SELECT follower, global_sequence, reason, attempts, parked_at, retry FROM parked_events
WHERE follower <> 'mirror' ORDER BY follower, global_sequence LIMIT $1
"""
CHANGED = "SELECT place, source, key FROM mirror_queue ORDER BY place LIMIT $1"
FORGET = "DELETE FROM mirror_queue WHERE place = ANY($1::bigint[])"
WAITING = "SELECT count(*) FROM mirror_queue"
NOW = "SELECT pg_current_xact_id()::text"
# Transactions that began before the follower was registered left no note; once they are over, their rows are seen.
SETTLED = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8"
# Those who may have sealed rows.
SEALED_OWNERS = "SELECT DISTINCT institution_id FROM webhook_endpoints ORDER BY institution_id"
HEAD = "SELECT log_id, global_sequence FROM ledger_head"
CHAINS = "SELECT institution_id, sequence, hash FROM institution_heads"
# A chain of the copy whose last link is another one in the ledger, or is not there.
DIFFERING = """
SELECT n.institution_id, n.sequence
FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS n (institution_id, sequence, hash)
LEFT JOIN ledger_events e ON e.institution_id = n.institution_id AND e.sequence = n.sequence
WHERE n.sequence > 0 AND e.hash IS DISTINCT FROM n.hash ORDER BY n.institution_id LIMIT 1
"""
# What the processes of running servers hold.
RUNNING = """
SELECT string_agg(name, ', ' ORDER BY name) FROM leases WHERE expires_at > clock_timestamp() AND holder <> $1
"""

TABLE_OF: Mapping[str, Table] = {table.name: table for table in TABLES}


@asynccontextmanager
async def reading(
    database: Database, table: Table, scope: Sequence[str] | None = None
) -> AsyncIterator[Driver]:
    """One read-only snapshot in the role that may read `table`: all of it, or for a sealed one what `scope` owns."""
    async with (
        database.pool(DatabaseRole.FEED).acquire() as driver,
        driver.transaction(isolation="repeatable_read", readonly=True),
    ):
        if table.owner is None:
            await take_role(driver, DatabaseRole.FEED, ())
        elif not table.sealed:
            await take_role(driver, DatabaseRole.API, (ALL_INSTITUTIONS,))
        else:
            owners = scope or [row["institution_id"] for row in await driver.fetch(SEALED_OWNERS)]
            await take_role(driver, DatabaseRole.WRITER, owners)
        # Times are spelled in keys.
        await driver.execute("SET LOCAL TIME ZONE 'UTC'")
        yield driver


async def rows(driver: Driver, table: Table, keys: Sequence[Sequence[str]], head: int = 0) -> list[Row]:
    """Those of the rows that are there, as they are; which of them wait is told by `head`, the copy's last event."""
    names = [f"k{place}" for place in range(len(table.key))]
    arrays = ", ".join(f"${place}::text[]" for place in range(2, len(names) + 2))
    equal = " AND ".join(
        f"t.{column} = n.{name}::{kind}" for name, (column, kind) in zip(names, table.key, strict=True)
    )
    found = await driver.fetch(
        f"SELECT {_travelling(table)} FROM unnest({arrays}) AS n ({', '.join(names)}) JOIN {table.name} t ON {equal} "
        "WHERE $1::bigint >= 0",
        head,
        *(list(column) for column in zip(*keys, strict=True)),
    )
    return [_row(row) for row in found]


async def rows_after(
    driver: Driver, table: Table, key: Sequence[str], limit: int, head: int, last: int | None = None
) -> list[Row]:
    """The next rows behind `key` (none: the first) in the order of the key, of numbers not beyond `last`."""
    columns = ", ".join(f"t.{name}" for name in table.columns)
    tests = ["$1::bigint >= 0"]
    if key:
        places = ", ".join(
            f"${place}::text::{kind}" for place, (_name, kind) in enumerate(table.key, start=2)
        )
        tests.append(f"({columns}) > ({places})")
    if last is not None:
        tests.append(f"{columns} <= {last:d}")
    where = f"WHERE {' AND '.join(tests)}"
    found = await driver.fetch(
        f"SELECT {_travelling(table)} FROM {table.name} t {where} ORDER BY {columns} LIMIT {limit:d}",
        head,
        *key,
    )
    return [_row(row) for row in found]


async def keys(driver: Driver, table: Table) -> list[str]:
    """Every key of a small table with one column of it."""
    rows = await driver.fetch(f"SELECT {table.columns[0]} FROM {table.name}")
    return [row[0] for row in rows]


async def forget(database: Database, places: Sequence[int]) -> None:
    """What was noted is copied."""
    async with database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        await driver.execute(FORGET, list(places))


async def moment(database: Database) -> str:
    """A number of now, for `is_settled`."""
    async with database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        found: str = await driver.fetchval(NOW)
        return found


async def is_settled(driver: Driver, moment: str) -> bool:
    """Whether every transaction that had begun at `moment` is over."""
    return bool(await driver.fetchval(SETTLED, moment))


def _travelling(table: Table) -> str:
    key = ", ".join(f"t.{column}::text" for column in table.columns)
    owner = "NULL" if table.owner is None else f"t.{table.owner}"
    waits = f"({table.beyond})" if table.beyond else "false"
    return f"ARRAY[{key}] AS key, {owner} AS owner, to_jsonb(t)::text AS text, {waits} AS waits"


async def heads(driver: Driver) -> Heads:
    """The end of the ledger as that database has it, within the caller's transaction as the feed role."""
    head = await driver.fetchrow(HEAD)
    assert head is not None, "a ledger has a head"
    rows = await driver.fetch(CHAINS)
    chains = {row["institution_id"]: (row["sequence"], row["hash"]) for row in rows}
    return Heads(head["log_id"], head["global_sequence"], chains)


async def differing(driver: Driver, there: Heads) -> tuple[str, int] | None:
    """An institution whose chain there does not end in a link of this ledger, and where; None when all do."""
    names, ends = list(there.chains), list(there.chains.values())
    row = await driver.fetchrow(DIFFERING, names, [end[0] for end in ends], [end[1] for end in ends])
    return None if row is None else (row["institution_id"], row["sequence"])


async def values(driver: Driver, query: str, *arguments: object) -> list[Values]:
    """Rows as they are to be inserted elsewhere, in the order of the query's columns."""
    return [tuple(row.values()) for row in await driver.fetch(query, *arguments)]


def _row(record: Named) -> Row:
    return Row(tuple(record["key"]), record["owner"], record["text"], record["waits"])
