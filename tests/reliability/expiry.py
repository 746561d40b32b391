"""Thousands of deadlines pass at once, several clerks and an impatient client are at it, servers are killed."""

import asyncio
import random
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg

from app.errors import Denied, Refusal
from app.main import Parts
from app.storage.losses import CONNECTION_LOST
from tests.reliability.client import Client, Doors, Tenant, connected, found_tenant, refusal_of
from tests.reliability.site import Site
from tests.reliability.stream import two_parts
from tests.reliability.tally import Limit, Tally, rounds

SERVER_SETTINGS = {"EXPIRY_TICK_SECONDS": "0.1", "LEASE_SECONDS": "1.5"}
AT_ONCE = 100
# A slow machine still opens so many before they are due.
OPENED_A_SECOND = 150
CLERKS_EACH = 1
KILL_PAUSE_SECONDS = 0.7
DUE_IN_SECONDS_MIN = 2.0
EXPIRED_WITHIN_SECONDS = 120
# Released by somebody before their deadline: these must not expire.
RELEASED_SHARE = 0.1
LEFT = "SELECT count(*) FROM positions WHERE institution_id = $1 AND closed_at IS NULL"
ENDS = """
SELECT position_id, count(*) FILTER (WHERE new_state = 'EXPIRED') AS expired,
       count(*) FILTER (WHERE new_state = 'RELEASED') AS released,
       max(recorded_at) AS last
FROM ledger_events WHERE institution_id = $1 GROUP BY position_id
"""


async def deadlines(tally: Tally, limit: Limit, site: Site, *, positions: int) -> None:
    """Round after round of so many positions that are due at the same moment."""
    async with (
        site.serving(2, settings=SERVER_SETTINGS) as servers,
        connected(*servers) as client,
        two_parts(site, expiry_tick_seconds=0.1) as both,
    ):
        for _ in rounds(limit, tally):
            tenant = await found_tenant(client, site.root_key, "Expiry Trust")
            due = datetime.now(UTC) + timedelta(seconds=DUE_IN_SECONDS_MIN + positions / OPENED_A_SECOND)
            released = await _open(client, tenant, positions, due)
            await _expire(tally, site, client.doors, both, tenant, due)
            async with site.connected() as owner:
                await _judge(tally, owner, tenant, positions, released, due)
            tally.reached += positions


async def _open(client: Client, tenant: Tenant, positions: int, due: datetime) -> set[str]:
    """Positions with one deadline, all funded; some are released in time."""
    ids: list[str] = []
    terms = {"assetId": tenant.asset_id, "holderReference": "H", "currency": "USD", "amount": "10.00"}
    for _ in range(0, positions, AT_ONCE):
        keys = [str(uuid.uuid4()) for _ in range(AT_ONCE)]
        items = [{**terms, "expiresAt": due.isoformat(), "idempotencyKey": key} for key in keys]
        made = await client.command(tenant, "createPositions", keys, items=items)
        ids += [result["position"]["id"] for result in made]
    some = random.sample(ids, int(positions * RELEASED_SHARE))
    for state in ("FUNDED", "RELEASED"):
        for start in range(0, len(some), AT_ONCE):
            chosen = some[start : start + AT_ONCE]
            keys = [str(uuid.uuid4()) for _ in chosen]
            items = [
                {"id": id_, "toState": state, "idempotencyKey": key}
                for id_, key in zip(chosen, keys, strict=True)
            ]
            answers = await client.command(tenant, "transitionPositions", keys, items=items)
            assert all(refusal_of(answer) is None for answer in answers), "the deadline is far enough away"
    return set(some)


async def _expire(
    tally: Tally, site: Site, doors: Doors, both: list[Parts], tenant: Tenant, due: datetime
) -> None:
    """Until nothing is open: both servers' clerks, clerks without any lease, and kills."""
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for parts in both:
            for _ in range(CLERKS_EACH):
                group.create_task(_clerk(parts, done))
        group.create_task(_kills(tally, site, doors, due, done))
        deadline = time.monotonic() + EXPIRED_WITHIN_SECONDS
        async with site.connected() as owner:
            while left := await owner.fetchval(LEFT, tenant.id):
                if time.monotonic() > deadline:
                    tally.lose(f"{left} positions never expired")
                    break
                await asyncio.sleep(0.1)
        done.set()


async def _clerk(parts: Parts, done: asyncio.Event) -> None:
    """One that works at the same time as the one with the lease, as after a long pause of its process."""
    while not done.is_set():
        with suppress(*CONNECTION_LOST, Denied, Refusal):
            await parts.clerk.settle_due()
        await asyncio.sleep(random.uniform(0.2, 0.6))


async def _kills(tally: Tally, site: Site, doors: Doors, due: datetime, done: asyncio.Event) -> None:
    """Servers die while they expire; each is followed by another."""
    await asyncio.sleep(max(0, (due - datetime.now(UTC)).total_seconds()))
    while not done.is_set():
        await asyncio.sleep(random.uniform(0, KILL_PAUSE_SECONDS))
        server = random.choice([server for server in site.servers if server.is_alive])
        server.kill()
        doors.close(server.url)
        tally.counts["servers killed"] += 1
        (following,) = await site.serve(settings=SERVER_SETTINGS)
        doors.open(following.url)


async def _judge(
    tally: Tally, owner: asyncpg.Connection, tenant: Tenant, positions: int, released: set[str], due: datetime
) -> None:
    ends = await owner.fetch(ENDS, tenant.id)
    tally.require(len(ends) == positions, f"{len(ends)} positions instead of {positions}")
    for row in ends:
        if row["expired"] > 1:
            tally.double(f"{row['position_id']} expired {row['expired']} times")
        if row["position_id"] in released:
            told = (row["released"], row["expired"])
            tally.require(told == (1, 0), f"{row['position_id']} was released, and is {told}")
        elif row["expired"] == 0:
            tally.lose(f"{row['position_id']} did not expire")
        elif row["last"] < due:
            tally.violate(f"{row['position_id']} expired before its deadline")
    tally.notes["last one after"] = f"{max((row['last'] - due).total_seconds() for row in ends):.1f} s"
