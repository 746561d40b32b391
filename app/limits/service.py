"""Spends from shared buckets through slices held in memory, so that hardly any request asks the database."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from time import monotonic

from app.kit.gathering import Gathering
from app.kit.tasks import begin, end
from app.limits import store
from app.limits.model import Purse, Terms
from app.limits.store import Ask
from app.storage.database import Database, DatabaseRole, take_role

log = logging.getLogger("escrowgrid.limits")

PURSES_MAX = 20_000
LEASE_SECONDS_MAX = 2.0
# When the buckets cannot be reached nothing is limited for so long: a limiter must not be what stops money.
AWAY_SECONDS = 1.0
TRIES_MAX = 3
WAIT_SECONDS_MIN = 0.05
IDLE_SECONDS = 5.0
TEND_SECONDS = 5.0
FORGET_SECONDS = 600.0


class Quota:
    """The buckets as one process sees them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._purses: OrderedDict[str, Purse] = OrderedDict()
        self._leases: Gathering[Purse, bool] = Gathering(self._lease)
        self._away_until = 0.0
        self._tending: asyncio.Task[None] | None = None
        self.leases = 0
        self.failures = 0

    def __len__(self) -> int:
        return len(self._purses)

    async def start(self) -> None:
        """Begin to give back what lies idle."""
        self._tending = begin(self._tend(), "limits")

    async def close(self) -> None:
        """Give everything back."""
        await end(self._tending)
        await self._leases.close()
        await self._give_back(list(self._purses.values()))

    def purse(self, name: str, terms: Terms) -> Purse:
        """This process's part of a bucket. The ones used longest ago make room: what they held flows in again."""
        found = self._purses.get(name)
        if found is None or found.terms != terms:
            found = self._purses[name] = Purse.full(name, terms, monotonic())
            if len(self._purses) > PURSES_MAX:
                self._purses.popitem(last=False)
        else:
            self._purses.move_to_end(name)
        return found

    async def spend(self, purse: Purse, cost: float) -> float:
        """Pay `cost` and return 0, or return after how many seconds it could be paid. Waits for no refill."""
        now = monotonic()
        if purse.pay(cost, now):
            if purse.is_low() and now >= self._away_until and not purse.wait(1, now):
                self._leases.ask_soon(purse)
            return 0.0
        for _ in range(TRIES_MAX):
            if now < self._away_until:
                return 0.0
            wait = purse.wait(cost, now)
            if wait > 0:
                return max(wait, WAIT_SECONDS_MIN)
            purse.waiting += cost
            try:
                await self._leases.ask(purse)
            finally:
                purse.waiting -= cost
            now = monotonic()
            if purse.pay(cost, now):
                return 0.0
        return 0.0 if now < self._away_until else max(purse.wait(cost, now), WAIT_SECONDS_MIN)

    async def _lease(self, purses: Sequence[Purse]) -> Mapping[Purse, bool]:
        try:
            found = await self._asked([_ask(purse, purse.wanted()) for purse in purses])
        except Exception as error:  # noqa: BLE001 - whatever it is: the buckets cannot be reached now
            self.failures += 1
            self._away_until = monotonic() + AWAY_SECONDS
            log.warning("the rate limits' buckets cannot be reached, nothing is limited: %r", error)
            return {}
        now = monotonic()
        for purse in purses:
            purse.leased(*found[purse.name], now)
        return dict.fromkeys(purses, True)

    async def _asked(self, asks: Sequence[Ask]) -> Mapping[str, tuple[float, float]]:
        self.leases += 1
        async with asyncio.timeout(LEASE_SECONDS_MAX):
            pool = self._database.pool(DatabaseRole.WRITER)
            async with pool.acquire() as connection, connection.transaction():
                await take_role(connection, DatabaseRole.WRITER, ())
                return await store.lease(connection, asks)

    async def _tend(self) -> None:
        forgotten = monotonic()
        while True:
            await asyncio.sleep(TEND_SECONDS)
            idle_since = monotonic() - IDLE_SECONDS
            await self._give_back([purse for purse in self._purses.values() if purse.used_at < idle_since])
            if monotonic() - forgotten > FORGET_SECONDS:
                forgotten = monotonic()
                await self._forget()

    async def _give_back(self, purses: Sequence[Purse]) -> None:
        """What nobody here has spent for a while, others may."""
        idle = [purse for purse in purses if purse.tokens >= 1 and not purse.waiting]
        if not idle or monotonic() < self._away_until:
            return
        asks = [_ask(purse, -purse.tokens) for purse in idle]
        for purse in idle:
            purse.tokens = 0.0
        try:
            found = await self._asked(asks)
        except Exception as error:  # noqa: BLE001 - it flows in again by itself
            log.warning("idle parts of rate limits were not given back: %r", error)
            return
        for purse in idle:
            purse.leased(0.0, found[purse.name][1], monotonic())
            purse.not_before = 0.0

    async def _forget(self) -> None:
        try:
            pool = self._database.pool(DatabaseRole.WRITER)
            async with pool.acquire() as connection, connection.transaction():
                await take_role(connection, DatabaseRole.WRITER, ())
                await store.forget_full(connection)
        except Exception as error:  # noqa: BLE001 - the edge of this task: it is done again later
            log.warning("full buckets were not forgotten: %r", error)


def _ask(purse: Purse, wanted: float) -> Ask:
    return Ask(purse.name, wanted, purse.terms.capacity, purse.terms.refill)
