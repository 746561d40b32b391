"""What lanes have in common: their few ways into the database, the events they tell of, clock, keys and sender."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from app.audit.service import Work
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.ledger import leases
from app.ledger import service as ledger
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.ledger.tail import Tail
from app.principal import ALL_INSTITUTIONS, Principal, Role
from app.storage.database import Database, DatabaseRole, Driver, take_role
from app.storage.losses import CONNECTION_LOST
from app.webhooks import queue, service
from app.webhooks.model import DisabledReason, has_failed_too_long
from app.webhooks.queue import Address, Claim, Settled
from app.webhooks.sending import Sender
from app.webhooks.vault import Vault

log = logging.getLogger("escrowgrid.webhooks")

# How many lanes are in the database at once; failing endpoints, of which there may be many, take turns of their own.
QUICK_TURNS = 2
SLOW_TURNS = 1
DATABASE_TURNS = QUICK_TURNS + SLOW_TURNS
EVENTS_KEPT_MAX = 2_000
HELD_PAUSE_SECONDS = 0.05
PAUSE_SECONDS_MAX = 5.0

# The server itself, when a receiver's answer disables an endpoint.
COURIER = Principal("webhooks", "webhook courier", Role.ROOT, None, frozenset())


class Post:
    """What every lane works with. Few lanes are in the database at once, however many there are."""

    def __init__(
        self,
        database: Database,
        tail: Tail,
        clock: Clock,
        ids: Ids,
        vault: Vault,
        sender: Sender,
        chance: Callable[[], float],
        keep: timedelta,
    ) -> None:
        self.database = database
        self.tail = tail
        self.clock = clock
        self.ids = ids
        self.vault = vault
        self.sender = sender
        self.chance = chance
        # How long settled deliveries are kept.
        self.keep = keep
        # Endpoints that have failed for too long, until they are disabled.
        self.failed: set[Address] = set()
        self._turns = asyncio.Semaphore(QUICK_TURNS)
        self._slow_turns = asyncio.Semaphore(SLOW_TURNS)
        self._events: dict[str, Event] = {}

    @asynccontextmanager
    async def writing(self, institution_id: str, *, slow: bool = False) -> AsyncIterator[Driver]:
        """A transaction of the writer role on one institution."""
        pool, turns = self.database.pool(DatabaseRole.WRITER), self._slow_turns if slow else self._turns
        async with turns, pool.acquire() as driver, driver.transaction():
            await take_role(driver, DatabaseRole.WRITER, (institution_id,))
            yield driver

    async def exchange(
        self,
        lease: Lease,
        address: Address,
        settled: Sequence[Settled],
        under_way: Sequence[str],
        limit: int,
        *,
        slow: bool,
    ) -> Claim | None:
        """Note what came of attempts, and claim what is due next, at most `limit`; in one transaction.

        Attempts that were made are noted however long that takes, and also when another process leads by now. None:
        that one claims what is due, or somebody else holds the endpoint's row.
        """
        pause = HELD_PAUSE_SECONDS
        while True:
            try:
                answered, claim = await self._try_exchange(
                    lease, address, settled, under_way, limit, slow=slow
                )
                if answered or not settled:
                    return claim
            except CONNECTION_LOST as error:
                if not settled:
                    raise
                log.warning("deliveries wait to be settled: %s", type(error).__name__)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
            await asyncio.sleep(pause)

    async def _try_exchange(
        self,
        lease: Lease,
        address: Address,
        settled: Sequence[Settled],
        under_way: Sequence[str],
        limit: int,
        *,
        slow: bool,
    ) -> tuple[bool, Claim | None]:
        """The same once; False while somebody else holds the endpoint's row."""
        async with self.writing(address[0], slow=slow) as driver:
            endpoint = await queue.lock(driver, address)
            if endpoint is None:
                return False, None
            if settled:
                now = self.clock()
                await queue.settle(driver, endpoint, settled, now)
                if has_failed_too_long(await queue.note_health(driver, endpoint, settled, now), now):
                    self.failed.add(address)
            if limit == 0 or not await leases.holds(driver, lease):
                return True, None
            return True, await queue.take(driver, endpoint, self.clock(), under_way, limit)

    async def leads(self, lease: Lease) -> bool:
        """Whether the lease is still ours."""
        async with self.writing("") as driver:
            return await leases.holds(driver, lease)

    def remember(self, events: Sequence[Event]) -> None:
        """Keep events that will be told of soon, within a bound."""
        for event in events:
            self._events[event.id] = event
        for event_id in list(self._events)[: max(0, len(self._events) - EVENTS_KEPT_MAX)]:
            del self._events[event_id]

    async def events(self, ids: Sequence[str]) -> Mapping[str, Event]:
        """The events to be told of, from memory or else the ledger."""
        found = {event_id: self._events[event_id] for event_id in ids if event_id in self._events}
        missing = [event_id for event_id in ids if event_id not in found]
        if missing:
            async with self._turns, self.database.reading(ALL_INSTITUTIONS) as reading:
                found |= await ledger.fetch_by_id(reading, ALL_INSTITUTIONS, missing)
        return found

    async def disable(self, address: Address, reason: DisabledReason, url: str | None = None) -> None:
        """Send nothing more to an endpoint that said (at `url`) it is gone, or that has failed for too long."""
        async with self._turns, self.database.writing(address[0]) as connection:
            request_id, now = self.ids.new("req"), self.clock()
            work = Work(connection, COURIER, request_id, None, "webhooks", now, self.ids)
            await service.disable(work, *address, reason, url)
        self.failed.discard(address)

    async def forget(self, lease: Lease, limit: int) -> bool:
        """Remove what was settled long ago, at most `limit`; returns whether there may be more."""
        before = self.clock() - self.keep
        async with self.database.pool(DatabaseRole.FEED).acquire() as driver:
            old = await queue.old(driver, before, limit)
        if old:
            async with self.writing(",".join(sorted({one[0] for one in old}))) as driver:
                if not await leases.holds(driver, lease):
                    return False
                await queue.forget(driver, old, before)
        return len(old) == limit
