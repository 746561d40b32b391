"""The one way out of the ledger: everything that follows it reads from a cursor, here."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress

from app.errors import CursorInvalid, Unavailable
from app.kit.tasks import begin, end
from app.ledger import epochs
from app.ledger.cursors import Epochs
from app.ledger.model import Event
from app.ledger.pages import READ_NEWS, GapInLedger, Page, SharedPages
from app.ledger.ring import Ring, place
from app.ledger.store import event_of
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.database import Database, DatabaseRole
from app.storage.losses import CONNECTION_LOST, retrying

log = logging.getLogger("escrowgrid.tail")

READ_HEAD = "SELECT global_sequence FROM ledger_head"
READ_END = """
SELECT h.global_sequence, e.hash FROM ledger_head h LEFT JOIN ledger_events e ON e.global_sequence = h.global_sequence
"""
READ_HASH = "SELECT hash FROM ledger_events WHERE global_sequence = $1"
READ_CHAIN = "SELECT sequence FROM institution_heads WHERE institution_id = $1"
RETRY_PAUSE_SECONDS_MAX = 2.0
# Trouble that nobody foresaw is tried again that often in a row before it counts as lasting.
SURPRISES_MAX = 10


class Tail:
    """One reader per process; subscribers differ only in where their cursor stands."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._ring = Ring(settings.ring_bytes_max)
        self._heads: dict[str, int] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._woken = asyncio.Event()
        self._pages = SharedPages(
            database,
            size=settings.tail_page_size,
            connections_max=settings.catch_up_connections_max,
            confirm=self.confirm,
        )
        self._task: asyncio.Task[None] | None = None
        self._epochs: Epochs | None = None
        # The hash of the newest event: what is read next has to come behind this very one.
        self._last: bytes | None = None
        self._turn = asyncio.Lock()
        # Why streams end: it has stopped by itself, or its process is about to.
        self.failure: Exception | None = None
        self.has_stopped = False

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
        self._task = begin(self._follow(), "ledger-tail", stopped=self._stop)

    async def close(self) -> None:
        """Stop reading; every stream ends."""
        self.failure = self.failure or Unavailable("the server is shutting down; go on from your last cursor")
        self._tell_all()
        await end(self._task)
        await self._pages.close()

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    async def place(self, scope: str, cursor: str | None) -> int:
        """The sequence that `cursor` stands for (None: the end), judged against the head on the primary."""
        head = await self.head(scope)
        if cursor is None:
            return head
        try:
            return self.epochs.place(scope, cursor, head)
        except CursorInvalid:
            # Another process may have begun an epoch that this one has not heard of yet.
            async with self._turn:
                await self._read_epochs()
            return self.epochs.place(scope, cursor, head)

    async def head(self, scope: str) -> int:
        """The last committed sequence of `scope`, read from its head row."""
        pool = self._database.pool(DatabaseRole.FEED)
        if scope == ALL_INSTITUTIONS:
            return await retrying(lambda: pool.fetchval(READ_HEAD)) or 0
        return await retrying(lambda: pool.fetchval(READ_CHAIN, scope)) or 0

    async def stream(
        self, scope: str, after: int, *, idle_seconds: float | None = None
    ) -> AsyncGenerator[Page, None]:
        """Every event of `scope` above `after`, for ever, in pages; an empty page when idle that long.

        Raises `CursorInvalid` when the ledger was restored to a point before `after`: what comes is another history.
        """
        known = self.epochs
        while True:
            known = await self.judge(scope, after, known)
            events = await self.page(scope, after)
            if self._epochs is not known:
                continue
            if events:
                yield events
                after = place(scope, events[-1])
            elif not await self.wait(scope, after, idle_seconds=idle_seconds):
                yield ()

    async def judge(self, scope: str, after: int, known: Epochs) -> Epochs:
        """The epochs of now, for who stands behind `after` in the order of `known`.

        Raises `CursorInvalid` when the ledger was restored to a point before: what comes next is another history.
        """
        if self._epochs is not known:
            self.epochs.place(scope, known.cursor(scope, after), await self.head(scope))
        return self.epochs

    async def page(self, scope: str, after: int) -> Page:
        """The next events of `scope` above `after`, from memory or else the database; empty when level."""
        if self.failure is not None:
            raise self.failure
        recent = self._ring.after(scope, after, self._settings.tail_page_size)
        if recent is not None:
            return recent
        if self._heads.get(scope, after + 1) <= after:
            return ()
        events = await self._pages.after(scope, after)
        if not events:
            self._heads[scope] = max(self._heads.get(scope, 0), after)
        return events

    async def wait(self, scope: str, after: int, *, idle_seconds: float | None = None) -> bool:
        """Until there is something above `after` (or a new epoch); False when nothing came for `idle_seconds`."""
        known = self._epochs
        while self._heads.get(scope, 0) <= after and self._epochs is known:
            if self.failure is not None:
                raise self.failure
            news = self._news.setdefault(scope, asyncio.Event())
            try:
                async with asyncio.timeout(idle_seconds):
                    await news.wait()
            except TimeoutError:
                return False
        return True

    async def confirm(self) -> None:
        """See that the database still has the history that was read; if it was restored, everybody is told."""
        async with self._turn:
            pool, position = self._database.pool(DatabaseRole.FEED), self.position
            found = await retrying(lambda: pool.fetchval(READ_HASH, position))
            if found != self._last:
                await self._start_over(found)

    async def _stand_at_end(self) -> None:
        pool = self._database.pool(DatabaseRole.FEED)
        end = await pool.fetchrow(READ_END)
        assert end is not None, "a ledger has a head"
        # After the head: an epoch that is read belongs to what was there by then.
        self._epochs = await epochs.read(pool)
        self._ring.clear()
        self._pages.forget()
        self._heads, self._last = {ALL_INSTITUTIONS: end["global_sequence"]}, end["hash"]

    async def _start_over(self, found: bytes | None) -> None:
        """The ledger is not the one that was read: begin an epoch unless somebody has, and let every stream judge."""
        if found is None and await self.head(ALL_INSTITUTIONS) >= self.position:
            raise GapInLedger(f"event {self.position} is gone")
        log.critical(
            "the ledger does not go on from what was read: it was restored; starting again at its end"
        )
        url, old = self._database.address.direct_url, self.epochs.current
        await epochs.ensure(url)
        await epochs.outgrow(url, old)
        await self._stand_at_end()
        self._tell_all()

    def _tell_all(self) -> None:
        for news in self._news.values():
            news.set()
        self._news.clear()

    async def _follow(self) -> None:
        pause, surprises = self._settings.tick_seconds, 0
        loop, epochs_due = asyncio.get_running_loop(), 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            self._woken.clear()
            try:
                async with self._turn:
                    await self._read_news()
                    if loop.time() >= epochs_due:
                        await self._read_epochs()
                        epochs_due = loop.time() + self._settings.tick_seconds
                pause, surprises = self._settings.tick_seconds, 0
            except (*CONNECTION_LOST, Unavailable) as error:
                log.warning("the tail waits for its database: %s", type(error).__name__)
                pause = min(0.05 + pause / 2, RETRY_PAUSE_SECONDS_MAX)
            except Exception as error:
                surprises += 1
                if isinstance(error, GapInLedger) or surprises == SURPRISES_MAX:
                    raise
                log.exception("the tail could not read on and tries again")
                pause = min(0.05 + pause / 2, RETRY_PAUSE_SECONDS_MAX)

    def _stop(self) -> None:
        self.has_stopped = True
        self.failure = Unavailable("the ledger's feed has stopped; this server needs its operator")
        self._tell_all()

    async def _read_news(self) -> None:
        """Read on from the newest event, which is read again: it has to be there still."""
        size = self._settings.tail_page_size
        pool = self._database.pool(DatabaseRole.FEED)
        while True:
            known = self.position
            rows = await pool.fetch(READ_NEWS, max(known - 1, 0), size + 1)
            if known > 0:
                first = rows[0] if rows and rows[0]["global_sequence"] == known else None
                if first is None or first["hash"] != self._last:
                    await self._start_over(None if first is None else first["hash"])
                    return
                rows = rows[1:]
            if rows and rows[-1]["newest_epoch"] != self.epochs.newest[0]:
                # It began before one of them: no cursor of the epoch before may stand behind that.
                await self._read_epochs()
            self._take([event_of(row) for row in rows])
            if len(rows) < size:
                return

    async def _read_epochs(self) -> None:
        """Notice an epoch that began while everything read stayed valid, such as by a failover without loss."""
        pool = self._database.pool(DatabaseRole.FEED)
        if await epochs.newest(pool) != self.epochs.newest:
            self._epochs = await epochs.read(pool)
            self._tell_all()

    def _take(self, events: list[Event]) -> None:
        touched = {ALL_INSTITUTIONS} if events else set()
        for event in events:
            if event.global_sequence != self.position + 1:
                raise GapInLedger(f"event {event.global_sequence} follows {self.position}")
            self._ring.add(event)
            self._heads[ALL_INSTITUTIONS] = event.global_sequence
            self._heads[event.institution_id] = event.sequence
            self._last = event.hash
            touched.add(event.institution_id)
        for scope in touched:
            news = self._news.pop(scope, None)
            if news is not None:
                news.set()
