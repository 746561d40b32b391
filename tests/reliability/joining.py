"""A thousand subscribers come back to a server that has just started, each with a cursor of its own."""

import asyncio
import random
import time
from contextlib import aclosing

from app.ledger.ring import place
from app.ledger.tail import Tail
from app.main import Parts, assemble
from app.principal import ALL_INSTITUTIONS
from tests import factories
from tests.factories import Place
from tests.reliability.site import Site
from tests.reliability.stream import heads, settings_of
from tests.reliability.tally import Limit, Tally, milliseconds, percentile, rounds

SUBSCRIBERS = 1_000
TENANTS = 4
WRITTEN_AT_ONCE = 200
LEVEL_WITHIN_SECONDS = 90
# What the writers' pace is measured by, alone and among those who catch up.
PACED = 60
LIVE_EVENTS = 50


async def thousand_joining(tally: Tally, limit: Limit, site: Site, *, backlog: int) -> None:
    """All come to the head, each event once and in order; those who write meanwhile go on."""
    for _ in rounds(limit, tally):
        await _one_return(tally, site, backlog)
        tally.reached += SUBSCRIBERS


async def _one_return(tally: Tally, site: Site, backlog: int) -> None:
    writing = assemble(settings_of(site), site.address())
    async with writing.running():
        places = [await factories.place(writing.services, name=f"Many {n}") for n in range(TENANTS)]
        for done in range(0, backlog, WRITTEN_AT_ONCE):
            where = places[done // WRITTEN_AT_ONCE % TENANTS].asset
            commands = [await factories.opening(writing.services, where) for _ in range(WRITTEN_AT_ONCE)]
            await asyncio.gather(*(writing.services.writer.submit(command) for command in commands))
        quiet = await _paced(writing, places[0])
        # A fresh process remembers nothing: whoever joins it below its head is behind.
        fresh = assemble(settings_of(site), site.address())
        async with fresh.running():
            await _join(tally, site, fresh.services.tail, places, writing, quiet, backlog)
            tally.require(
                fresh.services.tail.ring_bytes <= fresh.services.settings.ring_bytes_max,
                "the ring is too heavy",
            )


async def _join(
    tally: Tally,
    site: Site,
    tail: Tail,
    places: list[Place],
    writing: Parts,
    quiet: list[float],
    backlog: int,
) -> None:
    async with site.connected() as owner:
        last = await heads(owner)
    scopes = [ALL_INSTITUTIONS, *(where.institution.id for where in places)]
    ends = {scope: last[scope] + PACED + LIVE_EVENTS for scope in scopes[:2]}
    began, used = time.monotonic(), time.process_time()
    tasks = []
    for number in range(SUBSCRIBERS):
        scope = scopes[number % len(scopes)]
        cursor = random.randint(max(0, last[scope] - backlog), last[scope])
        until = ends.get(scope, last[scope])
        tasks.append(asyncio.create_task(_subscriber(tail, scope, cursor, until, tally)))
    busy = await _paced(writing, places[0])
    tally.notes["writing p50 quiet"] = milliseconds(percentile(quiet, 0.5))
    tally.notes["writing p50 meanwhile"] = milliseconds(percentile(busy, 0.5))
    for _ in range(LIVE_EVENTS):
        await writing.services.writer.submit(await factories.opening(writing.services, places[0].asset))
    _done, late = await asyncio.wait(tasks, timeout=LEVEL_WITHIN_SECONDS)
    for task in late:
        tally.lose("a subscriber never came to the end")
        task.cancel()
    for task in _done:
        task.result()
    tally.notes["all level after"] = f"{time.monotonic() - began:.1f} s"
    tally.notes["CPU"] = f"{time.process_time() - used:.1f} s"


async def _subscriber(tail: Tail, scope: str, cursor: int, until: int, tally: Tally) -> None:
    last = await tail.place(scope, tail.epochs.cursor(scope, cursor))
    if last >= until:
        return
    async with aclosing(tail.stream(scope, last)) as pages:
        async for page in pages:
            numbers = [place(scope, event) for event in page]
            if numbers != list(range(last + 1, last + 1 + len(numbers))):
                tally.violate(f"{scope}: after {last} came {numbers[:3]}…{numbers[-1]}")
            last = numbers[-1]
            tally.counts["events read"] += len(numbers)
            if last >= until:
                return


async def _paced(writing: Parts, where: Place) -> list[float]:
    """How long commands take that come one after the other."""
    taken = []
    for _ in range(PACED):
        command = await factories.opening(writing.services, where.asset)
        began = time.monotonic()
        await writing.services.writer.submit(command)
        taken.append(time.monotonic() - began)
        await asyncio.sleep(0.005)
    return taken
