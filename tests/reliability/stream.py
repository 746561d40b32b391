"""The tail under fire: many write through two processes' parts, many read from anywhere, what they stand on is killed."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from pydantic import SecretStr

from app.errors import Denied
from app.ledger.ring import place
from app.ledger.tail import Tail
from app.ledger.writer import Command
from app.main import Parts, assemble
from app.positions.model import State
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.losses import CONNECTION_LOST
from tests import factories
from tests.factories import FUND, Place, release
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Tally, milliseconds

WRITERS = 16
# Commands that each writer has under way at once.
ABREAST = 6
READERS = 24
TENANTS = 4
RESUME_SECONDS_MAX = 2.0
LEVEL_WITHIN_SECONDS = 60
FAULT_PAUSE_SECONDS = 0.6
HOLD_SECONDS = 0.05
STEP_SECONDS = 0.02

LISTENING = "query ILIKE 'LISTEN %' OR query = 'SELECT 1' OR query ILIKE '%pg_notify%'"
FEEDING = "query ILIKE 'SELECT global_sequence%' OR query ILIKE 'SELECT sequence FROM institution_heads%'"
EVERYTHING = "true"
KILL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = 'escrowgrid_app' AND ({})
"""
HEADS = "SELECT institution_id, sequence FROM institution_heads UNION ALL SELECT '*', global_sequence FROM ledger_head"


@dataclass(slots=True)
class Ledger:
    """What the clients know of the ledger: the hash that stands at each place, and when it got there.

    Its clock stands still while this whole process does, for want of a processor: that is no delay of the tail's.
    """

    hashes: dict[tuple[str, int], bytes] = field(default_factory=dict)
    committed: dict[int, float] = field(default_factory=dict)
    lags: list[float] = field(default_factory=list)
    # The last number of each scope, once nobody writes any more.
    final: dict[str, int] | None = None
    # Until then the database was down, and everybody waited.
    down_until: float = 0.0
    stood_still: float = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.stood_still

    async def mind_the_clock(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            await asyncio.sleep(STEP_SECONDS)
            self.stood_still += max(0.0, clock() - began - 2 * STEP_SECONDS)


def settings_of(site: Site, **changes: Any) -> Settings:
    """Settings of parts on that site."""
    return Settings(
        root_api_key=SecretStr(site.root_key),
        data_dir=site.folder / "keys",
        checkpoint_seconds=1,
        lease_seconds=2,
        **changes,
    )


async def heads(owner: asyncpg.Connection) -> dict[str, int]:
    """The last number of every scope."""
    return {row[0]: row[1] for row in await owner.fetch(HEADS)}


@asynccontextmanager
async def two_parts(site: Site, **changes: Any) -> AsyncIterator[list[Parts]]:
    """What two server processes are made of, without their HTTP side."""
    async with AsyncExitStack() as stack:
        made = [assemble(settings_of(site, **changes), site.address(relayed=True)) for _ in range(2)]
        for parts in made:
            await stack.enter_async_context(parts.running())
        yield made


async def tail_under_fire(tally: Tally, limit: Limit, site: Site, *, crashes: int) -> None:
    """Every reader sees cursor + 1, cursor + 2, … each once, whatever dies meanwhile."""
    ledger = Ledger()
    async with two_parts(site) as both:
        places = [await factories.place(both[n % 2].services, name=f"Tail {n}") for n in range(TENANTS)]
        first = await both[0].services.tail.head(ALL_INSTITUTIONS)
        stopping = asyncio.Event()
        minding = asyncio.create_task(ledger.mind_the_clock())
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(_reader(both[n % 2].services.tail, places, n, ledger, tally))
                for n in range(READERS)
            ]
            readers += [
                group.create_task(_probe(parts.services.tail, first, ledger, tally)) for parts in both
            ]
            async with asyncio.TaskGroup() as writing:
                for n in range(WRITERS * ABREAST):
                    writing.create_task(_writer(both[n % 2], places[n % TENANTS], ledger, tally, stopping))
                writing.create_task(_faults(site, ledger, tally, stopping, crashes))
                writing.create_task(_meddler(site, places, stopping))
                while limit.more(tally.reached):
                    await asyncio.sleep(0.05)
                    tally.reached = len(ledger.committed)
                stopping.set()
            async with site.connected() as owner:
                ledger.final = await heads(owner)
            await _all_level(readers, tally)
        minding.cancel()
        written = ledger.final[ALL_INSTITUTIONS] - first
        tally.reached = written
        tally.require(
            written == len(ledger.committed), f"{written} events, {len(ledger.committed)} acknowledged"
        )
        tally.require(all(parts.services.tail.failure is None for parts in both), "a tail stopped")
    slowest = max(ledger.lags, default=0)
    tally.notes["slowest commit to reader"] = milliseconds(slowest)
    tally.notes["this process waited for a processor"] = f"{ledger.stood_still:.1f} s"
    tally.require(slowest <= RESUME_SECONDS_MAX, f"a reader resumed after {slowest:.2f} s")


async def _all_level(readers: Sequence["asyncio.Task[None]"], tally: Tally) -> None:
    _done, late = await asyncio.wait(readers, timeout=LEVEL_WITHIN_SECONDS)
    for task in late:
        tally.lose("a reader never came to the end")
        task.cancel()


