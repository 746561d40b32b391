"""One institution's events to 100, 1,000 and 5,000 subscribers over real sockets, beside plain Strawberry's streams."""

import asyncio
import json
import time

from benchmarks.client import Client, place
from benchmarks.listener import Listener, Told, subscribed
from benchmarks.machine import Row, median
from benchmarks.peers import node
from benchmarks.server import ROOT_KEY, Served, database, serving
from benchmarks.writes import CREATE

# How many subscribers, and how many events each is told in a run.
SIZES = {100: 60, 1_000: 30, 5_000: 8}
# Plain Strawberry pays for every delivery: fewer events say as much, and 5,000 would say nothing else.
NAIVE_SIZES = {100: 20, 1_000: 8}
AT_ONCE = 50
# Before the next event everybody has been told this one, and then there is this much quiet.
QUIET_SECONDS = 0.05
DOCUMENT = (
    "subscription { ledgerEvents { cursor node { id sequence positionId newState amountMoved currency "
    "balancesAfter { held } recordedAt } } }"
)


class Crowd:
    """So many subscribers of one server, and who writes what they are told."""

    def __init__(self, served: Served, secret: str, asset: str, size: int, events: int) -> None:
        self._served, self._secret, self._asset = served, secret, asset
        self._size, self._events = size, events
        self._subscribers: list[Listener] = []
        self.kib_each = 0.0
        self.cpu_us: list[float] = []
        self.p50: list[float] = []
        self.p99: list[float] = []
        self.errors = 0

    async def gather(self) -> None:
        """All of them subscribe, some at a time."""
        empty = self._served.memory_bytes
        while len(self._subscribers) < self._size:
            few = min(AT_ONCE, self._size - len(self._subscribers))
            self._subscribers += await asyncio.gather(
                *(subscribed(self._served.port, self._secret, DOCUMENT) for _ in range(few))
            )
        await asyncio.sleep(1)
        self.kib_each = (self._served.memory_bytes - empty) / self._size / 1024

    async def tell(self) -> None:
        """One run: each event is told to everybody before the next is written."""
        writer = await Client(self._served.port, self._secret).open()
        terms = {"assetId": self._asset, "holderReference": "BENCH", "currency": "USD", "amount": "10.00"}
        told: list[float] = []
        cpu = self._served.cpu_seconds
        for _ in range(self._events):
            listening = [subscriber.next() for subscriber in self._subscribers]
            await asyncio.sleep(QUIET_SECONDS)
            began = time.perf_counter()
            await writer.ask(CREATE, i=terms)
            told += [one[0] - began for one in await asyncio.gather(*listening) if one and _is_event(one)]
        cpu = self._served.cpu_seconds - cpu
        await writer.close()
        told.sort()
        self.errors += self._events * self._size - len(told)
        self.cpu_us.append(cpu / (self._events * self._size) * 1e6)
        self.p50.append(told[len(told) // 2] * 1000)
        self.p99.append(told[int(len(told) * 0.99)] * 1000)

    async def leave(self) -> None:
        """All of them hang up."""
        for one in self._subscribers:
            one.close()
        await asyncio.sleep(1)


def _is_event(told: Told) -> bool:
    message = json.loads(told[1])
    return message["type"] == "next" and not message["payload"].get("errors")


async def _measured(ours: Served, naive: Served, runs: int) -> list[Row]:
    root = await Client(ours.port, ROOT_KEY).open()
    secret, asset = await place(root)
    await root.close()
    rows: list[Row] = []
    for size, events in SIZES.items():
        crowds = [Crowd(ours, secret, asset, size, events)]
        if size in NAIVE_SIZES:
            crowds.append(Crowd(naive, "", "ast_bench", size, NAIVE_SIZES[size]))
        for crowd in crowds:
            await crowd.gather()
        for _ in range(runs):
            for crowd in crowds:
                await crowd.tell()
        for crowd in crowds:
            await crowd.leave()
        rows += _rows(size, *crowds)
    return rows


def _rows(size: int, ours: Crowd, naive: Crowd | None = None) -> list[Row]:
    errors = ours.errors + (naive.errors if naive else 0)
    figures = {
        "cpu_us_max": round(max(ours.cpu_us), 1),
        "cpu_us": median(ours.cpu_us),
        "kib_each": round(ours.kib_each, 1),
    }
    latency = {"p50_ms": median(ours.p50), "p99_ms": median(ours.p99), "p99_ms_max": round(max(ours.p99), 1)}
    if naive is not None:
        figures |= {
            "strawberry_cpu_us": median(naive.cpu_us),
            "strawberry_kib_each": round(naive.kib_each, 1),
            "vs_strawberry": round(median(naive.cpu_us) / median(ours.cpu_us), 2),
        }
        latency |= {"strawberry_p50_ms": median(naive.p50), "strawberry_p99_ms": median(naive.p99)}
    note = "from before the mutation is sent; one client process reads all sockets on the same cores"
    return [
        Row(f"fanout_{size}", figures, errors, "the mutation that is told included"),
        Row(f"fanout_latency_{size}", latency, errors, note),
    ]


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    with (
        database() as address,
        serving(address) as ours,
        node.naive(address.owner_url or address.url) as naive,
    ):
        return asyncio.run(_measured(ours, naive, runs))
