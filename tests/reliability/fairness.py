"""One institution floods, another works as ever: how much longer its commands take, measured side by side."""

import asyncio
import gc
import time

from app.main import Parts, assemble
from tests import factories
from tests.factories import Place
from tests.reliability.site import Site
from tests.reliability.stream import settings_of
from tests.reliability.tally import Limit, Tally, milliseconds, percentile, rounds

FLOOD = 256
CLIENTS = 4
ROUNDS = 3
COMMANDS = 30
PAUSE_SECONDS = 0.005
FACTOR_MAX = 2.0
# A neighbour on the machine can spoil a comparison; unfairness spoils each.
TRIES = 5


async def flooding(tally: Tally, limit: Limit, site: Site) -> None:
    """Rounds in turn, quiet and flooded, so that whatever else the machine does happens to both."""
    parts = assemble(settings_of(site), site.address())
    async with parts.running():
        quiet_one = await factories.place(parts.services, name="Quiet")
        loud_one = await factories.place(parts.services, name="Loud")
        for _ in rounds(limit, tally):
            for attempt in range(1, TRIES + 1):
                quiet, flooded = await _compared(tally, parts, quiet_one, loud_one)
                if flooded <= FACTOR_MAX * quiet:
                    break
                tally.require(attempt < TRIES, f"its p99 of {quiet:.3f} s became {flooded:.3f} s")
            tally.reached += 1


async def _compared(tally: Tally, parts: Parts, quiet_one: Place, loud_one: Place) -> tuple[float, float]:
    # What else this process holds (all that pytest has imported) is none of the server's garbage to look through.
    gc.collect()
    gc.freeze()
    quiet: list[float] = []
    flooded: list[float] = []
    for _ in range(ROUNDS):
        quiet += await _commands(parts, quiet_one)
        stopping = asyncio.Event()
        flood = [asyncio.create_task(_flood(parts, loud_one, stopping, tally)) for _ in range(FLOOD)]
        await asyncio.sleep(0.3)
        flooded += await _commands(parts, quiet_one)
        stopping.set()
        await asyncio.gather(*flood)
    gc.unfreeze()
    for name, taken in (("quiet", quiet), ("flooded", flooded)):
        told = (milliseconds(percentile(taken, share)) for share in (0.5, 0.99))
        tally.notes[f"{name} p50 and p99"] = " ".join(told)
    return percentile(quiet, 0.99), percentile(flooded, 0.99)


async def _commands(parts: Parts, where: Place) -> list[float]:
    """How long each of them takes, of a few clients at once."""
    taken: list[float] = []

    async def client() -> None:
        for _ in range(COMMANDS):
            command = await factories.opening(parts.services, where.asset)
            began = time.monotonic()
            await parts.services.writer.submit(command)
            taken.append(time.monotonic() - began)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return taken


async def _flood(parts: Parts, where: Place, stopping: asyncio.Event, tally: Tally) -> None:
    while not stopping.is_set():
        await parts.services.writer.submit(await factories.opening(parts.services, where.asset))
        tally.counts["flooding commands"] += 1
