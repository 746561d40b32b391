"""What a longer ledger costs: a page, a transition, resuming and verifying, at 10⁴ and 10⁵ events; --large adds 10⁶."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

from pydantic import SecretStr

from app import schema
from app.context import Context, Request, Services
from app.main import assemble
from app.positions import service
from app.positions.escrow import BUILT_IN
from app.positions.lifecycle import Intent
from app.positions.service import Asker, Move, Opening
from app.principal import root
from app.settings import Settings
from app.storage.database import Address
from app.verify.walk import verify
from benchmarks.ground import asset_of
from benchmarks.machine import Row, median
from benchmarks.nested import PAGE
from benchmarks.server import ROOT_KEY, database

SIZES = (10_000, 100_000)
LARGE = (*SIZES, 1_000_000)
# More events mean more positions, each with as many events as before.
EVENTS_EACH = 100
AT_ONCE = 256
ASKED = 20
NOTE = (
    "pages by positions_created and ledger_events (position_id, position_version), resuming by the primary key, "
    "a transition by primary keys: all logarithmic; verifying is linear by design"
)


class Grown:
    """A ledger that grows by honest commands."""

    def __init__(self, services: Services) -> None:
        self.services, self.events = services, 0
        self._positions: list[tuple[str, str]] = []

    async def grow(self, events: int) -> None:
        """Up to so many events."""
        asset = await asset_of(self.services)
        pair = await self.services.assets.get(self.services.database, "*", asset.id)
        opening = Opening(asset.id, "BENCH", "USD", Decimal("900000.00"))
        while self.events < events:
            writer, asker = self.services.writer, self._asker()
            made = await asyncio.gather(
                *(writer.submit(service.create(asker, opening, pair)) for _ in range(AT_ONCE))
            )
            fresh = [(one.row.position.id, one.row.position.institution_id) for one in made]
            self._positions += fresh
            self.events += AT_ONCE
            for turn in range(EVENTS_EACH - 1):
                if self.events >= events:
                    break
                await asyncio.gather(*(self._move(one, first=turn == 0) for one in fresh))
                self.events += AT_ONCE

    async def transition(self) -> None:
        """One, alone."""
        await self._move(self._positions[0], first=False)

    def _asker(self) -> Asker:
        services = self.services
        return Asker(root(), "req_bench", services.clock(), services.ids, services.lifecycles)

    async def _move(self, of: tuple[str, str], *, first: bool) -> None:
        intent = (
            Intent(stage="FUNDED") if first else Intent(stage="PARTIALLY_RELEASED", amount=Decimal("0.01"))
        )
        await self.services.writer.submit(service.move(self._asker(), Move("bench", of[0], intent), of[1]))


async def _milliseconds(job: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(ASKED):
        began = time.perf_counter()
        await job()
        taken.append((time.perf_counter() - began) * 1000)
    return median(taken)


async def _measured(settings: Settings, address: Address, sizes: tuple[int, ...]) -> list[Row]:
    parts, built, found = assemble(settings, address), schema.build(settings), []
    async with parts.running():
        grown = Grown(parts.services)

        async def ask(document: str) -> object:
            context = Context(parts.services, root(), Request("req_bench"))
            try:
                answer = await built.execute(document, context_value=context)
            finally:
                await context.close()
            assert not answer.errors, answer.errors
            return answer.data

        for size in sizes:
            await grown.grow(size)
            cursor = parts.services.tail.epochs.cursor("*", size // 2)
            resume = (
                f'{{ ledgerEvents(first: 50, after: "{cursor}") {{ edges {{ node {{ sequence hash }} }} }} }}'
            )
            figures = {
                "page_ms": await _milliseconds(lambda: ask(PAGE)),
                "resume_ms": await _milliseconds(lambda resume=resume: ask(resume)),  # type: ignore[misc]
                "transition_ms": await _milliseconds(grown.transition),
            }
            began = time.perf_counter()
            report = await verify(address.direct_url, BUILT_IN)
            figures["verify_per_second"] = round(grown.events / (time.perf_counter() - began))
            found.append(Row(f"growth_{size}", figures, len(report.findings), NOTE))
    return found


def rows(_runs: int) -> list[Row]:
    """The rows of this benchmark."""
    return grown_to(SIZES)


def grown_to(sizes: tuple[int, ...]) -> list[Row]:
    """One ledger, measured at each of those sizes."""
    settings = Settings(root_api_key=SecretStr(ROOT_KEY))
    with database() as address:
        return asyncio.run(_measured(settings, address, sizes))
