"""What row-level security costs: the same queries and commands with it and without, turn and turn about."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal

import asyncpg
from pydantic import SecretStr

from app import schema
from app.context import Context, Request, Services
from app.main import assemble
from app.positions import service
from app.positions.lifecycle import Intent
from app.positions.service import Asker, Move, Opening
from app.principal import ROLE_SCOPES, Principal, Role
from app.settings import Settings
from app.storage.database import Address
from app.storage.provide import provide
from benchmarks.ground import asset_of
from benchmarks.machine import Row, median

POSITIONS_EACH = 400
ASKED_EACH = 20
MOVED_EACH = 200
SECURED = """
SELECT oid::regclass::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND (relrowsecurity OR relforcerowsecurity)
"""
QUERIES = {
    "dashboard": """{ positions(first: 50) { edges { node { id state held holderReference asset { label }
        events(first: 10) { edges { node { sequence newState amountMoved } } } } } } }""",
    "list": "{ positions(first: 50) { edges { node { id state held } } } }",
    "by_holder": """{ positions(first: 50, where: {holderReference: {eq: "HOLDER-7"}}) { edges { node { id } } } }""",
    "summary": "{ positionSummary(groupBy: [STATE]) { state count held } }",
}

Work = Callable[[], Awaitable[None]]


class _Desk:
    """A tenant who asks, among others."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._schema = schema.build(services.settings)
        self._asker: Asker | None = None
        self._ids: list[str] = []
        self.owner = ""

    async def fill(self) -> None:
        """Three institutions with positions; the last of them asks."""
        services = self._services
        for _ in range(3):
            asset = await asset_of(services)
            self.owner = asset.institution_id
            by = Principal("key_bench", "bench", Role.ADMIN, self.owner, ROLE_SCOPES[Role.ADMIN])
            self._asker = Asker(by, "req_bench", services.clock(), services.ids, services.lifecycles)
            pair = await services.assets.get(services.database, self.owner, asset.id)
            assert pair is not None, "the asset was just made"
            terms = pair[1].terms
            openings = [
                Opening(asset.id, f"HOLDER-{number % 40}", terms.currency, Decimal(50_000))
                for number in range(POSITIONS_EACH)
            ]
            commands = [service.create(self._asker, opening, pair) for opening in openings]
            answers = await asyncio.gather(*map(services.writer.submit, commands))
            self._ids = [answer.row.position.id for answer in answers]
            await self._move(Intent(stage="FUNDED"), self._ids)

    async def _move(self, intent: Intent, ids: Sequence[str]) -> None:
        assert self._asker is not None, "filled before"
        moves = [service.move(self._asker, Move("bench", id, intent), self.owner) for id in ids]
        await asyncio.gather(*map(self._services.writer.submit, moves))

    async def move(self) -> None:
        """So many releases at once."""
        await self._move(Intent(stage="PARTIALLY_RELEASED", amount=Decimal(1)), self._ids[:MOVED_EACH])

    def asking(self, document: str) -> Work:
        """One query, so many times."""

        async def ask() -> None:
            assert self._asker is not None, "filled before"
            for _ in range(ASKED_EACH):
                context = Context(self._services, self._asker.principal, Request("req_bench"))
                result = await self._schema.execute(document, context_value=context)
                await context.close()
                assert not result.errors, result.errors

        return ask


async def _switch(owner: "asyncpg.Connection[asyncpg.Record]", tables: Sequence[str], *, on: bool) -> None:
    verbs = ("ENABLE", "FORCE") if on else ("NO FORCE", "DISABLE")
    for table in tables:
        for verb in verbs:
            await owner.execute(f"ALTER TABLE {table} {verb} ROW LEVEL SECURITY")


async def _timed(work: Work) -> float:
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1000


async def _measured(settings: Settings, address: Address, runs: int) -> list[Row]:
    parts = assemble(settings, address)
    owner = await asyncpg.connect(address.owner_url)
    tables = [row[0] for row in await owner.fetch(SECURED)]
    rows = []
    async with parts.running():
        desk = _Desk(parts.services)
        await desk.fill()
        await owner.execute("ANALYZE")
        works = {name: (desk.asking(document), ASKED_EACH) for name, document in QUERIES.items()}
        works["release"] = (desk.move, MOVED_EACH)
        for name, (work, each) in works.items():
            times: dict[bool, list[float]] = {True: [], False: []}
            for run in range(runs):
                # Whoever comes second finds warm caches: they take turns.
                for on in (True, False) if run % 2 else (False, True):
                    await _switch(owner, tables, on=on)
                    await work()
                    times[on].append(await _timed(work) / each)
            await _switch(owner, tables, on=True)
            ratios = [secured / bare for secured, bare in zip(times[True], times[False], strict=True)]
            figures = {"ms": median(times[True]), "without_ms": median(times[False]), "ratio": median(ratios)}
            rows.append(Row(f"rls_{name}", figures, note="wall time; the ratio is the median of the pairs'"))
    await owner.close()
    return rows


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    settings = Settings(store_backend="memory", root_api_key=SecretStr("root-key-of-the-benchmarks"))
    with provide(settings) as address:
        return asyncio.run(_measured(settings, address, runs))
