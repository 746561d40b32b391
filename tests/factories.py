"""Institutions, keys, templates, assets, policies and positions, made by the services as a server makes them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import uuid4

import asyncpg
from pydantic import SecretStr

from app.assets import service as assets
from app.assets.model import Asset, AssetTemplate, TemplateDraft
from app.audit.service import Work
from app.context import Services
from app.institutions import service as institutions
from app.institutions.model import Institution, KeyDraft, NewKey, Region, Vertical
from app.kit.canonical import Json
from app.kit.clock import Clock, system_clock
from app.ledger.model import Effect
from app.ledger.writer import Answer
from app.main import Parts, assemble
from app.policies import service as policies
from app.policies.model import Limits, Policy
from app.positions import service as positions
from app.positions.commands import CreatePosition, MovePosition
from app.positions.lifecycle import Intent
from app.positions.model import Position, State
from app.positions.service import Asker, Move, Opening
from app.principal import ROLE_SCOPES, Principal, Role, root
from app.settings import Settings
from app.storage.database import Address
from app.storage.provide import with_database, with_login

# The login of a server, as tests/conftest.py makes it.
LOGIN = "escrowgrid_test"
PASSWORD = "only-for-tests"
_numbers = count(1)

# How a position gets from CREATED to each state, as (effect or state, amount in hundredths of the whole).
PATHS: dict[State, tuple[Intent, ...]] = {
    State.CREATED: (),
    State.FUNDED: (Intent(effect=Effect.FUND),),
    State.PARTIALLY_RELEASED: (Intent(effect=Effect.FUND), Intent(effect=Effect.RELEASE, amount=Decimal(1))),
    State.RELEASED: (Intent(effect=Effect.FUND), Intent(effect=Effect.RELEASE)),
    State.CANCELLED: (Intent(state=State.CANCELLED),),
    State.EXPIRED: (Intent(state=State.EXPIRED),),
}


@asynccontextmanager
async def working(
    services: Services, institution_id: str, actor: Principal | None = None
) -> AsyncIterator[Work]:
    """An ordinary transaction on one institution, committed at the end of the block."""
    async with services.database.writing(institution_id) as connection:
        request_id, now = services.ids.new("req"), services.clock()
        yield Work(connection, actor or root(), request_id, None, "test", now, services.ids)


async def institution(
    services: Services,
    name: str = "Acme Trust",
    *,
    regions: Sequence[Region] = (Region.US,),
    verticals: Sequence[Vertical] | None = None,
) -> Institution:
    """An institution with its chain."""
    new = services.ids.new("inst")
    async with working(services, new) as work:
        return await institutions.create_institution(
            work, new, name=name, regions=regions, verticals=verticals
        )


def principal(institution_id: str, role: Role = Role.ADMIN) -> Principal:
    """Somebody with a key of the institution; the key itself is not stored."""
    return Principal(f"key_of_{role.lower()}", "a test", role, institution_id, ROLE_SCOPES[role])


async def key(services: Services, institution_id: str, role: Role = Role.ADMIN) -> NewKey:
    """A stored key with its secret."""
    async with working(services, institution_id) as work:
        return await institutions.create_api_key(work, institution_id, KeyDraft("a test", role))


async def template(
    services: Services,
    institution_id: str,
    *,
    code: str = "CONSTR_ESCROW",
    region: Region = Region.US,
    config: dict[str, Json] | None = None,
) -> AssetTemplate:
    """A template; `config` is that of a dollar escrow unless given."""
    found: dict[str, Json] = {"currency": "USD", "region": region.value} if config is None else config
    draft = TemplateDraft(f"template {next(_numbers)}", code, region, found)
    async with working(services, institution_id) as work:
        return await assets.create_template(
            work, institution_id, draft, lifecycles=frozenset(services.lifecycles)
        )


async def asset(services: Services, made_of: AssetTemplate) -> Asset:
    """An asset of a template."""
    async with working(services, made_of.institution_id) as work:
        return await assets.create_asset(
            work,
            made_of.institution_id,
            template_id=made_of.id,
            label=f"asset {next(_numbers)}",
            metadata={},
        )


async def policy(
    services: Services, institution_id: str, *, region: Region = Region.US, **limits: Any
) -> Policy:
    """The institution's next policy for a region: min_amount, max_amount, allowed_currencies."""
    async with working(services, institution_id) as work:
        return await policies.set_policy(work, institution_id, region, Limits(**limits))


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to open positions: an asset with its template and institution, and an admin of it."""

    institution: Institution
    template: AssetTemplate
    asset: Asset
    admin: Principal


async def place(services: Services, *, currency: str = "USD", name: str = "Acme Trust") -> Place:
    """An institution with one template and one asset."""
    owner = await institution(services, name)
    config: dict[str, Json] = {"currency": currency, "region": "US"}
    of = await template(services, owner.id, config=config)
    return Place(owner, of, await asset(services, of), principal(owner.id))


def asker(services: Services, by: Principal) -> Asker:
    """Who asks, now."""
    return Asker(by, services.ids.new("req"), services.clock(), services.ids, services.lifecycles)


async def opening(
    services: Services,
    on: Asset,
    amount: str = "100.00",
    *,
    by: Principal | None = None,
    currency: str | None = None,
    holder_reference: str = "HOLDER-1",
    external_reference: str | None = None,
    expires_at: datetime | None = None,
    **others: Any,
) -> CreatePosition:
    """The command that opens a position; the template's currency unless one is given."""
    pair = await services.assets.get(services.database, on.institution_id, on.id)
    assert pair is not None, "the asset is there"
    wanted = Opening(
        asset_id=on.id,
        holder_reference=holder_reference,
        currency=currency or pair[1].terms.currency,
        amount=Decimal(amount),
        external_reference=external_reference,
        expires_at=expires_at,
        **others,
    )
    return positions.create(asker(services, by or principal(on.institution_id)), wanted, pair)


