"""Seeds the demo world once, then moves its positions now and then, as operators would."""

import asyncio
import logging
import random
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from app.assets import service as assets
from app.assets.model import Asset, TemplateDraft
from app.audit.service import Work
from app.context import Services
from app.demo.world import WORLD, DemoInstitution
from app.errors import AppError
from app.institutions import service as institutions
from app.kit import money
from app.ledger.model import Effect
from app.ledger.writer import Answer
from app.policies import service as policies
from app.policies.model import Limits
from app.positions import reads, service
from app.positions.lifecycle import Intent
from app.positions.model import Position, State
from app.positions.service import Asker, Move, Opening
from app.principal import ALL_INSTITUTIONS, root
from app.storage.paging import PageRequest

log = logging.getLogger("escrowgrid.demo")

POSITIONS_PER_ASSET = 4
PAUSE_SECONDS = (1.5, 5.0)
OPEN_MAX = 200
# Two of three choices move on, so that positions end and new ones begin.
REASONS = ("stage one accepted", "surveyor's report received", "documents complete", "agreed by both sides")


@dataclass(frozen=True, slots=True)
class _Place:
    asset: Asset
    holders: tuple[str, ...]


class Story:
    """The demo: `play` seeds what is missing and goes on until it is cancelled."""

    def __init__(self, seed: int = 7) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - a demo, not a secret
        self._number = 0

    async def play(self, services: Services) -> None:
        """Seed, then move something every few seconds."""
        try:
            if not await self._is_seeded(services):
                await self._seed(services)
            while True:
                await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
                await self._move_one(services)
        except Exception:
            log.exception("the demo stopped")

    async def _is_seeded(self, services: Services) -> bool:
        async with services.database.reading(ALL_INSTITUTIONS) as connection:
            return await institutions.count(connection, ALL_INSTITUTIONS) > 0

    async def _seed(self, services: Services) -> None:
        for demo in WORLD:
            for place in await self._found(services, demo):
                for _ in range(POSITIONS_PER_ASSET):
                    await self._open(services, place)
        async with services.database.reading(ALL_INSTITUTIONS) as connection:
            page = await reads.fetch_list(
                connection,
                ALL_INSTITUTIONS,
                services.holders,
                (),
                reads.order("CREATED", descending=False),
                PageRequest(OPEN_MAX),
            )
        # Left at different points of their lives, so that every state can be seen.
        for place_, (_cursor, position) in enumerate(page.rows):
            await self._live(services, position, steps=place_ % 5)

    async def _found(self, services: Services, demo: DemoInstitution) -> list[_Place]:
        institution_id = services.ids.new("inst")
        async with services.database.writing(institution_id) as connection:
            work = Work(
                connection=connection,
                actor=root("demo"),
                request_id=services.ids.new("req"),
                client_address=None,
                operation="demo",
                now=services.clock(),
                ids=services.ids,
            )
            await institutions.create_institution(
                work, institution_id, name=demo.name, regions=demo.regions, verticals=demo.verticals
            )
            for region in demo.regions:
                limits = Limits(None, Decimal(demo.max_amount), demo.currencies)
                await policies.set_policy(work, institution_id, region, limits)
            places = []
            for spec in demo.templates:
                draft = TemplateDraft(
                    spec.name, spec.code, spec.region, spec.config, metadata_schema=spec.schema
                )
                template = await assets.create_template(
                    work, institution_id, draft, lifecycles=frozenset(services.lifecycles)
                )
                for label, metadata in spec.assets:
                    asset = await assets.create_asset(
                        work, institution_id, template_id=template.id, label=label, metadata=metadata
                    )
                    places.append(_Place(asset, demo.holders))
        return places

    async def _open(self, services: Services, place: _Place) -> Answer:
        self._number += 1
        pair = await services.assets.get(services.database, ALL_INSTITUTIONS, place.asset.id)
        assert pair is not None, "the demo made this asset"
        # One in seven is due within the week, so that there is something to look after.
        days = self._chance.randint(2, 6) if self._number % 7 == 0 else self._chance.randint(20, 150)
        opening = Opening(
            asset_id=place.asset.id,
            holder_reference=self._chance.choice(place.holders),
            currency=pair[1].terms.currency,
            amount=Decimal(self._chance.randrange(1_000, 400_000, 250)),
            external_reference=f"DEMO-{self._number:04d}-{services.ids.new('ref')[-6:]}",
            expires_at=services.clock() + timedelta(days=days),
        )
        return await services.writer.submit(service.create(self._asker(services), opening, pair))

    async def _live(self, services: Services, position: Position, *, steps: int) -> None:
        for _ in range(steps):
            intent = self._next(position)
            if intent is None:
                return
            position = (await self._move(services, position, intent)).row.position

    def _next(self, position: Position) -> Intent | None:
        held = position.balances.held
        if position.state is State.CREATED:
            return (
                Intent(effect=Effect.FUND) if self._chance.random() < 0.85 else Intent(state=State.CANCELLED)
            )
        if position.closed_at is not None:
            return None
        part = money.quantise(Decimal(self._chance.randint(1, int(held))), 0) if held > 1 else None
        choice = self._chance.random()
        if choice < 0.6 and part is not None and part < held:
            return Intent(effect=Effect.RELEASE, amount=part)
        return Intent(effect=Effect.RELEASE) if choice < 0.85 else Intent(state=State.CANCELLED)

    async def _move(self, services: Services, position: Position, intent: Intent) -> Answer:
        move = Move("demo", position.id, intent, reason=self._chance.choice(REASONS))
        return await services.writer.submit(
            service.move(self._asker(services), move, position.institution_id)
        )

    async def _move_one(self, services: Services) -> None:
        newest = reads.order("CREATED", descending=True)
        async with services.database.reading(ALL_INSTITUTIONS) as connection:
            page = await reads.fetch_list(
                connection, ALL_INSTITUTIONS, services.holders, (), newest, PageRequest(OPEN_MAX)
            )
        still_open = [position for _cursor, position in page.rows if position.closed_at is None]
        try:
            if len(still_open) < OPEN_MAX // 10 and page.rows:
                await self._open_like(services, self._chance.choice(page.rows)[1])
                return
            position = self._chance.choice(still_open)
            intent = self._next(position)
            if intent is not None:
                await self._move(services, position, intent)
        except AppError as error:
            log.info("the demo was refused: %s", error)

    async def _open_like(self, services: Services, position: Position) -> None:
        pair = await services.assets.get(services.database, ALL_INSTITUTIONS, position.asset_id)
        if pair is not None:
            await self._open(services, _Place(pair[0], (position.holder_reference or "DEMO",)))

    @staticmethod
    def _asker(services: Services) -> Asker:
        return Asker(
            root("demo"), services.ids.new("req"), services.clock(), services.ids, services.lifecycles
        )
