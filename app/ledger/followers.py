"""Durable followers: a name and a cursor, at least once, acknowledged by position, one leader at a time."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.kit.tasks import begin, end
from app.ledger import leases, parked
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.ledger.tail import Tail
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.database import Database, DatabaseRole, Driver, take_role
from app.storage.losses import database_to_blame

log = logging.getLogger("escrowgrid.followers")

ATTEMPTS_MAX = 5
PAUSE_SECONDS = 0.2
PAUSE_SECONDS_MAX = 30.0

REGISTER = """
INSERT INTO followers (name, cursor, token, updated_at)
SELECT $1, CASE WHEN $2 THEN global_sequence ELSE 0 END, 0, clock_timestamp() FROM ledger_head
ON CONFLICT (name) DO NOTHING
"""
STATE = "SELECT cursor, paused, failure FROM followers WHERE name = $1"
# Only the newest leader's acknowledgement counts, only from where it began, and none beyond a restored ledger.
ACK = """
UPDATE followers SET cursor = $2, token = $3, failure = NULL, updated_at = clock_timestamp()
WHERE name = $1 AND token <= $3 AND cursor = $4 AND $2 <= (SELECT global_sequence FROM ledger_head)
"""
DONE_ONE = "UPDATE 1"
FAILED = "UPDATE followers SET failure = $2, updated_at = clock_timestamp() WHERE name = $1 AND token <= $3"


class Poison(Exception):
    """An event that this follower will never be able to take: park it and go on."""


class Halt(Exception):
    """This follower stands still until somebody mends what the message says: no event is skipped, none is parked."""


class LeadLost(Exception):
    """Another process leads now, or the ledger was restored: what this one acknowledges does not count."""


def is_of_the_event(error: Exception) -> bool:
    """Whether the event may be to blame, or what the follower makes of it, rather than its surroundings."""
    return not isinstance(error, (LeadLost, Halt, OSError)) and not database_to_blame(error)


class Follower(ABC):
    """What a slice brings: a name, and what to do with the next events. Doing it twice must do no harm."""

    name: str
    # Whether a new follower starts at the end of the ledger rather than its beginning.
    from_end: bool = False
    # What comes within so long is taken together: each page costs commits, beside those of the writer.
    gather_seconds: float = 0.05

    @abstractmethod
    async def follow(self, events: Sequence[Event], lease: Lease) -> None:
        """Take these events, in order. What it raises is tried again; `Poison` or too many tries park an event.

        `Halt` keeps it where it is: the reason is noted, and it is tried again later.
        """

    async def idle(self, lease: Lease) -> None:  # noqa: B027 - most have nothing to do then
        """Called when there is nothing new, at least at every tick."""

    async def stop(self) -> None:  # noqa: B027 - most have nothing to do then
        """Called by the leader when its process stops."""

    async def close(self) -> None:  # noqa: B027 - most have nothing to do then
        """Called at last when its process stops, whether it leads or not."""


class Runner:
    """Leads one follower while this process holds its lease."""

    def __init__(
        self, database: Database, tail: Tail, settings: Settings, follower: Follower, holder: str
    ) -> None:
        self._database = database
        self._tail = tail
        self._settings = settings
        self._follower = follower
        self._holder = holder
        self._acknowledged = 0
        self._lease: Lease | None = None
        self._renewed_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Register on first use, then begin to try for the lease."""
        async with self._writing() as driver:
            await driver.execute(REGISTER, self._follower.name, self._follower.from_end)
        self._task = begin(self._work(), f"follower-{self._follower.name}")

    async def close(self) -> None:
        """Stop, and let another process lead at once."""
        if self._task is None:
            return
        await end(self._task)
        try:
            if await self._lead() is not None:
                await self._follower.stop()
        except Exception as error:
            # Whatever it was, the rest of the process is to end cleanly.
            if database_to_blame(error):
                log.warning("follower %s ends without the database: %s", self._follower.name, error)
            else:
                log.exception("follower %s could not stop as it should", self._follower.name)
        await leases.let_go(self._database, self._lease_name, self._holder)
        await self._follower.close()

    @property
    def _lease_name(self) -> str:
        return f"follower:{self._follower.name}"

    async def _work(self) -> None:
        pause = PAUSE_SECONDS
        while True:
            try:
                self._lease = await self._lead()
                if self._lease is not None:
                    await self._follow(self._lease)
                pause = PAUSE_SECONDS
                await asyncio.sleep(self._settings.tick_seconds)
            except LeadLost as error:
                log.warning("follower %s: %s", self._follower.name, error)
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:
                name, told = self._follower.name, f"{type(error).__name__}: {error}"
                if isinstance(error, Halt):
                    log.error("follower %s stands still: %s", name, error)  # noqa: TRY400 - no trace
                elif database_to_blame(error):
                    log.warning("follower %s waits for the database: %s", name, told)
                else:
                    log.exception("follower %s failed; it tries again", name)
                await self._note_failure(told)
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)

    async def _lead(self) -> Lease | None:
        self._renewed_at = asyncio.get_running_loop().time()
        return await leases.take(self._database, self._lease_name, self._holder, self._settings.lease_seconds)

    async def _keep(self, lease: Lease) -> None:
        """Renew the lease in the middle of long work, when a third of its time is over."""
        now, seconds = asyncio.get_running_loop().time(), self._settings.lease_seconds
        if now - self._renewed_at < seconds / 3:
            return
        if not await leases.renew(self._database, lease, seconds):
            raise LeadLost("its lease ran out, or another process leads now")
        self._renewed_at = now

    async def _follow(self, lease: Lease) -> None:
        """Follow until the lease is lost or somebody pauses it; either is looked at once a tick."""
        await self._tail.confirm()
        await self._forget_beyond(lease)
        known, loop, tick = self._tail.epochs, asyncio.get_running_loop(), self._settings.tick_seconds
        due, paused = loop.time() + tick, await self._read_state()
        while not paused:
            events = await self._tail.page(ALL_INSTITUTIONS, self._acknowledged)
            if self._tail.epochs is not known:
                raise LeadLost("an epoch began: the ledger was restored, or has another database")
            if events:
                await self._take(events, lease)
                if len(events) < self._settings.tail_page_size:
                    await asyncio.sleep(self._follower.gather_seconds)
            else:
                await self._follower.idle(lease)
                idle_seconds = self._settings.lease_seconds / 3
                await self._tail.wait(ALL_INSTITUTIONS, self._acknowledged, idle_seconds=idle_seconds)
            if loop.time() < due:
                continue
            if await self._lead() != lease:
                raise LeadLost("its lease ran out, or another process leads now")
            await self._retry_parked(lease)
            due, paused = loop.time() + tick, await self._read_state(mended_by=lease)

    async def _take(self, events: Sequence[Event], lease: Lease) -> None:
        """The whole page at once; when that fails, one by one, so that only what is poisonous is parked."""
        try:
            await self._follower.follow(events, lease)
        except Exception as error:
            if not is_of_the_event(error):
                raise
            if len(events) > 1:
                log.warning("follower %s takes events singly: %s", self._follower.name, error)
            for event in events:
                await self._take_one(event, lease)
        await self._ack(events[-1].global_sequence, lease)

    async def _take_one(self, event: Event, lease: Lease) -> None:
        pause = PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS_MAX + 1):
            await self._keep(lease)
            try:
                await self._follower.follow([event], lease)
            except Exception as error:
                if not is_of_the_event(error):
                    raise
                if isinstance(error, Poison) or attempt == ATTEMPTS_MAX:
                    await self._park(event, error, attempt, lease)
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
            else:
                await self._ack(event.global_sequence, lease)
                return

    async def _forget_beyond(self, lease: Lease) -> None:
        """As after a restore, or a reset: no event of now is taken for one that was parked then."""
        async with self._leading(lease) as driver:
            forgotten = await parked.forget_beyond(driver, self._follower.name)
        if forgotten:
            log.warning("follower %s: %d parked events lie beyond its cursor", self._follower.name, forgotten)

    async def _retry_parked(self, lease: Lease) -> None:
        """Another try for what an operator unparked."""
        async with self._database.pool(DatabaseRole.FEED).acquire() as feed:
            events = await parked.retried(feed, self._follower.name)
        for event in events:
            await self._keep(lease)
            try:
                await self._follower.follow([event], lease)
            except Exception as error:
                if not is_of_the_event(error):
                    raise
                await self._park(event, error, 1, lease)
            else:
                async with self._leading(lease) as driver:
                    await parked.settle(driver, self._follower.name, event.global_sequence)

    async def _read_state(self, *, mended_by: Lease | None = None) -> bool:
        """Where it stands, which an operator may have changed; returns whether it is paused.

        A leader that has gone on since its last failure takes back what was noted of it.
        """
        row = await self._database.pool(DatabaseRole.FEED).fetchrow(STATE, self._follower.name)
        assert row is not None, "a follower is registered when it starts"
        self._acknowledged = row["cursor"]
        if mended_by is not None and row["failure"] is not None:
            async with self._leading(mended_by) as driver:
                await driver.execute(FAILED, self._follower.name, None, mended_by.token)
        return bool(row["paused"])

    async def _ack(self, position: int, lease: Lease) -> None:
        terms = (self._follower.name, position, lease.token, self._acknowledged)
        async with self._leading(lease) as driver:
            done = await driver.execute(ACK, *terms)
        if done != DONE_ONE:
            raise LeadLost("its cursor was set elsewhere, or another process leads now")
        self._acknowledged = position

    async def _park(self, event: Event, error: Exception, attempts: int, lease: Lease) -> None:
        reason = f"{type(error).__name__}: {error}"
        async with self._leading(lease) as driver:
            await parked.park(driver, self._follower.name, event.global_sequence, reason, attempts)
        log.error("follower %s parked event %d: %s", self._follower.name, event.global_sequence, reason)

    async def _note_failure(self, told: str) -> None:
        """Note why nothing goes on, where this process leads and the database lets it."""
        lease = self._lease
        if lease is None:
            return
        try:
            async with self._leading(lease) as driver:
                await driver.execute(
                    FAILED, self._follower.name, told[: parked.REASON_LENGTH_MAX], lease.token
                )
        except Exception as error:  # noqa: BLE001 - the edge of this task, which has told the log already
            log.warning("follower %s could not note its failure: %s", self._follower.name, error)

    @asynccontextmanager
    async def _leading(self, lease: Lease) -> AsyncIterator[Driver]:
        """A transaction that only counts while nobody else leads: an heir waits until it is over."""
        async with self._writing() as driver:
            if not await leases.unbroken(driver, lease):
                raise LeadLost("another process leads now")
            yield driver

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Driver]:
        async with self._database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
            await take_role(driver, DatabaseRole.WRITER, ())
            yield driver
