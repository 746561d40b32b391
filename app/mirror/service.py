"""Compares a ledger with its mirror, and moves the ledger there."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import ErrorCode, Refused
from app.ledger import epochs, keeper, leases
from app.ledger.keeper import Keeper
from app.mirror import source
from app.mirror.model import TABLES, Comparison, Heads
from app.mirror.worker import NAME, Mirror
from app.storage.database import Database, DatabaseRole, take_role

if TYPE_CHECKING:
    from app.mirror.store import Copy
    from app.storage.database import Driver

MOVED = "the ledger moved here from the database it was mirrored from"
TAKEN_OVER = "the mirror took over from a database that was lost"
HOLDER = "escrowgrid mirror promote"
LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Promoted:
    """Since when the mirror is the ledger."""

    epoch: int
    heads: Heads


async def compare(ledger: "Driver", copy: "Copy") -> Comparison:
    """Both sides as they are; the copy is read first, so that it can only be behind."""
    async with copy.as_role(DatabaseRole.FEED) as driver:
        there = await source.heads(driver)
    async with ledger.transaction(isolation="repeatable_read", readonly=True):
        await take_role(ledger, DatabaseRole.FEED, ())
        here = await source.heads(ledger)
        other = await source.differing(ledger, there)
        waiting = await ledger.fetchval(source.WAITING)
    differs = None
    if here.log_id != there.log_id:
        differs = "it is a copy of another ledger"
    elif other is not None:
        differs = f"event {other[1]} of {other[0]} is another one"
    elif there.global_sequence > here.global_sequence:
        differs = "it has events that the ledger has not"
    return Comparison(here, there, differs, waiting, len(copy.seeded) == len(TABLES))


async def promote(database: Database, mirror: Mirror) -> Promoted:
    """Close the ledger where it is, copy the last of it, and let the servers of the mirror's database go on.

    Raises `Refused` while a server runs where the ledger is, and whenever the two are not equal: then nothing moved.
    May be repeated after it was cut off at any point.
    """
    async with database.pool(DatabaseRole.FEED).acquire() as driver:
        running = await driver.fetchval(source.RUNNING, HOLDER)
    if running:
        raise _refused(
            f"a server still runs where the ledger is (it holds: {running}); stop every one of them first"
        )
    lease = await leases.take(database, f"follower:{NAME}", HOLDER, LEASE_SECONDS)
    if lease is None:
        raise _refused("another process brings the mirror on; try again in a minute")
    try:
        await mirror.level(lease)
        await _hand_over(database, Keeper.NOBODY)
        copy = await mirror.level(lease)
        async with database.pool(DatabaseRole.FEED).acquire() as driver:
            found = await compare(driver, copy)
        if not found.is_level:
            await _hand_over(database, Keeper.SERVERS)
            raise _refused(f"the mirror is not equal to the ledger: {found.differs or 'it is behind'}")
        return await take_over(copy, MOVED)
    finally:
        await mirror.leave()
        await asyncio.shield(leases.give_up(database, lease.name, HOLDER))


async def take_over(copy: "Copy", reason: str = TAKEN_OVER) -> Promoted:
    """Make the copy a ledger of its own, as far as it has come. It begins an epoch: cursors beyond are refused."""
    async with copy.as_role(DatabaseRole.WRITER) as driver:
        if await keeper.take(driver) is not Keeper.MIRROR:
            raise _refused("that database is not a mirror, or was promoted already")
        await keeper.hand_to(driver, Keeper.SERVERS)
        epoch = await epochs.raise_epoch(driver, reason)
    async with copy.as_role(DatabaseRole.FEED) as driver:
        return Promoted(epoch, await source.heads(driver))


async def _hand_over(database: Database, to: Keeper) -> None:
    async with database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        await keeper.take(driver)
        await keeper.hand_to(driver, to)


def _refused(why: str) -> Refused:
    return Refused(ErrorCode.TRY_AGAIN, why)
