"""A streaming replica for queries that say how old an answer may be; never for decisions, never for the tail."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import Unavailable
from app.ledger.queries import fetch_head
from app.ledger.tail import Tail
from app.storage.database import Database
from app.storage.statements import Meter

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

log = logging.getLogger("escrowgrid.replica")

# How long a query waits for the replica to have what it asks for; then the primary answers.
WAIT_SECONDS_MAX = 0.5
PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an answer may be: it has to know of everything up to `at_least`, a cursor; None for however old."""

    at_least: str | None


@dataclass(frozen=True, slots=True)
class Replica:
    """Reads of one replica."""

    database: Database
    tail: Tail

    @asynccontextmanager
    async def reading(
        self, scope: str, freshness: Freshness, meter: Meter | None = None
    ) -> "AsyncIterator[AsyncConnection | None]":
        """A snapshot of `scope` that is fresh enough; None when the replica is behind for too long, or away.

        Raises `CursorInvalid` for a cursor that is none, judged as everywhere against the primary.
        """
        place = 0 if freshness.at_least is None else await self.tail.place(scope, freshness.at_least)
        async with AsyncExitStack() as stack:
            yield await self._fresh(stack, scope, place, meter)

    async def _fresh(
        self, stack: AsyncExitStack, scope: str, place: int, meter: Meter | None
    ) -> "AsyncConnection | None":
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS_MAX
        try:
            while asyncio.get_running_loop().time() < deadline:
                async with AsyncExitStack() as attempt:
                    connection = await attempt.enter_async_context(self.database.reading(scope, meter))
                    head, _hash = await fetch_head(connection, scope)
                    if head >= place:
                        await stack.enter_async_context(attempt.pop_all())
                        return connection
                await asyncio.sleep(PAUSE_SECONDS)
        except Unavailable:
            log.warning("the replica cannot be reached: the primary answers")
        return None

    async def close(self) -> None:
        """Close every connection."""
        await self.database.close()
