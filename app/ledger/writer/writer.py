"""Owns the queue and the lanes: batches are attempted, retried, bisected, and their answers told after commit."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

import asyncpg

from app.errors import Denied, Overloaded, Refusal, Unavailable
from app.kit.clock import Clock
from app.kit.histogram import Histogram
from app.kit.ids import Ids
from app.kit.spans import Span, Tracer
from app.kit.tasks import begin
from app.ledger.writer import batch as batches
from app.ledger.writer.aside import Aside
from app.ledger.writer.contract import Answer, Command, Subject
from app.ledger.writer.opening import GRACE_SECONDS, opened
from app.ledger.writer.queue import IN_DOUBT, FairQueue, Submission
from app.personal.service import Holders
from app.settings import Settings
from app.storage.database import Database
from app.storage.losses import CONNECTION_LOST
from app.storage.statements import following

log = logging.getLogger("escrowgrid.writer")

RETRY_PAUSE_SECONDS = 0.02
RETRY_PAUSE_SECONDS_MAX = 1.0
# Classes of SQLSTATE that are no command's fault: connections, a database that only reads just now, conflicts,
# resources, objects in use, an operator's word. Whatever else fails may be one command's doing.
PASSING_CLASSES = frozenset({"08", "25", "40", "53", "55", "57"})
# What the driver says of a connection that broke, also between two of its own steps.
BROKEN = (asyncpg.InternalClientError, *CONNECTION_LOST)
# Another process used the key meanwhile: the next attempt finds it. Whatever else is not unique is a bug.
USED_KEY = "ledger_events_idempotency"
# Of a batch to those who wait for it.
LINKS_MAX = 100
BUSY = "the position is held by another command for too long; nothing was done, try again"
STOPPED = "the ledger's writer has stopped; nothing was done, this server needs its operator"

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Ring = Callable[[int], None]


class Writer:
    """Commands in, answers after commit. It owns its tasks: a client that goes away changes nothing."""

    def __init__(
        self,
        database: Database,
        subject: Subject,
        holders: Holders,
        settings: Settings,
        ids: Ids,
        clock: Clock,
        ring: Ring,
        tracer: Tracer | None = None,
    ) -> None:
        self._database = database
        self._subject = subject
        self._holders = holders
        self._settings = settings
        self._ids = ids
        self._clock = clock
        self._ring = ring
        self._tracer = tracer
        self._queue = FairQueue(settings.writer_queue_max)
        self._aside = Aside(self._settle_aside, self._gives_up)
        self._main: asyncio.Task[None] | None = None
        self._closing = False
        self._refusal: Denied | None = None
        self.has_stopped = False
        self.batches = 0
        # How many commands a batch had, how long it took until its commit, and how long each submission had waited.
        self.sizes = Histogram(SIZES)
        self.seconds = Histogram(SECONDS)
        self.waits = Histogram(SECONDS)

    def __len__(self) -> int:
        """Commands waiting, those on rows that somebody holds among them."""
        return len(self._queue) + len(self._aside)

    async def start(self) -> None:
        """Begin to take batches."""
        self._main = begin(self._work(), "ledger-writer", over=lambda: self._closing, stopped=self._stop)

    async def close(self) -> None:
        """Refuse new commands, finish those accepted into the queue."""
        self._closing = True
        self._queue.close()
        if self._main is not None:
            await asyncio.wait([self._main])
        await self._aside.close()

    def refuse(self, why: Denied) -> None:
        """From now on nothing is taken here: this server does not keep the ledger."""
        self._refusal = why

    def assure(self) -> None:
        """Raise why nothing is taken here, if so; for writes that are not the ledger's."""
        if self._refusal is not None:
            raise type(self._refusal)(self._refusal.message)

    async def submit(self, command: Command, span: Span | None = None) -> Answer:
        """Decide and write one command; returns after commit. Raises `Refusal` when it is refused."""
        return (await self.submit_all([command], span))[0]

    async def submit_all(self, commands: Sequence[Command], span: Span | None = None) -> list[Answer]:
        """Decide and write several commands as one: all are accepted or none. Raises `Refusal` for none.

        Where the operation is traced, the wait is a part of its `span`.
        """
        self.assure()
        if self._closing:
            raise Overloaded("the server is shutting down; nothing was done, try again")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.command_deadline_seconds
        part = None if span is None else span.child("ledger.command")
        submission = Submission(commands, deadline, loop.create_future(), span=part)
        late = loop.call_at(deadline + GRACE_SECONDS, submission.tell_late)
        try:
            self._queue.put(submission, self._aside.waiting)
            outcome = await asyncio.shield(submission.answer)
        finally:
            late.cancel()
            if part is not None:
                part.end()
        if isinstance(outcome, list):
            return outcome
        raise Refusal(outcome.code, outcome.message, outcome.field)

    async def _work(self) -> None:
        """Batch after batch, until the queue is closed and empty."""
        while True:
            await self._queue.wait()
            submissions = self._queue.take(self._settings.batch_size_max)
            if submissions:
                await self._settle(submissions)
            elif self._closing:
                return

    def _stop(self) -> None:
        """It has stopped by itself: whoever waits is told, and nothing is taken any more."""
        self.has_stopped = True
        self.refuse(Unavailable(STOPPED))
        while waiting := self._queue.take(self._settings.batch_size_max):
            _fail(waiting, Unavailable(STOPPED))

    async def _settle(self, submissions: Sequence[Submission]) -> None:
        """Attempt until every submission has its answer or waits aside, within the deadlines."""
        try:
            await self._attempts(submissions, wait=False)
        except Exception as error:
            log.exception("a batch of %d failed", len(submissions))
            _fail(submissions, error)
        except BaseException:
            # The writer stops here: nobody is to wait for it, and what was attempted may have happened.
            _fail(submissions, Unavailable(IN_DOUBT))
            raise

    async def _settle_aside(self, submissions: Sequence[Submission]) -> bool:
        """The same for submissions of one row that was held; False when it is held still."""
        try:
            await self._attempts(submissions, wait=True)
        except asyncpg.LockNotAvailableError:
            return False
        except Exception as error:
            log.exception("commands on one row failed")
            _fail(submissions, error)
        return True

    async def _attempts(self, submissions: Sequence[Submission], *, wait: bool) -> None:
        pause = RETRY_PAUSE_SECONDS
        waiting = self._drop_late(submissions)
        while waiting:
            try:
                waiting = await self._attempt(waiting, wait=wait)
            except Exception as error:
                if wait and isinstance(error, asyncpg.LockNotAvailableError):
                    raise
                if not _passes(error):
                    await self._bisect(waiting, error, wait=wait)
                    return
                log.warning("a batch of %d is tried again: %s", len(waiting), type(error).__name__)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, RETRY_PAUSE_SECONDS_MAX)
                waiting = self._drop_late(waiting)

    async def _attempt(self, submissions: Sequence[Submission], *, wait: bool) -> list[Submission]:
        """One transaction. Answers are told after its commit; returns those to be decided once more."""
        span = self._begun(submissions)
        try:
            return await self._transact(submissions, span, wait=wait)
        except BaseException as error:
            if span is not None:
                span.note("error.type", type(error).__name__)
            raise
        finally:
            for submission in submissions:
                submission.deciding = False
            if span is not None:
                span.end()

    async def _transact(
        self, submissions: Sequence[Submission], span: Span | None, *, wait: bool
    ) -> list[Submission]:
        began = asyncio.get_running_loop().time()
        scope = sorted({item.institution_id for submission in submissions for item in submission.commands})
        deadline = max(item.deadline for item in submissions)
        async with opened(self._database, scope, deadline, wait=wait) as connection:
            # A connection may have taken its time to come: who has been told meanwhile is not acted for any more.
            submissions = self._drop_late(submissions)
            for submission in submissions:
                submission.deciding = True
            with following(connection, span):
                batch = await batches.run(
                    connection, submissions, self._subject, self._holders, self._ids, self._clock, wait=wait
                )
            # From here on its commit may happen, whatever is heard of it.
            for submission, outcome in batch.outcomes.items():
                if isinstance(outcome, list):
                    submission.attempted.update(answer.event.id for answer in outcome if not answer.replayed)
        self._measure(submissions, began)
        self._tell(batch)
        return batch.again

    def _begun(self, submissions: Sequence[Submission]) -> Span | None:
        """A span of this attempt, linked to those who wait for it; it is a part of none, for it serves them all."""
        if self._tracer is None:
            return None
        waiting = [submission.span for submission in submissions if submission.span is not None]
        span = self._tracer.begin("ledger.batch", links=waiting[:LINKS_MAX])
        span.note("escrowgrid.commands", sum(len(submission.commands) for submission in submissions))
        return span

    def _measure(self, submissions: Sequence[Submission], began: float) -> None:
        self.batches += 1
        self.sizes.add(sum(len(submission.commands) for submission in submissions))
        self.seconds.add(asyncio.get_running_loop().time() - began)
        for submission in submissions:
            self.waits.add(began - submission.deadline + self._settings.command_deadline_seconds)

    def _tell(self, batch: batches.Batch) -> None:
        for submission, outcome in batch.outcomes.items():
            submission.settle(outcome)
        if batch.events:
            self._ring(batch.events[-1].global_sequence)
        for row, submission in batch.blocked:
            self._aside.put(row, submission)

    def _gives_up(self, submission: Submission) -> bool:
        """Whether a submission in a side lane has waited for as long as it may; then it is told so."""
        now, since = asyncio.get_running_loop().time(), submission.aside_since
        assert since is not None, "it waits aside"
        if now < min(since + self._settings.side_lane_wait_seconds, submission.deadline):
            return False
        submission.settle(Unavailable(IN_DOUBT if submission.attempted else BUSY))
        return True

    async def _bisect(self, submissions: Sequence[Submission], error: Exception, *, wait: bool) -> None:
        """One poison command fails alone: halves are tried apart until it is found."""
        if len(submissions) == 1:
            log.error("a command failed", exc_info=error)
            submissions[0].settle(error)
            return
        log.warning("a batch of %d is halved: %s", len(submissions), type(error).__name__)
        middle = len(submissions) // 2
        for half in (submissions[:middle], submissions[middle:]):
            await self._attempts(half, wait=wait)

    @staticmethod
    def _drop_late(submissions: Sequence[Submission]) -> list[Submission]:
        """Those that have time left; the others are told that nothing was done, where that is certain."""
        now = asyncio.get_running_loop().time()
        for submission in submissions:
            if submission.deadline <= now:
                submission.tell_late()
        return [submission for submission in submissions if submission.deadline > now]


def _fail(submissions: Sequence[Submission], error: Exception) -> None:
    for submission in submissions:
        submission.settle(error)


def _passes(error: Exception) -> bool:
    """Whether the same batch may well succeed when it is tried again."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return error.constraint_name == USED_KEY
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in PASSING_CLASSES
    return isinstance(error, BROKEN)