async def _reader(tail: Tail, places: Sequence[Place], number: int, ledger: Ledger, tally: Tally) -> None:
    """Joins at a random moment and cursor, leaves and comes back with its cursor."""
    scope = ALL_INSTITUTIONS if number % 3 == 0 else places[number % len(places)].institution.id
    await asyncio.sleep(random.uniform(0, 1.5))
    last = random.randint(0, await patiently(lambda: tail.head(scope), tally))
    while ledger.final is None or last < ledger.final[scope]:
        leaving = random.randint(1, 4_000)
        last = await patiently(
            lambda last=last, leaving=leaving: _some(tail, scope, last, leaving, ledger, tally), tally
        )
        if random.random() < 0.05:
            last = random.randint(0, last)


async def _some(tail: Tail, scope: str, last: int, leaving: int, ledger: Ledger, tally: Tally) -> int:
    """Follow from the cursor behind `last` for about so many events; returns how far that went."""
    last = await tail.place(scope, tail.epochs.cursor(scope, last))
    tally.counts["joins"] += 1
    async with aclosing(tail.stream(scope, last, idle_seconds=0.5)) as pages:
        try:
            async for page in pages:
                for event in page:
                    _judge(scope, place(scope, event), last, event.hash, ledger, tally)
                    last = place(scope, event)
                leaving -= len(page)
                if leaving < 0 or (ledger.final is not None and last >= ledger.final[scope]):
                    return last
        except CONNECTION_LOST:
            tally.counts["resumed after an error"] += 1
            return last
    return last


def _judge(scope: str, number: int, last: int, hashed: bytes, ledger: Ledger, tally: Tally) -> None:
    if number > last + 1:
        tally.lose(f"{scope}: {number} came after {last}")
    elif number <= last:
        tally.double(f"{scope}: {number} came after {last}")
    if ledger.hashes.setdefault((scope, number), hashed) != hashed:
        tally.violate(f"{scope}: two readers saw different events at {number}")


async def _probe(tail: Tail, last: int, ledger: Ledger, tally: Tally) -> None:
    """Reads live, and measures how long after its commit each event arrives."""
    async with aclosing(tail.stream(ALL_INSTITUTIONS, last, idle_seconds=0.5)) as pages:
        async for page in pages:
            for event in page:
                number = event.global_sequence
                _judge(ALL_INSTITUTIONS, number, last, event.hash, ledger, tally)
                last = number
                known = ledger.committed.get(number)
                if known is not None and known > ledger.down_until:
                    ledger.lags.append(ledger.now() - known)
            if ledger.final is not None and last >= ledger.final[ALL_INSTITUTIONS]:
                return


async def _writer(parts: Parts, where: Place, ledger: Ledger, tally: Tally, stopping: asyncio.Event) -> None:
    """Opens a position and moves it until it is closed, again and again."""
    services = parts.services
    while not stopping.is_set():
        command: Command | None = await factories.opening(services, where.asset, "100.00")
        while command is not None and not stopping.is_set():
            answer = await patiently(lambda command=command: services.writer.submit(command), tally)
            ledger.committed[answer.event.global_sequence] = ledger.now()
            position = answer.row.position
            intent = {
                State.CREATED: FUND,
                State.FUNDED: release("40.00"),
                State.PARTIALLY_RELEASED: release("30.00") if position.balances.held > 30 else release(),
            }.get(position.state)
            command = None if intent is None else factories.move(services, position, intent)


async def _faults(site: Site, ledger: Ledger, tally: Tally, stopping: asyncio.Event, crashes: int) -> None:
    """Kills connections of every kind, and a few times the whole database."""
    kinds = {"listeners": LISTENING, "feeds": FEEDING, "all connections": EVERYTHING}
    turn = 0
    while not stopping.is_set():
        await asyncio.sleep(FAULT_PAUSE_SECONDS * random.uniform(0.5, 1.5))
        name = list(kinds)[turn % len(kinds)]
        async with site.connected() as owner:
            tally.counts[f"{name} killed"] += await owner.fetchval(KILL.format(kinds[name]))
        turn += 1
        if turn % 8 == 5 and tally.counts["database crashes"] < crashes:
            tally.counts["database crashes"] += 1
            site.crash_database()
            # How long that takes is another row's figure.
            ledger.down_until = ledger.now() + RESUME_SECONDS_MAX


async def _meddler(site: Site, places: Sequence[Place], stopping: asyncio.Event) -> None:
    """Holds a row that writers want, so that some take the side lane."""
    newest = "SELECT id FROM positions WHERE institution_id = $1 ORDER BY created_at DESC LIMIT 3 FOR UPDATE"
    while not stopping.is_set():
        try:
            async with site.connected() as owner:
                while not stopping.is_set():
                    async with owner.transaction():
                        await owner.fetch(newest, random.choice(places).institution.id)
                        await asyncio.sleep(HOLD_SECONDS)
                    await asyncio.sleep(HOLD_SECONDS)
        except CONNECTION_LOST:
            await asyncio.sleep(HOLD_SECONDS)


async def patiently(work: Any, tally: Tally) -> Any:
    """Again with the same cursor or key, as long as what it stands on is gone."""
    while True:
        try:
            return await work()
        except (*CONNECTION_LOST, Denied, asyncpg.PostgresError) as error:
            tally.counts[f"told {type(error).__name__}"] += 1
            await asyncio.sleep(0.05)
