"""A thousand subscriptions over real sockets, each resumed from a cursor that some mutation was answered with."""

import asyncio
import random
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack

from tests.reliability import sockets
from tests.reliability.client import Client, Tenant, connected, found_tenant
from tests.reliability.site import Site
from tests.reliability.sockets import Socket
from tests.reliability.tally import Limit, Tally, rounds

SOCKETS = 20
OPERATIONS = 50
MISSED = 30
LIVE = 10
LEVEL_WITHIN_SECONDS = 90
RESUMED = (
    "subscription ($after: String!) { ledgerEvents(after: $after) { cursor node { id sequence newState } } }"
)


async def thousand_on_sockets(tally: Tally, limit: Limit, site: Site) -> None:
    """All of them are told what they missed and what comes, once and in order."""
    async with site.serving() as (server,), connected(server) as client:
        for _ in rounds(limit, tally):
            tenant = await found_tenant(client, site.root_key, "Returning Trust")
            cursors = [await _event(client, tenant) for _ in range(MISSED)]
            async with AsyncExitStack() as stack:
                opened = [
                    await stack.enter_async_context(sockets.opened(server.url, tenant.key))
                    for _ in range(SOCKETS)
                ]
                listening = [asyncio.create_task(_resumed(socket, cursors, tally)) for socket in opened]
                for _ in range(LIVE):
                    await _event(client, tenant)
                _done, late = await asyncio.wait(listening, timeout=LEVEL_WITHIN_SECONDS)
                for task in late:
                    tally.lose("a socket was never told everything")
                    task.cancel()
                await asyncio.gather(*listening, return_exceptions=bool(late))
            tally.reached += SOCKETS * OPERATIONS


async def _event(client: Client, tenant: Tenant) -> str:
    """One more event; its cursor."""
    key = str(uuid.uuid4())
    terms = {"assetId": tenant.asset_id, "holderReference": "H", "currency": "USD", "amount": "5"}
    (made,) = await client.command(tenant, "createPosition", [key], idempotencyKey=key, **terms)
    cursor: str = made["cursor"]
    return cursor


async def _resumed(socket: Socket, cursors: Sequence[str], tally: Tally) -> None:
    last = {}
    for number in range(OPERATIONS):
        place = random.randrange(len(cursors))
        last[str(number)] = place + 1
        await socket.subscribe(str(number), RESUMED, {"after": cursors[place]})
    behind = len(last)
    async for operation, data in socket.messages():
        sequence = data["ledgerEvents"]["node"]["sequence"]
        tally.counts["deliveries"] += 1
        if sequence <= last[operation]:
            tally.double(f"{sequence} came after {last[operation]}")
        elif sequence > last[operation] + 1:
            tally.lose(f"{sequence} came after {last[operation]}")
        last[operation] = sequence
        behind -= sequence == MISSED + LIVE
        if not behind:
            return
