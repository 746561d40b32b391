"""Everything that stays open: each connection is looked after once a second and told when the server goes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from app.http.auth import Authenticator, Caller
from app.http.crowd import Crowd
from app.http.exchange import Exchange
from app.http.metrics import Metrics
from app.kit.clock import system_clock
from app.kit.tasks import begin
from app.principal import Principal

log = logging.getLogger("escrowgrid.live")

# WebSocket close codes; event streams tell the same in words.
UNAUTHORISED = 4403
RESTART = 1012
TRY_LATER = 1013

REASON_BYTES_MAX = 123
CONFIRMED_AT_ONCE = 32
STALL_SECONDS_MIN = 1.0
# Keys may change in a storm: those of live connections are looked up so often at most.
LOOK_PAUSE_SECONDS = 0.05
EXPIRED = "the token has expired, or the key"
WITHDRAWN = "the key is no longer valid, or no longer for the same"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often live connections are looked after, and how long things may take."""

    sweep_seconds: float = 1.0
    ping_seconds: float = 20.0
    pong_seconds_max: float = 20.0
    keep_alive_seconds: float = 15.0
    unconfirmed_seconds_max: float = 60.0
    farewell_seconds_max: float = 10.0
    drain_seconds: float = 3.0
    stalled_seconds: float = 60.0


class Connection:
    """One WebSocket or event stream, as those see it who look after it."""

    transport = "none"

    def __init__(self, exchange: Exchange, pace: Pace) -> None:
        self.exchange = exchange
        self.pace = pace
        self.caller: Caller | None = None
        self.confirmed_at = monotonic()
        self.ending = False
        self.dropped = False
        # Whose connections this one is counted among, once that is known.
        self.counted: Principal | None = None
        self.stalled_until = 0.0
        self._sends = 0
        self._sends_since = 0.0

    async def beat(self) -> None:
        """Once a second: say that one is still there, if it is time."""
        raise NotImplementedError

    async def end(self, code: int, text: str) -> None:
        """Say goodbye and close."""
        raise NotImplementedError

    def is_expired(self) -> bool:
        """Whether its token or key has ended by itself: nothing is told to it any more."""
        ends = None if self.caller is None else self.caller.principal.expires_at
        return ends is not None and ends <= system_clock()

    async def watched(self, send: Awaitable[None]) -> None:
        """Await a send, noting how long the other side takes nothing."""
        began = monotonic()
        if not self._sends:
            self._sends_since = began
        self._sends += 1
        try:
            await send
        finally:
            self._sends -= 1
            self._sends_since = monotonic()
            if self._sends_since - began > STALL_SECONDS_MIN:
                self.stalled_until = self._sends_since

    def stalled_seconds(self) -> float:
        """For how long the other side has taken nothing of what waits for it."""
        return monotonic() - self._sends_since if self._sends else 0.0

    def drop(self) -> None:
        """Close without a word, when words do not get through."""
        if self.exchange.abort is not None:
            self.dropped = True
            self.exchange.abort()


