"""Makes an attempt: resolves the name, checks its addresses, connects to one of them, reads a bounded answer."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from app.webhooks import targets
from app.webhooks.bounded import BoundedTransport
from app.webhooks.model import ERROR_LENGTH_MAX, RESPONSE_BYTES_MAX, Outcome
from app.webhooks.targets import BadTarget

TIMEOUT_SECONDS = 15.0
BODY_SECONDS = 2.0
CONNECT_SECONDS = 5.0
ADDRESSES_MAX = 3
CONNECTIONS_MAX = 8
# As many as lanes: a name that is slow to resolve holds a thread for longer than its attempt takes.
RESOLVERS_MAX = 256
AGENT = "Escrowgrid-Webhooks/1"


class Resolver:
    """Asks the system for the addresses of names, in threads of its own: a slow name delays nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS_MAX, thread_name_prefix="webhook-resolver")
        self._asked: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Every address of `host`, without repeats; raises OSError when there is none."""
        # Whoever asks again, as each attempt does, waits for the same answer: one name never holds two threads.
        asked = self._asked.get((host, port))
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[host, port] = loop.run_in_executor(self._threads, _addresses, host, port)
            asked.add_done_callback(lambda done: self._answered((host, port), done))
        return list(dict.fromkeys(await asyncio.shield(asked)))

    def _answered(self, name: tuple[str, int], answer: "asyncio.Future[list[str]]") -> None:
        del self._asked[name]
        # Looked at also where nobody waits any more: or it would be told as an error that nobody heard.
        if not answer.cancelled():
            answer.exception()

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Pinned(httpx.AsyncBaseTransport):
    """Connects to the very address that was checked, so that a name that changes its mind gains nothing.

    For the requests of one URL only: connections are kept by address, not by name.
    """

    def __init__(self, resolver: Resolver, trust: ssl.SSLContext, *, private: bool) -> None:
        self._resolver = resolver
        self._private = private
        self._inner = BoundedTransport(trust, CONNECTIONS_MAX)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send to the first address that takes the connection. The certificate is still that of the name."""
        targets.check_parts(request.url, private=self._private)
        url = request.url
        addresses = await self._resolver.resolve(targets.host_of(url), targets.port_of(url))
        if not self._private and not all(map(targets.is_public, addresses)):
            raise BadTarget("the name leads to an address that nothing is sent to")
        refusal: httpx.TransportError = httpx.ConnectError("the name has no address")
        for address in addresses[:ADDRESSES_MAX]:
            try:
                return await self._inner.handle_async_request(_pinned(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                refusal = error
        raise refusal

    async def aclose(self) -> None:
        """Close its connections."""
        await self._inner.aclose()


def _pinned(request: httpx.Request, address: str) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,  # Host among them, as the URL spells it
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": targets.host_of(request.url)},
    )


class Sender:
    """Makes attempts; what comes of one is always an `Outcome`, never an error."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        private: bool,
        trust: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._resolver = resolver
        self._private = private
        self._trust = trust
        self._timeout = timeout

    def client(self) -> httpx.AsyncClient:
        """A client for the attempts on one URL: no proxy, no redirect, no cookie."""
        if self._trust is None:
            self._trust = httpx.create_ssl_context()
        return httpx.AsyncClient(
            transport=Pinned(self._resolver, self._trust, private=self._private),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(self._timeout, connect=CONNECT_SECONDS),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def close(self) -> None:
        """Resolve nothing more."""
        self._resolver.close()

    async def post(
        self, client: httpx.AsyncClient, url: str, headers: Mapping[str, str], body: bytes
    ) -> Outcome:
        """Send one message and hear what is answered."""
        sent = {
            **headers,
            "content-type": "application/json",
            "user-agent": AGENT,
            "accept-encoding": "identity",
        }
        try:
            async with (
                asyncio.timeout(self._timeout) as limit,
                client.stream("POST", url, headers=sent, content=body) as answer,
            ):
                # What it answers is known: the body has a bound of its own, and takes nothing of that back.
                limit.reschedule(None)
                return await _heard(answer)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(error=f"there was no answer within {self._timeout:g} seconds")
        except BadTarget as error:
            return Outcome(error=str(error))
        except socket.gaierror as error:
            return Outcome(error=f"the name cannot be resolved: {error.strerror}")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError) as error:
            return Outcome(error=_words(f"{type(error).__name__}: {error}"))


async def _heard(answer: httpx.Response) -> Outcome:
    kept = b""
    # The status is known by now: a body that drips, or breaks off, changes nothing.
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(BODY_SECONDS), aclosing(_parts(answer)) as parts:
            async for part in parts:
                kept += part[: RESPONSE_BYTES_MAX - len(kept)]
                if len(kept) >= RESPONSE_BYTES_MAX:
                    break
    text = kept.decode("utf-8", "replace").replace("\x00", "")
    return Outcome(answer.status_code, None, text or None, _retry_after(answer))


async def _parts(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    async for part in answer.aiter_raw():
        yield part


def _retry_after(answer: httpx.Response) -> timedelta | None:
    said = answer.headers.get("retry-after", "")
    return timedelta(seconds=int(said)) if said.isascii() and said.isdigit() and len(said) < 8 else None


def _words(text: str) -> str:
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:ERROR_LENGTH_MAX]
