"""Creating and moving positions over HTTP: one command a request at 1, 16 and 64 connections, and lists of 100."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from app.storage.database import Address
from benchmarks.client import Client, place
from benchmarks.machine import Row, median
from benchmarks.peers import node, sql
from benchmarks.server import ROOT_KEY, Served, database, serving

CREATE = (
    "mutation($i: CreatePositionInput!) { done: createPosition(input: $i) { position { id state version } cursor "
    "userErrors { code } } }"
)
FUND = (
    "mutation($i: MovePositionInput!) { done: fundPosition(input: $i) { position { id state version held } cursor "
    "userErrors { code } } }"
)
RELEASE = (
    "mutation($i: ReleasePositionInput!) { done: releasePosition(input: $i) { position { id state version held } "
    "event { sequence } cursor userErrors { code } } }"
)
LIST = (
    "mutation($i: TransitionPositionsInput!) { done: transitionPositions(input: $i) { results { position { version } "
    "userErrors { code } } userErrors { code } } }"
)
POSITIONS = 1_500
LIST_SIZE = 100
LIST_ROUNDS = 3
NAIVE_POSITIONS = 500

Job = tuple[str, dict[str, Any]]


class Tally:
    """What one load reached."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.latencies: list[float] = []
        self.errors = 0


async def load(clients: Sequence[Client], jobs: list[Job]) -> tuple[Tally, float]:
    """All jobs by all clients, each as fast as it is answered; returns seconds taken."""
    tally = Tally()

    async def work(client: Client) -> None:
        while jobs:
            query, variables = jobs.pop()
            begun = time.perf_counter()
            answer = (await client.ask(query, i=variables))["done"]
            tally.latencies.append(time.perf_counter() - begun)
            failed = answer.get("userErrors") or [
                e for r in answer.get("results", ()) for e in r["userErrors"]
            ]
            tally.errors += len(failed)
            tally.answers.append(answer)

    begun = time.perf_counter()
    await asyncio.gather(*(work(client) for client in clients))
    return tally, time.perf_counter() - begun


def figures(served: Served, count: int, tally: Tally, seconds: float, cpu: float) -> dict[str, float]:
    """Rate, latencies, CPU of the server process per command."""
    ordered = sorted(tally.latencies)
    return {
        "per_second": round(count / seconds, 1),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        "cpu_us": round((served.cpu_seconds - cpu) / count * 1e6),
    }


async def measured(served: Served, address: Address, runs: int) -> list[Row]:
    """Each figure is the median of its runs, which take turns."""
    root = await Client(served.port, ROOT_KEY).open()
    found: dict[str, list[dict[str, float]]] = {}
    errors = 0
    for _ in range(runs):
        secret, asset = await place(root)
        clients = [await Client(served.port, secret).open() for _ in range(64)]

        async def step(name: str, connections: int, jobs: list[Job], each: int = 1) -> list[Any]:
            nonlocal errors
            count, (commands, batches), cpu = len(jobs) * each, served.batches(), served.cpu_seconds
            tally, seconds = await load(clients[:connections], jobs)
            told = figures(served, count, tally, seconds, cpu)
            written = served.batches()
            told["batch"] = round((written[0] - commands) / (written[1] - batches), 1)
            found.setdefault(name, []).append(told)
            errors += tally.errors
            return tally.answers

        ids = await _steps(step, asset)
        viewer = (await clients[0].ask("{ viewer { institution { id } } }"))["viewer"]
        for client in clients:
            await client.close()
        lists = found["transition_batch"][-1]
        # In batches as large as those that the lists of the server were written in.
        size, url = round(lists["batch"]), address.owner_url or address.url
        lists["sql_per_second"] = round(
            await sql.transitions(url, viewer["institution"]["id"], ids, size, LIST_ROUNDS), 1
        )
        with node.naive(address.owner_url or address.url) as naive:
            found.setdefault("transition_naive", []).append(await _naive(naive))
    await root.close()
    return [_row(name, many, errors) for name, many in _compared(found).items()]


async def _naive(served: Served) -> dict[str, float]:
    clients = [await Client(served.port, "").open() for _ in range(64)]
    terms = {"assetId": "a", "holderReference": "BENCH", "currency": "USD", "amount": "100000.00"}
    made, _ = await load(clients, [(CREATE, terms)] * NAIVE_POSITIONS)
    ids = [answer["position"]["id"] for answer in made.answers]
    cpu = served.cpu_seconds
    tally, seconds = await load(clients, [(FUND, {"id": id}) for id in ids])
    assert not tally.errors, "the naive server did what it was asked"
    for client in clients:
        await client.close()
    return figures(served, len(ids), tally, seconds, cpu)


def _compared(found: dict[str, list[dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
    """With the ratio to the peer of the same run."""
    for ours, naive in zip(found["transition_single_64"], found["transition_naive"], strict=True):
        naive["vs_naive"] = ours["per_second"] / naive["per_second"]
    for ours in found["transition_batch"]:
        ours["vs_sql"] = ours["per_second"] / ours["sql_per_second"]
    return found


def _row(name: str, many: list[dict[str, float]], errors: int) -> Row:
    return Row(name, {key: median([one[key] for one in many]) for key in many[0]}, errors)


async def _steps(step: Callable[..., Awaitable[list[Any]]], asset: str) -> list[str]:
    terms = {"assetId": asset, "holderReference": "BENCH", "currency": "USD", "amount": "100000.00"}
    made = await step("create_single_64", 64, [(CREATE, terms)] * POSITIONS)
    ids = [answer["position"]["id"] for answer in made]
    await step("transition_single_64", 64, [(FUND, {"id": id}) for id in ids])
    release = [(RELEASE, {"id": id, "amount": "1.00"}) for id in ids]
    await step("transition_single_16", 16, list(release))
    await step("transition_single_1", 1, release[:300])
    items = [{"id": id, "toState": "PARTIALLY_RELEASED", "amount": "1.00"} for id in ids]
    lists = [(LIST, {"items": items[at : at + LIST_SIZE]}) for at in range(0, len(items), LIST_SIZE)]
    await step("transition_batch", 8, lists * LIST_ROUNDS, LIST_SIZE)
    return ids


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    with database() as address, serving(address, RATE_CAPACITY="0") as served:
        return asyncio.run(measured(served, address, runs))
