"""Leadership that survives pools and crashes: a lease row with a fencing token that grows with every holder."""

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta

from app.storage.database import Database, DatabaseRole, Driver, take_role

log = logging.getLogger("escrowgrid.leases")

LET_GO_SECONDS_MAX = 5.0

# The database's clock judges, so that machines need not agree on the time.
TAKE = """
INSERT INTO leases AS l (name, holder, token, expires_at) VALUES ($1, $2, 1, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, expires_at = excluded.expires_at,
    token = l.token + CASE WHEN l.holder = excluded.holder AND l.expires_at > clock_timestamp() THEN 0 ELSE 1 END
WHERE l.holder = excluded.holder OR l.expires_at <= clock_timestamp()
RETURNING token
"""
RENEW = """
UPDATE leases SET expires_at = clock_timestamp() + $3::interval
WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp() RETURNING true
"""
OUTGROW = """
UPDATE leases SET token = $3 + 1 WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp() RETURNING true
"""
GIVE_UP = "UPDATE leases SET expires_at = clock_timestamp() WHERE name = $1 AND holder = $2"
HOLDS = "SELECT true FROM leases WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp() FOR SHARE"
UNBROKEN = "SELECT true FROM leases WHERE name = $1 AND token = $2 FOR SHARE"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead `name` until it expires; whoever acts on it shows the token."""

    name: str
    token: int


async def take(database: Database, name: str, holder: str, seconds: float) -> Lease | None:
    """Take or renew the lease; None while somebody else holds it."""
    async with database.pool(DatabaseRole.WRITER).acquire() as connection, connection.transaction():
        await take_role(connection, DatabaseRole.WRITER, ())
        token = await connection.fetchval(TAKE, name, holder, timedelta(seconds=seconds))
    return None if token is None else Lease(name, token)


async def renew(database: Database, lease: Lease, seconds: float) -> bool:
    """Keep a lease in the middle of long work; False when it is lost."""
    async with database.pool(DatabaseRole.WRITER).acquire() as connection, connection.transaction():
        await take_role(connection, DatabaseRole.WRITER, ())
        return bool(await connection.fetchval(RENEW, lease.name, lease.token, timedelta(seconds=seconds)))


async def outgrow(database: Database, lease: Lease, token: int) -> bool:
    """Have the holder's next lease carry a token above `token`; False when this one is lost."""
    async with database.pool(DatabaseRole.WRITER).acquire() as connection, connection.transaction():
        await take_role(connection, DatabaseRole.WRITER, ())
        return bool(await connection.fetchval(OUTGROW, lease.name, lease.token, token))


async def give_up(database: Database, name: str, holder: str) -> None:
    """Let the next one take it at once."""
    async with database.pool(DatabaseRole.WRITER).acquire() as connection, connection.transaction():
        await take_role(connection, DatabaseRole.WRITER, ())
        await connection.execute(GIVE_UP, name, holder)


async def let_go(database: Database, name: str, holder: str) -> None:
    """The same at the end of a process: where that cannot be, the lease runs out by itself, and the rest ends too."""
    try:
        async with asyncio.timeout(LET_GO_SECONDS_MAX):
            await give_up(database, name, holder)
    except Exception as error:  # noqa: BLE001 - whatever it is: a process that stops cannot mend it
        log.warning("%s is not given up, and runs out by itself: %s: %s", name, type(error).__name__, error)


async def holds(connection: Driver, lease: Lease) -> bool:
    """Whether the lease is still good, within the caller's transaction, which keeps it from being taken meanwhile."""
    return bool(await connection.fetchval(HOLDS, lease.name, lease.token))


async def unbroken(connection: Driver, lease: Lease) -> bool:
    """Whether nobody has led since, also when the lease has run out; the same otherwise as `holds`.

    For noting what was done under it: had that to be within its time, slow work would be done again for ever.
    """
    return bool(await connection.fetchval(UNBROKEN, lease.name, lease.token))
