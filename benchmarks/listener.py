"""A subscriber that costs little, so that a thousand of them on the server's own cores measure the server."""

import asyncio
import base64
import json
import os
import struct
import time
from typing import Any

OPEN_SECONDS_MAX = 60
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
LONG, LONGER = 126, 127
Told = tuple[float, bytes]


class Listener(asyncio.Protocol):
    """One WebSocket of graphql-transport-ws; a message is noted as it comes, and looked at by whoever asks for it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._open = False
        self._next: asyncio.Future[Told | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is gone: nothing comes next."""
        self._tell(None)

    def data_received(self, data: bytes) -> None:
        """Bytes came: whole messages among them are told."""
        at = time.perf_counter()
        self._buffer += data
        if not self._open:
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            self._buffer, self._open = bytearray(rest), True
            self._tell((at, head))
        while (frame := self._frame()) is not None:
            self._take(at, *frame)

    def next(self) -> "asyncio.Future[Told | None]":
        """When the next message comes, and what it is; None when the socket is gone."""
        self._next = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._tell(None)
        return self._next

    def send(self, message: dict[str, Any]) -> None:
        """Tell the server something."""
        self._write(TEXT, json.dumps(message).encode())

    def upgrade(self, port: int) -> None:
        """Ask for a WebSocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def close(self) -> None:
        """Hang up."""
        self._write(CLOSE, struct.pack("!H", 1000))
        self._transport.close()

    def _take(self, at: float, kind: int, body: bytes) -> None:
        if kind == PING:
            self._write(PONG, body)
        elif kind == CLOSE:
            self._transport.close()
        elif body.startswith((b'{"type":"ping"', b'{"type": "ping"')):
            self.send({"type": "pong"})
        else:
            self._tell((at, body))

    def _tell(self, told: Told | None) -> None:
        if not self._next.done():
            self._next.set_result(told)

    def _frame(self) -> tuple[int, bytes] | None:
        """The next whole frame (RFC 6455, 5.2): a server's are not masked."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1], 2
        if size == LONG:
            start = 4
        elif size == LONGER:
            start = 10
        if len(buffer) < start:
            return None
        if start > 2:
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + size:
            return None
        kind, body = buffer[0] & 15, bytes(buffer[start : start + size])
        del buffer[: start + size]
        return kind, body

    def _write(self, kind: int, body: bytes) -> None:
        # A client has to mask; a mask of zeros leaves the body as it is.
        size = bytes([128 | len(body)]) if len(body) < LONG else struct.pack("!BH", 128 | LONG, len(body))
        self._transport.write(bytes([128 | kind]) + size + bytes(4) + body)


async def subscribed(port: int, secret: str, document: str) -> Listener:
    """One that has subscribed; what it is told comes next."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(OPEN_SECONDS_MAX):
        _transport, listener = await loop.create_connection(Listener, "127.0.0.1", port)
        answer = listener.next()
        listener.upgrade(port)
        told = await answer
        assert told is not None and b" 101 " in told[1], "the server takes WebSockets"
        answer = listener.next()
        listener.send({"type": "connection_init", "payload": {"authorization": f"Bearer {secret}"}})
        told = await answer
        assert told is not None and json.loads(told[1])["type"] == "connection_ack", told
        listener.send({"type": "subscribe", "id": "1", "payload": {"query": document}})
    return listener
