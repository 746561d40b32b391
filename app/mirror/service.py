"""Compares a ledger with its mirror, and moves the ledger there."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import ErrorCode, Refused
from app.ledger import epochs, keeper, leases
from app.ledger.keeper import Keeper
from app.mirror import contents, source
from app.mirror.model import Comparison, Heads
from app.mirror.worker import NAME, Mirror
from app.storage.database import Database, DatabaseRole, take_role

if TYPE_CHECKING:
    from app.mirror.store import Copy
    from app.storage.database import Driver

MOVED = "the ledger moved here from the database it was mirrored from"
TAKEN_OVER = "the mirror took over from a database that was lost"
HOLDER = "escrowgrid mirror promote"
LEASE_SECONDS = 60.0

Prove = Callable[[], Awaitable[None]]


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
        queued = await waiting(ledger)
        registration = await ledger.fetchval(source.REGISTRATION)
    differs = None
    if here.log_id != there.log_id:
        differs = "it is a copy of another ledger"
    elif other is not None:
        differs = f"event {other[1]} of {other[0]} is another one"
    elif there.global_sequence > here.global_sequence:
        differs = "it has events that the ledger has not"
    return Comparison(here, there, differs, queued, copy.is_seeded and copy.registration == registration)


async def waiting(ledger: "Driver") -> int:
    """How many changes beside the events wait to be copied, as the feed role."""
    return int(await ledger.fetchval(source.WAITING))


async def compare_contents(ledger: "Driver", copy: "Copy") -> Sequence[str]:
    """The tables that do not hold the same rows on both sides; a level mirror has none. It reads all of them."""
    async with ledger.transaction(isolation="repeatable_read", readonly=True):
        here = await contents.contents(ledger)
    async with copy.as_role(DatabaseRole.FEED) as driver:
        return contents.differing(here, await contents.contents(driver))


async def promote(database: Database, mirror: Mirror, prove: Prove) -> Promoted:
    """Close the ledger where it is, copy the last of it, and let the servers of the mirror's database go on.

    `prove` raises unless the copy proves itself. Raises `Refused` while a server runs where the ledger is, and whenever
    the two are not equal. Nothing has moved, and the ledger is open again, whatever failed before the copy took over.
    May be repeated after it was cut off at any point.
    """
    async with database.pool(DatabaseRole.FEED).acquire() as driver:
        running = await driver.fetchval(source.RUNNING, HOLDER)
        kept_by = await keeper.keeper_of(driver)
    if running:
        raise _refused(
            f"a server still runs where the ledger is (it holds: {running}); stop every one of them first"
        )
    if kept_by is Keeper.NOBODY:
        await _require_closed_for(mirror)
    lease = await leases.take(database, f"follower:{NAME}", HOLDER, LEASE_SECONDS)
    if lease is None:
        raise _refused("another process brings the mirror on; try again in a minute")
    try:
        await mirror.level(lease)
        try:
            await _hand_over(database, Keeper.NOBODY)
            copy = await mirror.level(lease)
            await _require_equal(database, copy)
            await prove()
        except BaseException:
            # Whoever gives up, or is told to, leaves the ledger as it was.
            await asyncio.shield(_reopen(database, mirror))
            raise
        # Cut off in here, nobody knows who keeps the ledger: it stays closed until this is repeated.
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


async def give_back(ledger: "Driver") -> None:
    """Let the servers of a ledger go on that was closed for a mirror which is gone. Raises `Refused` for any other."""
    async with ledger.transaction():
        await take_role(ledger, DatabaseRole.WRITER, ())
        found = await keeper.take(ledger)
        if found is not Keeper.NOBODY:
            raise _refused(
                "the ledger is open: there is nothing to give back"
                if found is Keeper.SERVERS
                else "DATABASE_URL names a mirror, not the ledger that moved"
            )
        await keeper.hand_to(ledger, Keeper.SERVERS)


async def close(ledger: "Driver", log_id: str) -> bool:
    """Close the ledger `log_id` where it still answers, for its mirror takes over; False when it is another one.

    Raises `Refused` while a server runs on it: it is not lost.
    """
    async with ledger.transaction():
        await take_role(ledger, DatabaseRole.FEED, ())
        if await ledger.fetchval(source.LOG_ID) != log_id:
            return False
        running = await ledger.fetchval(source.RUNNING, "")
        if running:
            raise _refused(
                f"the ledger is not lost: its database answers, and a server runs on it (it holds: {running}). Stop "
                "every one of them and move it with `escrowgrid mirror promote`"
            )
        await take_role(ledger, DatabaseRole.WRITER, ())
        if await keeper.take(ledger) is Keeper.MIRROR:
            return False
        await keeper.hand_to(ledger, Keeper.NOBODY)
    return True


async def _require_closed_for(mirror: Mirror) -> None:
    """A closed ledger goes on in the mirror that it was closed for, or nowhere: that one may have taken over."""
    found = await mirror.kept_by()
    if found is Keeper.SERVERS:
        raise _refused(
            "the ledger has moved already: the mirror took over. Set DATABASE_URL to it, take MIRROR_URL away, start "
            "the servers"
        )
    if found is not Keeper.MIRROR:
        raise _refused(
            "the ledger is closed, for a mirror that may have taken over, and MIRROR_URL names another database. Set "
            "it to that mirror; if that is gone for good, `escrowgrid mirror abandon --mirror-is-gone` opens the "
            "ledger again"
        )


async def _reopen(database: Database, mirror: Mirror) -> None:
    # Somebody else may have had the mirror take over meanwhile: two ledgers would be worse than none.
    if not await mirror.was_promoted():
        await _hand_over(database, Keeper.SERVERS)


async def _require_equal(database: Database, copy: "Copy") -> None:
    async with database.pool(DatabaseRole.FEED).acquire() as driver:
        found = await compare(driver, copy)
        if not found.is_level:
            raise _refused(f"the mirror is not equal to the ledger: {found.differs or 'it is behind'}")
        other = await compare_contents(driver, copy)
    if other:
        raise _refused(
            f"the mirror is not equal to the ledger: {', '.join(other)}. Run `escrowgrid verify` on both sides; to go "
            "on with the ledger, give MIRROR_URL a new, empty database"
        )


async def _hand_over(database: Database, to: Keeper) -> None:
    async with database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        await keeper.take(driver)
        await keeper.hand_to(driver, to)


def _refused(why: str) -> Refused:
    return Refused(ErrorCode.TRY_AGAIN, why)
