"""Crashes under load: kill -9 of the server process, `stop -m immediate` of the database. Nothing may be lost."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.reliability.client import Client, Doors, Journal, found_tenant
from tests.reliability.judgement import judge
from tests.reliability.life import lived
from tests.reliability.site import Server, Site
from tests.reliability.tally import Limit, Tally

CLIENTS = 24
TENANTS = 3
# How much is settled between two crashes, so that each happens under load.
SETTLED_MIN = 25
SETTLED_WITHIN_SECONDS = 60
BARRIER_SECONDS_MAX = 5.0

# A barrier holds what the writer needs next; the crash comes when it waits there.
BEFORE_HEAD = "SELECT 1 FROM ledger_head FOR UPDATE"
BEFORE_HEAD_WAITS = "SELECT global_sequence, recorded_at FROM ledger_head%"
# Its events are written then, its positions are not.
BEFORE_ROWS = "LOCK TABLE positions IN SHARE MODE"
BEFORE_ROWS_WAITS = "%TO positions%"
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND (query ILIKE $1 OR query ILIKE $2)
"""


@asynccontextmanager
async def _judged(tally: Tally, site: Site, doors: Doors) -> AsyncIterator[Client]:
    """Clients at work for the length of the block; then the journal is held against the database."""
    journal = Journal(site.folder / f"journal-{time.monotonic_ns()}.jsonl")
    client = Client(doors, journal)
    try:
        tenants = [await found_tenant(client, site.root_key, f"Trust {n}") for n in range(TENANTS)]
        async with lived(client, tenants, tally, CLIENTS) as lives:
            yield client
        tally.counts["outcomes open at first"] = client.open_outcomes.total()
        tally.notes["of them"] = ", ".join(f"{name} {n}" for name, n in client.open_outcomes.most_common(4))
        async with site.connected() as owner:
            await judge(journal, owner, [asset for life in lives for asset in life.assets], tally)
        report = await site.verify()
        tally.require(report.is_clean, f"verify: {report.findings[:3]}")
    finally:
        client.close()
        journal.close()


async def kill_servers(tally: Tally, limit: Limit, site: Site) -> None:
    """Kill the server again and again, at random moments and at those that hurt most; another one takes over."""
    async with site.serving() as (first,), _judged(tally, site, doors := Doors(first.url)) as client:
        current = first
        while limit.more(tally.reached):
            # The next process boots while the load goes on: that takes longer than all the rest.
            following = site.start_server()
            await _some_settled(client)
            tally.counts["under way when killed"] += client.under_way
            await CRASHES[tally.reached % len(CRASHES)](site, current)
            doors.close(current.url)
            tally.reached += 1
            await following.ready()
            current = following
            doors.open(current.url)
        await _some_settled(client)


async def _at_random(_site: Site, server: Server) -> None:
    await asyncio.sleep(random.uniform(0, 0.3))
    server.kill()


async def _before_the_answer(_site: Site, server: Server) -> None:
    """What was sent to the database is committed, and nobody is told."""
    await asyncio.sleep(random.uniform(0, 0.1))
    server.signal(signal.SIGSTOP)
    await asyncio.sleep(random.uniform(0, 0.05))
    server.kill()


async def _before_head(site: Site, server: Server) -> None:
    await _at_barrier(site, server, BEFORE_HEAD, (BEFORE_HEAD_WAITS, BEFORE_HEAD_WAITS))


async def _before_rows(site: Site, server: Server) -> None:
    await _at_barrier(site, server, BEFORE_ROWS, ("INSERT INTO positions%", "%UPDATE positions%"))


async def _at_barrier(site: Site, server: Server, hold: str, waits: tuple[str, str]) -> None:
    async with site.connected() as owner, site.connected() as watch:
        async with owner.transaction():
            await owner.execute(hold)
            deadline = time.monotonic() + BARRIER_SECONDS_MAX
            waiting = 0
            while not waiting and time.monotonic() < deadline:
                waiting = await watch.fetchval(WAITING, *waits)
            server.kill()


CRASHES = (_at_random, _before_the_answer, _before_head, _before_rows, _at_random)


async def crash_database(tally: Tally, limit: Limit, site: Site) -> None:
    """Crash the database again and again; the server stays up and serves again by itself."""
    slowest = 0.0
    async with site.serving(relayed=True) as (server,), _judged(tally, site, Doors(server.url)) as client:
        while limit.more(tally.reached):
            await _some_settled(client)
            tally.counts["under way when crashed"] += client.under_way
            await asyncio.sleep(random.uniform(0, 0.2))
            if tally.reached % 3 == 2:
                await site.crash_backend()
            else:
                site.crash_database()
            tally.reached += 1
            began = time.monotonic()
            await _some_settled(client, 1)
            slowest = max(slowest, time.monotonic() - began)
            tally.require(server.is_alive, "the server ended with the database")
        await _some_settled(client)
        await server.ready()
    tally.notes["slowest to serve again"] = f"{slowest:.1f} s"


async def _some_settled(client: Client, count: int = SETTLED_MIN) -> None:
    async with asyncio.timeout(SETTLED_WITHIN_SECONDS):
        await client.settle(count)