class Live:
    """The live connections of one process."""

    def __init__(self, authenticator: Authenticator, metrics: Metrics, pace: Pace, crowd: Crowd) -> None:
        self._authenticator = authenticator
        self.crowd = crowd
        self._metrics = metrics
        self.pace = pace
        self.draining = False
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._keys_changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._connections)

    @asynccontextmanager
    async def holding(self, connection: Connection) -> AsyncIterator[None]:
        """Look after a connection for the length of the block."""
        self._connections.add(connection)
        self._metrics.connection(connection.transport, 1)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = begin(self._sweep(), "live-sweep", over=lambda: not self._connections)
        try:
            yield
        finally:
            self._connections.discard(connection)
            if connection.counted is not None:
                self.crowd.leave_key(connection.counted)
            self._metrics.connection(connection.transport, -1)

    async def drain(self) -> None:
        """Take no more, and close what is open, spread over a short time so that clients return spread."""
        self.draining = True
        waiting = list(self._connections)
        for connection in waiting:
            self._end(connection, RESTART, "the server restarts")
            await asyncio.sleep(self.pace.drain_seconds / len(waiting))
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=self.pace.farewell_seconds_max + 1)

    def look(self) -> None:
        """Keys have changed somewhere: see at once whose connections that ends."""
        self._keys_changed.set()

    async def _sweep(self) -> None:
        """Runs while anything is open."""
        looking: asyncio.Task[None] | None = None
        while self._connections:
            await self._pause(looking)
            # Beside the rest, which may wait for a database: a token ends when it says so.
            self._end_expired()
            if looking is None or looking.done():
                looking = asyncio.create_task(self._looked_after(), name="live-look-after")

    async def _pause(self, looking: "asyncio.Task[None] | None") -> None:
        """Until the next look: a second, or less where keys have changed, but never while the last one lasts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.pace.sweep_seconds):
                await asyncio.sleep(min(LOOK_PAUSE_SECONDS, self.pace.sweep_seconds))
                if looking is not None:
                    await asyncio.wait([looking])
                await self._keys_changed.wait()
                # Cleared before the look: what changes during it is looked at once more.
                self._keys_changed.clear()

    def _end_expired(self) -> None:
        for connection in self._connections:
            if connection.is_expired():
                self.lapse(connection)

    def lapse(self, connection: Connection) -> None:
        """End a connection whose token or key has ended by itself."""
        self._end(connection, UNAUTHORISED, EXPIRED)

    def withdraw(self, connection: Connection) -> None:
        """End a connection whose key opens nothing any more, or something else."""
        self._end(connection, UNAUTHORISED, WITHDRAWN)

    async def _looked_after(self) -> None:
        try:
            await self._look_after()
        except Exception:
            log.exception("live connections were not looked after")

    async def _look_after(self) -> None:
        principals = await self._confirmed()
        for connection in list(self._connections):
            if connection.ending:
                continue
            if connection.stalled_seconds() > self.pace.stalled_seconds:
                self._end(connection, TRY_LATER, "nothing was taken for too long")
            elif connection.stalled_seconds():
                continue
            elif (refusal := self._lease_over(connection, principals)) is not None:
                self._end(connection, *refusal)
            else:
                self.spawn(connection.beat())

    async def _confirmed(self) -> Mapping[str, Principal | None]:
        """For each key in use the principal it stands for now (None: nobody), where that can be told."""
        callers = (connection.caller for connection in self._connections)
        secrets = list({caller.secret for caller in callers if caller is not None})
        found: dict[str, Principal | None] = {}
        failures: list[BaseException] = []
        for start in range(0, len(secrets), CONFIRMED_AT_ONCE):
            some = secrets[start : start + CONFIRMED_AT_ONCE]
            asked = (self._authenticator.authenticate(secret) for secret in some)
            answers = await asyncio.gather(*asked, return_exceptions=True)
            for secret, answer in zip(some, answers, strict=True):
                if isinstance(answer, BaseException):
                    failures.append(answer)
                else:
                    found[secret] = answer
        if failures:
            log.warning("%d keys of live connections cannot be confirmed: %r", len(failures), failures[0])
        return found

    def _lease_over(
        self, connection: Connection, principals: Mapping[str, Principal | None]
    ) -> tuple[int, str] | None:
        caller = connection.caller
        if caller is None:
            return None
        if caller.secret not in principals:
            unconfirmed = monotonic() - connection.confirmed_at > self.pace.unconfirmed_seconds_max
            return (TRY_LATER, "the key cannot be confirmed") if unconfirmed else None
        connection.confirmed_at = monotonic()
        found = principals[caller.secret]
        if found is None or not found.reaches_like(caller.principal):
            return UNAUTHORISED, WITHDRAWN
        # Such as while a key is rotated: the secret before lasts until the overlap ends, and so do its connections.
        connection.caller = Caller(found, caller.secret)
        return None

    def _end(self, connection: Connection, code: int, text: str) -> None:
        if not connection.ending:
            connection.ending = True
            self.spawn(connection.end(code, text))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done on its own."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("something done on its own went wrong", exc_info=error)


def reason(text: str, cursor: str | None) -> str:
    """A close reason of at most 123 bytes: where to resume is worth more than why."""
    if cursor is None or len(cursor) > REASON_BYTES_MAX - len("cursor="):
        return _cut(text)
    whole = f"{text}; cursor={cursor}"
    return whole if len(whole.encode()) <= REASON_BYTES_MAX else f"cursor={cursor}"


def _cut(text: str) -> str:
    return text.encode(errors="replace")[:REASON_BYTES_MAX].decode(errors="ignore")


async def within(seconds: float, work: Awaitable[None], otherwise: Callable[[], None]) -> None:
    """Do the work, or after so many seconds something else instead."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        otherwise()
