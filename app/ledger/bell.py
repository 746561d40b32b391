"""The bell says that there is something new, never what: losing a ring costs time, never an event."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any

import asyncpg
from broadcaster import Broadcast
from broadcaster import Event as Ring
from broadcaster._backends.base import BroadcastBackend

from app.kit.tasks import begin, end

log = logging.getLogger("escrowgrid.bell")

CHANNEL = "escrowgrid_ledger"
RING_PAUSE_SECONDS = 0.005
UNHEARD_SECONDS_MAX = 2.0
PROBE_SECONDS = 10.0
RECONNECT_PAUSE_SECONDS = 0.05
RECONNECT_PAUSE_SECONDS_MAX = 2.0
CONNECT_TIMEOUT_SECONDS = 5.0
RECONNECTED = "reconnected"
SEVERAL = "several"


class Topic(StrEnum):
    """What a ring is about beside the ledger, for those that follow something else."""

    AUDIT = "audit"
    KEYS = "keys"
    HOLDERS = "holders"
    ANCHORS = "anchors"


class PostgresBell(BroadcastBackend):
    """LISTEN on a connection of its own, which is watched and made anew; NOTIFY on another."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._channels: set[str] = set()
        self._listening: asyncpg.Connection | None = None
        self._ringing: asyncpg.Connection | None = None
        # Only the newest ring matters, so one place is enough.
        self._rung: asyncio.Queue[Ring] = asyncio.Queue(maxsize=1)
        self._turn = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    async def connect(self) -> None:
        """Open the connections; raises when the database cannot be reached."""
        await self._open()
        self._watch = begin(self._keep(), "bell-watch")

    async def disconnect(self) -> None:
        """Close the connections."""
        await end(self._watch)
        for connection in (self._listening, self._ringing):
            if connection is not None:
                connection.terminate()

    async def subscribe(self, channel: str) -> None:
        """LISTEN."""
        self._channels.add(channel)
        async with self._turn:
            if self._listening is not None:
                await self._listening.add_listener(channel, self._heard)

    async def unsubscribe(self, channel: str) -> None:
        """UNLISTEN."""
        self._channels.discard(channel)
        async with self._turn:
            if self._listening is not None and not self._listening.is_closed():
                await self._listening.remove_listener(channel, self._heard)

    async def publish(self, channel: str, message: Any) -> None:
        """NOTIFY, outside any transaction; a broken connection is replaced once."""
        async with self._turn:
            if self._ringing is None or self._ringing.is_closed():
                self._ringing = await asyncpg.connect(self._url, timeout=CONNECT_TIMEOUT_SECONDS)
            await self._ringing.execute("SELECT pg_notify($1, $2)", channel, message)

    async def next_published(self) -> Ring:
        """The newest ring."""
        return await self._rung.get()

    def _heard(self, _connection: object, _pid: int, channel: str, message: object) -> None:
        if self._rung.full():
            # Nobody's ring in particular: else one's own could hide that of another process.
            self._rung.get_nowait()
            message = SEVERAL
        self._rung.put_nowait(Ring(channel, str(message)))

    async def _open(self) -> None:
        connection = await asyncpg.connect(self._url, timeout=CONNECT_TIMEOUT_SECONDS)
        connection.add_termination_listener(lambda _connection: self._lost.set())
        try:
            for channel in self._channels:
                await connection.add_listener(channel, self._heard)
        except BaseException:
            connection.terminate()
            raise
        self._listening = connection

    async def _keep(self) -> None:
        """Notice a dead listener, listen again first, then ring so that what was missed is read."""
        pause = RECONNECT_PAUSE_SECONDS
        while True:
            if not self._lost.is_set() and await self._alive():
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_SECONDS):
                        await self._lost.wait()
                continue
            self._lost.clear()
            try:
                async with self._turn:
                    if self._listening is not None:
                        self._listening.terminate()
                    # Terminating tells the termination listener too.
                    self._lost.clear()
                    await self._open()
                pause = RECONNECT_PAUSE_SECONDS
                log.info("listening again")
                self._heard(None, 0, CHANNEL, RECONNECTED)
            # The driver has errors of its own for a connection that ends just as it is told something.
            except Exception as error:  # noqa: BLE001 - whatever it is: who stops trying here is deaf for good
                self._lost.set()
                log.warning("cannot listen: %s; the tick covers until it works again", type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RECONNECT_PAUSE_SECONDS_MAX)

    async def _alive(self) -> bool:
        if self._listening is None or self._listening.is_closed():
            return False
        try:
            async with self._turn:
                await self._listening.fetchval("SELECT 1", timeout=CONNECT_TIMEOUT_SECONDS)
        except Exception:  # noqa: BLE001 - as above: a connection that cannot answer is replaced
            return False
        return True


