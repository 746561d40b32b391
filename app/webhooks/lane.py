"""One endpoint's deliveries under way: a few at once, each settled as soon as its attempt is over."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import httpx

from app.kit.tasks import end
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.storage.losses import CONNECTION_LOST
from app.webhooks import message, model, queue, signing
from app.webhooks.model import GONE, DisabledReason, Outcome
from app.webhooks.post import Post
from app.webhooks.queue import Address, Claim, Claimed, Settled
from app.webhooks.vault import CannotOpen, place_of

log = logging.getLogger("escrowgrid.webhooks")

LANE_SECONDS = 2.0
SLOW_SECONDS = 1.0
IN_FLIGHT_MAX = 8


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
        self.pace = pace
        self._under_way: dict[asyncio.Task[Settled], Claimed] = {}
        # One for each URL: connections are kept, but never shared between names.
        self._clients: dict[str, httpx.AsyncClient] = {}
        self.closing = False
        self._moved_at = asyncio.get_running_loop().time()

    @property
    def hangs(self) -> bool:
        """Whether it only waits, for longer than a quick receiver takes."""
        return asyncio.get_running_loop().time() - self._moved_at > SLOW_SECONDS

    async def run(self) -> None:
        """Attempt what is due."""
        started = asyncio.get_running_loop().time()
        done: set[asyncio.Task[Settled]] = set()
        try:
            while True:
                is_over = self.closing or asyncio.get_running_loop().time() - started > LANE_SECONDS
                await self._exchange(done, 0 if is_over else self._room(len(done)))
                if not self._under_way:
                    return
                done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._give_back()

    def _room(self, done: int) -> int:
        """How many more may be attempted. A slow endpoint gets one attempt, then others have their turn."""
        if self.pace.is_slow and self._clients:
            return 0
        return max(0, self.pace.window - len(self._under_way) + done)

    async def _exchange(self, done: set[asyncio.Task[Settled]], limit: int) -> None:
        self._moved_at = asyncio.get_running_loop().time()
        settled = [task.result() for task in done]
        if not settled and limit == 0:
            return
        under_way = [claimed.id for task, claimed in self._under_way.items() if task not in done]
        try:
            claim = await self._post.exchange(
                self._lease, self._address, settled, under_way, limit, slow=self.pace.is_slow
            )
        finally:
            # Whatever happens: what was settled is not to be given back.
            for task in done:
                del self._under_way[task]
        gone = next((one.url for one in settled if one.outcome.status == GONE), None)
        if gone is not None:
            await self._post.disable(self._address, DisabledReason.GONE, gone)
        elif self._address in self._post.failed:
            await self._post.disable(self._address, DisabledReason.FAILING)
        if claim is None or not claim.deliveries:
            return
        events = await self._post.events([one.event_id for one in claim.deliveries if one.event_id])
        if self._post.clock() > claim.begin_by:
            # Held up for so long, by the database or the machine, that an heir may make these attempts: a late one
            # would come behind what the heir sends next. The claims end by themselves.
            log.warning("endpoint %s: attempts that are too late are left to later claims", self._address[1])
            return
        for claimed in claim.deliveries:
            task = asyncio.create_task(self._attempt(claim, claimed, events), name="webhook-attempt")
            self._under_way[task] = claimed

    async def _attempt(self, claim: Claim, claimed: Claimed, events: Mapping[str, Event]) -> Settled:
        now, started = self._post.clock(), asyncio.get_running_loop().time()
        try:
            event = None if claimed.event_id is None else events[claimed.event_id]
            outcome = await self._send(claim, claimed, event, now)
        except CannotOpen as error:
            log.warning("endpoint %s: %s", self._address[1], error)
            outcome = Outcome(error=str(error), is_ours=True)
        except Exception:
            # The edge of this attempt: it counts as one, so that it is not made again at once.
            log.exception("delivery %s cannot be attempted", claimed.id)
            outcome = Outcome(error="something went wrong on the sender's side", is_ours=True)
        self.pace.note(outcome, asyncio.get_running_loop().time() - started)
        is_test, chance = claimed.event_id is None, self._post.chance()
        verdict = model.judge(outcome, claimed.step, now=self._post.clock(), chance=chance, is_test=is_test)
        return Settled(claimed, outcome, verdict, now, claim.url)

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
            try:
                await client.aclose()
            except Exception:
                # A connection that cannot even be closed keeps no delivery from being given back.
                log.exception("a connection to endpoint %s could not be closed", self._address[1])
        if left:
            claimed = list(self._under_way.values())
            # Where that is not possible the claims end by themselves.
            with suppress(*CONNECTION_LOST):
                async with self._post.writing(self._address[0]) as driver:
                    await queue.release(driver, self._address[0], claimed)
