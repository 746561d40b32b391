"""Events to 100, 1,000 and 5,000 subscribers over real sockets, beside plain Strawberry's streams and PostGraphile's."""

import asyncio
import json
import time
from contextlib import ExitStack

from benchmarks.client import Client, place
from benchmarks.listener import Listener, Told, subscribed
from benchmarks.machine import Row, median
from benchmarks.peers import node
from benchmarks.server import ROOT_KEY, Served, database, serving
from benchmarks.streams import Stream, of_naive, of_ours, of_postgraphile

# How many subscribers, and how many events each is told in a run.
SIZES = {100: 60, 1_000: 30, 5_000: 8}
# The others pay for every delivery: 5,000 would say nothing else.
PEERS_SIZE_MAX = 1_000
AT_ONCE = 50
# Before the next event everybody has been told this one, and then there is this much quiet.
QUIET_SECONDS = 0.05
# What has not come by then is lost.
LOST_SECONDS = 20
POOL = 16


class Crowd:
    """So many subscribers of one stream, and who writes what they are told."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream, self._size = stream, size
        self._subscribers: list[Listener] = []
        self.name = stream.name
        self.kib_each = 0.0
        self.cpu_us: list[float] = []
        self.p50: list[float] = []
        self.p99: list[float] = []
        self.lost = self.wrong = 0

    async def gather(self) -> None:
        """All of them subscribe, some at a time."""
        stream = self._stream
        empty = stream.served.memory_bytes
        while len(self._subscribers) < self._size:
            few = min(AT_ONCE, self._size - len(self._subscribers))
            self._subscribers += await asyncio.gather(
                *(subscribed(stream.served.port, stream.secret, stream.document) for _ in range(few))
            )
        await asyncio.sleep(1)
        self.kib_each = (stream.served.memory_bytes - empty) / self._size / 1024

    async def tell(self) -> None:
        """One run: each event is told to everybody before the next is written."""
        stream, events = self._stream, SIZES[self._size]
        writer = await Client(stream.served.port, stream.secret).open()
        terms = {"assetId": stream.asset, "holderReference": "BENCH", "currency": "USD", "amount": "10.00"}
        seconds: list[float] = []
        cpu = stream.served.cpu_seconds
        for _ in range(events):
            listening = [subscriber.next() for subscriber in self._subscribers]
            await asyncio.sleep(QUIET_SECONDS)
            began = time.perf_counter()
            made = (await writer.ask(stream.create, i=terms))["done"]["position"]["id"]
            done, lost = await asyncio.wait(listening, timeout=LOST_SECONDS)
            told = [one.result() for one in done]
            right = [one[0] - began for one in told if one and _tells(one, made)]
            self.lost += len(lost)
            self.wrong += len(told) - len(right)
            seconds += right
        cpu = stream.served.cpu_seconds - cpu
        await writer.close()
        seconds.sort()
        self.cpu_us.append(cpu / (events * self._size) * 1e6)
        self.p50.append(seconds[len(seconds) // 2] * 1000)
        self.p99.append(seconds[int(len(seconds) * 0.99)] * 1000)

    async def leave(self) -> None:
        """All of them hang up."""
        for one in self._subscribers:
            one.close()
        await asyncio.sleep(1)


def _tells(told: Told, position: str) -> bool:
    message = json.loads(told[1])
    if message["type"] != "next" or message["payload"].get("errors"):
        return False
    (edge,) = message["payload"]["data"].values()
    return bool(edge["node"]["positionId"] == position)


async def _measured(ours: Served, naive: Served, postgraphile: Served | None, runs: int) -> list[Row]:
    root = await Client(ours.port, ROOT_KEY).open()
    secret, asset = await place(root)
    await root.close()
    peers = [of_naive(naive), *(of_postgraphile(postgraphile) if postgraphile else ())]
    rows: list[Row] = []
    for size in SIZES:
        streams = [of_ours(ours, secret, asset), *(peers if size <= PEERS_SIZE_MAX else ())]
        crowds = [Crowd(stream, size) for stream in streams]
        for crowd in crowds:
            await crowd.gather()
        for _ in range(runs):
            for crowd in crowds:
                await crowd.tell()
        for crowd in crowds:
            await crowd.leave()
        rows += _rows(size, *crowds)
    return rows


def _rows(size: int, ours: Crowd, *peers: Crowd) -> list[Row]:
    crowds = (ours, *peers)
    errors = sum(crowd.lost + crowd.wrong for crowd in crowds)
    cost = {"cpu_us_max": round(max(ours.cpu_us), 1)}
    latency = {"p99_ms_max": round(max(ours.p99), 1)}
    for crowd in crowds:
        label = "" if crowd is ours else f"{crowd.name}_"
        cost |= {f"{label}cpu_us": median(crowd.cpu_us), f"{label}kib_each": round(crowd.kib_each, 1)}
        latency |= {
            f"{label}p50_ms": median(crowd.p50),
            f"{label}p99_ms": median(crowd.p99),
            f"{label}lost": crowd.lost,
        }
    for peer in peers:
        cost[f"vs_{peer.name}"] = round(median(peer.cpu_us) / median(ours.cpu_us), 2)
    note = "from before the mutation is sent; one client process reads all sockets on the same cores"
    return [
        Row(f"fanout_{size}", cost, errors, "the mutation that is told included, the database apart"),
        Row(f"fanout_latency_{size}", latency, errors, note),
    ]


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    why_not = node.missing()
    with ExitStack() as stack:
        address = stack.enter_context(database())
        ours = stack.enter_context(serving(address))
        owner_url = address.owner_url or address.url
        naive = stack.enter_context(node.naive(owner_url))
        postgraphile = None if why_not else stack.enter_context(node.peer("streams", owner_url, POOL))
        return asyncio.run(_measured(ours, naive, postgraphile, runs))
