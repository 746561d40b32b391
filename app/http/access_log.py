"""Outermost: makes the exchange of every request, then tells of it in one line of JSON and in the metrics."""

import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http import exchange, journal, limits
from app.http.door import Door
from app.http.exchange import Exchange
from app.http.metrics import Metrics
from app.settings import Settings

# What the log says of a client that went away before it was answered, as nginx does.
GONE = 499


class AccessLog:
    """Sees every request, also those refused at the door."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        door: Door | None = None,
        *,
        traced: bool = False,
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._door = door
        self._traced = traced
        self._trusted = limits.networks(settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, watching."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = Exchange(
            request_id=limits.request_id(headers),
            client_address=limits.client_address(scope, headers, self._trusted),
            path=scope["path"],
            abort=exchange.aborter(send),
            wire=send if scope["type"] == "websocket" else None,
            count_error=self._count_error,
            carried=headers.get("traceparent") if self._traced else None,
        )
        scope[exchange.KEY] = known
        began = time.perf_counter()
        status = GONE if scope["type"] == "http" else 1006
        streamed = scope["type"] == "websocket"

        async def sending(message: Message) -> None:
            nonlocal status, streamed
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                streamed = (
                    streamed or (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"]
                )
            elif message["type"] == "websocket.close":
                status = message.get("code", 1000)
            await send(message)

        async def receiving() -> Message:
            nonlocal status
            message = await receive()
            if message["type"] == "websocket.disconnect" and status == 1006:
                status = message.get("code", 1005)
            return message

        watched = receiving if scope["type"] == "websocket" else receive
        try:
            await self.app(scope, watched, sending)
        finally:
            self._tell(scope, known, status, time.perf_counter() - began, timed=not streamed)

    def _count_error(self, known: Exchange, code: str) -> None:
        self._metrics.error(code)
        if self._door is not None and known.is_news(code):
            self._door.note(known, code)

    def _tell(self, scope: Scope, known: Exchange, status: int, seconds: float, *, timed: bool) -> None:
        method = scope.get("method", journal.SOCKET)
        journal.tell_request(known, method, status, seconds)
        self._metrics.request(method, status, known.operation, seconds, timed=timed)
