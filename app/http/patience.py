"""How long a connection may take to say what it wants: uvicorn by itself waits for the rest of a request for ever."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
HEADER, BODY = "header", "body"


class Config(uvicorn.Config):
    """What uvicorn is told, and what `PatientProtocol` is."""

    def __init__(self, app: Any, *, request_seconds_max: float, **options: Any) -> None:
        super().__init__(app, http=PatientProtocol, **options)
        self.request_seconds_max = request_seconds_max


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Lets a connection go whose request is not whole in time, however often a byte of it comes.

    The header's time runs from the connection, later from the first byte after an answer (until then the keep-alive's
    own does); the body's from the end of the header. A WebSocket begins with such a header, too.
    """

    config: Config
    _ending: asyncio.TimerHandle | None = None
    _awaited: str | None = None
    _heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there."""
        super().connection_made(transport)
        self._await(HEADER)

    def data_received(self, data: bytes) -> None:
        """Some of what they want."""
        self._heard = True
        super().data_received(data)
        gone = self.transport.is_closing() or self.transport.get_protocol() is not self
        self._await(None if gone else self._missing())

    def connection_lost(self, exc: Exception | None) -> None:
        """They are gone."""
        self._await(None)
        super().connection_lost(exc)

    def _missing(self) -> str | None:
        """What of a request has still to come; nothing while one is answered."""
        if self.cycle is None or self.cycle.response_complete:
            return HEADER
        return BODY if self.cycle.more_body else None

    def _await(self, what: str | None) -> None:
        """Waits for that from now on, unless it did already."""
        if what == self._awaited:
            return
        self._awaited = what
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if what is not None:
            self._ending = self.loop.call_later(self.config.request_seconds_max, self._let_go)

    def _let_go(self) -> None:
        missing, self._ending = self._missing(), None
        if missing is None or self.transport.is_closing():
            return
        answering = missing == BODY and self.cycle.response_started
        if self._heard and not answering:
            self.transport.write(TOO_LATE)
        self.transport.close()
