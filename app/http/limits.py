"""What is refused, bounded or added before any work is done for a request."""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.http import exchange
from app.http.wire import RefusedError, refusal

log = logging.getLogger("escrowgrid.http")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
FORWARDED_HOPS_MAX = 32

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


def request_id(headers: Headers) -> str:
    """The caller's X-Request-Id when it is a plain short word, else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)


def idempotency_key(headers: Headers) -> str | None:
    """The Idempotency-Key header, which serves a document with one mutation; anything unusable is refused."""
    given = headers.get("idempotency-key", "").strip()
    if not given:
        return None
    if IDEMPOTENCY_KEY.fullmatch(given) is None:
        raise RefusedError(400, "BAD_REQUEST", "Idempotency-Key has at most 255 printable ASCII characters")
    return given


def networks(addresses: Iterable[str]) -> tuple[Network, ...]:
    """The proxies whose word is believed: addresses or CIDR ranges; raises ValueError for anything else."""
    return tuple(ip_network(address, strict=False) for address in addresses)


def client_address(scope: Scope, headers: Headers, trusted: Sequence[Network]) -> str | None:
    """Who really asks: the rightmost address that is no trusted proxy, as far as trusted proxies tell."""
    peer: str | None = scope["client"][0] if scope.get("client") else None
    found = _address(peer) if trusted and peer is not None else None
    if found is None:
        return peer
    hops = [hop for line in headers.getlist("x-forwarded-for") for hop in line.split(",")]
    for hop in reversed(hops[-FORWARDED_HOPS_MAX:]):
        told = _address(hop) if _within(found, trusted) else None
        if told is None:
            break
        found = told
    return str(found)


def _address(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _within(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)


class AnswerHeaders:
    """Adds the request id and the security headers to every answer that does not set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on, adding; no frame stays behind for as long as a socket lives."""
        if scope["type"] not in {"http", "websocket"}:
            return self.app(scope, receive, send)
        named = (b"x-request-id", exchange.of(scope).request_id.encode())

        async def adding(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                headers = list(message.get("headers", ()))
                present = {name for name, _ in headers}
                added = (header for header in SECURITY_HEADERS if header[0] not in present)
                message["headers"] = [*headers, named, *added]
            await send(message)

        return self.app(scope, receive, adding)


class Compressed(GZipMiddleware):
    """Compresses for those who ask for it; others' GraphQL answers, which no cache keeps, are left alone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, compressing."""
        if scope["type"] == "http" and scope["path"] == "/graphql":
            accepted = next((value for name, value in scope["headers"] if name == b"accept-encoding"), b"")
            if b"gzip" not in accepted:
                await self.app(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class Guard:
    """Bounds the body while it arrives, and turns whatever goes wrong inside into JSON."""

    def __init__(self, app: ASGIApp, body_bytes_max: int, body_seconds_max: float) -> None:
        self.app = app
        self._body_bytes_max = body_bytes_max
        self._body_seconds_max = body_seconds_max

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on, guarded; no frame stays behind for as long as a socket lives."""
        if scope["type"] == "http":
            return self._http(scope, receive, send)
        if scope["type"] == "websocket":
            return self._websocket(scope, receive, send)
        return self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = exchange.of(scope)
        started = False

        async def watching(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        refused = None
        try:
            self._check_length(scope)
            await self.app(scope, self._bounded(receive), watching)
        except ClientDisconnect:
            return
        except RefusedError as error:
            refused = error
        except Exception:
            log.exception("request %s: unexpected error", known.request_id)
            words = f"something went wrong on our side; request id {known.request_id}"
            refused = RefusedError(500, "INTERNAL", words, requestId=known.request_id)
        if refused is not None:
            known.note_error(refused.code)
        if refused is not None and not started:
            await refusal(refused)(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except (WebSocketDisconnect, OSError):
            return  # gone before it was accepted
        except Exception:
            known = exchange.of(scope)
            known.note_error("INTERNAL")
            log.exception("socket %s: unexpected error", known.request_id)
            with suppress(Exception):
                await send(
                    {"type": "websocket.close", "code": 1011, "reason": "something went wrong on our side"}
                )

    def _check_length(self, scope: Scope) -> None:
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length[:20]) > self._body_bytes_max:
            raise self._too_large()

    def _too_large(self) -> RefusedError:
        words = f"the body has more than {self._body_bytes_max} bytes"
        return RefusedError(413, "PAYLOAD_TOO_LARGE", words, limit="body_bytes_max", max=self._body_bytes_max)

    def _bounded(self, receive: Receive) -> Receive:
        seen = 0
        over = False
        deadline = asyncio.get_running_loop().time() + self._body_seconds_max

        async def bounded() -> Message:
            nonlocal seen, over
            if over:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise RefusedError(408, "REQUEST_TIMEOUT", "the body did not arrive in time") from None
            seen += len(message.get("body", b""))
            over = not message.get("more_body", False)
            if seen > self._body_bytes_max:
                raise self._too_large()
            return message

        return bounded
