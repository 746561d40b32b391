"""The follower of webhooks: queues a delivery for every event and endpoint that wants it, and has them sent."""

from collections.abc import Sequence

from app.ledger import leases
from app.ledger.followers import Follower, LeadLost
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.storage.database import DatabaseRole, take_role
from app.webhooks import queue
from app.webhooks.courier import FOLLOWER, Courier
from app.webhooks.post import Post
from app.webhooks.queue import Addition, Subscriber


class Webhooks(Follower):
    """At least once, and in the order of each position: what was queued is kept until it is settled."""

    name = FOLLOWER
    # No endpoint is older than its follower.
    from_end = True

    def __init__(self, post: Post, tick_seconds: float) -> None:
        self._post = post
        self._courier = Courier(post, tick_seconds)

    async def follow(self, events: Sequence[Event], lease: Lease) -> None:
        """Queue what these events are to be told to; those that are queued already stay as they are."""
        institutions = sorted({event.institution_id for event in events})
        async with self._post.database.pool(DatabaseRole.FEED).acquire() as driver:
            found = await queue.subscribers(driver, institutions)
        wanted = [event for event in events if any(one.wants(event) for one in found)]
        if wanted:
            self._post.remember(wanted)
            await self._queue(wanted, sorted({one.institution_id for one in found}), lease)
        self._courier.lead(lease)
        if wanted:
            self._courier.wake()

    async def idle(self, lease: Lease) -> None:
        """Go on delivering."""
        self._courier.lead(lease)

    async def stop(self) -> None:
        """Leave what is under way to whoever leads next."""
        await self._courier.stop()

    async def close(self) -> None:
        """The same for a process that lost the lead, and the end of its threads."""
        await self._courier.stop()
        self._post.sender.close()

    async def _queue(self, events: Sequence[Event], institutions: Sequence[str], lease: Lease) -> None:
        pool = self._post.database.pool(DatabaseRole.WRITER)
        async with pool.acquire() as driver, driver.transaction():
            await take_role(driver, DatabaseRole.WRITER, institutions)
            if not await leases.holds(driver, lease):
                raise LeadLost("another process leads now")
            # Read again: locked, they are as they will be when the deliveries are there.
            additions = self._additions(events, await queue.lock_subscribers(driver, institutions))
            if additions:
                await queue.add(driver, additions, self._post.clock())

    def _additions(self, events: Sequence[Event], subscribers: Sequence[Subscriber]) -> list[Addition]:
        return [
            Addition(
                institution_id=event.institution_id,
                id=self._post.ids.new("whd"),
                endpoint_id=one.endpoint_id,
                event_id=event.id,
                position_id=event.position_id,
                sequence=event.sequence,
            )
            for event in events
            for one in subscribers
            if one.wants(event)
        ]
