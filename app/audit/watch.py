"""The newest audit rows in memory while somebody follows them live: one reader per process, woken by the bell."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from itertools import islice

from app.audit import store
from app.audit.model import AuditEvent
from app.errors import Overloaded
from app.kit.canonical import EPOCH, canonical_json
from app.kit.tasks import begin, end
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database

log = logging.getLogger("escrowgrid.audit")

# A row that arrived before another may be seen after it: its transaction ended later. So long back is looked again.
OVERLAP = timedelta(seconds=30)
PAGE_SIZE = 1_000
ROWS_MAX = 10_000
BYTES_MAX = 32 * 1024 * 1024
ROW_BYTES = 1_500


class Watch:
    """One per process. Rows have numbers in the order in which this process saw them; followers count by those."""

    def __init__(self, database: Database, tick_seconds: float) -> None:
        self._database = database
        self._tick = tick_seconds
        self._rows: deque[AuditEvent] = deque()
        self._first = 0
        self._bytes = 0
        self._followers = 0
        self._woken = asyncio.Event()
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._seen: dict[str, datetime] = {}
        self._newest = EPOCH
        self._task: asyncio.Task[None] | None = None

    @property
    def end(self) -> int:
        """The number that the next row gets."""
        return self._first + len(self._rows)

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    async def close(self) -> None:
        """Stop reading."""
        task, self._task = self._task, None
        await end(task)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[int]:
        """For the length of the block rows are read; gives the number of the first one to come."""
        self._followers += 1
        try:
            async with self._turn:
                if self._task is None:
                    await self._stand()
                    self._begin()
            yield self.end
        finally:
            self._followers -= 1
            async with self._turn:
                if not self._followers:
                    await self.close()
                    self._forget()

    def after(self, number: int) -> Sequence[AuditEvent]:
        """The rows from that number on; raises `Overloaded` when they are no longer remembered."""
        if number < self._first:
            raise Overloaded(
                "too slow: rows were passed over; read them with `auditEvents`, then subscribe again"
            )
        return list(islice(self._rows, number - self._first, None))

    async def wait(self, number: int) -> None:
        """Until there is a row of that number."""
        while self.end <= number:
            await self._news.wait()

    def _begin(self) -> None:
        # Whatever ends it, those who follow are not left waiting.
        self._task = begin(self._follow(), "audit-watch", stopped=self._begin)

    async def _stand(self) -> None:
        """What is there by now is no news."""
        self._forget()
        async with self._database.reading(ALL_INSTITUTIONS) as connection:
            self._newest = await store.now(connection)
        async for came, row in self._unseen():
            self._seen[row.id] = came

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tick):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._read()
            except Exception:
                # The edge of this task: it goes on for as long as somebody follows.
                log.exception("new audit rows could not be read, trying again")
                await asyncio.sleep(self._tick)

    async def _read(self) -> None:
        async for came, row in self._unseen():
            self._seen[row.id] = came
            self._newest = max(self._newest, came)
            self._add(row)
        horizon = self._newest - OVERLAP
        self._seen = {id_: came for id_, came in self._seen.items() if came > horizon}

    async def _unseen(self) -> AsyncIterator[tuple[datetime, AuditEvent]]:
        since = self._newest - OVERLAP
        while True:
            async with self._database.reading(ALL_INSTITUTIONS) as connection:
                rows = await store.arrived(connection, ALL_INSTITUTIONS, since, self._seen, limit=PAGE_SIZE)
            for found in rows:
                yield found
            if len(rows) < PAGE_SIZE:
                return

    def _add(self, row: AuditEvent) -> None:
        self._rows.append(row)
        self._bytes += _weight(row)
        while len(self._rows) > ROWS_MAX or (self._bytes > BYTES_MAX and len(self._rows) > 1):
            self._bytes -= _weight(self._rows.popleft())
            self._first += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _forget(self) -> None:
        self._first, self._bytes = self.end, 0
        self._rows.clear()
        self._seen.clear()


def _weight(row: AuditEvent) -> int:
    """About what a row costs in memory."""
    return ROW_BYTES + 2 * len(canonical_json(row.payload))
