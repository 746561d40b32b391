"""What a receiver answers costs little, however it answers."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from app.webhooks import sending
from app.webhooks.bounded import ANSWER_BYTES_MAX
from app.webhooks.model import Outcome
from app.webhooks.sending import Resolver, Sender
from tests.webhooks.receiver import Message, Receiver, Reply

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


@asynccontextmanager
async def answering(parts: AsyncIterator[bytes], sent: list[int]) -> AsyncIterator[str]:
    """A receiver that answers its first request with these bytes; `sent` counts those that it got rid of."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            async for part in parts:
                writer.write(part)
                await writer.drain()
                sent.append(len(part))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


async def answered(parts: AsyncIterator[bytes], *, timeout: float = 5.0) -> tuple[Outcome, float]:
    """What comes of an attempt, and after how long."""
    sender, loop = Sender(Resolver(), private=True, timeout=timeout), asyncio.get_running_loop()
    async with answering(parts, []) as url, sender.client() as client:
        began = loop.time()
        outcome = await sender.post(client, url, {"webhook-id": "x"}, b"{}")
        return outcome, loop.time() - began


async def without_end(part: bytes) -> AsyncIterator[bytes]:
    while True:
        yield part


@pytest.mark.parametrize(
    "part", [INTERIM * 500, b"HTTP/1.1 200 OK\r\nx:" + b"y" * 9_000], ids=["1xx", "head"]
)
async def test_a_head_without_end_is_not_read_to_the_end_of_the_attempt(part: bytes) -> None:
    outcome, seconds = await answered(without_end(part))
    assert outcome == Outcome(error=f"ReadError: the answer's head is longer than {ANSWER_BYTES_MAX} bytes")
    assert seconds < 2, "it was read for as long as an attempt may take"


async def test_each_answer_of_a_connection_has_the_bound_for_itself(receiver: Receiver) -> None:
    async def long_head(_message: Message) -> Reply:
        return Reply(200, {"x": "y" * 20_000})

    receiver.answer = long_head
    sender = Sender(Resolver(), private=True)
    async with sender.client() as client:
        for _ in range(3):
            assert (await sender.post(client, receiver.url, {"webhook-id": "x"}, b"{}")).status == 200
    assert receiver.connections == 1


async def test_of_a_body_in_many_small_chunks_the_status_counts() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 202 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        while True:
            yield b"1;" + b"x" * 9_000 + b"\r\na\r\n"

    outcome, _seconds = await answered(chunks())
    assert (outcome.status, outcome.error) == (202, None)


async def test_a_status_that_came_in_time_is_not_lost_to_a_body_that_drips_past_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "BODY_SECONDS", 0.6)

    async def late() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.4)
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"
        while True:
            yield b"a"
            await asyncio.sleep(0.05)

    outcome, seconds = await answered(late(), timeout=0.7)
    assert (outcome.status, outcome.error) == (200, None)
    assert seconds < 2


async def test_a_name_that_does_not_resolve_holds_one_thread_however_often_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go, asked = threading.Event(), []

    def addresses(host: str, _port: int) -> list[str]:
        asked.append(host)
        let_go.wait(20)
        return ["127.0.0.1"]

    monkeypatch.setattr(sending, "_addresses", addresses)
    resolver = Resolver()
    try:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await resolver.resolve("slow.test", 443)
        assert asked == ["slow.test"]
        let_go.set()
        assert await resolver.resolve("slow.test", 443) == ["127.0.0.1"]
    finally:
        let_go.set()
        resolver.close()