def move(
    services: Services, of: Position, intent: Intent, *, by: Principal | None = None, **others: Any
) -> MovePosition:
    """The command that moves a position: reason, metadata, expected_version, occurred_at, idempotency_key."""
    wanted = Move("transitionPosition", of.id, intent, **others)
    return positions.move(asker(services, by or principal(of.institution_id)), wanted, of.institution_id)


FUND = Intent(effect=Effect.FUND)


def release(amount: str | None = None) -> Intent:
    """Of a part, or of all that is held."""
    return Intent(effect=Effect.RELEASE, amount=None if amount is None else Decimal(amount))


async def position(
    services: Services, on: Asset, amount: str = "100.00", *, state: State = State.CREATED, **terms: Any
) -> Position:
    """A position, taken to `state` (for PARTIALLY_RELEASED with 1 unit released)."""
    answer: Answer = await services.writer.submit(await opening(services, on, amount, **terms))
    for intent in PATHS[state]:
        answer = await services.writer.submit(move(services, answer.row.position, intent))
    found: Position = answer.row.position
    return found


FOOTPRINT = """
SELECT (SELECT count(*) FROM ledger_events) AS events, (SELECT count(*) FROM personal_data) AS personal,
       (SELECT count(*) FROM holders) AS holders,
       (SELECT h::text FROM ledger_head h) AS head,
       (SELECT md5(string_agg(h::text, '|' ORDER BY h.institution_id)) FROM institution_heads h) AS heads,
       (SELECT md5(string_agg(p::text, '|' ORDER BY p.id)) FROM positions p) AS positions
"""


async def footprint(connection: asyncpg.Connection) -> tuple[Any, ...]:
    """All that an accepted command writes, seen by a superuser: equal before and after what wrote nothing."""
    return tuple(await connection.fetchrow(FOOTPRINT))


@asynccontextmanager
async def served(
    admin_url: str, template: str, *, clock: Clock = system_clock, **changes: Any
) -> AsyncIterator[tuple[Parts, asyncpg.Connection]]:
    """A running server on a database of its own, for as long as the block, and a superuser's connection.

    Neither its clerk nor its tick disturbs a comparison of before and after.
    """
    name = f"test_{uuid4().hex[:16]}"
    admin = await asyncpg.connect(admin_url)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    url = with_database(admin_url, name)
    # The login was made together with the template.
    address = Address.of(with_login(url, LOGIN, PASSWORD), owner_url=url)
    quiet = {"root_api_key": SecretStr("root-key-of-the-tests"), "expiry_tick_seconds": 3600.0}
    parts = assemble(Settings(**{**quiet, **changes}), address, clock=clock)
    async with parts.running():
        owner = await asyncpg.connect(url)
        yield parts, owner
        await owner.close()
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


async def with_holders(
    services: Services, owner: asyncpg.Connection, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of positions with what their holders are called, which the tables keep sealed."""
    pairs = [(row["institution_id"], row["holder_id"]) for row in rows]
    names = await services.holders.references(owner, pairs)
    return [{**row, "holder_reference": names.get(pair)} for row, pair in zip(rows, pairs, strict=True)]


async def tables_with(owner: asyncpg.Connection, text: str) -> list[str]:
    """The tables of which some row holds that text: as text, in JSON, or as bytes."""
    tables = await owner.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND n.nspname = 'public' ORDER BY 1"
    )
    query = "SELECT EXISTS (SELECT FROM {} t WHERE strpos(t::text, $1) > 0 OR strpos(t::text, $2) > 0)"
    return [
        row["name"]
        for row in tables
        if await owner.fetchval(query.format(row["name"]), text, text.encode().hex())
    ]
