"""Subscribers that take nothing: they cost nobody else time, and the server no memory without bound."""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import httpx

from tests.reliability import sockets
from tests.reliability.client import Client, Tenant, connected, found_tenant
from tests.reliability.site import Server, Site
from tests.reliability.sockets import Socket
from tests.reliability.tally import Limit, Tally, milliseconds, percentile, rounds

LIVE = 3
STALLED = 10
RING_BYTES = 1 << 20
STALLED_SECONDS = 9
# What the kernels on both sides take in for somebody who reads nothing: some 4 MB.
FILLING = 110
FILLING_TEXT = "x" * 60_000
# What the events beside stalled sockets may cost in memory: the ring, and a message in the making for each socket.
GROWTH_BYTES_MAX = 64 << 20
LATENCY_FACTOR_MAX = 2.0
LATENCY_ALLOWANCE_SECONDS = 0.05
CLOSED_WITHIN_SECONDS = 30
EVERY_EVENT = """
subscription { ledgerEvents { cursor node {
  id sequence positionId positionVersion newState idempotencyKey requestId data evidence hash previousHash recordedAt
  balancesAfter { funded released refunded held } postings { account amount currency } actor { id role }
} } }
"""

HEAVY = "subscription { ledgerEvents { cursor node { id metadata } } }"


async def stalled_subscribers(tally: Tally, limit: Limit, site: Site, *, events: int) -> None:
    """The same stream of events to the same live subscribers, without stalled ones beside them and with."""
    settings = {"RING_BYTES_MAX": str(RING_BYTES), "STALLED_SOCKET_SECONDS": str(STALLED_SECONDS)}
    async with site.serving(settings=settings) as (server,), connected(server) as client:
        tenant = await found_tenant(client, site.root_key, "Stalled Trust")
        for _ in rounds(limit, tally):
            await _compare(tally, client, server, tenant, events)
            tally.reached += STALLED


async def _compare(tally: Tally, client: Client, server: Server, tenant: Tenant, events: int) -> None:
    async with AsyncExitStack() as stack:
        live = [await stack.enter_async_context(sockets.opened(server.url, tenant.key)) for _ in range(LIVE)]
        for number, socket in enumerate(live):
            await socket.subscribe(f"live-{number}", EVERY_EVENT)
        await _deliver(client, live, tenant, events // 4)  # warm
        quiet = await _deliver(client, live, tenant, events)
        before = server.resident_bytes
        for _ in range(STALLED):
            silent = await stack.enter_async_context(sockets.opened(server.url, tenant.key, stalled=True))
            await silent.subscribe("stalled", HEAVY)
        await _deliver(client, live, tenant, FILLING, {"text": FILLING_TEXT})
        stalled_since = time.monotonic()
        beside = await _deliver(client, live, tenant, events)
        growth = server.resident_bytes - before
        took = time.monotonic() - stalled_since
        tally.require(took < STALLED_SECONDS, f"they had been closed before the end: {took:.0f} s")
        await _until_closed(tally, server)
    quiet_p99, beside_p99 = percentile(quiet, 0.99), percentile(beside, 0.99)
    tally.counts["deliveries"] += len(quiet) + len(beside)
    tally.notes |= {
        "p99 quiet": milliseconds(quiet_p99),
        "p99 beside": milliseconds(beside_p99),
        "memory grew by": f"{growth / (1 << 20):.1f} MB",
        "p50 quiet": milliseconds(percentile(quiet, 0.5)),
        "p50 beside": milliseconds(percentile(beside, 0.5)),
    }
    allowed = LATENCY_FACTOR_MAX * quiet_p99 + LATENCY_ALLOWANCE_SECONDS
    tally.require(
        beside_p99 <= allowed, f"p99 {quiet_p99:.3f} s became {beside_p99:.3f} s beside stalled sockets"
    )
    tally.require(growth <= GROWTH_BYTES_MAX, f"memory grew by {growth:,} bytes")


async def _deliver(
    client: Client,
    live: Sequence[Socket],
    tenant: Tenant,
    events: int,
    metadata: Mapping[str, str] | None = None,
) -> list[float]:
    """How long from each command to each live subscriber that hears of it."""
    sent: dict[str, float] = {}
    taken: list[float] = []

    async def listen(socket: Socket) -> None:
        heard = 0
        async for _operation, data in socket.messages():
            taken.append(time.monotonic() - sent[data["ledgerEvents"]["node"]["idempotencyKey"]])
            heard += 1
            if heard == events:
                return

    async with asyncio.TaskGroup() as group:
        for socket in live:
            group.create_task(listen(socket))
        for _ in range(events):
            key = str(uuid.uuid4())
            sent[key] = time.monotonic()
            terms = {"assetId": tenant.asset_id, "holderReference": "H", "currency": "USD", "amount": "5"}
            await client.command(
                tenant, "createPosition", [key], idempotencyKey=key, metadata=metadata, **terms
            )
    return taken


async def _until_closed(tally: Tally, server: Server) -> None:
    """The server lets go of those who take nothing for the set time."""
    deadline = time.monotonic() + CLOSED_WITHIN_SECONDS
    async with httpx.AsyncClient() as client:
        while True:
            text = (await client.get(f"{server.url}/metrics")).text
            found = [line for line in text.splitlines() if line.startswith("escrowgrid_live_connections{")]
            open_now = sum(float(line.split()[-1]) for line in found)
            if open_now <= LIVE:
                return
            if time.monotonic() > deadline:
                tally.violate(
                    f"{open_now - LIVE:.0f} stalled sockets are still open after {CLOSED_WITHIN_SECONDS} s"
                )
                return
            await asyncio.sleep(0.2)
