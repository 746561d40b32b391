"""Pages of the ledger read for subscribers behind the ring: once for all who ask for the same, few at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from app.kit.tasks import end
from app.ledger.model import Event
from app.ledger.ring import place
from app.ledger.store import SELECT_EVENTS, event_of
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database, DatabaseRole
from app.storage.losses import retrying

READ_ALL = f"{SELECT_EVENTS} WHERE global_sequence > $1 ORDER BY global_sequence LIMIT $2"
# What there is anew, and in one snapshot with it the present epoch.
READ_NEWS = f"""
SELECT n.*, (SELECT max(epoch) FROM epochs WHERE scope = '*') AS newest_epoch FROM ({READ_ALL}) n
ORDER BY global_sequence
"""
READ_ONE = f"{SELECT_EVENTS} WHERE institution_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"
KEPT_MAX = 32

Page = Sequence[Event]


class GapInLedger(Exception):
    """The next event is not the last one's successor: going on could skip one for ever."""


class SharedPages:
    """Pages begin at multiples of their size, so that many subscribers ask for one; the newest asked for are kept."""

    def __init__(
        self, database: Database, *, size: int, connections_max: int, confirm: Callable[[], Awaitable[None]]
    ) -> None:
        """`confirm` is awaited after every read: it sees that the ledger is still the one that was read before."""
        self._database, self._size, self._confirm = database, size, confirm
        self._reading = asyncio.Semaphore(connections_max)
        self._reads: dict[tuple[str, int], asyncio.Task[Page]] = {}
        self._kept: OrderedDict[tuple[str, int], Page] = OrderedDict()
        self._history = 0

    def forget(self) -> None:
        """The ledger is another one from here on: nothing read of the former may be told."""
        self._kept.clear()
        self._history += 1

    async def close(self) -> None:
        """End what is being read."""
        await end(*self._reads.values())

    async def after(self, scope: str, after: int) -> Page:
        """The next events of `scope` above `after`; raises `GapInLedger` where one is missing."""
        size = self._size
        start = after - after % size
        key, history = (scope, start), self._history
        if (events := self._kept.get(key)) is None:
            if (task := self._reads.get(key)) is None:
                task = asyncio.create_task(self._read(scope, start), name="ledger-catch-up")
                self._reads[key] = task
                task.add_done_callback(lambda _task: self._reads.pop(key, None))
            events = await asyncio.shield(task)
        # Only full pages are kept: the others grow.
        if len(events) == size and key not in self._kept and self._history == history:
            self._kept[key] = events
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        # Both orders are gapless.
        rest = events[after - start :]
        if rest and place(scope, rest[0]) != after + 1:
            raise GapInLedger(f"event {place(scope, rest[0])} of {scope} follows {after}")
        return rest

    async def _read(self, scope: str, after: int) -> Page:
        pool = self._database.pool(DatabaseRole.FEED)
        async with self._reading:
            if scope == ALL_INSTITUTIONS:
                rows = await retrying(lambda: pool.fetch(READ_ALL, after, self._size))
            else:
                rows = await retrying(lambda: pool.fetch(READ_ONE, scope, after, self._size))
        # Asked after the read: a page of a restored ledger must not go to who stands in the old history.
        await self._confirm()
        return tuple(event_of(row) for row in rows)
