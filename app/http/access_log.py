"""Outermost: makes the exchange of every request, then tells of it in one line of JSON and in the metrics."""

import logging
import time
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http import exchange, limits
from app.http.door import Door
from app.http.exchange import Exchange
from app.http.metrics import Metrics
from app.http.wire import encode
from app.settings import Settings

log = logging.getLogger("escrowgrid.access")

# What the log says of a client that went away before it was answered, as nginx does.
GONE = 499


class AccessLog:
    """Sees every request, also those refused at the door."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, door: Door | None = None) -> None:
        self.app = app
        self._metrics = metrics
        self._door = door
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
            count_error=self._count_error,
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
        method = scope.get("method", "WS")
        principal = known.principal
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "duration_ms": round(seconds * 1000, 2),
            "status": status,
            "method": method,
            "path": scope["path"],
            "operation": known.operation or None,
            "document": known.document_hash or None,
            "cost": known.cost,
            "operations": known.operations,
            "key_id": principal.id if principal is not None else None,
            "institution_id": principal.institution_id if principal is not None else None,
            "request_id": known.request_id,
            "client": known.client_address,
            "errors": known.error_codes,
        }
        log.info(encode(line).decode())
        self._metrics.request(method, status, known.operation, seconds, timed=timed)
