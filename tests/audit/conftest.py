"""Audit rows and ledger events, made the way the server makes them."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.audit import store
from app.audit.model import Action, AuditEntry, AuditEvent, Outcome
from app.audit.service import Work
from app.context import Services
from app.institutions import service as institutions
from app.institutions.model import Region
from app.ledger.append import append, prepare
from app.ledger.model import Actor, Balances, Draft, Effect, Event, Key, Kind, Personal
from app.principal import ALL_INSTITUTIONS, root
from app.storage.database import DatabaseRole, take_role

Opened = Callable[..., Awaitable[str]]
Moved = Callable[..., Awaitable[list[Event]]]
Noted = Callable[..., Awaitable[list[AuditEvent]]]
Counted = Callable[[str], Awaitable[int]]

START = datetime(2026, 3, 1, tzinfo=UTC)


def entry(**changed: Any) -> AuditEntry:
    """A refusal, changed as wanted."""
    given: dict[str, Any] = {
        "institution_id": None,
        "actor_id": "root",
        "actor_role": "ROOT",
        "operation": "createAsset",
        "action": Action.ASSET_CREATED,
        "resource_type": "asset",
        "resource_id": None,
        "outcome": Outcome.FAILURE,
        "code": "NOT_FOUND",
        "request_id": "req_1",
        "client_address": "192.0.2.1",
        "payload": {},
    }
    return AuditEntry(**given | changed)


@pytest.fixture
def opened(services: Services) -> Opened:
    """Opens an institution without an audit row of its own time: what tests list is only what they wrote."""

    async def make(name: str = "Bank") -> str:
        institution_id = services.ids.new("inst")
        async with services.database.writing(institution_id) as connection:
            work = Work(
                connection, root(), "req_0", None, "open", datetime(2020, 1, 1, tzinfo=UTC), services.ids
            )
            await institutions.create_institution(work, institution_id, name=name, regions=[Region.US])
        return institution_id

    return make


@pytest.fixture
def noted(services: Services) -> Noted:
    """Writes audit rows at given seconds after START."""

    async def write(institution_id: str | None, seconds: Sequence[float], **changed: Any) -> list[AuditEvent]:
        events = [
            AuditEvent.of(
                entry(institution_id=institution_id, **changed),
                services.ids.new("aud"),
                START + timedelta(seconds=second),
            )
            for second in seconds
        ]
        async with services.database.writing(ALL_INSTITUTIONS) as connection:
            await store.add(connection, events)
        return events

    return write


@pytest.fixture
def moved(services: Services) -> Moved:
    """Appends ledger events in one transaction: they all have one instant."""

    async def write(
        *institution_ids: str, kind: Kind = Kind.POSITION_CREATED, actor: str = "key_1"
    ) -> list[Event]:
        prepared = [
            prepare(
                _draft(institution_id, services.ids.new("pos"), kind),
                services.ids.new("evt"),
                Actor(actor, "OPERATOR", "req_7"),
                Key(institution_id, services.ids.new("k"), bytes(32)),
            )
            for institution_id in institution_ids
        ]
        pool = services.database.pool(DatabaseRole.WRITER)
        async with pool.acquire() as connection, connection.transaction():
            await take_role(connection, DatabaseRole.WRITER, sorted(set(institution_ids)))
            return await append(connection, prepared)

    return write


def _draft(institution_id: str, position_id: str, kind: Kind) -> Draft:
    return Draft(
        institution_id=institution_id,
        position_id=position_id,
        position_version=1,
        kind=kind,
        previous_state=None if kind is Kind.POSITION_CREATED else "CREATED",
        new_state="CREATED" if kind is Kind.POSITION_CREATED else "FUNDED",
        previous_stage=None,
        new_stage="CREATED",
        effect=Effect.NONE if kind is Kind.POSITION_CREATED else Effect.FUND,
        currency="USD",
        amount_moved=Decimal("0.00" if kind is Kind.POSITION_CREATED else "12.50"),
        balances=Balances()
        if kind is Kind.POSITION_CREATED
        else Balances().moved(Effect.FUND, Decimal("12.50")),
        template_id="tmpl_1",
        policy_id=None,
        lifecycle_name="escrow",
        lifecycle_version=1,
        data={"assetId": "ast_1", "amount": "12.50", "externalReference": "private-ref"}
        if kind is Kind.POSITION_CREATED
        else {},
        evidence={},
        occurred_at=None,
        personal=Personal("Jane Doe", "because of Jane", {"passport": "X123"}),
    )


@pytest.fixture
def rows(owner_url: str) -> Counted:
    """How many rows a query finds, seen by the superuser: no policy hides anything."""

    async def count(query: str) -> int:
        connection = await asyncpg.connect(owner_url)
        try:
            found: int = await connection.fetchval(f"SELECT count(*) FROM {query}")
            return found
        finally:
            await connection.close()

    return count
