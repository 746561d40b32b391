"""Events to 100, 1,000 and 5,000 subscribers over real sockets: ours, plain Strawberry's and PostGraphile's."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.client import Client
from benchmarks.listener import Listener, Told, subscribed
from benchmarks.machine import Row, median
from benchmarks.server import database, serving
from benchmarks.streams import Stream, beside, ours, peers

# How many subscribers, and how many events each is told in a run.
SIZES = {100: 60, 1_000: 30, 5_000: 8}
# The others pay for every delivery: 5,000 would say nothing else.
PEERS_SIZE_MAX = 1_000
AT_ONCE = 50
# Before the next event everybody has been told this one, and then there is this much quiet.
QUIET_SECONDS = 0.05
# What has not come by then is lost.
LOST_SECONDS = 20


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

    async def tell(self, warming: bool = False) -> None:
        """One run: each event is told to everybody before the next is written; one that warms up has no figures."""
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
        if warming:
            return
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


async def _measured(streams: Sequence[Stream], size: int, runs: int) -> list[Row]:
    crowds = [Crowd(stream, size) for stream in streams]
    for crowd in crowds:
        await crowd.gather()
    for run in range(runs + 1):
        for crowd in crowds:
            await crowd.tell(warming=not run)
    for crowd in crowds:
        await crowd.leave()
    return _rows(size, *crowds)


def _rows(size: int, mine: Crowd, *others: Crowd) -> list[Row]:
    crowds = (mine, *others)
    errors = sum(crowd.lost + crowd.wrong for crowd in crowds)
    cost = {"cpu_us_max": round(max(mine.cpu_us), 1)}
    latency = {"p99_ms_max": round(max(mine.p99), 1)}
    for crowd in crowds:
        label = "" if crowd is mine else f"{crowd.name}_"
        cost |= {f"{label}cpu_us": median(crowd.cpu_us), f"{label}kib_each": round(crowd.kib_each, 1)}
        latency |= {
            f"{label}p50_ms": median(crowd.p50),
            f"{label}p99_ms": median(crowd.p99),
            f"{label}lost": crowd.lost,
        }
    for other in others:
        cost[f"vs_{other.name}"] = round(median(other.cpu_us) / median(mine.cpu_us), 2)
    note = "from before the mutation is sent; one client process reads all sockets on the same cores"
    return [
        Row(
            f"fanout_{size}",
            cost,
            errors,
            f"the mutation that is told included, the database apart; {beside()}",
        ),
        Row(f"fanout_latency_{size}", latency, errors, note),
    ]


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    found: list[Row] = []
    with database() as address, serving(address) as served:
        for size in SIZES:
            # Peers begin afresh: what they kept from a smaller crowd would hide what a subscriber takes.
            with ExitStack() as stack:
                others = peers(stack, address.owner_url or address.url) if size <= PEERS_SIZE_MAX else []
                found += asyncio.run(_measured([asyncio.run(ours(served)), *others], size, runs))
    return found
