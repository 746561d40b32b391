"""GraphQL over Server-Sent Events: one operation a connection, each event's id the place to resume after."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic

from starlette.types import Receive, Scope, Send
from strawberry.types.graphql import OperationType
from strawberry.utils.aio import aclosing

from app.context import Request
from app.engine.masking import INTERNAL
from app.http.auth import Caller
from app.http.exchange import Exchange
from app.http.live import EXPIRED, UNAUTHORISED, Connection, within
from app.http.negotiation import EVENTS_TYPE
from app.http.operation import Asked
from app.http.running import Runner
from app.http.wire import encode

log = logging.getLogger("escrowgrid.live")

TRANSPORT = "sse"
RETRY_MILLISECONDS = 2000
HEADERS = [
    (b"content-type", f"{EVENTS_TYPE}; charset=utf-8".encode()),
    # Neither kept, nor compressed, nor gathered by a proxy on the way.
    (b"cache-control", b"no-cache, no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]
COMPLETE = b"event: complete\ndata: \n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class EventStream(Connection):
    """One event stream, as an ASGI answer."""

    transport = TRANSPORT

    def __init__(
        self,
        runner: Runner,
        exchange: Exchange,
        caller: Caller,
        asked: Asked,
        request: Request,
        allowed: Iterable[OperationType],
    ) -> None:
        super().__init__(exchange, runner.live.pace)
        self.runner = runner
        self.asked = asked
        self.request = request
        self.allowed = allowed
        self.caller = caller
        self.confirmed_at = monotonic()
        self._caller = caller
        self._send: Send | None = None
        self._sent_at = monotonic()
        self._pump: asyncio.Task[None] | None = None
        self._farewell = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The life of the stream: until the operation is over, the client gone, or somebody ends it."""
        crowd = self.runner.live.crowd
        crowd.enter_address(self.exchange.client_address)
        try:
            crowd.enter_key(self._caller.principal)
            try:
                await self._live(receive, send)
            finally:
                crowd.leave_key(self._caller.principal)
        finally:
            crowd.leave_address(self.exchange.client_address)

    async def _live(self, receive: Receive, send: Send) -> None:
        self._send = send
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._write(f"retry: {RETRY_MILLISECONDS}\n\n".encode())
        gone = asyncio.create_task(_gone(receive))
        self._pump = asyncio.create_task(self._run())
        async with self.runner.live.holding(self):
            try:
                await asyncio.wait((gone, self._pump), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _cancelled(gone, self._pump)
        if not self._pump.cancelled() and (error := self._pump.exception()) is not None:
            log.error("request %s: unexpected error", self.exchange.request_id, exc_info=error)
            self._part(INTERNAL, f"something went wrong on our side; request id {self.exchange.request_id}")
        await within(self.pace.farewell_seconds_max, self._write(self._farewell, more=False), self.drop)
        # A dropped connection is known to be gone a moment later; until then the server would complain.
        if self.dropped:
            await within(1.0, _gone(receive), lambda: None)

    async def _run(self) -> None:
        async with (
            self.runner.context(self.exchange, self._caller, self.request, TRANSPORT) as context,
            aclosing(
                self.runner.groups.follow(self.runner, context, self.asked, self.exchange, self.allowed)
            ) as results,
        ):
            async for told in results:
                if self.is_expired():
                    self._part("UNAUTHENTICATED", EXPIRED)
                    return
                await self._write(_next(f"{told.stem}{told.ending(context)}".encode(), told.cursor))
        await self._write(COMPLETE)

    async def _write(self, chunk: bytes, *, more: bool = True) -> None:
        assert self._send is not None, "nothing is written before the stream is answered"
        await self.watched(self._send({"type": "http.response.body", "body": chunk, "more_body": more}))
        self._sent_at = monotonic()

    async def beat(self) -> None:
        """A comment now and then keeps proxies from closing an idle stream."""
        if monotonic() - self._sent_at >= self.pace.keep_alive_seconds:
            await self._write(KEEP_ALIVE)

    async def end(self, code: int, text: str) -> None:
        """End from our side: a key that is over completes the stream; after a restart the client returns."""
        if code == UNAUTHORISED:
            self._part("UNAUTHENTICATED", text)
        else:
            self._farewell = f": {text}\n\n".encode()
        if self._pump is not None:
            self._pump.cancel()

    def _part(self, code: str, message: str) -> None:
        self.exchange.note_error(code)
        error = {"message": message, "extensions": {"code": code}}
        self._farewell = _next(encode({"errors": [error]}), None) + COMPLETE


def _next(data: bytes, cursor: str | None) -> bytes:
    # orjson writes no line breaks, and a cursor is base64: neither can break out of its line.
    place = f"id: {cursor}\n".encode() if cursor is not None else b""
    return place + b"event: next\ndata: " + data + b"\n\n"


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel and see them end, so that what they hold is given back."""
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait(tasks)
