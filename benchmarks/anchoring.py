"""What anchoring costs those who move positions: with a chain that answers, and with one that hangs."""

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from pydantic import SecretStr

from app.anchoring.development import running
from benchmarks.client import Client, place
from benchmarks.machine import Row, median
from benchmarks.server import ROOT_KEY, Served, serving
from benchmarks.writes import CREATE, load

POSITIONS = 1_000
CONNECTIONS = 16
WAIT_SECONDS_MAX = 120
SUMMARY = (
    "{ ledgerHead { sequence } anchors(first: 1, where: {state: {eq: FINAL}}) { edges { node { size } } } }"
)


@contextmanager
def hanging() -> Iterator[str]:
    """The address of a node that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(128)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def spelled(chain: Mapping[str, object]) -> dict[str, str]:
    """Settings as the environment has them."""
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in chain.items()
    }


async def until_final(root: Client) -> float:
    """Seconds until all that has happened is in a final anchor."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < WAIT_SECONDS_MAX:
        told = await root.ask(SUMMARY)
        final = [edge["node"]["size"] for edge in told["anchors"]["edges"]]
        if final and int(final[0]) >= int(told["ledgerHead"]["sequence"]):
            return time.perf_counter() - begun
        await asyncio.sleep(0.1)
    raise RuntimeError("it was not anchored in time")


async def measured(servers: Mapping[str, Served], runs: int) -> list[Row]:
    """The servers take turns, so that what else the machine does falls on all of them."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    errors = dict.fromkeys(servers, 0)
    for _ in range(runs):
        for name, served in servers.items():
            root = await Client(served.port, ROOT_KEY).open()
            secret, asset = await place(root)
            await root.close()
            clients = [await Client(served.port, secret).open() for _ in range(CONNECTIONS)]
            terms = {"assetId": asset, "holderReference": "BENCH", "currency": "USD", "amount": "100000.00"}
            cpu = served.cpu_seconds
            tally, seconds = await load(clients, [(CREATE, {**terms})] * POSITIONS)
            ordered = sorted(tally.latencies)
            found[name].append(
                {
                    "per_second": POSITIONS / seconds,
                    "p50_ms": ordered[len(ordered) // 2] * 1000,
                    "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
                    "cpu_us": (served.cpu_seconds - cpu) / POSITIONS * 1e6,
                }
            )
            errors[name] += tally.errors
            for client in clients:
                await client.close()
    rows = [
        Row(name, {key: median([one[key] for one in many]) for key in many[0]}, errors[name])
        for name, many in found.items()
    ]
    root = await Client(servers["create_anchored"].port, ROOT_KEY).open()
    waited = await until_final(root)
    await root.close()
    note = "blocks every second, 3 confirmations"
    return [*rows, Row("anchored_after", {"seconds": round(waited, 2)}, note=note)]


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    with ExitStack() as stack:
        chain = spelled(stack.enter_context(running()))
        silent = chain | {"CHAIN_URL": stack.enter_context(hanging())}
        servers = {
            "create_not_anchored": stack.enter_context(serving(RATE_CAPACITY="0")),
            "create_anchored": stack.enter_context(serving(RATE_CAPACITY="0", **chain)),
            "create_node_hangs": stack.enter_context(serving(RATE_CAPACITY="0", **silent)),
        }
        return asyncio.run(measured(servers, runs))
