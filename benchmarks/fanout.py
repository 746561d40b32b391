"""One institution's events to many subscribers of one document, over real sockets: CPU, latency, memory."""

import asyncio
import json
import time
from typing import Any

from websockets.asyncio.client import connect

from benchmarks.client import Client, place
from benchmarks.machine import Row, median
from benchmarks.server import ROOT_KEY, Served, serving
from benchmarks.writes import CREATE

SUBSCRIBERS = 1_000
EVENTS = 30
DOCUMENT = (
    "subscription { ledgerEvents { cursor node { id sequence positionId newState amountMoved currency "
    "balancesAfter { held } recordedAt } } }"
)


async def _subscribed(port: int, secret: str) -> Any:
    socket = await connect(
        f"ws://127.0.0.1:{port}/graphql", subprotocols=["graphql-transport-ws"], compression=None
    )  # type: ignore[list-item]
    await socket.send(
        json.dumps({"type": "connection_init", "payload": {"authorization": f"Bearer {secret}"}})
    )
    assert json.loads(await socket.recv())["type"] == "connection_ack"
    await socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": DOCUMENT}}))
    return socket


async def _measured(served: Served, runs: int) -> list[Row]:
    root = await Client(served.port, ROOT_KEY).open()
    secret, asset = await place(root)
    empty = served.memory_bytes
    sockets = [await _subscribed(served.port, secret) for _ in range(SUBSCRIBERS)]
    await asyncio.sleep(1)
    each_kib = (served.memory_bytes - empty) / SUBSCRIBERS / 1024
    writer = await Client(served.port, secret).open()
    cpu_us, p50, p99, errors = [], [], [], 0
    terms = {"assetId": asset, "holderReference": "BENCH", "currency": "USD", "amount": "10.00"}
    for _ in range(runs):
        told: list[float] = []
        committed: list[float] = []

        async def listen(socket: Any) -> None:
            for number in range(EVENTS):
                message = json.loads(await socket.recv())
                assert message["type"] == "next", message
                told.append(time.perf_counter() - committed[number])

        listening = [asyncio.create_task(listen(socket)) for socket in sockets]
        cpu = served.cpu_seconds
        for _ in range(EVENTS):
            committed.append(time.perf_counter())
            await writer.ask(CREATE, i=terms)
            await asyncio.sleep(0.25)
        await asyncio.gather(*listening)
        cpu_us.append((served.cpu_seconds - cpu) / (EVENTS * SUBSCRIBERS) * 1e6)
        told.sort()
        p50.append(told[len(told) // 2] * 1000)
        p99.append(told[int(len(told) * 0.99)] * 1000)
        errors += EVENTS * SUBSCRIBERS - len(told)
    for socket in sockets:
        await socket.close()
    note = "from before the mutation is sent; the client shares the cores"
    return [
        Row(
            "fanout_1000",
            {"cpu_us_max": max(cpu_us), "cpu_us": median(cpu_us), "kib_each": round(each_kib, 1)},
            errors,
        ),
        Row("fanout_latency_1000", {"p50_ms": median(p50), "p99_ms_max": max(p99)}, errors, note),
    ]


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    with serving() as served:
        return asyncio.run(_measured(served, runs))
