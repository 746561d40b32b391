"""The one way out of the ledger: everything that follows it reads from a cursor, here."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from app.errors import CursorInvalid, Unavailable
from app.kit.tasks import end
from app.ledger import epochs
from app.ledger.cursors import START_OVER, Epochs
from app.ledger.model import Event
from app.ledger.ring import Ring, place
from app.ledger.store import SELECT_EVENTS, event_of
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.database import CONNECTION_LOST, Database, DatabaseRole, retrying

log = logging.getLogger("escrowgrid.tail")

READ_ALL = f"{SELECT_EVENTS} WHERE global_sequence > $1 ORDER BY global_sequence LIMIT $2"
READ_ONE = f"{SELECT_EVENTS} WHERE institution_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"
READ_HEAD = "SELECT global_sequence FROM ledger_head"
READ_CHAIN = "SELECT sequence FROM institution_heads WHERE institution_id = $1"
SHARED_PAGES_MAX = 32
RETRY_PAUSE_SECONDS_MAX = 2.0

Pages = Sequence[Event]


class GapInLedger(Exception):
    """The next event is not the last one's successor: going on could skip one for ever."""


class Tail:
    """One reader per process; subscribers differ only in where their cursor stands."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._ring = Ring(settings.ring_bytes_max)
        self._heads: dict[str, int] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._woken = asyncio.Event()
        self._catching_up = asyncio.Semaphore(settings.catch_up_connections_max)
        self._reads: dict[tuple[str, int], asyncio.Task[Pages]] = {}
        self._pages: OrderedDict[tuple[str, int], Pages] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._epochs: Epochs | None = None
        # How often the ledger was found to end before what was read.
        self.restores = 0
        self.failure: Exception | None = None

    @property
    def epochs(self) -> Epochs:
        """The ledger's identity, for making cursors."""
        assert self._epochs is not None, "the tail has been started"
        return self._epochs

    @property
    def position(self) -> int:
        """The newest global sequence this process has heard of."""
        return self._heads[ALL_INSTITUTIONS]

    @property
    def ring_bytes(self) -> int:
        """What the recent events weigh."""
        return self._ring.bytes

    async def start(self) -> None:
        """Stand at the end of the ledger and begin to read."""
        await self._stand_at_end()
        self._task = asyncio.create_task(self._follow(), name="ledger-tail")

    async def close(self) -> None:
        """Stop reading; every stream ends."""
        self.failure = self.failure or Unavailable("the server is shutting down; go on from your last cursor")
        self._tell_all()
        await end(self._task, *self._reads.values())

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    async def place(self, scope: str, cursor: str | None) -> int:
        """The sequence that `cursor` stands for (None: the end), judged against the head on the primary."""
        head = await self.head(scope)
        return head if cursor is None else self.epochs.place(scope, cursor, head)

    async def head(self, scope: str) -> int:
        """The last committed sequence of `scope`, read from its head row."""
        pool = self._database.pool(DatabaseRole.FEED)
        if scope == ALL_INSTITUTIONS:
            return await retrying(lambda: pool.fetchval(READ_HEAD)) or 0
        return await retrying(lambda: pool.fetchval(READ_CHAIN, scope)) or 0

    async def stream(
        self, scope: str, after: int, *, idle_seconds: float | None = None
    ) -> AsyncGenerator[Pages, None]:
        """Every event of `scope` above `after`, for ever, in pages; an empty page when idle that long.

        Raises `CursorInvalid` when the ledger is restored meanwhile to an earlier point than was read.
        """
        restores = self.restores
        while True:
            self.refuse_restored(restores)
            events = await self.page(scope, after)
            if events:
                yield events
                after = place(scope, events[-1])
            elif not await self.wait(scope, after, idle_seconds=idle_seconds):
                yield ()

    async def page(self, scope: str, after: int) -> Pages:
        """The next events of `scope` above `after`, from memory or else the database; empty when level."""
        if self.failure is not None:
            raise self.failure
        recent = self._ring.after(scope, after, self._settings.tail_page_size)
        if recent is not None:
            return recent
        if self._heads.get(scope, after + 1) <= after:
            return ()
        events = await self._read_shared(scope, after)
        if not events:
            self._heads[scope] = max(self._heads.get(scope, 0), after)
        return events

    async def wait(self, scope: str, after: int, *, idle_seconds: float | None = None) -> bool:
        """Until there is something above `after`; False when nothing came for `idle_seconds`."""
        restores = self.restores
        while self._heads.get(scope, 0) <= after:
            if self.failure is not None:
                raise self.failure
            self.refuse_restored(restores)
            news = self._news.setdefault(scope, asyncio.Event())
            try:
                async with asyncio.timeout(idle_seconds):
                    await news.wait()
            except TimeoutError:
                return False
        return True

    async def _read_shared(self, scope: str, after: int) -> Pages:
        """A page is read once for all who ask; pages begin at multiples of their size, so that many ask for one."""
        size = self._settings.tail_page_size
        start = after - after % size
        key = (scope, start)
        if (events := self._pages.get(key)) is None:
            if (task := self._reads.get(key)) is None:
                task = asyncio.create_task(self._read(scope, start), name="ledger-catch-up")
                self._reads[key] = task
                task.add_done_callback(lambda _task: self._reads.pop(key, None))
            events = await asyncio.shield(task)
        # Only full pages are kept: the others grow.
        if len(events) == size and key not in self._pages:
            self._pages[key] = events
            if len(self._pages) > SHARED_PAGES_MAX:
                self._pages.popitem(last=False)
        # Both orders are gapless.
        rest = events[after - start :]
        if rest and place(scope, rest[0]) != after + 1:
            raise GapInLedger(f"event {place(scope, rest[0])} of {scope} follows {after}")
        return rest

    async def _read(self, scope: str, after: int) -> Pages:
        size = self._settings.tail_page_size
        pool = self._database.pool(DatabaseRole.FEED)
        async with self._catching_up:
            if scope == ALL_INSTITUTIONS:
                rows = await retrying(lambda: pool.fetch(READ_ALL, after, size))
            else:
                rows = await retrying(lambda: pool.fetch(READ_ONE, scope, after, size))
        return tuple(event_of(row) for row in rows)

    async def _stand_at_end(self) -> None:
        pool = self._database.pool(DatabaseRole.FEED)
        self._epochs = await epochs.read(pool)
        self._ring.clear()
        self._pages.clear()
        self._heads = {ALL_INSTITUTIONS: await pool.fetchval(READ_HEAD)}

    async def _follow(self) -> None:
        pause = self._settings.tick_seconds
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._read_news()
                pause = self._settings.tick_seconds
            except CONNECTION_LOST as error:
                log.warning("the tail lost its connection: %s", type(error).__name__)
                pause = min(0.05 + pause / 2, RETRY_PAUSE_SECONDS_MAX)
            except Exception as error:
                log.critical("the tail stops: %s", error, exc_info=True)
                self.failure = Unavailable("the ledger's feed has stopped; this server needs its operator")
                self._tell_all()
                return

    async def _read_news(self) -> None:
        pool = self._database.pool(DatabaseRole.FEED)
        while True:
            rows = await pool.fetch(READ_ALL, self.position, self._settings.tail_page_size)
            self._take([event_of(row) for row in rows])
            if len(rows) < self._settings.tail_page_size:
                break
        if not rows and (await pool.fetchval(READ_HEAD)) < self.position:
            log.critical("the ledger ends before what was read: it was restored; starting again at its end")
            await self._stand_at_end()
            self.restores += 1
            self._tell_all()

    def refuse_restored(self, restores: int) -> None:
        """Raise `CursorInvalid` when the ledger was restored since `restores` was read."""
        if restores != self.restores:
            raise CursorInvalid(f"the ledger was restored to an earlier point; {START_OVER}")

    def _tell_all(self) -> None:
        for news in self._news.values():
            news.set()
        self._news.clear()

    def _take(self, events: list[Event]) -> None:
        touched = {ALL_INSTITUTIONS} if events else set()
        for event in events:
            if event.global_sequence != self.position + 1:
                raise GapInLedger(f"event {event.global_sequence} follows {self.position}")
            self._ring.add(event)
            self._heads[ALL_INSTITUTIONS] = event.global_sequence
            self._heads[event.institution_id] = event.sequence
            touched.add(event.institution_id)
        for scope in touched:
            news = self._news.pop(scope, None)
            if news is not None:
                news.set()
