"""Keeps the demo going: seeds its world, then moves its own positions now and then, as operators would."""

import asyncio
import logging
import random
from decimal import Decimal

from app.context import Services
from app.demo.seeding import REFERENCE, Ground, move_position, open_position, seed
from app.errors import AppError
from app.kit import money
from app.ledger.model import Effect
from app.positions import reads
from app.positions.lifecycle import Intent
from app.positions.model import Position, State
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.losses import CONNECTION_LOST
from app.storage.paging import PageRequest

log = logging.getLogger("escrowgrid.demo")

PAUSE_SECONDS = (1.5, 5.0)
# After what nobody foresaw, such as a database that is away: doubled each time, up to the last.
AGAIN_SECONDS = (1.0, 60.0)
LOOKED_AT_MAX = 200
# With fewer positions open, new ones begin.
OPEN_MIN = 12
OPEN_STATES = (State.CREATED, State.FUNDED, State.PARTIALLY_RELEASED)


class Story:
    """The demo: `play` seeds what is missing and goes on until it is cancelled."""

    def __init__(
        self,
        chance_seed: int = 7,
        *,
        pause: tuple[float, float] = PAUSE_SECONDS,
        again: tuple[float, float] = AGAIN_SECONDS,
    ) -> None:
        self._chance = random.Random(chance_seed)  # noqa: S311 - a demo, not a secret
        self._pause = pause
        self._again = again

    async def play(self, services: Services) -> None:
        """Seed, then move something every few seconds; what goes wrong is tried again."""
        ground: Ground | None = None
        wait, longest = self._again
        while True:
            try:
                if ground is None:
                    ground = await seed(services)
                await asyncio.sleep(self._chance.uniform(*self._pause))
                await self.move_one(services, ground)
                wait = self._again[0]
            except AppError as error:
                log.info("the demo was refused: %s", error)
                await asyncio.sleep(wait)
            except CONNECTION_LOST as error:
                log.warning(
                    "the demo lost its connection: %s; it goes on in %g s", type(error).__name__, wait
                )
                await asyncio.sleep(wait)
                wait = min(wait * 2, longest)
            except Exception:
                log.exception("the demo failed; it tries again in %g s", wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, longest)

    async def move_one(self, services: Services, ground: Ground) -> None:
        """Move one of the demo's open positions, or open another when few are left."""
        still_open = await self._open_ones(services, ground)
        if len(still_open) < OPEN_MIN:
            reference = f"{REFERENCE}{services.ids.new('ref')[-10:]}"
            place = self._chance.choice(ground.places)
            await open_position(services, place, self._chance, reference, services.clock())
            return
        position = self._chance.choice(still_open)
        await move_position(services, position, self._next(position), self._chance)

    async def _open_ones(self, services: Services, ground: Ground) -> list[Position]:
        tests = (
            Condition("institution_id", "in", sorted(ground.institution_ids)),
            Condition("external_reference", "contains", REFERENCE),
            Condition("state", "in", OPEN_STATES),
        )
        newest = reads.order("CREATED", descending=True, alone=False)
        async with services.database.reading(ALL_INSTITUTIONS) as connection:
            page = await reads.fetch_list(
                connection, ALL_INSTITUTIONS, services.holders, tests, newest, PageRequest(LOOKED_AT_MAX)
            )
        return [position for _cursor, position in page.rows if ground.owns(position)]

    def _next(self, position: Position) -> Intent:
        held = position.balances.held
        if position.state is State.CREATED:
            return (
                Intent(effect=Effect.FUND) if self._chance.random() < 0.85 else Intent(state=State.CANCELLED)
            )
        part = money.quantise(Decimal(self._chance.randint(1, int(held))), 0) if held > 1 else None
        choice = self._chance.random()
        if choice < 0.6 and part is not None and part < held:
            return Intent(effect=Effect.RELEASE, amount=part)
        return Intent(effect=Effect.RELEASE) if choice < 0.85 else Intent(state=State.CANCELLED)
