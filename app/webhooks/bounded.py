"""Reads so much of a receiver's answer and no more: its head is parsed in the loop that everybody shares.

Without it a receiver that sends interim answers (1xx) without end keeps that loop busy for as long as an attempt may
take, and one with a head of many short lines for a good part of a second each time.
"""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

# Of one answer: interim answers, the head, and what comes of its body until enough of that is kept.
ANSWER_BYTES_MAX = 32_768
# What is parsed in one go, while nobody else has a turn.
READ_BYTES = 4_096
KEEPALIVE_SECONDS = 5.0


class BoundedStream(httpcore.AsyncNetworkStream):
    """A connection of which each request may read ANSWER_BYTES_MAX."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._left = ANSWER_BYTES_MAX

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next piece; raises `ReadError` behind the last one that may be read."""
        if self._left <= 0:
            raise httpcore.ReadError(f"the answer's head is longer than {ANSWER_BYTES_MAX} bytes")
        part = await self._inner.read(min(max_bytes, READ_BYTES), timeout)
        self._left -= len(part)
        return part

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send a part of a request; what answers it has the whole bound for itself."""
        self._left = ANSWER_BYTES_MAX
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """The same within TLS."""
        return BoundedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """What the connection beneath says of itself."""
        return self._inner.get_extra_info(info)


class BoundedNetwork(httpcore.AnyIOBackend):
    """Makes connections that are bounded."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect."""
        return BoundedStream(await super().connect_tcp(host, port, timeout, local_address, socket_options))


class BoundedTransport(httpx.AsyncHTTPTransport):
    """Sends requests over bounded connections."""

    def __init__(self, trust: ssl.SSLContext, connections_max: int) -> None:
        super().__init__(verify=trust, trust_env=False)
        # httpx does not let one say which network its pool is to use; the one that it made has no connection yet.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trust,
            max_connections=connections_max,
            max_keepalive_connections=connections_max,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=BoundedNetwork(),
        )
