"""How soon a reader goes on when what it listened by was killed, in a ledger so quiet that nothing else wakes it."""

import asyncio
from contextlib import aclosing

from app.ledger.tail import Tail
from app.principal import ALL_INSTITUTIONS
from tests import factories
from tests.reliability.site import Site
from tests.reliability.stream import (
    EVERYTHING,
    FEEDING,
    KILL,
    LISTENING,
    RESUME_SECONDS_MAX,
    patiently,
    two_parts,
)
from tests.reliability.tally import Limit, Tally, milliseconds, percentile

KINDS = (LISTENING, FEEDING, EVERYTHING)
LOST_AFTER_SECONDS = 20


async def resume(tally: Tally, limit: Limit, site: Site) -> None:
    """Connections are killed, one event is written through one process's parts, a reader of the other waits for it."""
    taken: list[float] = []
    async with two_parts(site) as (here, elsewhere):
        where = await factories.place(elsewhere.services, name="Quiet")
        while limit.more(tally.reached):
            last = await patiently(lambda: here.services.tail.head(ALL_INSTITUTIONS), tally)
            reader = asyncio.create_task(_next(here.services.tail, last))
            await asyncio.sleep(0.05)
            async with site.connected() as owner:
                await owner.fetchval(KILL.format(KINDS[tally.reached % len(KINDS)]))
            command = await patiently(lambda: factories.opening(elsewhere.services, where.asset), tally)
            answer = await patiently(lambda command=command: elsewhere.services.writer.submit(command), tally)
            began = asyncio.get_running_loop().time()
            try:
                numbers = await asyncio.wait_for(reader, LOST_AFTER_SECONDS)
            except TimeoutError:
                tally.lose(f"event {answer.event.global_sequence} was never told")
                return
            taken.append(asyncio.get_running_loop().time() - began)
            tally.require(numbers == [last + 1], f"after {last} came {numbers}")
            tally.reached += 1
    tally.notes |= {"p50": milliseconds(percentile(taken, 0.5)), "slowest": milliseconds(max(taken))}
    tally.require(max(taken) <= RESUME_SECONDS_MAX, f"a reader resumed after {max(taken):.2f} s")


async def _next(tail: Tail, last: int) -> list[int]:
    async with aclosing(tail.stream(ALL_INSTITUTIONS, last)) as pages:
        async for page in pages:
            return [event.global_sequence for event in page]
    return []
