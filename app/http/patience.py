"""How long a connection may take to say what it wants: uvicorn by itself waits for the end of a header for ever."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Config(uvicorn.Config):
    """What uvicorn is told, and what `PatientProtocol` is."""

    def __init__(self, app: Any, *, request_seconds_max: float, **options: Any) -> None:
        super().__init__(app, http=PatientProtocol, **options)
        self.request_seconds_max = request_seconds_max


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Lets a connection go whose request's header is not whole in time, however often a byte of it comes.

    The time runs from the connection, later from the first byte after an answer (until then the keep-alive's own does).
    A WebSocket begins with such a header, too; a body's time is kept by the application, which answers in words.
    """

    config: Config
    _ending: asyncio.TimerHandle | None = None
    _heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there."""
        super().connection_made(transport)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        """Some of what they want."""
        self._heard = True
        super().data_received(data)
        gone = self.transport.is_closing() or self.transport.get_protocol() is not self
        if gone or self._is_asked():
            self._rest()
        else:
            self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """They are gone."""
        self._rest()
        super().connection_lost(exc)

    def _is_asked(self) -> bool:
        """Whether a request is under way whose header is whole."""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_header(self) -> None:
        if self._ending is None:
            self._ending = self.loop.call_later(self.config.request_seconds_max, self._let_go)

    def _rest(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _let_go(self) -> None:
        self._ending = None
        if self.transport.is_closing() or self._is_asked():
            return
        if self._heard:
            self.transport.write(TOO_LATE)
        self.transport.close()
