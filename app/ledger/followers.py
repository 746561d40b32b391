"""Durable followers: a name and a cursor, at least once, acknowledged by position, one leader at a time."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from app.kit.tasks import end
from app.ledger import leases
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.ledger.store import SELECT_EVENTS, event_of
from app.ledger.tail import Tail
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.database import CONNECTION_LOST, Database, DatabaseRole, Driver, take_role

log = logging.getLogger("escrowgrid.followers")

ATTEMPTS_MAX = 5
PAUSE_SECONDS = 0.2
PAUSE_SECONDS_MAX = 30.0
REASON_LENGTH_MAX = 1_000
# What comes within so long is taken together: each page costs a commit, beside those of the writer.
GATHER_SECONDS = 0.05

REGISTER = """
INSERT INTO followers (name, cursor, token, updated_at)
SELECT $1, CASE WHEN $2 THEN global_sequence ELSE 0 END, 0, clock_timestamp() FROM ledger_head
ON CONFLICT (name) DO NOTHING
"""
STATE = "SELECT cursor, paused FROM followers WHERE name = $1"
# Only the newest leader's acknowledgement counts, only from where it began, and none beyond a restored ledger.
ACK = """
UPDATE followers SET cursor = $2, token = $3, failure = NULL, updated_at = clock_timestamp()
WHERE name = $1 AND token <= $3 AND cursor = $4 AND $2 <= (SELECT global_sequence FROM ledger_head)
"""
DONE_ONE = "UPDATE 1"
FAILED = "UPDATE followers SET failure = $2, updated_at = clock_timestamp() WHERE name = $1 AND token <= $3"
PARK = """
INSERT INTO parked_events (follower, global_sequence, reason, attempts, parked_at)
VALUES ($1, $2, $3, $4, clock_timestamp())
ON CONFLICT (follower, global_sequence) DO UPDATE
SET reason = excluded.reason, attempts = parked_events.attempts + excluded.attempts, retry = false
"""
RETRIED = f"""
{SELECT_EVENTS} WHERE global_sequence IN (SELECT global_sequence FROM parked_events WHERE follower = $1 AND retry)
ORDER BY global_sequence LIMIT 100
"""
SETTLED = "DELETE FROM parked_events WHERE follower = $1 AND global_sequence = $2"


class Poison(Exception):
    """An event that this follower will never be able to take: park it and go on."""


class Halt(Exception):
    """This follower stands still until somebody mends what the message says: no event is skipped, none is parked."""


class LeadLost(Exception):
    """Another process leads now, or the ledger was restored: what this one acknowledges does not count."""


# Not the fault of an event.
PASSING = (*CONNECTION_LOST, LeadLost, Halt)


class Follower(ABC):
    """What a slice brings: a name, and what to do with the next events. Doing it twice must do no harm."""

    name: str
    # Whether a new follower starts at the end of the ledger rather than its beginning.
    from_end: bool = False

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
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Register on first use, then begin to try for the lease."""
        await self._write(
            lambda driver: driver.execute(REGISTER, self._follower.name, self._follower.from_end)
        )
        self._task = asyncio.create_task(self._work(), name=f"follower-{self._follower.name}")

    async def close(self) -> None:
        """Stop, and let another process lead at once."""
        if self._task is None:
            return
        await end(self._task)
        with suppress(*CONNECTION_LOST):
            if await self._lead() is not None:
                await self._follower.stop()
            await leases.give_up(self._database, self._lease_name, self._holder)
        await self._follower.close()

    @property
    def _lease_name(self) -> str:
        return f"follower:{self._follower.name}"

    async def _work(self) -> None:
        pause = PAUSE_SECONDS
        while True:
            try:
                lease = await self._lead()
                if lease is not None:
                    await self._follow(lease)
                pause = PAUSE_SECONDS
                await asyncio.sleep(self._settings.tick_seconds)
            except CONNECTION_LOST as error:
                log.warning("follower %s lost its connection: %s", self._follower.name, type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
            except LeadLost as error:
                log.warning("follower %s: %s", self._follower.name, error)
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:
                if isinstance(error, Halt):
                    log.error("follower %s stands still: %s", self._follower.name, error)  # noqa: TRY400 - no trace
                else:
                    log.exception("follower %s failed; it tries again", self._follower.name)
                with suppress(*CONNECTION_LOST):
                    await self._note_failure(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)

    async def _lead(self) -> Lease | None:
        return await leases.take(self._database, self._lease_name, self._holder, self._settings.lease_seconds)

    async def _follow(self, lease: Lease) -> None:
        """Follow until the lease is lost or somebody pauses it; either is looked at once a tick."""
        await self._tail.confirm()
        known, loop, tick = self._tail.epochs, asyncio.get_running_loop(), self._settings.tick_seconds
        due, paused = loop.time() + tick, await self._read_state()
        while not paused:
            events = await self._tail.page(ALL_INSTITUTIONS, self._acknowledged)
            if self._tail.epochs is not known:
                raise LeadLost("an epoch began: the ledger was restored, or has another database")
            if events:
                await self._take(events, lease)
                if len(events) < self._settings.tail_page_size:
                    await asyncio.sleep(GATHER_SECONDS)
            else:
                await self._follower.idle(lease)
                idle_seconds = self._settings.lease_seconds / 3
                await self._tail.wait(ALL_INSTITUTIONS, self._acknowledged, idle_seconds=idle_seconds)
            if loop.time() < due:
                continue
            if await self._lead() != lease:
                raise LeadLost("another process leads now")
            await self._retry_parked(lease)
            due, paused = loop.time() + tick, await self._read_state()

    async def _take(self, events: Sequence[Event], lease: Lease) -> None:
        """The whole page at once; when that fails, one by one, so that only what is poisonous is parked."""
        try:
            await self._follower.follow(events, lease)
        except PASSING:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it raises is an event's fault until shown otherwise
            if len(events) > 1:
                log.warning("follower %s takes events singly: %s", self._follower.name, error)
            for event in events:
                await self._take_one(event, lease)
        await self._ack(events[-1].global_sequence, lease)

    async def _take_one(self, event: Event, lease: Lease) -> None:
        pause = PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                await self._follower.follow([event], lease)
            except PASSING:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                if isinstance(error, Poison) or attempt == ATTEMPTS_MAX:
                    await self._park(event, error, attempt)
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
            else:
                await self._ack(event.global_sequence, lease)
                return

    async def _retry_parked(self, lease: Lease) -> None:
        """Another try for what an operator unparked."""
        for row in await self._database.pool(DatabaseRole.FEED).fetch(RETRIED, self._follower.name):
            event = event_of(row)
            try:
                await self._follower.follow([event], lease)
            except PASSING:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                await self._park(event, error, 1)
            else:
                name, number = self._follower.name, event.global_sequence
                await self._settle(name, number)

    async def _settle(self, name: str, number: int) -> None:
        await self._write(lambda driver: driver.execute(SETTLED, name, number))

    async def _read_state(self) -> bool:
        """Where it stands, which an operator may have changed; returns whether it is paused."""
        row = await self._database.pool(DatabaseRole.FEED).fetchrow(STATE, self._follower.name)
        assert row is not None, "a follower is registered when it starts"
        self._acknowledged = row["cursor"]
        return bool(row["paused"])

    async def _ack(self, position: int, lease: Lease) -> None:
        terms = (self._follower.name, position, lease.token, self._acknowledged)
        if await self._write(lambda driver: driver.execute(ACK, *terms)) != DONE_ONE:
            raise LeadLost("its cursor was set elsewhere, or another process leads now")
        self._acknowledged = position

    async def _park(self, event: Event, error: Exception, attempts: int) -> None:
        reason = f"{type(error).__name__}: {error}"[:REASON_LENGTH_MAX]
        log.error("follower %s parks event %d: %s", self._follower.name, event.global_sequence, reason)
        await self._write(
            lambda driver: driver.execute(PARK, self._follower.name, event.global_sequence, reason, attempts)
        )

    async def _note_failure(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"[:REASON_LENGTH_MAX]
        await self._write(lambda driver: driver.execute(FAILED, self._follower.name, reason, 2**62))

    async def _write(self, work: Callable[[Driver], Awaitable[str]]) -> str:
        async with self._database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
            await take_role(driver, DatabaseRole.WRITER, ())
            return await work(driver)