class Bell:
    """Rings once for many commits, and is rebuilt when it no longer hears itself, whatever it is made of."""

    def __init__(
        self,
        make: Callable[[], Broadcast],
        wake: Callable[[], None],
        name: str,
        others: Mapping[Topic, Callable[[], None]] | None = None,
    ) -> None:
        self._make = make
        self._wake = wake
        self._others = dict(others or {})
        self._told: set[Topic] = set()
        self._name = name
        self._newest = 0
        self._due = asyncio.Event()
        self._heard = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.rebuilt = 0

    async def start(self) -> None:
        """Begin to ring and to listen."""
        self._tasks = [begin(self._live(), "bell")]

    async def close(self) -> None:
        """Stop."""
        await end(*self._tasks)

    def ring(self, newest: int) -> None:
        """Something up to the global sequence `newest` was committed."""
        self._newest = max(self._newest, newest)
        self._wake()
        self._due.set()

    def tell(self, topic: Topic) -> None:
        """Something of that kind was committed: have every process know, this one at once."""
        self._told.add(topic)
        self._wake_others({topic})
        self._due.set()

    def _wake_others(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic in self._others:
                self._others[Topic(topic)]()

    async def _live(self) -> None:
        pause = RECONNECT_PAUSE_SECONDS
        while True:
            broadcast: Broadcast | None = None
            try:
                broadcast = self._make()
                await broadcast.connect()
                async with broadcast.subscribe(CHANNEL) as subscriber:
                    pause = RECONNECT_PAUSE_SECONDS
                    self._wake()
                    self._wake_others(Topic)
                    await self._serve(broadcast, subscriber)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - backends raise what they like; any of it means: build anew
                log.warning("the bell is rebuilt: %s: %s", type(error).__name__, error)
            finally:
                if broadcast is not None:
                    with suppress(Exception):
                        await broadcast.disconnect()
            self.rebuilt += 1
            # The last ring may have been lost with it.
            self._due.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECONNECT_PAUSE_SECONDS_MAX)

    async def _serve(self, broadcast: Broadcast, subscriber: Any) -> None:
        listening = asyncio.create_task(self._listen(subscriber), name="bell-listen")
        ringing = asyncio.create_task(self._publish(broadcast), name="bell-ring")
        try:
            done, _ = await asyncio.wait((listening, ringing), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end(listening, ringing)

    async def _listen(self, subscriber: Any) -> None:
        while True:
            ring = await subscriber.get()
            self._heard.set()
            name, *rest = ring.message.split(":")
            if name != self._name:
                self._wake()
                # A ring that is nobody's stands for several.
                self._wake_others(rest[1:] if rest else Topic)

    async def _publish(self, broadcast: Broadcast) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            self._heard.clear()
            told, self._told = self._told, set()
            try:
                await broadcast.publish(CHANNEL, ":".join((self._name, str(self._newest), *sorted(told))))
                await self._hear()
            finally:
                if not self._heard.is_set():
                    self._told |= told
            await asyncio.sleep(RING_PAUSE_SECONDS)

    async def _hear(self) -> None:
        try:
            async with asyncio.timeout(UNHEARD_SECONDS_MAX):
                await self._heard.wait()
        except TimeoutError:
            raise ConnectionError("it did not hear its own ring") from None
