"""Subscribers over real WebSockets: live ones that measure, stalled ones that take nothing."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

PROTOCOL = Subprotocol("graphql-transport-ws")
SMALL_BUFFER_BYTES = 4096


class Socket:
    """One graphql-transport-ws connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def subscribe(self, id: str, document: str, variables: Mapping[str, Any] | None = None) -> None:
        """Begin an operation."""
        payload = {"query": document, "variables": variables or {}}
        await self._send({"id": id, "type": "subscribe", "payload": payload})

    async def messages(self) -> AsyncIterator[tuple[str, Any]]:
        """(operation, its data) for ever; anything but data is an error."""
        async for operation, kind, payload in self.frames():
            assert kind == "next" and not payload.get("errors"), (operation, kind, payload)
            yield operation, payload["data"]

    async def frames(self) -> AsyncIterator[tuple[str, str, Any]]:
        """(operation, kind of message, payload) for ever; pings are answered."""
        async for text in self._connection:
            message = json.loads(text)
            if message["type"] == "ping":
                await self._send({"type": "pong"})
            else:
                yield message["id"], message["type"], message.get("payload")

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._connection.send(json.dumps(message))


@asynccontextmanager
async def opened(url: str, key: str, *, stalled: bool = False) -> AsyncIterator[Socket]:
    """A socket that has said who it is; a stalled one has next to no room for what it is sent, and reads none of it."""
    address = urlsplit(url)
    options: dict[str, Any] = {"subprotocols": [PROTOCOL], "max_size": None, "ping_interval": None}
    if stalled:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (address.hostname, address.port))
        options |= {"sock": raw, "max_queue": 1}
    connection = await connect(f"ws://{address.netloc}/graphql", **options)
    try:
        said = {"type": "connection_init", "payload": {"Authorization": f"Bearer {key}"}}
        await connection.send(json.dumps(said))
        assert json.loads(await connection.recv())["type"] == "connection_ack"
        yield Socket(connection)
    finally:
        if stalled:
            connection.transport.abort()
        else:
            await connection.close()
