"""Raw connections that begin a request and do not end it are let go in time; whoever asks and waits is not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.http.patience import TOO_LATE

from .conftest import AUTH, Dial, Site, eventually

SECONDS = 0.5
# A busy machine may be late, but not early.
LATE = 5.0
READY = b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n"
UPGRADE = (
    b"GET /graphql HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
POST = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
KEY = b"authorization: " + AUTH["Authorization"].encode() + b"\r\n"


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"request_seconds_max": SECONDS}


@asynccontextmanager
async def raw(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Bytes in, bytes out."""
    url = urlsplit(site.url)
    assert url.hostname is not None
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def let_go(reader: asyncio.StreamReader) -> tuple[bytes, float]:
    """What was said until the connection ended, and when that was."""
    began = time.monotonic()
    said = await asyncio.wait_for(reader.read(), SECONDS + LATE)
    return said, time.monotonic() - began


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"G", b"HTTP/1.1 408 "),
        (b"GET /ready HTTP/1.1\r\nhost: x\r\n", b"HTTP/1.1 408 "),
        (UPGRADE, b"HTTP/1.1 408 "),
    ],
    ids=["nothing", "a byte", "a header without its end", "an upgrade without its end"],
)
async def test_a_request_that_is_never_whole_is_let_go(site: Site, sent: bytes, answer: bytes) -> None:
    async with raw(site) as (reader, writer):
        writer.write(sent)
        said, seconds = await let_go(reader)
    assert said.startswith(answer)
    assert bool(said) == bool(answer)
    assert SECONDS * 0.9 < seconds < SECONDS + LATE


@pytest.mark.parametrize(
    "body",
    [b"content-length: 100\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"],
    ids=["half of it", "a chunk"],
)
async def test_a_body_that_does_not_come_is_told_so_in_words(site: Site, body: bytes) -> None:
    async with raw(site) as (reader, writer):
        writer.write(POST + KEY + body)
        said = await asyncio.wait_for(reader.readuntil(b"in time"), SECONDS + LATE)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not arrive" in said


async def test_a_byte_now_and_then_wins_no_time(site: Site) -> None:
    async with raw(site) as (reader, writer):
        writer.write(b"GET /ready HTTP/1.1\r\nhost: ")

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(SECONDS / 10)

        dripping = asyncio.create_task(drip())
        try:
            said, seconds = await let_go(reader)
        except ConnectionResetError:
            said, seconds = b"", 0.0
        finally:
            dripping.cancel()
    assert seconds < SECONDS + LATE
    assert said in (b"", TOO_LATE)


async def test_a_kept_connection_has_the_same_time_for_its_next_request(site: Site) -> None:
    async with raw(site) as (reader, writer):
        for _ in range(3):
            writer.write(READY)
            assert (await reader.read(65_536)).startswith(b"HTTP/1.1 200 ")
            # Nothing is owed between two requests.
            await asyncio.sleep(SECONDS * 1.2)
        writer.write(b"GET /re")
        said, seconds = await let_go(reader)
        assert b"HTTP/1.1 408 " in said
        assert seconds > SECONDS * 0.9


async def test_an_answer_may_take_longer_and_so_may_a_socket(site: Site, dial: Dial) -> None:
    peer = await dial()
    await peer.subscribe("a", "subscription {count(to: 2, every: 1.5)}")
    body = b'{"query":"{slow(seconds: 1.5)}"}'
    async with raw(site) as (reader, writer):
        writer.write(POST + KEY + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), LATE)).startswith(b"HTTP/1.1 200 ")
    await peer.until("next")
    await peer.until("next")


async def test_many_that_say_nothing_are_all_let_go(site: Site) -> None:
    url = urlsplit(site.url)
    made = [await asyncio.open_connection(url.hostname, url.port) for _ in range(200)]
    said = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in made)), SECONDS + LATE)
    assert said == [b""] * 200
    for _, writer in made:
        writer.close()
    await eventually(lambda: all(reader.at_eof() for reader, _ in made))


CHUNKED = b"transfer-encoding: chunked\r\nconnection: close\r\n"
ASKING = b'{"query":"{viewer{id}}"}'
CHUNK = b"%x\r\n%b\r\n0\r\n" % (len(ASKING), ASKING)


async def told(site: Site, *sent: bytes) -> bytes:
    """What is said until the connection ends, well before its time is over."""
    async with raw(site) as (reader, writer):
        with suppress(ConnectionError):
            for part in sent:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
        said = b""
        with suppress(ConnectionError):
            while part := await asyncio.wait_for(reader.read(65_536), LATE):
                said += part
        return said


@pytest.fixture
def patient(overrides: dict[str, Any]) -> None:
    """Nothing ends because of the time."""
    overrides["request_seconds_max"] = 60.0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "header",
    [
        b"GET /ready HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /ready HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"GET /ready?" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /ready HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000,
        UPGRADE + b"x: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
    ids=["one line", "many lines", "a URL", "a line without end", "a handshake"],
)
async def test_a_header_that_is_too_large_is_refused_at_once(site: Site, header: bytes) -> None:
    assert (await told(site, header)).startswith(b"HTTP/1.1 431 ")
    assert (await told(site, header[:30_000], header[30_000:])).startswith(b"HTTP/1.1 431 ")


@pytest.mark.usefixtures("patient")
async def test_a_header_as_large_as_may_be_is_read(site: Site) -> None:
    header = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: " + b"a" * 65_000 + b"\r\n\r\n"
    assert (await told(site, header)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
async def test_what_follows_a_body_is_no_header(site: Site, apart: bool) -> None:
    head = POST + CHUNKED + b"\r\n"
    sent = [head, CHUNK + KEY + b"\r\n"] if apart else [head + CHUNK + KEY + b"\r\n"]
    assert (await told(site, *sent)).startswith(b"HTTP/1.1 401 ")
    keyed = POST + KEY + CHUNKED + b"\r\n" + CHUNK + b"x-more: y\r\n\r\n"
    assert (await told(site, keyed)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "around",
    [CHUNK + b"x: " + b"a" * 10_000_000, b"%x;" % len(ASKING) + b"a" * 10_000_000],
    ids=["a trailer", "an extension"],
)
async def test_what_comes_around_a_body_is_bounded(site: Site, around: bytes) -> None:
    assert not await told(site, POST + KEY + CHUNKED + b"\r\n" + around)


@pytest.mark.usefixtures("patient")
async def test_a_body_in_small_chunks_and_further_requests_are_read(site: Site) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % letter for letter in ASKING + b" " * 100_000) + b"0\r\n\r\n"
    request = POST + KEY + b"transfer-encoding: chunked\r\n\r\n" + chunks
    last = READY.replace(b"host: x", b"host: x\r\nconnection: close")
    assert (await told(site, request * 3 + last)).count(b"HTTP/1.1 200 ") == 4


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "more",
    [b"content-length: 3\r\n\r\nabc", b"x: y\r\n" * 200 + b"\r\n", b"x: " + b"a" * 9_000 + b"\r\n\r\n"],
    ids=["a body", "many lines", "a long line"],
)
async def test_a_handshake_that_is_not_understood_is_refused_at_once(site: Site, more: bytes) -> None:
    protocol = b"sec-websocket-protocol: graphql-transport-ws\r\n"
    assert (await told(site, UPGRADE + protocol + more)).startswith(b"HTTP/1.1 400 ")
