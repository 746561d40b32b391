"""A receiver of webhooks: a real HTTP server on this machine that writes down what it gets."""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    # Since when, by the loop's clock.
    at: float = 0.0

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.content["data"]


@dataclass(frozen=True)
class Reply:
    """What is answered."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Answer = Callable[[Message], Awaitable[Reply]]


async def thanks(_message: Message) -> Reply:
    return Reply()


class Receiver:
    """Answers as `answer` says; what it got is in `messages`, in the order it came."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[Message] = []
        self.answer: Answer = thanks
        self.open = 0
        self.open_most = 0
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (message := await _read(reader)) is not None:
                self.messages.append(message)
                self.open += 1
                self.open_most = max(self.open, self.open_most)
                try:
                    reply = await self.answer(message)
                finally:
                    self.open -= 1
                lines = [f"HTTP/1.1 {reply.status} Whatever", f"content-length: {len(reply.body)}"]
                lines += [f"{name}: {value}" for name, value in reply.headers.items()]
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]


async def _read(reader: asyncio.StreamReader) -> Message | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    request, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Message(request.split(" ")[1], headers, body, asyncio.get_running_loop().time())


@asynccontextmanager
async def receiving(*, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Receiver]:
    """A running receiver; with `port` at that one."""
    tasks: set[asyncio.Task[None]] = set()
    made = Receiver("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await made.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    made.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield made
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()


def verified(message: Message, secret: str, *, now: float | None = None, tolerance: float = 300) -> bool:
    """As Standard Webhooks 1.0 has receivers verify: any of the signatures is enough."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    timestamp = message.headers["webhook-timestamp"]
    if now is not None and abs(now - int(timestamp)) > tolerance:
        return False
    content = f"{message.id}.{timestamp}.".encode() + message.body
    wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return any(
        version == "v1" and hmac.compare_digest(signature, wanted)
        for version, _, signature in (
            one.partition(",") for one in message.headers["webhook-signature"].split(" ")
        )
    )
