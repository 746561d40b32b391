"""Founds the demo's institutions and opens its first positions; done again, it adds only what is missing."""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from app.assets import service as assets
from app.assets.model import Asset, TemplateDraft
from app.audit import service as audit
from app.audit.model import Action
from app.audit.service import Work
from app.context import Services
from app.demo.world import WORLD, DemoInstitution
from app.errors import Refusal
from app.institutions import service as institutions
from app.institutions.model import Institution
from app.ledger.model import Effect
from app.policies import service as policies
from app.policies.model import Limits
from app.positions import service
from app.positions.lifecycle import Intent
from app.positions.model import Position, State
from app.positions.service import Asker, Move, Opening
from app.principal import ALL_INSTITUTIONS, root
from app.storage.conditions import Condition
from app.storage.paging import PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

log = logging.getLogger("escrowgrid.demo")

# What the audit says of everything that the demo founded: no mutation has this name.
OPERATION = "demo"
REFERENCE = "DEMO-"
POSITIONS_PER_ASSET = 4
NAMESAKES_MAX = 100
ASSETS_MAX = 500
# Some are due within the week, so that there is something to see to.
DUE_DAYS = (3, 5, 6, 20, 30, 45, 60, 90, 120, 150)
REASONS = ("stage one accepted", "surveyor's report received", "documents complete", "agreed by both sides")

FUND, RELEASE = Intent(effect=Effect.FUND), Intent(effect=Effect.RELEASE)
# How much is said when the position is known: a quarter of it.
PART = Intent(effect=Effect.RELEASE, amount=Decimal(1))
# What the first positions have been through, in turn: every state is the last of one of these lives.
LIVES: tuple[tuple[Intent, ...], ...] = (
    (FUND, PART),
    (),
    (FUND,),
    (FUND, PART, RELEASE),
    (FUND, PART, PART),
    (FUND, PART, Intent(state=State.EXPIRED)),
    (FUND, Intent(state=State.CANCELLED)),
    (Intent(state=State.EXPIRED),),
)


@dataclass(frozen=True, slots=True)
class Place:
    """An asset that the demo made, and who its positions are held for."""

    asset: Asset
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ground:
    """What the demo may touch: its own institutions and the assets in them."""

    institution_ids: frozenset[str]
    places: tuple[Place, ...]

    def owns(self, position: Position) -> bool:
        """Whether the demo opened it: people may open positions in the demo's institutions, too."""
        reference = position.external_reference or ""
        return position.institution_id in self.institution_ids and reference.startswith(REFERENCE)


async def seed(services: Services) -> Ground:
    """The demo's ground with its first positions on it, made as far as it was not there.

    An institution with its templates and assets is one transaction; positions and their moves are named by
    idempotency keys. So whatever ended the last attempt, this one goes on behind it.
    """
    places: list[Place] = []
    for demo in WORLD:
        own = await find(services, demo) or await _found(services, demo)
        places += await _places(services, own, demo)
    number = 0
    for place in places:
        for turn in range(POSITIONS_PER_ASSET):
            await _tell(services, place, turn, LIVES[number % len(LIVES)])
            number += 1
    return Ground(frozenset(place.asset.institution_id for place in places), tuple(places))


async def find(services: Services, demo: DemoInstitution) -> Institution | None:
    """The institution that the demo founded under that name; people may have made others of the same name."""
    async with services.database.reading(ALL_INSTITUTIONS) as connection:
        named = await institutions.page(
            connection,
            ALL_INSTITUTIONS,
            PageRequest(NAMESAKES_MAX),
            (Condition("name", "eq", demo.name),),
            descending=False,
        )
        for _cursor, institution in named.rows:
            if await _is_founded_by_demo(connection, institution.id):
                return institution
    return None


async def _is_founded_by_demo(connection: "AsyncConnection", institution_id: str) -> bool:
    tests = (
        Condition("action", "eq", Action.INSTITUTION_CREATED),
        Condition("operation", "eq", OPERATION),
        Condition("actor_id", "eq", root().id),
    )
    page = await audit.page(connection, institution_id, PageRequest(1), tests, newest_first=False)
    return bool(page.rows)


