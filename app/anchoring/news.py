"""The newest changes of anchors in memory while somebody follows them: one reader per process, woken by the bell."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from app.anchoring import service
from app.anchoring.model import Anchor
from app.errors import Overloaded
from app.kit.tasks import begin, end
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database

log = logging.getLogger("escrowgrid.anchoring")

CHANGES_MAX = 1_000


class News:
    """One per process. What changed has a revision; those that follow count by it, and ask the database for nothing."""

    def __init__(self, database: Database, tick_seconds: float) -> None:
        self._database = database
        self._tick = tick_seconds
        self._changes: deque[tuple[int, Anchor]] = deque(maxlen=CHANGES_MAX)
        self._followers = 0
        self._revision = 0
        # The greatest revision that is no longer remembered.
        self._forgotten = 0
        self._rung = asyncio.Event()
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """There may be something new."""
        self._rung.set()

    async def close(self) -> None:
        """Stop reading."""
        task, self._task = self._task, None
        await end(task)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[int]:
        """For the length of the block changes are read; gives the revision that they come after."""
        self._followers += 1
        try:
            async with self._turn:
                if self._task is None:
                    async with self._database.reading(ALL_INSTITUTIONS) as reading:
                        self._revision = await service.revision(reading, ALL_INSTITUTIONS)
                    self._changes.clear()
                    self._forgotten = self._revision
                    self._begin()
            yield self._revision
        finally:
            self._followers -= 1
            async with self._turn:
                if not self._followers:
                    await self.close()

    def after(self, revision: int) -> Sequence[tuple[int, Anchor]]:
        """What changed after it; raises `Overloaded` when that is no longer remembered."""
        if revision < self._forgotten:
            raise Overloaded("too slow: changes were passed over; list `anchors`, then subscribe again")
        return [one for one in self._changes if one[0] > revision]

    async def wait(self, revision: int, seconds: float | None) -> bool:
        """Until something changed after it; False when nothing did for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._revision <= revision:
                    await self._news.wait()
        return self._revision > revision

    def _begin(self) -> None:
        # Whatever ends it, those who follow are not left waiting.
        self._task = begin(self._follow(), "anchor-news", stopped=self._begin)

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tick):
                    await self._rung.wait()
            self._rung.clear()
            try:
                await self._read()
            except Exception:
                # The edge of this task: it goes on for as long as somebody follows.
                log.exception("new changes of anchors could not be read, trying again")
                await asyncio.sleep(self._tick)

    async def _read(self) -> None:
        async with self._database.reading(ALL_INSTITUTIONS) as reading:
            found = await service.changed(reading, ALL_INSTITUTIONS, self._revision)
        for change in found:
            if len(self._changes) == CHANGES_MAX:
                self._forgotten = self._changes[0][0]
            self._changes.append(change)
        if found:
            self._revision = found[-1][0]
            news, self._news = self._news, asyncio.Event()
            news.set()
