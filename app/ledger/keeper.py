"""Who may append to the ledger of a database: the database refuses everybody else, whatever they believe."""

from enum import StrEnum

from app.errors import Unavailable
from app.storage.database import Driver

MOVED = "this ledger has moved to another database, the only one that goes on with it: set DATABASE_URL to that one"
COPIED = "this database is a mirror of a ledger that is kept elsewhere: do it there, or see `escrowgrid mirror promote`"
NOT_HERE = (
    "this server does not keep the ledger: its database is a mirror, or the ledger has moved; nothing was done, "
    "send it to the server that does, with the same idempotency key"
)

WRITTEN_BY = "SELECT written_by FROM ledger_head"
# The row that every writer locks: who waited for it sees the change. For the rest of the transaction it is ours.
TAKE = "SELECT set_config('escrowgrid.keeper', 'on', true)"
LOCK = "SELECT written_by FROM ledger_head FOR UPDATE"
HAND = "UPDATE ledger_head SET written_by = $1"


class Keeper(StrEnum):
    """Whoever appends: the ledger's own servers, the mirror that copies it to here, or nobody since it moved."""

    SERVERS = "SERVERS"
    MIRROR = "MIRROR"
    NOBODY = "NOBODY"


async def keeper_of(connection: Driver) -> Keeper:
    """Who may append, as the feed or the writer role."""
    return Keeper(await connection.fetchval(WRITTEN_BY))


async def require_servers(connection: Driver) -> None:
    """Raise `Unavailable` with what to do where the ledger's servers may not append."""
    found = await keeper_of(connection)
    if found is not Keeper.SERVERS:
        raise Unavailable(MOVED if found is Keeper.NOBODY else COPIED)


async def take(connection: Driver) -> Keeper:
    """Lock the head and be its keeper until the caller's transaction ends, as the writer role; returns whose it is."""
    await connection.execute(TAKE)
    return Keeper(await connection.fetchval(LOCK))


async def hand_to(connection: Driver, keeper: Keeper) -> None:
    """From the end of the caller's transaction on, which has taken the head, only `keeper` may append."""
    await connection.execute(HAND, keeper)
