"""What comes and goes on a socket: text frames of JSON, and the messages that a client may send in them."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from starlette.websockets import WebSocketDisconnect, WebSocketState
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.http.exceptions import NonTextMessageReceived, WebSocketDisconnected

from app.http import exchange
from app.http.operation import Asked
from app.http.wire import BadJsonError, RefusedError, decode, encode

if TYPE_CHECKING:
    from app.http.view import GraphQLView

ID_LENGTH_MAX = 255
TOO_BIG = 1009


class BadFrameError(ValueError):
    """A message that ends the socket with 4400; the words become the close reason."""


@dataclass(frozen=True, slots=True)
class Init:
    """connection_init: who asks."""

    payload: dict[str, object]


@dataclass(frozen=True, slots=True)
class Ping:
    """ping: whether we are there; its payload goes back."""

    payload: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class Pong:
    """pong: they are there."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """subscribe: run this, whatever kind of operation it is."""

    id: str
    asked: Asked


@dataclass(frozen=True, slots=True)
class Complete:
    """complete: no more of this."""

    id: str


Frame: TypeAlias = Init | Ping | Pong | Subscribe | Complete


def parse(message: object) -> Frame:
    """The message that decoded JSON, or what was wrong with it, makes; raises `BadFrameError`."""
    if isinstance(message, BadJsonError):
        raise BadFrameError(str(message))
    if not isinstance(message, dict):
        raise BadFrameError("a message is a JSON object")
    match message.get("type"):
        case "connection_init":
            return Init(_payload(message) or {})
        case "ping":
            return Ping(_payload(message))
        case "pong":
            _payload(message)
            return Pong()
        case "subscribe":
            return Subscribe(_id(message), _asked(message))
        case "complete":
            return Complete(_id(message))
        case str() as unknown:
            raise BadFrameError(f"there is no message of type {unknown[:40]!r}")
    raise BadFrameError("a message has a `type`")


def _payload(message: dict[str, object]) -> dict[str, object] | None:
    payload = message.get("payload")
    if payload is not None and not isinstance(payload, dict):
        raise BadFrameError("`payload` is an object")
    return payload


def _id(message: dict[str, object]) -> str:
    found = message.get("id")
    if not isinstance(found, str) or not 1 <= len(found) <= ID_LENGTH_MAX:
        raise BadFrameError(f"`id` is a string of 1 to {ID_LENGTH_MAX} characters")
    return found


def _asked(message: dict[str, object]) -> Asked:
    payload = _payload(message)
    if payload is None:
        raise BadFrameError("subscribe has a `payload`")
    try:
        return Asked.of(payload)  # type: ignore[arg-type]
    except RefusedError as error:
        raise BadFrameError(error.message) from None


class SocketAdapter(ASGIWebSocketAdapter):
    """Text frames of exact JSON; closes at most once, with a reason that fits."""

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        """Every frame until the socket is closed by either side."""
        view = cast("GraphQLView", self.view)
        frame_bytes_max = view.runner.services.settings.frame_bytes_max
        while self.ws.application_state is WebSocketState.CONNECTED:
            received = await self.ws.receive()
            if received["type"] == "websocket.disconnect":
                return
            text = received.get("text")
            if text is None:
                raise NonTextMessageReceived
            if len(text) > frame_bytes_max:
                await self.close(TOO_BIG, f"a frame has at most {frame_bytes_max} bytes")
                return
            try:
                message: object = decode(text)
            except BadJsonError as error:
                # As a message, so that it is told like whatever else is wrong with one.
                message = error
            yield message

    async def send_json(self, message: Mapping[str, object]) -> None:
        """One message as one frame."""
        await self.send_text(encode(message).decode())

    async def send_text(self, text: str) -> None:
        """One frame already spelled: live groups spell a result once for all their sockets."""
        if self.ws.application_state is not WebSocketState.CONNECTED:
            raise WebSocketDisconnected
        wire = exchange.of(self.ws.scope).wire
        assert wire is not None, "every socket has its server's own way out"
        try:
            await wire({"type": "websocket.send", "text": text})
        except (OSError, RuntimeError) as error:
            self.ws.application_state = WebSocketState.DISCONNECTED
            raise WebSocketDisconnected from error

    async def close(self, code: int, reason: str) -> None:
        """Close, unless it is closed."""
        if self.ws.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect, RuntimeError):
                await self.ws.close(code, reason)