async def _found(services: Services, demo: DemoInstitution) -> Institution:
    institution_id = services.ids.new("inst")
    async with services.database.writing(institution_id) as connection:
        work = Work(
            connection=connection,
            actor=root("demo"),
            request_id=services.ids.new("req"),
            client_address=None,
            operation=OPERATION,
            now=services.clock(),
            ids=services.ids,
        )
        made = await institutions.create_institution(
            work, institution_id, name=demo.name, regions=demo.regions, verticals=demo.verticals
        )
        for region in demo.regions:
            limits = Limits(None, Decimal(demo.max_amount), demo.currencies)
            await policies.set_policy(work, institution_id, region, limits)
        for spec in demo.templates:
            draft = TemplateDraft(spec.name, spec.code, spec.region, spec.config, metadata_schema=spec.schema)
            template = await assets.create_template(
                work, institution_id, draft, lifecycles=frozenset(services.lifecycles)
            )
            for label, metadata in spec.assets:
                await assets.create_asset(
                    work, institution_id, template_id=template.id, label=label, metadata=metadata
                )
    return made


async def _places(services: Services, own: Institution, demo: DemoInstitution) -> list[Place]:
    """The demo's assets, in the order of its world: the first of each label, made with the institution."""
    async with services.database.reading(own.id) as connection:
        page = await assets.page_assets(connection, own.id, PageRequest(ASSETS_MAX), descending=False)
    first: dict[str, Asset] = {}
    for _cursor, asset in page.rows:
        first.setdefault(asset.label, asset)
    labels = [label for spec in demo.templates for label, _metadata in spec.assets]
    return [Place(first[label], demo.holders) for label in labels if label in first]


async def _tell(services: Services, place: Place, turn: int, life: Sequence[Intent]) -> None:
    """One position and what it has been through, the same at every start."""
    key = f"demo:{place.asset.id}:{turn}"
    chance = random.Random(key)  # noqa: S311 - a demo, not a secret
    reference = f"{REFERENCE}{place.asset.id[-6:]}-{turn + 1}"
    try:
        position = await open_position(services, place, chance, reference, place.asset.created_at, key=key)
        quarter = position.amount / 4
        for step, intent in enumerate(life, start=1):
            exact = intent if intent.amount is None else replace(intent, amount=quarter)
            await move_position(services, position, exact, chance, key=f"{key}:{step}")
    except Refusal as refusal:
        # Such as by a policy that somebody has set since.
        log.info("the demo was refused: %s", refusal)


async def open_position(
    services: Services,
    place: Place,
    chance: random.Random,
    reference: str,
    begun: datetime,
    *,
    key: str | None = None,
) -> Position:
    """Open a position on a place; its deadline is some days, weeks or months after `begun`."""
    pair = await services.assets.get(services.database, ALL_INSTITUTIONS, place.asset.id)
    assert pair is not None, "the demo made this asset"
    opening = Opening(
        asset_id=place.asset.id,
        holder_reference=chance.choice(place.holders),
        currency=pair[1].terms.currency,
        amount=Decimal(chance.randrange(1_000, 400_000, 250)),
        external_reference=reference,
        expires_at=begun + timedelta(days=chance.choice(DUE_DAYS)),
        idempotency_key=key,
    )
    answer = await services.writer.submit(service.create(_asker(services), opening, pair))
    position: Position = answer.row.position
    return position


async def move_position(
    services: Services, position: Position, intent: Intent, chance: random.Random, *, key: str | None = None
) -> None:
    """Move a position, for one of the reasons there are."""
    move = Move(OPERATION, position.id, intent, reason=chance.choice(REASONS), idempotency_key=key)
    await services.writer.submit(service.move(_asker(services), move, position.institution_id))


def _asker(services: Services) -> Asker:
    return Asker(root("demo"), services.ids.new("req"), services.clock(), services.ids, services.lifecycles)
