"""Gives every endpoint that something is due for its turn; slow endpoints share lanes of their own."""

import asyncio
import logging
from contextlib import suppress

from app.kit.tasks import begin, end
from app.ledger.leases import Lease
from app.storage.database import DatabaseRole
from app.storage.losses import CONNECTION_LOST
from app.webhooks import queue
from app.webhooks.lane import Lane, Pace
from app.webhooks.post import Post
from app.webhooks.queue import Address

log = logging.getLogger("escrowgrid.webhooks")

FOLLOWER = "webhooks"
QUICK_LANES_MAX = 64
SLOW_LANES_MAX = 32
# With those that began as quick ones and turned slow meanwhile.
LANES_MAX = 256
PACES_MAX = 10_000
PAUSE_SECONDS = 0.02
REST_SECONDS = 5.0
DRAIN_SECONDS = 3.0
SWEEP_EVERY_SECONDS = 10.0
SWEPT_AT_ONCE_MAX = 1_000
FORGET_EVERY_SECONDS = 60.0
FORGOTTEN_AT_ONCE_MAX = 1_000


class Courier:
    """Delivers while its process leads; whoever leads next goes on from what the database says."""

    def __init__(self, post: Post, tick_seconds: float) -> None:
        self._post = post
        self._tick = tick_seconds
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None
        self._lanes: dict[Address, tuple[Lane, asyncio.Task[None]]] = {}
        self._paces: dict[Address, Pace] = {}
        # Endpoints whose lane broke, and until when they rest.
        self._resting: dict[Address, float] = {}
        self._news = asyncio.Event()
        self._swept_at = 0.0
        self._forgot_at = -FORGET_EVERY_SECONDS

    def lead(self, lease: Lease) -> None:
        """Deliver under this lease; called again and again while it is held."""
        if lease == self._lease and self._task is not None and not self._task.done():
            return
        if self._task is not None:
            self._task.cancel()
        self._lease = lease
        self._task = begin(self._work(lease), "webhook-courier", over=lambda: True)

    def wake(self) -> None:
        """There may be something to deliver."""
        self._news.set()

    async def stop(self) -> None:
        """Begin nothing new, give what is under way a moment, and leave the rest to whoever leads next."""
        await end(self._task)
        self._task = self._lease = None
        tasks = [task for _lane, task in self._lanes.values()]
        for lane, _task in self._lanes.values():
            lane.closing = True
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
        await end(*tasks)

    async def _work(self, lease: Lease) -> None:
        while lease == self._lease:
            self._news.clear()
            try:
                if not await self._post.leads(lease):
                    return
                await self._begin_lanes(lease)
                await self._sweep()
                await self._forget(lease)
            except CONNECTION_LOST as error:
                log.warning("the courier lost its connection: %s", type(error).__name__)
            except Exception:
                # The edge of this task: it goes on for as long as the lease.
                log.exception("the courier failed; it tries again")
            # Those that come meanwhile are found together.
            await asyncio.sleep(PAUSE_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout=self._tick)

    async def _begin_lanes(self, lease: Lease) -> None:
        now = asyncio.get_running_loop().time()
        self._resting = {address: until for address, until in self._resting.items() if until > now}
        busy = [endpoint_id for _institution, endpoint_id in (*self._lanes, *self._resting)]
        feed = self._post.database.pool(DatabaseRole.FEED)
        async with feed.acquire() as driver:
            due = await queue.due(driver, self._post.clock(), busy, FOLLOWER)
        # Who had a turn longest ago (or never) comes first: the paces are kept in that order.
        turns = {address: turn for turn, address in enumerate(self._paces)}
        for address in sorted(due, key=lambda one: turns.get(one, -1)):
            pace = self._paces.get(address, Pace())
            if self._has_room(pace):
                self._begin(lease, address, pace)

    def _has_room(self, pace: Pace) -> bool:
        # A lane that waits for its receiver keeps no quick one from its turn: nobody knows before that it is slow.
        quick = sum(not (lane.pace.is_slow or lane.hangs) for lane, _task in self._lanes.values())
        slow = len(self._lanes) - quick
        if pace.is_slow:
            return slow < SLOW_LANES_MAX
        return quick < QUICK_LANES_MAX and len(self._lanes) < LANES_MAX

    def _begin(self, lease: Lease, address: Address, pace: Pace) -> None:
        self._paces.pop(address, None)
        self._paces[address] = pace
        if len(self._paces) > PACES_MAX:
            del self._paces[next(iter(self._paces))]
        lane = Lane(self._post, lease, address, pace)
        task = asyncio.create_task(lane.run(), name="webhook-lane")
        self._lanes[address] = (lane, task)
        task.add_done_callback(lambda done: self._ended(address, done))

    def _ended(self, address: Address, task: asyncio.Task[None]) -> None:
        del self._lanes[address]
        self.wake()
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        log.warning("endpoint %s rests: %s", address[1], type(error).__name__, exc_info=error)
        self._resting[address] = asyncio.get_running_loop().time() + REST_SECONDS

    async def _sweep(self) -> None:
        """Cancel what is left pending for endpoints that are out of use."""
        now = asyncio.get_running_loop().time()
        if now - self._swept_at < SWEEP_EVERY_SECONDS:
            return
        async with self._post.database.pool(DatabaseRole.FEED).acquire() as driver:
            left = await queue.left_over(driver)
        for address in left:
            async with self._post.writing(address[0]) as driver:
                endpoint = await queue.lock(driver, address)
                if endpoint is not None and not endpoint.enabled:
                    await queue.cancel(driver, address, self._post.clock(), SWEPT_AT_ONCE_MAX)
        self._swept_at = now if not left else 0.0

    async def _forget(self, lease: Lease) -> None:
        """Remove what was settled long ago: a piece at a time, one after the other while there is more."""
        now = asyncio.get_running_loop().time()
        if now - self._forgot_at >= FORGET_EVERY_SECONDS:
            is_more = await self._post.forget(lease, FORGOTTEN_AT_ONCE_MAX)
            self._forgot_at = -FORGET_EVERY_SECONDS if is_more else now
