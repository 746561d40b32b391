"""What a live group was told, spelled once for all its members, and kept within a bound."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from app.context import Context
from app.http.tolls import Cost, Toll

ENTRIES_MAX = 1_024
# A result beside its text, which it has twice.
TOLD_BYTES = 400


@dataclass(frozen=True, slots=True)
class Told:
    """One result, spelled: `refused` when the operation was not executed at all.

    The `stem` is what all subscribers share of it; each has an `ending` of its own.
    """

    body: bytes
    stem: str
    cursor: str | None
    refused: bool = False
    is_charged: bool = False

    @classmethod
    def of(cls, body: bytes, cursor: str | None, cost: Cost | None, *, refused: bool) -> "Told":
        """That answer; what it cost belongs to its extensions."""
        stem = body[:-1].decode()
        if cost is not None:
            costs = f'"requested":{cost.requested},"actual":{cost.actual},"available":'
            stem = f'{stem},"extensions":{{"cost":{{{costs}'
        return cls(body, stem, cursor, refused, cost is not None)

    @property
    def weight(self) -> int:
        """About what it costs in memory."""
        return TOLD_BYTES + len(self.body) + len(self.stem)

    def ending(self, context: Context) -> str:
        """What this subscriber has left to spend, and the braces that are still open."""
        if not self.is_charged:
            return "}"
        toll = context.toll
        available = toll.available() if isinstance(toll, Toll) else None
        return f"{'null' if available is None else available}}}}}}}"


@dataclass(frozen=True, slots=True)
class Entry:
    """`again`: at a position that was told before, so a heartbeat."""

    position: int
    told: Told
    again: bool


class Group:
    """One execution for all its members: what it told last, within a bound, by position in the ledger."""

    def __init__(self, floor: int, bytes_max: Callable[[], int]) -> None:
        # Every result above `floor` is here, or yet to come.
        self.floor = floor
        self.members = 0
        self.is_over = False
        # What it keeps of them weighs this much, and may weigh as much as that.
        self.bytes = 0
        self._bytes_max = bytes_max
        self._entries: deque[Entry] = deque()
        self._first = 0
        self._last = floor
        self._news = asyncio.Event()

    def tell(self, position: int, told: Told) -> None:
        """Append a result and wake the members."""
        self._entries.append(Entry(position, told, again=position <= self._last))
        self._last = position
        self.bytes += told.weight
        self.trim()
        self._wake()

    def trim(self) -> None:
        """Let go of the oldest that are too many."""
        most = self._bytes_max()
        while len(self._entries) > ENTRIES_MAX or self.bytes > most:
            gone = self._entries.popleft()
            self._first += 1
            self.bytes -= gone.told.weight
            self.floor = max(self.floor, gone.position)

    def close(self) -> None:
        """Nothing more will be told."""
        self.is_over = True
        self._wake()

    def forget(self) -> None:
        """Keep nothing of what was told: who is behind reads it again, as it is now."""
        self.floor = max(self.floor, self._last)
        self._first += len(self._entries)
        self._entries.clear()
        self.bytes = 0
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def results(self, position: int) -> AsyncGenerator[Entry, None]:
        """Every result above `position`, until the group is over or has forgotten what comes next."""
        index = self._first
        while True:
            while index < self._first + len(self._entries):
                if index < self._first:
                    return
                entry = self._entries[index - self._first]
                index += 1
                if entry.position > position or (entry.again and entry.position == position):
                    position = entry.position
                    yield entry
            if self.is_over or index < self._first:
                return
            await self._news.wait()
