"""One endpoint's deliveries under way: a few at once, each settled as soon as its attempt is over."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import httpx

from app.audit.service import Work
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.kit.tasks import end
from app.ledger import leases
from app.ledger import service as ledger
from app.ledger.followers import LeadLost
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.ledger.tail import Tail
from app.principal import ALL_INSTITUTIONS, Principal, Role
from app.storage.database import CONNECTION_LOST, Database, DatabaseRole, Driver, take_role
from app.webhooks import message, model, queue, service, signing
from app.webhooks.model import GONE, Outcome
from app.webhooks.queue import Address, Claim, Claimed, Settled
from app.webhooks.sending import Sender
from app.webhooks.vault import CannotOpen, Vault, place_of

log = logging.getLogger("escrowgrid.webhooks")

LANE_SECONDS = 2.0
SLOW_SECONDS = 1.0
IN_FLIGHT_MAX = 8
DATABASE_TURNS = 2
HELD_PAUSE_SECONDS = 0.05
SETTLE_PAUSE_SECONDS_MAX = 5.0

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
    ) -> None:
        self.database = database
        self.tail = tail
        self.clock = clock
        self.ids = ids
        self.vault = vault
        self.sender = sender
        self.chance = chance
        self._turns = asyncio.Semaphore(DATABASE_TURNS)

    @asynccontextmanager
    async def writing(self, institution_id: str) -> AsyncIterator[Driver]:
        """A transaction of the writer role on one institution."""
        pool = self.database.pool(DatabaseRole.WRITER)
        async with self._turns, pool.acquire() as driver, driver.transaction():
            await take_role(driver, DatabaseRole.WRITER, (institution_id,))
            yield driver

    async def claim(
        self, lease: Lease, address: Address, under_way: Sequence[str], limit: int
    ) -> Claim | None:
        """What is due for an endpoint; raises `LeadLost` when another process leads."""
        async with self.writing(address[0]) as driver:
            if not await leases.holds(driver, lease):
                raise LeadLost("another process delivers now")
            return await queue.claim(driver, address, self.clock(), under_way, limit)

    async def settle(self, address: Address, settled: Sequence[Settled]) -> None:
        """Note what came of attempts, however long that takes: the attempts were made."""
        pause = HELD_PAUSE_SECONDS
        while True:
            try:
                async with self.writing(address[0]) as driver:
                    if await queue.settle(driver, address, settled, self.clock()):
                        return
            except CONNECTION_LOST as error:
                log.warning("deliveries wait to be settled: %s", type(error).__name__)
                pause = min(pause * 2, SETTLE_PAUSE_SECONDS_MAX)
            await asyncio.sleep(pause)

    async def events(self, ids: Sequence[str]) -> Mapping[str, Event]:
        """The events to be told of."""
        if not ids:
            return {}
        async with self._turns, self.database.reading(ALL_INSTITUTIONS) as reading:
            return await ledger.fetch_by_id(reading, ALL_INSTITUTIONS, ids)

    async def disable(self, address: Address) -> None:
        """Send nothing more to an endpoint that said it is gone."""
        async with self._turns, self.database.writing(address[0]) as connection:
            request_id, now = self.ids.new("req"), self.clock()
            work = Work(connection, COURIER, request_id, None, "webhooks", now, self.ids)
            await service.disable_gone(work, *address)


@dataclass(slots=True)
class Pace:
    """How an endpoint has been answering: quick ones get more at once, slow and failing ones a single attempt."""

    window: int = 1
    is_slow: bool = False

    def note(self, outcome: Outcome, seconds: float) -> None:
        """Learn from an attempt."""
        self.is_slow = not outcome.is_success or seconds > SLOW_SECONDS
        self.window = 1 if self.is_slow else min(self.window + 1, IN_FLIGHT_MAX)


class Lane:
    """One endpoint's turn. It ends when nothing is due, or its time is over, or the endpoint turns slow."""

    def __init__(self, post: Post, lease: Lease, address: Address, pace: Pace) -> None:
        self._post = post
        self._lease = lease
        self._address = address
        self._pace = pace
        self._under_way: dict[asyncio.Task[Settled], Claimed] = {}
        # One for each URL: connections are kept, but never shared between names.
        self._clients: dict[str, httpx.AsyncClient] = {}
        self.closing = False

    async def run(self) -> None:
        """Attempt what is due."""
        started = asyncio.get_running_loop().time()
        try:
            while True:
                now = asyncio.get_running_loop().time()
                if not self.closing and now - started < LANE_SECONDS:
                    await self._claim()
                if not self._under_way:
                    return
                done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                await self._settle(done)
        finally:
            await self._give_back()

    async def _claim(self) -> None:
        free = self._pace.window - len(self._under_way)
        if free <= 0 or (self._pace.is_slow and self._clients):
            return
        under_way = [claimed.id for claimed in self._under_way.values()]
        claim = await self._post.claim(self._lease, self._address, under_way, free)
        if claim is None or not claim.deliveries:
            return
        events = await self._post.events([one.event_id for one in claim.deliveries if one.event_id])
        for claimed in claim.deliveries:
            task = asyncio.create_task(self._attempt(claim, claimed, events), name="webhook-attempt")
            self._under_way[task] = claimed

    async def _settle(self, done: set[asyncio.Task[Settled]]) -> None:
        settled = [task.result() for task in done]
        await self._post.settle(self._address, settled)
        for task in done:
            del self._under_way[task]
        if any(one.outcome.status == GONE for one in settled):
            await self._post.disable(self._address)

    async def _attempt(self, claim: Claim, claimed: Claimed, events: Mapping[str, Event]) -> Settled:
        now, started = self._post.clock(), asyncio.get_running_loop().time()
        try:
            event = None if claimed.event_id is None else events[claimed.event_id]
            outcome = await self._send(claim, claimed, event, now)
        except CannotOpen as error:
            log.warning("endpoint %s: %s", self._address[1], error)
            outcome = Outcome(error=str(error))
        except Exception:
            # The edge of this attempt: it counts as one, so that it is not made again at once.
            log.exception("delivery %s cannot be attempted", claimed.id)
            outcome = Outcome(error="something went wrong on the sender's side")
        self._pace.note(outcome, asyncio.get_running_loop().time() - started)
        is_test, chance = claimed.event_id is None, self._post.chance()
        verdict = model.judge(outcome, claimed.step, now=self._post.clock(), chance=chance, is_test=is_test)
        return Settled(claimed, outcome, verdict, now)

    async def _send(self, claim: Claim, claimed: Claimed, event: Event | None, now: datetime) -> Outcome:
        post, (institution_id, endpoint_id) = self._post, self._address
        secrets = [
            post.vault.open(sealed, place_of(institution_id, endpoint_id, secret_id))
            for secret_id, sealed in claim.secrets
        ]
        if event is None:
            body = message.of_test(claimed.id, endpoint_id, claimed.created_at)
        else:
            body = message.of_event(event, post.tail.epochs.cursor(institution_id, event.sequence))
        webhook_id = model.webhook_id(claimed.event_id or claimed.id, endpoint_id)
        client = self._clients.get(claim.url)
        if client is None:
            client = self._clients[claim.url] = post.sender.client()
        return await post.sender.post(
            client, claim.url, signing.headers(webhook_id, now, body, secrets), body
        )

    async def _give_back(self) -> None:
        """Nothing of it goes on; what was under way is another's to attempt."""
        left = list(self._under_way)
        await end(*left)
        for client in self._clients.values():
            await client.aclose()
        if left:
            ids = [claimed.id for claimed in self._under_way.values()]
            # Where that is not possible the claims end by themselves.
            with suppress(*CONNECTION_LOST):
                async with self._post.writing(self._address[0]) as driver:
                    await queue.release(driver, self._address[0], ids)
