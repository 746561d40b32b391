"""Writes the audit rows that have no transaction of their own, such as refusals: in bulk, in nobody's way.

What waits is lost when the process dies; a refusal changed nothing, so that the books stay whole without it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from sqlalchemy.exc import DBAPIError, StatementError

from app.audit import store
from app.audit.model import AuditEntry, AuditEvent, storable
from app.errors import AppError
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.kit.tasks import begin, end
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database

log = logging.getLogger("escrowgrid.audit")

QUEUE_MAX = 10_000
BATCH_MAX = 1_000
PAUSE_SECONDS = 0.05
RETRY_SECONDS_MIN = 0.2
RETRY_SECONDS_MAX = 10.0
DROP_LOG_EVERY = 1_000
MONTHS_AHEAD = 3
PARTITIONS_EVERY_SECONDS = 6 * 3600.0
PARTITIONS_RETRY_SECONDS = 60.0

# The SQLSTATE classes that blame the row: data exceptions and integrity violations.
ROW_TO_BLAME = ("22", "23")


class Recorder:
    """One per process. Between `start` and `close` what is offered is written within moments."""

    def __init__(
        self, database: Database, ids: Ids, clock: Clock, tell: Callable[[], None] = lambda: None
    ) -> None:
        self._database = database
        self._ids = ids
        self._clock = clock
        self._tell = tell
        self._waiting: deque[AuditEvent] = deque()
        self._offered = asyncio.Event()
        self._writing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._rests = False
        self.dropped = 0

    def __len__(self) -> int:
        """Rows waiting to be written."""
        return len(self._waiting)

    def rest(self) -> None:
        """Write nothing from now on: this database is a mirror, and its audit is the one of its ledger."""
        self._rests = True

    def offer(self, entry: AuditEntry) -> None:
        """Have `entry` written soon, with the time of now. Never waits: when the queue is full it is lost."""
        if self._rests:
            return
        if len(self._waiting) >= QUEUE_MAX:
            self._drop("the queue is full")
            return
        self._waiting.append(AuditEvent.of(storable(entry), self._ids.new("aud"), self._clock()))
        self._offered.set()

    async def start(self) -> None:
        """Begin writing; from the first row on there is a partition for it."""
        pause = await self._make_partitions()
        self._tasks = [
            begin(self._write(), "audit-recorder"),
            begin(self._keep_partitions(pause), "audit-partitions"),
        ]

    async def flush(self) -> None:
        """Write all that was offered until now; raises when the database cannot be reached."""
        async with self._writing:
            for _ in range(-(-len(self._waiting) // BATCH_MAX)):
                await self._write_batch()

    async def close(self) -> None:
        """Write what waits, then stop."""
        await end(*self._tasks)
        self._tasks = []
        try:
            await self.flush()
        except Exception:
            log.exception("%d audit events are lost: the database cannot be reached", len(self._waiting))

    async def _write(self) -> None:
        retry = RETRY_SECONDS_MIN
        while True:
            await self._offered.wait()
            self._offered.clear()
            # Those that come meanwhile go with it.
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                await self.flush()
                retry = RETRY_SECONDS_MIN
            except Exception as error:
                # The edge of this task: whatever it was, what waits is kept and tried again.
                if isinstance(error, AppError):
                    log.warning("%d audit events wait: %s", len(self._waiting), error)
                else:
                    log.exception("%d audit events wait", len(self._waiting))
                await asyncio.sleep(retry)
                retry = min(2 * retry, RETRY_SECONDS_MAX)
                self._offered.set()

    async def _write_batch(self) -> None:
        """Write the oldest that wait; they leave the queue when they are written, or can never be."""
        batch = list(islice(self._waiting, BATCH_MAX))
        try:
            await self._insert(batch)
        except StatementError as error:
            if not _row_to_blame(error):
                raise
            await self._insert_singly(batch)
        else:
            self._forget(len(batch))

    async def _insert_singly(self, batch: Sequence[AuditEvent]) -> None:
        """One row that can never be written must not keep the others out."""
        for event in batch:
            try:
                await self._insert([event])
            except StatementError as error:
                if not _row_to_blame(error):
                    raise
                self._drop(f"the row cannot be written: {type(error).__name__}")
            self._forget(1)

    async def _insert(self, events: Sequence[AuditEvent]) -> None:
        async with self._database.writing(ALL_INSTITUTIONS) as connection:
            await store.add(connection, events)
        self._tell()

    def _forget(self, n: int) -> None:
        for _ in range(n):
            self._waiting.popleft()

    def _drop(self, why: str) -> None:
        if self.dropped % DROP_LOG_EVERY == 0:
            log.error("an audit event is lost, after %d others: %s", self.dropped, why)
        self.dropped += 1

    async def _keep_partitions(self, pause: float) -> None:
        """Keep the months ahead in partitions of their own, so that the default one stays empty."""
        while True:
            await asyncio.sleep(pause)
            pause = await self._make_partitions()

    async def _make_partitions(self) -> float:
        """One try; returns when to try again."""
        try:
            async with self._database.writing(ALL_INSTITUTIONS) as connection:
                now = self._clock()
                await store.make_partitions(connection, now, months=MONTHS_AHEAD)
                missing = await store.missing(connection, now, months=MONTHS_AHEAD)
        except Exception:
            # The edge of this task: it goes on for as long as the process.
            log.exception("audit partitions could not be made ahead, trying again")
            return PARTITIONS_RETRY_SECONDS
        if missing:
            log.error("%d audit partitions could not be made ahead: see the database's log", missing)
            return PARTITIONS_RETRY_SECONDS
        return PARTITIONS_EVERY_SECONDS


def _row_to_blame(error: StatementError) -> bool:
    """Whether the row itself can never be written, rather than not now."""
    if not isinstance(error, DBAPIError):
        return True  # it could not even be spelled as a parameter
    return str(getattr(error.orig, "sqlstate", None))[:2] in ROW_TO_BLAME
