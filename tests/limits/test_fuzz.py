"""The front doors under generated requests and frames: no 5xx, nothing unmasked, no socket that hangs.

A few thousand by default. `make fuzz` runs FUZZ_CASES requests and as many frames, FUZZ_SEED for another run.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app import schema
from app.documents import service as trusted
from app.http.server import return_memory
from app.institutions.model import NewKey
from app.main import Parts
from app.settings import Settings
from tests import factories
from tests.conftest import ROOT_KEY
from tests.factories import Place
from tests.http.conftest import PROTOCOL
from tests.limits.conftest import Serve, Served
from tests.limits.nonsense import Nonsense

CASES = int(os.environ.get("FUZZ_CASES", "3000"))
SEED = int(os.environ.get("FUZZ_SEED", "20261122"))
IS_LONG = CASES > 10_000
# What a short run may take; a long one takes what it takes.
SECONDS_MAX = 25.0
AT_ONCE = 6
FRAMES_A_SOCKET = 25
# Here nothing is slow, however busy the machine is: what has not come by then never will.
HANGS_SECONDS = 60.0
CLOSE_CODES = {1000, 1002, 1007, 1009, 1013, 4400, 4401, 4403, 4408, 4409, 4429}
FREE = {"root_rate_capacity": 0, "rate_capacity": 0, "sensitive_capacity": 0, "address_capacity": 0}
PARTS = 8
# In the second half of a long run: what is kept is bounded, and most of it was filled in the first.
# Megabytes: of what C has not freed, and of what the process takes.
GROWTH_IN_USE_MAX = 16
GROWTH_TAKEN_MAX = 32
GROWTH_OBJECTS_MAX = 1.1


@pytest.fixture
async def ids(parts: Parts, place: Place) -> list[str]:
    """Things that are there, and things that are not."""
    positions = [await factories.position(parts.services, place.asset) for _ in range(5)]
    there = [place.institution.id, place.template.id, place.asset.id, *(one.id for one in positions)]
    return [*there, *(f"{one[:-1]}x" for one in there), "pos_0", "inst_", "evt_" + "0" * 26]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason for UNAVAILABLE here."""
    monkeypatch.setattr(trusted, "READ_SECONDS_MAX", HANGS_SECONDS)


@pytest.fixture
def core() -> Any:
    return schema.build(Settings())._schema


class Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2`: bytes, of all arenas; those in use in heaps, and in mappings of their own."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def malloced() -> int:
    """Bytes that C has asked for and not freed, whatever the allocator keeps beside them; 0 where nobody tells."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = Mallinfo
    told = libc.mallinfo2()
    return int(told.uordblks + told.hblkhd)


class Memory:
    """What the process takes, test and all, at the end of each part of a run; and what of it is in use."""

    def __init__(self) -> None:
        # As a server begins, too.
        return_memory()
        self.taken: list[int] = []
        self.malloced: list[int] = []
        self.objects: list[int] = []

    def look(self, done: int) -> None:
        if done * PARTS >= CASES * (len(self.taken) + 1):
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.taken.append(pages * os.sysconf("SC_PAGE_SIZE") // 2**20)
            self.malloced.append(malloced() // 2**20)
            self.objects.append(sys.getallocatedblocks())

    def is_flat(self) -> bool:
        if not IS_LONG:
            return True
        half = len(self.taken) // 2 - 1
        grown = self.objects[-1] / self.objects[half]
        in_use, taken = (sizes[-1] - sizes[half] for sizes in (self.malloced, self.taken))
        return in_use < GROWTH_IN_USE_MAX and taken < GROWTH_TAKEN_MAX and grown < GROWTH_OBJECTS_MAX

    def __str__(self) -> str:
        blocks = [number // 1000 for number in self.objects]
        taken, malloced, thousands = (" ".join(map(str, of)) for of in (self.taken, self.malloced, blocks))
        return f"{taken} MB, by C in use {malloced} MB, thousands of objects {thousands}"


def check_errors(errors: Any, seen: Counter[str], what: object) -> None:
    for error in errors:
        code = error["extensions"]["code"]
        seen[code] += 1
        assert code != "INTERNAL", (what, error)
        assert "Traceback" not in error["message"], (what, error)


async def send(port: int, request: bytes) -> bytes:
    """The answer to a request, or as much of a stream as comes at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(HANGS_SECONDS):
                while chunk := await reader.read(262_144):
                    answer += chunk
                    if b"text/event-stream" in answer:
                        break
        return answer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def check_answer(request: bytes, answer: bytes, seen: Counter[str]) -> None:
    if not answer:
        # Only what is no HTTP at all, or half of it, gets no answer.
        seen["no answer"] += 1
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    seen[f"{status // 100}xx"] += 1
    assert status < 500, (request, answer[:2000])
    assert b"Traceback" not in answer, request
    is_json = b"application/json" in head or b"application/graphql-response+json" in head
    if is_json and status != 206 and b"gzip" not in head and body and b"chunked" not in head.lower():
        try:
            found = json.loads(body)
        except ValueError:
            raise AssertionError((request, answer[:2000])) from None
        if isinstance(found, dict):
            check_errors(found.get("errors", ()), seen, request)


@pytest.mark.timeout(0 if IS_LONG else 170)
async def test_http(
    serve: Serve, core: Any, ids: list[str], key: NewKey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    nonsense = Nonsense(SEED, core, ids, [ROOT_KEY, key.secret])
    seen: Counter[str] = Counter()
    async with serve(**FREE) as server:
        port = int(server.url.rpartition(":")[2])
        began, done, memory = time.monotonic(), 0, Memory()

        async def work() -> None:
            nonlocal done
            while done < CASES and (IS_LONG or time.monotonic() - began < SECONDS_MAX):
                done += 1
                memory.look(done)
                request = nonsense.request()
                check_answer(request, await send(port, request), seen)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        assert (await server.http.get("/ready")).status_code == 200
    print(f"{done} requests in {time.monotonic() - began:.0f} s, memory {memory}: {dict(seen)}")
    assert done >= min(CASES, 500)
    assert memory.is_flat()
    assert seen["2xx"] > done / 10
    loud = [record.getMessage() for record in caplog.records if record.name.startswith("escrowgrid")]
    assert not loud


async def one_socket(server: Served, nonsense: Nonsense, keys: list[str], seen: Counter[str]) -> int:
    """Some frames, and then the socket answers a ping or is closed with a reason. Returns how many were sent."""
    chance, sent = nonsense.random, 0
    place = server.url.replace("http", "ws", 1) + "/graphql"
    async with connect(
        place,
        subprotocols=[PROTOCOL],
        ping_interval=None,
        proxy=None,
        open_timeout=HANGS_SECONDS,
        close_timeout=HANGS_SECONDS,
        max_size=None,
        max_queue=None,
    ) as socket:

        async def listen() -> None:
            async for text in socket:
                frame = json.loads(text)
                seen[frame["type"]] += 1
                payload = frame.get("payload")
                if frame["type"] == "error":
                    check_errors(payload, seen, text)
                elif frame["type"] == "next":
                    check_errors(payload.get("errors", ()), seen, text)
                elif frame["type"] == "pong" and payload == {"last": True}:
                    return

        try:
            if chance.random() < 0.95:
                authorization = f"Bearer {chance.choice(keys)}"
                init = {"type": "connection_init", "payload": {"authorization": authorization}}
                await socket.send(json.dumps(init))
            listening = asyncio.create_task(listen())
            try:
                for _ in range(FRAMES_A_SOCKET):
                    await socket.send(nonsense.frame())
                    sent += 1
                    if chance.random() < 0.2:
                        await asyncio.sleep(0.005)
                await socket.send('{"type":"ping","payload":{"last":true}}')
                await asyncio.wait_for(listening, HANGS_SECONDS)
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
        except ConnectionClosed:
            pass
    code = socket.close_code
    seen[f"closed {code}"] += 1
    assert code in CLOSE_CODES, (code, socket.close_reason)
    return sent


@pytest.mark.timeout(0 if IS_LONG else 170)
async def test_sockets(
    serve: Serve, core: Any, ids: list[str], key: NewKey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    keys = [ROOT_KEY, key.secret]
    nonsense = Nonsense(SEED + 1, core, ids, keys)
    seen: Counter[str] = Counter()
    async with serve(**FREE) as server:
        began, done, memory = time.monotonic(), 0, Memory()

        async def work() -> None:
            nonlocal done
            while done < CASES and (IS_LONG or time.monotonic() - began < SECONDS_MAX):
                sent = await one_socket(server, nonsense, keys, seen)
                done += sent
                memory.look(done)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        assert (await server.http.get("/ready")).status_code == 200
        await asyncio.sleep(0.5)
        assert len(server.app.state.live) == 0
    print(f"{done} frames in {time.monotonic() - began:.0f} s, memory {memory}: {dict(seen)}")
    assert done >= min(CASES, 500)
    assert memory.is_flat()
    assert seen["next"] > 50
    assert seen["pong"] > 20
    loud = [record.getMessage() for record in caplog.records if record.name.startswith("escrowgrid")]
    assert not loud
