"""How long a connection may take to say what it wants, and how much it may say: uvicorn by itself bounds neither."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
TOO_MUCH = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
NO_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
# What comes around a body: the sizes of its chunks and their extensions, and trailers. Who sends a body of the largest
# size byte by byte, which nobody does, says five times as much.
FRAMING_BYTES_MAX = 8 * 2**20


class Config(uvicorn.Config):
    """What uvicorn is told, and what `PatientProtocol` is."""

    def __init__(
        self, app: Any, *, request_seconds_max: float, header_bytes_max: int, **options: Any
    ) -> None:
        super().__init__(app, http=PatientProtocol, **options)
        self.request_seconds_max = request_seconds_max
        self.header_bytes_max = header_bytes_max


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Lets a connection go whose request's header is not whole in time, however often a byte of it comes.

    The time runs from the connection, later from the first byte after an answer (until then the keep-alive's own does).
    A WebSocket begins with such a header, too; a body's time is kept by the application, which answers in words.
    A header that is too large ends the connection at once, and so does too much around a body.
    """

    config: Config
    _ending: asyncio.TimerHandle | None = None
    _heard = False
    _in_header = False
    # Of the request that comes, without its body.
    _bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there."""
        super().connection_made(transport)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        """Some of what they want."""
        self._heard = True
        self._bytes += len(data)
        super().data_received(data)
        taker: Any = self.transport.get_protocol()
        if self.transport.is_closing():
            self._rest()
        elif taker is not self:
            self._rest()
            # Of a handshake with a body, or with more or longer lines than it reads, it says nothing ever.
            if not taker.handshake_initiated:
                self._end(NO_HANDSHAKE)
        elif self._is_asked():
            self._rest()
            if self._bytes > FRAMING_BYTES_MAX:
                self.transport.close()
        elif self._bytes > self.config.header_bytes_max:
            self._end(TOO_MUCH)
        else:
            self._await_header()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_header = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the header; or of a trailer, which is none, though uvicorn would take it for one."""
        if self._in_header:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Nothing has been begun yet."""
        self._in_header = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.config.header_bytes_max:
            self._end(TOO_MUCH)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Counted by the application."""
        self._bytes -= len(body)
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Whatever follows is another request."""
        self._bytes = 0
        if not self.transport.is_closing():
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """The header was one of a handshake."""
        if not self.transport.is_closing():
            super().handle_websocket_upgrade()

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
        self._end(TOO_LATE if self._heard else b"")

    def _end(self, words: bytes) -> None:
        self._rest()
        if words:
            self.transport.write(words)
        self.transport.close()
