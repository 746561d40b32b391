"""The tables of webhooks and what is written to them. Of a secret only what is sealed is ever here."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    Row,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.database import Driver
from app.storage.tables import Id, Moment, Word, metadata
from app.webhooks import queue
from app.webhooks.model import Delivery, DisabledReason, Endpoint, Secret, Wanted
from app.webhooks.queue import Addition, kinds_of, states_of

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("url", Word, nullable=False),
    Column("description", Text, nullable=False),
    Column("kinds", ARRAY(Text)),
    Column("states", ARRAY(Text)),
    Column("enabled", Boolean, nullable=False),
    Column("disabled_reason", Word),
    Column("starts_after", BigInteger, nullable=False),
    Column("created_by", Word, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("deleted_at", Moment),
    Column("failing_since", Moment),
)
webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("endpoint_id", Id, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("ends_at", Moment),
)
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("endpoint_id", Id, nullable=False),
    Column("event_id", Id),
    Column("position_id", Id),
    Column("sequence", BigInteger),
    Column("state", Word, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("next_attempt_at", Moment),
    Column("claimed_until", Moment),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("last_response", Text),
    Column("last_attempt_at", Moment),
    Column("delivered_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

e, s, d = webhook_endpoints.c, webhook_secrets.c, webhook_deliveries.c
DELIVERY_FIELDS = tuple(name for name in d.keys() if name not in ("step", "claimed_until"))  # noqa: SIM118
ENDPOINT_VALUES = (
    "url",
    "description",
    "enabled",
    "disabled_reason",
    "starts_after",
    "updated_at",
    "failing_since",
)


async def lock_endpoints(connection: AsyncConnection, institution_id: str) -> None:
    """Until the transaction ends, nobody else adds an endpoint to that institution, and its events are not queued.

    So no event falls between where an endpoint begins, which is read after this, and the moment it can be seen.
    """
    key = func.hashtextextended(f"webhook_endpoints:{institution_id}", 0)
    await connection.execute(select(func.pg_advisory_xact_lock(key)))


async def lock_endpoint(
    connection: AsyncConnection, institution_id: str, endpoint_id: str
) -> Endpoint | None:
    """The endpoint; until the transaction ends, nobody else changes it or what is queued for it."""
    mine = select(webhook_endpoints).where(
        e.institution_id == institution_id, e.id == endpoint_id, e.deleted_at.is_(None)
    )
    row = (await connection.execute(mine.with_for_update(key_share=True))).one_or_none()
    return None if row is None else endpoint_of(row)


async def insert_endpoint(connection: AsyncConnection, institution_id: str, endpoint: Endpoint) -> None:
    """Add an endpoint."""
    fixed = {"institution_id": institution_id, "id": endpoint.id}
    made = {"created_by": endpoint.created_by, "created_at": endpoint.created_at}
    await connection.execute(insert(webhook_endpoints).values(_values(endpoint) | fixed | made))


async def update_endpoint(connection: AsyncConnection, institution_id: str, endpoint: Endpoint) -> None:
    """Write down what changed of an endpoint."""
    await connection.execute(
        update(webhook_endpoints)
        .where(e.institution_id == institution_id, e.id == endpoint.id)
        .values(_values(endpoint))
    )


async def delete_endpoint(
    connection: AsyncConnection, institution_id: str, endpoint_id: str, now: datetime
) -> None:
    """Take an endpoint out of every list, and forget its secrets; its deliveries stay."""
    await connection.execute(
        update(webhook_endpoints)
        .where(e.institution_id == institution_id, e.id == endpoint_id)
        .values(enabled=False, disabled_reason=DisabledReason.ASKED, updated_at=now, deleted_at=now)
    )
    mine = (s.institution_id == institution_id, s.endpoint_id == endpoint_id)
    await connection.execute(delete(webhook_secrets).where(*mine))


async def insert_secret(
    connection: AsyncConnection, institution_id: str, secret: Secret, sealed: bytes
) -> None:
    """Add a secret that is in force from now on."""
    await connection.execute(
        insert(webhook_secrets).values(
            institution_id=institution_id,
            id=secret.id,
            endpoint_id=secret.endpoint_id,
            sealed=sealed,
            created_at=secret.created_at,
        )
    )


async def end_secrets(
    connection: AsyncConnection, institution_id: str, endpoint_id: str, now: datetime, at: datetime
) -> int:
    """Have every secret end at `at`, or sooner where that was said before; returns how many still sign."""
    mine = (s.institution_id == institution_id, s.endpoint_id == endpoint_id)
    await connection.execute(
        update(webhook_secrets).where(*mine, s.ends_at.is_(None) | (s.ends_at > at)).values(ends_at=at)
    )
    await connection.execute(delete(webhook_secrets).where(*mine, s.ends_at <= now))
    left = select(func.count()).select_from(webhook_secrets).where(*mine)
    return (await connection.execute(left)).scalar_one()


async def insert_test(connection: AsyncConnection, institution_id: str, delivery: Delivery) -> None:
    """Add a delivery without an event, which waits behind nothing."""
    values = {name: getattr(delivery, name) for name in DELIVERY_FIELDS}
    await connection.execute(
        insert(webhook_deliveries).values(values | {"institution_id": institution_id, "step": 0})
    )


async def replay(
    connection: AsyncConnection,
    institution_id: str,
    additions: Sequence[Addition],
    now: datetime,
    *,
    undelivered_only: bool,
) -> int:
    """Have those deliveries begin anew at an endpoint under lock; returns how many do."""
    assert all(one.institution_id == institution_id for one in additions), "a replay is of one institution"
    driver = await _driver(connection)
    return await queue.add_again(driver, additions, now, undelivered_only=undelivered_only)


async def cancel(
    connection: AsyncConnection, institution_id: str, endpoint_id: str, now: datetime, limit: int
) -> int:
    """Cancel what is pending for an endpoint under lock; at most `limit`, the follower does the rest."""
    return await queue.cancel(await _driver(connection), (institution_id, endpoint_id), now, limit)


async def _driver(connection: AsyncConnection) -> Driver:
    """The asyncpg connection beneath, in the same transaction."""
    return cast("Driver", (await connection.get_raw_connection()).driver_connection)


def _values(endpoint: Endpoint) -> dict[str, Any]:
    wanted = endpoint.wanted
    lists = {
        "kinds": None if wanted.kinds is None else list(wanted.kinds),
        "states": None if wanted.states is None else list(wanted.states),
    }
    return {name: getattr(endpoint, name) for name in ENDPOINT_VALUES} | lists


def endpoint_of(row: Row[Any]) -> Endpoint:
    """The endpoint a row spells."""
    return Endpoint(
        id=row.id,
        institution_id=row.institution_id,
        url=row.url,
        description=row.description,
        wanted=Wanted(kinds_of(row.kinds), states_of(row.states)),
        enabled=row.enabled,
        disabled_reason=None if row.disabled_reason is None else DisabledReason(row.disabled_reason),
        starts_after=row.starts_after,
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        failing_since=row.failing_since,
    )
