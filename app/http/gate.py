"""Limits who has no valid key, by address, before any work is done for them: before the body, before any look-up."""

import hashlib
import math
from asyncio import get_running_loop
from collections import OrderedDict
from collections.abc import Awaitable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from app.engine.masking import RATE_LIMITED
from app.http import exchange
from app.http.auth import secret_of
from app.http.exchange import Exchange
from app.http.metrics import Metrics
from app.http.wire import RefusedError, refusal
from app.kit.buckets import Buckets
from app.settings import Settings

EXEMPT = frozenset({"/health", "/ready", "/metrics"})
ADDRESSES_MAX = 20_000
FAMILIAR_MAX = 20_000
NEIGHBOURHOODS_MAX = 4_096
NETWORK_BITS = 64


class Doorman:
    """Knows the keys that were good a moment ago, by their hashes; everybody else is a stranger from an address."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._capacity = settings.address_capacity
        self._strangers = Buckets(
            settings.address_capacity, settings.address_refill_per_second, ADDRESSES_MAX
        )
        self._familiar: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._familiar)

    def admit(self, known: Exchange, secret: str | None) -> None:
        """Let in whoever is familiar; a stranger pays from the bucket of its address, or is refused with 429."""
        if not self._capacity or (secret is not None and _digest(secret) in self._familiar):
            return
        name, now = neighbourhood(known.client_address), get_running_loop().time()
        if self._strangers.take(name, now):
            known.is_stranger = True
            return
        self._metrics.limited("address")
        seconds = max(math.ceil(self._strangers.wait(name, now)), 1)
        raise RefusedError(
            429,
            RATE_LIMITED,
            f"too many requests without a valid key from this address; try again in {seconds} s",
            {
                "Retry-After": str(seconds),
                "RateLimit-Limit": str(self._capacity),
                "RateLimit-Remaining": "0",
                "RateLimit-Reset": str(seconds),
            },
            limit="address_capacity",
            max=self._capacity,
            retryAfter=seconds,
        )

    def welcome(self, known: Exchange, secret: str) -> None:
        """The key is good: what its bringer paid as a stranger is given back."""
        if not known.is_stranger:
            return
        known.is_stranger = False
        self._strangers.give_back(neighbourhood(known.client_address))
        self._familiar[_digest(secret)] = None
        if len(self._familiar) > FAMILIAR_MAX:
            self._familiar.popitem(last=False)

    def turn_away(self, known: Exchange, secret: str | None) -> None:
        """The key is no good (any more): from now on its bringer is a stranger."""
        if secret is not None and not known.is_stranger:
            self._familiar.pop(_digest(secret), None)


class Gate:
    """Has the doorman look at every request and handshake."""

    def __init__(self, app: ASGIApp, doorman: Doorman) -> None:
        self.app = app
        self._doorman = doorman

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on whom the doorman lets in; no frame stays behind for as long as a socket lives."""
        if scope["type"] in {"http", "websocket"} and scope["path"] not in EXEMPT:
            known = exchange.of(scope)
            known.secret = secret_of(Headers(scope=scope))
            try:
                self._doorman.admit(known, known.secret)
            except RefusedError as refused:
                if scope["type"] == "http":
                    raise
                known.note_error(refused.code)
                return deny(WebSocket(scope, receive, send), refused)
        return self.app(scope, receive, send)


async def deny(socket: WebSocket, refused: RefusedError) -> None:
    """Refuse a handshake, in words where the server knows how to."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(refusal(refused))
    else:
        await socket.close()


@lru_cache(maxsize=NEIGHBOURHOODS_MAX)
def neighbourhood(address: str | None) -> str:
    """Who is counted as one: an IPv4 address, the /64 of an IPv6 address, everybody without an address."""
    if address is None or ":" not in address:
        return address or ""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{int(found) >> (128 - NETWORK_BITS):x}/64"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
